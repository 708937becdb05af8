//! Whose signatures are believed: `runtime/bundle_signers.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::located::{Document, Found, Place, read_file};
use crate::config::{Faults, MAX_SIGNERS, SignerForm, SignersFile};
use crate::domain::{Timestamp, codes};
use crate::ledger::VerifierKey;

/// Most signers of one host.
const MAX_ITEMS: usize = 256;
/// Longest note and reason, in bytes.
const MAX_NOTE: usize = 1_024;

codes! {
    /// What a signer is trusted for.
    Purpose {
        /// Recipes.
        Recipe => "recipe",
        /// Bundles and catalogues of bundles.
        Bundle => "bundle",
    }
}

/// One signer, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// Its name, which is the one in its key.
    pub id: String,
    /// Its public key.
    #[serde(serialize_with = "as_text", rename = "public_key")]
    pub key: VerifierKey,
    /// What it is trusted for.
    pub signs: Vec<Purpose>,
    /// From when.
    pub valid_from: Timestamp,
    /// Until when.
    pub valid_to: Timestamp,
    /// Why it is trusted no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The end of trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revoked {
    /// When it was noticed. It does not matter to the past: nothing that the key ever signed counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

/// Whether a signer's word counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignerState {
    /// It does.
    Valid,
    /// Not yet.
    NotYet,
    /// No more.
    Expired,
    /// No more, and whatever it signed does not count either.
    Revoked(String),
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signers {
    file: PathBuf,
    notes: Option<String>,
    signers: Vec<Signer>,
}

fn as_text<S: serde::Serializer>(key: &VerifierKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

impl Signer {
    /// Whether its word counts at the moment `now`.
    pub fn state(&self, now: Timestamp) -> SignerState {
        match &self.revoked {
            Some(revoked) => SignerState::Revoked(revoked.reason.clone()),
            None if now < self.valid_from => SignerState::NotYet,
            None if now >= self.valid_to => SignerState::Expired,
            None => SignerState::Valid,
        }
    }
}

impl Signers {
    /// Where the file lies.
    pub fn file(config_dir: &Path) -> PathBuf {
        config_dir.join("runtime/bundle_signers.json")
    }

    /// Reads the file of the configuration folder; without one nobody is trusted.
    ///
    /// # Errors
    /// Every fault of the file; of a faulty file nobody is trusted.
    pub fn load(config_dir: &Path) -> Result<Self, Faults> {
        let path = Self::file(config_dir);
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self { file: path, ..Self::default() }),
            _ => {
                let text = read_file(&path, MAX_SIGNERS).map_err(|fault| Faults(vec![fault]))?;
                Self::parse(&path, &text)
            }
        }
    }

    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// Every fault of it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Faults> {
        let SignersFile { document, notes, signers } = match SignersFile::parse(path, text) {
            Ok(file) => file,
            Err(document) => return Err(Faults(document.into_faults())),
        };
        if let Some(form) = signers.get(MAX_ITEMS) {
            document.fault(&form.place, format!("more than {MAX_ITEMS} signers"));
        }
        let read: Vec<Option<Signer>> = signers.iter().map(|form| signer(&document, form)).collect();
        each_is_named_once(&document, &signers);
        let faults = document.into_faults();
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let (file, notes) = (path.to_owned(), notes.map(|found| found.value));
        Ok(Self { file, notes, signers: read.into_iter().flatten().collect() })
    }

    /// The file that says so, whether it is there or not.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Each of them, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Signer> {
        self.signers.iter()
    }

    /// The file that says the same and one signer more.
    ///
    /// # Errors
    /// When a signer of that name or with that key is there, revoked ones among them.
    pub fn with(&self, signer: Signer) -> Result<String, String> {
        if self.signers.iter().any(|known| known.id == signer.id || known.key == signer.key) {
            return Err(format!("`{}` is already there; a new key needs a new name", signer.id));
        }
        let mut all = self.signers.clone();
        all.push(signer);
        let file = Written { version: 1, notes: self.notes.as_deref(), signers: &all };
        serde_json::to_string_pretty(&file).map(|text| text + "\n").map_err(|error| error.to_string())
    }
}

/// The file, in the order that people read it.
#[derive(Serialize)]
struct Written<'w> {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'w str>,
    signers: &'w [Signer],
}

/// A second entry of one name or key could outlive the revocation of the first.
fn each_is_named_once(document: &Document, signers: &[SignerForm]) {
    let mut seen: BTreeMap<(&str, &str), &Place> = BTreeMap::new();
    for form in signers {
        for (what, found) in [("name", &form.id), ("key", &form.public_key)] {
            let Some(found) = found else { continue };
            if let Some(first) = seen.insert((what, &found.value), &found.place) {
                let message = format!("the {what} is also on line {}", first.line);
                document.fault_with_hint(&found.place, message, "revoke the one entry, and give a new key a new name");
            }
        }
    }
}

