//! Whether a launch may read data.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Faults;
use crate::domain::{BundleId, DenialCode};
use crate::supervisor::RuntimeSpec;

use super::super::bundles::Bundle;
use super::super::journal::JournalFault;
use super::acknowledge::latest;
use super::{Acknowledgement, Acknowledgements, Act, Scope, ScopeFault};

/// All consents, and what was acknowledged of them, at one moment.
#[derive(Debug, Default)]
pub struct Consents {
    bundles: Vec<Bundle>,
    latest: BTreeMap<BundleId, Acknowledgement>,
}

/// How a scope stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Open, by these bundles.
    Open(Vec<BundleId>),
    /// Closed.
    Closed(Missing),
}

/// Why a scope is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The manifest asks for something that is no scope.
    #[error("{0}")]
    NoScope(ScopeFault),
    /// No bundle lists it.
    #[error("no bundle's consent lists it")]
    NotListed,
    /// A bundle that lists it requires consent, and nobody agreed.
    #[error("the consent of bundle `{0}` was never acknowledged")]
    NotAcknowledged(BundleId),
    /// Somebody agreed, to other words.
    #[error("the consent of bundle `{0}` was changed after it was acknowledged")]
    Changed(BundleId),
    /// Somebody took it back.
    #[error("the consent of bundle `{0}` was withdrawn")]
    Withdrawn(BundleId),
}

/// Why it is not known what is consented to.
#[derive(Debug, thiserror::Error)]
pub enum ConsentFault {
    /// A file of bundles is faulty.
    #[error("{0}")]
    Bundles(Faults),
    /// The record of acknowledgements cannot be read.
    #[error(transparent)]
    Record(#[from] JournalFault),
}

/// The refusal of a launch that reads data without consent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{scope}` is not consented to: {missing}")]
pub struct ConsentMissing {
    /// The first scope that is closed, as the manifest has it.
    pub scope: String,
    /// Why.
    pub missing: Missing,
}

/// Why a launch that reads data is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A scope is closed.
    #[error(transparent)]
    Missing(#[from] ConsentMissing),
    /// It is not known what is open.
    #[error("it reads data, and what is consented to cannot be read: {0}")]
    Unknown(#[from] ConsentFault),
}

impl Refusal {
    /// The stable code: what is not known to be consented to is not.
    pub const fn code(&self) -> DenialCode {
        DenialCode::ConsentMissing
    }

    /// What an operator does about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Missing(missing) => missing.hint(),
            Self::Unknown(_) => "arw-cli consent validate".to_owned(),
        }
    }
}

/// Whether `spec` may be launched now, as far as consent goes: asked right before every launch, so that a withdrawal
/// counts from then on. One that reads nothing may, whatever the state of the files.
///
/// # Errors
/// [`Refusal`].
pub fn permit(config_dir: &Path, state_dir: &Path, spec: &RuntimeSpec) -> Result<Acknowledged, Refusal> {
    if spec.consent.is_empty() {
        return Ok(Acknowledged { scopes: Vec::new() });
    }
    Ok(Consents::load(config_dir, state_dir)?.permits(&spec.consent)?)
}

/// The proof that every scope of a launch is open. Made only by [`Consents::permits`], for that launch.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Acknowledged {
    scopes: Vec<(Scope, Vec<BundleId>)>,
}

impl Consents {
    /// What `bundles` say, of which `lines` were acknowledged.
    pub fn new(bundles: Vec<Bundle>, lines: Vec<Acknowledgement>) -> Self {
        Self { bundles, latest: latest(lines) }
    }

    /// That of the configuration and state folders.
    ///
    /// # Errors
    /// A faulty file of bundles or a damaged record: then no launch that reads data is permitted.
    pub fn load(config_dir: &Path, state_dir: &Path) -> Result<Self, ConsentFault> {
        let bundles = super::load(config_dir).map_err(ConsentFault::Bundles)?;
        let lines = Acknowledgements::of(state_dir).read()?;
        Ok(Self::new(bundles, lines))
    }

    /// The bundles, in the order of their ids.
    pub fn bundles(&self) -> &[Bundle] {
        &self.bundles
    }

    /// The last that was said about the consent of `bundle`.
    pub fn latest(&self, bundle: &BundleId) -> Option<&Acknowledgement> {
        self.latest.get(bundle)
    }

    /// Whether a launch that reads data under `scopes` may go on. A launch that reads none may.
    ///
    /// # Errors
    /// The first scope that is closed.
    pub fn permits<S: AsRef<str>>(&self, scopes: &[S]) -> Result<Acknowledged, ConsentMissing> {
        let mut open = Vec::new();
        for text in scopes.iter().map(AsRef::as_ref) {
            let missing = |missing| ConsentMissing { scope: text.chars().take(64).collect(), missing };
            let scope = Scope::parse(text).map_err(|fault| missing(Missing::NoScope(fault)))?;
            match self.standing(&scope) {
                Standing::Open(bundles) => open.push((scope, bundles)),
                Standing::Closed(why) => return Err(missing(why)),
            }
        }
        Ok(Acknowledged { scopes: open })
    }

