//! Looking at a name before opening it, and then opening exactly what was looked at.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::tree::TreeFault;

/// What a name leads to, held by a descriptor that can only be looked at.
pub(super) struct Look {
    pub(super) file: File,
    pub(super) kind: Seen,
    pub(super) executable: bool,
    pub(super) bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    File,
    Folder,
}

/// Looks at `name` in `folder` without opening it: opening a device or a pipe can do something.
pub(super) fn look(folder: Option<&File>, name: &[u8], shown: &Path) -> Result<Look, TreeFault> {
    let fault = |source: io::Error| TreeFault::Io { doing: "look at", path: shown.to_owned(), source };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = match folder {
        Some(folder) => openat(folder, name, flags, Mode::empty()),
        None => nix::fcntl::open(name, flags, Mode::empty()),
    };
    let file = File::from(opened.map_err(|error| fault(error.into()))?);
    let metadata = file.metadata().map_err(fault)?;
    let path = shown.display().to_string();
    let kind = metadata.file_type();
    let kind = if kind.is_dir() {
        Seen::Folder
    } else if kind.is_file() {
        Seen::File
    } else {
        let what = if kind.is_symlink() { "a symbolic link" } else { "a device, a pipe or a socket" };
        return Err(TreeFault::Kind { path, what });
    };
    if kind == Seen::File {
        if metadata.nlink() > 1 {
            return Err(TreeFault::SecondName { path });
        }
        if metadata.mode() & 0o7000 != 0 {
            return Err(TreeFault::Mode { path });
        }
    }
    Ok(Look { kind, executable: metadata.mode() & 0o100 != 0, bytes: metadata.len(), file })
}

/// Opens for reading what was looked at: the same inode, whatever its name leads to by now.
pub(super) fn open(looked_at: &File, shown: &str, more: OFlag) -> Result<File, TreeFault> {
    OpenOptions::new()
        .read(true)
        .custom_flags((more | OFlag::O_NONBLOCK).bits())
        .open(by_descriptor(looked_at))
        .map_err(|source| TreeFault::Io { doing: "open", path: PathBuf::from(shown), source })
}

/// proc(5): the entry leads to what the descriptor holds.
pub(super) fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
