//! The egress ledger: an append-only, Merkle-proved record of every decision.

mod record;

pub use record::{Kind, Outcome, Record, TlsSeen, Via};
