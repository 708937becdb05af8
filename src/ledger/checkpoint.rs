//! Signed tree heads (C2SP `tlog-checkpoint`) and where they are kept.
//!
//! `checkpoint` is the latest one, replaced whole; `checkpoints.log` has all of them in order, each
//! followed by an empty line. The log is written and synced first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::LedgerError;
use super::files;
use super::merkle::Hash;
use super::note::{NoteFault, NoteSigner, VerifierKey};

/// A signed tree head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Number of lines.
    pub size: u64,
    /// Root of the tree of these lines.
    pub root: Hash,
    /// The whole signed note, as it is published.
    pub note: String,
}

impl Checkpoint {
    pub(crate) fn sign(signer: &NoteSigner, size: u64, root: Hash) -> Self {
        let origin = signer.verifier().name().to_owned();
        let note = signer.sign(&format!("{origin}\n{size}\n{}\n", root.to_base64()));
        Self { origin, size, root, note }
    }

    /// Believes `note` only if `key` signed it and its origin is the key's name.
    ///
    /// # Errors
    /// [`NoteFault`] says why it is not believed.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, NoteFault> {
        let text = key.open(note)?;
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next(), lines.next(), lines.next());
        let size = size.and_then(parse_decimal).ok_or(NoteFault::NoteForm)?;
        let root = root.and_then(Hash::from_base64).ok_or(NoteFault::NoteForm)?;
        match origin {
            Some(origin) if origin == key.name() => {
                Ok(Self { origin: origin.to_owned(), size, root, note: note.to_owned() })
            }
            _ => Err(NoteFault::NoteForm),
        }
    }
}

/// Decimal without sign or leading zero, as the format wants it.
fn parse_decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if plain { text.parse().ok() } else { None }
}