fn signer(document: &Document, form: &SignerForm) -> Option<Signer> {
    let key = form.public_key.as_ref().and_then(|found| match VerifierKey::parse(&found.value) {
        Ok(key) if key.to_string() == found.value => Some((found, key)),
        Ok(_) => {
            document.fault(&found.place, "the key has another spelling than it is written with");
            None
        }
        Err(fault) => {
            document.fault_with_hint(&found.place, fault.to_string(), "`arw-cli recipes keygen` prints the entry");
            None
        }
    });
    if let (Some(id), Some((_, key))) = (&form.id, &key)
        && id.value != key.name()
    {
        let hint = format!("write `{}`, as the key says", key.name());
        document.fault_with_hint(&id.place, "the name is not the one in the key", hint);
    }
    let signs = purposes(document, &form.signs);
    if let (Some(from), Some(to)) = (&form.valid_from, &form.valid_to)
        && to.value <= from.value
    {
        document.fault(&to.place, "it ends before it begins");
    }
    let text = |found: &Option<Found<String>>| document.plain_text(found.as_ref()?, MAX_NOTE);
    let note = text(&form.note);
    // That `revoked` stands there revokes, whatever stands in it.
    let revoked = form.revoked.as_ref().map(|form| Revoked {
        at: form.at.as_ref().map(|found| found.value),
        reason: text(&form.reason).unwrap_or_else(|| "no reason given".to_owned()),
    });
    Some(Signer {
        id: form.id.as_ref()?.value.clone(),
        key: key?.1,
        signs,
        valid_from: form.valid_from.as_ref()?.value,
        valid_to: form.valid_to.as_ref()?.value,
        revoked,
        note,
    })
}

fn purposes(document: &Document, list: &[Found<String>]) -> Vec<Purpose> {
    let mut read = Vec::new();
    for found in list {
        match Purpose::from_code(&found.value) {
            Some(purpose) if read.contains(&purpose) => document.fault(&found.place, "it is named twice"),
            Some(purpose) => read.push(purpose),
            None => document.fault_with_hint(&found.place, "a signer signs something else", "write recipe or bundle"),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::super::key::PrivateKey;
    use super::*;

    fn key(name: &str) -> VerifierKey {
        let folder = tempfile::tempdir().expect("a folder");
        PrivateKey::create(&folder.path().join("k"), name).expect("made").verifier().clone()
    }

    fn faults(text: &str) -> Vec<String> {
        let faults = Signers::parse(Path::new("s.json"), text).expect_err("faulty");
        faults.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let (a, b) = (key("a"), key("b"));
        let text = format!(
            r#"{{"version": 1, "signers": [
{{"id": "a", "public_key": "{a}", "signs": ["recipe"], "valid_from": "2026-01-01T00:00:00Z", "valid_to": "2026-01-01T00:00:00Z"}},
{{"id": "x", "public_key": "{b}", "signs": ["recipes"], "valid_from": "2026-01-01", "valid_to": "2027-01-01T00:00:00Z", "revoke": {{}}}},
{{"id": "a", "public_key": "{a}", "signs": [], "valid_from": "2026-01-01T00:00:00Z", "valid_to": "2027-01-01T00:00:00Z"}},
{{"id": "c", "public_key": "c+00000000+AQID", "valid_from": "2026-01-01T00:00:00Z", "revoked": {{}}}}
]}}"#
        );
        let found = faults(&text);
        for part in [
            "s.json:2: signers[0].valid_to: it ends before it begins",
            "s.json:3: signers[1].id: the name is not the one in the key (hint: write `b`, as the key says)",
            "s.json:3: signers[1].signs[0]: a signer signs something else",
            "s.json:3: signers[1].valid_from: `2026-01-01` is not an RFC 3339 time",
            "s.json:3: signers[1].revoke: unknown key `revoke` (hint: did you mean `revoked`?)",
            "s.json:4: signers[2].signs: the list is empty",
            "s.json:4: signers[2].id: the name is also on line 2",
            "s.json:4: signers[2].public_key: the key is also on line 2",
            "s.json:5: signers[3].public_key: the key is not of the form `name+id+base64`",
            "s.json:5: signers[3].signs: the key is missing",
            "s.json:5: signers[3].valid_to: the key is missing",
            "s.json:5: signers[3].revoked.reason: the key is missing",
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(part)), "{part}: {found:#?}");
        }
        assert_eq!(found.len(), 12, "{found:#?}");
    }

    #[test]
    fn a_signer_that_is_added_reads_back_and_cannot_be_added_twice() {
        let at = |text| Timestamp::parse(text).expect("valid");
        let signer = |name: &str| Signer {
            id: name.to_owned(),
            key: key(name),
            signs: vec![Purpose::Recipe],
            valid_from: at("2026-01-01T00:00:00Z"),
            valid_to: at("2027-01-01T00:00:00Z"),
            revoked: None,
            note: Some("made for \"a test\"".to_owned()),
        };
        let one = Signers::default().with(signer("a")).expect("added");
        let read = Signers::parse(Path::new("s.json"), &one).expect("sound");
        assert!(read.with(signer("a")).is_err(), "the name is taken, whatever the key");
        let two = Signers::parse(Path::new("s.json"), &read.with(signer("b")).expect("added")).expect("sound");
        assert_eq!(two.iter().map(|signer| signer.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(two.signers[0], read.signers[0]);
    }

    #[test]
    fn without_a_file_nobody_is_trusted_and_a_faulty_one_is_no_empty_one() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Signers::load(folder.path()).expect("nobody").iter().len(), 0);
        std::fs::create_dir(folder.path().join("runtime")).expect("made");
        std::fs::write(Signers::file(folder.path()), "").expect("written");
        assert!(Signers::load(folder.path()).is_err());
        std::fs::remove_file(Signers::file(folder.path())).expect("removed");
        std::os::unix::fs::symlink("/nonexistent", Signers::file(folder.path())).expect("linked");
        assert!(Signers::load(folder.path()).is_err(), "a link to nowhere is not no file");
    }

    #[test]
    fn the_shipped_file_is_sound_and_trusts_nobody() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let signers = Signers::load(&shipped).expect("sound");
        assert_eq!(signers.iter().len(), 0);
        assert!(signers.notes.is_some());
    }
}
