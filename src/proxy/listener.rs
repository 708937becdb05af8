//! Listening sockets, and the workers that accept on them.
//!
//! One worker per core, each with its own executor and its own `SO_REUSEPORT` socket: a connection lives
//! and dies on one thread. A Unix or inherited socket is one queue that all workers accept from.

use std::io;
use std::net::UdpSocket as StdUdpSocket;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::gate::Gateway;
use super::latch::Latched;
use super::pulse::Pulses;
use super::runtime::{Runtime, RuntimeGuard, RuntimeSockets};
use super::tls::ReloadableAcceptor;
use super::worker::Worker;
use crate::config::ProxyConfig;
use crate::domain::{Clock, CloseReason, PersonaId};
use crate::sys;

/// Connections that the kernel may queue before they are accepted; the usual `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenFault {
    /// A TCP address.
    #[error("cannot listen on {addr}: {source}")]
    Tcp {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A Unix socket.
    #[error("cannot listen on {}: {source}", path.display())]
    Unix {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A worker thread.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
}

/// Sockets that a service manager opened for us (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Inherited {
    /// TCP listeners of the proxy.
    pub tcp: Vec<StdTcpListener>,
    /// Unix listeners of the proxy.
    pub unix: Vec<StdUnixListener>,
    /// Listeners inside network namespaces that belong to one persona each: whoever connects there is it.
    pub namespaces: Vec<(PersonaId, StdTcpListener)>,
    /// Sockets of runtimes that are there from the start. [`Running::runtimes`] takes those that come later.
    pub runtimes: Vec<RuntimeSockets>,
}

/// Runtimes that were handed to one worker and that it has not taken up yet. It takes them at once unless it is
/// stuck, and a launch is better refused then.
const RUNTIME_QUEUE: usize = 256;

/// The sockets of one runtime on their way to a worker.
pub(super) struct Delivery {
    pub(super) doors: Vec<Door>,
    pub(super) datagrams: Option<(StdUdpSocket, Arc<Runtime>)>,
    pub(super) stop: CancellationToken,
}

/// Hands the sockets of runtimes to the running proxy; cheap to clone.
#[derive(Debug, Clone)]
pub struct RuntimeDoors {
    workers: Arc<[mpsc::Sender<Delivery>]>,
    next: Arc<AtomicUsize>,
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
}

impl RuntimeDoors {
    /// Answers on `sockets` from now on. All sockets of one runtime live on one worker, so two hundred runtimes do
    /// not need a descriptor per worker each.
    ///
    /// # Errors
    /// When a socket cannot be made non-blocking, or the proxy is stopping or stuck.
    pub fn attend(&self, sockets: RuntimeSockets) -> io::Result<RuntimeGuard> {
        sockets.set_nonblocking()?;
        let stop = self.stop.child_token();
        let guard = RuntimeGuard::new(&sockets, stop.clone(), Arc::clone(&self.clock));
        let runtime = guard.runtime();
        let RuntimeSockets { proxy, dns_udp, dns_tcp, transparent, .. } = sockets;
        let proxy = proxy.map(|listener| Door::Explicit(listener, Arc::clone(runtime)));
        let resolver = dns_tcp.map(|listener| Door::Resolver(listener, Arc::clone(runtime)));
        let transparent = transparent.into_iter().map(|listener| Door::Transparent(listener, Arc::clone(runtime)));
        let doors = proxy.into_iter().chain(resolver).chain(transparent).collect();
        let datagrams = dns_udp.map(|socket| (socket, Arc::clone(runtime)));
        let worker = &self.workers[self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len()];
        worker
            .try_send(Delivery { doors, datagrams, stop })
            .map_err(|_| io::Error::other("the proxy takes no more runtimes"))?;
        Ok(guard)
    }
}

/// What one worker accepts on.
pub(super) enum Door {
    Tcp(StdTcpListener),
    Tls(StdTcpListener, Arc<ReloadableAcceptor>),
    Unix(StdUnixListener),
    Namespace(StdTcpListener, PersonaId),
    /// The explicit proxy of a runtime.
    Explicit(StdTcpListener, Arc<Runtime>),
    /// The synthetic addresses of a runtime.
    Transparent(StdTcpListener, Arc<Runtime>),
    /// The resolver of a runtime, by TCP.
    Resolver(StdTcpListener, Arc<Runtime>),
}

/// The running proxy.
#[derive(Debug)]
pub struct Running {
    workers: Vec<std::thread::JoinHandle<()>>,
    stop: CancellationToken,
    gateway: Arc<Gateway>,
    drain: Duration,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    unix_socket: Option<PathBuf>,
    runtimes: RuntimeDoors,
    pulses: Pulses,
    _from_the_start: Vec<RuntimeGuard>,
}

