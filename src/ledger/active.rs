//! A segment that is being written, or is full and waits to be sealed.
//!
//! The one promise: the file ends with a whole line, or no line is appended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::LedgerError;
use super::files;
use super::line::{LineHead, RawTime, parse_time};
use super::merkle::{CompactRange, Hash, leaf_hash};
use super::segment::{self, LineReader, PLAIN, Step};
use crate::domain::Timestamp;

/// One segment file, and what is known of its lines.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    /// Opened for append; shared with whoever syncs it.
    pub(crate) file: Arc<File>,
    /// Bytes of whole lines.
    pub(crate) len: u64,
    /// The lines' place in the tree.
    pub(crate) range: CompactRange,
    /// Four bytes of each line's hash.
    pub(crate) marks: Vec<u32>,
    pub(crate) first_time: Option<Timestamp>,
    pub(crate) last_time: Option<Timestamp>,
    /// A write failed, and the file may end with part of a line.
    torn: bool,
}

impl ActiveSegment {
    /// Makes the file of a segment whose first line will be `first`.
    pub(crate) fn create(dir: &Path, first: u64) -> io::Result<Self> {
        let path = segment::path(dir, first, PLAIN);
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self {
            first,
            path,
            file: Arc::new(file),
            len: 0,
            range: CompactRange::empty_at(first - 1),
            marks: Vec::new(),
            first_time: None,
            last_time: None,
            torn: false,
        })
    }

    /// Takes up a file whose lines were read before: `len` bytes of whole lines.
    pub(crate) fn adopt(path: PathBuf, first: u64, lines: SegmentLines) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        Ok(Self {
            first,
            path,
            file: Arc::new(file),
            len: lines.len,
            first_time: lines.first_time(),
            last_time: lines.last_time(),
            range: lines.range,
            marks: lines.marks,
            torn: false,
        })
    }

    /// Writes one line with its newline: wholly, or not at all.
    pub(crate) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let written = loop {
            match (&*self.file).write(line) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        if matches!(written, Ok(count) if count == line.len()) {
            self.len += line.len() as u64;
            return Ok(());
        }
        self.torn = true;
        // If this fails the segment stays torn, and `mend` comes before the next line.
        let _ = self.mend();
        // A write stops short when the disk is full; the rest would fail with exactly that.
        Err(written.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC)))
    }

    /// Adds a written line to the tree.
    pub(crate) fn count(&mut self, leaf: Hash, time: Timestamp) {
        self.range.push(leaf);
        self.marks.push(leaf.mark());
        self.first_time.get_or_insert(time);
        self.last_time = Some(time);
    }

    /// Cuts off what a failed write left.
    pub(crate) fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            if self.file.metadata()?.len() != self.len {
                self.file.set_len(self.len)?;
            }
            self.torn = false;
        }
        Ok(())
    }

    /// Whether the name still leads to our file, and the file is as long as what was written.
    ///
    /// # Errors
    /// Says what is not as it was left; lower case, no full stop.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ours = self.file.metadata().map_err(|error| format!("cannot inspect the open file: {error}"))?;
        if ours.nlink() == 0 {
            return Err(format!("`{}` was removed", self.path.display()));
        }
        let named = fs::symlink_metadata(&self.path)
            .map_err(|error| format!("cannot inspect `{}`: {error}", self.path.display()))?;
        if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) {
            return Err(format!("`{}` was replaced by another file", self.path.display()));
        }
        if !self.torn && ours.len() != self.len {
            return Err(format!(
                "`{}` has {} bytes, not the {} that were written",
                self.path.display(),
                ours.len(),
                self.len
            ));
        }
        Ok(())
    }

    /// Writes the lines anew into a new file, syncs that, and puts it in the place of the old one.
    ///
    /// After a failed sync the kernel may have dropped what it could not write and call the pages
    /// clean, so syncing the same file again proves nothing. The lines are read back through the open
    /// descriptor and must still be the ones in the tree.
    pub(crate) fn rewrite(&mut self) -> Result<(), LedgerError> {
        let temporary = files::unfinished(&self.path);
        let io = |doing: &'static str| {
            let path = temporary.clone();
            move |source| LedgerError::Io { doing, path, source }
        };
        let copy = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io("create"))?;
        copy.set_len(0).map_err(io("cut"))?;
        let mut source = ReadAt { file: Arc::clone(&self.file), offset: 0 }.take(self.len);
        io::copy(&mut source, &mut &copy).map_err(io("write"))?;
        copy.sync_all().map_err(io("sync"))?;
        let written = SegmentLines::read_all(
            LineReader::over(Box::new(ReadAt { file: Arc::new(copy), offset: 0 }), temporary.clone()),
            self.first,
        )?;
        if written.range != self.range {
            return Err(LedgerError::damaged(
                &self.path,
                None,
                None,
                "the lines that were written cannot be read back",
            ));
        }
        set_aside(&self.path, &self.file)?;
        files::move_into_place(&temporary, &self.path)?;
        let reopened = OpenOptions::new().read(true).append(true).open(&self.path).map_err(io("open"))?;
        self.file = Arc::new(reopened);
        self.torn = false;
        Ok(())
    }
}

