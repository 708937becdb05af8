//! Automations: what runtimes are run for, on whose persona, by which clock, within which budgets.
//!
//! ```text
//! runtimes.toml ┐
//! automations.toml ┴─ read ─> Registry + Manifest ──> supervisor            every runtime belongs to one automation
//!
//! disable ── kept, audited ──> barred ──> ended ──> told                    nobody starts it until it is enabled
//! report  ── kept ──> counted by the account of the runtime ──> 70, 90, 100 %
//! records of runs ── observe ──> history, automation.run.*
//! ```
//!
//! Owns the registry, who is disabled and why, what automations report of themselves, and the history of their runs.
//! What can be measured is counted by the supervisor and the gateway, which also stop what is spent.
//!
//! Disabling is kept before it acts, so that a crash at any step leaves it disabled or untouched, never stopped and
//! startable. A report that was acknowledged is kept; one that comes again counts once.
//!
//! Refuses: two automations on one runtime, a report in another currency, and anything of another automation that a
//! runtime asks for.

mod inside;
mod keeper;
mod observe;
mod registry;
mod status;
mod usage;

#[cfg(test)]
mod tests;

pub use inside::serve;
pub use keeper::{AutomationFault, Automations, Found, Keeper, Premises, Switched, Usage, Whose, found, start};
pub use registry::{Automation, Registry, read};
pub use status::{AutomationView, Disabled, Impact, ImpactCode, Status};
pub use usage::{UsageFault, UsageReport};
