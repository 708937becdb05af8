//! New processes, in new namespaces, of a process that has one thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Which side of a new process this is.
#[derive(Debug)]
pub enum Side {
    /// The one that called: the child's process id as seen here and, from [`clone_into`], its pidfd.
    Parent(Child),
    /// The new process.
    Child,
}

/// A process just made.
#[derive(Debug)]
pub struct Child {
    /// Its process id in the caller's namespace.
    pub pid: i32,
    /// Its pidfd (`pidfd_open(2)`), close-on-exec.
    pub pidfd: Option<OwnedFd>,
}

/// Whether this process has one thread only (`/proc/self/stat`, `num_threads`).
///
/// # Errors
/// `/proc` is not readable.
pub fn is_single_threaded() -> io::Result<bool> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // proc(5): num_threads is the 20th field; the second is in brackets and may hold anything.
    let field = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(17));
    Ok(field == Some("1"))
}

/// A new process in the new namespaces of `flags`, in cgroup v2 folder `cgroup`, with signal handlers at
/// their defaults (`clone3(2)`, Linux 5.7; before it without a cgroup by `clone(2)`, Linux 5.2). With `CLONE_PARENT` it is a
/// child of this one's parent, which hears of its end.
///
/// The new process is a copy of this one, so the caller must have one thread: another could hold a lock
/// (of the allocator, of a stream) that nobody would ever release in the copy.
///
/// # Errors
/// `EPERM` without the right to make a namespace, `ENOSPC` or `EUSERS` when their number is spent,
/// `EOPNOTSUPP` or `EBUSY` when the cgroup may hold no process; `ENOSYS` when `cgroup` is asked of a kernel that
/// cannot; `Other` when this process has more than one thread.
pub fn clone_into(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    if !is_single_threaded()? {
        return Err(io::Error::other("a process with several threads does not clone itself"));
    }
    match clone3(flags, cgroup) {
        // Filters of container runtimes answer ENOSYS, some EPERM, to what they do not know.
        Err(fault) if fault.raw_os_error() == Some(libc::ENOSYS) && cgroup.is_none() => clone(flags),
        other => other,
    }
}

/// A copy of this process, which must have one thread.
///
/// # Errors
/// `EAGAIN` at a limit on processes, `ENOMEM`.
pub fn fork() -> io::Result<Side> {
    // SAFETY: fork(2) in a process with one thread has no precondition; the callers are the keeper of a launcher, which
    // is at the top of `main`, and the init of a sandbox, which was cloned from a launcher that `clone_into` has proved to
    // be single-threaded.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Side::Parent(Child { pid: child.as_raw(), pidfd: None })),
        nix::unistd::ForkResult::Child => Ok(Side::Child),
    }
}

/// Runs `child` in a new process that has this one's memory, and a stack of its own, until it executes a program or returns
/// its exit status; this one stands still meanwhile (`clone(2)`, `CLONE_VM | CLONE_VFORK`). Gives the new one's process id.
///
/// Nothing is copied but the descriptors, which a copy of the memory costs most of the time. What the child allocates and does
/// not free stays here once it has executed. It must not end by `exit(3)`, which would run this one's own last acts: it returns.
///
/// # Errors
/// `EAGAIN` at a limit on processes, `ENOMEM`.
pub fn run_before_exec(child: &mut dyn FnMut() -> u8) -> io::Result<i32> {
    let mut stack = Stack::new()?;
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the child runs the closure on a stack of its own while the caller's only thread waits, so nobody else touches
    // the memory that both have; a panic in it aborts at the C frame below. With CLONE_VFORK the kernel lets the caller go on
    // only when the child has that memory no more, so stack and closure outlive it. The caller has one thread, as `fork`
    // has it; thread-local memory of the C library is the caller's, with its thread id, which only `raise` would use.
    let made = unsafe { nix::sched::clone(Box::new(|| child().into()), stack.bytes(), flags, Some(libc::SIGCHLD)) };
    Ok(made?.as_raw())
}

