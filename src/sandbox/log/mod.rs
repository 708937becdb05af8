//! What a command says, in two files that its init fills in turn.
//!
//! ```text
//!  command ──pipes──> init ──lines──> current ──full──> the other one, emptied
//!                                        ^                    ^
//!                         LogReader ─────┴── orders them by ──┘  #arw-log 7
//! ```
//!
//! The init can rename nothing (it has another root, and Landlock in force), so the first line of each file says where it
//! stands in the sequence. Every other line is `TIME STREAM TEXT`: the time in UTC with microseconds, the stream `out`,
//! `err` or `arw` for a word of the init's own. A line longer than [`MAX_PIECE`] is cut, and each piece but the last has a
//! `+` behind its stream. No byte of the text is changed: it may be of any encoding and steer terminals, so
//! [`Line::shown`] is what a person sees.
//!
//! A full disk stops no command: lines are lost, counted, and told of once something can be written again. The text of a
//! command cannot pass for a header, another stream or another time: a header counts at the very start of a file only,
//! and in front of every line of a command stands what the init put there.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

pub use read::{Batch, LogReader};
pub(super) use write::{Cutter, Writer};

/// Most bytes of one file unless somebody says otherwise: two of them hold some hundred thousand lines.
pub const DEFAULT_BOUND: u64 = 8 << 20;
/// Fewest that make sense: a file holds a few of the longest pieces.
pub const LEAST_BOUND: u64 = 128 << 10;
/// Longest piece of a line.
pub const MAX_PIECE: usize = 16 << 10;

/// Whose words a line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The command's standard output.
    Out,
    /// Its standard error.
    Err,
    /// The init's own: lines were lost.
    Gateway,
}

impl Stream {
    /// As it stands in the file.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Err => "err",
            Self::Gateway => "arw",
        }
    }
}

/// A line, or a piece of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When the init read it.
    pub at: Timestamp,
    /// Whose it is.
    pub stream: Stream,
    /// The text, unchanged.
    pub text: Vec<u8>,
    /// The next line of the same stream goes on where this one was cut.
    pub continues: bool,
}

impl Line {
    /// The text for a person: without anything that steers a terminal, and with a replacement for what is not UTF-8.
    pub fn shown(&self) -> String {
        let mut shown = String::with_capacity(self.text.len());
        for letter in String::from_utf8_lossy(&self.text).chars() {
            match letter {
                '\t' => shown.push(letter),
                // A line break of another system.
                '\r' if shown.len() + 1 == self.text.len() => {}
                letter if letter.is_control() || steers(letter) => {
                    let _ = write!(shown, "\\u{{{:x}}}", u32::from(letter));
                }
                letter => shown.push(letter),
            }
        }
        shown
    }

    /// Reads it as it stands in the file, without its line break.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (at, rest) = bytes.split_at_checked(TIME)?;
        let at = Timestamp::parse(std::str::from_utf8(at).ok()?).ok()?;
        let (code, rest) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
        let stream =
            [Stream::Out, Stream::Err, Stream::Gateway].into_iter().find(|one| one.code().as_bytes() == code)?;
        let (continues, rest) = rest.strip_prefix(b"+").map_or((false, rest), |rest| (true, rest));
        Some(Self { at, stream, text: rest.strip_prefix(b" ")?.to_vec(), continues })
    }
}

/// Unicode's own ways to show text in another order than it has.
const fn steers(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Length of a time: `2026-11-22T10:31:21.123456Z`.
const TIME: usize = 27;

/// A place in a log, at the start of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Of the file.
    pub sequence: u64,
    /// In the file.
    pub offset: u64,
}

impl Place {
    /// Before the oldest line that there is.
    pub const START: Self = Self { sequence: 0, offset: 0 };
}

/// The two files for [`Streams::log`](super::Streams), made if they are not there: for the owner alone, never emptied, and
/// no link followed at the end of the path.
///
/// # Errors
/// What opening them gives.
pub fn open(paths: &[PathBuf; 2]) -> io::Result<[File; 2]> {
    let open = |path: &Path| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(path)
    };
    Ok([open(&paths[0])?, open(&paths[1])?])
}

/// The first line of a file.
fn header(sequence: u64) -> Vec<u8> {
    format!("{HEADER}{sequence}\n").into_bytes()
}

const HEADER: &str = "#arw-log ";

/// The sequence number of a file that starts with these bytes, and the length of its header.
fn parse_header(start: &[u8]) -> Option<(u64, u64)> {
    let end = start.iter().take(MAX_HEADER).position(|byte| *byte == b'\n')?;
    let digits = start[..end].strip_prefix(HEADER.as_bytes())?;
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let sequence = std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    Some((sequence, u64::try_from(end + 1).ok()?))
}

/// Longest header: the prefix, 20 digits, the line break.
const MAX_HEADER: usize = 32;
