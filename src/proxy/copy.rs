//! Moving bytes through memory, where the client's side is TLS and `splice` cannot.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::flow::{Direction, Flow};
use crate::domain::CloseReason;

/// One TLS record is at most 16 KiB of plain text (RFC 8446 section 5.1).
const CHUNK: usize = 16 << 10;

/// Copies both ways until both sides ended, one broke, or the flow was cut.
pub(super) async fn copy_both<C, U>(client: &mut C, upstream: &mut U, flow: &Flow) -> CloseReason
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
    let both = async {
        let up = copy(&mut client_read, &mut upstream_write, Direction::Up, flow);
        let down = copy(&mut upstream_read, &mut client_write, Direction::Down, flow);
        tokio::pin!(up, down);
        let (mut up_ended, mut down_ended) = (false, false);
        let mut first = None;
        loop {
            let ended = tokio::select! {
                ended = &mut up, if !up_ended => { up_ended = true; ended.map_err(|()| CloseReason::ClientClosed) }
                ended = &mut down, if !down_ended => { down_ended = true; ended.map_err(|()| CloseReason::UpstreamClosed) }
            };
            if let Err(reason) = ended {
                return reason;
            }
            first.get_or_insert(if up_ended { CloseReason::ClientClosed } else { CloseReason::UpstreamClosed });
            if up_ended && down_ended {
                return first.unwrap_or(CloseReason::Completed);
            }
        }
    };
    let reason = tokio::select! {
        biased;
        reason = flow.cut_off() => reason,
        reason = both => reason,
    };
    flow.cut_reason().unwrap_or(reason)
}

async fn copy<R, W>(from: &mut R, to: &mut W, direction: Direction, flow: &Flow) -> Result<(), ()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await.map_err(|_| ())?;
        if count == 0 {
            // The other side may be gone already, which its own direction finds out.
            let _ = to.shutdown().await;
            return Ok(());
        }
        if !flow.spend(count) {
            return Err(());
        }
        to.write_all(&chunk[..count]).await.map_err(|_| ())?;
        to.flush().await.map_err(|_| ())?;
        flow.count(direction, count);
    }
}
