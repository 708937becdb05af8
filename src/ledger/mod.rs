//! The egress ledger: an append-only, Merkle-proved record of every decision.
//!
//! It owns one folder: lines of JSON in segments, a Merkle tree over the exact bytes of each line
//! (RFC 6962), tree heads signed as C2SP checkpoints, and the keys. `docs/ledger-format.md` states
//! the format; `tests/verify_proof.py` checks a proof without any of this code.
//!
//! ```text
//!  append ──▶ encode ──▶ [ lock: number, time, write(2), leaf hash ] ──▶ Receipt
//!                                     │
//!      sync thread: fdatasync ◀───────┤ every interval, or at once for those who wait (strict)
//!      keeper:      checkpoint ◀──────┤ every minute, at each seal, at the end
//!                   seal ◀────────────┤ full segment: signed record, zstd, plain file goes
//!                   retention ◀───────┘ sealed and older than 90 days or more: record stays, lines go
//! ```
//!
//! | file | what |
//! |---|---|
//! | `handle` | [`Ledger`], [`Receipt`], the two threads, the status |
//! | `encode`, `writer`, `active` | the append path |
//! | `shared`, `seal`, `checkpoint`, `note`, `merkle` | sync, seal, sign |
//! | `recovery` | opening after any kind of end |
//! | `query`, `verify`, `prove`, `export`, `pseudonym` | reading, also without the daemon |
//! | `retention` | letting go |
//!
//! It refuses: to append when a line cannot be written whole; to go on behind a past that is not the
//! one it signed; to remove anything younger than 90 days; to hand out a [`Receipt`] for anything
//! but a line that is in the file.

mod active;
mod checkpoint;
mod encode;
mod error;
mod export;
mod files;
mod handle;
mod line;
mod merkle;
mod note;
mod prove;
mod pseudonym;
mod query;
mod record;
mod recovery;
mod retention;
mod seal;
mod segment;
mod shared;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use checkpoint::Checkpoint;
pub(crate) use encode::MAX_TEXT;
pub use error::{Cause, LedgerError, Place};
pub use export::{Export, Format};
pub use handle::{Ledger, LedgerStatus, Receipt};
pub use line::{Line, LineFault};
pub use merkle::{Hash, empty_root, is_consistent, leaf_hash, node_hash, root_from_inclusion};
pub(crate) use note::NoteSigner;
pub use note::{NoteFault, VerifierKey};
pub use prove::{ConsistencyProof, Proof, ProofFault, prove, prove_consistency};
pub use pseudonym::PseudonymKey;
pub use query::{Filter, Follower, PersonaStats, RawLine, Reader, RuleSums, Stats, Sums, SumsByRule};
pub use record::{AuditRecord, Kind, Outcome, Record, TlsSeen, Via};
pub use recovery::{Recovery, TornTail};
pub use verify::{Fault, FaultKind, Progress, VerifyOptions, VerifyReport, verify, verify_with};
