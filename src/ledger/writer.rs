//! The append path: everything that happens under the ledger's one lock.
//!
//! ```text
//!             write fails, disk below reserve,
//!             sync fails, file changed
//!  available ───────────────────────────────────▶ unavailable
//!      ▲                                              │ every append tries again:
//!      │      mended, a `note` says how long          │ cut the torn line, look at the space,
//!      └──────────────────────────────────────────────┘ after a failed sync write the segment anew
//! ```
//!
//! A line is written with one `write(2)` and enters the tree only after that. Nothing here waits for
//! a disk, except the mending after a failed sync.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::statvfs::fstatvfs;

use super::active::ActiveSegment;
use super::encode::LineBuffer;
use super::error::{Cause, LedgerError};
use super::merkle::{CompactRange, leaf_hash_prefixed};
use super::record::{Kind, Record};
use crate::domain::{Clock, Timestamp};

/// Bytes appended between two looks at the free space. 1 MiB: far below the smallest sensible reserve,
/// and at 100 MB/s one `fstatvfs` in ten milliseconds.
const SPACE_CHECK_BYTES: u64 = 1 << 20;

/// Time between two tries to write a segment anew, which copies up to a whole segment.
const MEND_PAUSE: Duration = Duration::from_secs(1);

/// Fixed properties of a writer.
#[derive(Debug)]
pub(crate) struct WriterSettings {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) reserve_bytes: u64,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct Writer {
    settings: WriterSettings,
    /// The folder itself: free space is asked and names are synced through it.
    pub(crate) folder: Arc<File>,
    clock: Arc<dyn Clock>,
    /// The tree up to where the active segment begins.
    base: CompactRange,
    pub(crate) active: ActiveSegment,
    /// Full segments, oldest first, until they are sealed.
    pub(crate) full: VecDeque<ActiveSegment>,
    /// The time of the last line.
    last_time: Timestamp,
    /// What the clock showed last; earlier than `last_time` after a step back.
    last_seen: Timestamp,
    trouble: Option<Trouble>,
    unchecked_bytes: u64,
    note: LineBuffer,
    closed: bool,
    pub(crate) totals: Totals,
    /// Lines that a sync made durable; those above may be lost with the power.
    pub(crate) synced_seq: u64,
    /// A segment file was made, and its name is not yet durable.
    pub(crate) folder_unsynced: bool,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) appended: u64,
    pub(crate) refused: u64,
}

/// What one sync covers.
#[derive(Debug)]
pub(crate) struct SyncPlan {
    pub(crate) files: Vec<Arc<File>>,
    pub(crate) folder: Option<Arc<File>>,
    /// The last line that the sync makes durable.
    pub(crate) upto: u64,
}

/// Why nothing can be appended.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) detail: String,
}

/// The time of being unavailable.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    pub(crate) since: Timestamp,
    /// Appends refused since then.
    pub(crate) refused: u64,
    /// The lines on the disk are in doubt: the segments must be written anew, not before this moment.
    rewrite_after: Option<Instant>,
}

impl Failure {
    fn of_write(error: &std::io::Error) -> Self {
        Self { cause: Cause::of_write(error), detail: error.to_string() }
    }
}

impl Writer {
    /// A writer behind the lines of `base`, `full` and `active`, all of which are on the disk.
    pub(crate) fn new(
        settings: WriterSettings,
        folder: Arc<File>,
        clock: Arc<dyn Clock>,
        base: CompactRange,
        full: VecDeque<ActiveSegment>,
        active: ActiveSegment,
    ) -> Self {
        let last_time = std::iter::once(&active)
            .chain(full.iter().rev())
            .find_map(|segment| segment.last_time)
            .unwrap_or(Timestamp::from_unix_micros(0));
        Self {
            synced_seq: active.range.end(),
            settings,
            folder,
            clock,
            base,
            active,
            full,
            last_time,
            last_seen: last_time,
            trouble: None,
            // The first append looks at the space.
            unchecked_bytes: SPACE_CHECK_BYTES,
            note: LineBuffer::new(),
            closed: false,
            totals: Totals::default(),
            folder_unsynced: true,
        }
    }

