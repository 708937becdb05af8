//! What goes over the wire. Apart from the domain types on purpose: a field here is a promise to clients.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::problem::ProblemCode;
use crate::domain::{DenialCode, LeaseId, PersonaId, RuleId, Scheme, Timestamp};
use crate::ledger::{Line, Outcome, Via};
use crate::proxy;

/// `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`: a daemon that is not does not answer.
    pub status: String,
    /// Of the daemon.
    pub version: String,
}

/// `GET /readyz` when it is; otherwise a problem with `reasons`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Always true.
    pub ready: bool,
}

/// `GET /state/egress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPage {
    /// Lines of the ledger, newest last.
    pub lines: Vec<Line>,
    /// Up to where the ledger was searched: ask `after` this for what comes behind.
    pub last_seq: u64,
}

/// `GET /state/egress/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressStatus {
    /// Of the daemon.
    pub version: String,
    /// The gateway; null when the proxy is off.
    pub gateway: Option<GatewayStatus>,
    /// The record.
    pub ledger: LedgerStatus,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// Whether personas take proposals and feedback.
    pub arming: Arming,
}

/// The gateway now, and since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Its TCP listeners.
    pub listening: Vec<String>,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Client connections now.
    pub connections: u64,
    /// Tunnels and exchanges now.
    pub tunnels: u64,
    /// Client connections since the start.
    pub accepted: u64,
    /// Clients turned away for want of room.
    pub shed: u64,
    /// Each persona seen since the start.
    pub personas: Vec<PersonaTraffic>,
}

/// What one persona does and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonaTraffic {
    /// Its name.
    pub persona: PersonaId,
    /// Client connections now.
    pub connections: u64,
    /// Tunnels and exchanges now.
    pub tunnels: u64,
    /// Grants.
    pub allowed: u64,
    /// Grants that enforcement would have denied.
    pub would_deny: u64,
    /// Denials.
    pub denied: u64,
    /// Bytes from clients.
    pub bytes_up: u64,
    /// Bytes to clients.
    pub bytes_down: u64,
}

impl From<proxy::Status> for GatewayStatus {
    fn from(status: proxy::Status) -> Self {
        Self {
            listening: status.listening.iter().map(ToString::to_string).collect(),
            draining: status.draining,
            connections: status.connections as u64,
            tunnels: status.tunnels as u64,
            accepted: status.accepted,
            shed: status.shed,
            personas: status.personas.into_iter().map(PersonaTraffic::from).collect(),
        }
    }
}

impl From<proxy::PersonaStatus> for PersonaTraffic {
    fn from(status: proxy::PersonaStatus) -> Self {
        Self {
            persona: status.persona,
            connections: status.connections as u64,
            tunnels: status.tunnels as u64,
            allowed: status.allowed,
            would_deny: status.would_deny,
            denied: status.denied,
            bytes_up: status.bytes_up,
            bytes_down: status.bytes_down,
        }
    }
}

/// What `personas.enable` arms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arming {
    /// Whether it is on.
    pub enabled: bool,
    /// Personas that are not armed although it is.
    pub not_armed: Vec<NotArmed>,
}

/// One persona that is not armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotArmed {
    /// Its name.
    pub persona: PersonaId,
    /// Why: `persona_not_reviewed`, `persona_review_stale`.
    pub code: String,
}

/// The ledger in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    /// Whether records are written; when false, what leaves leaves no trace.
    pub enabled: bool,
    /// Whether it can be written now; when false, nothing leaves.
    pub available: bool,
    /// Why not: the stable code.
    pub cause: Option<String>,
    /// Why not, in the system's words.
    pub detail: Option<String>,
    /// Since when not.
    pub since: Option<Timestamp>,
    /// Its folder.
    pub dir: PathBuf,
    /// The log's name in checkpoints.
    pub origin: String,
    /// The key that checks its checkpoints.
    pub public_key: Option<String>,
    /// `batch` or `strict`.
    pub durability: String,
    /// Sequence number of the last line.
    pub last_seq: u64,
    /// Lines that no sync covers yet.
    pub unsynced_lines: u64,
    /// Lines that the newest checkpoint covers.
    pub signed_size: Option<u64>,
    /// When it was signed.
    pub signed_at: Option<Timestamp>,
    /// Why the newest checkpoint could not be kept.
    pub checkpoint_error: Option<String>,
    /// Segment files.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records refused since the start, each of them something that did not leave.
    pub refused_total: u64,
}

/// The policy in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Counts reloads.
    pub generation: u64,
    /// Personas in force.
    pub personas: u64,
    /// Who may do what here: `none` (no policy file, so that an administrator may do everything), `json` or `cedar`.
    pub authority: String,
    /// Grants of that file.
    pub grants: u64,
}