/// The path of the latest checkpoint.
pub(crate) fn latest_path(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

/// The path of the file of all checkpoints.
pub(crate) fn log_path(dir: &Path) -> PathBuf {
    dir.join("checkpoints.log")
}

/// The notes of a `checkpoints.log`, and the length of the part that is whole: a crash may have torn
/// the last note.
pub(crate) fn split_log(text: &str) -> (Vec<&str>, usize) {
    let mut notes = Vec::new();
    let mut start = 0;
    // A note has one empty line inside (before its signatures) and one behind it.
    while let Some(inner) = text[start..].find("\n\n") {
        let signatures = start + inner + 2;
        let Some(outer) = text[signatures..].find("\n\n") else { break };
        let end = signatures + outer + 1;
        notes.push(&text[start..end]);
        start = end + 1;
    }
    (notes, start)
}

/// Reads a file of text as far as it is text (a crash may have torn a character); an absent one is empty.
pub(crate) fn read_text(path: &Path) -> Result<String, LedgerError> {
    match fs::read(path) {
        Ok(bytes) => {
            let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            Ok(text.to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(LedgerError::io("read", path, source)),
    }
}

/// The newest checkpoint of a folder that `key` signed; none in a new ledger.
///
/// # Errors
/// When a note that is there is not believed: a forged checkpoint is worse than none.
pub(crate) fn latest(dir: &Path, key: &VerifierKey) -> Result<Option<Checkpoint>, LedgerError> {
    let open = |path: PathBuf, note: &str| match Checkpoint::open(note, key) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(source) => Err(LedgerError::Note { path, source }),
    };
    let single = read_text(&latest_path(dir))?;
    let single = if single.is_empty() { None } else { open(latest_path(dir), &single)? };
    let log = read_text(&log_path(dir))?;
    let (notes, _) = split_log(&log);
    let logged = match notes.last() {
        Some(note) => open(log_path(dir), note)?,
        None => None,
    };
    Ok(single.into_iter().chain(logged).max_by_key(|checkpoint| checkpoint.size))
}

/// The writing side: the daemon's only.
#[derive(Debug)]
pub(crate) struct CheckpointLog {
    dir: PathBuf,
    log: File,
    /// Bytes of whole notes in the log.
    whole: u64,
    latest: Option<Checkpoint>,
}

impl CheckpointLog {
    /// Opens the files of `dir`; a note that a crash tore at the end of the log is cut off.
    pub(crate) fn open(dir: &Path) -> Result<Self, LedgerError> {
        let path = log_path(dir);
        let io = |doing: &'static str| {
            let path = path.clone();
            move |source| LedgerError::Io { doing, path, source }
        };
        let whole = split_log(&read_text(&path)?).1;
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(io("open"))?;
        let whole = u64::try_from(whole).expect("a length fits");
        if log.metadata().map_err(io("inspect"))?.len() != whole {
            log.set_len(whole).map_err(io("cut"))?;
        }
        files::sync_parent(&path)?;
        Ok(Self { dir: dir.to_owned(), log, whole, latest: None })
    }

    /// Goes on behind a checkpoint that is already kept.
    pub(crate) fn resume_from(&mut self, latest: Checkpoint) {
        self.latest = Some(latest);
    }

    pub(crate) const fn latest(&self) -> Option<&Checkpoint> {
        self.latest.as_ref()
    }

    /// Keeps `checkpoint`; when this returns it is on the disk.
    pub(crate) fn add(&mut self, checkpoint: Checkpoint) -> Result<(), LedgerError> {
        let path = log_path(&self.dir);
        let fault = |source| LedgerError::io("write", &path, source);
        // A whole note behind one that a full disk tore would not be found.
        if self.log.metadata().map_err(fault)?.len() != self.whole {
            self.log.set_len(self.whole).map_err(fault)?;
        }
        let entry = format!("{}\n", checkpoint.note);
        self.log.write_all(entry.as_bytes()).and_then(|()| self.log.sync_data()).map_err(fault)?;
        self.whole += entry.len() as u64;
        files::replace(&latest_path(&self.dir), checkpoint.note.as_bytes(), 0o644)?;
        self.latest = Some(checkpoint);
        Ok(())
    }

    /// Drops the checkpoints below `size`, whose trees can no longer be computed.
    pub(crate) fn forget_below(&mut self, size: u64, key: &VerifierKey) -> Result<(), LedgerError> {
        let path = log_path(&self.dir);
        let text = read_text(&path)?;
        let (notes, _) = split_log(&text);
        let kept: String = notes
            .into_iter()
            .filter(|note| Checkpoint::open(note, key).is_ok_and(|checkpoint| checkpoint.size >= size))
            .map(|note| format!("{note}\n"))
            .collect();
        files::replace(&path, kept.as_bytes(), 0o600)?;
        self.log =
            OpenOptions::new().append(true).open(&path).map_err(|source| LedgerError::io("open", &path, source))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::merkle::empty_root;

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("arw.test/log", &[7; 32]).expect("a good name")
    }

    #[test]
    fn a_checkpoint_has_exactly_the_public_form() {
        let checkpoint = Checkpoint::sign(&signer(), 0, empty_root());
        let text = "arw.test/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} arw.test/log ";
        assert!(checkpoint.note.starts_with(text), "{}", checkpoint.note);
        assert_eq!(Checkpoint::open(&checkpoint.note, signer().verifier()), Ok(checkpoint));
    }

    #[test]
    fn signed_notes_that_are_no_checkpoints_are_refused() {
        let signer = signer();
        for text in [
            "arw.test/log\n",
            "other/log\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "arw.test/log\n01\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "arw.test/log\n+1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "arw.test/log\n1\n47DEQpj8HBSa\n",
        ] {
            assert_eq!(Checkpoint::open(&signer.sign(text), signer.verifier()), Err(NoteFault::NoteForm), "{text}");
        }
    }

    #[test]
    fn a_log_torn_at_any_byte_gives_the_notes_before_the_tear() {
        let notes: Vec<String> = (0..3).map(|size| Checkpoint::sign(&signer(), size, empty_root()).note).collect();
        let log: String = notes.iter().map(|note| format!("{note}\n")).collect();
        let ends: Vec<usize> = notes
            .iter()
            .scan(0, |end, note| {
                *end += note.len() + 1;
                Some(*end)
            })
            .collect();
        for cut in (0..=log.len()).filter(|cut| log.is_char_boundary(*cut)) {
            let (found, whole) = split_log(&log[..cut]);
            let expected = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(found.len(), expected, "{cut}");
            assert_eq!(whole, ends[..expected].last().copied().unwrap_or(0));
        }
    }

    #[test]
    fn a_forged_latest_checkpoint_is_an_error_and_not_ignored() {
        let dir = tempfile::tempdir().expect("a folder");
        let other = NoteSigner::from_seed("arw.test/log", &[8; 32]).expect("a good name");
        fs::write(latest_path(dir.path()), Checkpoint::sign(&other, 5, empty_root()).note).expect("written");
        assert!(matches!(latest(dir.path(), signer().verifier()), Err(LedgerError::Note { .. })));
    }
}
