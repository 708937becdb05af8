//! One file in the place of another, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Puts `text` in the place of the file at `path`, which must be one. Its mode, and for root its owner, stay. It is on the
/// disk when this returns; after a crash the old file is there or the new one.
///
/// # Errors
/// Those of the file system; the old file is there then, unless only the last sync failed.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let old = path.symlink_metadata()?;
    if !old.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a link or no file: nothing is put in its place",
        ));
    }
    let fresh = beside(path);
    // Left by a crash; only the keeper writes here.
    match std::fs::remove_file(&fresh) {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
        _ => {}
    }
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).and_then(|mut file| {
        if nix::unistd::geteuid().is_root() {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o777))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&fresh, path)).inspect_err(|_| {
        // Hidden, so nobody takes it for a persona; the next attempt removes it if this cannot.
        let _ = std::fs::remove_file(&fresh);
    })?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Where the next text of a file waits: hidden, and no `.toml`, so no reader of the folder takes it for a persona.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.proposed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_file_has_the_place_and_the_mode_of_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("demo.toml");
        std::fs::write(&path, "old").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("ours");
        std::fs::write(beside(&path), "left by a crash").expect("written");
        replace(&path, "new").expect("replaced");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "new");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1, "nothing is left");
    }

    #[test]
    fn a_link_is_neither_followed_nor_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, victim) = (folder.path().join("demo.toml"), folder.path().join("victim"));
        std::fs::write(&victim, "precious").expect("written");
        std::os::unix::fs::symlink(&victim, &path).expect("linked");
        assert!(replace(&path, "new").is_err());
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "precious");
        assert!(path.is_symlink());
        assert!(replace(&folder.path().join("missing.toml"), "new").is_err());
        // A link where the new text waits is not written through.
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "old").expect("written");
        std::os::unix::fs::symlink(&victim, beside(&path)).expect("linked");
        replace(&path, "new").expect("the link is taken away");
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "precious");
    }
}
