//! The CPU that one stage hands to the next.
//!
//! The kernel starts a new process on whichever CPU is idle, and waking that takes longer (0.1 ms and more) than all
//! that the process does before it is executed. Since who made it has nothing else to do meanwhile, it is started where that
//! ran.

use nix::unistd::{Pid, getppid};

use crate::sandbox::fault::{At, Fault, Step};
use crate::sys::schedule;

use super::measure::Outside;

/// Holds this process and the next one that it makes on one CPU, until each has left.
pub(super) struct Place {
    is_held: bool,
}

impl Place {
    /// Nobody is held.
    pub(super) const fn anywhere() -> Self {
        Self { is_held: false }
    }

    /// Takes it if launcher and this process may run everywhere. Others have CPUs of their own, by whoever runs the launcher, by
    /// the plan or by a cpuset, and are left alone: what is set would outlast a later change of those (Linux 6.2).
    pub(super) fn take(outside: &Outside) -> Self {
        let free = outside.everywhere().is_some_and(|all| schedule::cpus().is_ok_and(|own| own == *all));
        Self { is_held: free && schedule::stay().is_ok() }
    }

    /// Called by each of the two: to everywhere, or as far as a cpuset lets it.
    pub(super) fn leave(&self) -> Result<(), Fault> {
        if self.is_held { schedule::roam(Pid::from_raw(0)).at(Step::Schedule) } else { Ok(()) }
    }

    /// Called by the new one for both: its maker, of the same user, stands still until the new one has executed its program, and
    /// would then wait for this very CPU.
    pub(super) fn leave_with_maker(&self) -> Result<(), Fault> {
        if self.is_held {
            schedule::roam(getppid()).at(Step::Schedule)?;
        }
        self.leave()
    }
}
