//! What happens when a ledger is opened: it is locked, checked against what was signed, and what a
//! crash left half done is finished.
//!
//! Only what no checkpoint covers may be cut. Anything else that is not as it was signed is refused:
//! going on would sign a second past.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::active::{ActiveSegment, Misfit, SegmentLines};
use super::checkpoint::{self, Checkpoint, CheckpointLog};
use super::error::LedgerError;
use super::files;
use super::line::{Line, LineHead};
use super::merkle::{CompactRange, empty_root};
use super::note::{NoteSigner, VerifierKey};
use super::pseudonym::PseudonymKey;
use super::record::{Kind, Record};
use super::retention;
use super::seal::{self, SegmentRecord};
use super::segment::{self, Files, Form, LineReader, PLAIN, Step};
use super::shared::{Bell, CheckpointKeeper, Durable, Progress, Shared};
use super::writer::{Writer, WriterSettings};
use crate::config::LedgerConfig;
use crate::domain::{Clock, CloseReason, Timestamp};

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// There was no ledger before.
    pub created: bool,
    /// Sequence number of the last line that was found.
    pub last_seq: u64,
    /// The tail that was cut off.
    pub torn: Option<TornTail>,
    /// `open` lines that had no `close`; each got one that says `unclean`.
    pub unclean_closes: u64,
    /// Full segments that still had to be sealed.
    pub unsealed: u64,
}

/// Bytes at the end of the file that are no whole lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The sequence number that the first of them would have had.
    pub seq: u64,
    /// How many.
    pub bytes: u64,
    /// Where they were put.
    pub kept_in: PathBuf,
}

/// One sentence per thing that was done; empty when nothing was.
impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.created {
            parts.push("a new ledger was made".to_owned());
        }
        if let Some(torn) = &self.torn {
            let name = torn.kept_in.file_name().unwrap_or_default().to_string_lossy().into_owned();
            parts.push(format!("{} bytes of a torn line {} were cut off and kept in {name}", torn.bytes, torn.seq));
        }
        if self.unclean_closes > 0 {
            parts.push(format!("{} open connections of an unclean end were closed", self.unclean_closes));
        }
        if self.unsealed > 0 {
            parts.push(format!("{} full segments are to be sealed", self.unsealed));
        }
        f.write_str(&parts.join("; "))
    }
}

/// Lowest retention that is accepted, in days.
pub(crate) const MIN_RETENTION_DAYS: u32 = 90;

/// Refuses settings that cannot be.
pub(crate) fn check_settings(config: &LedgerConfig) -> Result<(), LedgerError> {
    let fault = |key, message: String| Err(LedgerError::Setting { key, message });
    if config.retention_days < MIN_RETENTION_DAYS {
        let days = config.retention_days;
        return fault("retention_days", format!("`{days}` is below the {MIN_RETENTION_DAYS} days that must be kept"));
    }
    if config.segment_bytes == 0 {
        return fault("segment_bytes", "`0` leaves no room for a line".to_owned());
    }
    if config.sync_interval.is_zero() {
        return fault("sync_interval", "`0` would sync without pause; use `durability = \"strict\"`".to_owned());
    }
    Ok(())
}

