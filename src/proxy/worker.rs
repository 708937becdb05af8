//! A worker: one thread, one executor, and the connections that it accepted.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::client::ClientStream;
use super::connection::{serve, turn_away};
use super::gate::Gateway;
use super::identify::{Evidence, Peer};
use super::listener::{Delivery, Door};
use super::pool::Pool;
use super::pulse::Pulses;
use super::runtime::{Place, Runtime};
use super::tls::ReloadableAcceptor;
use super::transparent;
use crate::domain::{ClientAddr, CloseReason, PersonaId};
use crate::sys;

/// Pause after an accept failed for want of descriptors, so that the failure does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often each worker drops stale pooled connections.
const SWEEP: Duration = Duration::from_secs(5);
/// Time that cut flows get to write their close records at a stop.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The whole answer to a client that comes when the house is full. There is no memory to spare for more.
const FULL: &[u8] = b"HTTP/1.1 503 overloaded\r\nContent-Type: application/problem+json\r\n\
Proxy-Status: arw; error=connection_limit_reached; details=\"overloaded\"\r\nRetry-After: 1\r\nConnection: close\r\n\
Content-Length: 117\r\n\r\n{\"type\":\"urn:arw:denial:overloaded\",\"title\":\"Service Unavailable\",\"status\":503,\
\"code\":\"overloaded\",\"retryable\":true}\n";

/// One worker before it starts.
pub(super) struct Worker {
    pub(super) gateway: Arc<Gateway>,
    pub(super) stop: CancellationToken,
    pub(super) drain: Duration,
    /// Its own is the one of this number.
    pub(super) pulses: (Pulses, usize),
    /// Runtimes that start while it runs.
    pub(super) inbox: mpsc::Receiver<Delivery>,
}

impl Worker {
    pub(super) fn run(self, doors: Vec<Door>) {
        let executor = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(executor) => executor,
            Err(fault) => {
                error!(error = %fault, "a proxy worker could not start");
                return;
            }
        };
        executor.block_on(self.accept_all(doors));
    }

    async fn accept_all(mut self, doors: Vec<Door>) {
        let tasks = TaskTracker::new();
        let limits = &self.gateway.limits;
        let pool = Arc::new(Pool::new(limits.pool_per_host, limits.pool_idle_time));
        let shop = Arc::new(Shop { gateway: Arc::clone(&self.gateway), pool: Arc::clone(&pool), tasks: tasks.clone() });
        let mut loops = JoinSet::new();
        shop.take_up(&mut loops, Delivery { doors, datagrams: None, stop: self.stop.clone() });
        let mut sweep = tokio::time::interval(SWEEP);
        let (pulses, own) = &self.pulses;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = sweep.tick() => pool.sweep(),
                () = pulses.answer(*own) => {}
                Some(delivery) = self.inbox.recv() => shop.take_up(&mut loops, delivery),
                Some(_) = loops.join_next() => {}
            }
        }
        while loops.join_next().await.is_some() {}
        tasks.close();
        if timeout(self.drain, tasks.wait()).await.is_err() {
            self.gateway.flows.cut_where(|_| Some(CloseReason::Shutdown));
            if timeout(LAST_WORDS, tasks.wait()).await.is_err() {
                warn!(tasks = tasks.len(), "connections were dropped at the stop");
            }
        }
    }
}

/// A registered listener.
enum Listening {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<ReloadableAcceptor>),
    Unix(UnixListener),
    Namespace(TcpListener, PersonaId),
    Explicit(TcpListener, Arc<Runtime>),
    Transparent(TcpListener, Arc<Runtime>),
    Resolver(TcpListener, Arc<Runtime>),
}

/// A connection that was just accepted.
enum Incoming {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
    /// By somebody who does not know that there is a proxy.
    Bare(TcpStream, SocketAddr),
}

impl Listening {
    fn register(door: Door) -> io::Result<Self> {
        Ok(match door {
            Door::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Door::Tls(listener, acceptor) => Self::Tls(TcpListener::from_std(listener)?, acceptor),
            Door::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
            Door::Namespace(listener, persona) => Self::Namespace(TcpListener::from_std(listener)?, persona),
            Door::Explicit(listener, runtime) => Self::Explicit(TcpListener::from_std(listener)?, runtime),
            Door::Transparent(listener, runtime) => Self::Transparent(TcpListener::from_std(listener)?, runtime),
            Door::Resolver(listener, runtime) => Self::Resolver(TcpListener::from_std(listener)?, runtime),
        })
    }

