//! Who may do what on the control API: one evaluator, two languages.
//!
//! ```text
//! policy.json ──┐ lint: no wildcards,                        ┌ granted ── Permit ──> the deed
//!               ├────────────────────> Policy ── Question ───┤
//! Cedar bundle ─┘ the kill switch     swapped   who, what,   └ denied ─── counted, told, refused
//!                 is somebody's       whole     on what
//! ```
//!
//! A question is answered by the policy alone: nothing is permitted that no grant covers, and denials win. Without a
//! file, who administers may do everything ([`Policy::open`]), and the status says so. A file with a fault is refused
//! whole: the daemon does not start with it, and a reload keeps the policy in force.
//!
//! Lint refuses what gives more than a person would read in it: `allow_all`, stars, permits without a principal, action
//! or resource; and what could keep the kill switch from somebody who holds it: a denial, a lease, a condition.
//!
//! | module | owns |
//! |---|---|
//! | `words` | principals, actions, resources: closed, in one form |
//! | `question` | a question and its answer |
//! | `policy` | one policy in force, whichever language it is written in |
//! | `read`, `table` | `policy.json`: its lint, its decision |
//! | `statements`, `cedar` | Cedar: taken apart, its lint, its decision |
//! | `handle` | the policy in force, with counters and events |
//! | `cases` | questions with their expected answers, from a file |

mod cases;
#[cfg(feature = "cedar")]
mod cedar;
mod handle;
mod policy;
mod question;
mod read;
#[cfg(feature = "cedar")]
mod statements;
mod table;
mod words;

pub use cases::{Case, CaseFault, Expected, read_cases};
pub use handle::{Authority, Denials, Denied, Permit, Refusal, Status};
pub use policy::{Policy, Source, Summary};
pub use question::{Question, Ruling, Why};
pub use words::{Action, Capability, Family, Kind, OVERFLOW_UID, Principal, Resource, WordFault};
