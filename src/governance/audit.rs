//! What administrators did: who, what, why, before and after.
//!
//! ```text
//! change + entry ── one transaction ──> store ── drain ──> audit log (<state>/audit: a ledger of its own)
//!                   acknowledged here            in order, each entry once
//! ```
//!
//! An entry is committed together with what it tells, so neither is there without the other after a crash. The log is
//! the same segment log as the egress ledger's, with its signatures and proofs; `arw-cli ledger` reads and verifies it.
//! Entries that could not be appended yet (a full disk) wait in the store, over restarts too.

use std::collections::{HashSet, VecDeque};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::{Durability, LedgerConfig};
use crate::domain::{ClientAddr, Clock, LeaseId, PersonaId, Run, RuntimeId, Timestamp, codes};
use crate::ledger::{AuditRecord, Filter, Kind, Ledger, LedgerError, Line, MAX_TEXT, Record, Recovery};
use crate::store::{Entry, Store, StoreFault};

/// Name of the log's folder in the state folder.
pub const FOLDER: &str = "audit";
/// Size at which a segment is sealed: some ten thousand entries.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Entries that are moved at once.
const BATCH: u32 = 64;
/// Lines in which entries are looked for that a crash may have left in the store although they are in the log: it leaves
/// one batch at the most.
const OVERLAP: usize = 4 * BATCH as usize;
/// Pause after the log could not be written.
const RETRY: Duration = Duration::from_secs(5);
/// Entries that wait in memory for a state that cannot be written: more than a person asks for before they see why.
const MAX_OWED: usize = 64;
/// Longest wait for the state by what must not wait for it.
const SOON: Duration = Duration::from_secs(2);
/// Longest wait for the log when the daemon ends; what is left is moved at the next start.
const LAST_DRAIN: Duration = Duration::from_secs(2);

codes! {
    /// What was done.
    AuditAction {
        /// A lease was given.
        LeaseCreated => "lease_created",
        /// A lease got another end.
        LeaseRenewed => "lease_renewed",
        /// A lease was taken back.
        LeaseRevoked => "lease_revoked",
        /// A lease ran out of time.
        LeaseExpired => "lease_expired",
        /// The kill switch was used.
        AutomationShutdown => "automation_shutdown",
        /// The kill switch was released.
        AutomationRearmed => "automation_rearmed",
        /// An automation was disabled.
        AutomationDisabled => "automation_disabled",
        /// An automation was enabled.
        AutomationEnabled => "automation_enabled",
        /// An administrator reported what an automation used.
        UsageReported => "usage_reported",
        /// The persona files and the manifest were read again.
        PolicyReloaded => "policy_reloaded",
        /// A person says that something was done which no program can see.
        Attested => "attested",
        /// Something was asked of a runtime.
        RuntimeRequested => "runtime_requested",
        /// An alert was acknowledged.
        AlertAcknowledged => "alert_acknowledged",
        /// A route of alerts was tried.
        AlertRouteTested => "alert_route_tested",
        /// A persona was reviewed with people.
        PersonaReviewRecorded => "persona_review_recorded",
        /// A change of a persona was proposed.
        PersonaProposalSubmitted => "persona_proposal_submitted",
        /// A proposal was approved.
        PersonaProposalApproved => "persona_proposal_approved",
        /// An approved proposal became the persona's file.
        PersonaProposalApplied => "persona_proposal_applied",
        /// A proposal was rejected.
        PersonaProposalRejected => "persona_proposal_rejected",
        /// An approved proposal could not be put in place.
        PersonaProposalFailed => "persona_proposal_failed",
        /// People agreed that a persona sends feedback.
        PersonaFeedbackOptIn => "persona_feedback_opt_in",
        /// They took it back.
        PersonaFeedbackOptOut => "persona_feedback_opt_out",
        /// A note was added to a persona's history.
        PersonaHistoryAnnotated => "persona_history_annotated",
        /// A recipe was put to work.
        RecipePutToWork => "recipe_put_to_work",
        /// A recipe was taken from its work.
        RecipeTakenFromWork => "recipe_taken_from_work",
        /// A command was to be executed inside a runtime.
        RuntimeExec => "runtime_exec",
    }
}

