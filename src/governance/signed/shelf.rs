//! Where verified material is kept.
//!
//! ```text
//! <state>/recipes/
//!   lock                                   one writer at a time
//!   staging/…                              what is being copied; whatever a crash left is removed by the next writer
//!   versions/<id>/<version>/content/…      files, read-only; renamed into place whole and never changed
//!   versions/<id>/<version>/signature      the signature file
//!   records/<id>.json                      which version is in force; replaced whole
//!   journal.jsonl                          who did what, when
//! ```
//!
//! The version's folder is in place before the record names it, so at any moment the old version is in force or the
//! new one is. A version keeps its content: the same number with other files is refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::domain::Timestamp;

use super::super::journal::{self, Journal, JournalFault, Replacement};
use super::record::{Act, Entry, Record, Retired, Revision, Status};
use super::statement::Signed;
use super::tree::{self, Material, Shape, Tree, TreeFault};
use super::version::Version;

/// Largest record, in bytes: thousands of revisions.
const MAX_RECORD: u64 = 1 << 20;
/// Most records that are listed.
const MAX_RECORDS: usize = 4_096;

/// Which versions may take the place of the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Only those above every earlier one.
    Newer,
    /// Older ones too: somebody asked for it.
    OlderToo,
}

/// Why something was not put on the shelf or taken from it.
#[derive(Debug, thiserror::Error)]
pub enum ShelfFault {
    /// The material is not taken.
    #[error(transparent)]
    Tree(#[from] TreeFault),
    /// The shelf's own files.
    #[error(transparent)]
    Files(#[from] JournalFault),
    /// A record is not what was written.
    #[error("the record `{}` is damaged: {detail}", path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// How.
        detail: String,
    },
    /// There is no such thing.
    #[error("`{0}` is not installed")]
    Unknown(String),
    /// It was retired.
    #[error("`{id}` was retired by {by}: {note}")]
    Retired {
        /// What.
        id: String,
        /// By whom.
        by: String,
        /// Why.
        note: String,
    },
    /// Another content under a version that is there.
    #[error("version {version} of `{id}` is here with other files: give it a new version")]
    SameVersion {
        /// Of what.
        id: String,
        /// Which.
        version: Version,
    },
    /// Not newer than what was here.
    #[error("version {version} of `{id}` is older than {highest}, which was here already")]
    Older {
        /// Of what.
        id: String,
        /// Which.
        version: Version,
        /// The highest so far.
        highest: Version,
    },
    /// No such version is kept.
    #[error("version {version} of `{id}` is not kept here")]
    NotKept {
        /// Of what.
        id: String,
        /// Which.
        version: Version,
    },
    /// There is nothing to go back to.
    #[error("there is no version of `{0}` before the one in force")]
    NoEarlier(String),
    /// The files on the shelf are not those that were verified.
    #[error("version {version} of `{id}` was changed after it was installed (installed {expected}, found {found})")]
    Changed {
        /// Of what.
        id: String,
        /// Which.
        version: Version,
        /// The digest in the record.
        expected: String,
        /// The digest of the files.
        found: String,
    },
}

/// One shelf.
#[derive(Debug, Clone)]
pub struct Shelf {
    root: PathBuf,
    shape: Shape,
    /// How many revisions are kept; all of them when `None`.
    keep: Option<usize>,
}

/// A copy that is not in place yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Staged<'s> {
    shelf: &'s Shelf,
    folder: PathBuf,
    material: Material,
    _lock: File,
}

/// What was taken from the shelf, hashed again.
#[derive(Debug)]
pub struct Placed {
    /// How it stands.
    pub record: Record,
    /// The version that was taken.
    pub revision: Revision,
    /// The folder of its files.
    pub folder: PathBuf,
    /// Its files, as they are now and as they were verified.
    pub material: Material,
}