/// Opens or makes the ledger of `config.dir`.
pub(crate) fn open(config: &LedgerConfig, clock: Arc<dyn Clock>) -> Result<(Shared, Recovery), LedgerError> {
    let dir = config.dir.as_path();
    let folder = lock_folder(dir)?;
    segment::remove_unfinished(dir)?;
    let segments = segment::list(dir)?;
    let is_new = segments.is_empty() && !checkpoint::latest_path(dir).exists();
    let (private, public) = (dir.join("ledger.key"), public_key_path(dir));
    let signer = NoteSigner::load_or_create(&private, &public, &config.origin, is_new)?;
    PseudonymKey::load_or_create(dir)?;

    let found = checkpoint::latest(dir, signer.verifier())?;
    let signed = match found {
        Some(checkpoint) => checkpoint,
        None if segments.is_empty() => Checkpoint::sign(&signer, 0, empty_root()),
        None => {
            let path = checkpoint::latest_path(dir);
            return Err(LedgerError::damaged(&path, None, None, "the checkpoints are missing, and lines are there"));
        }
    };
    let mut log = CheckpointLog::open(dir)?;
    if is_new {
        log.add(signed.clone())?;
    } else {
        log.resume_from(signed.clone());
    }

    let found = read_segments(dir, &segments, &signed, signer.verifier())?;
    let mut recovery = Recovery {
        created: is_new,
        last_seq: found.tree_end(),
        torn: None,
        unclean_closes: 0,
        unsealed: found.full.len() as u64,
    };
    let last_time = found.last_time;
    let unclosed = found.unclosed.open;
    let active = match found.active {
        Some(tail) => {
            if tail.excess > 0 {
                recovery.torn = Some(cut_tail(dir, &tail)?);
            }
            ActiveSegment::adopt(tail.path.clone(), tail.first, tail.lines)
                .map_err(|source| LedgerError::io("open", &tail.path, source))?
        }
        None => {
            let first = found.base.end() + 1;
            ActiveSegment::create(dir, first)
                .map_err(|source| LedgerError::io("create", &segment::path(dir, first, PLAIN), source))?
        }
    };
    let marked = (active.first, active.marks.len());
    let marks_path = segment::path(dir, active.first, segment::MARKS);
    files::replace(&marks_path, &seal::marks_to_bytes(&active.marks), 0o600)?;

    let settings = WriterSettings {
        dir: dir.to_owned(),
        segment_bytes: config.segment_bytes,
        reserve_bytes: config.reserve_bytes,
    };
    let folder = Arc::new(folder);
    let lock_handle = folder.try_clone().map_err(|source| LedgerError::io("open", dir, source))?;
    let mut writer = Writer::new(settings, folder, Arc::clone(&clock), found.base, found.full, active);
    writer.not_before(last_time);
    let shared = Shared {
        dir: dir.to_owned(),
        signer,
        retention_days: config.retention_days,
        appended: watch::Sender::new(writer.last_seq()),
        durable: watch::Sender::new(Durable::default()),
        writer: Mutex::new(writer),
        syncing: Mutex::new(()),
        progress: Mutex::new(Progress {
            syncs: 0,
            sync_time: Duration::ZERO,
            last_sync: None,
            signed_size: signed.size,
            signed_at: clock.now(),
            checkpoint_error: None,
        }),
        checkpoints: Mutex::new(CheckpointKeeper { log, marked }),
        keeping: Mutex::new(None),
        clock,
        sync_bell: Bell::default(),
        keeper_bell: Bell::default(),
        folder_lock: Mutex::new(Some(lock_handle)),
    };
    recovery.unclean_closes = close_unclosed(&shared, &unclosed)?;
    if recovery.torn.is_some() || recovery.unclean_closes > 0 {
        let told = format!("recovered after an unclean end: {recovery}");
        shared.append(&Record { detail: Some(&told), ..Record::new(Kind::Note) })?;
    }
    shared.checkpoint()?;
    Ok((shared, recovery))
}

/// Where the public key lies.
pub(crate) fn public_key_path(dir: &Path) -> PathBuf {
    dir.join("ledger.pub")
}

/// Makes the folder if it is not there, and takes its lock (`flock(2)`): held until the descriptor is closed.
fn lock_folder(dir: &Path) -> Result<File, LedgerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| LedgerError::io("make the folder", dir, source))?;
    let folder = File::open(dir).map_err(|source| LedgerError::io("open", dir, source))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(LedgerError::io("lock", dir, source)),
    }
}

/// What the files of a ledger say together.
#[derive(Debug)]
struct Found {
    /// The tree before the active segment.
    base: CompactRange,
    full: VecDeque<ActiveSegment>,
    active: Option<Tail>,
    unclosed: Unclosed,
    last_time: Timestamp,
}

impl Found {
    fn tree_end(&self) -> u64 {
        self.active.as_ref().map_or(self.base.end(), |tail| tail.lines.range.end())
    }
}

/// The segment that was being written.
#[derive(Debug)]
struct Tail {
    first: u64,
    path: PathBuf,
    lines: SegmentLines,
    /// Bytes behind the last good line.
    excess: u64,
}