/// Who did it, as the kernel or the token proved; never what a client says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(Arc<str>);

impl Actor {
    /// An administrator of the control API.
    pub fn of(peer: ClientAddr) -> Self {
        Self(match peer {
            ClientAddr::Tcp(addr) => format!("token:{addr}").into(),
            ClientAddr::Unix { .. } => peer.to_string().into(),
        })
    }

    /// Whoever may signal the daemon.
    pub fn signal(name: &str) -> Self {
        Self(format!("signal:{name}").into())
    }

    /// What runs in a runtime, as the kernel says.
    pub fn runtime(run: &Run) -> Self {
        Self(format!("runtime:{run}").into())
    }

    /// Whoever may write the files that the daemon watches.
    pub fn files() -> Self {
        Self("files".into())
    }

    /// Whoever may write the state folder, without a daemon.
    pub fn offline(uid: u32) -> Self {
        Self(format!("cli:uid={uid}").into())
    }

    /// The daemon itself.
    pub fn daemon() -> Self {
        Self("daemon".into())
    }

    /// As records have it.
    pub(super) fn recorded(text: &str) -> Self {
        Self(text.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing that was done.
#[derive(Debug, Clone)]
pub struct Deed {
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: AuditAction,
    /// To which persona.
    pub persona: Option<PersonaId>,
    /// To which runtime.
    pub runtime: Option<RuntimeId>,
    /// To which lease.
    pub lease: Option<LeaseId>,
    /// Why.
    pub why: Option<String>,
    /// As it was.
    pub before: Option<Value>,
    /// As it is since.
    pub after: Option<Value>,
}

impl Deed {
    /// A deed of which only this is known.
    pub const fn new(actor: Actor, action: AuditAction) -> Self {
        Self { actor, action, persona: None, runtime: None, lease: None, why: None, before: None, after: None }
    }
}

/// An entry as it waits in the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    at: Timestamp,
    actor: String,
    action: String,
    persona: Option<PersonaId>,
    runtime: Option<RuntimeId>,
    lease: Option<LeaseId>,
    why: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
}

/// An entry of this id about `deed`, done at `at`.
pub(super) fn entry(id: String, deed: Deed, at: Timestamp) -> Entry {
    let Deed { actor, action, persona, runtime, lease, why, before, after } = deed;
    let (actor, action) = (actor.as_str().to_owned(), action.code().to_owned());
    let body = Body { at, actor, action, persona, runtime, lease, why, before, after };
    Entry { id, body: serde_json::to_string(&body).expect("texts, numbers and maps with text keys have a JSON form") }
}

/// An id that nobody else makes: 128 random bits.
pub(super) fn fresh_id() -> String {
    let mut random = [0_u8; 16];
    // Without randomness nothing here could be named; the system has it since its boot.
    getrandom::fill(&mut random).expect("the system has randomness");
    format!("{:032x}", u128::from_be_bytes(random))
}

/// The audit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    log: Ledger,
    clock: Arc<dyn Clock>,
    bell: Notify,
    /// Entries about what was done although they could not be kept yet.
    owed: Mutex<VecDeque<Entry>>,
}

impl Audit {
    /// Opens the log in `state_dir`, with the settings of the egress ledger where they are its too. Blocks.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open(
        state_dir: &Path,
        ledger: &LedgerConfig,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Recovery), LedgerError> {
        let config = LedgerConfig {
            // What is done must be recorded, also where traffic is not.
            enable: true,
            required: true,
            dir: state_dir.join(FOLDER),
            origin: format!("{}/audit", ledger.origin),
            durability: Durability::Strict,
            segment_bytes: SEGMENT_BYTES,
            ..ledger.clone()
        };
        let (log, recovery) = Ledger::open(&config, Arc::clone(&clock))?;
        Ok((Self(Arc::new(Inner { store, log, clock, bell: Notify::new(), owed: Mutex::default() })), recovery))
    }

    /// An entry about `deed`, done now. Commit it with what it tells, then [`Audit::committed`].
    pub(super) fn entry(&self, deed: Deed) -> Entry {
        entry(fresh_id(), deed, self.0.clock.now())
    }

