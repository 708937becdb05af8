//! A Cedar bundle (<https://www.cedarpolicy.com>, version 4) as it decides, and what lint refuses of one.
//!
//! The schema is ours: principals `Token::"admin"`, `Uid::"1000"`, `Persona::"demo"`; actions `Action::"runtime:manage"`;
//! resources `Daemon::"daemon"`, `Persona`, `Runtime`, `Automation`, `Capability`; and `context.leases`. A permit names
//! whom, what and on what in its head, as a grant of `policy.json` does; what it may add are conditions.

use std::collections::HashSet;
use std::path::Path;
use std::str::FromStr as _;

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    Policy, PolicyId, PolicySet, PrincipalConstraint, Request, ResourceConstraint, RestrictedExpression, Schema,
    ValidationMode, Validator,
};

use super::question::{Question, Ruling, Why};
use super::read::no_kill_switch;
use super::statements::{Statement, split};
use super::table::{Grant, Table, Target};
use super::words::{Action, Family, Kind, OVERFLOW_UID, Principal, Resource};
use crate::config::{Fault, Faults};
use crate::domain::RuleId;

/// The one entity of its type.
const TOKEN: &str = "admin";

/// A bundle that lint has nothing against.
pub(super) struct Bundle {
    policies: PolicySet,
    authorizer: Authorizer,
    /// The heads of the permits: what could be allowed if every condition held.
    heads: Table,
    forbids: usize,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("heads", &self.heads).finish_non_exhaustive()
    }
}

/// What lint says of one statement.
struct Lint<'p> {
    path: &'p Path,
    line: usize,
    id: String,
    faults: Vec<Fault>,
}

impl Lint<'_> {
    fn fault(&mut self, message: impl Into<String>, hint: &str) {
        self.faults.push(Fault::new(self.path, Some(self.line), self.id.clone(), message).hint(hint));
    }
}

/// The bundle that `text`, the contents of `path`, says.
///
/// # Errors
/// Every fault, what lint refuses among them.
pub(super) fn read(path: &Path, text: &str) -> Result<Bundle, Faults> {
    let mut faults = Vec::new();
    let mut policies = PolicySet::new();
    let mut heads = Table::default();
    let mut lines = Vec::new();
    let mut forbids = 0;
    for statement in split(path, text)? {
        let mut lint = Lint { path, line: statement.line, id: String::new(), faults: Vec::new() };
        if let Some((policy, head)) = one(&mut lint, &statement) {
            match policies.add(policy) {
                Ok(()) => lines.push((lint.id.clone(), statement.line)),
                Err(_) => lint.fault("the id of a statement before", "give it an `@id` of its own"),
            }
            match head {
                Some(head) => heads.grants.push(head),
                None => forbids += 1,
            }
        }
        faults.append(&mut lint.faults);
    }
    if faults.is_empty() {
        validate(path, &policies, &lines, &mut faults);
    }
    if faults.is_empty() && !heads.has_kill_switch() {
        faults.push(no_kill_switch(path));
    }
    if faults.is_empty() {
        Ok(Bundle { policies, authorizer: Authorizer::new(), heads, forbids })
    } else {
        Err(Faults(faults))
    }
}

/// The statement, and its head if it is a permit; `None` when it is no policy or lint is against it.
fn one(lint: &mut Lint<'_>, statement: &Statement<'_>) -> Option<(Policy, Option<Grant>)> {
    let parsed = match Policy::parse(None, statement.text) {
        Ok(policy) => policy,
        Err(errors) => {
            for error in errors.iter() {
                lint.fault(
                    format!("not Cedar: {error}"),
                    "write `permit (principal == …, action == …, resource == …);`",
                );
            }
            return None;
        }
    };
    let named = parsed.annotation("id").map(str::to_owned);
    match named.as_deref().map(RuleId::parse) {
        Some(Ok(id)) => id.as_str().clone_into(&mut lint.id),
        Some(Err(fault)) => lint.fault(fault.to_string(), "write `@id(\"operators-read\")`"),
        None => lint.fault("the statement has no id", "write `@id(\"…\")` before it"),
    }
    let policy = parsed.new_id(PolicyId::new(&lint.id));
    let head = match policy.effect() {
        Effect::Permit => Some(permit(lint, &policy)),
        Effect::Forbid => {
            forbid(lint, &policy);
            None
        }
    };
    match head {
        _ if !lint.faults.is_empty() => None,
        None => Some((policy, None)),
        Some(head) => head.map(|head| (policy, Some(head))),
    }
}