fn read_segments(
    dir: &Path,
    segments: &BTreeMap<u64, Files>,
    signed: &Checkpoint,
    key: &VerifierKey,
) -> Result<Found, LedgerError> {
    let mut found = Found {
        base: CompactRange::empty_at(0),
        full: VecDeque::new(),
        active: None,
        unclosed: Unclosed::default(),
        last_time: Timestamp::from_unix_micros(0),
    };
    let newest = segments.keys().next_back().copied();
    let newest_sealed =
        segments.iter().rev().find(|(_, files)| files.form() == Some(Form::Zstd)).map(|(first, _)| *first);
    for (&first, &has) in segments {
        let expected = found.base.end() + 1;
        if first != expected {
            let path = segment::path(dir, expected, PLAIN);
            return Err(LedgerError::damaged(&path, None, Some(expected), "the segment that starts here is missing"));
        }
        if has.removed {
            let record = SegmentRecord::load(&segment::path(dir, first, segment::REMOVED), key, first)?;
            retention::finish_removal(dir, first)?;
            found.add_whole(&record);
            found.check_head(dir, first, signed)?;
            continue;
        }
        match has.form() {
            Some(Form::Plain) if Some(first) == newest => {
                found.active = Some(read_tail(dir, first, &found.base, signed, &mut found.unclosed)?);
            }
            Some(Form::Plain) => {
                let tail = read_tail(dir, first, &found.base, signed, &mut found.unclosed)?;
                if tail.excess > 0 {
                    let next = tail.lines.range.end() + 1;
                    return Err(LedgerError::damaged(&tail.path, None, Some(next), "a full segment has a torn end"));
                }
                found.base.append(&tail.lines.range);
                found.last_time = tail.lines.last_time().unwrap_or(found.last_time);
                let segment = ActiveSegment::adopt(tail.path.clone(), first, tail.lines)
                    .map_err(|source| LedgerError::io("open", &tail.path, source))?;
                found.full.push_back(segment);
            }
            Some(Form::Zstd) => {
                let record = SegmentRecord::load(&segment::path(dir, first, segment::SEAL), key, first)?;
                found.add_whole(&record);
                if Some(first) == newest_sealed {
                    found.unclosed.read(LineReader::open_form(dir, first, Form::Zstd)?)?;
                }
                found.check_head(dir, first, signed)?;
            }
            None => {
                let path = segment::path(dir, first, segment::SEAL);
                return Err(LedgerError::damaged(&path, None, Some(first), "the lines of this segment are missing"));
            }
        }
    }
    if found.tree_end() < signed.size {
        let end = found.tree_end();
        let path = segment::path(dir, newest.unwrap_or(1), PLAIN);
        let detail = format!("the log ends before this line, and {} lines were signed", signed.size);
        return Err(LedgerError::damaged(&path, None, Some(end + 1), detail));
    }
    Ok(found)
}

impl Found {
    fn add_whole(&mut self, record: &SegmentRecord) {
        if let Some(range) = record.range() {
            self.base.append(&range);
        }
        self.last_time = self.last_time.max(record.last_time);
    }

    /// A segment is sealed only behind a signed head that covers it.
    fn check_head(&self, dir: &Path, first: u64, signed: &Checkpoint) -> Result<(), LedgerError> {
        let end = self.base.end();
        if signed.size < end {
            let path = checkpoint::latest_path(dir);
            let detail = format!("it covers {} lines, and {end} are sealed", signed.size);
            return Err(LedgerError::damaged(&path, None, None, detail));
        }
        if signed.size == end && self.base.root() != signed.root {
            let path = segment::path(dir, first, segment::SEAL);
            return Err(LedgerError::damaged(&path, None, Some(first), "the segments are not what was signed"));
        }
        Ok(())
    }
}

