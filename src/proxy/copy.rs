//! Moving bytes through memory, where the client's side is TLS and `splice` cannot.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::flow::{Direction, Flow};
use crate::domain::CloseReason;
use crate::sys;

/// One TLS record is at most 16 KiB of plain text (RFC 8446 section 5.1).
const CHUNK: usize = 16 << 10;

/// Copies both ways until both sides ended, one broke, or the flow was cut.
pub(super) async fn copy_both<C>(client: &mut C, upstream: &mut TcpStream, flow: &Flow) -> CloseReason
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let ended = tokio::select! {
        biased;
        reason = flow.cut_off() => Err(reason),
        ended = both_ways(client, upstream, flow) => ended,
    };
    let ended = flow.cut_reason().map_or(ended, Err);
    if ended.is_err() {
        // A part must not look like the whole. TLS tells the client: there is no `close_notify`. Best effort:
        // a socket that refuses is closed with FIN instead.
        let _ = sys::socket::set_linger_zero(upstream);
    }
    ended.unwrap_or_else(|reason| reason)
}

/// `Ok` with the side that ended first once both did; `Err` with the side that broke.
async fn both_ways<C>(client: &mut C, upstream: &mut TcpStream, flow: &Flow) -> Result<CloseReason, CloseReason>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut upstream_read, mut upstream_write) = upstream.split();
    let up = copy(&mut client_read, &mut upstream_write, Direction::Up, flow);
    let down = copy(&mut upstream_read, &mut client_write, Direction::Down, flow);
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut up => {
            ended?;
            down.await?;
            Ok(CloseReason::ClientClosed)
        }
        ended = &mut down => {
            ended?;
            up.await?;
            Ok(CloseReason::UpstreamClosed)
        }
    }
}

async fn copy<R, W>(from: &mut R, to: &mut W, direction: Direction, flow: &Flow) -> Result<(), CloseReason>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (source, sink) = match direction {
        Direction::Up => (CloseReason::ClientClosed, CloseReason::UpstreamClosed),
        Direction::Down => (CloseReason::UpstreamClosed, CloseReason::ClientClosed),
    };
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await.map_err(|_| source)?;
        if count == 0 {
            // The other side may be gone already, which its own direction finds out.
            let _ = to.shutdown().await;
            return Ok(());
        }
        flow.pass(direction, to, &chunk[..count]).await.map_err(|_| sink)?;
    }
}
