//! Health probes, made from inside the runtime's own network or as a command beside it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::sandbox::{Channel, Exec, Exit, Text};

use super::super::life::Report;
use super::super::manifest::{Health, Probe};
use super::{Told, What};

/// The first pause between two probes of one that starts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Probes until the run ends. `passed`: whether the last probe before did; `None` for one that starts, which is probed at once,
/// and then as often as doubles the time that it has taken: what is ready early is not kept waiting for a whole interval.
pub(super) async fn repeat(
    channel: Channel,
    health: Health,
    run: u64,
    mut passed: Option<bool>,
    tell: mpsc::Sender<Told>,
) {
    // These tell readiness once, by themselves.
    if matches!(health.probe, Probe::Log { .. } | Probe::Notify) {
        return;
    }
    let (begun, mut next) = (Instant::now(), Instant::now());
    loop {
        sleep_until(next).await;
        let now = Instant::now();
        let starting = (now - begun).max(FIRST_PAUSE).min(health.interval);
        next = now + passed.map_or(starting, |_| health.interval);
        let outcome = timeout(health.timeout, probe(&channel, &health.probe)).await;
        if channel.end().is_some() {
            // Nobody carries probes any more: that tells nothing of the runtime. Who takes it back probes anew.
            return;
        }
        let well = match &outcome {
            Ok(Ok(())) => true,
            Ok(Err(fault)) => {
                tracing::debug!(run, %fault, "a probe failed");
                false
            }
            Err(_) => {
                tracing::debug!(run, "a probe took too long");
                false
            }
        };
        // Before it is ready, a failing probe says nothing; afterwards only a change and each failure do.
        let report = match (well, passed) {
            (true, Some(true)) => continue,
            (true, _) => Report::ProbePassed,
            (false, None) => continue,
            (false, Some(_)) => Report::ProbeFailed,
        };
        passed = Some(well);
        if tell.send(Told { run, what: What::Report(report) }).await.is_err() {
            return;
        }
    }
}

async fn probe(channel: &Channel, probe: &Probe) -> io::Result<()> {
    match probe {
        Probe::Http { address, path } => http(channel, *address, path).await,
        Probe::Tcp { address } => connect(channel, *address).await.map(drop),
        Probe::Exec { argv } => exec(channel, argv).await,
        Probe::Log { .. } | Probe::Notify => Ok(()),
    }
}

/// A connection to `address` as the runtime itself sees it.
pub(super) async fn connect(channel: &Channel, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(channel.socket(address.is_ipv6()).await?);
    socket.set_nonblocking(true)?;
    tokio::net::TcpSocket::from_std_stream(socket).connect(address).await
}

async fn http(channel: &Channel, address: SocketAddr, path: &str) -> io::Result<()> {
    let stream = connect(channel, address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::USER_AGENT, "arw-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(io::Error::other)?;
    // It carries the bytes; it ends with this probe.
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let status = sender.send_request(request).await.map_err(io::Error::other)?.status();
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(io::Error::other(format!("it answered {status}")))
}

/// Dropped by a time-out, it ends the command.
async fn exec(channel: &Channel, argv: &[String]) -> io::Result<()> {
    let nothing = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let streams = [nothing()?, nothing()?, nothing()?];
    let command = Exec::new(argv.iter().map(|word| Text::from(word.as_str())).collect());
    let executing = channel.exec(command, streams).await.map_err(|fault| io::Error::other(fault.to_string()))?;
    match executing.ended().await? {
        Exit::Code(0) => Ok(()),
        exit => Err(io::Error::other(format!("the probe ended with {}", exit.code()))),
    }
}
