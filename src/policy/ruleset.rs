//! All allow rules or all deny rules of a persona, compiled so that ten thousand cost what ten do.

use std::net::IpAddr;

use crate::domain::{EgressIntent, Host, Method, Scheme, Surface, Timestamp};

use super::hosts::HostIndex;
use super::nets::{NetIndex, canonical, every_form};
use super::path::VisiblePath;
use super::pattern::{HostPattern, Purpose};
use super::rule::Rule;

/// Rules in file order with their indexes. What costs time is only how many rules name one same host.
#[derive(Debug, Default)]
pub(super) struct RuleSet {
    rules: Box<[Rule]>,
    hosts: HostIndex,
    /// Addresses in `hosts`, and `cidrs`: what matches a literal target, and what denies a resolved address.
    addresses: NetIndex,
}

/// The part of an intent that rules look at.
#[derive(Debug)]
pub(super) struct Ask<'i> {
    pub(super) host: &'i Host,
    pub(super) port: u16,
    pub(super) surface: Surface,
    pub(super) method: Option<&'i Method>,
    pub(super) path: Option<VisiblePath<'i>>,
    pub(super) now: Timestamp,
}

impl<'i> Ask<'i> {
    pub(super) fn of(intent: &'i EgressIntent, now: Timestamp) -> Self {
        Self {
            host: &intent.target.host,
            port: intent.target.port,
            surface: intent.surface,
            method: intent.method.as_ref(),
            path: intent.path.as_deref().map(VisiblePath::of),
            now,
        }
    }
}

/// How far a rule that names the host got; the further, the more a client learns from hearing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Miss {
    Port,
    Scheme,
    Method,
    Path,
    Expired,
}

/// What the allow rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// The first rule in file order that matches whole, and whether it names exactly this host.
    Hit { rule: u32, exact: bool },
    /// No rule matches whole: the rule that came nearest.
    Near { rule: u32, miss: Miss },
    /// No rule names the host.
    Nothing,
}

/// What the deny rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// Nothing.
    No,
    /// Only an opaque tunnel, in which what the rule denies would pass unseen.
    Opaque(u32),
    /// The request.
    Whole(u32),
}

/// Which rules of a [`RuleSet`] to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Every rule that names the host.
    Any,
    /// Only rules that name exactly it: not by `*.`, not by a network of several addresses.
    Exact,
}

impl RuleSet {
    /// Compiles rules. In an allow rule, `cidrs` beside `hosts` open the addresses that the names resolve to
    /// and do not let a client name an address; in a deny rule, `hosts` and `cidrs` deny each on its own.
    pub(super) fn compile(rules: Vec<Rule>, purpose: Purpose) -> Self {
        let mut hosts = HostIndex::default();
        let mut addresses = Vec::new();
        for (rule, index) in rules.iter().zip(0_u32..) {
            for pattern in &rule.hosts {
                match pattern {
                    HostPattern::Exact(name) => hosts.insert_exact(name.as_str(), index),
                    HostPattern::Below(base) => hosts.insert_below(base.as_str(), index),
                    HostPattern::Literal(addr) => addresses.push((canonical(*addr).into(), index)),
                }
            }
            if purpose == Purpose::Deny || rule.hosts.is_empty() {
                addresses.extend(rule.cidrs.iter().map(|net| (*net, index)));
            }
        }
        Self { rules: rules.into(), hosts, addresses: NetIndex::of(addresses) }
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(super) fn rule(&self, index: u32) -> &Rule {
        &self.rules[index as usize]
    }

    pub(super) const fn hosts(&self) -> &HostIndex {
        &self.hosts
    }

    /// The first allow rule in file order that matches `ask` whole. `opaque` says whether a tunnel may go unread.
    pub(super) fn search(&self, ask: &Ask<'_>, naming: Naming, opaque: Opaque) -> Search {
        let mut hit: Option<(u32, bool)> = None;
        let mut near: Option<(Miss, u32)> = None;
        let mut look = |(rules, exact): (&[u32], bool)| {
            if naming == Naming::Exact && !exact {
                return;
            }
            for index in rules.iter().copied() {
                // Lists are in file order: nothing behind this can come before the best so far.
                if hit.is_some_and(|(best, _)| best <= index) {
                    return;
                }
                match self.rule(index).allows(ask, opaque) {
                    Ok(()) => hit = Some((index, exact)),
                    Err(miss) if near.is_none_or(|(best, at)| miss > best || miss == best && index < at) => {
                        near = Some((miss, index));
                    }
                    Err(_) => {}
                }
            }
        };
        match ask.host {
            Host::Name(name) => self.hosts.matching(name.as_str()).for_each(&mut look),
            Host::Addr(addr) => self.addresses.holding(canonical(*addr)).for_each(&mut look),
        }
        match (hit, near) {
            (Some((rule, exact)), _) => Search::Hit { rule, exact },
            (None, Some((miss, rule))) => Search::Near { rule, miss },
            (None, None) => Search::Nothing,
        }
    }

    /// Every allow rule that matches `ask` whole, in file order.
    pub(super) fn hits(&self, ask: &Ask<'_>, naming: Naming, opaque: Opaque) -> Vec<u32> {
        let mut hits = Vec::new();
        let mut look = |(rules, exact): (&[u32], bool)| {
            if naming == Naming::Any || exact {
                hits.extend(rules.iter().copied().filter(|index| self.rule(*index).allows(ask, opaque).is_ok()));
            }
        };
        match ask.host {
            Host::Name(name) => self.hosts.matching(name.as_str()).for_each(&mut look),
            Host::Addr(addr) => self.addresses.holding(canonical(*addr)).for_each(&mut look),
        }
        hits.sort_unstable();
        hits
    }

    /// What the deny rules say to `ask`.
    pub(super) fn denies(&self, ask: &Ask<'_>) -> Denied {
        let mut denied = Denied::No;
        let mut look = |(rules, _): (&[u32], bool)| {
            for index in rules {
                denied = denied.and(*index, self.rule(*index).denies(ask));
            }
        };
        match ask.host {
            Host::Name(name) => {
                if !self.hosts.is_empty() {
                    self.hosts.matching(name.as_str()).for_each(&mut look);
                }
            }
            Host::Addr(addr) => {
                if !self.addresses.is_empty() {
                    every_form(*addr).flat_map(|form| self.addresses.holding(form)).for_each(&mut look);
                }
            }
        }
        denied
    }

    /// What the deny rules say to a resolved address. Methods and paths play no part: a deny rule with
    /// `cidrs` has none.
    pub(super) fn denies_address(&self, addr: IpAddr, door: &Door) -> Denied {
        if self.addresses.is_empty() {
            return Denied::No;
        }
        let mut denied = Denied::No;
        for (rules, _) in every_form(addr).flat_map(|form| self.addresses.holding(form)) {
            for index in rules {
                denied = denied.and(*index, self.rule(*index).shuts(door));
            }
        }
        denied
    }
}

/// Whether a tunnel may go unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opaque {
    May,
    MayNot,
}