/// `GET /state/tunnels`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnels {
    /// Open tunnels, oldest first, at most as many as asked for.
    pub tunnels: Vec<Tunnel>,
}

/// One open tunnel or exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Sequence number of its `open` in the ledger: the decision id that the client saw.
    pub decision: u64,
    /// Whose traffic.
    pub persona: PersonaId,
    /// From where.
    pub client: String,
    /// What it was granted as.
    pub scheme: Scheme,
    /// Host and port.
    pub target: String,
    /// The rule that granted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The lease under which it was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// Bytes from the client.
    pub bytes_up: u64,
    /// Bytes to the client.
    pub bytes_down: u64,
    /// Milliseconds since the grant.
    pub age_ms: u64,
}

impl From<proxy::TunnelView> for Tunnel {
    fn from(view: proxy::TunnelView) -> Self {
        Self {
            decision: view.decision,
            persona: view.persona,
            client: view.client,
            scheme: view.scheme,
            target: view.target,
            rule: view.rule,
            lease: view.lease,
            bytes_up: view.bytes_up,
            bytes_down: view.bytes_down,
            age_ms: view.age_ms,
        }
    }
}

/// `GET /state/personas`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personas {
    /// Counts reloads.
    pub generation: u64,
    /// By name.
    pub personas: Vec<PersonaView>,
}

/// One persona in force, without anything that authenticates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonaView {
    /// Its name.
    pub id: PersonaId,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `off`, `allowlist` or `public`.
    pub posture: String,
    /// `enforce`, `report` or `open`.
    pub mode: String,
    /// Its tokens, by name only.
    pub tokens: Vec<TokenView>,
    /// Users whose Unix socket connections are this persona.
    pub uids: Vec<u32>,
    /// URIs of its client certificates.
    pub certificates: Vec<String>,
    /// Rules that allow.
    pub allow_rules: u64,
    /// Rules that deny.
    pub deny_rules: u64,
    /// Client connections now.
    pub connections: u64,
    /// Tunnels now.
    pub tunnels: u64,
}

/// A token, by the operator's name for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its name.
    pub name: String,
    /// When it stops to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// `POST /egress/preview`: a `url`, or `host`, `port` and `scheme`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// As whom.
    pub persona: PersonaId,
    /// `https://host/path`, `http://host/path` or `tcp://host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Instead of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// With `host`; by the scheme when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// With `host`; `https` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Plain HTTP only; `GET` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// The answer to a preview.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// `allow`, `deny` or `would_deny` (allowed in report mode).
    pub decision: Outcome,
    /// As whom.
    pub persona: PersonaId,
    /// What was asked for, in normal form.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What it would be granted as, or was asked for.
    pub scheme: Scheme,
    /// The denial's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<DenialCode>,
    /// What grants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// The rule that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The lease that lets it through, or that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// One sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What an operator would run to let it through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_hint: Option<String>,
    /// What the preview does not cover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Sequence number of its line in the ledger.
    pub seq: u64,
}

/// `POST /policy/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Counts reloads.
    pub generation: u64,
    /// SHA-256 over what is in force.
    pub digest: String,
    /// Personas in force now.
    pub personas: u64,
    /// Whether anything differs from before.
    pub changed: bool,
    /// Open tunnels that the new policy ended.
    pub tunnels_ended: u64,
    /// Who may do what here: `none`, `json` or `cedar`.
    pub authority: String,
    /// Grants of that file.
    pub grants: u64,
}

/// `GET /egress/settings`: sections by name; times in milliseconds, sizes in bytes, as the names say.
pub type Settings = Value;

