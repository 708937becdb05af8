//! Control groups: what a runtime may use, what it has used, and its certain end.
//!
//! ```text
//!  <group of the daemon>             its own, delegated: nothing is ever written above it
//!  ├─ arw-supervisor                 v2 only: the daemon moves here ("no internal processes")
//!  └─ arw                            our folder
//!     ├─ rt-demo                     a Leaf: one runtime, with the groups made inside it
//!     └─ rt-other
//! ```
//!
//! Where systemd runs the daemon, `<group of the daemon>` is that of the unit `arw-runtimes.service` beside it, and the
//! daemon stays where it is.
//!
//! The same picture stands in the v2 tree and in each v1 hierarchy that the host has. On a hybrid host
//! a leaf has a group in both: controllers where the host put them, `cgroup.kill` and `cgroup.freeze` in
//! the v2 tree.
//!
//! | file | |
//! |---|---|
//! | `layout` | which hierarchies there are and where we are in them, from `/proc` |
//! | `tree` | makes leaves and finds them again |
//! | `delegate` | hands v2 controllers down to the leaves |
//! | `leaf` | one runtime's groups; `walk` visits them, `end` freezes, kills and removes them |
//! | `apply` | writes limits and reads them back |
//! | `usage`, `psi` | what was used, what went wrong, how long it waited |
//! | `limits` | the words: limits, controls, what became of them |
//! | `process` | niceness, policy, affinity, and `rlimits` where there are no groups |
//!
//! It refuses to write limits, move processes or switch controllers at the top of a hierarchy, to touch
//! a group that it did not make, to call a limit enforced that it did not read back, and to skip one in
//! silence. Everything here blocks; callers on an async executor go through a blocking thread.

mod apply;
mod delegate;
mod end;
mod fault;
mod files;
mod layout;
mod leaf;
mod limits;
mod process;
mod psi;
mod rlimits;
mod standby;
mod tree;
mod usage;
mod walk;

pub use fault::{CgroupFault, Withheld};
pub use layout::{Controller, Kind, Roots};
pub use leaf::{Leaf, LeafPlace};
pub use limits::{
    Applied, Control, CpuQuota, CpuQuotaFault, CpuSet, CpuSetFault, Limits, Outcome, SchedulingPolicy, Weight,
    WeightFault, merge,
};
pub use process::apply_to_self;
pub(crate) use process::own_cpus;
pub use psi::{Psi, PsiLine, Share};
pub use rlimits::{ProcessLimit, ProcessResource, install, instead_of_groups, without_groups};
pub use standby::{Held, Standby};
pub use tree::Cgroups;
pub use usage::{Events, Io, LeafPsi, Usage};
