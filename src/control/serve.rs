//! Accept loops and the life of one connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::auth::AdminAuth;
use super::error::ControlError;
use super::listen::{Listening, Prepared, SocketFile, listen};
use super::router;
use super::stall::StallGuard;
use super::state::{App, ControlState};
use crate::config::ControlConfig;
use crate::domain::{ClientAddr, TokenHash};

/// Bytes of a request head. 16 KiB: cookies of other services on localhost come along.
const HEAD_BYTES: usize = 16 << 10;
/// Header fields of a request. 64.
const HEAD_FIELDS: usize = 64;
/// Pause after a failed accept (out of descriptors). 100 ms: no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of the API's connections. Tests make them small; nobody else changes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// TCP connections at once. 64: dashboards and scrapers; each costs two small buffers.
    pub(super) tcp_connections: usize,
    /// Unix connections at once, counted apart so that nobody on TCP can lock the operator out. 32.
    pub(super) unix_connections: usize,
    /// Of those, connections of users other than root and the daemon's own. 16: they cannot lock the operator out.
    pub(super) guests: usize,
    /// Of those, connections of one user. 4: nor each other.
    pub(super) guest: usize,
    /// Time for a request head to arrive whole, and for an idle connection to send its next. 10 s.
    pub(super) head_time: Duration,
    /// Time for a request, its body included, until its answer begins. 20 s: a page from sealed segments.
    pub(super) request_time: Duration,
    /// Time in which a client must read something of an answer. 30 s.
    pub(super) write_stall: Duration,
    /// Time that requests in flight get at shutdown. 3 s: the slowest usual read of the ledger.
    pub(super) drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            tcp_connections: 64,
            unix_connections: 32,
            guests: 16,
            guest: 4,
            head_time: Duration::from_secs(10),
            request_time: Duration::from_secs(20),
            write_stall: Duration::from_secs(30),
            drain: Duration::from_secs(3),
        }
    }
}

/// The API at work.
#[derive(Debug)]
pub struct Running {
    tcp: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// The TCP address that it listens on.
    pub fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Waits for the end that the shutdown token begins: connections drained or cut, socket removed.
    pub async fn finished(self) {
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            tracing::error!("the control API's task panicked");
        }
    }
}

/// Listens on TCP and on the Unix socket and answers until `shutdown`.
///
/// # Errors
/// [`ControlError`] when either socket cannot be made, or the settings contradict.
pub fn serve(
    config: &ControlConfig,
    state: ControlState,
    shutdown: CancellationToken,
) -> Result<Running, ControlError> {
    serve_on(config, Prepared::default(), state, shutdown)
}

/// As [`serve`], on listeners that are open already. Must be called inside a tokio executor.
///
/// # Errors
/// As [`serve`]; a prepared listener off loopback is refused too.
pub fn serve_on(
    config: &ControlConfig,
    prepared: Prepared,
    state: ControlState,
    shutdown: CancellationToken,
) -> Result<Running, ControlError> {
    serve_within(Bounds::default(), config, prepared, state, shutdown)
}

pub(super) fn serve_within(
    bounds: Bounds,
    config: &ControlConfig,
    prepared: Prepared,
    state: ControlState,
    shutdown: CancellationToken,
) -> Result<Running, ControlError> {
    let token = match &config.admin_token_sha256 {
        Some(hex) => Some(TokenHash::from_hex(hex).ok_or(ControlError::BadTokenHash)?),
        None => None,
    };
    let listening = listen(config, prepared)?;
    let own_uid = nix::unistd::geteuid().as_raw();
    let auth = AdminAuth::new(token, own_uid, Instant::now());
    let app = Arc::new(App::new(state, auth, shutdown.clone()));
    let tcp = listening.tcp_addr;
    tracing::info!(%tcp, socket = %config.unix_socket.display(), token = token.is_some(), "control API listening");
    let task = tokio::spawn(run(listening, Door { router: router::build(Arc::clone(&app)), app, bounds, shutdown }));
    Ok(Running { tcp, task })
}

/// What every connection starts from.
#[derive(Clone)]
struct Door {
    router: Router,
    app: Arc<App>,
    bounds: Bounds,
    shutdown: CancellationToken,
}

async fn run(listening: Listening, door: Door) {
    let Listening { tcp, unix, file, .. } = listening;
    tokio::join!(accept_tcp(tcp, door.clone()), accept_unix(unix, file, door));
}

async fn accept_tcp(listener: TcpListener, door: Door) {
    let mut connections = Connections::new(door.bounds.tcp_connections, door);
    while let Some(permit) = connections.slot().await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.door.shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Small answers; a failure only costs latency.
                let _ = stream.set_nodelay(true);
                connections.spawn(stream, ClientAddr::Tcp(peer), permit);
            }
            Err(error) => connections.pause(&error).await,
        }
    }
    drop(listener);
    connections.drain().await;
}

