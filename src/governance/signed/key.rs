//! Private keys: files that only their owner reads, cleared from memory after use.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::ledger::{NoteSigner, VerifierKey};

/// Largest key file.
const MAX_KEY: u64 = 4 << 10;
/// What opens our own form, the one of the ledger's key: `PRIVATE+KEY+name+id+base64(0x01 || seed)`.
const OWN: &str = "PRIVATE+KEY+";
/// The signature type of Ed25519 in C2SP signed notes.
const ED25519: u8 = 0x01;
/// RFC 8410: `PrivateKeyInfo` of an Ed25519 key, up to its 32 bytes.
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// A signer's private key.
#[derive(Debug)]
pub struct PrivateKey {
    signer: NoteSigner,
}

/// Why there is no private key. Nothing of the key is repeated.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// The file system refused.
    #[error("cannot {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("`{}` can be read or written by others: it needs mode 0600, and the key should be replaced", .0.display())]
    Open(PathBuf),
    /// Neither form.
    #[error("`{}` is neither a key of `recipes keygen` nor an Ed25519 key in PKCS#8 PEM", .0.display())]
    Form(PathBuf),
    /// A PEM file does not say whose key it is.
    #[error("`{}` does not say whose key it is", .0.display())]
    Nameless(PathBuf),
    /// The file names another signer.
    #[error("`{}` is the key of `{stored}`, not of `{wanted}`", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Whose key it is.
        stored: String,
        /// Who was asked for.
        wanted: String,
    },
    /// A name that cannot name a key.
    #[error(transparent)]
    Name(#[from] crate::ledger::NoteFault),
    /// The system has no randomness.
    #[error("the system has no randomness: {0}")]
    Randomness(String),
}

