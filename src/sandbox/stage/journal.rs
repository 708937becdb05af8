//! The command's standard output and error, copied into its log: by the init, so that it goes on while no owner is there.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::domain::{Clock, SystemClock};
use crate::sandbox::log::{Cutter, Stream, Writer};
use crate::sys::descriptor;

use super::launcher::LogFiles;

/// The reading ends, and where it goes.
pub(super) struct Journal {
    writer: Writer,
    streams: [Reading; 2],
    buffer: Vec<u8>,
}

struct Reading {
    stream: Stream,
    /// Until nobody can write into the other end any more.
    pipe: Option<PipeReader>,
    cutter: Cutter,
}

/// What is read at once: as much as a pipe holds (`pipe(7)`), so that one stream does not keep the rest waiting.
const AT_ONCE: usize = 64 << 10;

/// What may still lie in a pipe when the command ends: the most that a user can make one hold
/// (`/proc/sys/fs/pipe-max-size`). Whoever writes on meanwhile is not waited for.
const LAST_WORDS: usize = 1 << 20;

/// The standard streams for the command, and the journal that reads two of them.
pub(super) fn open(log: LogFiles, standard: [OwnedFd; 3]) -> io::Result<([OwnedFd; 3], Option<Journal>)> {
    let [stdin, _, _] = standard;
    // Made by the command's own user, who may thus open `/dev/stdout` again.
    let ((out, to_out), (err, to_err)) = (io::pipe()?, io::pipe()?);
    let reading = |stream, pipe: PipeReader| {
        descriptor::set_nonblocking(&pipe)?;
        io::Result::Ok(Reading { stream, pipe: Some(pipe), cutter: Cutter::default() })
    };
    let streams = [reading(Stream::Out, out)?, reading(Stream::Err, err)?];
    let writer = Writer::open(log.files.map(std::fs::File::from), log.bound);
    let journal = Journal { writer, streams, buffer: vec![0; AT_ONCE] };
    Ok(([stdin, to_out.into(), to_err.into()], Some(journal)))
}

impl Journal {
    /// Where something may be read, by number.
    pub(super) fn open_streams(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let streams = self.streams.iter().enumerate();
        streams.filter_map(|(which, reading)| Some((which, reading.pipe.as_ref()?.as_fd())))
    }

    /// Copies what is there, at most [`AT_ONCE`]. Hands back how much that was.
    pub(super) fn copy(&mut self, which: usize) -> usize {
        let Self { writer, streams, buffer } = self;
        let Some(reading) = streams.get_mut(which) else { return 0 };
        let Some(pipe) = &mut reading.pipe else { return 0 };
        let (stream, now) = (reading.stream, SystemClock.now());
        match pipe.read(buffer) {
            Ok(0) => {
                reading.pipe = None;
                reading.cutter.end(|text| writer.line(now, stream, text, false));
                writer.flush(now);
                0
            }
            Ok(len) => {
                reading.cutter.feed(&buffer[..len], |text, continues| writer.line(now, stream, text, continues));
                writer.flush(now);
                len
            }
            Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(_) => {
                reading.pipe = None;
                0
            }
        }
    }

    /// Copies the last words, and what had no line's end.
    pub(super) fn finish(&mut self) {
        for which in 0..self.streams.len() {
            let mut copied = 0;
            while copied < LAST_WORDS {
                match self.copy(which) {
                    0 => break,
                    len => copied += len,
                }
            }
        }
        let Self { writer, streams, .. } = self;
        let now = SystemClock.now();
        for reading in streams {
            let stream = reading.stream;
            reading.cutter.end(|text| writer.line(now, stream, text, false));
        }
        writer.flush(now);
    }
}