    /// For lines older than any that was read: time does not go back behind them either.
    pub(crate) fn not_before(&mut self, time: Timestamp) {
        self.last_time = self.last_time.max(time);
        self.last_seen = self.last_time;
    }

    /// Appends the encoded line. On `Ok` it is in the file, whole.
    pub(crate) fn append(&mut self, line: &mut LineBuffer) -> Result<u64, LedgerError> {
        if self.closed {
            return Err(LedgerError::Closed);
        }
        match self.try_append(line) {
            Ok(seq) => Ok(seq),
            Err(failure) => Err(self.refuse(failure)),
        }
    }

    fn try_append(&mut self, line: &mut LineBuffer) -> Result<u64, Failure> {
        if self.trouble.is_some() {
            self.resume()?;
        }
        if self.active.len >= self.settings.segment_bytes {
            self.rotate()?;
        }
        if self.unchecked_bytes >= SPACE_CHECK_BYTES {
            self.check_space()?;
        }
        let time = self.advance_time()?;
        self.put(line, time)
    }

    /// The line gets its number and time, goes into the file, and then into the tree.
    fn put(&mut self, line: &mut LineBuffer, time: Timestamp) -> Result<u64, Failure> {
        let seq = self.last_seq() + 1;
        let finished = line.finish(seq, time);
        self.active.write(finished.line).map_err(|error| Failure::of_write(&error))?;
        self.active.count(leaf_hash_prefixed(finished.leaf), time);
        self.unchecked_bytes += finished.line.len() as u64;
        self.last_time = time;
        self.totals.appended += 1;
        Ok(seq)
    }

    /// The time of the next line. When the clock went back, time stands still and a note says so.
    fn advance_time(&mut self) -> Result<Timestamp, Failure> {
        let now = self.clock.now();
        let before = std::mem::replace(&mut self.last_seen, now);
        if now < before {
            let step = before.since(now).as_micros();
            let written = self.put_note(&format!(
                "the clock went back by {step} microseconds; time stands still until it catches up"
            ));
            if let Err(failure) = written {
                // Not yet said: the next append sees the step again.
                self.last_seen = before;
                return Err(failure);
            }
        }
        Ok(self.last_time.max(now))
    }

    fn put_note(&mut self, detail: &str) -> Result<u64, Failure> {
        let mut line = std::mem::take(&mut self.note);
        line.encode(&Record { detail: Some(detail), ..Record::new(Kind::Note) });
        let time = self.last_time.max(self.last_seen);
        let result = self.put(&mut line, time);
        self.note = line;
        result
    }

