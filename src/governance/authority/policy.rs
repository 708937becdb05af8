//! One policy in force, whichever language it is written in.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

#[cfg(feature = "cedar")]
use super::cedar;
use super::question::{Question, Ruling, Why};
use super::read;
use super::table::Table;
use super::words::{Action, Principal};
use crate::config::located::read_guarded;
use crate::config::{Fault, Faults, MAX_AUTHORITY};
use crate::domain::codes;

codes! {
    /// Where a policy comes from.
    Source {
        /// No file is configured: who administers may do everything.
        None => "none",
        /// `policy.json`.
        Json => "json",
        /// A Cedar bundle.
        Cedar => "cedar",
    }
}

/// Who may do what, checked: the one evaluator behind both languages.
#[derive(Debug)]
pub struct Policy {
    rules: Rules,
    file: Option<PathBuf>,
    digest: String,
}

#[derive(Debug)]
enum Rules {
    Open,
    Table(Table),
    #[cfg(feature = "cedar")]
    Cedar(Box<cedar::Bundle>),
}

/// A policy in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Where it comes from.
    pub source: Source,
    /// Its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// SHA-256 of the file, in hexadecimal; empty without one.
    pub digest: String,
    /// Grants, or permits.
    pub grants: usize,
    /// Denials, or forbids.
    pub forbids: usize,
}

impl Policy {
    /// The policy of a daemon for which none was written: who administers may do everything.
    pub const fn open() -> Self {
        Self { rules: Rules::Open, file: None, digest: String::new() }
    }

    /// The policy in `file`, or the open one where none is configured.
    ///
    /// # Errors
    /// Every fault; nothing of a faulty file is believed.
    pub fn load(file: Option<&Path>) -> Result<Self, Faults> {
        let Some(path) = file else { return Ok(Self::open()) };
        let text = read_guarded(path, MAX_AUTHORITY).map_err(|fault| Faults(vec![fault]))?;
        Self::parse(path, &text)
    }

