//! Where there are no groups: limits of single processes (`getrlimit(2)`). They are never the same thing,
//! so nothing here is ever reported as enforced.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Applied, Control, Limits, Outcome};

/// What a limit of a process is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessResource {
    /// `RLIMIT_DATA`: private writable memory. Not `RLIMIT_AS`: language runtimes reserve far more
    /// addresses than they use, and would not start.
    Data,
    /// `RLIMIT_NPROC`: tasks of the user id, so it needs an id of the runtime's own; root passes it.
    Tasks,
}

/// A limit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimit {
    /// About what.
    pub resource: ProcessResource,
    /// How much; soft and hard alike.
    pub value: u64,
}

/// The limits of processes that come nearest to `limits`.
pub fn instead_of_groups(limits: &Limits) -> Vec<ProcessLimit> {
    let data = limits.memory_max.map(|value| ProcessLimit { resource: ProcessResource::Data, value });
    let tasks = limits.pids_max.map(|value| ProcessLimit { resource: ProcessResource::Tasks, value });
    data.into_iter().chain(tasks).collect()
}

/// What to report of each limit of a group when there is none for `reason`, given that
/// [`instead_of_groups`] was installed in the runtime.
pub fn without_groups(limits: &Limits, reason: &str) -> Vec<Applied> {
    let asked = limits.asked().into_iter().filter(|control| !control.is_of_a_process());
    let outcome = |control| match control {
        Control::MemoryMax => Outcome::Partial(format!("for each process alone, not their sum: {reason}")),
        Control::PidsMax => Outcome::Partial(format!("for each user id, and not for root: {reason}")),
        _ => Outcome::Unavailable(reason.to_owned()),
    };
    asked.map(|control| Applied::new(control, outcome(control))).collect()
}

/// Sets the limits on this process for good; a hard limit that is lower already stays.
///
/// # Errors
/// The first that the kernel refused.
pub fn install(limits: &[ProcessLimit]) -> std::io::Result<()> {
    for limit in limits {
        let resource = match limit.resource {
            ProcessResource::Data => Resource::RLIMIT_DATA,
            ProcessResource::Tasks => Resource::RLIMIT_NPROC,
        };
        let (_, hard) = getrlimit(resource)?;
        let value = limit.value.min(hard);
        setrlimit(resource, value, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_groups_nothing_is_called_enforced() {
        let limits = Limits {
            memory_max: Some(1 << 30),
            pids_max: Some(64),
            cpu_quota: Some(super::super::CpuQuota::nearest(500)),
            nice: Some(5),
            ..Limits::default()
        };
        let applied = without_groups(&limits, "no groups here");
        assert_eq!(applied.len(), 3, "niceness is the process's own: {applied:?}");
        assert!(applied.iter().all(|one| one.outcome != Outcome::Enforced));
        assert!(applied.iter().any(|one| one.outcome == Outcome::Unavailable("no groups here".to_owned())));
        assert_eq!(
            instead_of_groups(&limits),
            [
                ProcessLimit { resource: ProcessResource::Data, value: 1 << 30 },
                ProcessLimit { resource: ProcessResource::Tasks, value: 64 },
            ]
        );
    }
}
