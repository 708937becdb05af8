//! Moving a tunnel's bytes: small amounts through one buffer of the thread, bulk with `splice(2)` from
//! socket to pipe to socket, never through our memory.
//!
//! A pipe is taken from the thread's pool only while bulk moves and given back empty, so an idle tunnel
//! holds two sockets and nothing else. At the end of one direction everything held is passed on before the
//! half-close is. A flow whose runtime has a rate goes through memory always: what waits for its turn holds no
//! pipe.
//!
//! ```text
//!            read fills the buffer            splice moves less than that
//! small ───────────────────────────▶ bulk ───────────────────────────────▶ small
//! ```

mod pool;
mod socket;

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use self::pool::{SMALL, give_back, take_pipe, with_buffer};
use self::socket::Socket;
use super::flow::{Direction, Flow};
use super::runtime::Turn;
use crate::domain::CloseReason;
use crate::sys;
use crate::sys::pipe::Pipe;

/// Chunks moved for one direction before other tunnels get their turn.
const CHUNKS_PER_TURN: usize = 16;

/// One direction of a tunnel.
struct Half {
    direction: Direction,
    pipe: Option<Pipe>,
    /// Bytes in the pipe that are to be sent.
    held: usize,
    /// Bytes that were read into memory and found no room at the other side.
    rest: Vec<u8>,
    /// Bytes that were read and that the budget does not hold: they go no further.
    unfit: usize,
    /// When `rest` may be sent.
    turn: Turn,
    bulk: bool,
    source_ended: bool,
    finished: bool,
}

/// Which side failed.
struct Broken {
    reason: CloseReason,
}