fn permit(lint: &mut Lint<'_>, policy: &Policy) -> Option<Grant> {
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) => principal(lint, &uid),
        PrincipalConstraint::Any
        | PrincipalConstraint::Is(_)
        | PrincipalConstraint::In(_)
        | PrincipalConstraint::IsIn(..) => {
            lint.fault(
                "a wildcard grant: the permit does not name whom",
                "write `principal == Uid::\"1000\"` or the like",
            );
            None
        }
    };
    let actions = actions(lint, &policy.action_constraint());
    let target = match policy.resource_constraint() {
        ResourceConstraint::Eq(uid) => resource(lint, &uid),
        ResourceConstraint::Is(kind) => every(lint, &kind),
        ResourceConstraint::In(uid) => family(lint, &uid),
        ResourceConstraint::Any | ResourceConstraint::IsIn(..) => {
            let hint = "write `resource == Daemon::\"daemon\"`, `resource is Runtime` or the like";
            lint.fault("a wildcard grant: the permit does not name on what", hint);
            None
        }
    };
    let (principal, actions, target) = (principal?, actions?, target?);
    let kind = target.kind();
    for action in actions.iter().filter(|action| action.on() != kind) {
        lint.fault(
            format!("`{action}` is done to a `{}`, not to a `{kind}`", action.on()),
            "give it a permit of its own",
        );
    }
    if actions.contains(&Action::AutomationShutdown) && policy.has_non_scope_constraint() {
        let hint = "give it a permit of its own, without `when` or `unless`";
        lint.fault("`automation:shutdown` must not wait for a condition", hint);
    }
    Some(Grant { id: lint.id.clone(), principals: vec![principal], actions, targets: vec![target], lease: None })
}

fn forbid(lint: &mut Lint<'_>, policy: &Policy) {
    let hint = "name the actions; grant `automation:shutdown` to fewer instead";
    match policy.action_constraint() {
        ActionConstraint::Any => lint.fault("the kill switch is never denied, and this denies everything", hint),
        named @ (ActionConstraint::In(_) | ActionConstraint::Eq(_)) => {
            if actions(lint, &named).is_some_and(|actions| actions.contains(&Action::AutomationShutdown)) {
                lint.fault("the kill switch is never denied", hint);
            }
        }
    }
    // Words that nobody has would make a denial that never holds.
    if let PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) =
        policy.principal_constraint()
    {
        principal(lint, &uid);
    }
    match policy.resource_constraint() {
        ResourceConstraint::Eq(uid) => drop(resource(lint, &uid)),
        ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => drop(family(lint, &uid)),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => {}
    }
}

fn principal(lint: &mut Lint<'_>, uid: &EntityUid) -> Option<Principal> {
    let id = uid.id().unescaped();
    let read = match uid.type_name().to_string().as_str() {
        "Token" if id == TOKEN => Ok(Principal::Token),
        "Uid" => Principal::parse(&format!("uid:{id}")),
        "Persona" => Principal::parse(&format!("persona:{id}")),
        _ => Principal::parse(""),
    };
    match read {
        Ok(Principal::Uid(OVERFLOW_UID)) => {
            lint.fault("this uid stands for whoever has none here", "name a user of this host");
            None
        }
        Ok(principal) => Some(principal),
        Err(_) => {
            lint.fault(format!("`{uid}` is nobody"), "`Token::\"admin\"`, `Uid::\"<number>\"` or `Persona::\"<id>\"`");
            None
        }
    }
}

