//! Leases that open something: part of every snapshot, compiled by persona, tried after the rules.
//!
//! A lease opens exactly what it names: one host pattern on one port (or on those of the web). It never opens a special
//! address, never beats a deny rule or the posture `off`, and demands of a tunnel what a rule without `schemes` does.
//! `egress:proxy` opens no host: it lets a persona whose file says `require_lease` use what its rules name.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Host, HostName, LeaseId, PersonaId, RuleId, Timestamp, classify};

use super::nets::NetIndex;
use super::pattern::{HostPattern, Purpose};
use super::ports::PortSet;
use super::rule::{Budget, Rule};
use super::ruleset::{Ask, Miss, Naming, Opaque, RuleSet, Search};
use super::terms::{SchemeSet, TlsChoice};

/// A lease as far as policy looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressLease {
    /// Its name, as ledger and denials show it.
    pub id: LeaseId,
    /// Whose.
    pub persona: PersonaId,
    /// What it opens.
    pub opens: Opening,
    /// When it ends, with everything that it let through.
    pub expires_at: Timestamp,
    /// Grants, ever.
    pub max_uses: Option<u64>,
    /// Bytes in both directions, ever.
    pub max_bytes: Option<u64>,
}

/// What a lease opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// The proxy itself, where the persona's file demands a lease for it.
    Proxy,
    /// The hosts of a pattern, on one port; on 80 and 443 without one.
    Host {
        /// Which.
        pattern: HostPattern,
        /// The port.
        port: Option<u16>,
    },
}

impl EgressLease {
    /// How much may pass under it.
    pub const fn budget(&self) -> Budget {
        Budget { max_uses: self.max_uses, max_bytes: self.max_bytes, rate: None }
    }

    /// Whether its time is over at `now`.
    pub(super) fn expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// The allow rule that it is like; none when it opens no host.
    fn rule(&self) -> Option<Rule> {
        let Opening::Host { pattern, port } = &self.opens else { return None };
        Some(Rule {
            id: RuleId::parse(self.id.as_str()).expect("rules and leases are named alike"),
            named: true,
            hosts: Box::new([pattern.clone()]),
            cidrs: Box::default(),
            opened: NetIndex::default(),
            ports: port.map_or_else(PortSet::web, |port| PortSet::of(vec![(port, port)])),
            schemes: SchemeSet::WEB,
            methods: None,
            paths: None,
            expires_at: Some(self.expires_at),
            budget: self.budget(),
            tls: TlsChoice::default(),
            note: None,
        })
    }
}

/// Every lease in force, by persona. A look-up costs the same for one and for thousands.
#[derive(Debug, Default)]
pub struct LeaseSet {
    by_persona: HashMap<PersonaId, Held>,
}

/// What one persona holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    hosts: RuleSet,
    /// Those of `hosts`, at the same places: the longest-lived first.
    leases: Vec<Arc<EgressLease>>,
    /// Those that open the proxy, the longest-lived first.
    proxy: Vec<Arc<EgressLease>>,
}

impl LeaseSet {
    /// Compiles `leases`. One whose time is over may be among them: it opens nothing, and the denial says so.
    pub fn of(leases: impl IntoIterator<Item = EgressLease>) -> Self {
        let mut sorted: Vec<EgressLease> = leases.into_iter().collect();
        sorted.sort_by(|left, right| (Reverse(left.expires_at), &left.id).cmp(&(Reverse(right.expires_at), &right.id)));
        let mut rules: HashMap<PersonaId, Vec<Rule>> = HashMap::new();
        let mut by_persona: HashMap<PersonaId, Held> = HashMap::new();
        for lease in sorted {
            let lease = Arc::new(lease);
            let held = by_persona.entry(lease.persona.clone()).or_default();
            match lease.rule() {
                Some(rule) => {
                    rules.entry(lease.persona.clone()).or_default().push(rule);
                    held.leases.push(lease);
                }
                None => held.proxy.push(lease),
            }
        }
        for (persona, rules) in rules {
            if let Some(held) = by_persona.get_mut(&persona) {
                held.hosts = RuleSet::compile(rules, Purpose::Allow);
            }
        }
        Self { by_persona }
    }

    /// What `persona` holds, if it holds anything.
    pub(super) fn held(&self, persona: &PersonaId) -> Option<&Held> {
        self.by_persona.get(persona)
    }

    /// The lease `id` of `persona`, if its time is not over at `now`.
    pub fn in_force(&self, persona: &PersonaId, id: &LeaseId, now: Timestamp) -> Option<&EgressLease> {
        let held = self.held(persona)?;
        let all = held.leases.iter().chain(&held.proxy);
        all.map(Arc::as_ref).find(|lease| lease.id == *id && !lease.expired(now))
    }
}

impl Held {
    /// The lease under which the persona may use the proxy at `now`.
    pub(super) fn proxy(&self, now: Timestamp) -> Option<&Arc<EgressLease>> {
        self.proxy.first().filter(|lease| !lease.expired(now))
    }

    /// Every lease that opens what `ask` asks for, the longest-lived first.
    pub(super) fn opening(&self, ask: &Ask<'_>, naming: Naming, opaque: Opaque) -> Vec<Arc<EgressLease>> {
        // A special address is nobody's to lease.
        if matches!(ask.host, Host::Addr(addr) if !classify(*addr).is_public()) {
            return Vec::new();
        }
        let places = self.hosts.hits(ask, naming, opaque);
        places.into_iter().map(|place| Arc::clone(&self.leases[place as usize])).collect()
    }

    /// The lease that would open it if its time were not over.
    pub(super) fn lapsed(&self, ask: &Ask<'_>, naming: Naming, opaque: Opaque) -> Option<&Arc<EgressLease>> {
        match self.hosts.search(ask, naming, opaque) {
            Search::Near { rule, miss: Miss::Expired } => Some(&self.leases[rule as usize]),
            Search::Near { .. } | Search::Hit { .. } | Search::Nothing => None,
        }
    }

    /// Whether some lease names `name`, on whatever port; `exactly`: not by a `*.`.
    pub(super) fn names(&self, name: &HostName, exactly: bool, now: Timestamp) -> bool {
        let mut lists = self.hosts.hosts().matching(name.as_str());
        lists.any(|(list, exact)| {
            (exact || !exactly) && list.iter().any(|place| !self.leases[*place as usize].expired(now))
        })
    }

    /// Whether some lease opens `name` on `port`.
    pub(super) fn names_port(&self, name: &HostName, port: u16, now: Timestamp) -> bool {
        let mut lists = self.hosts.hosts().matching(name.as_str());
        lists.any(|(list, _)| {
            let opens = |place: &u32| {
                self.hosts.rule(*place).ports.contains(port) && !self.leases[*place as usize].expired(now)
            };
            list.iter().any(opens)
        })
    }
}
