//! The ledger as the rest of the daemon holds it.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::checkpoint::Checkpoint;
use super::error::{Cause, LedgerError};
use super::merkle::{Hash, empty_root};
use super::query::{Reader, Sums};
use super::record::Record;
use super::recovery::{self, Recovery};
use super::segment;
use super::shared::{Shared, lock};
use crate::config::{Durability, LedgerConfig};
use crate::domain::{Clock, Timestamp};

/// Time between two signed heads while lines come in. 60 s: what an attacker who owns the host can
/// still change unseen is at most the last minute; 1440 signatures a day cost nothing.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// Time between two looks for full segments. 1 s: a segment waits at most that long uncompressed.
const KEEPER_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two looks for segments that are old enough to go: they age by days.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3_600);

/// Proof that the ledger has a line. Made only by the ledger; whoever dials takes it by value.
#[derive(Debug)]
#[must_use = "a receipt is the proof that lets a dial happen"]
pub struct Receipt {
    seq: u64,
}

impl Receipt {
    /// The line's sequence number: the decision id that clients see.
    pub const fn seq(&self) -> u64 {
        self.seq
    }
}

/// The ledger. Cheap to clone; every clone is the same ledger. When the last one is dropped it syncs,
/// signs and ends as [`Ledger::shutdown`] does.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    config: LedgerConfig,
    body: Body,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Body {
    /// `ledger.enable = false`: counts, and writes nothing.
    Off {
        seq: AtomicU64,
        appended: watch::Sender<u64>,
    },
    On(Arc<Shared>),
}

impl Ledger {
    /// Opens the ledger of `config.dir`, makes it if there is none, and repairs what a crash left.
    ///
    /// # Errors
    /// - [`LedgerError::InUse`] when another process has it,
    /// - [`LedgerError::Setting`] for settings that cannot be (retention below 90 days),
    /// - [`LedgerError::Damaged`], [`LedgerError::Note`] when what is there is not what was signed: nothing is
    ///   repaired then, and an operator must look (`docs/ledger-format.md` says how),
    /// - [`LedgerError::Io`], [`LedgerError::Key`] otherwise.
    pub fn open(config: &LedgerConfig, clock: Arc<dyn Clock>) -> Result<(Self, Recovery), LedgerError> {
        recovery::check_settings(config)?;
        if !config.enable {
            let body = Body::Off { seq: AtomicU64::new(0), appended: watch::Sender::new(0) };
            let owner = Owner { config: config.clone(), body, threads: Mutex::default() };
            return Ok((Self(Arc::new(owner)), Recovery::default()));
        }
        let (shared, recovery) = recovery::open(config, clock)?;
        let shared = Arc::new(shared);
        let threads = vec![
            spawn("ledger-sync", &shared, config.sync_interval, sync_thread)?,
            spawn("ledger-keeper", &shared, KEEPER_INTERVAL, keeper_thread)?,
        ];
        let owner = Owner { config: config.clone(), body: Body::On(shared), threads: Mutex::new(threads) };
        Ok((Self(Arc::new(owner)), recovery))
    }

    /// Appends one record. On `Ok` its line is in the file, whole: a killed process loses nothing.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] when it cannot be written: nothing may leave then. The next call
    /// tries again. [`LedgerError::Closed`] after a shutdown.
    pub fn append(&self, record: &Record<'_>) -> Result<Receipt, LedgerError> {
        match &self.0.body {
            Body::On(shared) => shared.append(record).map(|seq| Receipt { seq }),
            Body::Off { seq, appended } => {
                let seq = seq.fetch_add(1, Ordering::Relaxed) + 1;
                if appended.receiver_count() > 0 {
                    appended.send_if_modified(|seen| std::mem::replace(seen, seq.max(*seen)) < seq);
                }
                Ok(Receipt { seq })
            }
        }
    }