impl Shelf {
    /// The shelf at `root`, which is made when something is put there.
    pub const fn new(root: PathBuf, shape: Shape, keep: Option<usize>) -> Self {
        Self { root, shape, keep }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Copies `source` and holds the shelf for this writer.
    ///
    /// # Errors
    /// When the source is not taken or the shelf cannot be written.
    pub fn stage(&self, source: &Path) -> Result<Staged<'_>, ShelfFault> {
        let lock = self.lock()?;
        let staging = self.root.join("staging");
        journal::make_private_folder(&staging)?;
        clear(&staging)?;
        let folder = staging.join("new");
        journal::make_private_folder(&folder)?;
        // From here on the folder goes when this does.
        let unfinished = Unfinished(&folder);
        let material = tree::copy(source, &self.shape, &folder.join("content"))?;
        if let Some(signature) = &material.signature {
            journal::replace(&folder.join("signature"), signature, 0o444)?;
        }
        journal::sync_folder(&folder)?;
        std::mem::forget(unfinished);
        Ok(Staged { shelf: self, folder, material, _lock: lock })
    }

    /// Every record, in the order of the ids; one that cannot be read is told in its place.
    ///
    /// # Errors
    /// When the shelf itself cannot be read.
    pub fn records(&self) -> Result<Vec<Result<Record, ShelfFault>>, ShelfFault> {
        let folder = self.root.join("records");
        let fault = |source| JournalFault::io("list", &folder, source);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(fault(source).into()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(fault)?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) {
                names.push(id.to_owned());
            }
            if names.len() > MAX_RECORDS {
                return Err(fault(io::Error::other(format!("more than {MAX_RECORDS} records"))).into());
            }
        }
        names.sort();
        let read = |id: &String| self.record(id).transpose().unwrap_or_else(|| Err(ShelfFault::Unknown(id.clone())));
        Ok(names.iter().map(read).collect())
    }

    /// The record of `id`, whose form the caller has checked; `None` when it was never here.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn record(&self, id: &str) -> Result<Option<Record>, ShelfFault> {
        let path = self.record_path(id);
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(JournalFault::io("open", &path, source).into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD + 1).read_to_end(&mut bytes).map_err(|source| JournalFault::io("read", &path, source))?;
        let damaged = |detail: String| ShelfFault::Record { path: path.clone(), detail };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.id != id {
            return Err(damaged(format!("it is the record of `{}`", record.id)));
        }
        if record.in_force().is_none() {
            return Err(damaged(format!("the version {} that is in force is not kept", record.current)));
        }
        Ok(Some(record))
    }

    /// Takes what is in force.
    ///
    /// # Errors
    /// When there is none, it was retired, or its files are not those that were installed.
    pub fn take(&self, id: &str) -> Result<Placed, ShelfFault> {
        let record = self.record(id)?.ok_or_else(|| ShelfFault::Unknown(id.to_owned()))?;
        if let (Status::Retired, Some(retired)) = (record.status, &record.retired) {
            let (by, note) = (retired.by.clone(), retired.note.clone());
            return Err(ShelfFault::Retired { id: id.to_owned(), by, note });
        }
        let version = record.current;
        self.take_version(record, version)
    }

    /// Takes a version that is kept, whether it is in force or not.
    ///
    /// # Errors
    /// When it is not kept, or its files are not those that were installed.
    pub fn take_version(&self, record: Record, version: Version) -> Result<Placed, ShelfFault> {
        let id = record.id.clone();
        let not_kept = || ShelfFault::NotKept { id: id.clone(), version };
        let revision = record.revision(version).ok_or_else(not_kept)?.clone();
        let place = self.version_path(&id, version);
        let folder = place.join("content");
        let mut material = tree::read(&folder, &self.shape)?;
        let found = material.tree.digest();
        // The signature is kept beside the content: one inside of it was put there later, and is in no digest.
        let stray = std::mem::replace(&mut material.signature, self.signature(&place.join("signature"))?);
        if found != revision.tree || stray.is_some() {
            return Err(ShelfFault::Changed { id, version, expected: revision.tree, found });
        }
        Ok(Placed { record, revision, folder, material })
    }

    fn signature(&self, path: &Path) -> Result<Option<Vec<u8>>, ShelfFault> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JournalFault::io("read", path, source).into()),
        }
    }

    /// Puts a version in force again that the caller has taken and verified.
    ///
    /// # Errors
    /// When the shelf was changed meanwhile so that it is not kept any more.
    pub fn put_back(&self, placed: &Placed, by: &str, note: &str, now: Timestamp) -> Result<Record, ShelfFault> {
        let _lock = self.lock()?;
        let id = &placed.record.id;
        let mut record = self.record(id)?.ok_or_else(|| ShelfFault::Unknown(id.clone()))?;
        let version = placed.revision.version;
        if record.revision(version) != Some(&placed.revision) {
            return Err(ShelfFault::NotKept { id: id.clone(), version });
        }
        record.status = Status::Installed;
        record.retired = None;
        record.current = version;
        self.write(&record, Act::Rollback, by, Some(note), now)?;
        Ok(record)
    }

    /// Takes `id` out of use. Nothing is removed.
    ///
    /// # Errors
    /// When it is not in use.
    pub fn retire(&self, id: &str, by: &str, note: &str, now: Timestamp) -> Result<Record, ShelfFault> {
        let _lock = self.lock()?;
        let mut record = self.record(id)?.ok_or_else(|| ShelfFault::Unknown(id.to_owned()))?;
        if let Some(retired) = &record.retired {
            let (by, note) = (retired.by.clone(), retired.note.clone());
            return Err(ShelfFault::Retired { id: id.to_owned(), by, note });
        }
        record.status = Status::Retired;
        record.retired = Some(Retired { at: now, by: by.to_owned(), note: note.to_owned() });
        self.write(&record, Act::Retire, by, Some(note), now)?;
        Ok(record)
    }

    /// What was done here, oldest first.
    ///
    /// # Errors
    /// When the journal is damaged.
    pub fn history(&self) -> Result<Vec<Entry>, ShelfFault> {
        Ok(self.journal().read()?)
    }

    /// Puts `record` in place, and into the journal what was done. Nothing is done that the journal does not have,
    /// and a full disk ends it before either.
    fn write(&self, record: &Record, act: Act, by: &str, note: Option<&str>, now: Timestamp) -> Result<(), ShelfFault> {
        let path = self.record_path(&record.id);
        journal::make_private_folder(&self.root.join("records"))?;
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| ShelfFault::Record { path: path.clone(), detail: error.to_string() })?;
        let replacement = Replacement::prepare(&path, &text, 0o600)?;
        let revision = record.in_force();
        self.journal().append(&Entry {
            time: now,
            act,
            id: record.id.clone(),
            version: record.current,
            tree: revision.map(|revision| revision.tree.clone()).unwrap_or_default(),
            signer: revision.and_then(|revision| revision.signer.clone()),
            by: by.to_owned(),
            note: note.map(str::to_owned),
        })?;
        Ok(replacement.commit()?)
    }

    fn lock(&self) -> Result<File, JournalFault> {
        journal::make_private_folder(&self.root)?;
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|source| JournalFault::io("open", &path, source))?;
        journal::lock(&file, &path)?;
        Ok(file)
    }

    fn journal(&self) -> Journal {
        Journal::new(self.root.join("journal.jsonl"))
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.root.join("records").join(format!("{id}.json"))
    }

    fn version_path(&self, id: &str, version: Version) -> PathBuf {
        self.root.join("versions").join(id).join(version.to_string())
    }
}

