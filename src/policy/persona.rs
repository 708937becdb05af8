//! A persona: who may be it, and what it may reach.

use std::time::Duration;

use serde::Serialize;

use crate::domain::{PersonaId, Timestamp, TokenHash};

use super::rule::RuleSummary;
use super::ruleset::RuleSet;
use super::terms::{Mode, Posture, TlsChoice};

/// One persona of a [`Snapshot`](super::Snapshot), compiled.
#[derive(Debug)]
pub struct Persona {
    pub(super) id: PersonaId,
    pub(super) description: Option<String>,
    pub(super) posture: Posture,
    pub(super) mode: Mode,
    pub(super) tokens: Vec<Token>,
    pub(super) uids: Vec<u32>,
    pub(super) certificates: Vec<String>,
    pub(super) limits: PersonaLimits,
    pub(super) require_lease: bool,
    pub(super) heartbeat: Option<Duration>,
    pub(super) digest: [u8; 32],
    pub(super) tls: TlsChoice,
    pub(super) allow: RuleSet,
    pub(super) deny: RuleSet,
}

/// A token that proves the persona.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) name: String,
    pub(super) hash: TokenHash,
    pub(super) expires_at: Option<Timestamp>,
}

/// Bounds of one persona, where it has other ones than the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PersonaLimits {
    /// Client connections at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Tunnels at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<usize>,
}

impl Persona {
    /// Its id: the stem of its file.
    pub const fn id(&self) -> &PersonaId {
        &self.id
    }

    /// What it is for, in the operator's words.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// What it may reach when no rule speaks.
    pub const fn posture(&self) -> Posture {
        self.posture
    }

    /// Whether denials are carried out.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether it may use the proxy only under a lease.
    pub const fn requires_lease(&self) -> bool {
        self.require_lease
    }

    /// How often it is expected to say that it is well; none when nothing is expected.
    pub const fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }

    /// SHA-256 of what it was read from: its file, and what the environment puts over that.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Its own bounds.
    pub const fn limits(&self) -> &PersonaLimits {
        &self.limits
    }

    /// User ids whose Unix socket connections are this persona.
    pub fn uids(&self) -> &[u32] {
        &self.uids
    }

    /// URIs of client certificates that are this persona.
    pub fn certificates(&self) -> &[String] {
        &self.certificates
    }

    /// Its allow rules in file order, as the API shows them.
    pub fn allow_rules(&self) -> impl Iterator<Item = RuleSummary> {
        self.allow.rules().iter().map(super::rule::Rule::summary)
    }

    /// Its deny rules in file order, as the API shows them.
    pub fn deny_rules(&self) -> impl Iterator<Item = RuleSummary> {
        self.deny.rules().iter().map(super::rule::Rule::summary)
    }

    /// The persona as the API shows it: without the hashes of its tokens, with its rules counted.
    pub fn summary(&self) -> PersonaSummary {
        let token = |token: &Token| TokenSummary { name: token.name.clone(), expires_at: token.expires_at };
        PersonaSummary {
            id: self.id.clone(),
            description: self.description.clone(),
            posture: self.posture,
            mode: self.mode,
            tokens: self.tokens.iter().map(token).collect(),
            uids: self.uids.clone(),
            certificates: self.certificates.clone(),
            limits: self.limits,
            require_lease: self.require_lease,
            allow_rules: self.allow.rules().len(),
            deny_rules: self.deny.rules().len(),
        }
    }
}

/// A persona as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PersonaSummary {
    /// Its id.
    pub id: PersonaId,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it may reach when no rule speaks.
    pub posture: Posture,
    /// Whether denials are carried out.
    pub mode: Mode,
    /// Its tokens, by name only.
    pub tokens: Vec<TokenSummary>,
    /// User ids of its Unix socket peers.
    pub uids: Vec<u32>,
    /// URIs of its client certificates.
    pub certificates: Vec<String>,
    /// Its own bounds.
    pub limits: PersonaLimits,
    /// Whether it may use the proxy only under a lease.
    pub require_lease: bool,
    /// How many allow rules it has.
    pub allow_rules: usize,
    /// How many deny rules it has.
    pub deny_rules: usize,
}

/// A token as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenSummary {
    /// The operator's name for it.
    pub name: String,
    /// When it stops to work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}
