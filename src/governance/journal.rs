//! Lines that are on the disk before they count: one JSON object each, appended and never changed.
//!
//! A crash can leave a last line without its end. It was never acknowledged, so readers pass over it and the next
//! append cuts it off. A broken line anywhere else is a fault: what was recorded is not guessed at.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest journal that is read: a hundred thousand acknowledgements.
const MAX_BYTES: u64 = 64 << 20;
/// Longest line, in bytes.
const MAX_LINE: usize = 64 << 10;
/// Longest wait for another command that holds the lock: it only writes a few files.
const LOCK_TIME: Duration = Duration::from_secs(30);
/// How often a held lock is tried again: nothing can wake the waiter.
const LOCK_TICK: Duration = Duration::from_millis(20);

/// Why a journal, or a file beside it, could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalFault {
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
    /// A line is not what was written.
    #[error("`{}` is damaged in line {line}: {detail}", path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// How.
        detail: String,
    },
    /// More than is ever written.
    #[error("`{}` is larger than {MAX_BYTES} bytes", path.display())]
    TooLarge {
        /// The journal.
        path: PathBuf,
    },
    /// Somebody else could change what is written there.
    #[error("`{}` is a link, belongs to another user (uid {uid}) or can be written by others: run as its owner", path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Another command works on it.
    #[error("another command has held `{}` for too long", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
}

impl JournalFault {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }
}

/// One file of lines.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal at `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every whole line, oldest first; none when there is no file.
    ///
    /// # Errors
    /// A line that cannot be read: nothing is left out silently.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Vec<T>, JournalFault> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(JournalFault::io("open", &self.path, source)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| JournalFault::io("read", &self.path, source))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(JournalFault::TooLarge { path: self.path.clone() });
        }
        let whole = whole_lines(&bytes);
        let lines = bytes[..whole].split_terminator_lines().enumerate();
        lines
            .map(|(index, line)| {
                serde_json::from_slice(line).map_err(|error| JournalFault::Damaged {
                    path: self.path.clone(),
                    line: index + 1,
                    detail: error.to_string(),
                })
            })
            .collect()
    }

    /// Appends one line. It is on the disk, and so is the file's name, when this returns.
    ///
    /// # Errors
    /// Those of the file system; then the line does not count, whatever part of it was written.
    pub fn append<T: Serialize>(&self, entry: &T) -> Result<(), JournalFault> {
        let fault = |doing| move |source| JournalFault::io(doing, &self.path, source);
        let mut line =
            serde_json::to_vec(entry).map_err(|error| JournalFault::io("write", &self.path, error.into()))?;
        if line.len() >= MAX_LINE {
            return Err(JournalFault::io("write", &self.path, io::Error::other("the line is too long")));
        }
        line.push(b'\n');
        let parent = self.path.parent().unwrap_or(Path::new("."));
        make_private_folder(parent)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path)
            .map_err(fault("open"))?;
        lock(&file, &self.path)?;
        let whole = self.end_of_last_line(&mut file).map_err(fault("read"))?;
        file.set_len(whole).map_err(fault("shorten"))?;
        file.seek(SeekFrom::Start(whole)).map_err(fault("write"))?;
        let written = file.write_all(&line).and_then(|()| file.sync_all());
        if let Err(source) = written {
            // A part of it may stand there, without its end: readers pass over it.
            let _ = file.set_len(whole);
            return Err(JournalFault::io("write", &self.path, source));
        }
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(fault("sync the folder of"))
    }

    fn end_of_last_line(&self, file: &mut File) -> io::Result<u64> {
        let length = file.metadata()?.len();
        let tail = length.min(MAX_LINE as u64);
        file.seek(SeekFrom::Start(length - tail))?;
        let mut bytes = Vec::new();
        Read::by_ref(file).take(tail).read_to_end(&mut bytes)?;
        match memchr::memrchr(b'\n', &bytes) {
            Some(at) => Ok(length - tail + at as u64 + 1),
            // Not more than one line was ever begun.
            None if length == tail => Ok(0),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "the last line has no end")),
        }
    }
}

/// How many bytes belong to lines that have their end.
fn whole_lines(bytes: &[u8]) -> usize {
    memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1)
}

trait Lines {
    fn split_terminator_lines(&self) -> impl Iterator<Item = &[u8]>;
}

impl Lines for [u8] {
    fn split_terminator_lines(&self) -> impl Iterator<Item = &[u8]> {
        let count = memchr::memchr_iter(b'\n', self).count();
        self.split(|byte| *byte == b'\n').take(count)
    }
}

/// A folder that only its owner enters, with those above it that are not there yet.
///
/// # Errors
/// When it or the one above it belongs to somebody else or can be written by others: they could put a link in the
/// place of what is written next.
pub(super) fn make_private_folder(path: &Path) -> Result<(), JournalFault> {
    let fault = |source| JournalFault::io("make", path, source);
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault)?;
    let own = nix::unistd::geteuid().as_raw();
    for folder in [Some(path), path.parent().filter(|parent| !parent.as_os_str().is_empty())].into_iter().flatten() {
        let metadata = folder.symlink_metadata().map_err(fault)?;
        if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
            return Err(JournalFault::Owner { path: folder.to_owned(), uid: metadata.uid() });
        }
    }
    Ok(())
}

