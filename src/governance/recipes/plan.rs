//! What a run of a recipe would be: everything that is decided before a launch, and nothing of a launch.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::domain::{ClientAddr, DenialCode, PersonaId, RuleId, Timestamp, codes};
use crate::policy::{Answer, Snapshot};
use crate::sandbox::preset::PresetName;
use crate::sandbox::{Control, ProfileName};
use crate::supervisor::RuntimeSpec;

use super::super::consent::{ConsentFault, Consents, Scope, Standing};
use super::read::Recipe;

codes! {
    /// What would be decided about one host.
    EgressWord {
        /// It may leave.
        Allow => "allow",
        /// It may leave only because the persona is in report mode.
        WouldDeny => "would_deny",
        /// It may not.
        Deny => "deny",
    }
}

/// What would be decided about one of the hosts that the recipe asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EgressAnswer {
    /// The URL as written.
    pub url: String,
    /// The answer.
    pub decision: EgressWord,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<DenialCode>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How one scope stands that the recipe reads data under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScopeAnswer {
    /// The scope.
    pub scope: String,
    /// Whether it is open.
    pub met: bool,
    /// By which bundles, or why not.
    pub why: String,
}

/// The plan of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The recipe, and the runtime that it becomes.
    pub id: String,
    /// Its version.
    pub version: String,
    /// What it does.
    pub description: String,
    /// Who its traffic leaves as.
    pub persona: PersonaId,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The names of its variables. Values may be secrets.
    pub env: Vec<String>,
    /// Its walls.
    pub profile: ProfileName,
    /// Controls without which it is not launched.
    pub require: Vec<Control>,
    /// Its limits.
    pub preset: PresetName,
    /// Why it needs more than eco.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
    /// What narrows the preset: name and value.
    pub limits: Vec<(&'static str, u64)>,
    /// What it may use up: name and value, times in seconds.
    pub budget: Vec<(&'static str, u64)>,
    /// When the clock starts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The next time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// The scopes that it reads data under.
    pub consent: Vec<ScopeAnswer>,
}

impl Plan {
    /// Whether every scope is open.
    pub fn consent_is_met(&self) -> bool {
        self.consent.iter().all(|scope| scope.met)
    }
}

/// The plan of `recipe` at the moment `now`. `consents` says why when they cannot be read: then none is met.
pub fn plan(recipe: &Recipe, consents: &Result<Consents, ConsentFault>, now: Timestamp) -> Plan {
    let spec = &recipe.spec;
    Plan {
        id: spec.id.to_string(),
        version: recipe.version.to_string(),
        description: recipe.description.clone(),
        persona: spec.persona.clone(),
        command: std::iter::once(&spec.process.command).chain(&spec.process.args).cloned().collect(),
        env: spec.process.env.iter().map(|(name, _)| name.clone()).collect(),
        profile: spec.profile,
        require: spec.require.clone(),
        preset: spec.preset,
        justification: spec.justification.clone(),
        limits: limits(spec),
        budget: budget(spec),
        schedule: spec.schedule.as_ref().map(ToString::to_string),
        next: spec.schedule.as_ref().and_then(|schedule| schedule.next_after(now)),
        consent: spec.consent.iter().map(|scope| standing(scope, consents)).collect(),
    }
}

fn standing(text: &str, consents: &Result<Consents, ConsentFault>) -> ScopeAnswer {
    let answer = |met, why: String| ScopeAnswer { scope: text.to_owned(), met, why };
    let consents = match consents {
        Ok(consents) => consents,
        Err(fault) => return answer(false, fault.to_string().lines().next().unwrap_or_default().to_owned()),
    };
    match Scope::parse(text).map(|scope| consents.standing(&scope)) {
        Ok(Standing::Open(bundles)) => {
            let names: Vec<&str> = bundles.iter().map(|bundle| bundle.as_str()).collect();
            answer(true, format!("by {}", names.join(", ")))
        }
        Ok(Standing::Closed(missing)) => answer(false, missing.to_string()),
        Err(fault) => answer(false, fault.to_string()),
    }
}

fn limits(spec: &RuntimeSpec) -> Vec<(&'static str, u64)> {
    let limits = &spec.limits;
    [
        ("cpu_percent", limits.cpu_percent.map(u64::from)),
        ("memory", limits.memory),
        ("swap", limits.swap),
        ("processes", limits.processes.map(u64::from)),
        ("open_files", limits.open_files.map(u64::from)),
        ("connections", limits.connections.map(u64::from)),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name, value)))
    .collect()
}

fn budget(spec: &RuntimeSpec) -> Vec<(&'static str, u64)> {
    let budget = &spec.budget;
    let secs = |time: Option<Duration>| time.map(|time| time.as_secs());
    [
        ("wall_time", secs(budget.wall_time)),
        ("cpu_time", secs(budget.cpu_time)),
        ("gpu_time", secs(budget.gpu_time)),
        ("egress", budget.egress),
        ("requests", budget.requests),
        ("tokens", budget.tokens),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name, value)))
    .collect()
}

impl Recipe {
    /// What `snapshot` would decide about each host that the recipe asks for. No name is looked up.
    pub fn ask(&self, snapshot: &Snapshot, now: Timestamp) -> Vec<EgressAnswer> {
        // No client is there to have an address; policy does not look at it.
        let nobody = ClientAddr::Tcp(SocketAddr::from((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0)));
        let answer = |(url, question): &(String, crate::policy::Question)| {
            let (_, verdict) = snapshot.verdict(question, self.spec.persona.clone(), nobody, now);
            let denial = verdict.denial.as_ref();
            EgressAnswer {
                url: url.clone(),
                decision: match verdict.answer {
                    Answer::Allow => EgressWord::Allow,
                    Answer::WouldDeny => EgressWord::WouldDeny,
                    Answer::Deny => EgressWord::Deny,
                },
                code: denial.map(|denial| denial.code),
                rule: verdict
                    .grant
                    .as_ref()
                    .and_then(|grant| grant.rule().cloned())
                    .or_else(|| denial.and_then(|denial| denial.rule.clone())),
                detail: denial.map(|denial| denial.detail.clone()),
            }
        };
        self.egress.iter().map(answer).collect()
    }
}
