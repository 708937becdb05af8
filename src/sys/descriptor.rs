//! Which descriptors a process has when it becomes another program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

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

/// The numbers below `end` where something is open that would stay open across `execve`, from `first` on.
///
/// # Errors
/// The system call's own.
pub fn inheritable(first: i32, end: i32) -> io::Result<Vec<i32>> {
    let mut asked: Vec<libc::pollfd> = (first..end).map(|fd| libc::pollfd { fd, events: 0, revents: 0 }).collect();
    let count = libc::nfds_t::try_from(asked.len()).unwrap_or(0);
    // SAFETY: `asked` holds `count` entries; a number where nothing is open is answered with POLLNVAL, and no
    // entry is read from or written to.
    Errno::result(unsafe { libc::poll(asked.as_mut_ptr(), count, 0) })?;
    let open = asked.into_iter().filter(|entry| entry.revents & libc::POLLNVAL == 0).map(|entry| entry.fd);
    Ok(open.filter(|fd| !closes_on_exec(*fd)).collect())
}

fn closes_on_exec(number: i32) -> bool {
    // SAFETY: F_GETFD reads one word of the descriptor table; a number where nothing is open gives EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags == -1 || FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
}

/// Makes reads, writes and the like answer `EAGAIN` instead of waiting: for everybody who shares the open file.
///
/// # Errors
/// None in practice; the system call's own.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_stays_open_is_found_and_one_that_closes_is_not() {
        let file = std::fs::File::open("/dev/null").expect("null");
        let number = file.as_raw_fd();
        assert!(!inheritable(number, number + 1).expect("asked").contains(&number));
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).expect("flags");
        assert_eq!(inheritable(number, number + 1).expect("asked"), [number]);
    }
}
