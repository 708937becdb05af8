//! Checking a whole ledger, with nothing but its folder and a public key.
//!
//! What it relies on: the key, SHA-256, and the checkpoints that somebody kept elsewhere. Who owns
//! the host and the private key can write another past; who kept one checkpoint of the old one can
//! prove it ([`VerifyOptions::checkpoints`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::active::{Misfit, SegmentLines};
use super::checkpoint::{self, Checkpoint};
use super::error::{LedgerError, Place};
use super::line::Line;
use super::merkle::{CompactRange, Hash};
use super::note::VerifierKey;
use super::recovery::{MIN_RETENTION_DAYS, public_key_path};
use super::seal::{self, SegmentRecord};
use super::segment::{self, Files, Form, LineReader, PLAIN, REMOVED, SEAL, Step};
use crate::domain::Timestamp;

/// Lines between two reports of progress: some milliseconds of work.
const PROGRESS_LINES: u64 = 1 << 14;

/// Faults that are listed; the first one says where to look, and a wholly foreign file has no end of them.
const MAX_FAULTS: usize = 64;

/// What else to check against.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// The key that must have signed; without it that of `ledger.pub`, which an attacker could have replaced.
    pub key: Option<VerifierKey>,
    /// Checkpoints (whole notes) that were kept elsewhere.
    pub checkpoints: Vec<String>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of lines read.
    pub bytes: u64,
    /// Lines read.
    pub lines: u64,
    /// Segments begun, removed ones included.
    pub segment: u64,
    /// Segments in all.
    pub segments: u64,
}

/// What was checked, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The log's name.
    pub origin: String,
    /// The key that was checked with, in C2SP verifier form.
    pub public_key: String,
    /// Lines read.
    pub lines: u64,
    /// Their bytes, newlines included.
    pub bytes: u64,
    /// Segments with lines.
    pub segments: u64,
    /// Segments that retention removed.
    pub removed_segments: u64,
    /// Lines that were in them.
    pub removed_lines: u64,
    /// Checkpoints that were believed and recomputed.
    pub checkpoints: u64,
    /// Checkpoints inside of removed segments: believed, but their tree can no longer be computed.
    pub checkpoints_out_of_reach: u64,
    /// Lines that the newest checkpoint covers.
    pub signed_size: u64,
    /// Lines behind the newest checkpoint: in order, but not yet signed.
    pub unsigned_lines: u64,
    /// Bytes of a torn line at the end: a crash, or a line that is just being written.
    pub torn_bytes: u64,
    /// Root of the tree of all lines.
    pub root: Option<Hash>,
    /// Time of the first line that is there.
    pub first_time: Option<Timestamp>,
    /// Time of the last line.
    pub last_time: Option<Timestamp>,
    /// What is wrong; empty when the ledger is sound.
    pub faults: Vec<Fault>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What kind of thing.
    pub kind: FaultKind,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A checkpoint is not signed by the key, or not in its form.
    BadCheckpoint,
    /// Two signed checkpoints say different things about the same lines.
    ForkedCheckpoints,
    /// The record of a segment is missing, not signed by the key, or that of another one.
    BadSegmentRecord,
    /// A segment is missing, or stands in the place of another.
    WrongSegment,
    /// A line is missing, repeated, inserted, or not a line.
    WrongLine,
    /// Lines are not what was signed.
    ChangedLine,
    /// Lines that were signed are missing at the end.
    CutTail,
    /// A segment was removed before its time.
    EarlyRemoval,
    /// A file cannot be read to its end.
    Unreadable,
}

/// Checks the ledger in `dir` against its own key and checkpoints.
///
/// # Errors
/// When the folder, the key or the checkpoints cannot be read at all. Everything else that is wrong is
/// a fault of the report.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport, LedgerError> {
    verify_with(dir, &VerifyOptions::default(), progress)
}

/// Checks the ledger in `dir` also against what was kept elsewhere.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    dir: &Path,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<VerifyReport, LedgerError> {
    let key = match &options.key {
        Some(key) => key.clone(),
        None => load_public_key(dir)?,
    };
    // Heads before lines: a daemon that writes meanwhile only adds lines.
    let mut walk = Walk::new(dir, key);
    walk.read_checkpoints(options)?;
    let segments = segment::list(dir)?;
    walk.report.segments = segments.values().filter(|files| files.form().is_some() && !files.removed).count() as u64;
    let (count, newest) = (segments.len() as u64, segments.keys().next_back().copied());
    for (index, (first, files)) in segments.into_iter().enumerate() {
        let mut tell = |report: &VerifyReport| {
            progress(Progress { bytes: report.bytes, lines: report.lines, segment: index as u64 + 1, segments: count });
        };
        if !walk.segment(first, files, Some(first) == newest, &mut tell)? {
            break;
        }
    }
    Ok(walk.finish())
}