impl Staged<'_> {
    /// What was copied.
    pub const fn material(&self) -> &Material {
        &self.material
    }

    /// The files that were copied.
    pub const fn tree(&self) -> &Tree {
        &self.material.tree
    }

    /// Puts the copy in force as `version` of `id`, both of which the caller read from its manifest and checked.
    /// `signed` is the proof that it verified.
    ///
    /// # Errors
    /// When the version is here with other files, or is older than what was here and that was not asked for. The old
    /// version is then in force as before.
    pub fn place(
        self,
        (id, version): (&str, Version),
        signed: Option<&Signed>,
        expect: Expect,
        by: &str,
        now: Timestamp,
    ) -> Result<Record, ShelfFault> {
        let shelf = self.shelf;
        let revision = Revision {
            version,
            tree: self.material.tree.digest(),
            signer: signed.map(|signed| signed.signer().to_owned()),
            signed_at: signed.map(|signed| signed.statement().signed_at),
            placed_at: now,
            placed_by: by.to_owned(),
        };
        let mut record = shelf.record(id)?.unwrap_or_else(|| Record {
            id: id.to_owned(),
            status: Status::Installed,
            current: version,
            highest: version,
            revisions: Vec::new(),
            retired: None,
        });
        if record.revision(version).is_some_and(|kept| kept.tree != revision.tree) {
            return Err(ShelfFault::SameVersion { id: id.to_owned(), version });
        }
        if version < record.highest && expect == Expect::Newer {
            return Err(ShelfFault::Older { id: id.to_owned(), version, highest: record.highest });
        }
        self.move_into_place(&shelf.version_path(id, version))?;
        // What was in force until now comes right before the new one, also when it had come back from further back:
        // it is what a roll-back is for, and the last to be let go.
        record.revisions.sort_by_key(|kept| kept.version == record.current);
        record.revisions.retain(|kept| kept.version != version);
        record.revisions.push(revision);
        record.highest = record.highest.max(version);
        record.current = version;
        record.status = Status::Installed;
        record.retired = None;
        let surplus = shelf.keep.map_or(0, |keep| record.revisions.len().saturating_sub(keep));
        let let_go: Vec<Revision> = record.revisions.drain(..surplus).collect();
        shelf.write(&record, Act::Install, by, None, now)?;
        for revision in let_go {
            // The record names it no more; what stays of it is removed when that version comes again.
            let _ = std::fs::remove_dir_all(shelf.version_path(id, revision.version));
        }
        Ok(record)
    }

    /// The same files that are there already stay, so that what is in force never lacks them; only the signature may
    /// be a newer one. What a crash left there, or somebody changed, goes first.
    fn move_into_place(&self, place: &Path) -> Result<(), JournalFault> {
        let parent = place.parent().unwrap_or(Path::new("."));
        journal::make_private_folder(parent)?;
        let fault = |doing| move |source| JournalFault::io(doing, place, source);
        let there = tree::read(&place.join("content"), &self.shelf.shape);
        if there.is_ok_and(|there| there.tree == self.material.tree && there.signature.is_none()) {
            let signature = place.join("signature");
            return match &self.material.signature {
                Some(bytes) => journal::replace(&signature, bytes, 0o444),
                None => match std::fs::remove_file(&signature) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(fault("remove the signature of")(error))
                    }
                    _ => journal::sync_folder(place),
                },
            };
        }
        let old = self.folder.with_file_name("old");
        match std::fs::rename(place, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault("move")(error)),
            _ => {}
        }
        std::fs::rename(&self.folder, place).map_err(fault("move into"))?;
        let _ = std::fs::remove_dir_all(&old);
        journal::sync_folder(parent)?;
        parent.parent().map_or(Ok(()), journal::sync_folder)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Gone when it was put in place; what a failure leaves is removed by the next writer.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Removes a folder unless it is forgotten.
struct Unfinished<'f>(&'f Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

/// Removes what is in `folder`.
fn clear(folder: &Path) -> Result<(), JournalFault> {
    let fault = |source| JournalFault::io("clear", folder, source);
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path).map_err(fault)?;
        } else {
            std::fs::remove_file(&path).map_err(fault)?;
        }
    }
    Ok(())
}
