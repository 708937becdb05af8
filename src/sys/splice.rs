//! Bytes from one descriptor to another without a copy through user space.

use std::io;
use std::os::fd::BorrowedFd;

use nix::fcntl::SpliceFFlags;

/// Moves up to `len` bytes from `from` to `to`; one of the two must be a pipe (`splice(2)`).
///
/// Returns the bytes moved; 0 is the end of `from`. `more` says that further bytes follow at once, so
/// that a TCP socket may wait to fill its segment. Never blocks on the pipe; a socket must be
/// non-blocking by itself.
///
/// # Errors
/// `WouldBlock` when nothing can move now: `from` is empty, or `to` is full. Which of the two, the call
/// does not say. `InvalidInput` when neither is a pipe. The socket's own errors otherwise.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize, more: bool) -> io::Result<usize> {
    let mut flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    flags.set(SpliceFFlags::SPLICE_F_MORE, more);
    loop {
        match nix::fcntl::splice(from, None, to, None, len, flags) {
            Ok(moved) => return Ok(moved),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::pipe::Pipe;

    #[test]
    fn bytes_go_through_a_pipe_unchanged_until_the_end() {
        let pipe = Pipe::new(64 << 10).expect("pipe");
        let (mut client, inside) = UnixStream::pair().expect("pair");
        let (outside, mut upstream) = UnixStream::pair().expect("pair");
        inside.set_nonblocking(true).expect("non-blocking");

        let empty = splice(inside.as_fd(), pipe.write.as_fd(), 4096, false).expect_err("nothing there");
        assert_eq!(empty.kind(), ErrorKind::WouldBlock);

        client.write_all(b"hello upstream").expect("write");
        assert_eq!(splice(inside.as_fd(), pipe.write.as_fd(), 4096, false).expect("in"), 14);
        assert_eq!(splice(pipe.read.as_fd(), outside.as_fd(), 5, true).expect("out"), 5);
        assert_eq!(splice(pipe.read.as_fd(), outside.as_fd(), 4096, false).expect("out"), 9);
        let mut seen = [0; 14];
        upstream.read_exact(&mut seen).expect("read");
        assert_eq!(&seen, b"hello upstream");

        drop(client);
        assert_eq!(splice(inside.as_fd(), pipe.write.as_fd(), 4096, false).expect("end"), 0);
    }

    #[test]
    fn two_sockets_without_a_pipe_are_refused() {
        let (a, b) = UnixStream::pair().expect("pair");
        let fault = splice(a.as_fd(), b.as_fd(), 1, false).expect_err("no pipe");
        assert_eq!(fault.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_closed_reader_is_a_broken_pipe_not_a_signal() {
        let pipe = Pipe::new(4096).expect("pipe");
        let (a, b) = UnixStream::pair().expect("pair");
        nix::unistd::write(&pipe.write, b"x").expect("write");
        drop(b);
        let fault = splice(pipe.read.as_fd(), a.as_fd(), 1, false).expect_err("no reader");
        assert_eq!(fault.kind(), ErrorKind::BrokenPipe);
    }
}
