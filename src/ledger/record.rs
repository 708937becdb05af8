//! What one line of the ledger says.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::domain::{ClientAddr, CloseReason, DenialCode, Identity, Labels, PersonaId, RuleId, Scheme, Timestamp};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A grant: written before the dial.
    Open,
    /// A denial.
    Deny,
    /// The end of what an `open` began.
    Close,
    /// A decision that was asked for, not acted on.
    Preview,
    /// The daemon's own word: start, recovery, clock step, service resumed.
    Note,
    /// What an administrator did. Only in the audit log.
    Audit,
}

/// The decision as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Granted.
    Allow,
    /// Denied.
    Deny,
    /// Let through in report mode; enforcement would have denied with the recorded code.
    WouldDeny,
}

/// What granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// A rule of the persona.
    Policy,
    /// A lease.
    Lease,
    /// The persona's `public` posture.
    Public,
}

/// What the first flight of a tunnel showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSeen {
    /// Server name, normal form.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sni: Option<String>,
    /// Highest offered version: `1.2`, `1.3`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Whether an `encrypted_client_hello` extension was there.
    #[serde(default)]
    pub ech: bool,
}

/// One event, borrowed from whoever knows it; the ledger adds `seq` and `time`.
///
/// Text fields may hold foreign bytes: the encoder escapes and bounds them.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// What happened.
    pub kind: Kind,
    /// Whose traffic; none when no identity was proved.
    pub persona: Option<&'a PersonaId>,
    /// The supervised runtime, once there are any.
    pub runtime: Option<&'a str>,
    /// The run of that runtime.
    pub run: Option<&'a str>,
    /// From where.
    pub client: Option<ClientAddr>,
    /// How the identity was proved.
    pub identity: Option<Identity>,
    /// What was granted, or asked for as far as it is known.
    pub scheme: Option<Scheme>,
    /// Host, in normal form when it has one.
    pub host: Option<&'a str>,
    /// Port.
    pub port: Option<u16>,
    /// Visible HTTP only.
    pub method: Option<&'a str>,
    /// Visible HTTP only; without query unless the operator asked for it.
    pub path: Option<&'a str>,
    /// For `open`: the vetted address that is dialled first. For `close`: the one that answered.
    pub address: Option<SocketAddr>,
    /// The decision.
    pub outcome: Option<Outcome>,
    /// The denial's code.
    pub code: Option<DenialCode>,
    /// What granted it.
    pub via: Option<Via>,
    /// The rule.
    pub rule: Option<&'a RuleId>,
    /// The lease.
    pub lease: Option<&'a str>,
    /// For `close`: the sequence number of its `open`.
    pub opened: Option<u64>,
    /// Bytes from the client to the upstream.
    pub bytes_up: Option<u64>,
    /// Bytes from the upstream to the client.
    pub bytes_down: Option<u64>,
    /// From the grant to the close.
    pub duration_ms: Option<u64>,
    /// Why it ended.
    pub close_reason: Option<CloseReason>,
    /// HTTP status of the final answer, for an exchange.
    pub status: Option<u16>,
    /// The client's own book-keeping.
    pub labels: Option<&'a Labels>,
    /// What the first flight showed.
    pub tls: Option<&'a TlsSeen>,
    /// One sentence, for `note` and for denials; for `audit`: why.
    pub detail: Option<&'a str>,
    /// For `audit`: what was done.
    pub audit: Option<&'a AuditRecord>,
}

/// What an administrator did. The texts of `before` and `after` are JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Unique, also over several logs.
    pub entry: String,
    /// When it was done; the line's own time is when it was recorded.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// What it was done to, as it was before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<String>,
    /// As it is since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<String>,
}

impl Record<'_> {
    /// A record with nothing but its kind.
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            persona: None,
            runtime: None,
            run: None,
            client: None,
            identity: None,
            scheme: None,
            host: None,
            port: None,
            method: None,
            path: None,
            address: None,
            outcome: None,
            code: None,
            via: None,
            rule: None,
            lease: None,
            opened: None,
            bytes_up: None,
            bytes_down: None,
            duration_ms: None,
            close_reason: None,
            status: None,
            labels: None,
            tls: None,
            detail: None,
            audit: None,
        }
    }
}
