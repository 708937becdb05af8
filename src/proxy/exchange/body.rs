//! Passing bodies on, in both directions.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::super::body::{BodyReader, Step};
use super::super::flow::{Direction, Flow};
use super::super::head::Framing;
use super::{Broken, READ_CHUNK, put};

/// Bytes gathered before a write; twice what is read at once.
const WRITE_CHUNK: usize = 2 * READ_CHUNK;

/// What ended a body, from whichever side.
enum Fault {
    Source(std::io::Error),
    SourceEnded,
    Sink(std::io::Error),
    Framing(super::super::body::BodyFault),
}

/// Passes the client's body to the upstream.
pub(super) async fn pass_request_body<C, U>(
    client: &mut C,
    inbox: &mut BytesMut,
    upstream: &mut U,
    body: BodyReader,
    framing: Framing,
    flow: &Flow,
) -> Result<(), Broken>
where
    C: AsyncRead + Unpin,
    U: AsyncWrite + Unpin,
{
    let chunked = framing == Framing::Chunked;
    pass(client, inbox, upstream, body, chunked, Vec::new(), (flow, Direction::Up)).await.map_err(|fault| match fault {
        Fault::Source(_) | Fault::SourceEnded => Broken::Client,
        Fault::Sink(error) => Broken::Upstream(error),
        Fault::Framing(fault) => Broken::RequestBody(fault),
    })
}

/// Passes the upstream's body to the client, behind the head in `out`.
pub(super) async fn pass_answer_body<U, C>(
    upstream: &mut U,
    inbox: &mut BytesMut,
    client: &mut C,
    body: BodyReader,
    chunked: bool,
    out: Vec<u8>,
    flow: &Flow,
) -> Result<(), Broken>
where
    U: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
{
    pass(upstream, inbox, client, body, chunked, out, (flow, Direction::Down)).await.map_err(|fault| match fault {
        Fault::Source(error) => Broken::Upstream(error),
        Fault::SourceEnded | Fault::Framing(_) => Broken::UpstreamBody,
        Fault::Sink(_) => Broken::Client,
    })
}

async fn pass<R, W>(
    from: &mut R,
    inbox: &mut BytesMut,
    to: &mut W,
    mut body: BodyReader,
    chunked: bool,
    mut out: Vec<u8>,
    (flow, direction): (&Flow, Direction),
) -> Result<(), Fault>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        match body.step(inbox).map_err(Fault::Framing)? {
            Step::Data(count) => put(&mut out, inbox, count, chunked),
            Step::NeedMore => {
                write_out(to, &mut out, flow, direction).await?;
                inbox.reserve(READ_CHUNK);
                if from.read_buf(inbox).await.map_err(Fault::Source)? == 0 {
                    return if body.ends_with_stream() { Ok(()) } else { Err(Fault::SourceEnded) };
                }
            }
            Step::End => {
                if chunked {
                    out.extend_from_slice(b"0\r\n");
                    out.extend_from_slice(body.trailers());
                    out.extend_from_slice(b"\r\n");
                }
                return write_out(to, &mut out, flow, direction).await;
            }
        }
        if out.len() >= WRITE_CHUNK {
            write_out(to, &mut out, flow, direction).await?;
        }
    }
}

async fn write_out<W: AsyncWrite + Unpin>(
    to: &mut W,
    out: &mut Vec<u8>,
    flow: &Flow,
    direction: Direction,
) -> Result<(), Fault> {
    if !out.is_empty() {
        flow.pass(direction, to, out).await.map_err(Fault::Sink)?;
        out.clear();
    }
    Ok(())
}
