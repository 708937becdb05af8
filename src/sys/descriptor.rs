//! Which descriptors a process has when it becomes another program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::FdFlag;

/// Closes every descriptor from `first` on that is not in `keep` (`close_range(2)`, Linux 5.9).
///
/// The caller must be about to end or to execute: an owner elsewhere in this process would be left with a dead
/// number. Only the stages of a sandbox, which have one thread and hold what they keep, call this.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: u32, keep: &[&dyn AsRawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).filter(|fd| *fd >= first).collect();
    keep.sort_unstable();
    let mut from = first;
    for fd in keep {
        if fd > from {
            close_range(from, fd - 1, 0)?;
        }
        from = from.max(fd + 1);
    }
    close_range(from, u32::MAX, 0)
}

/// Marks every descriptor from `first` on as close-on-exec (`close_range(2)`, Linux 5.11).
///
/// # Errors
/// `ENOSYS` or `EINVAL` on older kernels.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the arguments are numbers. That no owner of a closed descriptor uses it afterwards is what
    // `close_from` asks of its caller.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(done)?;
    Ok(())
}

/// The flags of whatever is open at `number`.
///
/// # Errors
/// `EBADF` when nothing is.
pub fn flags_of(number: i32) -> io::Result<FdFlag> {
    // SAFETY: F_GETFD reads one word of the descriptor table; a number where nothing is open gives EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    Ok(FdFlag::from_bits_retain(Errno::result(flags)?))
}

/// Takes standard input as a descriptor of its own, close-on-exec, and leaves `/dev/null` in its place.
///
/// # Errors
/// Standard input is closed, or no descriptors are left.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let taken = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(taken)
}

/// The same file at a number of at least `least`, close-on-exec.
///
/// # Errors
/// No descriptors left.
pub fn moved_above(fd: OwnedFd, least: i32) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= least {
        return Ok(fd);
    }
    let raw = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: F_DUPFD_CLOEXEC has just returned this new descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes the terminal `fd` the controlling one of this session (`TIOCSCTTY`).
///
/// # Errors
/// `EPERM` when the caller leads no session, or the terminal controls another one.
pub fn take_terminal(fd: &impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number, no pointer; the descriptor is open while borrowed.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(done)?;
    Ok(())
}
