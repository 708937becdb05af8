//! What the handle and the background threads share, and the work they do on it: sync, checkpoint,
//! seal.
//!
//! Locks are taken in this order, never the other way round: `keeping`, `checkpoints`, `syncing`, `writer`;
//! `progress` is taken last and alone.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::checkpoint::{Checkpoint, CheckpointLog};
use super::encode::LineBuffer;
use super::error::LedgerError;
use super::note::NoteSigner;
use super::record::Record;
use super::seal::{self, SegmentRecord};
use super::segment::{self, MARKS};
use super::writer::Writer;
use crate::domain::{Clock, Timestamp};

/// The state of a ledger that writes.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signer: NoteSigner,
    pub(crate) retention_days: u32,
    pub(crate) writer: Mutex<Writer>,
    /// One sync at a time: the kernel reports a failed one only once per open file.
    pub(crate) syncing: Mutex<()>,
    pub(crate) checkpoints: Mutex<CheckpointKeeper>,
    /// What the status shows of the two above; never held while a disk works.
    pub(crate) progress: Mutex<Progress>,
    /// One keeper at a time; when retention ran last.
    pub(crate) keeping: Mutex<Option<Timestamp>>,
    /// Sequence number of the last line, for those who watch.
    pub(crate) appended: watch::Sender<u64>,
    /// For those who wait for a sync.
    pub(crate) durable: watch::Sender<Durable>,
    pub(crate) sync_bell: Bell,
    pub(crate) keeper_bell: Bell,
    /// Holds the lock of the folder.
    pub(crate) folder_lock: Mutex<Option<File>>,
}

/// How far syncs came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Durable {
    /// Lines up to this one are on the disk.
    pub(crate) synced: u64,
    /// A sync that should have covered lines up to this one failed.
    pub(crate) failed: u64,
}

/// Syncs and checkpoints since the start.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) syncs: u64,
    pub(crate) sync_time: Duration,
    pub(crate) last_sync: Option<Timestamp>,
    pub(crate) signed_size: u64,
    pub(crate) signed_at: Timestamp,
    pub(crate) checkpoint_error: Option<String>,
}

/// Checkpoints, and how many marks of which segment are on the disk.
#[derive(Debug)]
pub(crate) struct CheckpointKeeper {
    pub(crate) log: CheckpointLog,
    pub(crate) marked: (u64, usize),
}

thread_local! {
    /// Each thread formats into its own buffer, outside the lock.
    static LINE: std::cell::RefCell<LineBuffer> = const { std::cell::RefCell::new(LineBuffer::new()) };
}

