//! Decides what may leave.
//!
//! ```text
//! personas/*.toml ── load ──> Snapshot ── decide(intent, now) ──> Allow(Grant) | Deny(Denial)
//!       leases in force ─────────┘                                  │
//!                                      Usage.admit(grant, now) ─────┤ budgets: uses, bytes, rate
//!                                      grant.vet(address) ──────────┘ each resolved address
//! ```
//!
//! Owns the meaning of persona files (`docs/personas.md`), the compiled matcher, the proof of a decision
//! ([`Grant`]), and the spent counters behind budgets ([`Usage`]). Deciding is pure: no I/O, no clock, no
//! look-up; the same snapshot, intent and moment always give the same answer, so that a ledger can be
//! replayed against a candidate policy.
//!
//! Refuses: to apply half a policy (one fault in any file keeps all of it out), to allow what it does not
//! understand, to open a special address for anything but a rule whose `cidrs` hold it, and to know of
//! sockets, the ledger or HTTP.

mod decide;
mod grant;
mod guard;
mod hosts;
mod lease;
mod load;
mod nets;
mod path;
mod pattern;
mod persona;
mod ports;
mod question;
mod reach;
mod read_persona;
mod read_rule;
mod rule;
mod ruleset;
mod snapshot;
mod terms;
mod usage;
mod warning;
mod widen;

#[cfg(test)]
mod tests;

pub use grant::{Decision, Grant, GrantedBy};
pub use lease::{EgressLease, LeaseSet, Opening};
pub use load::{load, load_proposed, load_with};
pub use pattern::{HostPattern, PatternFault, Purpose};
pub use persona::{Persona, PersonaLimits, PersonaSummary, TokenSummary};
pub use question::{Answer, Question, Verdict};
pub use rule::{Budget, RuleSummary};
pub use snapshot::{PolicySettings, Snapshot};
pub use terms::{Mode, Posture, Rate, RateFault, TlsAnswer, TlsDemand};
pub use usage::{Meter, Spent, Usage};
pub use warning::Warning;
pub use widen::{Widened, Widening};
