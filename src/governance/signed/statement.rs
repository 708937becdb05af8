//! What a signature says: this kind of thing, of this id and version, with exactly this content.
//!
//! ```text
//! arw.recipe/v1
//! id nightly-report
//! version 1.4.0
//! tree sha256:9f86…
//! signed 2026-11-27T12:00:00.000000Z
//!
//! — release-2026 xH8p…            C2SP signed-note
//! ```

use std::fmt;
use std::path::PathBuf;

use crate::config::Faults;
use crate::domain::{Timestamp, codes};
use crate::ledger::NoteFault;

use super::key::PrivateKey;
use super::signers::{Purpose, SignerState, Signers};
use super::tree::Tree;
use super::version::Version;

/// How far a signer's clock may go before ours, in seconds. Five minutes: what unsynchronised hosts have.
const SKEW: std::time::Duration = std::time::Duration::from_secs(300);
/// Most names of strangers that a message repeats.
const SHOWN_NAMES: usize = 4;

codes! {
    /// What is signed. It stands in the first line, so that a signature over one kind is none over another.
    Kind {
        /// A recipe.
        Recipe => "recipe",
        /// A bundle: a folder with `bundle.json`.
        Bundle => "bundle",
        /// A catalogue of bundles: one `bundles*.json`.
        Manifest => "manifest",
    }
}

impl Kind {
    /// What a signer must be trusted for.
    pub const fn purpose(self) -> Purpose {
        match self {
            Self::Recipe => Purpose::Recipe,
            Self::Bundle | Self::Manifest => Purpose::Bundle,
        }
    }
}

/// The signed text, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Of which kind it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: Version,
    /// The digest of its tree.
    pub tree: String,
    /// When the signer says that it was signed.
    pub signed_at: Timestamp,
}

/// The proof that a trusted signer stands behind a tree. Made only by [`verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    signer: String,
    statement: Statement,
}

/// Why a signature is not believed. Each has a stable code.
#[derive(Debug, thiserror::Error)]
pub enum SignatureFault {
    /// There is none.
    #[error("it is not signed")]
    Missing,
    /// The file is not a signed note, or its text is not a statement.
    #[error("the signature file cannot be read: {0}")]
    Malformed(String),
    /// None of the keys that signed is trusted.
    #[error("it is signed by {names}, whom `{}` does not name", file.display())]
    Untrusted {
        /// Who claims to have signed.
        names: String,
        /// The file of those who are trusted.
        file: PathBuf,
    },
    /// The signature of a trusted key is wrong.
    #[error("the signature of `{0}` is wrong: its text was changed")]
    Wrong(String),
    /// The key was revoked.
    #[error("the key `{signer}` is revoked: {reason}")]
    Revoked {
        /// Whose.
        signer: String,
        /// Why.
        reason: String,
    },
    /// The key is trusted for other things.
    #[error("`{signer}` is not trusted to sign a {kind}")]
    Purpose {
        /// Whose.
        signer: String,
        /// What it signed.
        kind: Kind,
    },
    /// The key's time is over.
    #[error("the key `{signer}` was valid until {until}: have it signed anew")]
    Expired {
        /// Whose.
        signer: String,
        /// Its end.
        until: Timestamp,
    },
    /// The key's time has not begun, or had not when it signed.
    #[error("the key `{signer}` is valid from {from}")]
    NotYet {
        /// Whose.
        signer: String,
        /// Its beginning.
        from: Timestamp,
    },
    /// Signed later than now.
    #[error("it says that it is signed at {0}, which is not yet")]
    Future(Timestamp),
    /// The statement is about something else.
    #[error("the signature is over {signed}, and this is {found}")]
    Other {
        /// What was signed.
        signed: String,
        /// What lies there.
        found: String,
    },
    /// The files are not those that were signed.
    #[error("its files are not those that were signed (signed {signed}, found {found})")]
    Content {
        /// The digest in the statement.
        signed: String,
        /// The digest of the files.
        found: String,
    },
    /// The file of signers is faulty: nobody is trusted.
    #[error("the trusted signers cannot be read: {0}")]
    Signers(Faults),
}

