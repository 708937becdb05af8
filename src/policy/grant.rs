//! The proof that policy let an intent through.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::{Denial, DenialCode, LeaseId, RuleId, Scheme, Timestamp, classify};

use super::decide::denied_by;
use super::lease::EgressLease;
use super::persona::Persona;
use super::rule::{Budget, Rule};
use super::ruleset::{Denied, Door};
use super::terms::{Mode, TlsAnswer, TlsDemand};

/// The answer to an intent.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// It may leave, as the grant says.
    Allow(Grant),
    /// It may not.
    Deny(Denial),
}

/// What let an intent through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantedBy {
    /// A rule of the persona.
    Rule,
    /// A lease of the persona's.
    Lease,
    /// The persona's posture `public`.
    Public,
    /// Nothing did: the persona is in report mode, and [`Grant::would_deny`] says what enforcement does.
    Report,
}

/// The proof that an intent was let through. Made only by [`Snapshot::decide`](super::Snapshot::decide), for
/// that one intent; it cannot be copied or stored for another.
#[derive(Debug)]
pub struct Grant {
    pub(super) persona: Arc<Persona>,
    pub(super) rule: Option<u32>,
    /// What opens it, where no rule does: the first counts. More than one, so that a spent one does not close what
    /// another opens.
    pub(super) leases: Vec<Arc<EgressLease>>,
    /// Under which the persona uses the proxy, where its file demands one.
    pub(super) permit: Option<Arc<EgressLease>>,
    pub(super) via: GrantedBy,
    pub(super) scheme: Scheme,
    pub(super) tls: TlsDemand,
    pub(super) would_deny: Option<Box<Denial>>,
    pub(super) door: Door,
    pub(super) generation: u64,
}

impl Grant {
    /// Whose traffic it is.
    pub const fn persona(&self) -> &Arc<Persona> {
        &self.persona
    }

    /// The rule that granted it.
    pub fn rule(&self) -> Option<&RuleId> {
        self.granting().map(|rule| &rule.id)
    }

    /// The lease that granted it, or the one that the persona needs for the proxy.
    pub fn lease(&self) -> Option<&LeaseId> {
        self.leases.first().or(self.permit.as_ref()).map(|lease| &lease.id)
    }

    /// What granted it.
    pub const fn via(&self) -> GrantedBy {
        self.via
    }

    /// What may be spoken: `https` (a tunnel whose first flight is judged by [`Grant::tls`]), `tcp` (a tunnel
    /// that is not looked at) or `http`.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// What the first flight of a tunnel granted as `https` must show.
    pub const fn tls(&self) -> TlsDemand {
        self.tls
    }

    /// In report mode: the denial that enforcement would have made.
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_deref()
    }

    /// When what was granted must end, even if it is in use.
    pub fn expires_at(&self) -> Option<Timestamp> {
        let rule = self.granting().and_then(|rule| rule.expires_at);
        let leases = self.leases.first().into_iter().chain(&self.permit).map(|lease| lease.expires_at);
        leases.chain(rule).min()
    }

    /// How much may pass by the granting rule or lease, all its grants together; kept by [`Usage`](super::Usage).
    pub fn limits(&self) -> Budget {
        match self.leases.first() {
            Some(lease) => lease.budget(),
            None => self.granting().map_or(Budget::NONE, |rule| rule.budget),
        }
    }

    /// The generation of the snapshot that decided.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the grant is good for connecting to `addr`, which its host resolved to or is.
    ///
    /// # Errors
    /// `special_address` when the address is not public and the granting rule's `cidrs` do not hold it (a
    /// metadata service must stand there alone, as a network of one address); `denied_by_rule` when a deny
    /// rule's `cidrs` hold the address or an IPv4 address that it carries. In report mode the
    /// latter stops only special addresses; [`Grant::would_deny_address`] tells of the others.
    pub fn vet(&self, addr: IpAddr) -> Result<(), Denial> {
        let class = classify(addr);
        if !class.is_public() && !self.granting().is_some_and(|rule| rule.opens(addr, class.is_metadata())) {
            return Err(Denial::new(
                DenialCode::SpecialAddress,
                format!("`{addr}` is not a public address ({class}) and no rule opens it"),
            ));
        }
        if self.persona.mode == Mode::Enforce || !class.is_public() {
            return self.denied_address(addr).map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// In report mode: the denial that enforcement would have made for `addr`.
    pub fn would_deny_address(&self, addr: IpAddr) -> Option<Denial> {
        (self.persona.mode == Mode::Report).then(|| self.denied_address(addr)).flatten()
    }

    fn denied_address(&self, addr: IpAddr) -> Option<Denial> {
        // A deny of opaque tunnels leaves TLS that is looked at alone.
        let looked_at = self.scheme == Scheme::Https && self.tls.not_tls == TlsAnswer::Deny;
        match self.persona.deny.denies_address(addr, &self.door) {
            Denied::No => None,
            Denied::Opaque(_) if looked_at => None,
            Denied::Opaque(rule) | Denied::Whole(rule) => Some(denied_by(self.persona.deny.rule(rule), &addr)),
        }
    }

    fn granting(&self) -> Option<&Rule> {
        self.rule.map(|index| self.persona.allow.rule(index))
    }
}
