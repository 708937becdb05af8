//! What a persona might be granted, asked before all of a request is known.
//!
//! Both questions lean towards yes: a yes opens nothing, because [`Snapshot::decide`] has the last word on
//! every connection. A no is certain.

use crate::domain::{Denial, DenialCode, Host, HostName, PersonaId, Scheme, Target, Timestamp};

use super::decide::{denied_by, gateways, lease_required, not_named, posture_off, unknown_persona};
use super::guard;
use super::rule::Rule;
use super::snapshot::Snapshot;
use super::terms::{Mode, Posture};

/// A port that carries no DNS by itself, so that only the name is asked about.
const NAME_ONLY: u16 = 443;

impl Snapshot {
    /// Whether any intent of `persona` for `name`, on whatever port and surface, could be granted at `now`.
    ///
    /// # Errors
    /// The denial that every such intent would get, or one much like it.
    pub fn could_reach(&self, persona: &PersonaId, name: &HostName, now: Timestamp) -> Result<(), Denial> {
        if name.is_gateways() {
            return Err(gateways(name));
        }
        let Some(persona) = self.persona(persona) else { return Err(unknown_persona(persona)) };
        if persona.posture == Posture::Off {
            return Err(posture_off(persona));
        }
        if persona.mode == Mode::Report {
            return Ok(());
        }
        if let Some(rule) = naming(&persona.deny, name).find(|(rule, _)| rule.shuts_all(now)) {
            return Err(denied_by(rule.0, name));
        }
        let host = Host::Name(name.clone());
        let carries_dns =
            self.settings.dns_guard && guard::carries_dns(&Target { host: host.clone(), port: NAME_ONLY });
        let held = self.leases.held(&persona.id);
        if held.is_some_and(|held| held.names(name, carries_dns, now)) {
            return Ok(());
        }
        if persona.require_lease && held.and_then(|held| held.proxy(now)).is_none() {
            return Err(lease_required(persona));
        }
        let mut expired = None;
        for (rule, exact) in naming(&persona.allow, name).filter(|(_, exact)| *exact || !carries_dns) {
            match rule.expires_at.filter(|end| *end <= now) {
                None => return Ok(()),
                Some(end) => expired = expired.or(Some((rule, end, exact))),
            }
        }
        if carries_dns {
            let detail = format!("`{name}` would carry DNS past the gateway, and no rule names exactly it");
            return Err(Denial::new(DenialCode::DnsGuard, detail));
        }
        if persona.posture == Posture::Public {
            return Ok(());
        }
        Err(match expired {
            Some((rule, end, _)) => {
                let detail = format!("the rule for `{name}` expired at {end}");
                Denial::new(DenialCode::LeaseExpired, detail).by(rule.id.clone())
            }
            None => not_named(persona, &host),
        })
    }

    /// Whether a rule, a lease or the posture of `persona` could grant some plain HTTP request to `target` at `now`.
    pub fn could_forward(&self, persona: &PersonaId, target: &Target, now: Timestamp) -> bool {
        let Some(persona) = self.persona(persona) else { return false };
        let Host::Name(name) = &target.host else { return false };
        let grants =
            |rule: &Rule| rule.schemes.has(Scheme::Http) && rule.ports.contains(target.port) && !rule.expired(now);
        match persona.posture {
            Posture::Off => false,
            Posture::Public => true,
            Posture::Allowlist => {
                let held = self.leases.held(&persona.id);
                naming(&persona.allow, name).any(|(rule, _)| grants(rule))
                    || held.is_some_and(|held| held.names_port(name, target.port, now))
            }
        }
    }
}

/// The rules that name `name`, and whether they name exactly it.
fn naming<'a>(rules: &'a super::ruleset::RuleSet, name: &'a HostName) -> impl Iterator<Item = (&'a Rule, bool)> {
    let lists = rules.hosts().matching(name.as_str());
    lists.flat_map(move |(list, exact)| list.iter().map(move |index| (rules.rule(*index), exact)))
}