    async fn accept(&self) -> io::Result<Incoming> {
        match self {
            Self::Tcp(listener)
            | Self::Tls(listener, _)
            | Self::Namespace(listener, _)
            | Self::Explicit(listener, _) => {
                let (stream, addr) = listener.accept().await?;
                Ok(Incoming::Tcp(stream, addr))
            }
            Self::Transparent(listener, _) | Self::Resolver(listener, _) => {
                let (stream, addr) = listener.accept().await?;
                Ok(Incoming::Bare(stream, addr))
            }
            Self::Unix(listener) => Ok(Incoming::Unix(listener.accept().await?.0)),
        }
    }
}

impl Incoming {
    /// Says that there is no room, as far as that works without waiting.
    fn turn_away(&self) {
        let mut request = [0; 4096];
        // Reading what is there keeps the close from resetting the answer away.
        let _ = match self {
            Self::Tcp(stream, _) => {
                let _ = stream.try_read(&mut request);
                let _ = stream.try_write(FULL);
                socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write)
            }
            Self::Unix(stream) => {
                let _ = stream.try_read(&mut request);
                let _ = stream.try_write(FULL);
                socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write)
            }
            // It would not understand the words, but a reset.
            Self::Bare(stream, _) => sys::socket::set_linger_zero(stream),
        };
    }
}

/// What an accept loop needs to serve who comes in.
struct Shop {
    gateway: Arc<Gateway>,
    pool: Arc<Pool>,
    tasks: TaskTracker,
}

