//! `policy.json` as it decides: grants and denials in the order of the file. Pure.

use super::question::{Question, Ruling, Why};
use super::words::{Action, Capability, Family, Kind, Principal, Resource};

/// What a grant is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// This one.
    One(Resource),
    /// Each of the kind, those of tomorrow too; never of capabilities.
    Every(Kind),
    /// Each capability of the family.
    Family(Family),
}

/// To whom, what, on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) id: String,
    pub(super) principals: Vec<Principal>,
    pub(super) actions: Vec<Action>,
    pub(super) targets: Vec<Target>,
    /// Only while this is leased.
    pub(super) lease: Option<Capability>,
}

/// The same for what nobody may although it was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    pub(super) id: String,
    /// Whom; `None` is everybody.
    pub(super) principals: Option<Vec<Principal>>,
    pub(super) actions: Vec<Action>,
    /// On what; `None` is everything that the actions are done to.
    pub(super) targets: Option<Vec<Target>>,
}

/// All of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) grants: Vec<Grant>,
    pub(super) denials: Vec<Denial>,
}

impl Target {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::One(resource) => resource.kind(),
            Self::Every(kind) => *kind,
            Self::Family(_) => Kind::Capability,
        }
    }

    fn covers(&self, resource: &Resource) -> bool {
        match self {
            Self::One(one) => one == resource,
            Self::Every(kind) => resource.kind() == *kind,
            Self::Family(family) => matches!(resource, Resource::Capability(found) if found.family() == Some(*family)),
        }
    }
}

impl Table {
    pub(super) fn decide(&self, question: &Question) -> Ruling {
        let Question { principal, action, resource, leases } = question;
        let denied = |denial: &&Denial| {
            denial.principals.as_ref().is_none_or(|principals| principals.contains(principal))
                && denial.actions.contains(action)
                && denial.targets.as_ref().is_none_or(|targets| targets.iter().any(|target| target.covers(resource)))
        };
        if let Some(denial) = self.denials.iter().find(denied) {
            return Ruling::of(false, Why::DeniedByRule, Some(denial.id.clone()));
        }
        let mut unleased = None;
        for grant in self.grants.iter().filter(|grant| grant.covers(principal, *action, resource)) {
            match &grant.lease {
                Some(lease) if !leases.contains(lease) => unleased = unleased.or(Some((grant, lease))),
                Some(_) | None => return Ruling::of(true, Why::Granted, Some(grant.id.clone())),
            }
        }
        match unleased {
            Some((grant, lease)) => Ruling {
                lease: Some(lease.as_str().to_owned()),
                ..Ruling::of(false, Why::LeaseNeeded, Some(grant.id.clone()))
            },
            None => Ruling::no(Why::NotGranted),
        }
    }

    /// Everybody whom a grant names.
    pub(super) fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.grants.iter().flat_map(|grant| &grant.principals)
    }

    /// Whether somebody other than a persona may use the kill switch.
    pub(super) fn has_kill_switch(&self) -> bool {
        self.grants.iter().any(|grant| {
            grant.actions.contains(&Action::AutomationShutdown)
                && grant.principals.iter().any(|principal| !matches!(principal, Principal::Persona(_)))
        })
    }
}

impl Grant {
    fn covers(&self, principal: &Principal, action: Action, resource: &Resource) -> bool {
        self.principals.contains(principal)
            && self.actions.contains(&action)
            && self.targets.iter().any(|target| target.covers(resource))
    }
}