    /// The policy that `text`, the contents of `path`, says; the name's ending says in which language.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, Faults> {
        let rules = match path.extension().and_then(|ending| ending.to_str()) {
            Some("json") => Rules::Table(read::read(path, text)?),
            #[cfg(feature = "cedar")]
            Some("cedar") => Rules::Cedar(Box::new(cedar::read(path, text)?)),
            #[cfg(not(feature = "cedar"))]
            Some("cedar") => {
                let fault = Fault::new(path, None, "", "this build reads no Cedar");
                return Err(Faults(vec![fault.hint("write policy.json, or build with `--features cedar`")]));
            }
            Some(_) | None => {
                let fault = Fault::new(path, None, "", "a policy is named `….json` or `….cedar`");
                return Err(Faults(vec![fault]));
            }
        };
        let digest = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { rules, file: Some(path.to_owned()), digest })
    }

    /// The answer. Pure.
    pub fn decide(&self, question: &Question) -> Ruling {
        if question.action.on() != question.resource.kind() {
            return Ruling::no(Why::WrongKind);
        }
        match &self.rules {
            Rules::Open => match question.principal {
                // A persona administers nothing, with or without a policy.
                Principal::Persona(_) => Ruling::no(Why::NotGranted),
                Principal::Token | Principal::Uid(_) => Ruling::of(true, Why::NoPolicy, None),
            },
            Rules::Table(table) => table.decide(question),
            #[cfg(feature = "cedar")]
            Rules::Cedar(bundle) => bundle.decide(question),
        }
    }

    /// Whether there is no file, so that who administers may do everything.
    pub const fn is_open(&self) -> bool {
        matches!(self.rules, Rules::Open)
    }

    /// Where it comes from.
    pub const fn source(&self) -> Source {
        match self.rules {
            Rules::Open => Source::None,
            Rules::Table(_) => Source::Json,
            #[cfg(feature = "cedar")]
            Rules::Cedar(_) => Source::Cedar,
        }
    }

    /// Whether what is leased makes a difference anywhere in it.
    pub fn looks_at_leases(&self) -> bool {
        match &self.rules {
            Rules::Open => false,
            Rules::Table(table) => table.grants.iter().any(|grant| grant.lease.is_some()),
            #[cfg(feature = "cedar")]
            Rules::Cedar(bundle) => bundle.has_conditions(),
        }
    }

    /// SHA-256 of the file; empty without one.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// In short.
    pub fn summary(&self) -> Summary {
        let (grants, forbids) = match &self.rules {
            Rules::Open => (0, 0),
            Rules::Table(table) => (table.grants.len(), table.denials.len()),
            #[cfg(feature = "cedar")]
            Rules::Cedar(bundle) => bundle.sizes(),
        };
        let (file, digest) = (self.file.clone(), self.digest.clone());
        Summary { source: self.source(), file, digest, grants, forbids }
    }

    /// Users of this host whom a grant names.
    pub fn uids(&self) -> impl Iterator<Item = u32> {
        let heads = self.heads();
        heads.into_iter().flat_map(Table::principals).filter_map(|principal| match principal {
            Principal::Uid(uid) => Some(*uid),
            Principal::Token | Principal::Persona(_) => None,
        })
    }

    /// What somebody could be allowed, for the listing of it.
    pub fn actions_of(&self, principal: &Principal) -> Vec<Action> {
        let granted = |action: &Action| match self.heads() {
            None => !matches!(principal, Principal::Persona(_)),
            Some(table) => {
                table.grants.iter().any(|grant| grant.principals.contains(principal) && grant.actions.contains(action))
            }
        };
        Action::ALL.iter().copied().filter(granted).collect()
    }

    /// What is granted by somebody's name; none where no file says it.
    fn heads(&self) -> Option<&Table> {
        match &self.rules {
            Rules::Open => None,
            Rules::Table(table) => Some(table),
            #[cfg(feature = "cedar")]
            Rules::Cedar(bundle) => Some(bundle.heads()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::{Capability, Resource};
    use super::*;

    #[test]
    fn the_shipped_policy_grants_only_the_explicit_leases() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/policy.json");
        let text = std::fs::read_to_string(&path).expect("shipped");
        let policy = Policy::parse(&path, &text).unwrap_or_else(|faults| panic!("{faults}"));
        let may = |action, resource: &str| {
            let resource = Resource::parse(resource).expect(resource);
            policy.decide(&Question::new(Principal::Uid(0), action, resource)).allowed
        };
        for lease in
            ["persona:manage", "telemetry:persona:*", "telemetry:persona:demo", "runtime:manage", "egress:proxy"]
        {
            assert!(may(Action::LeaseGrant, &format!("capability:{lease}")), "{lease}");
        }
        assert!(!may(Action::LeaseGrant, "capability:egress:host:api.example.com"));
        assert!(!may(Action::LedgerReadRaw, "daemon") && !may(Action::DaemonAdminister, "daemon"));
        assert!(may(Action::AutomationShutdown, "daemon"));
        assert!(!may(Action::PersonaManage, "persona:demo"), "not without the lease");
        let leased = Question {
            leases: vec![Capability::parse("persona:manage").expect("a capability")],
            ..Question::new(
                Principal::Token,
                Action::PersonaManage,
                Resource::parse("persona:demo").expect("a persona"),
            )
        };
        assert!(policy.decide(&leased).allowed);
        let stranger = Question::new(Principal::Uid(1000), Action::StateRead, Resource::Daemon);
        assert!(!policy.decide(&stranger).allowed);
    }

    #[test]
    fn the_ending_says_the_language() {
        let text = "{}";
        for name in ["policy", "policy.toml", "policy.JSON", "policy.json.bak"] {
            let faults = Policy::parse(Path::new(name), text).expect_err(name);
            assert!(faults.to_string().contains("a policy is named"), "{faults}");
        }
        #[cfg(not(feature = "cedar"))]
        assert!(Policy::parse(Path::new("p.cedar"), text).expect_err("none").to_string().contains("--features cedar"));
    }

    #[test]
    fn without_a_file_a_persona_still_administers_nothing() {
        let policy = Policy::open();
        let ask = |principal: &str| {
            let principal = Principal::parse(principal).expect(principal);
            policy.decide(&Question::new(principal, Action::StateRead, Resource::Daemon)).allowed
        };
        assert!(ask("token") && ask("uid:0"));
        assert!(!ask("persona:demo"));
    }
}