/// Binds every listener and starts the workers.
///
/// # Errors
/// [`ListenFault`] names the first address that could not be had; nothing is left listening then.
pub fn start(
    gateway: &Arc<Gateway>,
    config: &ProxyConfig,
    tls: Option<Arc<ReloadableAcceptor>>,
    inherited: Inherited,
) -> Result<Running, ListenFault> {
    let count = if config.workers == 0 {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    } else {
        config.workers
    };
    let mut doors: Vec<Vec<Door>> = (0..count).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    let activated = !inherited.tcp.is_empty() || !inherited.unix.is_empty();
    for listener in inherited.tcp {
        addresses.extend(listener.local_addr());
        share(&mut doors, &listener, StdTcpListener::try_clone, Door::Tcp)?;
    }
    for listener in inherited.unix {
        share(&mut doors, &listener, StdUnixListener::try_clone, Door::Unix)?;
    }
    for (persona, listener) in inherited.namespaces {
        share(&mut doors, &listener, StdTcpListener::try_clone, |listener| Door::Namespace(listener, persona.clone()))?;
    }
    if !activated {
        for addr in &config.bind {
            addresses.push(open_tcp(&mut doors, *addr, &Door::Tcp)?);
        }
    }
    if let (Some(tls_config), Some(acceptor)) = (&config.tls, tls) {
        let door = |listener| Door::Tls(listener, Arc::clone(&acceptor));
        addresses.push(open_tcp(&mut doors, tls_config.bind, &door)?);
    }
    let mut unix_socket = None;
    if let Some(path) = config.unix_socket.as_ref().filter(|_| !activated) {
        let listener = open_unix(path).map_err(|source| ListenFault::Unix { path: path.clone(), source })?;
        share(&mut doors, &listener, StdUnixListener::try_clone, Door::Unix)?;
        unix_socket = Some(path.clone());
    }
    for addr in &addresses {
        gateway.own.add(*addr);
    }
    let stop = CancellationToken::new();
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(RUNTIME_QUEUE)).unzip();
    let runtimes = RuntimeDoors {
        workers: senders.into(),
        next: Arc::default(),
        stop: stop.clone(),
        clock: Arc::clone(&gateway.clock),
    };
    let from_the_start = inherited.runtimes.into_iter().map(|sockets| runtimes.attend(sockets));
    let from_the_start = from_the_start.collect::<io::Result<Vec<_>>>().map_err(ListenFault::Worker)?;
    let pulses = Pulses::of(count);
    let mut workers = Vec::with_capacity(count);
    for (index, (doors, inbox)) in doors.into_iter().zip(inboxes).enumerate() {
        let worker = Worker {
            gateway: Arc::clone(gateway),
            stop: stop.clone(),
            drain: config.drain,
            pulses: (pulses.clone(), index),
            inbox,
        };
        let thread = std::thread::Builder::new()
            .name(format!("arw-proxy-{index}"))
            .spawn(move || worker.run(doors))
            .map_err(ListenFault::Worker)?;
        workers.push(thread);
    }
    Ok(Running {
        workers,
        stop,
        gateway: Arc::clone(gateway),
        drain: config.drain,
        addresses,
        unix_socket,
        runtimes,
        pulses,
        _from_the_start: from_the_start,
    })
}

/// One socket per worker on the same address. The first is opened without `SO_REUSEPORT` and closed again:
/// another daemon on the port is an error, not a partner.
fn open_tcp(
    doors: &mut [Vec<Door>],
    addr: SocketAddr,
    door: &dyn Fn(StdTcpListener) -> Door,
) -> Result<SocketAddr, ListenFault> {
    let fault = |source| ListenFault::Tcp { addr, source };
    let probe = sys::socket::listen(addr, 1, false).map_err(fault)?;
    let bound = probe.local_addr().map_err(fault)?;
    drop(probe);
    for worker in doors {
        worker.push(door(sys::socket::listen(bound, BACKLOG, true).map_err(fault)?));
    }
    Ok(bound)
}

fn share<L>(
    doors: &mut [Vec<Door>],
    listener: &L,
    clone: impl Fn(&L) -> io::Result<L>,
    door: impl Fn(L) -> Door,
) -> Result<(), ListenFault> {
    for worker in doors {
        worker.push(door(clone(listener).map_err(ListenFault::Worker)?));
    }
    Ok(())
}

/// Binds a Unix socket that everyone may connect to (who they are, the kernel says), in place of a dead
/// one but never of one that answers.
fn open_unix(path: &Path) -> io::Result<StdUnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if let Ok(existing) = std::fs::symlink_metadata(path) {
        if !existing.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = StdUnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Running {
    /// Where the sockets of runtimes that start later are handed over.
    pub fn runtimes(&self) -> RuntimeDoors {
        self.runtimes.clone()
    }

    /// Asks the workers whether they are alive.
    pub fn pulses(&self) -> Pulses {
        self.pulses.clone()
    }

    /// Latches the kill switch: whatever asks from now on is denied, and what is open is cut. Says how many flows that
    /// were.
    pub fn latch(&self, reason: &str) -> usize {
        self.gateway.latch(reason)
    }

    /// Releases the kill switch. Whether it was latched.
    pub fn release(&self) -> bool {
        self.gateway.release()
    }

    /// Why the kill switch is latched, if it is.
    pub fn latched(&self) -> Option<Latched> {
        self.gateway.latched()
    }

    /// Ends every open flow of `persona`. Says how many there were.
    pub fn cut_persona(&self, persona: &PersonaId, reason: CloseReason) -> usize {
        self.gateway.cut_persona(persona, reason)
    }

    /// Stops accepting, lets open flows end within the drain time, cuts the rest, and waits for the workers.
    /// Blocks; call it from a thread that may.
    pub fn stop(self) {
        self.gateway.draining.cancel();
        self.stop.cancel();
        for worker in self.workers {
            if worker.join().is_err() {
                error!("a proxy worker panicked");
            }
        }
        if let Some(path) = &self.unix_socket {
            // Left behind, it would only be a dead name.
            let _ = std::fs::remove_file(path);
        }
        debug!(drain_ms = self.drain.as_millis(), "the proxy stopped");
    }
}