fn actions(lint: &mut Lint<'_>, constraint: &ActionConstraint) -> Option<Vec<Action>> {
    let named = match constraint {
        ActionConstraint::Any => {
            lint.fault(
                "a wildcard grant: the permit does not name what",
                "write `action == Action::\"state:read\"` or the like",
            );
            return None;
        }
        ActionConstraint::Eq(uid) => std::slice::from_ref(uid),
        ActionConstraint::In(uids) => uids,
    };
    if named.is_empty() {
        lint.fault("the list of actions is empty", "name what is meant");
    }
    let mut read = Vec::new();
    for uid in named {
        let known = Action::from_code(uid.id().unescaped()).filter(|_| uid.type_name().to_string() == "Action");
        match known {
            Some(action) if read.contains(&action) => lint.fault(format!("`{action}` is named twice"), "name it once"),
            Some(action) => read.push(action),
            None => lint.fault(format!("`{uid}` is not an action"), "docs/policy-authority.md lists the actions"),
        }
    }
    Some(read).filter(|read| read.len() == named.len() && !read.is_empty())
}

fn resource(lint: &mut Lint<'_>, uid: &EntityUid) -> Option<Target> {
    let id = uid.id().unescaped();
    let kind = Kind::from_code(&uid.type_name().to_string().to_ascii_lowercase())
        .filter(|kind| type_of(*kind) == uid.type_name().to_string());
    if kind == Some(Kind::Capability)
        && let Some(family) = Family::from_code(id)
    {
        lint.fault(format!("`{family}` is a family"), "write `resource in Capability::\"…\"` for each of it");
        return None;
    }
    let read = match kind {
        Some(Kind::Daemon) if id == Kind::Daemon.code() => Some(Resource::Daemon),
        Some(Kind::Daemon) | None => None,
        Some(kind) => Resource::parse(&format!("{kind}:{id}")).ok(),
    };
    // In another spelling it would be a different entity to Cedar, and never be asked about.
    let read = read.filter(|resource| resource.name() == id);
    if read.is_none() {
        let hint = "`Daemon::\"daemon\"`, `Persona`, `Runtime` or `Automation` with an id, or `Capability` with what a lease is for";
        lint.fault(format!("`{uid}` is not a resource"), hint);
    }
    read.map(Target::One)
}

fn every(lint: &mut Lint<'_>, name: &EntityTypeName) -> Option<Target> {
    let kinds = [Kind::Persona, Kind::Runtime, Kind::Automation];
    let kind = kinds.into_iter().find(|kind| type_of(*kind) == name.to_string());
    if kind.is_none() {
        let hint = "`is` goes with `Persona`, `Runtime` and `Automation`; name each capability that may be leased";
        lint.fault(format!("`is {name}` does not name on what"), hint);
    }
    kind.map(Target::Every)
}

fn family(lint: &mut Lint<'_>, uid: &EntityUid) -> Option<Target> {
    let named = uid.type_name().to_string() == type_of(Kind::Capability);
    let family = Family::from_code(uid.id().unescaped()).filter(|_| named);
    if family.is_none() {
        let hint = "`in` goes with `Capability::\"egress:host\"` and `Capability::\"telemetry:persona:*\"`; write `==`";
        lint.fault(format!("`{uid}` has no members"), hint);
    }
    family.map(Target::Family)
}

/// What the schema has against it: names that are not there, conditions that cannot hold.
fn validate(path: &Path, policies: &PolicySet, lines: &[(String, usize)], faults: &mut Vec<Fault>) {
    let (schema, _) = Schema::from_cedarschema_str(&schema()).expect("the schema is ours, and a test reads it");
    let result = Validator::new(schema).validate(policies, ValidationMode::Strict);
    let mut report = |id: &PolicyId, text: String| {
        let id = id.to_string();
        let line = lines.iter().find(|(known, _)| *known == id).map(|(_, line)| *line);
        // Cedar's words start with the policy's name, which the fault has.
        let text = text.split_once(", ").map_or(text.as_str(), |(_, rest)| rest).to_owned();
        faults.push(Fault::new(path, line, id, text));
    };
    result.validation_errors().for_each(|error| report(error.policy_id(), error.to_string()));
    // A condition that never holds is a denial or a grant that somebody believes in.
    result.validation_warnings().for_each(|warning| report(warning.policy_id(), warning.to_string()));
}

