//! Signed notes and their keys, in the public formats that other transparency-log tools read.
//!
//! - a note: C2SP `signed-note`: text, an empty line, `— name base64(key id || signature)` lines;
//! - a public key: `name+hex(key id)+base64(0x01 || key)`;
//! - a private key: `PRIVATE+KEY+name+hex(key id)+base64(0x01 || seed)` (Go's `sumdb/note`).
//!
//! The key id is the first four bytes of `SHA-256(name || 0x0A || 0x01 || public key)`.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use super::error::LedgerError;

/// The signature type of Ed25519 in C2SP signed notes.
const ED25519: u8 = 0x01;
/// What opens a signature line: an em dash and a space.
const SIGNATURE_MARK: &str = "\u{2014} ";
/// Longest key file read: a key has about 150 bytes.
const MAX_KEY_FILE: u64 = 4096;

/// Why a text is not a key or a note is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteFault {
    /// The key's text is not in the form `name+id+base64`.
    #[error("the key is not of the form `name+id+base64`")]
    KeyForm,
    /// The id in the key's text is not the hash of the rest.
    #[error("the key's id does not belong to its name and bytes")]
    KeyId,
    /// The name has a space, a plus or a control character, or is empty.
    #[error("`{0}` cannot name a key: no spaces, no `+`, not empty")]
    KeyName(String),
    /// The note is not text, an empty line and signature lines.
    #[error("not a signed note")]
    NoteForm,
    /// No signature of this key.
    #[error("the note is not signed by `{0}`")]
    NotSigned(String),
    /// A signature that claims to be of this key is wrong.
    #[error("the signature of `{0}` is wrong")]
    BadSignature(String),
}

/// A public key with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, key: VerifyingKey) -> Result<Self, NoteFault> {
        let fits = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+');
        if !fits {
            return Err(NoteFault::KeyName(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), key })
    }

    /// Reads `name+id+base64`.
    ///
    /// # Errors
    /// [`NoteFault`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NoteFault> {
        let (name, rest) = text.trim_end().split_once('+').ok_or(NoteFault::KeyForm)?;
        let (id, key) = rest.split_once('+').ok_or(NoteFault::KeyForm)?;
        let bytes = STANDARD.decode(key).map_err(|_| NoteFault::KeyForm)?;
        let Some((&ED25519, key)) = bytes.split_first() else { return Err(NoteFault::KeyForm) };
        let key: [u8; 32] = key.try_into().map_err(|_| NoteFault::KeyForm)?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| NoteFault::KeyForm)?;
        let parsed = Self::new(name, key)?;
        if parsed.id_hex() == id { Ok(parsed) } else { Err(NoteFault::KeyId) }
    }

    /// The key's name: the log's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of `SHA-256(name || 0x0A || 0x01 || key)`.
    pub fn id(&self) -> [u8; 4] {
        let mut hasher = Sha256::new();
        hasher.update(self.name.as_bytes());
        hasher.update([b'\n', ED25519]);
        hasher.update(self.key.as_bytes());
        let digest = hasher.finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    fn id_hex(&self) -> String {
        self.id().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The text of `note` if this key signed it. Signatures of other keys are not looked at.
    ///
    /// # Errors
    /// [`NoteFault::NoteForm`], [`NoteFault::NotSigned`] or [`NoteFault::BadSignature`].
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, NoteFault> {
        let split = note.rfind("\n\n").ok_or(NoteFault::NoteForm)?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        if !signatures.ends_with('\n') {
            return Err(NoteFault::NoteForm);
        }
        let mut ours = false;
        for line in signatures.lines() {
            let rest = line.strip_prefix(SIGNATURE_MARK).ok_or(NoteFault::NoteForm)?;
            let (name, blob) = rest.split_once(' ').ok_or(NoteFault::NoteForm)?;
            let blob = STANDARD.decode(blob).map_err(|_| NoteFault::NoteForm)?;
            let Some((id, signature)) = blob.split_first_chunk::<4>() else { return Err(NoteFault::NoteForm) };
            if name != self.name || *id != self.id() {
                continue;
            }
            let signature = Signature::from_slice(signature).map_err(|_| NoteFault::NoteForm)?;
            self.key
                .verify_strict(text.as_bytes(), &signature)
                .map_err(|_| NoteFault::BadSignature(self.name.clone()))?;
            ours = true;
        }
        if ours { Ok(text) } else { Err(NoteFault::NotSigned(self.name.clone())) }
    }
}

/// The one-line form, as `ledger.pub` holds it.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, self.id_hex(), STANDARD.encode(bytes))
    }
}

