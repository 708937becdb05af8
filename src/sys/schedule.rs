//! Niceness, scheduling policy and CPUs of the calling thread, which its children inherit.

use std::io;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How the kernel's fair scheduler treats a thread (`sched(7)`). Real-time policies are left out on
/// purpose: nothing that we launch may starve the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// `SCHED_OTHER`: the usual one.
    Other,
    /// `SCHED_BATCH`: taken for work that nobody waits for; it wakes up less eagerly.
    Batch,
    /// `SCHED_IDLE`: runs when nothing else wants to.
    Idle,
}

/// Sets the niceness, from -20 (first) to 19 (last). Lowering it needs `CAP_SYS_NICE` or `RLIMIT_NICE`.
///
/// # Errors
/// `EACCES` or `EPERM` without that right.
pub fn set_nice(nice: i8) -> io::Result<()> {
    // SAFETY: `setpriority` takes three integers, touches no memory of ours, and 0 means the caller.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, libc::c_int::from(nice)) };
    Errno::result(result)?;
    Ok(())
}

/// The niceness as it is.
///
/// # Errors
/// None in practice; the system call's own.
pub fn nice() -> io::Result<i8> {
    // -1 is a niceness as well as the sign of a failure (`getpriority(2)`), so `errno` tells them apart.
    Errno::clear();
    // SAFETY: `getpriority` takes two integers, touches no memory of ours, and 0 means the caller.
    let result = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    match Errno::last_raw() {
        0 => Ok(i8::try_from(result).unwrap_or(0)),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Sets the policy. Any thread may make itself lesser; from [`Policy::Idle`] back needs a fitting niceness.
///
/// # Errors
/// `EPERM` without that right.
pub fn set_policy(policy: Policy) -> io::Result<()> {
    let number = match policy {
        Policy::Other => libc::SCHED_OTHER,
        Policy::Batch => libc::SCHED_BATCH,
        Policy::Idle => libc::SCHED_IDLE,
    };
    // The fair policies have one static priority only, 0.
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to `parameter`, alive and unchanged until the call returns; 0 means the caller.
    let result = unsafe { libc::sched_setscheduler(0, number, &raw const parameter) };
    Errno::result(result)?;
    Ok(())
}

/// The policy as it is; `None` for one that is not in [`Policy`].
///
/// # Errors
/// None in practice; the system call's own.
pub fn policy() -> io::Result<Option<Policy>> {
    // SAFETY: `sched_getscheduler` takes one integer and touches no memory of ours; 0 means the caller.
    let number = Errno::result(unsafe { libc::sched_getscheduler(0) })?;
    Ok(match number & !libc::SCHED_RESET_ON_FORK {
        libc::SCHED_OTHER => Some(Policy::Other),
        libc::SCHED_BATCH => Some(Policy::Batch),
        libc::SCHED_IDLE => Some(Policy::Idle),
        _ => None,
    })
}

/// Comes before nobody: back to the usual policy from a real-time one, and to niceness 0 from one below.
///
/// # Errors
/// None in practice: nobody is refused to make itself lesser.
pub fn give_way() -> io::Result<()> {
    if policy()?.is_none() {
        set_policy(Policy::Other)?;
    }
    if nice()? < 0 {
        set_nice(0)?;
    }
    Ok(())
}

/// The CPUs that the calling thread may run on.
///
/// # Errors
/// `EINVAL` on a host of more than 1024.
pub fn cpus() -> io::Result<CpuSet> {
    Ok(sched_getaffinity(Pid::from_raw(0))?)
}

/// Whether these are all that are online (`sysconf(3)`, `_SC_NPROCESSORS_ONLN`).
pub fn are_all(cpus: &CpuSet) -> bool {
    let count = (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu) == Ok(true)).count();
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|online| usize::try_from(online).ok()) == Some(count)
}

/// Lets a thread, 0 for the calling one, run on every CPU that its cpuset has, or will have.
///
/// # Errors
/// `EPERM` for one of another user.
pub fn roam(thread: Pid) -> io::Result<()> {
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        all.set(cpu)?;
    }
    Ok(sched_setaffinity(thread, &all)?)
}

/// Keeps the calling thread on the CPU that it runs on.
///
/// # Errors
/// `EINVAL` where that was taken from it meanwhile.
pub fn stay() -> io::Result<()> {
    let mut here = CpuSet::new();
    here.set(this_cpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &here)?)
}

/// By the kernel's own word: the C library's is that of the thread that a process made with its maker's memory comes from.
fn this_cpu() -> io::Result<usize> {
    let mut cpu: libc::c_uint = 0;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: `getcpu(2)` writes one integer, alive until it returns; the other two arguments may be null.
    Errno::result(unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, none, none) })?;
    usize::try_from(cpu).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, which what is set belongs to.
    #[test]
    fn a_thread_stays_on_one_cpu_until_it_may_leave() {
        std::thread::spawn(|| {
            let before = cpus().expect("cpus");
            stay().expect("it runs somewhere");
            let count = |cpus: &CpuSet| (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu) == Ok(true)).count();
            assert_eq!(count(&cpus().expect("cpus")), 1);
            roam(Pid::from_raw(0)).expect("its cpuset has some");
            assert!(count(&cpus().expect("cpus")) >= count(&before));
            assert!(!are_all(&CpuSet::new()));
        })
        .join()
        .expect("thread");
    }

    /// In a thread of its own, which takes the lower rank to its end.
    #[test]
    fn a_thread_makes_itself_lesser_and_reads_it_back() {
        std::thread::spawn(|| {
            let before = nice().expect("nice");
            set_nice(19).expect("always allowed");
            assert!(before <= 19);
            assert_eq!(nice().expect("nice"), 19);
            for wanted in [Policy::Other, Policy::Batch, Policy::Idle] {
                set_policy(wanted).expect("always allowed downwards");
                assert_eq!(policy().expect("policy"), Some(wanted));
            }
        })
        .join()
        .expect("thread");
    }
}