impl SignatureFault {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "unsigned",
            Self::Malformed(_) => "signature_malformed",
            Self::Untrusted { .. } => "signer_untrusted",
            Self::Wrong(_) => "signature_wrong",
            Self::Revoked { .. } => "signer_revoked",
            Self::Purpose { .. } => "signer_purpose",
            Self::Expired { .. } => "signer_expired",
            Self::NotYet { .. } => "signer_not_yet_valid",
            Self::Future(_) => "signed_in_future",
            Self::Other { .. } => "signature_of_other",
            Self::Content { .. } => "content_changed",
            Self::Signers(_) => "signers_faulty",
        }
    }
}

impl Statement {
    /// The text that is signed.
    fn text(&self) -> String {
        let Self { kind, id, version, tree, signed_at } = self;
        format!("arw.{kind}/v1\nid {id}\nversion {version}\ntree sha256:{tree}\nsigned {signed_at}\n")
    }

    /// Reads exactly what [`Statement::text`] writes; anything else is not a statement.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let kind = Kind::from_code(lines.next()?.strip_prefix("arw.")?.strip_suffix("/v1")?)?;
        let id = lines.next()?.strip_prefix("id ")?.to_owned();
        let version = Version::parse(lines.next()?.strip_prefix("version ")?).ok()?;
        let tree = lines.next()?.strip_prefix("tree sha256:")?.to_owned();
        let signed_at = Timestamp::parse(lines.next()?.strip_prefix("signed ")?).ok()?;
        let statement = Self { kind, id, version, tree, signed_at };
        // One spelling: a text that reads alike but differs was not written here.
        (statement.text() == text).then_some(statement)
    }
}

impl Signed {
    /// Who signed.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// What was signed.
    pub const fn statement(&self) -> &Statement {
        &self.statement
    }
}

/// `kind id version`, for messages.
struct Subject<'s>(Kind, &'s str, Version);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id: String = self.1.chars().take(64).collect();
        write!(f, "{} `{id}` {}", self.0, self.2)
    }
}

/// Signs `tree`; the note is what goes into the signature file.
pub fn sign(key: &PrivateKey, kind: Kind, id: &str, version: Version, tree: &Tree, now: Timestamp) -> String {
    let statement = Statement { kind, id: id.to_owned(), version, tree: tree.digest(), signed_at: now };
    key.sign(&statement.text())
}

/// Whether `signature`, the content of a signature file, is one by a trusted signer over exactly this.
///
/// # Errors
/// [`SignatureFault`]; of several signatures one that is good is enough, and otherwise the first that a trusted key
/// made says why.
pub fn verify(
    signature: Option<&[u8]>,
    signers: &Signers,
    kind: Kind,
    (id, version): (&str, Version),
    tree: &Tree,
    now: Timestamp,
) -> Result<Signed, SignatureFault> {
    let signature = signature.ok_or(SignatureFault::Missing)?;
    let note = std::str::from_utf8(signature).map_err(|_| SignatureFault::Malformed("it is not UTF-8".to_owned()))?;
    let mut first = None;
    for signer in signers.iter() {
        let text = match signer.key.open(note) {
            Ok(text) => text,
            Err(NoteFault::NotSigned(_)) => continue,
            Err(NoteFault::BadSignature(_)) => {
                first.get_or_insert(SignatureFault::Wrong(signer.id.clone()));
                continue;
            }
            Err(fault) => return Err(SignatureFault::Malformed(fault.to_string())),
        };
        let statement = Statement::parse(text)
            .ok_or_else(|| SignatureFault::Malformed("its text is not a statement of this form".to_owned()))?;
        match judge(signer, &statement, kind, now) {
            Ok(()) => {
                return about(&statement, kind, (id, version), tree)
                    .map(|()| Signed { signer: signer.id.clone(), statement });
            }
            Err(fault) => drop(first.get_or_insert(fault)),
        }
    }
    Err(first.unwrap_or_else(|| match names(note) {
        Some(names) => SignatureFault::Untrusted { names, file: signers.path().to_owned() },
        None => SignatureFault::Malformed("it is not a signed note".to_owned()),
    }))
}