/// Replaces this process by a new one in the new namespaces of `flags` and in cgroup v2 folder `cgroup`, which goes on from
/// here: with this one's memory, stack and descriptors, but as another process, a child of this one's parent. This one ends
/// in the same moment, with exit status 0. The new one gets its process id as this one would have seen it.
///
/// Nothing is copied but the descriptors, where [`clone_into`] copies page tables, and afterwards each page that is written to.
/// Not to be called by the first process of a PID namespace, whose end would end the new one too.
///
/// # Errors
/// As [`clone_into`]; `ENOSYS` on other machines than x86-64 and before Linux 5.7.
pub fn succeed(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    if !is_single_threaded()? {
        return Err(io::Error::other("a process with several threads is not replaced"));
    }
    let mut pid: libc::pid_t = 0;
    let shared = libc::CLONE_VM as u64 | libc::CLONE_PARENT as u64 | libc::CLONE_PARENT_SETTID as u64;
    let mut arguments = CloneArguments::new(flags, cgroup);
    arguments.flags |= shared;
    // The kernel writes it before the new process begins, in the memory of both.
    arguments.parent_tid = std::ptr::from_mut(&mut pid) as u64;
    // SAFETY: the caller has one thread, and its handlers are the kernel's own (`clone_into` has seen to that), so nothing
    // but the code below runs in it until it is gone, and that touches no memory.
    Errno::result(unsafe { clone3_and_leave(&mut arguments) })?;
    // SAFETY: a live integer of this function, which the kernel has written to behind the compiler's back.
    Ok(unsafe { std::ptr::read_volatile(&raw const pid) })
}

/// `clone3(2)`, after which the caller ends at once, without a look at the memory and the stack that are the new process's
/// from then on. Returns 0 in that, or the negative errno in the caller.
///
/// # Safety
/// `arguments` has `CLONE_VM` and no stack; the caller has one thread and no signal handlers.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_and_leave(arguments: &mut CloneArguments) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: clone3(2) reads a struct clone_args of the size given. The kernel changes rax, rcx and r11 alone
    // (syscall(2)). In the caller nothing follows but exit_group(2), which does not return; the new process has all
    // registers, and is the only one that uses this stack.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jle 2f",
            "mov eax, {exit_group}",
            "xor edi, edi",
            "syscall",
            "ud2",
            "2:",
            exit_group = const libc::SYS_exit_group,
            inlateout("rax") libc::SYS_clone3 => result,
            inlateout("rdi") std::ptr::from_mut(arguments) => _,
            inlateout("rsi") std::mem::size_of::<CloneArguments>() => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    returned(result)
}

