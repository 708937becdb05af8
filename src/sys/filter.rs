//! A seccomp filter (`seccomp(2)`): installed, and its state read back.

use std::io;

use nix::errno::Errno;

/// One instruction of a classic BPF program, as `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions a true comparison skips.
    pub jump_true: u8,
    /// How many instructions a false comparison skips.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// Most instructions of one program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Puts `program` between this thread, with all that it will execute, and the kernel. It cannot be
/// taken back.
///
/// # Errors
/// `InvalidInput` when the program is empty or has more than [`MAX_INSTRUCTIONS`], `EINVAL` when the kernel
/// refuses it, `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).ok().filter(|len| (1..=MAX_INSTRUCTIONS).contains(&usize::from(*len)));
    let Some(len) = len else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a filter has 1 to 4096 instructions"));
    };
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `Instruction` has the layout of struct sock_filter (four fields, repr(C)); `filter` describes
    // `len` of them in memory that outlives the call; the kernel copies and checks them and writes nothing.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, std::ptr::from_ref(&filter)) };
    Errno::result(done)?;
    Ok(())
}

/// Whether a filter stands before this thread (`PR_GET_SECCOMP` is 2).
///
/// # Errors
/// `EINVAL` when the kernel has no seccomp.
pub fn is_installed() -> io::Result<bool> {
    // SAFETY: PR_GET_SECCOMP takes no argument; with a filter in force prctl(2) is one of the calls that ours
    // allow, and a strict mode, in which the call would kill, is never entered.
    let mode = unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) };
    Ok(Errno::result(mode)? == 2)
}

/// The error number that a system call without arguments fails with; 0 when it does not fail.
///
/// Only for numbers that no kernel has, which is what it refuses otherwise.
pub fn answer_to(number: u32) -> i32 {
    // No architecture has numbers between the tables' end and x32.
    if !(0x0001_0000..0x4000_0000).contains(&number) {
        return libc::EINVAL;
    }
    // SAFETY: no kernel has a call of such a number, so nothing is done: either a filter answers, or ENOSYS.
    let done = unsafe { libc::syscall(libc::c_long::from(number)) };
    Errno::result(done).err().map_or(0, |errno| errno as i32)
}