/// Whether the signer's word counts now. Times are the signer's own claim, so a key that is over or revoked counts
/// for nothing, whenever it says that it signed.
fn judge(
    signer: &super::signers::Signer,
    statement: &Statement,
    kind: Kind,
    now: Timestamp,
) -> Result<(), SignatureFault> {
    let name = || signer.id.clone();
    match signer.state(now) {
        SignerState::Revoked(reason) => return Err(SignatureFault::Revoked { signer: name(), reason }),
        SignerState::Expired => return Err(SignatureFault::Expired { signer: name(), until: signer.valid_to }),
        SignerState::NotYet => return Err(SignatureFault::NotYet { signer: name(), from: signer.valid_from }),
        SignerState::Valid => {}
    }
    if !signer.signs.contains(&kind.purpose()) {
        return Err(SignatureFault::Purpose { signer: name(), kind });
    }
    if statement.signed_at > now.plus(SKEW) {
        return Err(SignatureFault::Future(statement.signed_at));
    }
    if statement.signed_at < signer.valid_from {
        return Err(SignatureFault::NotYet { signer: name(), from: signer.valid_from });
    }
    Ok(())
}

fn about(statement: &Statement, kind: Kind, (id, version): (&str, Version), tree: &Tree) -> Result<(), SignatureFault> {
    if (statement.kind, statement.id.as_str(), statement.version) != (kind, id, version) {
        return Err(SignatureFault::Other {
            signed: Subject(statement.kind, &statement.id, statement.version).to_string(),
            found: Subject(kind, id, version).to_string(),
        });
    }
    let found = tree.digest();
    if statement.tree != found {
        let signed = statement.tree.chars().take(64).collect();
        return Err(SignatureFault::Content { signed, found });
    }
    Ok(())
}

/// Who claims to have signed `note`.
fn names(note: &str) -> Option<String> {
    let signatures = &note[note.rfind("\n\n")? + 2..];
    let names: Vec<String> = signatures
        .lines()
        .filter_map(|line| line.strip_prefix("\u{2014} ")?.split_once(' '))
        .map(|(name, _)| {
            format!("`{}`", name.chars().take(64).filter(|letter| !letter.is_control()).collect::<String>())
        })
        .take(SHOWN_NAMES)
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_one_spelling() {
        let statement = Statement {
            kind: Kind::Recipe,
            id: "nightly".into(),
            version: Version::parse("1.2.3").expect("valid"),
            tree: "ab".repeat(32),
            signed_at: Timestamp::parse("2026-11-27T12:00:00Z").expect("valid"),
        };
        let text = statement.text();
        assert_eq!(Statement::parse(&text), Some(statement));
        for (from, to) in [
            ("arw.recipe/v1", "arw.recipe/v2"),
            ("arw.recipe/v1", "arw.Recipe/v1"),
            ("arw.recipe", "arw.thing"),
            ("id nightly", "id  nightly\nid x"),
            ("version 1.2.3", "version 01.2.3"),
            ("12:00:00.000000Z", "12:00:00Z"),
            ("12:00:00.000000Z", "13:00:00.000000+01:00"),
            ("\nsigned", "\r\nsigned"),
        ] {
            assert_ne!(text.replace(from, to), text, "{from}");
            assert_eq!(Statement::parse(&text.replace(from, to)), None, "{to}");
        }
        assert_eq!(Statement::parse(&format!("{text}more\n")), None);
        assert_eq!(Statement::parse(text.trim_end()), None);
    }
}
