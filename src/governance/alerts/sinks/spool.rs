//! A queue on the disk: one file per event, in a folder of the route's own.
//!
//! A file is written beside its place and renamed into it, so it is there whole or not at all when the daemon is killed.
//! Those of alerts are synced before they count; of other events a crash of the machine may take the last few.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::parcel::Parcel;

/// Files in one spool. 10 000: a folder that any file system lists at once.
const MAX_FILES: usize = 10_000;
/// End of the name of a file that is in its place.
const WHOLE: &str = ".json";
/// End of the name of one that is being written.
const PART: &str = ".part";
/// Bytes of one file: above every event.
const MAX_FILE: u64 = 1 << 20;

/// Why the spool did not take an event.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolFault {
    /// It is as large as it may be.
    #[error("the spool is full")]
    Full,
    /// The file system refused.
    #[error("the spool `{}` cannot be used: {source}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The first event.
#[derive(Debug)]
pub(super) enum Spooled {
    /// With its place.
    Whole(u64, Parcel),
    /// It could not be read, and was removed.
    Broken,
}

/// One spool. It belongs to this process alone: the state folder is locked.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    /// Places and sizes, oldest first.
    files: VecDeque<(u64, u64)>,
    bytes: u64,
    bound: u64,
    next: u64,
}

impl Spool {
    /// Opens the spool in `folder`; makes it if there is none. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(super) fn open(folder: &Path, bound: u64) -> Result<Self, SpoolFault> {
        let fault = |source| SpoolFault::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fault)?;
        let metadata = folder.symlink_metadata().map_err(fault)?;
        if !metadata.is_dir() || metadata.mode() & 0o022 != 0 {
            return Err(fault(io::Error::other("it is no folder, or others may write to it")));
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(PART) {
                // The daemon was killed while it wrote it: whoever gave it was not told that it was taken.
                let _ = fs::remove_file(entry.path());
            } else if let Some(place) = name.strip_suffix(WHOLE).and_then(|place| place.parse().ok()) {
                files.push((place, entry.metadata().map_err(fault)?.len()));
            }
        }
        files.sort_unstable();
        let next = files.last().map_or(0, |(place, _)| place + 1);
        let bytes = files.iter().map(|(_, size)| size).sum();
        Ok(Self { folder: folder.to_owned(), files: files.into(), bytes, bound, next })
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn set_bound(&mut self, bytes: u64) {
        self.bound = bytes;
    }

    /// Adds an event. Events that are no alerts leave half of the room to those that are. Blocks.
    ///
    /// # Errors
    /// It is not in the spool then.
    pub(super) fn put(&mut self, parcel: &Parcel) -> Result<(), SpoolFault> {
        let size = parcel.body.len() as u64;
        let share = if parcel.alert { 1 } else { 2 };
        if self.files.len() >= MAX_FILES / share || self.bytes.saturating_add(size) > self.bound / share as u64 {
            return Err(SpoolFault::Full);
        }
        let place = self.next;
        let path = self.path(place);
        let part = path.with_extension("part");
        let fault = |source| SpoolFault::Io { path: path.clone(), source };
        // A name is used once, whatever became of it.
        self.next += 1;
        let written = write(&part, parcel.body.as_bytes(), parcel.alert).and_then(|()| fs::rename(&part, &path));
        if let Err(source) = written {
            let _ = fs::remove_file(&part);
            return Err(fault(source));
        }
        self.files.push_back((place, size));
        self.bytes += size;
        if parcel.alert {
            File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(fault)?;
        }
        Ok(())
    }

    /// The oldest event; it stays. Blocks.
    pub(super) fn first(&mut self) -> Option<Spooled> {
        let (place, _) = *self.files.front()?;
        match read(&self.path(place)).as_deref().and_then(Parcel::parse) {
            Some(parcel) => Some(Spooled::Whole(place, parcel)),
            None => {
                self.remove(place);
                Some(Spooled::Broken)
            }
        }
    }

    /// Removes an event. Blocks.
    pub(super) fn remove(&mut self, place: u64) {
        let Some(index) = self.files.iter().position(|(other, _)| *other == place) else { return };
        // A file that cannot be removed is delivered again after a restart: with the same id.
        let _ = fs::remove_file(self.path(place));
        if let Some((_, size)) = self.files.remove(index) {
            self.bytes -= size;
        }
    }

    fn path(&self, place: u64) -> PathBuf {
        self.folder.join(format!("{place:020}{WHOLE}"))
    }
}

fn write(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)?;
    file.write_all(bytes)?;
    if sync { file.sync_all() } else { Ok(()) }
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}
