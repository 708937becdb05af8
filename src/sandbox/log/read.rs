//! The owner's side: the last lines, and what has come since.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Line, MAX_HEADER, Place, parse_header};

/// Reads a log while its init writes it. Blocks for as long as reading files takes.
#[derive(Debug, Clone)]
pub struct LogReader {
    paths: [PathBuf; 2],
}

/// Some lines, and where the next ones are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The oldest first.
    pub lines: Vec<Line>,
    /// Behind the last one.
    pub next: Place,
    /// Lines before the first of these were overwritten before anybody asked for them.
    pub missed: bool,
    /// There is more already.
    pub more: bool,
}

/// Most bytes of one batch; the longest line has a fraction of that.
const AT_ONCE: u64 = 256 << 10;

/// How often files are looked at anew that change while they are read. The init empties one every few MiB.
const TRIES: usize = 8;

/// One of the two files, opened.
struct Part {
    file: File,
    sequence: u64,
    /// Where its lines start.
    start: u64,
}

impl LogReader {
    /// Of the files at `paths`, in any order. They need not be there yet.
    pub const fn new(paths: [PathBuf; 2]) -> Self {
        Self { paths }
    }

    /// Where the next line will be.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub fn end(&self) -> io::Result<Place> {
        match self.parts()?.last() {
            Some(part) => Ok(Place { sequence: part.sequence, offset: part.whole_lines()? }),
            None => Ok(Place::START),
        }
    }

    /// The last `count` lines.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub fn last(&self, count: usize) -> io::Result<Batch> {
        for _ in 0..TRIES {
            let parts = self.parts()?;
            let Some(latest) = parts.last() else { break };
            let next = Place { sequence: latest.sequence, offset: latest.whole_lines()? };
            let mut lines = Vec::new();
            let mut end = Some(next.offset);
            for part in parts.iter().rev() {
                let wanted = count - lines.len();
                let mut older = part.last_lines(end.take().map_or_else(|| part.whole_lines(), Ok)?, wanted)?;
                older.append(&mut lines);
                lines = older;
            }
            if parts.iter().all(Part::is_unchanged) {
                return Ok(Batch { lines, next, missed: false, more: false });
            }
        }
        Ok(Batch { lines: Vec::new(), next: self.end()?, missed: true, more: false })
    }

    /// What has come since `place`, at most a quarter of a MiB at once.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub fn since(&self, place: Place) -> io::Result<Batch> {
        let mut missed = false;
        for _ in 0..TRIES {
            // Headers first: if there is a later file by now, nothing more comes into the earlier one.
            let parts = self.parts()?;
            let Some(oldest) = parts.first() else {
                return Ok(Batch { lines: Vec::new(), next: place, missed, more: false });
            };
            let asked = parts.iter().position(|part| part.sequence == place.sequence);
            let asked = asked.filter(|at| parts[*at].len().is_ok_and(|len| place.offset <= len));
            // From the very start there is nothing to miss but what was there before anybody asked.
            missed |= asked.is_none() && place != Place::START;
            let (at, offset) = asked.map_or((0, oldest.start), |at| (at, place.offset.max(parts[at].start)));
            let part = &parts[at];
            let (lines, read) = part.lines_from(offset)?;
            if !part.is_unchanged() {
                missed = true;
                continue;
            }
            let is_last = at + 1 == parts.len();
            let has_more = offset + read < part.whole_lines()?;
            let next = match parts.get(at + 1) {
                Some(later) if !has_more => Place { sequence: later.sequence, offset: later.start },
                _ => Place { sequence: part.sequence, offset: offset + read },
            };
            return Ok(Batch { lines, next, missed, more: has_more || !is_last });
        }
        Ok(Batch { lines: Vec::new(), next: self.end()?, missed: true, more: false })
    }

    /// The files that are there and have a header, the older one first.
    fn parts(&self) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        for path in &self.paths {
            parts.extend(Part::open(path)?);
        }
        parts.sort_by_key(|part| part.sequence);
        Ok(parts)
    }
}

impl Part {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = match opened {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Ok(head(&file)?.map(|(sequence, start)| Self { file, sequence, start }))
    }

    /// Whether it is still the file that it was, and not emptied meanwhile.
    fn is_unchanged(&self) -> bool {
        head(&self.file).is_ok_and(|found| found == Some((self.sequence, self.start)))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Up to where it has whole lines; the rest is being written.
    fn whole_lines(&self) -> io::Result<u64> {
        let mut end = self.len()?;
        while end > self.start {
            let from = end.saturating_sub(AT_ONCE).max(self.start);
            let bytes = self.bytes(from, end)?;
            if let Some(at) = memchr::memrchr(b'\n', &bytes) {
                return Ok(from + wide(at) + 1);
            }
            end = from;
        }
        Ok(self.start)
    }

    /// The whole lines from `offset` on, and how many bytes they have.
    fn lines_from(&self, offset: u64) -> io::Result<(Vec<Line>, u64)> {
        let len = self.len()?;
        let bytes = self.bytes(offset, len.min(offset + AT_ONCE))?;
        match memchr::memrchr(b'\n', &bytes) {
            Some(end) => Ok((parse_all(&bytes[..=end]), wide(end) + 1)),
            // So long a line is none of ours; what is there is passed over.
            None if wide(bytes.len()) == AT_ONCE => Ok((Vec::new(), AT_ONCE)),
            None => Ok((Vec::new(), 0)),
        }
    }

    /// The last `count` lines before `end`, which is the end of a line.
    fn last_lines(&self, end: u64, count: usize) -> io::Result<Vec<Line>> {
        let mut from = end;
        let mut bytes = Vec::new();
        // One more line break than lines: the one before the first.
        while from > self.start && memchr::memchr_iter(b'\n', &bytes).count() <= count && count > 0 {
            let earlier = from.saturating_sub(AT_ONCE).max(self.start);
            let mut more = self.bytes(earlier, from)?;
            more.append(&mut bytes);
            (bytes, from) = (more, earlier);
        }
        // The first one may be cut, if there is something before it.
        let whole = if from > self.start { memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |at| at + 1) } else { 0 };
        let mut lines = parse_all(&bytes[whole..]);
        let extra = lines.len().saturating_sub(count);
        lines.drain(..extra);
        Ok(lines)
    }

    fn bytes(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        let mut read = 0;
        while read < bytes.len() {
            match self.file.read_at(&mut bytes[read..], from + wide(read)) {
                // It was emptied meanwhile.
                Ok(0) => break,
                Ok(some) => read += some,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }
}

fn head(file: &File) -> io::Result<Option<(u64, u64)>> {
    let mut start = [0; MAX_HEADER];
    let len = file.read_at(&mut start, 0)?;
    Ok(parse_header(&start[..len]))
}

/// What is no line of ours (torn by a killed init, written by somebody else) is passed over.
fn parse_all(bytes: &[u8]) -> Vec<Line> {
    bytes.split(|byte| *byte == b'\n').filter_map(Line::parse).collect()
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