impl PrivateKey {
    /// Makes a key of `name` in a new file at `path` with mode 0600. An existing file is never overwritten.
    ///
    /// # Errors
    /// [`KeyFault`].
    pub fn create(path: &Path, name: &str) -> Result<Self, KeyFault> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| KeyFault::Randomness(error.to_string()))?;
        let key = Self::from_seed(name, &seed)?;
        let mut blob = Zeroizing::new(vec![ED25519]);
        blob.extend_from_slice(&*seed);
        let id: String = key.verifier().id().iter().map(|byte| format!("{byte:02x}")).collect();
        let blob = Zeroizing::new(STANDARD.encode(&*blob));
        // As large as it becomes: text that grows leaves its smaller pieces behind.
        let mut text = Zeroizing::new(String::with_capacity(OWN.len() + name.len() + id.len() + blob.len() + 8));
        for part in [OWN, name, "+", &id, "+", &blob, "\n"] {
            text.push_str(part);
        }
        let fault = |source| KeyFault::Io { doing: "make", path: path.to_owned(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
        Ok(key)
    }

    /// Reads the key at `path`. A file in PEM does not say whose it is, so `name` must.
    ///
    /// # Errors
    /// [`KeyFault`]; also when others may read the file: whoever can read it can sign.
    pub fn load(path: &Path, name: Option<&str>) -> Result<Self, KeyFault> {
        let text = read(path)?;
        let form = || KeyFault::Form(path.to_owned());
        if let Some(rest) = text.trim_end().strip_prefix(OWN) {
            let (stored, rest) = rest.split_once('+').ok_or_else(form)?;
            let (_, blob) = rest.split_once('+').ok_or_else(form)?;
            let bytes = Zeroizing::new(STANDARD.decode(blob).map_err(|_| form())?);
            let seed = match bytes.split_first() {
                Some((&ED25519, seed)) => seed.try_into().map(Zeroizing::new).map_err(|_| form())?,
                _ => return Err(form()),
            };
            if let Some(wanted) = name.filter(|wanted| *wanted != stored) {
                let (path, stored, wanted) = (path.to_owned(), stored.to_owned(), wanted.to_owned());
                return Err(KeyFault::Other { path, stored, wanted });
            }
            return Self::from_seed(stored, &seed);
        }
        let seed = pkcs8(&text).ok_or_else(form)?;
        Self::from_seed(name.ok_or_else(|| KeyFault::Nameless(path.to_owned()))?, &seed)
    }

    fn from_seed(name: &str, seed: &Zeroizing<[u8; 32]>) -> Result<Self, KeyFault> {
        Ok(Self { signer: NoteSigner::from_seed(name, seed)? })
    }

    /// The public half.
    pub const fn verifier(&self) -> &VerifierKey {
        self.signer.verifier()
    }

    /// `text` as a note with this key's signature. It ends with a line end.
    pub(super) fn sign(&self, text: &str) -> String {
        self.signer.sign(text)
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyFault> {
    let fault = |doing| move |source| KeyFault::Io { doing, path: path.to_owned(), source };
    // O_NONBLOCK: a pipe in its place does not hold the command up.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fault("open"))?;
    let metadata = file.metadata().map_err(fault("look at"))?;
    if !metadata.is_file() || metadata.len() > MAX_KEY {
        return Err(KeyFault::Form(path.to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(KeyFault::Open(path.to_owned()));
    }
    // As large as it can become, so that no part of it is left behind in a smaller piece.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY as usize));
    file.take(MAX_KEY).read_to_end(&mut bytes).map_err(fault("read"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyFault::Form(path.to_owned()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The seed of an Ed25519 key as `openssl genpkey -algorithm ed25519` writes it (RFC 8410, section 7).
fn pkcs8(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let body = text.trim().strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    let mut joined = Zeroizing::new(String::with_capacity(body.len()));
    body.split_ascii_whitespace().for_each(|line| joined.push_str(line));
    let der = Zeroizing::new(STANDARD.decode(&*joined).ok()?);
    let seed: [u8; 32] = der.strip_prefix(&PKCS8)?.try_into().ok()?;
    Some(Zeroizing::new(seed))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn private(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_and_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("release.key");
        let made = PrivateKey::create(&path, "release-2026").expect("made");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert!(matches!(PrivateKey::create(&path, "release-2026"), Err(KeyFault::Io { .. })), "never overwritten");
        for name in [None, Some("release-2026")] {
            assert_eq!(PrivateKey::load(&path, name).expect("read").verifier(), made.verifier());
        }
        assert!(matches!(PrivateKey::load(&path, Some("other")), Err(KeyFault::Other { .. })));
        assert!(!format!("{made:?}").contains(std::fs::read_to_string(&path).expect("there").trim()));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("release.key");
        PrivateKey::create(&path, "release").expect("made");
        for mode in [0o640, 0o604, 0o660, 0o666, 0o610, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
            assert!(matches!(PrivateKey::load(&path, None), Err(KeyFault::Open(_))), "{mode:o}");
        }
    }

    #[test]
    fn the_key_of_rfc_8410_is_read_and_has_its_public_half() {
        // The private key of section 10.3, and the public key of section 10.1.
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pem");
        private(&path, pem, 0o600);
        assert!(matches!(PrivateKey::load(&path, None), Err(KeyFault::Nameless(_))));
        let key = PrivateKey::load(&path, Some("rfc8410")).expect("read");
        let public = STANDARD.decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").expect("base64");
        let text = key.verifier().to_string();
        let blob = text.splitn(3, '+').nth(2).expect("name+id+key");
        assert_eq!(STANDARD.decode(blob).expect("base64")[1..], public[12..]);
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        for text in [
            "",
            "hunter2",
            "PRIVATE+KEY+a+b",
            "PRIVATE+KEY+a+00000000+!!!!",
            "PRIVATE+KEY+a+00000000+AQID",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            private(&path, text, 0o600);
            let fault = PrivateKey::load(&path, Some("a")).expect_err(text);
            assert!(matches!(fault, KeyFault::Form(_)), "{fault}");
            assert!(text.is_empty() || !fault.to_string().contains(text));
        }
        let large = "x".repeat(1 << 20);
        private(&path, &large, 0o600);
        assert!(matches!(PrivateKey::load(&path, Some("a")), Err(KeyFault::Form(_))));
        assert!(matches!(PrivateKey::load(Path::new("/dev/zero"), Some("a")), Err(KeyFault::Form(_))));
    }
}