/// Port, surface and moment: what a deny rule by `cidrs` looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Door {
    pub(super) port: u16,
    pub(super) surface: Surface,
    pub(super) now: Timestamp,
}

/// What one deny rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Nothing,
    Opaque,
    Whole,
}

impl Denied {
    fn and(self, rule: u32, reach: Reach) -> Self {
        match (self, reach) {
            (Self::Whole(first), Reach::Whole) => Self::Whole(first.min(rule)),
            (Self::Whole(_), _) | (_, Reach::Nothing) | (Self::Opaque(_), Reach::Opaque) => self,
            (_, Reach::Whole) => Self::Whole(rule),
            (Self::No, Reach::Opaque) => Self::Opaque(rule),
        }
    }
}

impl Rule {
    /// Whether this allow rule, which names the host, matches the rest.
    fn allows(&self, ask: &Ask<'_>, opaque: Opaque) -> Result<(), Miss> {
        if !self.ports.contains(ask.port) {
            return Err(Miss::Port);
        }
        let scheme = match ask.surface {
            Surface::Forward => self.schemes.has(Scheme::Http),
            Surface::Tunnel => {
                self.schemes.has(Scheme::Https) || self.schemes.has(Scheme::Tcp) && opaque == Opaque::May
            }
        };
        if !scheme {
            return Err(Miss::Scheme);
        }
        if let Some(methods) = &self.methods
            && !ask.method.is_some_and(|method| methods.contains(method))
        {
            return Err(Miss::Method);
        }
        if let Some(paths) = &self.paths
            && !ask.path.as_ref().is_some_and(|path| paths.iter().any(|pattern| pattern.surely_matches(path)))
        {
            return Err(Miss::Path);
        }
        if self.expired(ask.now) { Err(Miss::Expired) } else { Ok(()) }
    }

    /// What this deny rule, which names the host, does to the rest. What it cannot see counts as a match.
    fn denies(&self, ask: &Ask<'_>) -> Reach {
        let reach = self.shuts(&Door { port: ask.port, surface: ask.surface, now: ask.now });
        if reach != Reach::Whole || !self.sees_http() {
            return reach;
        }
        let method = self.methods.as_ref().is_none_or(|methods| {
            ask.method.is_none_or(|asked| methods.iter().any(|own| own.as_str().eq_ignore_ascii_case(asked.as_str())))
        });
        let path = self
            .paths
            .as_ref()
            .is_none_or(|paths| ask.path.as_ref().is_none_or(|path| paths.iter().any(|own| own.may_match(path))));
        if method && path { Reach::Whole } else { Reach::Nothing }
    }

    fn shuts(&self, door: &Door) -> Reach {
        if self.expired(door.now) || !self.ports.contains(door.port) {
            return Reach::Nothing;
        }
        match door.surface {
            Surface::Forward if self.schemes.has(Scheme::Http) => Reach::Whole,
            Surface::Forward => Reach::Nothing,
            Surface::Tunnel if self.schemes.has(Scheme::Https) => Reach::Whole,
            // TLS may still pass; a tunnel that nobody reads could carry what is denied.
            Surface::Tunnel => Reach::Opaque,
        }
    }
}