async fn accept_unix(listener: UnixListener, file: Option<SocketFile>, door: Door) {
    let mut connections = Connections::new(door.bounds.unix_connections, door);
    let mut guests = Guests::default();
    let mut changes = connections.door.app.state.governance.authority.changes();
    connections.door.fit(file.as_ref());
    while let Some(permit) = connections.slot().await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Ok(()) = changes.changed() => {
                connections.door.fit(file.as_ref());
                continue;
            }
            () = connections.door.shutdown.cancelled() => break,
        };
        // Credentials are those at connect time (unix(7), SO_PEERCRED). A peer without any is nobody.
        let identified =
            accepted.and_then(|(stream, _)| stream.peer_cred().map(|peer| (stream, peer.uid(), peer.pid())));
        match identified {
            Ok((stream, uid, pid)) => match guests.admit(&connections.door, uid) {
                Ok(guest) => {
                    let peer = ClientAddr::Unix { uid, pid: pid.unwrap_or(0) };
                    connections.spawn(stream, peer, (permit, guest));
                }
                Err(why) => tracing::debug!(uid, why, "a connection to the control API was closed"),
            },
            Err(error) => connections.pause(&error).await,
        }
    }
    drop(file);
    drop(listener);
    connections.drain().await;
}

impl Door {
    /// Opens the socket's file to whom the policy names, and closes it when it names nobody else.
    fn fit(&self, file: Option<&SocketFile>) {
        let policy = self.app.state.governance.authority.policy();
        let others = policy.uids().any(|uid| !self.app.auth.is_own(uid));
        if let Some(Err(error)) = file.map(|file| file.admit(others)) {
            tracing::error!(%error, others, "the mode of the control socket could not be changed");
        }
    }
}

/// The connections of users other than root and the daemon's own.
#[derive(Debug, Default)]
struct Guests(HashMap<u32, Arc<()>>);

impl Guests {
    /// A place for the user, held for as long as the connection is; `None` for root and our own, who need none.
    ///
    /// # Errors
    /// Why there is none.
    fn admit(&mut self, door: &Door, uid: u32) -> Result<Option<Arc<()>>, &'static str> {
        let authority = &door.app.state.governance.authority;
        // Where no policy is, the gate tells a stranger why; nobody but ours can connect there as a rule.
        if door.app.auth.is_own(uid) || authority.policy().is_open() {
            return Ok(None);
        }
        if !authority.names(uid) {
            return Err("no grant names the user");
        }
        self.0.retain(|_, places| Arc::strong_count(places) > 1);
        if self.0.values().map(|places| Arc::strong_count(places) - 1).sum::<usize>() >= door.bounds.guests {
            return Err("as many users are connected as may be");
        }
        let places = self.0.entry(uid).or_default();
        if Arc::strong_count(places) > door.bounds.guest {
            return Err("the user has as many connections as may be");
        }
        Ok(Some(Arc::clone(places)))
    }
}

/// The connections of one listener: bounded, owned, joined.
struct Connections {
    slots: Arc<Semaphore>,
    tasks: JoinSet<()>,
    door: Door,
}

type Permit = tokio::sync::OwnedSemaphorePermit;

impl Connections {
    fn new(bound: usize, door: Door) -> Self {
        Self { slots: Arc::new(Semaphore::new(bound)), tasks: JoinSet::new(), door }
    }

    /// Waits for a free slot; `None` at shutdown.
    async fn slot(&mut self) -> Option<Permit> {
        while self.tasks.try_join_next().is_some() {}
        tokio::select! {
            permit = Arc::clone(&self.slots).acquire_owned() => permit.ok(),
            () = self.door.shutdown.cancelled() => None,
        }
    }

    async fn pause(&self, error: &std::io::Error) {
        tracing::warn!(%error, "the control API could not accept a connection");
        tokio::select! {
            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
            () = self.door.shutdown.cancelled() => {}
        }
    }

    /// Serves `stream`, and holds `places` for as long.
    fn spawn<S, P>(&mut self, stream: S, peer: ClientAddr, places: P)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        P: Send + 'static,
    {
        let door = self.door.clone();
        self.tasks.spawn(async move {
            serve_connection(stream, peer, door).await;
            drop(places);
        });
    }

    async fn drain(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.door.bounds.drain, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

async fn serve_connection<S>(stream: S, peer: ClientAddr, door: Door)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Door { router, bounds, shutdown, .. } = door;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move {
            Ok::<_, std::convert::Infallible>(router::answer(router, request.map(Body::new), bounds.request_time).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_time)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(StallGuard::new(stream, bounds.write_stall)), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, client = %peer, "control connection ended");
    }
}
