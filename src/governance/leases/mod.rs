//! Leases: time-boxed widenings, each for one thing, one persona, one reason.
//!
//! ```text
//!             grant                    renew
//!  request ──────────> in force <───────────────┐
//!   examined  kept       │  │ └─── near its end ─┴─> alert
//!   (pure)    first      │  │
//!                        │  └── its time ──> expired ┐
//!                        └── revoked, kill switch ────┴─> cut what it let through, kept, told
//! ```
//!
//! Owns what a lease may be for (`capability`), what must hold before there is one (`lease`, pure), and the task that
//! has them all (`keeper`). What a lease opens is policy's to decide: it gets those in force as part of its snapshot.
//!
//! Widening is kept first and counts afterwards; narrowing counts at once and is kept afterwards, again and again until
//! it is. So a crash at any step leaves less open than was asked for, never more.
//!
//! Refuses: a persona or telemetry lease of 24 hours or more, a wildcard that is not below one domain, a reason that
//! says nothing, and any lease while the kill switch is latched. It clamps nothing.

mod capability;
mod keeper;
mod lease;

pub use capability::{Capability, CapabilityFault, LONGEST, PERSONAL_BOUND};
pub use keeper::{Ended, Given, Keeper, Leases, Premises, start};
pub use lease::{Lease, LeaseEnd, LeaseFault, LeaseRequest, MAX_IN_FORCE, MAX_JUSTIFICATION};