impl Half {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            pipe: None,
            held: 0,
            rest: Vec::new(),
            unfit: 0,
            turn: Turn::default(),
            bulk: false,
            source_ended: false,
            finished: false,
        }
    }

    /// Ready once the source ended and all of it was passed on. The caller passes the half-close on.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &impl Socket,
        to: &impl Socket,
        flow: &Flow,
    ) -> Poll<Result<(), Broken>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..CHUNKS_PER_TURN {
            if !self.rest.is_empty() {
                ready!(self.turn.poll(context, flow));
                ready!(self.send_rest(context, to, flow)).map_err(|_| self.sink_broken())?;
            } else if self.held > 0 {
                ready!(self.drain(context, to, flow)).map_err(|_| self.sink_broken())?;
            } else if self.unfit > 0 {
                flow.cut(CloseReason::BudgetExhausted);
                return Poll::Ready(Err(Broken { reason: CloseReason::BudgetExhausted }));
            } else if self.source_ended {
                self.finished = true;
                return Poll::Ready(Ok(()));
            } else if self.bulk && flow.quantum().is_none() {
                ready!(self.fill(context, from, flow)).map_err(|_| self.source_broken())?;
            } else {
                // A rate was set in the middle of bulk.
                self.bulk = false;
                self.release();
                ready!(self.copy(context, from, to, flow))?;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads a small amount and writes as much of it as there is room for.
    fn copy(
        &mut self,
        context: &mut Context<'_>,
        from: &impl Socket,
        to: &impl Socket,
        flow: &Flow,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let quantum = flow.quantum();
            let room = quantum.map_or(SMALL, |quantum| quantum.min(SMALL));
            let copied = with_buffer(|buffer| {
                let buffer = &mut buffer[..room];
                let count = from.read_now(buffer).map_err(|error| (error, self.source_broken()))?;
                let fits = self.budget(flow, count);
                if fits == 0 {
                    // The end of the source, or of the budget: nothing to send.
                    return Ok(count);
                }
                if quantum.is_some() {
                    self.turn = Turn::book(flow, fits);
                    self.rest.extend_from_slice(&buffer[..fits]);
                    return Ok(count);
                }
                let sent = match to.write_now(&buffer[..fits]) {
                    Ok(sent) => sent,
                    Err(error) if is_wait(&error) => 0,
                    Err(error) => return Err((error, self.sink_broken())),
                };
                if sent > 0 {
                    flow.count(self.direction, sent);
                }
                self.rest.extend_from_slice(&buffer[sent..fits]);
                Ok(count)
            });
            match copied {
                Ok(0) => {
                    self.source_ended = true;
                    return Poll::Ready(Ok(()));
                }
                Ok(count) if count == room => {
                    self.bulk = quantum.is_none();
                    return Poll::Ready(Ok(()));
                }
                Ok(_) => {
                    from.drained();
                    return Poll::Ready(Ok(()));
                }
                Err((error, _)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(from.poll_readable(context)).map_err(|_| self.source_broken())?;
                }
                Err((error, _)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err((_, broken)) => return Poll::Ready(Err(broken)),
            }
        }
    }

    /// Exactly what came is charged, before it is sent. A reservation ahead of the read would leave nothing,
    /// for that moment, to other tunnels of the same rule.
    fn budget(&mut self, flow: &Flow, count: usize) -> usize {
        let fits = if count == 0 { 0 } else { flow.reserve(count) };
        self.unfit = count - fits;
        fits
    }

    fn send_rest(&mut self, context: &mut Context<'_>, to: &impl Socket, flow: &Flow) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            match to.write_now(&self.rest) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => {
                    flow.count(self.direction, sent);
                    self.rest.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(to.poll_writable(context))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // An idle tunnel keeps no buffer.
        self.rest = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn fill(&mut self, context: &mut Context<'_>, from: &impl Socket, flow: &Flow) -> Poll<io::Result<()>> {
        loop {
            let moved = from.attempt(Interest::READABLE, || {
                let pipe = match self.pipe.take() {
                    Some(pipe) => pipe,
                    None => take_pipe()?,
                };
                let moved = sys::splice(from.as_fd(), pipe.write.as_fd(), pipe.capacity(), false);
                self.pipe = Some(pipe);
                moved
            });
            match moved {
                Ok(0) => {
                    self.source_ended = true;
                    self.release();
                    return Poll::Ready(Ok(()));
                }
                Ok(count) => {
                    self.bulk = count >= SMALL;
                    self.held = self.budget(flow, count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.release();
                    ready!(from.poll_readable(context))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn drain(&mut self, context: &mut Context<'_>, to: &impl Socket, flow: &Flow) -> Poll<io::Result<()>> {
        let pipe = self.pipe.as_ref().expect("bytes are held in a pipe");
        while self.held > 0 {
            let moved = to.attempt(Interest::WRITABLE, || sys::splice(pipe.read.as_fd(), to.as_fd(), self.held, false));
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.held -= count;
                    flow.count(self.direction, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(to.poll_writable(context))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.bulk {
            self.release();
        }
        Poll::Ready(Ok(()))
    }

    /// Gives an empty pipe back. One with bytes in it is dropped: nobody else may see them.
    fn release(&mut self) {
        if let Some(pipe) = self.pipe.take()
            && self.held == 0
            && self.unfit == 0
        {
            give_back(pipe);
        }
    }

    const fn source_broken(&self) -> Broken {
        Broken { reason: side(self.direction, true) }
    }

    const fn sink_broken(&self) -> Broken {
        Broken { reason: side(self.direction, false) }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.release();
    }
}

/// Not now, rather than never.
fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

const fn side(direction: Direction, source: bool) -> CloseReason {
    match (direction, source) {
        (Direction::Up, true) | (Direction::Down, false) => CloseReason::ClientClosed,
        (Direction::Up, false) | (Direction::Down, true) => CloseReason::UpstreamClosed,
    }
}

/// Relays both ways until both sides ended, one broke, or the flow was cut. Says why it ended.
pub(super) async fn relay<C: Socket>(client: &C, upstream: &TcpStream, flow: &Flow) -> CloseReason {
    let mut up = Half::new(Direction::Up);
    let mut down = Half::new(Direction::Down);
    let mut first_end = None;
    let reason = poll_fn(|context| {
        if let Poll::Ready(reason) = flow.poll_cut(context) {
            return Poll::Ready(reason);
        }
        let up_ended = up.poll(context, client, upstream, flow);
        let down_ended = down.poll(context, upstream, client, flow);
        match (up_ended, down_ended) {
            (Poll::Ready(Err(broken)), _) | (_, Poll::Ready(Err(broken))) => {
                // A truncated stream must not look like a finished one.
                client.abort_on_close();
                upstream.abort_on_close();
                Poll::Ready(broken.reason)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(first_end.unwrap_or(CloseReason::Completed)),
            // The first end is passed on as a half-close; the second one is the close itself. Passing it on
            // fails only when the other side is gone already, which ends the tunnel anyhow.
            (Poll::Ready(Ok(())), Poll::Pending) => {
                if first_end.replace(CloseReason::ClientClosed).is_none() {
                    let _ = upstream.shutdown_write();
                }
                Poll::Pending
            }
            (Poll::Pending, Poll::Ready(Ok(()))) => {
                if first_end.replace(CloseReason::UpstreamClosed).is_none() {
                    let _ = client.shutdown_write();
                }
                Poll::Pending
            }
            // The byte budget may have been spent just now; the cut woke this very task.
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await;
    // A cut may come while one side is blocked: abort, so that nobody takes it for a clean end.
    if flow.cut_reason().is_some() {
        client.abort_on_close();
        upstream.abort_on_close();
    }
    flow.cut_reason().unwrap_or(reason)
}