/// What the kernel answers, as the C library gives it: -1, and the rest in `errno`.
#[cfg(target_arch = "x86_64")]
fn returned(result: libc::c_long) -> libc::c_long {
    if result < 0 {
        Errno::from_raw(i32::try_from(-result).unwrap_or(0)).set();
        return -1;
    }
    result
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3_and_leave(_arguments: &mut CloneArguments) -> libc::c_long {
    Errno::ENOSYS.set();
    -1
}

/// Memory for a stack, with a page below that cannot be touched.
struct Stack {
    start: std::ptr::NonNull<libc::c_void>,
}

impl Stack {
    /// Only what is touched is taken.
    const BYTES: usize = 512 << 10;
    /// At least a page of every architecture.
    const GUARD: usize = 64 << 10;

    fn new() -> io::Result<Self> {
        let len = const { std::num::NonZeroUsize::new(Self::GUARD + Self::BYTES).expect("not zero") };
        let (access, kind) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK);
        // SAFETY: new memory anywhere, which nobody has a reference to.
        let start = unsafe { mmap_anonymous(None, len, access, kind) }?;
        let stack = Self { start };
        // SAFETY: the lower part of what was just mapped, which nothing was put into and nobody has a reference to.
        unsafe { mprotect(start, Self::GUARD, ProtFlags::PROT_NONE) }?;
        Ok(stack)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the guard is a part of what was mapped at `start`, so this stays inside of it.
        let above = unsafe { self.start.as_ptr().cast::<u8>().add(Self::GUARD) };
        // SAFETY: `BYTES` above the guard are mapped, readable, writable and zero for as long as `self` lives, and borrowed
        // with it.
        unsafe { std::slice::from_raw_parts_mut(above, Self::BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` with this length, and every borrow has ended.
        let _ = unsafe { munmap(self.start, Self::GUARD + Self::BYTES) };
    }
}

/// A pidfd of a running process, close-on-exec (`pidfd_open(2)`, Linux 5.3). Whether it is the one that was meant can be
/// told only afterwards: from then on its number is nobody else's.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers.
    let made = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let raw = i32::try_from(made).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sends a signal to the process that `pidfd` stands for, whose number nobody else can have got meanwhile.
///
/// # Errors
/// `ESRCH` when it has ended, `EPERM`.
pub fn signal_by_pidfd(pidfd: &impl AsFd, number: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open while borrowed; a null siginfo means that of kill(2).
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, info, 0) };
    Errno::result(done)?;
    Ok(())
}

fn clone3(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: libc::c_int = -1;
    let mut arguments = CloneArguments::new(flags, cgroup);
    arguments.flags |= libc::CLONE_PIDFD as u64;
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // A sibling ends with this one's own signal, and naming another is EINVAL.
    arguments.exit_signal = if flags.contains(CloneFlags::CLONE_PARENT) { 0 } else { libc::SIGCHLD as u64 };
    // SAFETY: without CLONE_VM the child gets its own copy of memory and stack, so `stack` may be zero
    // (clone3(2)); the caller has one thread, so no lock is held by somebody who is not copied; `arguments`
    // is a struct clone_args of the size given, and its `pidfd` points to an int that outlives the call.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut arguments), std::mem::size_of::<CloneArguments>())
    };
    side(pid, pidfd)
}

fn clone(flags: CloneFlags) -> io::Result<Side> {
    let mut pidfd: libc::c_int = -1;
    let wish = bits(flags) | libc::CLONE_PIDFD as u64 | libc::SIGCHLD as u64;
    // SAFETY: as in `clone3`: no CLONE_VM, so a null stack means a copy of this one; with CLONE_PIDFD the
    // third argument (parent_tid) receives the pidfd (clone(2), Linux 5.2) and points to a live int. The order of
    // the last two arguments differs by architecture, and both are unused.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, wish, 0_usize, std::ptr::from_mut(&mut pidfd), 0_usize, 0_usize) };
    side(pid, pidfd)
}

fn side(pid: libc::c_long, pidfd: libc::c_int) -> io::Result<Side> {
    match Errno::result(pid)? {
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: CLONE_PIDFD has stored a new descriptor here, and nobody else knows its number.
            let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
            Ok(Side::Parent(Child { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd }))
        }
    }
}

/// The flags' bits, without the sign of the `c_int` that they are kept in.
fn bits(flags: CloneFlags) -> u64 {
    u64::from(flags.bits().cast_unsigned())
}

/// `CLONE_CLEAR_SIGHAND`, `linux/sched.h`, Linux 5.5.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_INTO_CGROUP`, `linux/sched.h`, Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of `linux/sched.h`, its third size (Linux 5.7).
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl CloneArguments {
    /// With signal handlers at their defaults.
    fn new(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Self {
        let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
        Self {
            flags: CLONE_CLEAR_SIGHAND | bits(flags) | into,
            cgroup: cgroup.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(0)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test harness has threads of its own, which is just the case that must not clone.
    #[test]
    fn a_process_with_threads_is_not_cloned() {
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || held.recv());
        assert!(!is_single_threaded().expect("proc"));
        assert!(clone_into(CloneFlags::empty(), None).is_err());
        assert!(succeed(CloneFlags::empty(), None).is_err());
        drop(_hold);
        let _ = other.join();
    }
}
