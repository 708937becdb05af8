//! Why the store does not have, or does not take, something.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the store could not be opened or a change was not made. Nothing of the change is there then.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// The file system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process has `{}` open: is a daemon running on this state folder?", .0.display())]
    InUse(PathBuf),
    /// A newer version wrote it.
    #[error(
        "`{}` has schema {found} and this version knows {known}: a newer version wrote it; start that version again, or \
         give this one a state folder of its own", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
    /// Something else's database, or no database.
    #[error("`{}` is not this program's: {detail}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is odd about it.
        detail: String,
    },
    /// What stands in it is not what was written.
    #[error("the state is damaged: {0}")]
    Damaged(String),
    /// No space is left.
    #[error("the disk of the state folder is full")]
    Full,
    /// More changes wait than may.
    #[error("too many changes of the state wait; try again")]
    Busy,
    /// The store was closed, or its thread is gone.
    #[error("the state is closed")]
    Closed,
    /// The database failed otherwise.
    #[error("the state cannot be used")]
    Database(#[source] rusqlite::Error),
}

impl StoreFault {
    /// The stable code, as logs and answers show it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Full => "store_full",
            Self::Newer { .. } => "store_newer",
            Self::Damaged(_) => "store_damaged",
            Self::Io { .. } | Self::InUse(_) | Self::Foreign { .. } | Self::Busy | Self::Closed | Self::Database(_) => {
                "store_unavailable"
            }
        }
    }

    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::Full;
        }
        Self::Io { doing, path: path.to_owned(), source }
    }
}

impl From<rusqlite::Error> for StoreFault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            Some(_) => Self::Database(error),
            None => match error {
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..) => Self::Damaged(error.to_string()),
                _ => Self::Database(error),
            },
        }
    }
}
