//! Small files that must survive a crash at any step.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::LedgerError;

/// What a file is called until it is whole; whoever finds one at a start removes it.
pub(crate) const UNFINISHED: &str = "tmp";

/// The name under which the next content of `path` is made.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// Puts `bytes` at `path`: either the old content or the new one is there after a crash.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), LedgerError> {
    let temporary = unfinished(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(|source| LedgerError::io("create", &temporary, source))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(source) = written {
        // Not more than a stray file is lost if this fails too; the next start removes it.
        let _ = fs::remove_file(&temporary);
        return Err(LedgerError::io("write", &temporary, source));
    }
    move_into_place(&temporary, path)
}

/// Renames a finished and synced file and makes the new name durable.
pub(crate) fn move_into_place(from: &Path, to: &Path) -> Result<(), LedgerError> {
    fs::rename(from, to).map_err(|source| LedgerError::io("rename into", to, source))?;
    sync_parent(to)
}

/// Removes a file that may already be gone.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), LedgerError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(LedgerError::io("remove", path, source)),
        _ => Ok(()),
    }
}

/// Makes the names in the folder of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), LedgerError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|source| LedgerError::io("sync", parent, source))
}
