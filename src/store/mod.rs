//! What the daemon must still know after any kind of end: leases, audit entries on their way, the latch.
//!
//! ```text
//! handles ── bounded queue ──> one thread ──> state.db (SQLite, WAL, synchronous = FULL)
//!    └─────── acknowledged when the commit is on the disk ◀──────┘
//!
//! kill switch ──> latch (one page, allocated before it is needed: works on a full disk)
//! what narrows, while the database cannot be written ──> reserve (the same, for lists)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `open`, `schema` | the file, its mode, its lock, its migrations |
//! | `owner` | the thread that has the only connection |
//! | `leases`, `automations`, `alerts`, `personas`, `recipes`, `outbox` | one repository per concern |
//! | `latch` | the persisted kill switch, beside the database |
//! | `reserve` | what was taken back or disabled while the database could not be written |
//! | `page` | a file that is written in place, which both are |
//!
//! No SQL stands outside of this module. It refuses: a file that a newer version wrote, that another process has open,
//! that is damaged or is not ours; and to acknowledge what is not on the disk.

mod alerts;
mod automations;
mod fault;
mod latch;
mod leases;
mod open;
mod outbox;
mod owner;
mod page;
mod personas;
mod recipes;
mod reserve;
mod row;
mod schema;

#[cfg(test)]
mod tests;

pub use alerts::{AlertRow, Alerts};
pub use automations::{Automations, DisabledRow, ReportRow, RunRow, Taken, TotalsRow};
pub use fault::StoreFault;
pub use latch::{LatchFile, LatchRecord, LatchStamp, LatchState, MAX_REASON};
pub use leases::{LeaseRow, Leases};
pub use open::FILE;
pub use outbox::{Entry, Outbox};
pub use owner::Store;
pub use personas::{
    Annotated, FeedbackRow, HistoryRow, NoteRow, OptInRow, Personas, ProposalDecision, ProposalEnd, ProposalRow,
    ReviewRow,
};
pub use recipes::{RecipeRow, Recipes};
pub use reserve::{Narrowing, Reserve, Reserved, TakenBack};
