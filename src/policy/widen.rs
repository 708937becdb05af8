//! What a change of a persona would open.
//!
//! A change is compared rule by rule, not request by request, so the answer errs on one side: what is not told to widen
//! surely does not, and some of what is told to widen would turn out harmless. A property test holds the first half.

use std::time::Duration;

use ipnet::IpNet;

use super::pattern::HostPattern;
use super::persona::Persona;
use super::rule::{Budget, Rule};
use super::terms::{Mode, Posture, TlsAnswer, TlsChoice};
use crate::domain::{RuleId, Scheme, Timestamp, codes};

codes! {
    /// In which way a persona could do more than before.
    Widening {
        /// The posture lets more through.
        Posture => "posture",
        /// Denials are no longer carried out.
        Mode => "mode",
        /// A lease is no longer demanded.
        Lease => "require_lease",
        /// More clients can be the persona, or for longer.
        Identity => "identity",
        /// More connections or tunnels at once.
        Limits => "limits",
        /// More passes in TLS tunnels.
        Tls => "tls",
        /// An allow rule allows more, or another rule than before may be the first to match.
        Allow => "allow",
        /// A deny rule denies less.
        Deny => "deny",
        /// Silence is noticed later, or not at all.
        Heartbeat => "heartbeat",
    }
}

/// One way, and the rule by which.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Widened {
    /// In which way.
    pub code: Widening,
    /// By which rule of the new persona, or of the old one where the new one lacks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
}

impl Persona {
    /// Everything by which `new` may do more than this persona. Nothing means that it surely may not; of a persona in report
    /// mode, that nothing more would be granted if it were enforced.
    pub fn widened_by(&self, new: &Self) -> Vec<Widened> {
        let mut found = Vec::new();
        let mut say = |code, rule: Option<&Rule>| {
            let widened = Widened { code, rule: rule.map(|rule| rule.id.clone()) };
            if !found.contains(&widened) {
                found.push(widened);
            }
        };
        if rank(new.posture) > rank(self.posture) {
            say(Widening::Posture, None);
        }
        if new.mode == Mode::Report && self.mode == Mode::Enforce {
            say(Widening::Mode, None);
        }
        if self.require_lease && !new.require_lease {
            say(Widening::Lease, None);
        }
        if !proofs_within(self, new) {
            say(Widening::Identity, None);
        }
        let limits = [(self.limits.connections, new.limits.connections), (self.limits.tunnels, new.limits.tunnels)];
        // Without one the server's holds, which may be tighter.
        if limits.into_iter().any(|(old, new)| old != new && (old.is_none() || !at_most(old, new))) {
            say(Widening::Limits, None);
        }
        if !tls_within(self.tls, new.tls) {
            say(Widening::Tls, None);
        }
        if self.heartbeat.is_some_and(|old| new.heartbeat.unwrap_or(Duration::MAX) > old) {
            say(Widening::Heartbeat, None);
        }
        // Nothing leaves under it, whatever the rules say.
        if new.posture == Posture::Off {
            return found;
        }
        for rule in loosened(self, new) {
            say(Widening::Allow, Some(rule));
        }
        for old in self.deny.rules() {
            if !new.deny.rules().iter().any(|new| denies_within(old, new)) {
                say(Widening::Deny, Some(old));
            }
        }
        found
    }
}

const fn rank(posture: Posture) -> u8 {
    match posture {
        Posture::Off => 0,
        Posture::Allowlist => 1,
        Posture::Public => 2,
    }
}

/// Whether a bound is as tight as before; none is no bound.
fn at_most<T: Ord>(old: Option<T>, new: Option<T>) -> bool {
    match (old, new) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(old), Some(new)) => new <= old,
    }
}

fn proofs_within(old: &Persona, new: &Persona) -> bool {
    new.uids.iter().all(|uid| old.uids.contains(uid))
        && new.certificates.iter().all(|uri| old.certificates.contains(uri))
        && new.tokens.iter().all(|token| {
            old.tokens.iter().any(|old| old.hash.matches(&token.hash) && at_most(old.expires_at, token.expires_at))
        })
}

/// What an answer says when nothing is said of it depends on the scheme, so only what is written counts.
fn tls_within(old: TlsChoice, new: TlsChoice) -> bool {
    let pairs = [(old.missing_sni, new.missing_sni), (old.ech, new.ech), (old.not_tls, new.not_tls)];
    pairs.into_iter().all(|(old, new)| old == new || new == Some(TlsAnswer::Deny))
}

/// The allow rules by which `new` may grant more than `old`: those that no old rule holds, and those behind which an old
/// rule is gone or narrower that came first and held something tighter.
fn loosened<'p>(old: &'p Persona, new: &'p Persona) -> Vec<&'p Rule> {
    let (before, after) = (old.allow.rules(), new.allow.rules());
    let mut loose = Vec::new();
    // Which old rule each new one comes from, in the order of both files.
    let mut next = 0;
    let mut kept: Vec<Option<&Rule>> = vec![None; before.len()];
    for rule in after {
        match before[next..].iter().position(|old| allows_within(old, rule)) {
            Some(at) => {
                kept[next + at] = Some(rule);
                next += at + 1;
            }
            None => loose.push(rule),
        }
    }
    for (index, rule) in before.iter().enumerate() {
        if kept[index].is_some_and(|kept| same_reach(rule, kept)) {
            continue;
        }
        // What this rule granted, and no longer does, falls to a later rule or to the posture.
        let heirs = kept[index + 1..].iter().flatten().any(|heir| may_meet(rule, heir));
        if heirs || new.posture == Posture::Public {
            loose.push(kept[index].unwrap_or(rule));
        }
    }
    loose
}