impl Rule {
    /// Whether this deny rule leaves nothing of the hosts that it names.
    fn shuts_all(&self, now: Timestamp) -> bool {
        let schemes = self.schemes.has(Scheme::Http) && self.schemes.has(Scheme::Https);
        schemes && self.ports.is_all() && !self.sees_http() && !self.expired(now)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::PersonaFile;
    use crate::domain::{ClientAddr, EgressIntent, Identity, Labels, Method, Surface};
    use crate::policy::{Decision, PolicySettings, Snapshot};

    const NOW: Timestamp = Timestamp::from_unix_micros(1_800_000_000_000_000);

    fn snapshot(text: &str) -> Snapshot {
        let text = format!("id = \"agent\"\n{text}");
        let file = PersonaFile::parse(Path::new("agent.toml"), &text).expect("a persona");
        Snapshot::compile(vec![file], &PolicySettings::default()).expect("a policy")
    }

    fn reach(text: &str, name: &str) -> Option<DenialCode> {
        let name = HostName::parse(name.as_bytes()).expect("a name");
        let persona = PersonaId::parse("agent").expect("an id");
        snapshot(text).could_reach(&persona, &name, NOW).err().map(|denial| denial.code)
    }

    #[test]
    fn the_gateways_own_names_are_no_place_to_go_to_whatever_is_configured() {
        let rule = "[[allow]]\nid = \"a\"\nhosts = [\"gateway.arw.internal\", \"*.arw.internal\", \"arw.internal\", \"xarw.internal\"]\nports = [\"1-65535\"]\n\
                    schemes = [\"http\", \"https\", \"tcp\"]\n";
        for text in [rule, "posture = \"public\"\n", "mode = \"report\"\n", &format!("mode = \"report\"\n{rule}")] {
            for name in ["gateway.arw.internal", "arw.internal", "x.gateway.arw.internal"] {
                assert_eq!(reach(text, name), Some(DenialCode::SpecialAddress), "{name} under\n{text}");
                for (surface, method) in [(Surface::Tunnel, None), (Surface::Forward, Some("GET"))] {
                    let intent = EgressIntent {
                        persona: PersonaId::parse("agent").expect("an id"),
                        identity: Identity::Netns,
                        client: ClientAddr::Tcp(([127, 0, 0, 1], 1).into()),
                        surface,
                        target: Target { host: Host::parse(name.as_bytes()).expect("a host"), port: 80 },
                        method: method.map(|method| Method::parse(method).expect("a method")),
                        path: method.map(|_| "/usage".to_owned()),
                        recorded_path: None,
                        labels: Labels::default(),
                    };
                    let Decision::Deny(denial) = snapshot(text).decide(&intent, NOW) else {
                        panic!("{name} under\n{text}")
                    };
                    assert_eq!(denial.code, DenialCode::SpecialAddress);
                }
            }
        }
        assert_eq!(reach(rule, "xarw.internal"), None, "another name");
        assert_eq!(reach("posture = \"public\"\n", "arw.internal.example.com"), None, "another name");
    }

    #[test]
    fn a_name_is_reachable_when_some_port_could_be_granted() {
        let allow = "[[allow]]\nid = \"a\"\nhosts = [\"a.test\", \"*.b.test\"]\nports = [22]\nschemes = [\"tcp\"]\n";
        let deny = |rest: &str| format!("{allow}[[deny]]\nid = \"d\"\nhosts = [\"a.test\"]\n{rest}");
        let old = "[[allow]]\nid = \"o\"\nhosts = [\"a.test\"]\nexpires_at = \"2020-01-01T00:00:00Z\"\n";
        let doh = "[[allow]]\nid = \"w\"\nhosts = [\"*.quad9.net\"]\n";
        let exact = "[[allow]]\nid = \"w\"\nhosts = [\"dns.quad9.net\"]\n";
        for (text, name, code) in [
            (allow, "a.test", None),
            (allow, "x.b.test", None),
            (allow, "b.test", Some(DenialCode::NotAllowlisted)),
            (allow, "a.test.evil.test", Some(DenialCode::NotAllowlisted)),
            (&deny(""), "a.test", Some(DenialCode::DeniedByRule)),
            (&deny("ports = [80]\n"), "a.test", None),
            (&deny("schemes = [\"http\"]\nmethods = [\"POST\"]\n"), "a.test", None),
            (old, "a.test", Some(DenialCode::LeaseExpired)),
            (doh, "dns.quad9.net", Some(DenialCode::DnsGuard)),
            (exact, "dns.quad9.net", None),
            ("posture = \"public\"\n", "any.test", None),
            ("posture = \"public\"\n", "dns.google", Some(DenialCode::DnsGuard)),
            ("posture = \"off\"\n", "any.test", Some(DenialCode::PostureOff)),
            ("mode = \"report\"\n", "any.test", None),
        ] {
            assert_eq!(reach(text, name), code, "{name} under\n{text}");
        }
        let nobody = PersonaId::parse("nobody").expect("an id");
        let name = HostName::parse(b"a.test").expect("a name");
        let denial = snapshot(allow).could_reach(&nobody, &name, NOW).expect_err("nobody");
        assert_eq!(denial.code, DenialCode::UnknownPersona);
    }

    #[test]
    fn plain_http_needs_a_rule_for_that_port() {
        let text =
            "[[allow]]\nid = \"a\"\nhosts = [\"a.test\"]\nports = [80]\nschemes = [\"http\"]\nmethods = [\"GET\"]\n";
        let could = |target: &str| {
            let target = Target::parse(target.as_bytes(), None).expect("a target");
            snapshot(text).could_forward(&PersonaId::parse("agent").expect("an id"), &target, NOW)
        };
        assert!(could("a.test:80"));
        assert!(!could("a.test:81") && !could("b.test:80"));
    }
}