/// Reads a plain segment as far as its lines are good. Lines under the checkpoint must lead to its
/// root; those behind it must be whole lines in order, else everything from the first bad one on is excess.
fn read_tail(
    dir: &Path,
    first: u64,
    base: &CompactRange,
    signed: &Checkpoint,
    unclosed: &mut Unclosed,
) -> Result<Tail, LedgerError> {
    let mut reader = LineReader::open_form(dir, first, Form::Plain)?;
    let path = reader.path().to_owned();
    let mut lines = SegmentLines::empty_at(first);
    let misfit = loop {
        let is_signed = lines.range.end() < signed.size;
        match reader.step()? {
            Step::Line(line) if is_signed || Line::parse(line).is_ok() => match lines.push(line) {
                Ok(head) => unclosed.see(&head, line),
                Err(misfit) => break Some(misfit),
            },
            Step::Line(_) => break Some(Misfit::NotALine),
            Step::End { torn: 0 } => break None,
            Step::End { .. } => break Some(Misfit::Torn),
            Step::TooLong => break Some(Misfit::TooLong),
        }
        if lines.range.end() == signed.size {
            let mut tree = base.clone();
            tree.append(&lines.range);
            if tree.root() != signed.root {
                let detail = "the lines up to here are not what was signed; verify names the place";
                return Err(LedgerError::damaged(&path, Some(reader.line()), Some(signed.size), detail));
            }
        }
    };
    let next = lines.range.end() + 1;
    if let Some(misfit) = misfit.filter(|_| next <= signed.size) {
        return Err(LedgerError::damaged(&path, Some(next - first + 1), Some(next), misfit.to_string()));
    }
    let length = fs::metadata(&path).map_err(|source| LedgerError::io("inspect", &path, source))?.len();
    Ok(Tail { first, excess: length.saturating_sub(lines.len), path, lines })
}

/// Copies the excess into a file of its own, then cuts it off. The copy is synced first.
fn cut_tail(dir: &Path, tail: &Tail) -> Result<TornTail, LedgerError> {
    let seq = tail.lines.range.end() + 1;
    let kept_in = dir.join(format!("torn-{seq}.bin"));
    let io = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| LedgerError::Io { doing, path, source }
    };
    let file = OpenOptions::new().read(true).write(true).open(&tail.path).map_err(io("open", &tail.path))?;
    let mut bytes = vec![0; usize::try_from(tail.excess).expect("a file that was read fits")];
    file.read_exact_at(&mut bytes, tail.lines.len).map_err(io("read", &tail.path))?;
    let mut copy =
        OpenOptions::new().append(true).create(true).mode(0o600).open(&kept_in).map_err(io("create", &kept_in))?;
    copy.write_all(&bytes).and_then(|()| copy.sync_all()).map_err(io("write", &kept_in))?;
    files::sync_parent(&kept_in)?;
    file.set_len(tail.lines.len).and_then(|()| file.sync_all()).map_err(io("cut", &tail.path))?;
    Ok(TornTail { seq, bytes: tail.excess, kept_in })
}

/// `open` lines whose `close` was not seen. Looks at the plain segments and the newest sealed one: what
/// was open longer than that at an unclean end gets no `close`.
#[derive(Debug, Default)]
struct Unclosed {
    open: BTreeMap<u64, Line>,
}

impl Unclosed {
    fn see(&mut self, head: &LineHead<'_>, bytes: &[u8]) {
        let (opens, closes) = (head.is_kind("open"), head.is_kind("close"));
        if !opens && !closes {
            return;
        }
        let Ok(line) = Line::parse(bytes) else { return };
        if opens {
            self.open.insert(line.seq, line);
        } else if let Some(opened) = line.opened {
            self.open.remove(&opened);
        }
    }

    fn read(&mut self, mut reader: LineReader) -> Result<(), LedgerError> {
        while let Step::Line(line) = reader.step()? {
            if let Some(head) = LineHead::read(line) {
                self.see(&head, line);
            }
        }
        Ok(())
    }
}

/// Nobody knows how many bytes went through: the lines say `unclean`, and no numbers.
fn close_unclosed(shared: &Shared, unclosed: &BTreeMap<u64, Line>) -> Result<u64, LedgerError> {
    for line in unclosed.values() {
        shared.append(&Record {
            persona: line.persona.as_ref(),
            runtime: line.runtime.as_deref(),
            run: line.run.as_deref(),
            scheme: line.scheme,
            host: line.host.as_deref(),
            port: line.port,
            via: line.via,
            rule: line.rule.as_ref(),
            lease: line.lease.as_deref(),
            opened: Some(line.seq),
            close_reason: Some(CloseReason::Unclean),
            ..Record::new(Kind::Close)
        })?;
    }
    Ok(unclosed.len() as u64)
}