/// Waits for the lock of `file`; it ends with the file.
pub(super) fn lock(file: &File, path: &Path) -> Result<(), JournalFault> {
    let deadline = Instant::now() + LOCK_TIME;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_TICK),
            Err(TryLockError::WouldBlock) => return Err(JournalFault::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(JournalFault::io("lock", path, source)),
        }
    }
}

/// The next content of a file, on the disk and not in its place yet. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Replacement<'p> {
    path: &'p Path,
    temporary: PathBuf,
}

impl<'p> Replacement<'p> {
    /// Writes `bytes` beside `path`: what could fail for want of space has happened when this returns.
    pub(super) fn prepare(path: &'p Path, bytes: &[u8], mode: u32) -> Result<Self, JournalFault> {
        let fault = |doing| move |source| JournalFault::io(doing, path, source);
        let mut name = path.as_os_str().to_owned();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        // Left by a crash; nobody else writes it, since the caller holds the lock.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault("replace")(error)),
            _ => {}
        }
        let replacement = Self { path, temporary };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&replacement.temporary);
        let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(fault("replace"))?;
        Ok(replacement)
    }

    /// Puts it in place: the old content or the new one is there after a crash, and the name is durable.
    pub(super) fn commit(self) -> Result<(), JournalFault> {
        std::fs::rename(&self.temporary, self.path).map_err(|source| JournalFault::io("replace", self.path, source))?;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        // Renamed away when it was committed.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Puts `bytes` at `path`.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), JournalFault> {
    Replacement::prepare(path, bytes, mode)?.commit()
}

/// Makes the names in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), JournalFault> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(|source| JournalFault::io("sync", folder, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::new(folder.path().join("a/b/lines.jsonl"));
        (folder, journal)
    }

    #[test]
    fn what_was_appended_is_read_back_in_order() {
        let (_folder, journal) = journal();
        assert_eq!(journal.read::<u32>().expect("nothing yet").len(), 0);
        for number in 0..5_u32 {
            journal.append(&number).expect("written");
        }
        assert_eq!(journal.read::<u32>().expect("read"), [0, 1, 2, 3, 4]);
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(journal.path()), mode(journal.path().parent().expect("a folder"))), (0o600, 0o700));
    }

    #[test]
    fn a_crash_at_any_byte_of_the_last_line_loses_that_line_only() {
        let (_folder, journal) = journal();
        journal.append(&"first").expect("written");
        let before = std::fs::read(journal.path()).expect("there").len();
        journal.append(&"second").expect("written");
        let whole = std::fs::read(journal.path()).expect("there");
        for cut in before..whole.len() {
            std::fs::write(journal.path(), &whole[..cut]).expect("cut");
            assert_eq!(journal.read::<String>().expect("read"), ["first"], "{cut}");
            journal.append(&"third").expect("goes on");
            assert_eq!(journal.read::<String>().expect("read"), ["first", "third"], "{cut}");
        }
    }

    #[test]
    fn a_broken_line_before_the_end_is_a_fault() {
        let (_folder, journal) = journal();
        journal.append(&1_u32).expect("written");
        std::fs::write(journal.path(), "1\nx\n3\n").expect("broken");
        let fault = journal.read::<u32>().expect_err("damaged");
        assert!(matches!(fault, JournalFault::Damaged { line: 2, .. }), "{fault}");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let (folder, journal) = journal();
        journal.append(&1_u32).expect("written");
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "precious").expect("written");
        std::fs::remove_file(journal.path()).expect("removed");
        std::os::unix::fs::symlink(&victim, journal.path()).expect("linked");
        assert!(journal.append(&2_u32).is_err());
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "precious");
    }

    #[test]
    fn a_folder_that_others_can_change_is_not_written() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::new(folder.path().join("state/consent/lines.jsonl"));
        journal.append(&1_u32).expect("ours");
        for (name, mode) in [("state", 0o777), ("state", 0o770), ("state/consent", 0o720)] {
            let path = folder.path().join(name);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
            let fault = journal.append(&2_u32).expect_err("others can write there");
            assert!(matches!(fault, JournalFault::Owner { .. }), "{name} {mode:o}: {fault}");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("ours");
        }
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(folder.path().join("state/consent"), &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("state/consent")).expect("linked");
        assert!(matches!(journal.append(&2_u32), Err(JournalFault::Owner { .. })));
        if nix::unistd::geteuid().is_root() {
            let theirs = folder.path().join("theirs");
            std::fs::create_dir(&theirs).expect("made");
            std::os::unix::fs::chown(&theirs, Some(65_501), None).expect("root");
            let journal = Journal::new(theirs.join("consent/lines.jsonl"));
            assert!(matches!(journal.append(&1_u32), Err(JournalFault::Owner { uid: 65_501, .. })));
        }
        assert_eq!(Journal::new(elsewhere.join("lines.jsonl")).read::<u32>().expect("read"), [1]);
    }

    #[test]
    fn many_writers_lose_nothing() {
        let (_folder, journal) = journal();
        std::thread::scope(|scope| {
            for writer in 0..4_u32 {
                let journal = &journal;
                scope.spawn(move || {
                    for number in 0..10 {
                        journal.append(&(writer * 10 + number)).expect("written");
                    }
                });
            }
        });
        let mut all = journal.read::<u32>().expect("read");
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
    }
}
