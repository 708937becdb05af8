//! The one decision: pure, from an intent and a moment to a grant or a denial.

use std::fmt::Display;
use std::sync::Arc;

use crate::domain::{
    Denial, DenialCode, EgressIntent, Host, HostName, PersonaId, Scheme, Surface, Timestamp, classify,
};

use super::grant::{Decision, Grant, GrantedBy};
use super::guard;
use super::lease::{EgressLease, Held};
use super::persona::Persona;
use super::rule::Rule;
use super::ruleset::{Ask, Denied, Door, Miss, Naming, Opaque, Search};
use super::snapshot::{PolicySettings, Snapshot};
use super::terms::{Mode, Posture, TlsAnswer, TlsDemand};

impl Snapshot {
    /// Decides `intent` at the moment `now`.
    ///
    /// 0. A name of the gateway's own: denied, in report mode too.
    /// 1. Unknown persona, posture `off`: denied, in report mode too.
    /// 2. A deny rule that names the target: denied.
    /// 3. The first allow rule in file order that matches whole: granted. Otherwise posture `public` grants,
    ///    and posture `allowlist` denies with the code of the rule that came nearest.
    /// 4. What would carry DNS past the gateway needs a rule that names exactly that host.
    /// 5. A literal special address needs a rule whose `cidrs` hold it, in report mode too.
    /// 6. Where 3 and 4 deny, a lease that names host and port grants. Where they grant and the persona's file demands
    ///    a lease, one for the proxy must be in force, or one for that host.
    ///
    /// Resolved addresses are judged later, by [`Grant::vet`]; budgets by [`Usage`](super::Usage).
    pub fn decide(&self, intent: &EgressIntent, now: Timestamp) -> Decision {
        if let Host::Name(name) = &intent.target.host
            && name.is_gateways()
        {
            return Decision::Deny(gateways(name));
        }
        let Some(persona) = self.persona(&intent.persona) else {
            return Decision::Deny(unknown_persona(&intent.persona));
        };
        if persona.posture == Posture::Off {
            return Decision::Deny(posture_off(persona));
        }
        let ask = Ask::of(intent, now);
        let held = self.leases.held(&persona.id);
        let terms = match judge(persona, &self.settings, held, intent, &ask) {
            Ok(terms) => terms,
            Err(denial) if persona.mode == Mode::Report => match reported(intent, denial) {
                Ok(terms) => terms,
                Err(denial) => return Decision::Deny(denial),
            },
            Err(denial) => return Decision::Deny(denial),
        };
        Decision::Allow(Grant {
            persona: Arc::clone(persona),
            rule: terms.rule,
            leases: terms.leases,
            permit: terms.permit,
            via: terms.via,
            scheme: terms.scheme,
            tls: terms.tls,
            would_deny: terms.would_deny,
            door: Door { port: ask.port, surface: ask.surface, now },
            generation: self.generation(),
        })
    }
}

/// The denial of a name that means the gateway itself.
pub(super) fn gateways(name: &HostName) -> Denial {
    let detail = format!("`{name}` is the gateway itself, and nothing is dialled for it");
    Denial::new(DenialCode::SpecialAddress, detail)
}

/// What becomes a grant.
struct Terms {
    rule: Option<u32>,
    leases: Vec<Arc<EgressLease>>,
    permit: Option<Arc<EgressLease>>,
    via: GrantedBy,
    scheme: Scheme,
    tls: TlsDemand,
    would_deny: Option<Box<Denial>>,
}

impl Terms {
    /// Without rule or lease.
    const fn of(via: GrantedBy, scheme: Scheme, tls: TlsDemand) -> Self {
        Self { rule: None, leases: Vec::new(), permit: None, via, scheme, tls, would_deny: None }
    }
}

fn judge(
    persona: &Persona,
    settings: &PolicySettings,
    held: Option<&Held>,
    intent: &EgressIntent,
    ask: &Ask<'_>,
) -> Result<Terms, Denial> {
    let denied = persona.deny.denies(ask);
    let opaque = match denied {
        Denied::Whole(rule) => return Err(denied_by(persona.deny.rule(rule), &intent.target)),
        Denied::Opaque(_) => Opaque::MayNot,
        Denied::No => Opaque::May,
    };
    let verdict = match by_policy(persona, settings, intent, ask, (denied, opaque)) {
        Ok(mut terms) if persona.require_lease => match held.and_then(|held| held.proxy(ask.now)) {
            Some(permit) => {
                terms.permit = Some(Arc::clone(permit));
                Ok(terms)
            }
            None => Err(lease_required(persona)),
        },
        verdict => verdict,
    };
    match (verdict, held) {
        (Err(denial), Some(held)) => by_lease(persona, settings, held, intent, (ask, opaque), denial),
        (verdict, _) => verdict,
    }
}