/// The log's private key. Does not print itself; its memory is cleared when dropped.
#[derive(Debug)]
pub(crate) struct NoteSigner {
    key: SigningKey,
    verifier: VerifierKey,
}

impl NoteSigner {
    pub(crate) fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteFault> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, key.verifying_key())?;
        Ok(Self { key, verifier })
    }

    pub(crate) const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs `text`, which ends with a newline.
    pub(crate) fn sign(&self, text: &str) -> String {
        debug_assert!(text.ends_with('\n'));
        let mut blob = self.verifier.id().to_vec();
        blob.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n{SIGNATURE_MARK}{} {}\n", self.verifier.name, STANDARD.encode(blob))
    }

    /// Reads the key at `path`. If there is none it is made, with `ledger.pub` beside it, but only for a
    /// ledger that is new: another key could not go on where the old one signed.
    pub(crate) fn load_or_create(path: &Path, public: &Path, name: &str, is_new: bool) -> Result<Self, LedgerError> {
        let fault = |path: &Path, detail: &str| LedgerError::Key { path: path.to_owned(), detail: detail.to_owned() };
        let signer = match Self::load(path, name)? {
            Some(signer) => signer,
            None if is_new => Self::create(path, name)?,
            None => return Err(fault(path, "it is gone, and the ledger that it signed is there")),
        };
        let text = format!("{}\n", signer.verifier);
        match fs::read_to_string(public) {
            Ok(there) if there == text => {}
            Ok(_) => return Err(fault(public, "it does not belong to the private key")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                super::files::replace(public, text.as_bytes(), 0o644)?;
            }
            Err(source) => return Err(LedgerError::io("read", public, source)),
        }
        Ok(signer)
    }

    fn load(path: &Path, name: &str) -> Result<Option<Self>, LedgerError> {
        let fault = |detail: &str| LedgerError::Key { path: path.to_owned(), detail: detail.to_owned() };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LedgerError::io("open", path, source)),
        };
        let mode = file.metadata().map_err(|source| LedgerError::io("inspect", path, source))?.mode();
        if mode & 0o077 != 0 {
            return Err(fault("others may read or write it; it must have mode 0600, and should be replaced"));
        }
        let mut text = String::new();
        file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(|source| LedgerError::io("read", path, source))?;
        // A name has no plus, but base64 may: split from the left.
        let parts: Option<(&str, &str)> = text
            .trim_end()
            .strip_prefix("PRIVATE+KEY+")
            .and_then(|rest| rest.split_once('+'))
            .and_then(|(name, rest)| Some((name, rest.split_once('+')?.1)));
        let (stored, seed) = parts.ok_or_else(|| fault("not a note signing key"))?;
        let bytes = STANDARD.decode(seed).map_err(|_| fault("not a note signing key"))?;
        let seed: [u8; 32] = match bytes.split_first() {
            Some((&ED25519, seed)) => seed.try_into().map_err(|_| fault("not a note signing key"))?,
            _ => return Err(fault("not an Ed25519 note signing key")),
        };
        if stored != name {
            return Err(fault(&format!(
                "it signs for `{stored}`, the settings name the origin `{name}`; a new origin needs a new ledger"
            )));
        }
        Self::from_seed(name, &seed).map(Some).map_err(|error| fault(&error.to_string()))
    }

    fn create(path: &Path, name: &str) -> Result<Self, LedgerError> {
        let fault = |detail: String| LedgerError::Key { path: path.to_owned(), detail };
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| fault(format!("no randomness: {error}")))?;
        let signer = Self::from_seed(name, &seed).map_err(|error| fault(error.to_string()))?;
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(&seed);
        let text = format!("PRIVATE+KEY+{name}+{}+{}\n", signer.verifier.id_hex(), STANDARD.encode(bytes));
        super::files::replace(path, text.as_bytes(), 0o600)?;
        Ok(signer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("arw.test/log", &[7; 32]).expect("a good name")
    }

    #[test]
    fn the_published_example_key_is_read_and_written_alike() {
        // The example key and note of the documentation of Go's sumdb/note.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key = VerifierKey::parse(text).expect("the published key");
        assert_eq!(key.to_string(), text);
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert!(key.open(note).expect("the published note").starts_with("If you think"));
    }

    #[test]
    fn a_note_opens_with_its_key_and_with_no_other() {
        let signer = signer();
        let note = signer.sign("hello\nworld\n");
        assert_eq!(signer.verifier().open(&note), Ok("hello\nworld\n"));
        let changed = note.replacen("hello", "hallo", 1);
        assert!(matches!(signer.verifier().open(&changed), Err(NoteFault::BadSignature(_))));
        let other = NoteSigner::from_seed("arw.test/log", &[8; 32]).expect("a good name");
        assert!(matches!(other.verifier().open(&note), Err(NoteFault::NotSigned(_))));
        for cut in 0..note.len() {
            if let Some(part) = note.get(..cut) {
                assert!(signer.verifier().open(part).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn signatures_of_witnesses_do_not_disturb() {
        let (signer, witness) = (signer(), NoteSigner::from_seed("witness", &[9; 32]).expect("a good name"));
        let text = "a\n";
        let both = format!("{}{}", witness.sign(text), signer.sign(text).split_once("\n\n").expect("two parts").1);
        assert_eq!(signer.verifier().open(&both), Ok(text));
        assert_eq!(witness.verifier().open(&both), Ok(text));
    }

    #[test]
    fn names_that_break_the_format_are_refused() {
        for bad in ["", "a b", "a+b", "a\nb", "a\u{2003}b"] {
            assert!(matches!(NoteSigner::from_seed(bad, &[1; 32]), Err(NoteFault::KeyName(_))), "{bad:?}");
        }
        let wrong_id = signer().verifier().to_string().replacen('+', "+00", 1);
        assert!(VerifierKey::parse(&wrong_id).is_err());
    }

    #[test]
    fn keys_whose_base64_has_a_plus_are_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        // 0xfb starts a base64 text with a plus.
        let signer = NoteSigner::from_seed("o", &[0xfb; 32]).expect("a good name");
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(&[0xfb; 32]);
        let blob = STANDARD.encode(bytes);
        assert!(blob.contains('+'));
        let path = dir.path().join("ledger.key");
        super::super::files::replace(&path, format!("PRIVATE+KEY+o+00000000+{blob}\n").as_bytes(), 0o600)
            .expect("written");
        let read = NoteSigner::load(&path, "o").expect("read").expect("there");
        assert_eq!(read.verifier(), signer.verifier());
        assert_eq!(VerifierKey::parse(&read.verifier().to_string()), Ok(read.verifier().clone()));
    }

    #[test]
    fn the_private_key_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, public) = (dir.path().join("ledger.key"), dir.path().join("ledger.pub"));
        let first = NoteSigner::load_or_create(&path, &public, "o", true).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        let again = NoteSigner::load_or_create(&path, &public, "o", true).expect("read");
        assert_eq!(first.verifier(), again.verifier());
        assert_eq!(VerifierKey::parse(&fs::read_to_string(&public).expect("there")), Ok(first.verifier().clone()));
        assert!(!format!("{first:?}").contains(&format!("{:?}", [7_u8; 4])));
        let refused = NoteSigner::load_or_create(&path, &public, "other", true).expect_err("another origin");
        assert!(refused.to_string().contains("new origin"), "{refused}");
        let elsewhere = dir.path().join("gone.key");
        assert!(NoteSigner::load_or_create(&elsewhere, &public, "o", false).is_err());
        assert!(!elsewhere.exists());
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("ours");
        assert!(NoteSigner::load_or_create(&path, &public, "o", true).is_err());
    }
}