/// Whether everything that `new` grants, `old` granted on the same terms or looser ones.
fn allows_within(old: &Rule, new: &Rule) -> bool {
    // Names of rules with a budget are where it is counted: another name is a fresh one.
    let counted = old.budget.is_none() || old.id == new.id;
    // Without hosts, `cidrs` are targets; beside hosts, they open addresses.
    let same_kind = old.hosts.is_empty() == new.hosts.is_empty();
    counted
        && same_kind
        && new.hosts.iter().all(|host| old.hosts.iter().any(|old| grants_host(old, host)))
        && new.cidrs.iter().all(|net| old.cidrs.contains(net))
        && new.ports.within(&old.ports)
        && schemes_within(old, new)
        && listed_within(old.methods.as_deref(), new.methods.as_deref())
        && listed_within(old.paths.as_deref(), new.paths.as_deref())
        && at_most(old.expires_at, new.expires_at)
        && budget_within(&old.budget, &new.budget)
        && tls_within(old.tls, new.tls)
}

/// Whether a rule still grants all that it did: then nothing falls to later rules.
fn same_reach(old: &Rule, new: &Rule) -> bool {
    old.hosts == new.hosts
        && old.cidrs == new.cidrs
        && old.ports.within(&new.ports)
        && old.schemes == new.schemes
        && old.methods == new.methods
        && old.paths == new.paths
        && old.expires_at == new.expires_at
}

/// Whether everything that `old` denies, `new` denies.
fn denies_within(old: &Rule, new: &Rule) -> bool {
    old.hosts.iter().all(|host| new.hosts.iter().any(|new| holds_host(new, host)))
        && old.cidrs.iter().all(|net| new.cidrs.iter().any(|new| new.contains(net)))
        && old.ports.within(&new.ports)
        && [Scheme::Https, Scheme::Http, Scheme::Tcp].into_iter().all(|s| !old.schemes.has(s) || new.schemes.has(s))
        && listed_within(new.methods.as_deref(), old.methods.as_deref())
        && listed_within(new.paths.as_deref(), old.paths.as_deref())
        && ends_no_earlier(old.expires_at, new.expires_at)
}

fn ends_no_earlier(old: Option<Timestamp>, new: Option<Timestamp>) -> bool {
    match (old, new) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(old), Some(new)) => new >= old,
    }
}

/// The same, or a tunnel less: `https` without `tcp` checks what both together let pass unread, and the other way round
/// nothing is checked, so that is more.
fn schemes_within(old: &Rule, new: &Rule) -> bool {
    let fewer =
        [Scheme::Https, Scheme::Http, Scheme::Tcp].into_iter().all(|s| !new.schemes.has(s) || old.schemes.has(s));
    let still_checked =
        !(old.schemes.has(Scheme::Https) && new.schemes.has(Scheme::Tcp)) || new.schemes.has(Scheme::Https);
    fewer && still_checked
}

/// Whether what `inner` lists is in `outer`; no list is everything.
fn listed_within<T: PartialEq>(outer: Option<&[T]>, inner: Option<&[T]>) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => inner.iter().all(|item| outer.contains(item)),
    }
}

fn budget_within(old: &Budget, new: &Budget) -> bool {
    at_most(old.max_uses, new.max_uses)
        && at_most(old.max_bytes, new.max_bytes)
        && (old.rate.is_none() || old.rate == new.rate)
}

/// Whether `outer` grants every host of `inner` as readily: the guard of DNS lets through what is named exactly, so an
/// exact name is more than the pattern above it.
fn grants_host(outer: &HostPattern, inner: &HostPattern) -> bool {
    outer == inner || matches!(inner, HostPattern::Below(_)) && holds_host(outer, inner)
}

/// Whether every host of `inner` is one of `outer`.
fn holds_host(outer: &HostPattern, inner: &HostPattern) -> bool {
    if outer == inner {
        return true;
    }
    match (outer, inner) {
        (HostPattern::Below(base), HostPattern::Exact(name) | HostPattern::Below(name)) => {
            is_below(name.as_str(), base.as_str())
        }
        _ => false,
    }
}

fn is_below(name: &str, base: &str) -> bool {
    name.strip_suffix(base).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether some request could match both allow rules; doubt says yes. Ports, schemes and the like are not looked at.
fn may_meet(left: &Rule, right: &Rule) -> bool {
    let names =
        left.hosts.iter().any(|one| right.hosts.iter().any(|other| holds_host(one, other) || holds_host(other, one)));
    names || targets(left).any(|one| targets(right).any(|other| one.contains(&other) || other.contains(&one)))
}

/// The networks whose addresses a client may name by an allow rule.
fn targets(rule: &Rule) -> impl Iterator<Item = IpNet> + '_ {
    let literals = rule.hosts.iter().filter_map(|host| match host {
        HostPattern::Literal(addr) => Some(IpNet::from(addr.to_canonical())),
        HostPattern::Exact(_) | HostPattern::Below(_) => None,
    });
    let nets = rule.cidrs.iter().copied().filter(|_| rule.hosts.is_empty());
    literals.chain(nets)
}