/// The public key beside a ledger.
pub(crate) fn load_public_key(dir: &Path) -> Result<VerifierKey, LedgerError> {
    let path = public_key_path(dir);
    let text = std::fs::read_to_string(&path).map_err(|source| LedgerError::io("read", &path, source))?;
    VerifierKey::parse(&text).map_err(|source| LedgerError::Note { path, source })
}

/// The way through a ledger, oldest line first.
struct Walk<'a> {
    dir: &'a Path,
    key: VerifierKey,
    report: VerifyReport,
    /// Heads that were believed, by size, and where each is written.
    heads: BTreeMap<u64, (Hash, PathBuf)>,
    /// The tree before the segment that is being read.
    tree: CompactRange,
    /// The last file that was read, to say where a cut log ends.
    last_file: Option<LastFile>,
    /// The tree can no longer be computed: a fault says why.
    lost: bool,
}

impl<'a> Walk<'a> {
    fn new(dir: &'a Path, key: VerifierKey) -> Self {
        let report =
            VerifyReport { origin: key.name().to_owned(), public_key: key.to_string(), ..VerifyReport::default() };
        Self { dir, key, report, heads: BTreeMap::new(), tree: CompactRange::empty_at(0), last_file: None, lost: false }
    }

    fn fault(&mut self, kind: FaultKind, file: &Path, line: Option<u64>, seq: Option<u64>, detail: impl Into<String>) {
        if self.report.faults.len() < MAX_FAULTS {
            let place = Place { file: file.to_owned(), line, seq, detail: detail.into() };
            self.report.faults.push(Fault { kind, place });
        }
    }

    fn read_checkpoints(&mut self, options: &VerifyOptions) -> Result<(), LedgerError> {
        let (latest_path, log_path) = (checkpoint::latest_path(self.dir), checkpoint::log_path(self.dir));
        let log = checkpoint::read_text(&log_path)?;
        for (index, note) in checkpoint::split_log(&log).0.into_iter().enumerate() {
            self.add_checkpoint(&log_path, Some(index as u64 + 1), note);
        }
        let latest = checkpoint::read_text(&latest_path)?;
        if latest.is_empty() {
            self.fault(FaultKind::BadCheckpoint, &latest_path, None, None, "there is no checkpoint");
        } else {
            self.add_checkpoint(&latest_path, None, &latest);
        }
        for note in &options.checkpoints {
            self.add_checkpoint(Path::new("given checkpoint"), None, note);
        }
        self.report.signed_size = self.heads.keys().next_back().copied().unwrap_or(0);
        Ok(())
    }

    /// For a log of checkpoints, `number` counts the notes from 1.
    fn add_checkpoint(&mut self, path: &Path, number: Option<u64>, note: &str) {
        match Checkpoint::open(note, &self.key) {
            Err(error) => self.fault(FaultKind::BadCheckpoint, path, number, None, error.to_string()),
            Ok(head) => match self.heads.get(&head.size) {
                Some((root, _)) if *root != head.root => {
                    let detail = format!("the log signed two different trees of {} lines", head.size);
                    self.fault(FaultKind::ForkedCheckpoints, path, number, Some(head.size), detail);
                }
                Some(_) => {}
                None => {
                    self.heads.insert(head.size, (head.root, path.to_owned()));
                }
            },
        }
    }