/// Keeps a file that somebody put at `path` in the place of `ours`: it is evidence.
fn set_aside(path: &Path, ours: &File) -> Result<(), LedgerError> {
    let inspect = |source| LedgerError::io("inspect", path, source);
    let ours = ours.metadata().map_err(inspect)?;
    match fs::symlink_metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => Ok(()),
        Ok(_) => {
            let aside = path.with_extension("foreign");
            fs::rename(path, &aside).map_err(|source| LedgerError::io("rename into", &aside, source))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(inspect(source)),
    }
}

/// Reads an open file from a place of its own: the descriptor's position belongs to nobody.
struct ReadAt {
    file: Arc<File>,
    offset: u64,
}

impl Read for ReadAt {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(out, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Why a line does not follow the one above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("this is not a ledger line")]
    NotALine,
    #[error("line {expected} should be here, and line {found} is")]
    WrongNumber { expected: u64, found: u64 },
    #[error("the time is before that of the line above")]
    TimeWentBack,
    #[error("the line is not whole")]
    Torn,
    #[error("the line has no end")]
    TooLong,
}

/// What reading a segment's lines gave.
#[derive(Debug)]
pub(crate) struct SegmentLines {
    /// Bytes of whole lines.
    pub(crate) len: u64,
    pub(crate) range: CompactRange,
    pub(crate) marks: Vec<u32>,
    first_time: Option<RawTime>,
    last_time: Option<RawTime>,
}

impl SegmentLines {
    pub(crate) const fn empty_at(first: u64) -> Self {
        Self { len: 0, range: CompactRange::empty_at(first - 1), marks: Vec::new(), first_time: None, last_time: None }
    }

    /// Takes the next line if it is the one that belongs here: its number follows, its time does not
    /// go back. Otherwise says why not.
    pub(crate) fn push<'a>(&mut self, line: &'a [u8]) -> Result<LineHead<'a>, Misfit> {
        let head = LineHead::read(line).ok_or(Misfit::NotALine)?;
        let expected = self.range.end() + 1;
        if head.seq != expected {
            return Err(Misfit::WrongNumber { expected, found: head.seq });
        }
        if self.last_time.is_some_and(|last| *head.time < last) {
            return Err(Misfit::TimeWentBack);
        }
        let hash = leaf_hash(line);
        self.range.push(hash);
        self.marks.push(hash.mark());
        self.len += line.len() as u64 + 1;
        self.first_time.get_or_insert(*head.time);
        self.last_time = Some(*head.time);
        Ok(head)
    }

    /// Time of the first line; none without lines, or when it is not a time.
    pub(crate) fn first_time(&self) -> Option<Timestamp> {
        self.first_time.and_then(parse_time)
    }

    /// Time of the last line.
    pub(crate) fn last_time(&self) -> Option<Timestamp> {
        self.last_time.and_then(parse_time)
    }

    /// Reads a segment that must be whole: every line in our form, in order, no torn end.
    pub(crate) fn read_all(mut reader: LineReader, first: u64) -> Result<Self, LedgerError> {
        let mut lines = Self::empty_at(first);
        let fault = loop {
            match reader.step()? {
                Step::Line(line) => {
                    if let Err(fault) = lines.push(line) {
                        break fault;
                    }
                }
                Step::End { torn: 0 } => return Ok(lines),
                Step::End { .. } => break Misfit::Torn,
                Step::TooLong => break Misfit::TooLong,
            }
        };
        let count = lines.range.end() + 1 - first;
        Err(LedgerError::damaged(reader.path(), Some(count + 1), Some(first + count), fault.to_string()))
    }
}
