//! A question, and its answer with the reason.

use serde::Serialize;

use super::words::{Action, Capability, Principal, Resource};
use crate::domain::codes;

/// May `principal` do `action` on `resource`, while these leases are in force for the persona concerned?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who.
    pub principal: Principal,
    /// What.
    pub action: Action,
    /// On what; of the action's kind ([`Action::on`]), or the answer is no.
    pub resource: Resource,
    /// What is leased.
    pub leases: Vec<Capability>,
}

impl Question {
    /// A question without leases.
    pub const fn new(principal: Principal, action: Action, resource: Resource) -> Self {
        Self { principal, action, resource, leases: Vec::new() }
    }
}

codes! {
    /// Why a question was answered as it was.
    Why {
        /// No policy file is configured: who administers may do everything.
        NoPolicy => "no_policy",
        /// A grant covers it.
        Granted => "granted",
        /// A denial covers it; denials win.
        DeniedByRule => "denied_by_rule",
        /// No grant covers it.
        NotGranted => "not_granted",
        /// A grant would cover it while its lease is in force, or its condition holds.
        LeaseNeeded => "lease_needed",
        /// The action is not done to this kind of thing.
        WrongKind => "wrong_kind",
        /// A rule could not be evaluated, so nothing is permitted by the others either.
        EvaluationFailed => "evaluation_failed",
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ruling {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why.
    pub code: Why,
    /// The grant or denial that decides, by its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The lease that is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
}

impl Ruling {
    pub(super) const fn of(allowed: bool, code: Why, rule: Option<String>) -> Self {
        Self { allowed, code, rule, lease: None }
    }

    pub(super) const fn no(code: Why) -> Self {
        Self::of(false, code, None)
    }
}