    /// The full segment steps aside for whoever seals it, and a new file begins.
    fn rotate(&mut self) -> Result<(), Failure> {
        let next = ActiveSegment::create(&self.settings.dir, self.last_seq() + 1).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                return Failure {
                    cause: Cause::FileChanged,
                    detail: format!("the next segment's file is already there: {error}"),
                };
            }
            Failure::of_write(&error)
        })?;
        let full = std::mem::replace(&mut self.active, next);
        self.base.append(&full.range);
        self.full.push_back(full);
        self.folder_unsynced = true;
        Ok(())
    }

    fn check_space(&mut self) -> Result<(), Failure> {
        let space = fstatvfs(&*self.folder)
            .map_err(|errno| Failure::of_write(&std::io::Error::from_raw_os_error(errno as i32)))?;
        // The widths of these two differ between platforms.
        #[allow(clippy::useless_conversion)]
        let free = u64::from(space.blocks_available()).saturating_mul(u64::from(space.fragment_size()));
        if free < self.settings.reserve_bytes {
            let detail = format!("{free} bytes are free, {} are reserved", self.settings.reserve_bytes);
            return Err(Failure { cause: Cause::BelowReserve, detail });
        }
        self.unchecked_bytes = 0;
        Ok(())
    }

    /// Tries to become available again. The trouble is over only when the note about it is written.
    fn resume(&mut self) -> Result<(), Failure> {
        let Some(trouble) = &self.trouble else { return Ok(()) };
        if let Some(after) = trouble.rewrite_after {
            if Instant::now() < after {
                return Err(trouble.failure.clone());
            }
            self.rewrite()?;
        }
        self.active.mend().map_err(|error| Failure::of_write(&error))?;
        self.check_space()?;
        let Some(trouble) = &self.trouble else { return Ok(()) };
        let told = format!(
            "appends resume; {} were refused since {}: {}: {}",
            trouble.refused, trouble.since, trouble.failure.cause, trouble.failure.detail
        );
        self.put_note(&told)?;
        tracing::info!(detail = told, "the ledger writes again");
        self.trouble = None;
        Ok(())
    }

    /// After a failed sync, or when somebody touched our files.
    fn rewrite(&mut self) -> Result<(), Failure> {
        let rewritten = self.full.iter_mut().chain([&mut self.active]).try_for_each(ActiveSegment::rewrite);
        if let Err(error) = rewritten {
            let failure = Failure { cause: Cause::SyncFailed, detail: error.to_string() };
            self.doubt(failure.clone());
            return Err(failure);
        }
        self.synced_seq = self.last_seq();
        if let Some(trouble) = &mut self.trouble {
            trouble.rewrite_after = None;
        }
        Ok(())
    }

    /// Remembers that nothing can be appended, and since when; counts what is turned away.
    fn refuse(&mut self, failure: Failure) -> LedgerError {
        let trouble = self.enter_trouble(failure);
        trouble.refused += 1;
        let error = LedgerError::Unavailable {
            cause: trouble.failure.cause,
            detail: trouble.failure.detail.clone(),
            since: trouble.since,
        };
        self.totals.refused += 1;
        error
    }

    /// What is on the disk is in doubt: nothing is appended before the segments were written anew.
    pub(crate) fn doubt(&mut self, failure: Failure) {
        self.enter_trouble(failure).rewrite_after = Some(Instant::now() + MEND_PAUSE);
    }

    fn enter_trouble(&mut self, failure: Failure) -> &mut Trouble {
        let since = self.last_time.max(self.clock.now());
        let trouble = self.trouble.get_or_insert_with(|| {
            tracing::error!(cause = failure.cause.code(), detail = failure.detail, "the ledger cannot write");
            Trouble { failure: failure.clone(), since, refused: 0, rewrite_after: None }
        });
        trouble.failure = failure;
        trouble
    }

    /// Whether our files are as we left them; otherwise nothing more is appended to them.
    pub(crate) fn check_files(&mut self) {
        if self.trouble.is_some() {
            return;
        }
        let changed = self.full.iter().chain([&self.active]).find_map(|segment| segment.check().err());
        if let Some(detail) = changed {
            self.doubt(Failure { cause: Cause::FileChanged, detail });
        }
    }

    /// What a sync has to do now to make every line durable. Takes note that the folder is being synced.
    pub(crate) fn sync_plan(&mut self) -> SyncPlan {
        let behind = self.synced_seq;
        let files = self.full.iter().chain([&self.active]).filter(|segment| segment.range.end() > behind);
        SyncPlan {
            files: files.map(|segment| Arc::clone(&segment.file)).collect(),
            folder: std::mem::take(&mut self.folder_unsynced).then(|| Arc::clone(&self.folder)),
            upto: self.last_seq(),
        }
    }

    /// The plan was carried out.
    pub(crate) fn synced(&mut self, plan: &SyncPlan) {
        self.synced_seq = self.synced_seq.max(plan.upto);
    }

    /// The plan failed: the kernel may have forgotten what it could not write.
    pub(crate) fn sync_failed(&mut self, error: &std::io::Error) {
        self.folder_unsynced = true;
        self.doubt(Failure { cause: Cause::SyncFailed, detail: error.to_string() });
    }

    /// Whether what is on the disk may not be what was written.
    pub(crate) fn in_doubt(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.rewrite_after.is_some())
    }

    /// No append after this.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Sequence number of the last line; 0 without lines.
    pub(crate) const fn last_seq(&self) -> u64 {
        self.active.range.end()
    }

    /// The whole tree.
    pub(crate) fn tree(&self) -> CompactRange {
        let mut tree = self.base.clone();
        tree.append(&self.active.range);
        tree
    }

    pub(crate) const fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }
}
