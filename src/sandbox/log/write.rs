//! The init's side.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::domain::Timestamp;

use super::{LEAST_BOUND, MAX_HEADER, MAX_PIECE, Stream, header, parse_header};

/// Writes lines into one of two files at a time. It never fails: what cannot be written is counted and told of later.
#[derive(Debug)]
pub(in crate::sandbox) struct Writer {
    pub(super) files: [File; 2],
    current: usize,
    sequence: u64,
    bound: u64,
    /// Whole lines for the current file.
    buffer: Vec<u8>,
    lost: Lost,
}

#[derive(Debug, Default)]
struct Lost {
    lines: u64,
    why: Option<io::Error>,
}

/// What is gathered before it is written.
const AT_ONCE: usize = 64 << 10;

impl Writer {
    /// Goes on where an earlier run stopped: behind the last line of the later file.
    pub(in crate::sandbox) fn open(files: [File; 2], bound: u64) -> Self {
        let sequences = [sequence_of(&files[0]), sequence_of(&files[1])];
        let current = usize::from(sequences[1] > sequences[0]);
        let sequence = sequences[current].unwrap_or(0);
        let lost = Lost::default();
        let mut writer = Self { files, current, sequence, bound: bound.max(LEAST_BOUND), buffer: Vec::new(), lost };
        if sequences[current].is_none() {
            // Nothing of ours in either; whatever lies there is not a log.
            let _ = writer.empty(0);
        } else {
            writer.mend();
        }
        writer
    }

    /// An init that was killed while it wrote has left a line without an end.
    fn mend(&self) {
        let file = &self.files[self.current];
        let Ok(len) = file.metadata().map(|found| found.len()) else { return };
        let mut last = [b'\n'];
        if len > 0 && file.read_exact_at(&mut last, len - 1).is_ok() && last != [b'\n'] {
            let _ = file.write_all_at(b"\n", len);
        }
    }

    /// Takes one line, or a piece of at most [`MAX_PIECE`].
    pub(in crate::sandbox) fn line(&mut self, at: Timestamp, stream: Stream, text: &[u8], continues: bool) {
        push(&mut self.buffer, at, stream, text, continues);
        if self.buffer.len() >= AT_ONCE {
            self.flush(at);
        }
    }

    /// Writes what was taken.
    pub(in crate::sandbox) fn flush(&mut self, at: Timestamp) {
        if self.buffer.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.buffer);
        let Err((kept, why)) = self.tell_of_lost(at).and_then(|()| self.append(&lines)) else {
            self.buffer = lines;
            self.buffer.clear();
            return;
        };
        self.lost.lines += count(&lines[kept..]);
        self.lost.why = Some(why);
    }

    fn tell_of_lost(&mut self, at: Timestamp) -> Result<(), (usize, io::Error)> {
        if self.lost.lines == 0 {
            return Ok(());
        }
        let why = self.lost.why.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut line = Vec::new();
        push(&mut line, at, Stream::Gateway, format!("{} lines were lost: {why}", self.lost.lines).as_bytes(), false);
        // None of the lines that follow are written if this one is not.
        self.append(&line).map_err(|(_, why)| (0, why))?;
        self.lost = Lost::default();
        Ok(())
    }

    /// Appends whole lines. If that fails, tells how many bytes of them are there: whole lines too.
    fn append(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let nothing = |why| (0, why);
        let len = self.len().map_err(nothing)?;
        let more = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let len = if len == 0 {
            // Somebody has emptied it; a reader must not take it for what it was.
            self.empty(self.current).map_err(nothing)?
        } else if len.saturating_add(more) > self.bound && len > u64::try_from(MAX_HEADER).unwrap_or(0) {
            self.empty(1 - self.current).map_err(nothing)?
        } else {
            len
        };
        let file = &self.files[self.current];
        let (mut written, mut end) = (0, len);
        while written < lines.len() {
            match file.write_at(&lines[written..], end) {
                Ok(some) if some > 0 => {
                    written += some;
                    end += u64::try_from(some).unwrap_or(0);
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    let why = failed.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                    let kept = lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    let _ = file.set_len(len + u64::try_from(kept).unwrap_or(0));
                    return Err((kept, why));
                }
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.files[self.current].metadata()?.len())
    }

    /// Starts one of the files anew as the latest, and tells its length.
    fn empty(&mut self, which: usize) -> io::Result<u64> {
        let head = header(self.sequence + 1);
        let file = &self.files[which];
        file.set_len(0)?;
        if let Err(fault) = file.write_all_at(&head, 0) {
            // Half a header would pass for another number.
            let _ = file.set_len(0);
            return Err(fault);
        }
        self.current = which;
        self.sequence += 1;
        Ok(u64::try_from(head.len()).unwrap_or(0))
    }
}

fn push(buffer: &mut Vec<u8>, at: Timestamp, stream: Stream, text: &[u8], continues: bool) {
    at.write_rfc3339(buffer);
    buffer.push(b' ');
    buffer.extend_from_slice(stream.code().as_bytes());
    buffer.extend_from_slice(if continues { b"+ " } else { b" " });
    buffer.extend_from_slice(text);
    buffer.push(b'\n');
}

fn count(lines: &[u8]) -> u64 {
    u64::try_from(memchr::memchr_iter(b'\n', lines).count()).unwrap_or(u64::MAX)
}

fn sequence_of(file: &File) -> Option<u64> {
    let mut start = [0; MAX_HEADER];
    let len = file.read_at(&mut start, 0).ok()?;
    parse_header(&start[..len]).map(|(sequence, _)| sequence)
}

/// Makes lines of what comes in any portions, and pieces of long lines.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Cutter {
    /// The start of a line whose end has not come yet, below [`MAX_PIECE`].
    rest: Vec<u8>,
}

impl Cutter {
    /// Tells `take` each line that is complete, and each piece of one that is too long: its text, and whether it goes on.
    pub(in crate::sandbox) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8], bool)) {
        let mut bytes = bytes;
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.pieces(&bytes[..end], &mut take);
            take(&self.rest, false);
            self.rest.clear();
            bytes = &bytes[end + 1..];
        }
        self.pieces(bytes, &mut take);
    }

    /// Cuts off what is more than a line may have; what is left is never more than one piece.
    fn pieces(&mut self, mut text: &[u8], take: &mut impl FnMut(&[u8], bool)) {
        while self.rest.len() + text.len() > MAX_PIECE {
            let (head, tail) = text.split_at(MAX_PIECE - self.rest.len());
            self.rest.extend_from_slice(head);
            take(&self.rest, true);
            self.rest.clear();
            text = tail;
        }
        self.rest.extend_from_slice(text);
    }

    /// The last line may have had no end.
    pub(in crate::sandbox) fn end(&mut self, take: impl FnOnce(&[u8])) {
        if !self.rest.is_empty() {
            take(&self.rest);
            self.rest.clear();
        }
    }
}
