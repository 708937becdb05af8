//! System calls that a sandbox must refuse, or the daemon to itself, tried by their tests. Each is harmless when it succeeds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Makes an io_uring instance of one entry and closes it again (`io_uring_setup(2)`).
///
/// # Errors
/// The kernel's or the filter's.
pub fn io_uring() -> io::Result<()> {
    // struct io_uring_params: 120 bytes, all zero for the defaults.
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel reads and writes 120 bytes at the address given, and `parameters` has them.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, parameters.as_mut_ptr()) })?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF))?;
    // SAFETY: the kernel has just returned this new descriptor, and nobody else knows its number.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Lets the parent trace this process (`PTRACE_TRACEME`). To be called by a process that is about to end.
///
/// # Errors
/// The kernel's or the filter's.
pub fn trace_me() -> io::Result<()> {
    let zero = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_TRACEME ignores its other arguments and touches no memory.
    Errno::result(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, zero, zero) })?;
    Ok(())
}

/// Asks for the id of this session's keyring (`keyctl(2)`, `KEYCTL_GET_KEYRING_ID`), without making one.
///
/// # Errors
/// The kernel's or the filter's.
pub fn session_keyring() -> io::Result<()> {
    const GET_KEYRING_ID: libc::c_int = 0;
    const SESSION_KEYRING: libc::c_int = -3;
    // SAFETY: the arguments are numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 0) })?;
    Ok(())
}

/// Types a line break into the terminal `fd` (`TIOCSTI`). On anything else than a terminal nothing happens.
///
/// # Errors
/// `ENOTTY` from the kernel when `fd` is no terminal; the filter's own.
pub fn type_into(fd: &impl AsFd) -> io::Result<()> {
    let letter = b'\n';
    // SAFETY: TIOCSTI reads one byte at the address given.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSTI, std::ptr::from_ref(&letter)) };
    Errno::result(done)?;
    Ok(())
}

/// Makes a user fault descriptor and closes it again (`userfaultfd(2)`), for user mode only, which needs no
/// privilege (Linux 5.11).
///
/// # Errors
/// The kernel's or the filter's.
pub fn user_faults() -> io::Result<()> {
    const USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: the argument is a number.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) })?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF))?;
    // SAFETY: the kernel has just returned this new descriptor, and nobody else knows its number.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Maps a page that can be written and executed, and unmaps it again.
///
/// # Errors
/// The kernel's or the filter's.
pub fn writable_code() -> io::Result<()> {
    const PAGE: usize = 4_096;
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: without a wish for an address (null) the kernel takes free space, so no mapping of ours is touched.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, rights, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(Errno::last().into());
    }
    // SAFETY: this page was just mapped here, and nothing refers to it.
    Errno::result(unsafe { libc::munmap(mapped, PAGE) })?;
    Ok(())
}

/// Maps a page that can be written, makes it executable instead, and unmaps it again.
///
/// # Errors
/// The kernel's or the filter's.
pub fn written_code() -> io::Result<()> {
    const PAGE: usize = 4_096;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: without a wish for an address (null) the kernel takes free space, so no mapping of ours is touched.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, rights, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(Errno::last().into());
    }
    // SAFETY: the page was just mapped here, and nothing refers to it.
    let made = Errno::result(unsafe { libc::mprotect(mapped, PAGE, libc::PROT_READ | libc::PROT_EXEC) });
    // SAFETY: as above.
    Errno::result(unsafe { libc::munmap(mapped, PAGE) })?;
    made?;
    Ok(())
}

/// Asks for the personality in which whatever can be read can be executed, and takes it back.
///
/// # Errors
/// The kernel's or the filter's.
pub fn read_implies_exec() -> io::Result<()> {
    const READ_IMPLIES_EXEC: libc::c_ulong = 0x0040_0000;
    // SAFETY: personality(2) takes a number.
    let before = Errno::result(unsafe { libc::personality(READ_IMPLIES_EXEC) })?;
    // SAFETY: as above; this is what the process had.
    Errno::result(unsafe { libc::personality(libc::c_ulong::try_from(before).unwrap_or(0)) })?;
    Ok(())
}