    /// Appends one record as the settings' durability wants it: with `strict` the future ends when a
    /// sync covers the line (one sync serves all that wait). The line is appended when this is called;
    /// only the wait is in the future, which borrows nothing of the record.
    ///
    /// # Errors
    /// As [`Ledger::append`]; with `strict` also when the sync fails. The line may be in the file then,
    /// but nothing may leave on it.
    pub fn record<'a>(
        &'a self,
        record: &Record<'_>,
    ) -> impl Future<Output = Result<Receipt, LedgerError>> + Send + use<'a> {
        let appended = self.append(record);
        async move {
            let receipt = appended?;
            if let (Body::On(shared), Durability::Strict) = (&self.0.body, self.0.config.durability) {
                wait_until_durable(shared, receipt.seq).await?;
            }
            Ok(receipt)
        }
    }

    /// The sequence number of the last line, and news of each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        match &self.0.body {
            Body::On(shared) => {
                let receiver = shared.appended.subscribe();
                shared.tell_watchers(lock(&shared.writer).last_seq());
                receiver
            }
            Body::Off { appended, .. } => appended.subscribe(),
        }
    }

    /// Syncs and signs the tree as it is now. A size that was signed is not signed again.
    ///
    /// # Errors
    /// When the ledger is off, or the disk fails.
    pub fn checkpoint(&self) -> Result<Checkpoint, LedgerError> {
        match &self.0.body {
            Body::On(shared) => shared.checkpoint(),
            Body::Off { .. } => Err(LedgerError::Closed),
        }
    }

    /// Does now what happens at intervals: seals full segments and lets old ones go.
    ///
    /// # Errors
    /// When the disk fails; it is tried again at the next interval.
    pub fn maintain(&self) -> Result<(), LedgerError> {
        match &self.0.body {
            Body::On(shared) => maintain(shared, Duration::ZERO),
            Body::Off { .. } => Ok(()),
        }
    }

    /// Ends the ledger: no more appends, everything synced and signed, the folder free for another
    /// process. Blocks for a sync; call it off the executor's threads. A second call does nothing.
    ///
    /// # Errors
    /// When the last sync or signature fails.
    pub fn shutdown(&self) -> Result<(), LedgerError> {
        self.0.shutdown()
    }

    /// The reading side of the same folder.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn reader(&self) -> Result<Reader, LedgerError> {
        Reader::open(&self.0.config.dir)
    }

    /// What each rule of each persona and each lease was used for, from line `since_seq` on: to restore budgets.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn sums(&self, since_seq: u64) -> Result<Sums, LedgerError> {
        match &self.0.body {
            Body::On(_) => self.reader()?.sums(since_seq),
            Body::Off { .. } => Ok(Sums::default()),
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        match &self.0.body {
            Body::On(shared) => shared,
            Body::Off { .. } => panic!("this ledger is off"),
        }
    }

    /// How it is.
    pub fn status(&self) -> LedgerStatus {
        let config = &self.0.config;
        let durability = match config.durability {
            Durability::Batch => "batch",
            Durability::Strict => "strict",
        };
        match &self.0.body {
            Body::Off { seq, .. } => {
                LedgerStatus::off(config.dir.clone(), &config.origin, durability, seq.load(Ordering::Relaxed))
            }
            Body::On(shared) => LedgerStatus::of(shared, durability),
        }
    }
}

impl Owner {
    fn shutdown(&self) -> Result<(), LedgerError> {
        let Body::On(shared) = &self.body else { return Ok(()) };
        let threads = std::mem::take(&mut *lock(&self.threads));
        if threads.is_empty() {
            return Ok(());
        }
        lock(&shared.writer).close();
        shared.sync_bell.stop();
        shared.keeper_bell.stop();
        for thread in threads {
            // A thread that panicked has said so already; what is left to do is done below.
            let _ = thread.join();
        }
        let signed = shared.checkpoint();
        if let Some(folder) = lock(&shared.folder_lock).take() {
            // Other descriptors of the same opening are still around, so closing this one is not enough.
            let _ = folder.unlock();
        }
        signed.map(|_| ())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            tracing::error!(error = %error, "the ledger could not be ended cleanly");
        }
    }
}

async fn wait_until_durable(shared: &Shared, seq: u64) -> Result<(), LedgerError> {
    let mut durable = shared.durable.subscribe();
    shared.sync_bell.ring();
    let reached = durable.wait_for(|state| state.synced >= seq || state.failed >= seq).await.map(|state| *state);
    match reached {
        Ok(state) if state.synced >= seq => Ok(()),
        Ok(_) => {
            let writer = lock(&shared.writer);
            let (cause, detail, since) = writer.trouble().map_or_else(
                || (Cause::SyncFailed, "the sync of this line failed".to_owned(), shared.clock.now()),
                |trouble| (trouble.failure.cause, trouble.failure.detail.clone(), trouble.since),
            );
            Err(LedgerError::Unavailable { cause, detail, since })
        }
        Err(_) => Err(LedgerError::Closed),
    }
}

fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    interval: Duration,
    work: fn(&Shared, Duration),
) -> Result<JoinHandle<()>, LedgerError> {
    let (shared, dir) = (Arc::clone(shared), shared.dir.clone());
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&shared, interval))
        .map_err(|source| LedgerError::io("start the threads for", &dir, source))
}

/// One `fdatasync` for all that was appended since the last.
fn sync_thread(shared: &Shared, interval: Duration) {
    while shared.sync_bell.wait(interval) {
        // A failure is in the writer's state, where the next append and the status see it.
        let _ = shared.sync();
    }
}

