//! What a persona reaches for the first time.

use std::collections::HashMap;

use crate::domain::{Host, PersonaId, Scheme};

use super::EventKind;

/// Hosts remembered per persona in each of two generations: at least 4096 and at most 8192. About a
/// megabyte for the busiest persona; what an allowlist opens is far less.
const GENERATION_HOSTS: usize = 4096;

/// Personas remembered. An operator names each one, so this is a guard, not a working limit.
const MAX_PERSONAS: usize = 1024;

/// Which hosts each persona reached, and by which schemes.
///
/// Bounded, and loud at the bound: what was forgotten is reported as new again. A client that floods the
/// index with subdomains makes noise; it cannot make a new host pass in silence.
#[derive(Debug, Default)]
pub struct FirstSeen {
    personas: HashMap<PersonaId, Hosts>,
}

/// Two generations: hosts of the old one that are reached again move to the young one; when the young
/// one is full the old one is forgotten. So the least recently reached go first, without a list of ages.
#[derive(Debug, Default)]
struct Hosts {
    young: HashMap<Host, Schemes>,
    old: HashMap<Host, Schemes>,
}

/// A set of schemes, one bit each.
#[derive(Debug, Clone, Copy, Default)]
struct Schemes(u8);

impl FirstSeen {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rebuilds the index at start, from the oldest to the newest, without reporting anything.
    pub fn restore(seen: impl IntoIterator<Item = (PersonaId, Host, Scheme)>) -> Self {
        let mut index = Self::new();
        for (persona, host, scheme) in seen {
            index.observe(&persona, &host, scheme);
        }
        index
    }

    /// Notes that `persona` reached `host` by `scheme`. Returns [`EventKind::EgressNewDomain`] for a new
    /// host, [`EventKind::EgressProtocolChange`] for a known host by a new scheme, or nothing.
    pub fn observe(&mut self, persona: &PersonaId, host: &Host, scheme: Scheme) -> Vec<EventKind> {
        if let Some(hosts) = self.personas.get_mut(persona) {
            return hosts.observe(host, scheme).into_iter().collect();
        }
        if self.personas.len() < MAX_PERSONAS {
            self.personas.entry(persona.clone()).or_default().observe(host, scheme);
        }
        vec![EventKind::EgressNewDomain]
    }

    /// Hosts remembered of `persona`.
    pub fn hosts_of(&self, persona: &PersonaId) -> usize {
        self.personas.get(persona).map_or(0, |hosts| hosts.young.len() + hosts.old.len())
    }
}

impl Hosts {
    fn observe(&mut self, host: &Host, scheme: Scheme) -> Option<EventKind> {
        if let Some(schemes) = self.young.get_mut(host) {
            return (!schemes.insert(scheme)).then_some(EventKind::EgressProtocolChange);
        }
        let mut schemes = self.old.remove(host);
        let event = match &mut schemes {
            None => Some(EventKind::EgressNewDomain),
            Some(known) => (!known.insert(scheme)).then_some(EventKind::EgressProtocolChange),
        };
        if self.young.len() >= GENERATION_HOSTS {
            self.old = std::mem::take(&mut self.young);
        }
        let mut schemes = schemes.unwrap_or_default();
        schemes.insert(scheme);
        self.young.insert(host.clone(), schemes);
        event
    }
}

impl Schemes {
    /// Adds `scheme`; whether it was there before.
    const fn insert(&mut self, scheme: Scheme) -> bool {
        let bit = 1
            << match scheme {
                Scheme::Https => 0,
                Scheme::Http => 1,
                Scheme::Tcp => 2,
            };
        let known = self.0 & bit != 0;
        self.0 |= bit;
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persona(id: &str) -> PersonaId {
        PersonaId::parse(id).expect("id")
    }

    fn host(name: &str) -> Host {
        Host::parse(name.as_bytes()).expect("host")
    }

    const NEW: &[EventKind] = &[EventKind::EgressNewDomain];
    const CHANGED: &[EventKind] = &[EventKind::EgressProtocolChange];

    #[test]
    fn a_host_is_new_once_and_a_scheme_is_new_once_for_each_persona() {
        let mut index = FirstSeen::new();
        let (a, b) = (persona("a"), persona("b"));
        let x = host("x.example");
        assert_eq!(index.observe(&a, &x, Scheme::Https), NEW);
        assert_eq!(index.observe(&a, &x, Scheme::Https), []);
        assert_eq!(index.observe(&a, &x, Scheme::Http), CHANGED);
        assert_eq!(index.observe(&a, &x, Scheme::Http), []);
        assert_eq!(index.observe(&a, &x, Scheme::Https), []);
        assert_eq!(index.observe(&a, &x, Scheme::Tcp), CHANGED);
        assert_eq!(index.observe(&b, &x, Scheme::Http), NEW, "what one persona did says nothing of another");
        assert_eq!(index.observe(&a, &host("X.Example."), Scheme::Https), [], "one host in one form");
        assert_eq!(index.observe(&a, &host("y.x.example"), Scheme::Https), NEW);
        assert_eq!(index.observe(&a, &host("192.0.2.1"), Scheme::Https), NEW);
    }

    #[test]
    fn a_restored_index_knows_what_was_seen() {
        let (a, x) = (persona("a"), host("x.example"));
        let seen = [(a.clone(), x.clone(), Scheme::Https), (a.clone(), x.clone(), Scheme::Tcp)];
        let mut index = FirstSeen::restore(seen);
        assert_eq!(index.observe(&a, &x, Scheme::Tcp), []);
        assert_eq!(index.observe(&a, &x, Scheme::Http), CHANGED);
        assert_eq!(index.observe(&a, &host("z.example"), Scheme::Http), NEW);
    }

    #[test]
    fn a_flood_stays_bounded_and_hides_no_new_host() {
        let mut index = FirstSeen::new();
        let (a, kept) = (persona("a"), host("kept.example"));
        index.observe(&a, &kept, Scheme::Https);
        index.observe(&a, &host("idle.example"), Scheme::Https);
        for n in 0..3 * GENERATION_HOSTS {
            let flood = host(&format!("h{n}.flood.example"));
            assert_eq!(index.observe(&a, &flood, Scheme::Https), NEW, "{n}");
            assert!(index.observe(&a, &kept, Scheme::Https).is_empty(), "in use, so not forgotten");
        }
        assert!(index.hosts_of(&a) <= 2 * GENERATION_HOSTS);
        assert_eq!(index.observe(&a, &host("idle.example"), Scheme::Https), NEW, "forgotten, so loud");
        assert_eq!(index.observe(&a, &kept, Scheme::Http), CHANGED, "its schemes moved with it");
    }

    #[test]
    fn past_the_bound_of_personas_every_host_is_loud() {
        let mut index = FirstSeen::new();
        let x = host("x.example");
        for n in 0..MAX_PERSONAS {
            index.observe(&persona(&format!("p{n}")), &x, Scheme::Https);
        }
        let late = persona("late");
        for _ in 0..2 {
            assert_eq!(index.observe(&late, &x, Scheme::Https), NEW);
        }
        assert_eq!(index.personas.len(), MAX_PERSONAS);
    }
}