    /// Says that an entry was committed.
    pub(super) fn committed(&self) {
        self.0.bell.notify_one();
    }

    /// Records a deed that changes nothing in the store. It is on the disk when this returns.
    ///
    /// # Errors
    /// It could not be recorded.
    pub async fn record(&self, deed: Deed) -> Result<(), StoreFault> {
        self.commit(self.entry(deed)).await
    }

    /// Records a deed that is done whether or not it can be recorded now: what narrows must not wait for a disk. An entry
    /// that cannot be kept is tried again for as long as the daemon lives.
    pub async fn record_in_any_case(&self, deed: Deed) {
        let entry = self.entry(deed);
        match tokio::time::timeout(SOON, self.commit(entry.clone())).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                tracing::error!(%fault, "an audit entry cannot be kept now; it is tried again");
                self.owe(entry);
            }
            Err(_) => {
                tracing::error!("the state is slow, so an audit entry is kept later");
                self.owe(entry);
            }
        }
    }

    fn owe(&self, entry: Entry) {
        let mut owed = self.0.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.len() == MAX_OWED
            && let Some(lost) = owed.pop_front()
        {
            // Then the daemon's own log is the record.
            tracing::error!(entry = %lost.id, body = %lost.body, "too many audit entries wait for the state: one is lost");
        }
        owed.push_back(entry);
        drop(owed);
        self.committed();
    }

    /// Keeps what could not be kept before. An entry that came through although nobody heard of it is twice there then,
    /// under one id.
    async fn settle(&self) -> Result<(), ()> {
        loop {
            let first = self.0.owed.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
            let Some(entry) = first else { return Ok(()) };
            let id = entry.id.clone();
            self.0.store.outbox().add(entry).await.map_err(|fault| {
                tracing::error!(%fault, "audit entries cannot be kept yet");
            })?;
            let mut owed = self.0.owed.lock().unwrap_or_else(PoisonError::into_inner);
            if owed.front().is_some_and(|entry| entry.id == id) {
                owed.pop_front();
            }
        }
    }

    pub(super) async fn commit(&self, entry: Entry) -> Result<(), StoreFault> {
        self.0.store.outbox().add(entry).await?;
        self.committed();
        Ok(())
    }

    /// The log itself.
    pub fn log(&self) -> &Ledger {
        &self.0.log
    }

    /// The latest `limit` entries in the log, oldest first; with `after`, the oldest behind that line. Blocks.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn lines(&self, after: Option<u64>, limit: usize) -> Result<Vec<Line>, LedgerError> {
        let from_seq = after.map(|after| after.saturating_add(1));
        let filter = Filter { kind: Some(Kind::Audit), from_seq, ..Filter::default() };
        let reader = self.0.log.reader()?;
        match after {
            Some(_) => reader.query(&filter, limit),
            None => reader.latest(&filter, limit),
        }
    }

    /// Moves entries from the store into the log until `stop`, and then once more.
    pub async fn run(self, stop: CancellationToken) {
        let mut known = self.known().await;
        loop {
            let moved = self.drain(&mut known).await;
            let rest = async {
                match &moved {
                    Ok(()) => self.0.bell.notified().await,
                    Err(()) => tokio::time::sleep(RETRY).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = rest => {}
            }
        }
        if tokio::time::timeout(LAST_DRAIN, self.drain(&mut known)).await.is_err() {
            tracing::warn!("audit entries wait for the next start: the log is slow");
        }
        let log = self.0.log.clone();
        let ended = tokio::task::spawn_blocking(move || log.shutdown()).await;
        if let Ok(Err(fault)) = ended {
            tracing::error!(%fault, "the audit log could not be ended cleanly");
        }
    }

    /// Entries that are in the log already although the store may still have them.
    async fn known(&self) -> HashSet<String> {
        let audit = self.clone();
        let lines = tokio::task::spawn_blocking(move || audit.lines(None, OVERLAP)).await;
        match lines {
            Ok(Ok(lines)) => lines.into_iter().filter_map(|line| line.audit).map(|audit| audit.entry).collect(),
            // An entry twice is better than one lost; whoever reads them sees that the ids are equal.
            Ok(Err(_)) | Err(_) => HashSet::new(),
        }
    }

    /// Moves everything that waits. The store and the log are each in order, so the log has every entry before a place
    /// that was removed.
    async fn drain(&self, known: &mut HashSet<String>) -> Result<(), ()> {
        self.settle().await?;
        loop {
            let batch = self.0.store.outbox().oldest(BATCH).await.map_err(|fault| {
                tracing::error!(%fault, "audit entries cannot be read from the state");
            })?;
            let Some((last, _)) = batch.last() else {
                // Nothing is left of what a crash may have doubled.
                known.clear();
                return Ok(());
            };
            let last = *last;
            for (_, entry) in batch {
                if !known.remove(&entry.id) {
                    self.append(&entry).await?;
                }
            }
            self.0.store.outbox().remove_through(last).await.map_err(|fault| {
                tracing::error!(%fault, "audit entries cannot be taken out of the state");
            })?;
        }
    }

    async fn append(&self, entry: &Entry) -> Result<(), ()> {
        let appended = match serde_json::from_str::<Body>(&entry.body) {
            Ok(body) => {
                let audit = AuditRecord {
                    entry: entry.id.clone(),
                    at: body.at,
                    actor: body.actor,
                    action: body.action,
                    before: body.before.as_ref().map(told),
                    after: body.after.as_ref().map(told),
                };
                let record = Record {
                    persona: body.persona.as_ref(),
                    runtime: body.runtime.as_ref().map(RuntimeId::as_str),
                    lease: body.lease.as_ref().map(LeaseId::as_str),
                    detail: body.why.as_deref(),
                    audit: Some(&audit),
                    ..Record::new(Kind::Audit)
                };
                self.0.log.record(&record).await
            }
            // A version that this one does not know wrote it: it is kept as it is.
            Err(_) => {
                let told = format!("entry {}: {}", entry.id, entry.body);
                self.0.log.record(&Record { detail: Some(&told), ..Record::new(Kind::Note) }).await
            }
        };
        appended.map(drop).map_err(|fault| {
            tracing::error!(%fault, "the audit log cannot be written; its entries wait in the state");
        })
    }
}

