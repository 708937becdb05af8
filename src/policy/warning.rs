//! What is lawful in a policy and probably not meant.

use std::fmt;

use serde::Serialize;

use crate::domain::{PersonaId, RuleId, Timestamp};

use super::pattern::HostPattern;
use super::persona::Persona;
use super::rule::Rule;
use super::snapshot::Snapshot;
use super::terms::{Mode, Posture, SchemeSet};

/// Something that an operator should look at. Never a reason to refuse the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The persona.
    pub persona: PersonaId,
    /// The rule, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// One sentence; lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.persona)?;
        if let Some(rule) = &self.rule {
            write!(f, ": {rule}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Snapshot {
    /// Everything that looks unintended at the moment `now`, by persona, then in file order.
    pub fn warnings(&self, now: Timestamp) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for persona in self.personas() {
            of_persona(persona, now, &mut |rule: Option<&Rule>, message| {
                warnings.push(Warning { persona: persona.id.clone(), rule: rule.map(|rule| rule.id.clone()), message });
            });
        }
        warnings
    }
}

type Warn<'w> = dyn FnMut(Option<&Rule>, String) + 'w;

fn of_persona(persona: &Persona, now: Timestamp, warn: &mut Warn<'_>) {
    if persona.mode == Mode::Report && persona.posture != Posture::Off {
        warn(None, "nothing is enforced: the mode is `report`".to_owned());
    }
    if persona.posture == Posture::Off && !persona.allow.rules().is_empty() {
        warn(None, "the allow rules have no effect: the posture is `off`".to_owned());
    }
    for token in &persona.tokens {
        if token.expires_at.is_some_and(|end| end <= now) {
            warn(None, format!("the token `{}` has expired", token.name));
        }
    }
    for rule in persona.allow.rules() {
        of_allow_rule(persona, rule, now, warn);
    }
    for rule in persona.deny.rules().iter().filter(|rule| rule.expired(now)) {
        warn(Some(rule), "the rule has expired and denies nothing".to_owned());
    }
}

fn of_allow_rule(persona: &Persona, rule: &Rule, now: Timestamp, warn: &mut Warn<'_>) {
    if rule.expired(now) {
        warn(Some(rule), "the rule has expired and allows nothing".to_owned());
    }
    if !rule.budget.is_none() && !rule.named {
        let message = "the rule has a budget and no `id`: what it has spent is counted by its position in the file";
        warn(Some(rule), message.to_owned());
    }
    if persona.posture == Posture::Public && (rule.sees_http() || rule.expires_at.is_some()) {
        let message = "the rule narrows nothing: the posture `public` allows what it does not; deny rules narrow";
        warn(Some(rule), message.to_owned());
    }
    for pattern in &rule.hosts {
        if let Some(deny) = shadow(persona, pattern, now) {
            warn(Some(rule), format!("`{pattern}` is always denied by the rule `{}`", deny.id));
        }
    }
}

/// The deny rule that leaves nothing of `pattern`.
fn shadow<'p>(persona: &'p Persona, pattern: &HostPattern, now: Timestamp) -> Option<&'p Rule> {
    let deny = &persona.deny;
    let whole = |index: &u32| {
        let rule = deny.rule(*index);
        let whole = rule.ports.is_all() && rule.schemes == SchemeSet::ALL && !rule.sees_http() && !rule.expired(now);
        whole.then_some(rule)
    };
    match pattern {
        HostPattern::Exact(name) => deny.hosts().matching(name.as_str()).flat_map(|(rules, _)| rules).find_map(whole),
        HostPattern::Below(base) => deny.hosts().covering_below(base.as_str()).flatten().find_map(whole),
        HostPattern::Literal(_) => None,
    }
}
