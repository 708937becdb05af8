//! A small file of one size that is written whole and in place.
//!
//! Its blocks are allocated when it is made, so that writing it needs no space afterwards. (A file system that copies on
//! write, btrfs or ZFS, takes new blocks all the same, of what it keeps back for itself.)

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::fault::StoreFault;

/// One such file.
#[derive(Debug, Clone)]
pub(super) struct Page {
    folder: PathBuf,
    path: PathBuf,
    size: usize,
}

impl Page {
    /// The file `name` of `folder`, which need not be there yet, of `size` bytes.
    pub(super) fn new(folder: &Path, name: &str, size: usize) -> Self {
        Self { folder: folder.to_owned(), path: folder.join(name), size }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes, one more than its size at the most; `None` where there is no file. A link is not followed.
    pub(super) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path);
        let mut bytes = Vec::new();
        match opened.and_then(|file| file.take(self.size as u64 + 1).read_to_end(&mut bytes)) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
            Ok(_) => Ok(Some(bytes)),
        }
    }

    /// Writes `bytes`, which may be its beginning alone. They are on the disk when this returns. Where there is no file,
    /// `whole` is asked for one. Blocks.
    pub(super) fn write(&self, bytes: &[u8], whole: impl FnOnce() -> Vec<u8>) -> Result<(), StoreFault> {
        debug_assert!(bytes.len() <= self.size);
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path);
        let file = match opened {
            Ok(file) => file,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return self.make(&whole()),
            Err(source) => return Err(StoreFault::io("open", &self.path, source)),
        };
        file.write_all_at(bytes, 0)
            .and_then(|()| file.sync_data())
            .map_err(|source| StoreFault::io("write", &self.path, source))
    }

    /// Makes it whole or not at all. It belongs to whom the folder belongs to: root may write for a daemon of its own user.
    pub(super) fn make(&self, whole: &[u8]) -> Result<(), StoreFault> {
        debug_assert_eq!(whole.len(), self.size);
        let fresh = self.path.with_extension("new");
        let fault = |doing| move |source| StoreFault::io(doing, &self.path, source);
        match std::fs::remove_file(&fresh) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(fault("make"))?,
        }
        let owner = std::fs::metadata(&self.folder).map_err(fault("make"))?;
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).and_then(|mut file| {
            if nix::unistd::geteuid().is_root() {
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            file.write_all(whole)?;
            file.sync_all()
        });
        let placed = written
            .and_then(|()| std::fs::rename(&fresh, &self.path))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        placed.map_err(|source| {
            // Nothing of it may stay: it would be taken for a page that somebody else makes.
            let _ = std::fs::remove_file(&fresh);
            StoreFault::io("make", &self.path, source)
        })
    }
}
