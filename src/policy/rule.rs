//! One rule, understood.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::domain::{Method, RuleId, Scheme, Timestamp};

use super::nets::{NetIndex, canonical};
use super::path::PathPattern;
use super::pattern::HostPattern;
use super::ports::PortSet;
use super::terms::{Rate, SchemeSet, TlsChoice};

/// A rule of a persona, allow or deny.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: RuleId,
    /// Whether the file names the id; otherwise it comes from the position.
    pub(super) named: bool,
    pub(super) hosts: Box<[HostPattern]>,
    pub(super) cidrs: Box<[IpNet]>,
    /// `cidrs` for look-ups: the special addresses that the rule opens.
    pub(super) opened: NetIndex,
    pub(super) ports: PortSet,
    pub(super) schemes: SchemeSet,
    pub(super) methods: Option<Box<[Method]>>,
    pub(super) paths: Option<Box<[PathPattern]>>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) budget: Budget,
    pub(super) tls: TlsChoice,
    pub(super) note: Option<Box<str>>,
}

/// How much may pass by one rule, all clients of the persona together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Requests and tunnels, ever.
    pub max_uses: Option<u64>,
    /// Bytes in both directions, ever.
    pub max_bytes: Option<u64>,
    /// Requests and tunnels by time.
    pub rate: Option<Rate>,
}

impl Budget {
    /// No bound at all.
    pub const NONE: Self = Self { max_uses: None, max_bytes: None, rate: None };

    /// Whether nothing is bounded.
    pub const fn is_none(&self) -> bool {
        self.max_uses.is_none() && self.max_bytes.is_none() && self.rate.is_none()
    }
}

impl Rule {
    /// Whether the rule's time is over at `now`.
    pub(super) fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether the rule opens `addr` although it is special. A metadata service hands out the
    /// machine's credentials, so a wide network does not open it: it must be named alone.
    pub(super) fn opens(&self, addr: IpAddr, metadata: bool) -> bool {
        // The mapped form is the same connection to the kernel; every other form is its own address.
        self.opened.holding(canonical(addr)).any(|(_, alone)| alone || !metadata)
    }

    /// Whether the rule looks into the request, which only plain HTTP permits.
    pub(super) const fn sees_http(&self) -> bool {
        self.methods.is_some() || self.paths.is_some()
    }

    /// The rule in the words of a persona file.
    pub(super) fn summary(&self) -> RuleSummary {
        RuleSummary {
            id: self.id.clone(),
            hosts: self.hosts.iter().map(ToString::to_string).collect(),
            cidrs: self.cidrs.iter().map(ToString::to_string).collect(),
            ports: self.ports.texts(),
            schemes: self.schemes.iter().collect(),
            methods: self.methods.iter().flatten().map(ToString::to_string).collect(),
            paths: self.paths.iter().flatten().map(ToString::to_string).collect(),
            expires_at: self.expires_at,
            max_uses: self.budget.max_uses,
            max_bytes: self.budget.max_bytes,
            rate: self.budget.rate.map(|rate| rate.to_string()),
            note: self.note.as_deref().map(str::to_owned),
        }
    }
}

/// A rule as the API shows it, in the words of a persona file, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleSummary {
    /// Its id, by the file or by position.
    pub id: RuleId,
    /// `hosts`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// `cidrs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// `ports`.
    pub ports: Vec<String>,
    /// `schemes`.
    pub schemes: Vec<Scheme>,
    /// `methods`; empty means every one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// `paths`; empty means every one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// `expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// `max_uses`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u64>,
    /// `max_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// `rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// `note`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
