//! Segments as files: their names, which ones a folder has, and their lines.
//!
//! | file | what |
//! |---|---|
//! | `<first>.jsonl` | lines; the highest one is being written |
//! | `<first>.jsonl.zst` | the same lines, sealed |
//! | `<first>.seal` | signed: which lines it has, their subtree hashes, their times |
//! | `<first>.removed` | signed: the same, of a segment that retention removed |
//! | `<first>.marks` | four bytes of each line's hash, to name the line that changed; proves nothing |
//!
//! `<first>` is the sequence number of the first line in 20 digits, so names sort by age.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::encode::MAX_LINE;
use super::error::LedgerError;
use super::files::UNFINISHED;

/// Bytes read at once: large enough that system calls do not show, small enough to stay in the cache.
const READ_CHUNK: usize = 256 << 10;

/// The path of one file of the segment that starts at `first`.
pub(crate) fn path(dir: &Path, first: u64, extension: &str) -> PathBuf {
    dir.join(format!("{first:020}.{extension}"))
}

pub(crate) const PLAIN: &str = "jsonl";
pub(crate) const ZSTD: &str = "jsonl.zst";
pub(crate) const SEAL: &str = "seal";
pub(crate) const REMOVED: &str = "removed";
pub(crate) const MARKS: &str = "marks";

/// Which files a segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Files {
    pub(crate) plain: bool,
    pub(crate) zstd: bool,
    pub(crate) seal: bool,
    pub(crate) removed: bool,
}

impl Files {
    /// Whether there are lines, and in which form. The plain file counts while it is there: the
    /// compressed one may be unfinished business.
    pub(crate) const fn form(self) -> Option<Form> {
        match (self.plain, self.zstd) {
            (true, _) => Some(Form::Plain),
            (false, true) => Some(Form::Zstd),
            (false, false) => None,
        }
    }
}

/// How the lines are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Zstd,
}

impl Form {
    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Zstd => ZSTD,
        }
    }
}

/// The segments of `dir` by their first sequence number, oldest first.
pub(crate) fn list(dir: &Path) -> Result<BTreeMap<u64, Files>, LedgerError> {
    let mut segments = BTreeMap::<u64, Files>::new();
    let entries = fs::read_dir(dir).map_err(|source| LedgerError::io("list", dir, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| LedgerError::io("list", dir, source))?;
        let name = entry.file_name();
        let Some((first, extension)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        let Some(first) = parse_first(first) else { continue };
        let has: fn(&mut Files) -> &mut bool = match extension {
            PLAIN => |files| &mut files.plain,
            ZSTD => |files| &mut files.zstd,
            SEAL => |files| &mut files.seal,
            REMOVED => |files| &mut files.removed,
            _ => continue,
        };
        *has(segments.entry(first).or_default()) = true;
    }
    Ok(segments)
}

/// Segments with lines, and the bytes of their files; best effort, for the status.
pub(crate) fn usage(dir: &Path) -> (u64, u64) {
    let segments = list(dir).unwrap_or_default();
    let with_lines = segments.iter().filter_map(|(first, files)| Some((*first, files.form()?)));
    with_lines.fold((0, 0), |(count, bytes), (first, form)| {
        let size = fs::metadata(path(dir, first, form.extension())).map_or(0, |meta| meta.len());
        (count + 1, bytes + size)
    })
}

/// Removes what a crash left half made.
pub(crate) fn remove_unfinished(dir: &Path) -> Result<(), LedgerError> {
    let entries = fs::read_dir(dir).map_err(|source| LedgerError::io("list", dir, source))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            super::files::remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn parse_first(digits: &str) -> Option<u64> {
    let ours = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if ours { digits.parse().ok().filter(|first| *first > 0) } else { None }
}

/// One step through a segment.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A whole line, without its newline.
    Line(&'a [u8]),
    /// The end, and how many bytes without a newline stand there.
    End { torn: usize },
    /// A line longer than any that is written.
    TooLong,
}

/// Reads lines with one buffer, no copy per line.
pub(crate) struct LineReader {
    source: Box<dyn Read + Send>,
    path: PathBuf,
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    /// Lines given out so far.
    line: u64,
    /// Bytes of whole lines given out so far, with their newlines.
    offset: u64,
}

impl std::fmt::Debug for LineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineReader").field("path", &self.path).field("line", &self.line).finish_non_exhaustive()
    }
}