    /// Checks one segment; `false` when nothing behind it can be checked.
    fn segment(
        &mut self,
        first: u64,
        files: Files,
        is_newest: bool,
        tell: &mut dyn FnMut(&VerifyReport),
    ) -> Result<bool, LedgerError> {
        let expected = self.tree.end() + 1;
        if first != expected {
            let path = segment::path(self.dir, expected, PLAIN);
            let detail = if first > expected {
                format!("the segment with the lines {expected} to {} is missing", first - 1)
            } else {
                format!("a segment that starts at {first} stands where {expected} should be")
            };
            self.fault(FaultKind::WrongSegment, &path, None, Some(expected), detail);
            self.lost = true;
            return Ok(false);
        }
        if files.removed {
            return Ok(self.removed_segment(first));
        }
        let record = self.segment_record(first, files, is_newest);
        if files.form().is_none() {
            let path = segment::path(self.dir, first, Form::Zstd.extension());
            self.fault(FaultKind::WrongSegment, &path, None, Some(first), "the lines of this segment are missing");
            return Ok(self.skip_over(record.as_ref()));
        }
        match self.read_lines(first, is_newest, tell) {
            Ok(lines) => Ok(self.compare(first, lines, record.as_ref())),
            // Retention took it while we came here.
            Err(LedgerError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound
                    && segment::path(self.dir, first, REMOVED).exists() =>
            {
                Ok(self.removed_segment(first))
            }
            Err(error) => {
                let path = segment::path(self.dir, first, files.form().unwrap_or(Form::Plain).extension());
                self.fault(FaultKind::Unreadable, &path, None, Some(first), error.to_string());
                Ok(self.skip_over(record.as_ref()))
            }
        }
    }

    /// The signed record of a sealed segment.
    fn segment_record(&mut self, first: u64, files: Files, is_newest: bool) -> Option<SegmentRecord> {
        let path = segment::path(self.dir, first, SEAL);
        if !files.seal && (files.form() == Some(Form::Plain) || is_newest) {
            return None;
        }
        match SegmentRecord::load(&path, &self.key, first) {
            Ok(record) => Some(record),
            Err(error) => {
                self.fault(FaultKind::BadSegmentRecord, &path, None, Some(first), error.to_string());
                None
            }
        }
    }

    fn removed_segment(&mut self, first: u64) -> bool {
        let path = segment::path(self.dir, first, REMOVED);
        let record = match SegmentRecord::load(&path, &self.key, first) {
            Ok(record) => record,
            Err(error) => {
                self.fault(FaultKind::BadSegmentRecord, &path, None, Some(first), error.to_string());
                self.lost = true;
                return false;
            }
        };
        let kept = record.removed_at.map(|removed| removed.since(record.last_time));
        let enough = std::time::Duration::from_secs(u64::from(MIN_RETENTION_DAYS) * 86_400);
        if kept.is_none_or(|kept| kept < enough) {
            let detail = format!("the segment was removed before its {MIN_RETENTION_DAYS} days were over");
            self.fault(FaultKind::EarlyRemoval, &path, None, Some(first), detail);
        }
        self.report.removed_segments += 1;
        self.report.removed_lines += record.last + 1 - first;
        self.skip_over(Some(&record))
    }

    /// Goes on behind a segment on the word of its signed record.
    fn skip_over(&mut self, record: Option<&SegmentRecord>) -> bool {
        let Some(range) = record.and_then(SegmentRecord::range) else {
            self.lost = true;
            return false;
        };
        let before = self.tree.end();
        self.tree.append(&range);
        let out_of_reach = self.heads.range(before + 1..self.tree.end()).count();
        self.report.checkpoints_out_of_reach += out_of_reach as u64;
        self.check_head_at_end();
        true
    }

    /// Compares the tree with a head of exactly its size, if there is one.
    fn check_head_at_end(&mut self) {
        let size = self.tree.end();
        let Some((root, path)) = self.heads.get(&size).cloned() else { return };
        if self.tree.root() == root {
            self.report.checkpoints += 1;
        } else {
            self.fault(FaultKind::ChangedLine, &path, None, Some(size), "the signed tree is not that of the segments");
        }
    }

    /// Reads the lines of a segment. Breaks off at the first that does not fit; says so itself.
    fn read_lines(
        &mut self,
        first: u64,
        is_newest: bool,
        tell: &mut dyn FnMut(&VerifyReport),
    ) -> Result<ReadLines, LedgerError> {
        let mut reader = LineReader::open(self.dir, first)?;
        let path = reader.path().to_owned();
        let mut lines = SegmentLines::empty_at(first);
        let mut changed = None;
        let mut good = self.tree.end();
        let mut next_head = self.heads.range(good + 1..).next().map(|(size, (root, _))| (*size, *root));
        let signed_size = self.report.signed_size;
        let misfit = loop {
            match reader.step()? {
                Step::Line(line) => {
                    // Nobody vouches for unsigned lines yet: at least they must be what a writer writes.
                    if lines.range.end() >= signed_size && Line::parse(line).is_err() {
                        break Some(Misfit::NotALine);
                    }
                    if let Err(misfit) = lines.push(line) {
                        break Some(misfit);
                    }
                    self.report.lines += 1;
                    self.report.bytes += line.len() as u64 + 1;
                    if self.report.lines.is_multiple_of(PROGRESS_LINES) {
                        tell(&self.report);
                    }
                }
                Step::End { torn: 0 } => break None,
                Step::End { torn } if is_newest => {
                    self.report.torn_bytes = torn as u64;
                    break None;
                }
                Step::End { .. } => break Some(Misfit::Torn),
                Step::TooLong => break Some(Misfit::TooLong),
            }
            if let Some((size, root)) = next_head.filter(|(size, _)| *size == lines.range.end()) {
                let mut tree = self.tree.clone();
                tree.append(&lines.range);
                if tree.root() == root {
                    self.report.checkpoints += 1;
                    good = size;
                } else {
                    changed = Some((good, size));
                }
                // Behind a change every head differs, and says nothing more.
                let next = self.heads.range(size + 1..).next().filter(|_| changed.is_none());
                next_head = next.map(|(size, (root, _))| (*size, *root));
            }
        };
        tell(&self.report);
        if let Some(misfit) = misfit {
            let count = lines.marks.len() as u64;
            self.fault(FaultKind::WrongLine, &path, Some(count + 1), Some(first + count), misfit.to_string());
        }
        Ok(ReadLines { path, lines, changed, broke_off: misfit.is_some() })
    }

    /// Compares what was read with what was signed about it; `false` when nothing behind can be checked.
    fn compare(&mut self, first: u64, read: ReadLines, record: Option<&SegmentRecord>) -> bool {
        let ReadLines { path, lines, changed, broke_off } = read;
        self.report.first_time = self.report.first_time.or(lines.first_time());
        self.report.last_time = lines.last_time().or(self.report.last_time);
        self.last_file = Some(LastFile { path: path.clone(), first, marks: lines.marks.clone() });
        let signed_range = record.and_then(SegmentRecord::range);
        let differs = signed_range.as_ref().is_some_and(|range| *range != lines.range);
        if broke_off {
            self.lost = record.is_none();
            return self.skip_over(record);
        }
        if changed.is_some() || differs {
            let (good, size) = changed.unwrap_or((first - 1, lines.range.end()));
            self.name_change(first, &path, &lines, good, size);
            self.lost = record.is_none();
            return self.skip_over(record);
        }
        self.tree.append(&lines.range);
        true
    }

    /// Names the line between the heads `good` and `size` that is not what it was, by its mark.
    fn name_change(&mut self, first: u64, path: &Path, lines: &SegmentLines, good: u64, size: u64) {
        let marks = seal::load_marks(self.dir, first);
        let skip = usize::try_from((good + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let pairs = marks.iter().zip(&lines.marks).enumerate().skip(skip);
        let named = pairs.into_iter().find(|(_, (was, is))| was != is).map(|(index, _)| index as u64);
        match named {
            Some(index) => {
                let seq = first + index;
                self.fault(FaultKind::ChangedLine, path, Some(index + 1), Some(seq), "the line is not what was signed");
            }
            None if (marks.len() as u64) > lines.marks.len() as u64 => {
                let count = lines.marks.len() as u64;
                let detail = format!("{} lines are missing at the end of the segment", marks.len() as u64 - count);
                self.fault(FaultKind::CutTail, path, Some(count + 1), Some(first + count), detail);
            }
            None => {
                let from = (good + 1).max(first);
                let detail = format!("one of the lines {from} to {size} is not what was signed");
                self.fault(FaultKind::ChangedLine, path, Some(from + 1 - first), Some(from), detail);
            }
        }
    }

    /// The log ends at `end` lines, and more were signed. Names also the first line that changed, when
    /// the rest was renumbered to fill a gap.
    fn name_cut(&mut self, end: u64) {
        let last = self.last_file.take().unwrap_or_else(|| LastFile {
            path: segment::path(self.dir, end + 1, PLAIN),
            first: end + 1,
            marks: Vec::new(),
        });
        let marks = seal::load_marks(self.dir, last.first);
        let changed = marks.iter().zip(&last.marks).position(|(was, is)| was != is);
        if let Some(index) = changed.map(|index| index as u64) {
            let (line, seq) = (Some(index + 1), Some(last.first + index));
            self.fault(FaultKind::ChangedLine, &last.path, line, seq, "the line is not what was signed");
        }
        let detail = format!("the log ends here, and {} lines were signed", self.report.signed_size);
        let line = last.marks.len() as u64 + 1;
        self.fault(FaultKind::CutTail, &last.path, Some(line), Some(end + 1), detail);
    }

    fn finish(mut self) -> VerifyReport {
        let end = self.tree.end();
        if !self.lost {
            self.report.root = Some(self.tree.root());
            self.report.unsigned_lines = end.saturating_sub(self.report.signed_size);
            if self.report.signed_size > end {
                self.name_cut(end);
            }
        }
        self.report
    }
}

/// The file that was read last.
struct LastFile {
    path: PathBuf,
    first: u64,
    marks: Vec<u32>,
}

/// One segment as it was read.
struct ReadLines {
    path: PathBuf,
    lines: SegmentLines,
    /// The heads between which a line changed.
    changed: Option<(u64, u64)>,
    /// A line did not fit, and the rest was not read.
    broke_off: bool,
}
