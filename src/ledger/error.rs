//! What can go wrong with the ledger.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::note::NoteFault;
use crate::domain::Timestamp;

/// Why the ledger does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Nothing can be appended now; every next append tries again.
    #[error("the ledger cannot write since {since}: {cause}: {detail}")]
    Unavailable {
        /// The kind of trouble.
        cause: Cause,
        /// What exactly failed.
        detail: String,
        /// Since when.
        since: Timestamp,
    },
    /// The ledger was shut down.
    #[error("the ledger is shut down")]
    Closed,
    /// Another process has it.
    #[error("the ledger in `{0}` is in use by another process")]
    InUse(PathBuf),
    /// A setting that cannot be.
    #[error("ledger setting `{key}`: {message}")]
    Setting {
        /// The key, as in the settings.
        key: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The ledger's key file.
    #[error("the key `{path}`: {detail}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// What is on the disk is not what was written and signed.
    #[error("the ledger is damaged: {0}")]
    Damaged(Place),
    /// A signed note that is not believed.
    #[error("`{path}`: {source}")]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoteFault,
    },
    /// No such line.
    #[error("there is no line {seq}: {why}")]
    NoLine {
        /// The sequence number asked for.
        seq: u64,
        /// Not yet written, not yet signed, or removed by retention.
        why: &'static str,
    },
    /// The file system.
    #[error("cannot {doing} `{path}`: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl LedgerError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(file: &Path, line: Option<u64>, seq: Option<u64>, detail: impl Into<String>) -> Self {
        Self::Damaged(Place { file: file.to_owned(), line, seq, detail: detail.into() })
    }
}

/// Where something is wrong, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line in that file, from 1.
    pub line: Option<u64>,
    /// Sequence number of the line, or the one that should be there.
    pub seq: Option<u64>,
    /// What is wrong; lower case, no full stop.
    pub detail: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, " (seq {seq})")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// Why nothing can be appended. The code never changes once released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No space, no quota, or the process's file size limit.
    DiskFull,
    /// The file system is read-only.
    ReadOnly,
    /// Less space is left than the settings reserve.
    BelowReserve,
    /// The disk failed a write.
    WriteFailed,
    /// The disk failed a sync: what was written since the last one is in doubt.
    SyncFailed,
    /// The active file was removed, replaced or changed by somebody else.
    FileChanged,
}

impl Cause {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::ReadOnly => "read_only",
            Self::BelowReserve => "below_reserve",
            Self::WriteFailed => "write_failed",
            Self::SyncFailed => "sync_failed",
            Self::FileChanged => "file_changed",
        }
    }

    /// The cause behind a failed write, create or truncate.
    pub(crate) fn of_write(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::DiskFull,
            Some(libc::EROFS) => Self::ReadOnly,
            _ => Self::WriteFailed,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Cause {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}