impl LineReader {
    /// Opens the lines of a segment, sealed or not: it may be sealed between listing and opening.
    pub(crate) fn open(dir: &Path, first: u64) -> Result<Self, LedgerError> {
        for form in [Form::Plain, Form::Zstd] {
            let path = path(dir, first, form.extension());
            match File::open(&path) {
                Ok(file) => return Self::of_file(file, form, path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LedgerError::io("open", &path, source)),
            }
        }
        let path = path(dir, first, PLAIN);
        Err(LedgerError::io("open", &path, io::ErrorKind::NotFound.into()))
    }

    /// Reads one of the two files, whatever else is there.
    pub(crate) fn open_form(dir: &Path, first: u64, form: Form) -> Result<Self, LedgerError> {
        let path = path(dir, first, form.extension());
        let file = File::open(&path).map_err(|source| LedgerError::io("open", &path, source))?;
        Self::of_file(file, form, path)
    }

    /// Opens a plain segment at `offset`, where a line starts.
    pub(crate) fn open_plain_at(dir: &Path, first: u64, offset: u64) -> Result<Self, LedgerError> {
        let path = path(dir, first, PLAIN);
        let mut file = File::open(&path).map_err(|source| LedgerError::io("open", &path, source))?;
        file.seek(SeekFrom::Start(offset)).map_err(|source| LedgerError::io("seek in", &path, source))?;
        let mut reader = Self::of_file(file, Form::Plain, path)?;
        reader.offset = offset;
        Ok(reader)
    }

    fn of_file(file: File, form: Form, path: PathBuf) -> Result<Self, LedgerError> {
        let source: Box<dyn Read + Send> = match form {
            Form::Plain => Box::new(file),
            Form::Zstd => Box::new(
                zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(READ_CHUNK, file))
                    .map_err(|source| LedgerError::io("decompress", &path, source))?,
            ),
        };
        Ok(Self::over(source, path))
    }

    /// Reads from anything; `path` is for messages.
    pub(crate) fn over(source: Box<dyn Read + Send>, path: PathBuf) -> Self {
        Self { source, path, buffer: vec![0; READ_CHUNK], start: 0, filled: 0, line: 0, offset: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the line that was given last, from 1.
    pub(crate) const fn line(&self) -> u64 {
        self.line
    }

    /// Where the next line starts.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next line. After [`Step::End`] it may be called again: the file may have grown.
    pub(crate) fn step(&mut self) -> Result<Step<'_>, LedgerError> {
        let mut searched = self.start;
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.buffer[searched..self.filled]) {
                let (from, to) = (self.start, searched + length);
                self.start = to + 1;
                self.line += 1;
                self.offset += (to + 1 - from) as u64;
                return Ok(Step::Line(&self.buffer[from..to]));
            }
            let pending = self.filled - self.start;
            if pending >= MAX_LINE {
                return Ok(Step::TooLong);
            }
            self.buffer.copy_within(self.start..self.filled, 0);
            (self.start, self.filled, searched) = (0, pending, pending);
            match self.source.read(&mut self.buffer[pending..]) {
                Ok(0) => return Ok(Step::End { torn: pending }),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LedgerError::io("read", &self.path, source)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(bytes: &'static [u8]) -> (Vec<Vec<u8>>, usize) {
        let mut reader = LineReader::over(Box::new(OneByte(bytes)), PathBuf::from("memory"));
        let mut lines = Vec::new();
        loop {
            match reader.step().expect("memory does not fail") {
                Step::Line(line) => lines.push(line.to_vec()),
                Step::End { torn } => return (lines, torn),
                Step::TooLong => panic!("no line is that long"),
            }
        }
    }

    /// Gives one byte per read: every line is split everywhere.
    struct OneByte(&'static [u8]);

    impl Read for OneByte {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            out[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn lines_are_found_however_the_reads_fall() {
        assert_eq!(steps(b""), (vec![], 0));
        assert_eq!(steps(b"a\n\nbc\nd"), (vec![b"a".to_vec(), vec![], b"bc".to_vec()], 1));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut reader = LineReader::over(Box::new(io::repeat(b'x')), PathBuf::from("memory"));
        assert!(matches!(reader.step(), Ok(Step::TooLong)));
        assert!(reader.buffer.len() <= READ_CHUNK);
    }

    #[test]
    fn only_names_in_our_form_are_segments() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in [
            "00000000000000000001.jsonl.zst",
            "00000000000000000001.seal",
            "00000000000000000090.jsonl",
            "00000000000000000000.jsonl",
            "90.jsonl",
            "+0000000000000000090.jsonl",
            "00000000000000000100.jsonl.tmp",
            "ledger.key",
        ] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let found = list(dir.path()).expect("listed");
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 90]);
        assert_eq!(found[&1], Files { zstd: true, seal: true, ..Files::default() });
        assert_eq!(found[&90].form(), Some(Form::Plain));
    }
}
