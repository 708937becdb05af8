//! What a relay needs of a socket. Two kinds are relayed: TCP and Unix streams.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::sys;

/// A socket that can be read, written, and spliced from and to, all without waiting.
pub(in crate::proxy) trait Socket: AsFd {
    /// Ready to read, or closed.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready to write, or broken.
    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Runs `operation` if the executor believes the socket ready; `WouldBlock` clears that belief.
    fn attempt<R>(&self, interest: Interest, operation: impl FnMut() -> io::Result<R>) -> io::Result<R>;
    /// Reads what has arrived.
    fn read_now(&self, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes what there is room for.
    fn write_now(&self, buf: &[u8]) -> io::Result<usize>;
    /// Passes a half-close on.
    fn shutdown_write(&self) -> io::Result<()>;
    /// Makes the coming close an abort (RST), where the family has such a thing.
    fn abort_on_close(&self);

    /// Says that all that had arrived was read, so that the executor waits for the kernel's next word
    /// instead of letting us ask in vain.
    ///
    /// Sound only right after a read that came back short, in the same poll: epoll is edge-triggered, and
    /// the executor looks at it between polls, on this thread. What arrives meanwhile is a new edge. That
    /// the peer has closed is kept by the executor apart and not cleared.
    fn drained(&self) {
        let _ = self.attempt(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
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

            fn read_now(&self, buf: &mut [u8]) -> io::Result<usize> {
                self.try_read(buf)
            }

            fn write_now(&self, buf: &[u8]) -> io::Result<usize> {
                self.try_write(buf)
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
