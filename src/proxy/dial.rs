//! Connecting to a vetted address. There is no other way out: [`dial`] takes the gate's permit and the
//! ledger's receipt.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::gate::DialPermit;
use crate::ledger::Receipt;

/// Head start of each address over the next (RFC 8305 section 5, "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Why no vetted address could be connected to.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialFault {
    /// Every address refused or was unreachable.
    #[error("no address accepted the connection: {0}")]
    Failed(#[source] io::Error),
    /// No address answered in time.
    #[error("no address answered in time")]
    Timeout,
}

/// A connection to a vetted address.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The stream.
    pub stream: TcpStream,
    /// Which of the vetted addresses it is.
    pub address: SocketAddr,
    /// Bytes read beyond the last message.
    pub inbox: BytesMut,
}

/// Connects to the first of the permit's addresses that answers, within `limit` for all together.
///
/// # Errors
/// [`DialFault`] when none does.
pub(super) async fn dial(permit: DialPermit, receipt: Receipt, limit: Duration) -> Result<Upstream, DialFault> {
    // The receipt is the proof that the record exists; the dial uses it up.
    drop(receipt);
    connect_any(permit.addresses(), limit).await
}

/// As [`dial`], once more to the same vetted addresses: for a kept connection that turned out to be stale.
pub(super) async fn connect_any(addresses: &[SocketAddr], limit: Duration) -> Result<Upstream, DialFault> {
    let connected = match addresses {
        [only] => timeout(limit, connect(*only)).await,
        several => timeout(limit, race(several)).await,
    };
    let upstream = connected.map_err(|_| DialFault::Timeout)?.map_err(DialFault::Failed)?;
    // Small requests must not wait for acknowledgements; the relay writes whole chunks anyhow.
    upstream.stream.set_nodelay(true).map_err(DialFault::Failed)?;
    Ok(upstream)
}

async fn connect(address: SocketAddr) -> io::Result<Upstream> {
    Ok(Upstream { stream: TcpStream::connect(address).await?, address, inbox: BytesMut::new() })
}

/// Happy eyeballs (RFC 8305): each address gets a head start, all run until one wins.
async fn race(addresses: &[SocketAddr]) -> io::Result<Upstream> {
    let mut attempts = FuturesUnordered::new();
    let mut waiting = addresses.iter();
    let mut next_start = Instant::now();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        tokio::select! {
            biased;
            Some(outcome) = attempts.next(), if !attempts.is_empty() => match outcome {
                Ok(upstream) => return Ok(upstream),
                Err(error) => {
                    last_error = error;
                    next_start = Instant::now();
                    if waiting.len() == 0 && attempts.is_empty() {
                        return Err(last_error);
                    }
                }
            },
            () = sleep_until(next_start), if waiting.len() > 0 => {
                if let Some(addr) = waiting.next() {
                    attempts.push(connect(*addr));
                }
                next_start = Instant::now() + ATTEMPT_DELAY;
            }
            else => return Err(last_error),
        }
    }
}
