//! What a process sets on itself before it starts the runtime, whose processes inherit it.

use nix::sched::{CpuSet as Mask, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::sys::schedule;

use super::{Applied, Control, CpuSet, Limits, Outcome};

/// Sets niceness, scheduling policy and affinity on the calling thread and tells what became of each.
/// Called by the runtime's init while it has a single thread.
pub fn apply_to_self(limits: &Limits) -> Vec<Applied> {
    let mut applied = Vec::new();
    if let Some(policy) = limits.policy {
        let shown = schedule::set_policy(policy).and_then(|()| schedule::policy());
        let outcome = match shown {
            Ok(Some(found)) if found == policy => match policy {
                schedule::Policy::Other => Outcome::Enforced,
                // `sched(7)`: from the lesser policies a process may return without a privilege.
                _ => {
                    Outcome::Partial("the runtime may return to the usual policy unless seccomp refuses it".to_owned())
                }
            },
            Ok(found) => Outcome::Unavailable(format!("the kernel shows {found:?}")),
            Err(fault) => Outcome::Unavailable(fault.to_string()),
        };
        applied.push(Applied::new(Control::SchedulingPolicy, outcome));
    }
    if let Some(nice) = limits.nice {
        let shown = schedule::set_nice(nice).and_then(|()| schedule::nice());
        let outcome = match shown {
            Ok(found) if found == nice => Outcome::Enforced,
            Ok(found) => Outcome::Unavailable(format!("the kernel shows {found}")),
            Err(fault) => Outcome::Unavailable(fault.to_string()),
        };
        applied.push(Applied::new(Control::Nice, outcome));
    }
    if let Some(cpus) = &limits.cpus {
        let outcome = match pin(cpus) {
            Ok(()) => Outcome::Partial("the runtime may widen it again: no cpuset group holds it".to_owned()),
            Err(reason) => Outcome::Unavailable(reason),
        };
        applied.push(Applied::new(Control::CpuAffinity, outcome));
    }
    applied
}

fn pin(cpus: &CpuSet) -> Result<(), String> {
    let said = |fault: nix::errno::Errno| fault.desc().to_lowercase();
    let this = Pid::from_raw(0);
    let mut mask = Mask::new();
    for number in cpus.numbers() {
        mask.set(usize::from(*number)).map_err(said)?;
    }
    sched_setaffinity(this, &mask).map_err(said)?;
    let shown = sched_getaffinity(this).map_err(said)?;
    if shown == mask { Ok(()) } else { Err("some of these CPUs are not there".to_owned()) }
}

/// The CPUs that this process may use.
///
/// # Errors
/// None in practice; the system call's own, or a host of more CPUs than the C library's set holds.
pub(crate) fn own_cpus() -> Result<CpuSet, String> {
    let mask = sched_getaffinity(Pid::from_raw(0)).map_err(|fault| fault.desc().to_lowercase())?;
    let there = (0..u16::try_from(Mask::count()).unwrap_or(u16::MAX))
        .filter(|number| mask.is_set(usize::from(*number)).unwrap_or(false));
    CpuSet::new(there).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: what is set belongs to the thread.
    #[test]
    fn niceness_policy_and_affinity_are_set_and_read_back() {
        let applied = std::thread::spawn(|| {
            let first = own_cpus().expect("cpus").numbers()[0];
            let cpus = CpuSet::new([first]).expect("one");
            let limits = Limits {
                nice: Some(15),
                policy: Some(schedule::Policy::Batch),
                cpus: Some(cpus.clone()),
                ..Limits::default()
            };
            let applied = apply_to_self(&limits);
            assert_eq!(own_cpus().expect("cpus"), cpus);
            assert_eq!(schedule::nice().expect("nice"), 15);
            applied
        })
        .join()
        .expect("thread");
        assert!(applied.contains(&Applied::new(Control::Nice, Outcome::Enforced)), "{applied:?}");
        let partly =
            |control| applied.iter().any(|one| one.control == control && matches!(one.outcome, Outcome::Partial(_)));
        assert!(partly(Control::SchedulingPolicy) && partly(Control::CpuAffinity), "{applied:?}");
    }

    #[test]
    fn a_cpu_that_is_not_there_is_not_called_held() {
        let limits = Limits { cpus: CpuSet::new([1_023]).ok(), ..Limits::default() };
        let applied = std::thread::spawn(move || apply_to_self(&limits)).join().expect("thread");
        assert!(matches!(applied[0].outcome, Outcome::Unavailable(_)), "{applied:?}");
    }
}