    /// How `scope` stands. Of several bundles that list it the strictest counts: one that asks nobody does not open
    /// what another requires consent for.
    pub fn standing(&self, scope: &Scope) -> Standing {
        let listing: Vec<&Bundle> =
            self.bundles.iter().filter(|bundle| bundle.consent.scopes.contains(scope)).collect();
        if listing.is_empty() {
            return Standing::Closed(Missing::NotListed);
        }
        for bundle in &listing {
            if let Some(missing) = self.missing(bundle) {
                return Standing::Closed(missing);
            }
        }
        Standing::Open(listing.into_iter().map(|bundle| bundle.id.clone()).collect())
    }

    /// What keeps the consent of `bundle` from being in force. A withdrawal counts for an optional one too.
    pub fn missing(&self, bundle: &Bundle) -> Option<Missing> {
        let id = || bundle.id.clone();
        match self.latest.get(&bundle.id) {
            Some(line) if line.act == Act::Withdraw => Some(Missing::Withdrawn(id())),
            _ if !bundle.consent.required => None,
            None => Some(Missing::NotAcknowledged(id())),
            Some(line) if line.consent_sha256 != bundle.consent.digest() => Some(Missing::Changed(id())),
            Some(_) => None,
        }
    }
}

impl ConsentMissing {
    /// The stable code.
    pub const fn code(&self) -> DenialCode {
        DenialCode::ConsentMissing
    }

    /// What an operator does about it.
    pub fn hint(&self) -> String {
        match &self.missing {
            Missing::NoScope(_) => "correct `consent` in the manifest".to_owned(),
            Missing::NotListed => {
                format!("list `{}` in `metadata.consent.scopes` of runtime/bundles*.json, if people agreed", self.scope)
            }
            Missing::NotAcknowledged(bundle) | Missing::Changed(bundle) | Missing::Withdrawn(bundle) => {
                format!("arw-cli consent acknowledge {bundle} --note \"…\"")
            }
        }
    }
}