/// `value` as the log takes it: one text of JSON. One that is too long for a line is told by its beginning, its size and its
/// SHA-256, so that whoever has the whole (the file, the proposal) can tell that it is the one.
fn told(value: &Value) -> String {
    let whole = value.to_string();
    if whole.len() <= MAX_TEXT {
        return whole;
    }
    let sha256 = Sha256::digest(whole.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let cut = |most: usize| {
        let beginning = &whole[..whole.floor_char_boundary(most)];
        json!({ "cut": beginning, "bytes": whole.len(), "sha256": sha256 }).to_string()
    };
    let mut most = MAX_TEXT;
    loop {
        let told = cut(most);
        if told.len() <= MAX_TEXT {
            return told;
        }
        // A byte of it takes one or two: quotes are escaped once more.
        most -= (told.len() - MAX_TEXT).div_ceil(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_for_a_line_is_told_by_its_beginning_its_size_and_its_hash() {
        for text in ["x", "\"", "\\", "\u{1}", "é", "\u{ff}\"", "🦀"] {
            let value = json!({ "patch": [text.repeat(MAX_TEXT)], "z": 1 });
            let told = told(&value);
            assert!(told.len() <= MAX_TEXT && told.len() > MAX_TEXT - 16, "{}: {told}", told.len());
            let read: Value = serde_json::from_str(&told).expect("JSON");
            let whole = value.to_string();
            assert_eq!(read["bytes"], whole.len());
            let cut = read["cut"].as_str().expect("a text");
            assert!(whole.starts_with(cut) && cut.len() > 100, "{cut}");
            let hash: String = Sha256::digest(whole.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(read["sha256"], hash.as_str());
        }
        for value in [json!({ "patch": "x" }), json!("x".repeat(MAX_TEXT - 2)), Value::Null] {
            assert_eq!(told(&value), value.to_string());
        }
    }
}
