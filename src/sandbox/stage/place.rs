//! The CPU that an init hands to its command.
//!
//! The kernel starts a new process on whichever CPU is idle, and waking that takes longer (0.1 ms and more) than all
//! that the command does before it is executed. Since its init stands still meanwhile, it is started where that ran.

use nix::sched::CpuSet;

use crate::sandbox::fault::{At, Fault, Step};
use crate::sys::schedule;

use super::measure::Outside;

/// Holds this process and the next one that it makes on one CPU, until each has left.
pub(super) struct Place {
    /// Where they may go then.
    back: Option<CpuSet>,
}

impl Place {
    /// Takes it if this process may run wherever the launcher may. Others have CPUs of their own, by the plan or their cpuset,
    /// and are left alone: setting anything would outlast a later change of the cpuset (Linux 6.2).
    pub(super) fn take(outside: &Outside) -> Self {
        let same = schedule::cpus().ok().filter(|cpus| outside.cpus() == Some(cpus));
        Self { back: same.filter(|_| schedule::stay().is_ok()) }
    }

    /// Called by each of the two.
    pub(super) fn leave(&self) -> Result<(), Fault> {
        self.back.as_ref().map_or(Ok(()), schedule::set_cpus).at(Step::Schedule)
    }
}
