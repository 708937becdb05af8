//! Descriptors that an asynchronous owner waits for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor that it can (a socket, a pipe, a pidfd). Inside of a tokio runtime.
///
/// # Errors
/// `EPERM` for a file, which is always ready; no descriptors or memory left.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, always gives the same number, and is moved into the
    // `AsyncFd`, which gives it out by shared reference only: nobody closes or replaces it before the `AsyncFd` ends.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(watched?)
}
