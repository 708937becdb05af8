//! Accept loops and the life of one connection.

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

/// TCP connections at once. 64: dashboards and scrapers; each costs two small buffers.
const TCP_CONNECTIONS: usize = 64;
/// Unix connections at once, counted apart so that nobody on TCP can lock the operator out.
const UNIX_CONNECTIONS: usize = 32;
/// Time for a request head to arrive whole, and for an idle connection to send its next. 10 s.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request head. 16 KiB: cookies of other services on localhost come along.
const HEAD_BYTES: usize = 16 << 10;
/// Header fields of a request. 64.
const HEAD_FIELDS: usize = 64;
/// Time in which a client must read something of an answer. 30 s.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Time that requests in flight get at shutdown. 3 s: the slowest bounded read of the ledger.
const DRAIN: Duration = Duration::from_secs(3);
/// Pause after a failed accept (out of descriptors). 100 ms: no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let task = tokio::spawn(run(listening, router::build(app), shutdown));
    Ok(Running { tcp, task })
}

async fn run(listening: Listening, router: Router, shutdown: CancellationToken) {
    let Listening { tcp, unix, file, .. } = listening;
    tokio::join!(accept_tcp(tcp, router.clone(), shutdown.clone()), accept_unix(unix, router, file, shutdown));
}

async fn accept_tcp(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut connections = Connections::new(TCP_CONNECTIONS, router, shutdown);
    while let Some(permit) = connections.slot().await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.shutdown.cancelled() => break,
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

async fn accept_unix(
    listener: UnixListener,
    router: Router,
    file: Option<SocketFile>,
    shutdown: CancellationToken,
) {
    let mut connections = Connections::new(UNIX_CONNECTIONS, router, shutdown);
    while let Some(permit) = connections.slot().await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.shutdown.cancelled() => break,
        };
        // Credentials are those at connect time (unix(7), SO_PEERCRED). A peer without any is nobody.
        let identified =
            accepted.and_then(|(stream, _)| stream.peer_cred().map(|peer| (stream, peer.uid(), peer.pid())));
        match identified {
            Ok((stream, uid, pid)) => {
                connections.spawn(stream, ClientAddr::Unix { uid, pid: pid.unwrap_or(0) }, permit);
            }
            Err(error) => connections.pause(&error).await,
        }
    }
    drop(file);
    drop(listener);
    connections.drain().await;
}

/// The connections of one listener: bounded, owned, joined.
struct Connections {
    slots: Arc<Semaphore>,
    tasks: JoinSet<()>,
    router: Router,
    shutdown: CancellationToken,
}

type Permit = tokio::sync::OwnedSemaphorePermit;

impl Connections {
    fn new(bound: usize, router: Router, shutdown: CancellationToken) -> Self {
        Self { slots: Arc::new(Semaphore::new(bound)), tasks: JoinSet::new(), router, shutdown }
    }

    /// Waits for a free slot; `None` at shutdown.
    async fn slot(&mut self) -> Option<Permit> {
        while self.tasks.try_join_next().is_some() {}
        tokio::select! {
            permit = Arc::clone(&self.slots).acquire_owned() => permit.ok(),
            () = self.shutdown.cancelled() => None,
        }
    }

    async fn pause(&self, error: &std::io::Error) {
        tracing::warn!(%error, "the control API could not accept a connection");
        tokio::select! {
            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    fn spawn<S>(&mut self, stream: S, peer: ClientAddr, permit: Permit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            serve_connection(stream, peer, router, shutdown).await;
            drop(permit);
        });
    }

    async fn drain(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

async fn serve_connection<S>(stream: S, peer: ClientAddr, router: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move { Ok::<_, std::convert::Infallible>(router::answer(router, request.map(Body::new)).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(StallGuard::new(stream, WRITE_STALL)), service);
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