/// The name of a kind's entities.
const fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Daemon => "Daemon",
        Kind::Persona => "Persona",
        Kind::Runtime => "Runtime",
        Kind::Automation => "Automation",
        Kind::Capability => "Capability",
    }
}

/// The schema in Cedar's own syntax, made from the closed words.
fn schema() -> String {
    let mut text = String::from(
        "entity Token enum [\"admin\"];\nentity Uid;\nentity Persona;\nentity Daemon enum [\"daemon\"];\nentity Runtime;\n\
         entity Automation;\nentity Capability in [Capability];\ntype Asked = { leases: Set<String> };\n",
    );
    for kind in Kind::ALL {
        let actions: Vec<String> =
            Action::ALL.iter().filter(|action| action.on() == *kind).map(|action| format!("\"{action}\"")).collect();
        text.push_str(&format!(
            "action {} appliesTo {{ principal: [Token, Uid, Persona], resource: [{}], context: Asked }};\n",
            actions.join(", "),
            type_of(*kind)
        ));
    }
    text
}

fn entity(kind: &str, id: &str) -> EntityUid {
    let name = EntityTypeName::from_str(kind).expect("the names of the schema are names");
    EntityUid::from_type_name_and_id(name, EntityId::new(id))
}

impl Bundle {
    pub(super) const fn heads(&self) -> &Table {
        &self.heads
    }

    /// Permits and forbids.
    pub(super) const fn sizes(&self) -> (usize, usize) {
        (self.heads.grants.len(), self.forbids)
    }

    /// Whether any statement has a condition.
    pub(super) fn has_conditions(&self) -> bool {
        self.policies.policies().any(Policy::has_non_scope_constraint)
    }

    pub(super) fn decide(&self, question: &Question) -> Ruling {
        let Some((request, entities)) = asked(question) else { return Ruling::no(Why::EvaluationFailed) };
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        // Cedar leaves out what fails; a forbid that fails would allow.
        if let Some(error) = response.diagnostics().errors().next() {
            tracing::error!(%error, "a Cedar policy could not be evaluated, so nothing is permitted");
            return Ruling::no(Why::EvaluationFailed);
        }
        // The least, so that the same question always names the same.
        let rule = response.diagnostics().reason().map(ToString::to_string).min();
        match (response.decision(), rule) {
            (Decision::Allow, rule) => Ruling::of(true, Why::Granted, rule),
            (Decision::Deny, Some(rule)) => Ruling::of(false, Why::DeniedByRule, Some(rule)),
            (Decision::Deny, None) => {
                let head = self.heads.decide(question);
                if head.allowed { Ruling::of(false, Why::LeaseNeeded, head.rule) } else { head }
            }
        }
    }
}

fn asked(question: &Question) -> Option<(Request, Entities)> {
    let Question { principal, action, resource, leases } = question;
    let principal = match principal {
        Principal::Token => entity("Token", TOKEN),
        Principal::Uid(uid) => entity("Uid", &uid.to_string()),
        Principal::Persona(id) => entity("Persona", id.as_str()),
    };
    let subject = entity(type_of(resource.kind()), resource.name());
    let leased = leases.iter().map(|lease| RestrictedExpression::new_string(lease.as_str().to_owned()));
    let context = Context::from_pairs([("leases".to_owned(), RestrictedExpression::new_set(leased))]).ok()?;
    let family = match resource {
        Resource::Capability(capability) => capability.family(),
        Resource::Daemon | Resource::Persona(_) | Resource::Runtime(_) | Resource::Automation(_) => None,
    };
    let family =
        family.map(|family| entity(type_of(Kind::Capability), family.code())).filter(|family| *family != subject);
    let known: Vec<Entity> =
        family.map(|family| Entity::new_no_attrs(subject.clone(), HashSet::from([family]))).into_iter().collect();
    let entities = Entities::from_entities(known, None).ok()?;
    let request = Request::new(principal, entity("Action", action.code()), subject, context, None).ok()?;
    Some((request, entities))
}

#[cfg(test)]
mod tests;
