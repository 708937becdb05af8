//! What signals do to this process.

use std::io;

use nix::errno::Errno;

/// Lets ended children vanish by themselves: no zombie, and nobody has to wait (`SIGCHLD` ignored,
/// `sigaction(2)`).
///
/// # Errors
/// None in practice; the system call's own.
pub fn forget_children() -> io::Result<()> {
    dispose(libc::SIGCHLD, libc::SIG_IGN)
}

/// A write into a pipe that nobody reads, or beyond a limit of a file's size, fails and does nothing else.
///
/// # Errors
/// None in practice; the system call's own.
pub fn writes_only_fail() -> io::Result<()> {
    dispose(libc::SIGPIPE, libc::SIG_IGN)?;
    dispose(libc::SIGXFSZ, libc::SIG_IGN)
}

/// Gives every signal its default effect, those included that a parent had set to be ignored.
pub fn reset_all() {
    // 64 is the last real-time signal on every architecture that we build for. SIGKILL, SIGSTOP and the two
    // that the C library keeps for itself refuse, and need no reset.
    for number in 1..=64 {
        let _ = dispose(number, libc::SIG_DFL);
    }
}

fn dispose(number: libc::c_int, effect: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: the effect is SIG_IGN or SIG_DFL, so no handler of ours ever runs in signal context.
    let before = unsafe { libc::signal(number, effect) };
    if before == libc::SIG_ERR { Err(Errno::last().into()) } else { Ok(()) }
}
