//! Pipes, the buffers of a spliced relay.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// A non-blocking, close-on-exec pipe (`pipe(7)`).
#[derive(Debug)]
pub struct Pipe {
    /// The end that bytes come out of.
    pub read: OwnedFd,
    /// The end that bytes go into.
    pub write: OwnedFd,
    capacity: usize,
}

impl Pipe {
    /// A new pipe that holds about `capacity` bytes.
    ///
    /// The size is a wish: the kernel rounds it up to whole pages, and refuses it above
    /// `/proc/sys/fs/pipe-max-size` or when the user's `pipe-user-pages-soft` is spent. Then the pipe
    /// keeps the size it has, and [`Pipe::capacity`] tells which that is.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when no descriptors are left.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let wish = i32::try_from(capacity).unwrap_or(i32::MAX);
        let held = fcntl(&write, FcntlArg::F_SETPIPE_SZ(wish)).or_else(|_| fcntl(&write, FcntlArg::F_GETPIPE_SZ))?;
        Ok(Self { read, write, capacity: usize::try_from(held).unwrap_or(0) })
    }

    /// Bytes that the pipe holds when its pages are full.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::FdFlag;

    use super::*;

    #[test]
    fn a_pipe_has_the_wished_size_and_never_blocks_or_leaks() {
        let pipe = Pipe::new(64 << 10).expect("pipe");
        assert!(pipe.capacity() >= 4096, "{}", pipe.capacity());
        for end in [pipe.read.as_fd(), pipe.write.as_fd()] {
            let status = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL).expect("flags"));
            assert!(status.contains(OFlag::O_NONBLOCK));
            let flags = FdFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFD).expect("flags"));
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&pipe.read, &mut byte), Err(nix::errno::Errno::EAGAIN));
    }

    #[test]
    fn an_impossible_size_still_gives_a_pipe() {
        let pipe = Pipe::new(usize::MAX).expect("pipe");
        assert!(pipe.capacity() >= 4096);
        assert_eq!(nix::unistd::write(&pipe.write, b"abc"), Ok(3));
    }
}
