//! Moving a tunnel's bytes with `splice(2)`: socket → pipe → socket, never through our memory.
//!
//! A pipe is taken from the thread's pool only while bytes move and given back empty, so an idle tunnel
//! holds two sockets and nothing else. At the end of one direction the pipe is drained before the
//! half-close is passed on.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::flow::{Direction, Flow};
use crate::domain::CloseReason;
use crate::sys;
use crate::sys::pipe::Pipe;

/// Size asked for each pipe: large enough for a full socket buffer, small enough that an ordinary
/// user's quota of pipe pages (`/proc/sys/fs/pipe-user-pages-soft`, 64 MiB) holds 256 of them.
const PIPE_BYTES: usize = 256 << 10;
/// Empty pipes kept per thread: only tunnels that move bytes at this moment hold one.
const PIPES_KEPT: usize = 64;
/// Chunks moved for one direction before other tunnels get their turn.
const CHUNKS_PER_TURN: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

fn take_pipe() -> io::Result<Pipe> {
    PIPES.with_borrow_mut(Vec::pop).map_or_else(|| Pipe::new(PIPE_BYTES), Ok)
}

fn give_back(pipe: Pipe) {
    PIPES.with_borrow_mut(|pipes| {
        if pipes.len() < PIPES_KEPT {
            pipes.push(pipe);
        }
    });
}

/// A socket that can be spliced from and to.
pub(super) trait Socket: AsFd {
    /// Ready to read, or closed.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready to write, or broken.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Runs `operation` if the executor believes the socket ready; `WouldBlock` clears that belief.
    fn attempt<R>(&self, interest: Interest, operation: impl FnMut() -> io::Result<R>) -> io::Result<R>;
    /// Passes a half-close on.
    fn shutdown_write(&self) -> io::Result<()>;
    /// Makes the coming close an abort (RST), where the family has such a thing.
    fn abort_on_close(&self);
}

macro_rules! socket {
    ($kind:ty, $abort:expr) => {
        impl Socket for $kind {
            fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(context)
            }

            fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(context)
            }

            fn attempt<R>(&self, interest: Interest, operation: impl FnMut() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, operation)
            }

            fn shutdown_write(&self) -> io::Result<()> {
                socket2::SockRef::from(self).shutdown(std::net::Shutdown::Write)
            }

            fn abort_on_close(&self) {
                let abort: fn(&Self) = $abort;
                abort(self);
            }
        }
    };
}

socket!(TcpStream, |socket| {
    // Best effort: a socket that refuses is closed with FIN instead.
    let _ = sys::socket::set_linger_zero(socket);
});
socket!(UnixStream, |_| {});

/// One direction of a tunnel.
struct Half {
    direction: Direction,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    source_ended: bool,
    finished: bool,
}

/// Which side failed.
struct Broken {
    reason: CloseReason,
}

impl Half {
    const fn new(direction: Direction) -> Self {
        Self { direction, pipe: None, held: 0, source_ended: false, finished: false }
    }

    /// Ready once the source ended and all of it was passed on, the half-close included.
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
            if self.held > 0 {
                ready!(self.drain(context, to, flow)).map_err(|_| self.sink_broken())?;
            } else if self.source_ended {
                self.finished = true;
                // Fails only when the other side is gone already, which ends the tunnel anyhow.
                let _ = to.shutdown_write();
                return Poll::Ready(Ok(()));
            } else {
                ready!(self.fill(context, from, flow)).map_err(|_| self.source_broken())?;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn fill(&mut self, context: &mut Context<'_>, from: &impl Socket, flow: &Flow) -> Poll<io::Result<()>> {
        loop {
            let moved = from.attempt(Interest::READABLE, || {
                let pipe = match self.pipe.take() {
                    Some(pipe) => pipe,
                    None => take_pipe()?,
                };
                // The budget is taken before the bytes are: what does not fit is never read, let alone sent.
                let room = flow.reserve(pipe.capacity());
                let moved = match room {
                    0 => Err(io::ErrorKind::QuotaExceeded.into()),
                    room => splice(from.as_fd(), pipe.write.as_fd(), room),
                };
                flow.refund(room - moved.as_ref().copied().unwrap_or(0));
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
                    self.held = count;
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
            let moved = to.attempt(Interest::WRITABLE, || splice(pipe.read.as_fd(), to.as_fd(), self.held));
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
        Poll::Ready(Ok(()))
    }

    /// Gives an empty pipe back. One with bytes in it is dropped: nobody else may see them.
    fn release(&mut self) {
        if let Some(pipe) = self.pipe.take()
            && self.held == 0
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

const fn side(direction: Direction, source: bool) -> CloseReason {
    match (direction, source) {
        (Direction::Up, true) | (Direction::Down, false) => CloseReason::ClientClosed,
        (Direction::Up, false) | (Direction::Down, true) => CloseReason::UpstreamClosed,
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    sys::splice(from, to, bytes, false)
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
            (Poll::Ready(Ok(())), Poll::Pending) => {
                first_end.get_or_insert(CloseReason::ClientClosed);
                Poll::Pending
            }
            (Poll::Pending, Poll::Ready(Ok(()))) => {
                first_end.get_or_insert(CloseReason::UpstreamClosed);
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
