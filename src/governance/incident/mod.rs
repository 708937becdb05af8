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
//! [`verify`] needs nothing but the archive (and, to trust the keys in it, the keys from elsewhere): every file has its
//! sum, every line its proof, and the timeline tells exactly what lines, events and death records tell. Events and deaths
//! are proved by nobody, and a proof does not tell which other lines the log has. The archive is raw, since a proof is one
//! of exact bytes: whoever gets it reads real names.

mod archive;
mod timeline;

pub use archive::{Archive, ArchiveFault, Summary, verify};
pub use timeline::{Entry, Source, of_death, of_event, of_line, ordered};

/// Name of the file of proofs in the folder of a log.
pub const PROOFS: &str = "proofs.jsonl";
/// Name of the file with a log's public key.
pub const KEY: &str = "ledger.pub";
/// What was asked for and what is missing.
pub const ABOUT: &str = "incident.json";
/// Name of the file of events.
pub const EVENTS: &str = "events.jsonl";
/// End of the name of a runtime's file of death records, behind its id.
pub const DEATHS: &str = ".deaths.json";
/// Name of the timeline.
pub const TIMELINE: &str = "timeline.jsonl";
/// The two logs.
pub const LOGS: [&str; 2] = ["egress", "audit"];