impl Shop {
    /// Spawns one accept loop per door.
    fn take_up(self: &Arc<Self>, loops: &mut JoinSet<()>, delivery: Delivery) {
        let Delivery { doors, datagrams, stop } = delivery;
        for door in doors {
            let (shop, stop) = (Arc::clone(self), stop.clone());
            loops.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    fault = shop.attend(door) => error!(error = %fault, "a proxy listener failed"),
                }
            });
        }
        if let Some((socket, runtime)) = datagrams {
            let gateway = Arc::clone(&self.gateway);
            loops.spawn(async move {
                let served = async {
                    match UdpSocket::from_std(socket) {
                        Ok(socket) => transparent::serve_udp(gateway, runtime, socket).await,
                        Err(fault) => fault,
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    fault = served => error!(error = %fault, "the resolver of a runtime failed"),
                }
            });
        }
    }

    /// Accepts until the listener itself fails.
    async fn attend(&self, door: Door) -> io::Error {
        let listening = match Listening::register(door) {
            Ok(listening) => listening,
            Err(fault) => return fault,
        };
        let mut spare = open_spare();
        loop {
            match listening.accept().await {
                Ok(incoming) => self.welcome(&listening, incoming),
                Err(fault) => match weigh(&fault) {
                    AcceptFault::Listener => return fault,
                    AcceptFault::Connection => {}
                    AcceptFault::Exhausted => {
                        warn!("no descriptor is left: a client is turned away");
                        self.gateway.metrics.shed.fetch_add(1, Ordering::Relaxed);
                        drop(spare.take());
                        if let Ok(Ok(incoming)) = timeout(ACCEPT_PAUSE, listening.accept()).await {
                            incoming.turn_away();
                        }
                        spare = open_spare();
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn welcome(&self, listening: &Listening, incoming: Incoming) {
        let Some(guest) = self.admit() else {
            incoming.turn_away();
            return;
        };
        match (incoming, listening) {
            (Incoming::Tcp(stream, addr), Listening::Tls(_, acceptor)) => {
                self.serve_tls(stream, addr, Arc::clone(acceptor), guest);
            }
            (Incoming::Tcp(stream, addr), Listening::Explicit(_, runtime)) => {
                self.serve_explicit(stream, addr, Arc::clone(runtime), guest);
            }
            (Incoming::Tcp(stream, addr), listening) => {
                let evidence = match listening {
                    Listening::Namespace(_, persona) => Evidence::Namespace(persona.clone()),
                    _ => Evidence::None,
                };
                let peer = Peer { addr: ClientAddr::Tcp(addr), evidence };
                self.serve(ClientStream::Tcp(stream), peer, guest, None);
            }
            (Incoming::Bare(stream, addr), Listening::Transparent(_, runtime)) => {
                self.serve_transparent(stream, addr, Arc::clone(runtime), guest);
            }
            (Incoming::Bare(stream, addr), Listening::Resolver(_, runtime)) => {
                let served = transparent::serve_stream(Arc::clone(&self.gateway), Arc::clone(runtime), stream, addr);
                self.tasks.spawn(async move {
                    served.await;
                    drop(guest);
                });
            }
            (Incoming::Bare(..), _) => {}
            (Incoming::Unix(stream), _) => match unix_peer(&stream) {
                Ok(peer) => self.serve(ClientStream::Unix(stream), peer, guest, None),
                Err(fault) => warn!(error = %fault, "a Unix peer has no credentials"),
            },
        }
    }

    /// A place for one more connection, if there is one.
    fn admit(&self) -> Option<Guest> {
        let metrics = &self.gateway.metrics;
        metrics.accepted.fetch_add(1, Ordering::Relaxed);
        let guest = Guest(Arc::clone(&self.gateway));
        if metrics.connections.fetch_add(1, Ordering::AcqRel) < self.gateway.limits.connections {
            return Some(guest);
        }
        metrics.shed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// `place`: the one that it takes of its runtime's.
    fn serve(&self, client: ClientStream, peer: Peer, guest: Guest, place: Option<Place>) {
        let (gateway, pool) = (Arc::clone(&self.gateway), Arc::clone(&self.pool));
        self.tasks.spawn(async move {
            // Boxed, so that an open tunnel does not keep the room that parsing and dialling needed.
            if let Some(mut tunnel) = Box::pin(serve(gateway, pool, client, peer)).await {
                tunnel.run().await;
            }
            drop((guest, place));
        });
    }

    /// A place is taken before a word is said: a connection that stays silent counts too.
    fn serve_explicit(&self, stream: TcpStream, addr: SocketAddr, runtime: Arc<Runtime>, guest: Guest) {
        let (client, addr) = (ClientStream::Tcp(stream), ClientAddr::Tcp(addr));
        match runtime.take_place() {
            Ok(place) => self.serve(client, Peer { addr, evidence: Evidence::Runtime(runtime) }, guest, Some(place)),
            Err(denial) => {
                let answer = turn_away(Arc::clone(&self.gateway), client, addr, runtime, denial);
                self.tasks.spawn(async move {
                    answer.await;
                    drop(guest);
                });
            }
        }
    }

    fn serve_transparent(&self, stream: TcpStream, addr: SocketAddr, runtime: Arc<Runtime>, guest: Guest) {
        let (gateway, pool) = (Arc::clone(&self.gateway), Arc::clone(&self.pool));
        self.tasks.spawn(async move {
            if let Some(mut held) = Box::pin(transparent::serve(gateway, pool, stream, addr, runtime)).await {
                held.tunnel.run().await;
            }
            drop(guest);
        });
    }

    fn serve_tls(&self, stream: TcpStream, addr: SocketAddr, acceptor: Arc<ReloadableAcceptor>, guest: Guest) {
        let (gateway, pool) = (Arc::clone(&self.gateway), Arc::clone(&self.pool));
        self.tasks.spawn(async move {
            let served = Box::pin(async move {
                let handshake = timeout(gateway.limits.head_time, acceptor.accept(stream)).await;
                let stream = match handshake {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(fault)) => {
                        debug!(error = %fault, client = %addr, "a TLS handshake failed");
                        return None;
                    }
                    Err(_) => return None,
                };
                let uris = super::tls::peer_uris(stream.get_ref().1);
                let evidence = if uris.is_empty() { Evidence::None } else { Evidence::Certificate(uris.into()) };
                let peer = Peer { addr: ClientAddr::Tcp(addr), evidence };
                serve(gateway, pool, ClientStream::Tls(Box::new(stream)), peer).await
            });
            if let Some(mut tunnel) = served.await {
                tunnel.run().await;
            }
            drop(guest);
        });
    }
}

/// One of the connections that the gateway has room for.
struct Guest(Arc<Gateway>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

fn unix_peer(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = sys::socket::peer_credentials(stream)?;
    Ok(Peer {
        addr: ClientAddr::Unix { uid: credentials.uid, pid: credentials.pid },
        evidence: Evidence::Uid(credentials.uid),
    })
}

/// What a failed accept means (accept(2)).
enum AcceptFault {
    /// No descriptor, no memory: the listener is fine.
    Exhausted,
    /// The connection failed before it was accepted.
    Connection,
    /// The listener is broken.
    Listener,
}

fn weigh(fault: &io::Error) -> AcceptFault {
    match fault.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => AcceptFault::Exhausted,
        Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) => AcceptFault::Listener,
        _ => AcceptFault::Connection,
    }
}

/// A descriptor in reserve: when all others are taken, it makes room to accept one client and say so.
fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canned_answer_has_the_length_that_it_says() {
        let text = std::str::from_utf8(FULL).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        let body: serde_json::Value = serde_json::from_str(body).expect("json");
        assert_eq!(body["code"], "overloaded");
    }
}
