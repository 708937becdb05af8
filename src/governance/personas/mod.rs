//! Personas beyond their traffic: reviewed with people, changed by proposals, heard by their feedback.
//!
//! ```text
//! review + notice ── digest of what is in force ──> armed ── the file changes by other hands ──> stale
//!
//!  propose            approve                     file             reload
//! ─────────> submitted ──────> applying ─ written beside, synced, renamed ─> in force ──> approved
//!    checked     │     checked    │ (the file itself waits in the state)
//!                └ reject         └ a restart goes on from here, or says why it cannot: failed
//!
//! feedback ── armed? opted in to this notice? not too fast? ──> state, event
//! ```
//!
//! | file | what |
//! |---|---|
//! | `document`, `patch` | a persona file as JSON and back; RFC 6902 with bounds (pure) |
//! | `candidate` | what a patch makes of a file, and what it would open |
//! | `place` | one file for another, whole or not at all |
//! | `review` | whether a persona is armed (pure) |
//! | `view` | what operators see |
//! | `keeper`, `change` | the task that does all of it, one after the other |
//! | `handle` | what others ask it, and what they see |
//!
//! `personas.enable` (`ARW_PERSONA_ENABLE`) arms only what was reviewed: a review names the digest of the persona in force
//! and of the notice that people got. An approved proposal carries the review of its base over to the file that it makes
//! (docs/adr/0030-what-arms-a-persona.md). Without arming, neither proposals nor feedback are taken; egress goes on.
//!
//! Refuses: a patch for a file that has changed since, one that a reload would refuse, one that opens something without
//! being told so, feedback that nobody opted in to, and a second decision.

mod candidate;
mod change;
mod document;
mod fault;
mod handle;
mod keeper;
mod patch;
mod place;
mod review;
mod view;

pub use document::DocumentFault;
pub use fault::PersonaFault;
pub use handle::Personas;
pub use keeper::{Keeper, Premises, Reload, start};
pub use patch::{MAX_STEPS, PatchFault};
pub use review::Standing;
pub use view::{
    Applied, FeedbackView, FileView, HistoryKind, HistoryLine, HistoryNote, OptInView, PersonaState, Proposal,
    ProposalState, ReviewView,
};
