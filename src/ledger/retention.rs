//! Letting old segments go. Only sealed ones, oldest first, never below 90 days; the tree stays whole.

use std::path::Path;
use std::time::Duration;

use super::error::LedgerError;
use super::files;
use super::record::{Kind, Record};
use super::seal::SegmentRecord;
use super::segment::{self, Files, MARKS, REMOVED, SEAL, ZSTD};
use super::shared::{Shared, lock};
use crate::domain::Timestamp;

/// Segments removed in one pass: a clock that is wrong for an hour takes no more than these.
const MAX_REMOVED_PER_PASS: usize = 16;

/// Removes sealed segments whose last line is older than the settings keep. Each removal is a line of
/// the ledger first, signed and synced, so that nobody can remove a segment and call it age.
pub(crate) fn remove_old(shared: &Shared, now: Timestamp) -> Result<(), LedgerError> {
    let keep = Duration::from_secs(u64::from(shared.retention_days) * 86_400);
    let sealed_only = Files { zstd: true, seal: true, ..Files::default() };
    let mut removed_end = 0;
    let candidates = segment::list(&shared.dir)?.into_iter().filter(|(_, files)| !files.removed);
    for (first, files) in candidates.take(MAX_REMOVED_PER_PASS) {
        if files != sealed_only {
            break;
        }
        let record = SegmentRecord::load(&segment::path(&shared.dir, first, SEAL), shared.signer.verifier(), first)?;
        if now.since(record.last_time) < keep {
            break;
        }
        let told = format!(
            "retention removes the lines {first} to {}, of {} to {}, kept for {} days",
            record.last, record.first_time, record.last_time, shared.retention_days
        );
        shared.append(&Record { detail: Some(&told), ..Record::new(Kind::Note) })?;
        shared.checkpoint()?;
        removed_end = record.last;
        let record = SegmentRecord { removed_at: Some(now), ..record };
        let signed = record.sign(&shared.signer);
        files::replace(&segment::path(&shared.dir, first, REMOVED), signed.as_bytes(), 0o600)?;
        finish_removal(&shared.dir, first)?;
    }
    if removed_end > 0 {
        lock(&shared.checkpoints).log.forget_below(removed_end, shared.signer.verifier())?;
    }
    Ok(())
}

/// Removes the files of a segment whose removal is on record.
pub(crate) fn finish_removal(dir: &Path, first: u64) -> Result<(), LedgerError> {
    for extension in [ZSTD, MARKS, SEAL] {
        files::remove_if_there(&segment::path(dir, first, extension))?;
    }
    files::sync_parent(&segment::path(dir, first, REMOVED))
}
