//! Incidents: everything that is known of a persona since a moment, in one archive that proves itself.
//!
//! ```text
//! incident.json   what was asked for, what is missing and why
//! timeline.jsonl  requests, deeds of administrators, events and deaths, in the order of their time
//! egress/         proofs.jsonl: ledger lines, each with its inclusion proof; ledger.pub
//! audit/          the same of the audit log
//! …               events, runtimes, manifests and persona files as the daemon has them
//! SHA256SUMS      of every file above; `sha256sum -c` reads it
//! ```
//!
//! [`verify`] needs nothing but the archive (and, to trust the keys in it, their fingerprints from elsewhere): every
//! file has its sum, every line its proof, and the timeline tells exactly what the lines tell. The archive is raw, since
//! a proof is one of exact bytes: whoever gets it reads real names.

mod archive;
mod timeline;

pub use archive::{Archive, ArchiveFault, Summary, verify};
pub use timeline::{Entry, Source, of_death, of_event, of_line, ordered};

/// Name of the file of proofs in the folder of a log.
pub const PROOFS: &str = "proofs.jsonl";
/// Name of the file with a log's public key.
pub const KEY: &str = "ledger.pub";
/// Name of the timeline.
pub const TIMELINE: &str = "timeline.jsonl";
/// The two logs.
pub const LOGS: [&str; 2] = ["egress", "audit"];