fn keeper_thread(shared: &Shared, interval: Duration) {
    let mut failing = false;
    while shared.keeper_bell.wait(interval) {
        let result = maintain(shared, RETENTION_INTERVAL).and_then(|()| {
            let due = lock(&shared.progress).signed_at.plus(CHECKPOINT_INTERVAL);
            if shared.clock.now() >= due { shared.checkpoint().map(|_| ()) } else { Ok(()) }
        });
        if let (Err(error), false) = (&result, failing) {
            tracing::warn!(error = %error, "the ledger could not seal or sign; it tries again");
        }
        failing = result.is_err();
    }
}

fn maintain(shared: &Shared, retention_interval: Duration) -> Result<(), LedgerError> {
    let mut retained = lock(&shared.keeping);
    shared.seal_full()?;
    let now = shared.clock.now();
    if retained.is_none_or(|last| now.since(last) >= retention_interval) {
        super::retention::remove_old(shared, now)?;
        *retained = Some(now);
    }
    Ok(())
}

/// The ledger's state, as the API and the dashboard show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LedgerStatus {
    /// Whether anything is written at all.
    pub enabled: bool,
    /// Whether the last append or sync worked.
    pub available: bool,
    /// Why not.
    pub cause: Option<Cause>,
    /// Why not, in the system's words.
    pub cause_detail: Option<String>,
    /// Since when not.
    pub since: Option<Timestamp>,
    /// The folder.
    pub dir: PathBuf,
    /// The log's name in checkpoints.
    pub origin: String,
    /// The public key that checks its checkpoints, in C2SP verifier form.
    pub public_key: Option<String>,
    /// `batch` or `strict`.
    pub durability: &'static str,
    /// Sequence number of the last line.
    pub last_seq: u64,
    /// Number of lines in the tree.
    pub tree_size: u64,
    /// Root of the tree.
    pub root: Hash,
    /// Number of lines that the latest checkpoint covers.
    pub signed_size: Option<u64>,
    /// When the latest checkpoint of this run was signed, or the run began.
    pub signed_at: Option<Timestamp>,
    /// Why the latest checkpoint could not be kept.
    pub checkpoint_error: Option<String>,
    /// Segments with lines, the active one included.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Lines appended since the start.
    pub lines_total: u64,
    /// Appends refused since the start.
    pub refused_total: u64,
    /// Lines that no sync covers yet.
    pub unsynced_lines: u64,
    /// Syncs since the start.
    pub syncs_total: u64,
    /// Seconds spent in them.
    pub sync_seconds_total: f64,
    /// When the last one ended.
    pub last_sync: Option<Timestamp>,
}

impl LedgerStatus {
    fn off(dir: PathBuf, origin: &str, durability: &'static str, last_seq: u64) -> Self {
        Self {
            enabled: false,
            available: true,
            cause: None,
            cause_detail: None,
            since: None,
            dir,
            origin: origin.to_owned(),
            public_key: None,
            durability,
            last_seq,
            tree_size: 0,
            root: empty_root(),
            signed_size: None,
            signed_at: None,
            checkpoint_error: None,
            segments: 0,
            bytes: 0,
            lines_total: 0,
            refused_total: 0,
            unsynced_lines: 0,
            syncs_total: 0,
            sync_seconds_total: 0.0,
            last_sync: None,
        }
    }

    fn of(shared: &Shared, durability: &'static str) -> Self {
        let (segments, bytes) = segment::usage(&shared.dir);
        let progress = lock(&shared.progress).clone();
        let writer = lock(&shared.writer);
        let trouble = writer.trouble();
        let tree = writer.tree();
        Self {
            enabled: true,
            available: trouble.is_none(),
            cause: trouble.map(|trouble| trouble.failure.cause),
            cause_detail: trouble.map(|trouble| trouble.failure.detail.clone()),
            since: trouble.map(|trouble| trouble.since),
            dir: shared.dir.clone(),
            origin: shared.signer.verifier().name().to_owned(),
            public_key: Some(shared.signer.verifier().to_string()),
            durability,
            last_seq: writer.last_seq(),
            tree_size: tree.end(),
            root: tree.root(),
            signed_size: Some(progress.signed_size),
            signed_at: Some(progress.signed_at),
            checkpoint_error: progress.checkpoint_error,
            segments,
            bytes,
            lines_total: writer.totals.appended,
            refused_total: writer.totals.refused,
            unsynced_lines: writer.last_seq().saturating_sub(writer.synced_seq),
            syncs_total: progress.syncs,
            sync_seconds_total: progress.sync_time.as_secs_f64(),
            last_sync: progress.last_sync,
        }
    }
}