/// A lock that a panic does not poison: the state behind ours is whole after every statement that can
/// fail, and a ledger that refuses for ever would be worse.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Appends one line; its sequence number.
    pub(crate) fn append(&self, record: &Record<'_>) -> Result<u64, LedgerError> {
        let seq = LINE.with_borrow_mut(|line| {
            line.encode(record);
            lock(&self.writer).append(line)
        })?;
        if self.appended.receiver_count() > 0 {
            self.tell_watchers(seq);
        }
        Ok(seq)
    }

    /// Threads may come here in another order than they appended: the number only rises.
    pub(crate) fn tell_watchers(&self, seq: u64) {
        self.appended.send_if_modified(|seen| {
            let risen = *seen < seq;
            *seen = (*seen).max(seq);
            risen
        });
    }

    /// Makes every line that is in the files now durable.
    ///
    /// # Errors
    /// When the disk fails, or what is on it is in doubt.
    pub(crate) fn sync(&self) -> Result<(), LedgerError> {
        let _one_at_a_time = lock(&self.syncing);
        let plan = {
            let mut writer = lock(&self.writer);
            writer.check_files();
            if writer.in_doubt() {
                return Err(self.tell_doubt(&writer));
            }
            writer.sync_plan()
        };
        let began = Instant::now();
        let folder = plan.folder.as_ref().map(|folder| folder.sync_all());
        let result = plan.files.iter().try_for_each(|file| file.sync_data()).and(folder.unwrap_or(Ok(())));
        if !plan.files.is_empty() {
            let mut progress = lock(&self.progress);
            progress.syncs += 1;
            progress.sync_time += began.elapsed();
            progress.last_sync = Some(self.clock.now());
        }
        let mut writer = lock(&self.writer);
        if let Err(error) = result {
            writer.sync_failed(&error);
            return Err(self.tell_doubt(&writer));
        }
        writer.synced(&plan);
        let synced = writer.synced_seq;
        drop(writer);
        self.durable.send_if_modified(|durable| {
            let risen = durable.synced < synced;
            durable.synced = durable.synced.max(synced);
            risen
        });
        Ok(())
    }

    /// Those who wait for a sync are told that it did not happen.
    fn tell_doubt(&self, writer: &Writer) -> LedgerError {
        let failed = writer.last_seq();
        self.durable.send_modify(|durable| durable.failed = failed);
        match writer.trouble() {
            Some(trouble) => LedgerError::Unavailable {
                cause: trouble.failure.cause,
                detail: trouble.failure.detail.clone(),
                since: trouble.since,
            },
            None => LedgerError::Closed,
        }
    }

    /// Signs the tree of the lines that are there now, all of them synced. The same size is not signed twice.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, LedgerError> {
        let mut keeper = lock(&self.checkpoints);
        let (tree, first, marks) = {
            let writer = lock(&self.writer);
            let (first, count) = (writer.active.first, writer.active.marks.len());
            if keeper.marked.0 != first {
                keeper.marked = (first, 0);
            }
            (writer.tree(), first, writer.active.marks[keeper.marked.1.min(count)..].to_vec())
        };
        if let Some(latest) = keeper.log.latest().filter(|latest| latest.size == tree.end()) {
            return Ok(latest.clone());
        }
        // A head is signed only for lines that a power cut cannot take back.
        self.sync()?;
        let checkpoint = Checkpoint::sign(&self.signer, tree.end(), tree.root());
        let added = keeper.log.add(checkpoint.clone());
        lock(&self.progress).checkpoint_error = added.as_ref().err().map(ToString::to_string);
        added?;
        {
            let mut progress = lock(&self.progress);
            (progress.signed_size, progress.signed_at) = (checkpoint.size, self.clock.now());
        }
        if self.save_marks(first, &marks).is_ok() {
            keeper.marked.1 += marks.len();
        }
        Ok(checkpoint)
    }

    /// Marks only help to name a line that changed: they are not synced, and a failure is no fault.
    fn save_marks(&self, first: u64, marks: &[u32]) -> std::io::Result<()> {
        let path = segment::path(&self.dir, first, MARKS);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(&seal::marks_to_bytes(marks))
    }

    /// Seals every full segment; how many.
    pub(crate) fn seal_full(&self) -> Result<usize, LedgerError> {
        let mut sealed = 0;
        loop {
            let next = {
                let writer = lock(&self.writer);
                writer.full.front().map(|segment| (record_of(segment), segment.marks.clone()))
            };
            let Some((record, marks)) = next else { return Ok(sealed) };
            let (Some(record), false) = (record, marks.is_empty()) else { return Ok(sealed) };
            // The head that covers the segment is signed before the seal that a start relies on.
            self.checkpoint()?;
            seal::seal(&self.dir, &record, &marks, &self.signer)?;
            // From here on nobody looks at the plain file: it may go without being missed.
            lock(&self.writer).full.pop_front();
            seal::remove_plain(&self.dir, record.first)?;
            sealed += 1;
        }
    }
}

fn record_of(segment: &super::active::ActiveSegment) -> Option<SegmentRecord> {
    Some(SegmentRecord {
        first: segment.first,
        last: segment.range.end(),
        bytes: segment.len,
        first_time: segment.first_time?,
        last_time: segment.last_time?,
        nodes: segment.range.hashes(),
        removed_at: None,
    })
}

/// Wakes a thread, or tells it to stop.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct BellState {
    rung: bool,
    stopped: bool,
}

impl Bell {
    pub(crate) fn ring(&self) {
        lock(&self.state).rung = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// Waits for the bell, at most `limit`; `false` when the thread is to end.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let state = lock(&self.state);
        let quiet = |state: &mut BellState| !state.rung && !state.stopped;
        let (mut state, _) =
            self.changed.wait_timeout_while(state, limit, quiet).unwrap_or_else(PoisonError::into_inner);
        state.rung = false;
        !state.stopped
    }
}