/// JSON Schemas (2020-12) of all of the above, by the names that the table of routes uses.
pub(super) fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let flag = || json!({ "type": "boolean" });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let object = |properties: Value| {
        let required: Vec<String> = properties.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect();
        json!({ "type": "object", "properties": properties, "required": required })
    };
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let scheme = || json!({ "type": "string", "enum": ["https", "http", "tcp"] });
    let decision = || json!({ "type": "string", "enum": ["allow", "deny", "would_deny"] });
    let codes: Vec<&str> = DenialCode::ALL.iter().map(|code| code.code()).collect();
    let problems: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.code()).collect();
    json!({
        "Health": object(json!({ "status": { "const": "ok" }, "version": text() })),
        "Readiness": object(json!({ "ready": { "const": true } })),
        "Document": { "type": "object" },
        "Settings": { "type": "object" },
        "EgressPage": object(json!({ "lines": list(reference("Line")), "last_seq": count() })),
        "Line": {
            "type": "object",
            "description": "One line of the egress ledger.",
            "properties": {
                "seq": count(), "time": { "type": "string", "format": "date-time" },
                "kind": { "type": "string", "enum": ["open", "deny", "close", "preview", "note", "audit"] },
                "persona": text(), "runtime": text(), "run": text(), "client": text(),
                "identity": { "type": "string", "enum": ["none", "basic", "bearer", "mtls", "peercred", "netns"] },
                "scheme": scheme(), "host": text(), "port": count(), "method": text(), "path": text(),
                "address": text(), "decision": decision(),
                "code": { "type": "string", "enum": codes },
                "via": { "type": "string", "enum": ["policy", "lease", "public"] },
                "rule": text(), "lease": text(), "opened": count(), "bytes_up": count(), "bytes_down": count(),
                "duration_ms": count(), "close_reason": text(), "status": count(),
                "labels": { "type": "object" }, "tls": { "type": "object" }, "detail": text(),
                "audit": { "type": "object" },
            },
            "required": ["seq", "time", "kind"],
        },
        "EgressStatus": object(json!({
            "version": text(),
            "gateway": { "anyOf": [reference("Gateway"), { "type": "null" }] },
            "ledger": object(json!({
                "enabled": flag(), "available": flag(), "cause": maybe("string"), "detail": maybe("string"),
                "since": maybe("string"), "dir": text(), "origin": text(), "public_key": maybe("string"),
                "durability": { "type": "string", "enum": ["batch", "strict"] },
                "last_seq": count(), "unsynced_lines": count(), "signed_size": maybe("integer"),
                "signed_at": maybe("string"), "checkpoint_error": maybe("string"),
                "segments": count(), "bytes": count(), "refused_total": count(),
            })),
            "policy": object(json!({
                "generation": count(), "personas": count(),
                "authority": { "type": "string", "enum": ["none", "json", "cedar"] }, "grants": count(),
            })),
            "arming": object(json!({
                "enabled": flag(), "not_armed": list(object(json!({ "persona": text(), "code": text() }))),
            })),
        })),
        "Gateway": object(json!({
            "listening": list(text()), "draining": flag(), "connections": count(), "tunnels": count(),
            "accepted": count(), "shed": count(),
            "personas": list(object(json!({
                "persona": text(), "connections": count(), "tunnels": count(), "allowed": count(),
                "would_deny": count(), "denied": count(), "bytes_up": count(), "bytes_down": count(),
            }))),
        })),
        "Tunnels": object(json!({
            "tunnels": list(object(json!({
                "decision": count(), "persona": text(), "client": text(), "scheme": scheme(), "target": text(),
                "bytes_up": count(), "bytes_down": count(), "age_ms": count(),
            }))),
        })),
        "Personas": object(json!({
            "generation": count(),
            "personas": list(object(json!({
                "id": text(),
                "posture": { "type": "string", "enum": ["off", "allowlist", "public"] },
                "mode": { "type": "string", "enum": ["enforce", "report", "open"] },
                "tokens": list(object(json!({ "name": text() }))),
                "uids": list(count()), "certificates": list(text()),
                "allow_rules": count(), "deny_rules": count(), "connections": count(), "tunnels": count(),
            }))),
        })),
        "PreviewRequest": {
            "type": "object",
            "properties": {
                "persona": text(), "url": text(), "host": text(),
                "port": { "type": "integer", "minimum": 1, "maximum": 65_535 },
                "scheme": scheme(), "method": text(),
            },
            "required": ["persona"],
            "oneOf": [{ "required": ["url"] }, { "required": ["host"] }],
            "additionalProperties": false,
        },
        "ReloadRequest": {
            "type": "object", "description": "May be left out.", "properties": { "reason": text() },
            "additionalProperties": false,
        },
        "Preview": {
            "type": "object",
            "properties": {
                "decision": decision(), "persona": text(), "host": text(), "port": count(), "scheme": scheme(),
                "code": { "type": "string", "enum": codes }, "via": text(), "rule": text(), "lease": text(),
                "detail": text(), "lease_hint": text(), "notes": list(text()), "seq": count(),
            },
            "required": ["decision", "persona", "host", "port", "scheme", "seq"],
        },
        "ReloadReport": object(json!({
            "generation": count(), "digest": text(), "personas": count(), "changed": flag(), "tunnels_ended": count(),
            "authority": { "type": "string", "enum": ["none", "json", "cedar"] }, "grants": count(),
        })),
        "Proof": object(json!({
            "line": text(), "seq": count(), "leaf_index": count(), "tree_size": count(), "path": list(text()),
            "checkpoint": text(),
        })),
        "Problem": {
            "type": "object",
            "description": "RFC 9457 problem details.",
            "properties": {
                "type": { "type": "string", "format": "uri" }, "title": text(), "status": count(), "detail": text(),
                "code": { "type": "string", "enum": problems }, "hint": text(), "reasons": list(text()),
                "faults": list(json!({ "type": "object" })),
            },
            "required": ["type", "title", "status", "detail", "code"],
        },
    })
}