impl Acknowledged {
    /// The scopes, each with the bundles whose consent opens it.
    pub fn scopes(&self) -> impl Iterator<Item = (&Scope, &[BundleId])> {
        self.scopes.iter().map(|(scope, bundles)| (scope, bundles.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::super::bundles::read_catalogue_text;
    use super::*;
    use crate::config::RuntimesFile;
    use crate::domain::Timestamp;
    use crate::supervisor::Defaults;

    fn bundles(text: &str) -> Vec<Bundle> {
        read_catalogue_text(&PathBuf::from("b.json"), text).expect("sound")
    }

    fn bundle(id: &str, required: bool, scopes: &str, note: &str) -> String {
        format!(
            r#"{{"id":"{id}","version":"1.0.0","metadata":{{"consent":{{"required":{required},"modalities":["text"],"scopes":[{scopes}],"note":"{note}"}}}}}}"#
        )
    }

    fn catalogue(bundles: &[String]) -> String {
        format!(r#"{{"version":1,"bundles":[{}]}}"#, bundles.join(","))
    }

    fn line(bundle: &Bundle, act: Act) -> Acknowledgement {
        Acknowledgement::new(Timestamp::from_unix_micros(0), act, bundle, "ops".into(), "agreed".into())
    }

    #[test]
    fn a_scope_opens_only_by_the_words_that_were_acknowledged() {
        let required = bundles(&catalogue(&[bundle("a", true, "\"text:read\"", "told")]));
        let changed = bundles(&catalogue(&[bundle("a", true, "\"text:read\"", "told more")]));
        let wider = bundles(&catalogue(&[bundle("a", true, "\"text:read\", \"text:keep\"", "told")]));
        let optional = bundles(&catalogue(&[bundle("a", false, "\"text:read\"", "told")]));
        let id = required[0].id.clone();
        let (yes, no) = (line(&required[0], Act::Acknowledge), line(&required[0], Act::Withdraw));
        for (bundles, lines, expected) in [
            (&required, vec![], Some(Missing::NotAcknowledged(id.clone()))),
            (&required, vec![yes.clone()], None),
            (&required, vec![yes.clone(), no.clone()], Some(Missing::Withdrawn(id.clone()))),
            (&required, vec![no.clone(), yes.clone()], None),
            (&changed, vec![yes.clone()], Some(Missing::Changed(id.clone()))),
            (&wider, vec![yes.clone()], Some(Missing::Changed(id.clone()))),
            (&optional, vec![], None),
            (&optional, vec![no.clone()], Some(Missing::Withdrawn(id.clone()))),
        ] {
            let consents = Consents::new(bundles.clone(), lines.clone());
            let found = consents.permits(&["text:read"]).err().map(|refusal| refusal.missing);
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_launch_that_reads_nothing_needs_no_consent_and_nothing_else_slips_through() {
        let consents = Consents::default();
        let none: [&str; 0] = [];
        assert_eq!(consents.permits(&none).expect("nothing is read").scopes().count(), 0);
        let refusal = consents.permits(&["text:read"]).expect_err("not listed");
        assert_eq!((refusal.code().code(), refusal.missing.clone()), ("consent_missing", Missing::NotListed));
        assert_eq!(refusal.to_string(), "`text:read` is not consented to: no bundle's consent lists it");
        let listed = bundles(&catalogue(&[bundle("a", false, "\"text:read\"", "told")]));
        let consents = Consents::new(listed, Vec::new());
        for near in ["text:rea", "text:reads", "TEXT:READ", "text:*", "*", "", "text:read\0", " text:read"] {
            assert!(consents.permits(&[near]).is_err(), "{near:?}");
            assert!(consents.permits(&["text:read", near]).is_err(), "{near:?}");
        }
        let given = consents.permits(&["text:read"]).expect("listed and optional");
        assert_eq!(
            given.scopes().next().map(|(scope, by)| (scope.to_string(), by.len())),
            Some(("text:read".into(), 1))
        );
    }

    #[test]
    fn the_strictest_of_the_bundles_that_list_a_scope_counts() {
        let both = bundles(&catalogue(&[
            bundle("lax", false, "\"text:read\"", "told"),
            bundle("strict", true, "\"text:read\"", "told"),
        ]));
        let refusal = Consents::new(both.clone(), Vec::new()).permits(&["text:read"]).expect_err("one requires it");
        assert_eq!(refusal.missing, Missing::NotAcknowledged(both[1].id.clone()));
        // An acknowledgement of one is none of the other, even with the same words.
        let lines = vec![line(&both[0], Act::Acknowledge)];
        assert!(Consents::new(both.clone(), lines).permits(&["text:read"]).is_err());
        let lines = vec![line(&both[1], Act::Acknowledge)];
        assert!(Consents::new(both, lines).permits(&["text:read"]).is_ok());
    }

    #[test]
    fn the_record_is_kept_across_processes_and_a_damaged_one_permits_nothing() {
        let (config, state) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(config.path().join("runtime")).expect("made");
        let text = catalogue(&[bundle("a", true, "\"text:read\"", "told")]);
        std::fs::write(config.path().join("runtime/bundles.json"), &text).expect("written");
        let load = || Consents::load(config.path(), state.path());
        assert!(load().expect("sound").permits(&["text:read"]).is_err());
        let record = Acknowledgements::of(state.path());
        record.add(&line(&bundles(&text)[0], Act::Acknowledge)).expect("written");
        assert!(load().expect("sound").permits(&["text:read"]).is_ok());
        let spec = |consent: &str| {
            let text = format!(
                "[[runtimes]]\nid = \"r\"\npersona = \"p\"\nconsent = [{consent}]\n[runtimes.process]\ncommand = \"x\"\n"
            );
            let file = RuntimesFile::parse(Path::new("r.toml"), &text).expect("TOML");
            let manifest = crate::supervisor::read(file, &Defaults::default()).expect("sound");
            manifest.runtimes().next().cloned().expect("one")
        };
        let permit =
            |spec: &RuntimeSpec| permit(config.path(), state.path(), spec).map_err(|refusal| refusal.to_string());
        let (reads, other, nothing) = (spec("\"text:read\""), spec("\"text:read\", \"mail:read\""), spec(""));
        assert!(permit(&reads).is_ok() && permit(&nothing).is_ok());
        assert_eq!(permit(&other), Err("`mail:read` is not consented to: no bundle's consent lists it".to_owned()));
        let path = state.path().join("consent/acknowledgements.jsonl");
        let sound = std::fs::read_to_string(&path).expect("there");
        std::fs::write(&path, sound.replace("\"by\"", "\"as\"")).expect("damaged");
        assert!(load().expect_err("damaged").to_string().contains("damaged in line 1"));
        std::fs::write(config.path().join("runtime/bundles-more.json"), "{").expect("written");
        assert!(load().expect_err("faulty").to_string().contains("bundles-more.json:1"));
        assert!(permit(&reads).expect_err("not known").contains("what is consented to cannot be read"));
        assert!(permit(&nothing).is_ok(), "what reads nothing does not wait for consent");
    }
}
