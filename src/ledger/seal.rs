//! What is signed about a whole segment, and how a full segment becomes a sealed one.
//!
//! The record lets a start, a proof and a verification use a segment without reading it, and it is
//! what stays when retention removes the segment: the tree's shape and the span of time, no line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::active::SegmentLines;
use super::error::LedgerError;
use super::files;
use super::merkle::{CompactRange, Hash};
use super::note::{NoteSigner, VerifierKey};
use super::segment::{self, Form, LineReader, MARKS, PLAIN, ZSTD};
use crate::domain::Timestamp;

/// What the first line of the signed text says behind the origin, so that nobody can take this for a
/// checkpoint: a checkpoint's first line is the origin alone.
const PURPOSE: &str = " segment";

/// 3: the default of zstd; lines shrink about tenfold, and more effort gives a few per cent.
const ZSTD_LEVEL: i32 = 3;

/// What is known of a whole segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of its lines, uncompressed.
    pub(crate) bytes: u64,
    pub(crate) first_time: Timestamp,
    pub(crate) last_time: Timestamp,
    /// Hashes of its largest aligned subtrees, left to right.
    pub(crate) nodes: Vec<Hash>,
    /// When retention removed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) removed_at: Option<Timestamp>,
}

impl SegmentRecord {
    /// The part of the tree that the segment is; `None` if the hashes do not fit the numbers.
    pub(crate) fn range(&self) -> Option<CompactRange> {
        CompactRange::from_hashes(self.first.checked_sub(1)?, self.last, &self.nodes)
    }

    /// The signed text.
    pub(crate) fn sign(&self, signer: &NoteSigner) -> String {
        let json = serde_json::to_string(self).expect("plain data always becomes JSON");
        signer.sign(&format!("{}{PURPOSE}\n{json}\n", signer.verifier().name()))
    }

    /// Reads the signed record at `path` and checks it against itself.
    pub(crate) fn load(path: &Path, key: &VerifierKey, first: u64) -> Result<Self, LedgerError> {
        let note = fs::read_to_string(path).map_err(|source| LedgerError::io("read", path, source))?;
        let text = key.open(&note).map_err(|source| LedgerError::Note { path: path.to_owned(), source })?;
        let fault = |detail: &str| LedgerError::damaged(path, None, Some(first), detail);
        let json = text
            .strip_prefix(key.name())
            .and_then(|rest| rest.strip_prefix(PURPOSE))
            .and_then(|rest| rest.strip_prefix('\n'))
            .ok_or_else(|| fault("signed, but not as the record of a segment"))?;
        let record: Self = serde_json::from_str(json).map_err(|error| fault(&error.to_string()))?;
        if record.first != first || record.range().is_none() {
            return Err(fault("the record is that of another segment"));
        }
        Ok(record)
    }
}

/// Makes the sealed form of a full, synced segment beside its plain file: marks, signed record, and a
/// compressed copy that was read back and compared. The plain file may go after that
/// ([`remove_plain`]). Every step leaves a folder that a start and a reader understand, and doing it
/// all again is harmless.
pub(crate) fn seal(dir: &Path, record: &SegmentRecord, marks: &[u32], signer: &NoteSigner) -> Result<(), LedgerError> {
    let first = record.first;
    files::replace(&segment::path(dir, first, MARKS), &marks_to_bytes(marks), 0o600)?;
    files::replace(&segment::path(dir, first, segment::SEAL), record.sign(signer).as_bytes(), 0o600)?;
    let (plain, packed) = (segment::path(dir, first, PLAIN), segment::path(dir, first, ZSTD));
    let temporary = files::unfinished(&packed);
    compress(&plain, &temporary).map_err(|source| LedgerError::io("compress", &plain, source))?;
    files::move_into_place(&temporary, &packed)?;
    let reread = SegmentLines::read_all(LineReader::open_form(dir, first, Form::Zstd)?, first)?;
    if Some(reread.range) != record.range() {
        return Err(LedgerError::damaged(&plain, None, Some(first), "the segment changed since it was written"));
    }
    Ok(())
}

/// The last step of a seal: only the compressed copy stays.
pub(crate) fn remove_plain(dir: &Path, first: u64) -> Result<(), LedgerError> {
    let plain = segment::path(dir, first, PLAIN);
    files::remove_if_there(&plain)?;
    files::sync_parent(&plain)
}

fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let mut encoder = zstd::stream::write::Encoder::new(BufWriter::new(out), ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    io::copy(&mut BufReader::new(File::open(from)?), &mut encoder)?;
    let out = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.sync_all()
}

/// Marks as they are stored: big endian, one after the other.
pub(crate) fn marks_to_bytes(marks: &[u32]) -> Vec<u8> {
    marks.iter().flat_map(|mark| mark.to_be_bytes()).collect()
}

/// The marks of a segment as far as they are there: they only help to name a line.
pub(crate) fn load_marks(dir: &Path, first: u64) -> Vec<u32> {
    let bytes = fs::read(segment::path(dir, first, MARKS)).unwrap_or_default();
    bytes.as_chunks::<4>().0.iter().map(|mark| u32::from_be_bytes(*mark)).collect()
}
