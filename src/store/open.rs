//! The file: made private, locked, checked, brought to this version's schema.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::fault::StoreFault;
use super::schema;

/// Its name in the state folder.
pub const FILE: &str = "state.db";

/// Longest wait for another process to let go: one that ends.
const LOCK_TIME: Duration = Duration::from_secs(2);

/// Pages of the write-ahead log after which it is folded in. 256: a megabyte, many changes of leases.
const CHECKPOINT_PAGES: i64 = 256;

/// Opens the state of `folder`, which must be there and private; makes it if there is none.
///
/// # Errors
/// See [`StoreFault`]; nothing is changed then.
pub(super) fn open(folder: &Path) -> Result<Connection, StoreFault> {
    let path = folder.join(FILE);
    make_private(folder, &path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags)?;
    let named = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreFault::InUse(path.clone()),
        Some(ErrorCode::NotADatabase) => StoreFault::Foreign { path: path.clone(), detail: error.to_string() },
        _ => error.into(),
    };
    settle(&connection).map_err(named)?;
    let found = schema::version(&connection).map_err(named)?;
    let application: i64 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(StoreFault::from)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(StoreFault::from)?;
    if application != schema::APPLICATION && (application, found, tables) != (0, 0, 0) {
        return Err(StoreFault::Foreign { path, detail: format!("its application id is {application:#x}") });
    }
    if found > schema::KNOWN {
        return Err(StoreFault::Newer { path, found, known: schema::KNOWN });
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(StoreFault::Damaged(verdict));
    }
    schema::migrate(&mut connection, found)?;
    Ok(connection)
}

/// Makes the file for its owner alone before SQLite sees it: the log beside it takes over its mode.
fn make_private(folder: &Path, path: &Path) -> Result<(), StoreFault> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|source| StoreFault::io("open", path, source))?;
    let metadata = file.metadata().map_err(|source| StoreFault::io("read", path, source))?;
    let foreign = |detail: String| Err(StoreFault::Foreign { path: path.to_owned(), detail });
    if !metadata.is_file() {
        return foreign("it is not a file".to_owned());
    }
    let (own, owner) = (nix::unistd::geteuid().as_raw(), metadata.uid());
    if own != owner && own != 0 {
        return foreign(format!("it belongs to uid {owner}"));
    }
    if metadata.mode() & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(0o600);
        file.set_permissions(private).map_err(|source| StoreFault::io("make private", path, source))?;
    }
    File::open(folder).and_then(|open| open.sync_all()).map_err(|source| StoreFault::io("sync", folder, source))
}

/// One process at a time, every commit on the disk before it is acknowledged, nothing clever in the schema.
fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_TIME)?;
    // Before the journal mode: the log's index then lies in this process's memory, and nobody else gets in.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!("the journal mode is {mode}")));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // What is sorted or taken back is small, and the daemon has no folder for temporary files.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // Takes the lock for good: without a statement that writes it would be taken at the first change only.
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")
}