/// What a lease makes of `denial`: a grant where one names the target, another code where one did.
fn by_lease(
    persona: &Persona,
    settings: &PolicySettings,
    held: &Held,
    intent: &EgressIntent,
    (ask, opaque): (&Ask<'_>, Opaque),
    denial: Denial,
) -> Result<Terms, Denial> {
    let naming = if settings.dns_guard && guard::carries_dns(&intent.target) { Naming::Exact } else { Naming::Any };
    let leases = held.opening(ask, naming, opaque);
    if leases.is_empty() {
        return Err(match held.lapsed(ask, naming, opaque).filter(|_| denial.code.leasable()) {
            Some(lease) => {
                let detail = format!("the lease `{}` for `{}` expired at {}", lease.id, ask.host, lease.expires_at);
                Denial::new(DenialCode::LeaseExpired, detail).under(lease.id.clone())
            }
            None => denial,
        });
    }
    let (scheme, tls) = match ask.surface {
        Surface::Forward => (Scheme::Http, TlsDemand::NONE),
        Surface::Tunnel => (Scheme::Https, readable(persona.tls.demand(), opaque)),
    };
    Ok(Terms { leases, ..Terms::of(GrantedBy::Lease, scheme, tls) })
}

pub(super) fn lease_required(persona: &Persona) -> Denial {
    let detail = format!("`{}` may use the proxy only under a lease, and none is in force", persona.id);
    Denial::new(DenialCode::LeaseRequired, detail)
}

/// What rules and posture say.
fn by_policy(
    persona: &Persona,
    settings: &PolicySettings,
    intent: &EgressIntent,
    ask: &Ask<'_>,
    (denied, opaque): (Denied, Opaque),
) -> Result<Terms, Denial> {
    let mut search = persona.allow.search(ask, Naming::Any, opaque);
    if !matches!(search, Search::Hit { exact: true, .. }) && settings.dns_guard && guard::carries_dns(&intent.target) {
        search = persona.allow.search(ask, Naming::Exact, opaque);
        if !matches!(search, Search::Hit { .. }) {
            let detail = format!("`{}` would carry DNS past the gateway, and no rule names exactly it", intent.target);
            return Err(Denial::new(DenialCode::DnsGuard, detail));
        }
    }
    match search {
        Search::Hit { rule, .. } => by_rule(persona, rule, ask, opaque),
        Search::Near { .. } | Search::Nothing if persona.posture == Posture::Public => {
            by_posture(persona, settings, ask, opaque)
        }
        Search::Near { rule, miss } => Err(near_miss(persona, rule, miss, intent, denied)),
        Search::Nothing => Err(not_named(persona, ask.host)),
    }
}

fn by_rule(persona: &Persona, index: u32, ask: &Ask<'_>, opaque: Opaque) -> Result<Terms, Denial> {
    let rule = persona.allow.rule(index);
    if let Host::Addr(addr) = ask.host {
        let class = classify(*addr);
        if !class.is_public() && !rule.opens(*addr, class.is_metadata()) {
            return Err(special(ask.host, class).by(rule.id.clone()));
        }
    }
    let choice = rule.tls.or(persona.tls);
    let (scheme, tls) = match ask.surface {
        Surface::Forward => (Scheme::Http, TlsDemand::NONE),
        Surface::Tunnel if !rule.schemes.has(Scheme::Https) => (Scheme::Tcp, TlsDemand::NONE),
        Surface::Tunnel => {
            let mut tls = choice.demand();
            // Both schemes: TLS is checked, and what is not TLS is the opaque tunnel that `tcp` means.
            if rule.schemes.has(Scheme::Tcp) {
                tls.not_tls = rule.tls.not_tls.unwrap_or(TlsAnswer::Allow);
            }
            (Scheme::Https, readable(tls, opaque))
        }
    };
    Ok(Terms { rule: Some(index), ..Terms::of(GrantedBy::Rule, scheme, tls) })
}

fn by_posture(persona: &Persona, settings: &PolicySettings, ask: &Ask<'_>, opaque: Opaque) -> Result<Terms, Denial> {
    if let Host::Addr(addr) = ask.host {
        let class = classify(*addr);
        if !class.is_public() {
            return Err(special(ask.host, class));
        }
        if settings.block_ip_literals {
            return Err(literal(ask.host));
        }
    }
    let (scheme, tls) = match ask.surface {
        Surface::Forward => (Scheme::Http, TlsDemand::NONE),
        Surface::Tunnel => {
            let mut tls = persona.tls.demand();
            tls.not_tls = persona.tls.not_tls.unwrap_or(TlsAnswer::Allow);
            (Scheme::Https, readable(tls, opaque))
        }
    };
    Ok(Terms::of(GrantedBy::Public, scheme, tls))
}

/// Report mode: lets through what was denied, but never a special address. The host's other addresses are
/// vetted as ever, with nothing opened.
fn reported(intent: &EgressIntent, denial: Denial) -> Result<Terms, Denial> {
    if let Host::Addr(addr) = intent.target.host {
        let class = classify(addr);
        if !class.is_public() {
            return Err(special(&intent.target.host, class));
        }
    }
    let scheme = match intent.surface {
        Surface::Forward => Scheme::Http,
        Surface::Tunnel => Scheme::Https,
    };
    let would_deny = Some(Box::new(denial));
    Ok(Terms { would_deny, ..Terms::of(GrantedBy::Report, scheme, TlsDemand::NONE) })
}

/// A deny rule names this host: whatever nobody reads could carry what it denies.
const fn readable(mut tls: TlsDemand, opaque: Opaque) -> TlsDemand {
    if matches!(opaque, Opaque::MayNot) {
        tls.not_tls = TlsAnswer::Deny;
    }
    tls
}

fn near_miss(persona: &Persona, index: u32, miss: Miss, intent: &EgressIntent, denied: Denied) -> Denial {
    let rule = persona.allow.rule(index);
    let target = &intent.target;
    let (code, detail) = match miss {
        Miss::Port => (
            DenialCode::PortNotAllowed,
            format!("port {} of `{}` is not allowed: {}", target.port, target.host, rule.ports),
        ),
        Miss::Scheme => {
            if let Denied::Opaque(deny) = denied
                && intent.surface == Surface::Tunnel
                && rule.schemes.has(Scheme::Tcp)
            {
                return denied_by(persona.deny.rule(deny), target);
            }
            let asked = match intent.surface {
                Surface::Forward => "plain http",
                Surface::Tunnel => "a tunnel",
            };
            (DenialCode::SchemeNotAllowed, format!("{asked} to `{}` is not allowed: {}", target.host, rule.schemes))
        }
        Miss::Method => {
            let method = intent.method.as_ref().map_or("?", |method| method.as_str());
            (DenialCode::MethodNotAllowed, format!("the method `{method}` is not allowed for `{}`", target.host))
        }
        Miss::Path => (DenialCode::PathNotAllowed, format!("the path is not allowed for `{}`", target.host)),
        Miss::Expired => {
            let end = rule.expires_at.map(|end| end.to_string()).unwrap_or_default();
            (DenialCode::LeaseExpired, format!("the rule for `{}` expired at {end}", target.host))
        }
    };
    Denial::new(code, detail).by(rule.id.clone())
}

pub(super) fn not_named(persona: &Persona, host: &Host) -> Denial {
    match host {
        Host::Name(name) => {
            let detail = format!("`{name}` is not on the allowlist of `{}`", persona.id);
            Denial::new(DenialCode::NotAllowlisted, detail)
        }
        Host::Addr(addr) => match classify(*addr) {
            class if class.is_public() => literal(host),
            class => special(host, class),
        },
    }
}

fn literal(host: &Host) -> Denial {
    Denial::new(DenialCode::IpLiteral, format!("`{host}` is an address, and no rule opens it: use the host's name"))
}

fn special(host: &Host, class: impl Display) -> Denial {
    let detail = format!("`{host}` is not a public address ({class}) and no rule opens it");
    Denial::new(DenialCode::SpecialAddress, detail)
}

pub(super) fn unknown_persona(id: &PersonaId) -> Denial {
    Denial::new(DenialCode::UnknownPersona, format!("there is no persona `{id}`"))
}

pub(super) fn posture_off(persona: &Persona) -> Denial {
    let detail = format!("the posture of `{}` is off: nothing leaves", persona.id);
    Denial::new(DenialCode::PostureOff, detail)
}

/// The denial of `target` by a deny rule.
pub(super) fn denied_by(rule: &Rule, target: &dyn Display) -> Denial {
    Denial::new(DenialCode::DeniedByRule, format!("`{target}` is denied by the rule `{}`", rule.id)).by(rule.id.clone())
}
