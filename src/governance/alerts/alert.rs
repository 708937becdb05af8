//! One alert, as it is kept and shown.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::kind::{AlertKind, Cleared, Severity};
use crate::domain::{AlertId, PersonaId, Timestamp};

/// Samples kept of what an alert is about. 8: enough to see what it is, whatever floods it.
pub(super) const MAX_SAMPLES: usize = 8;

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Its name.
    pub id: AlertId,
    /// What it is about.
    pub code: AlertKind,
    /// What makes it the same as another: there is one of a key at a time.
    pub key: String,
    /// How bad it is.
    pub severity: Severity,
    /// Whose it is.
    pub persona: Option<PersonaId>,
    /// The runtime, lease, disk or route.
    pub subject: Option<String>,
    /// One sentence.
    pub summary: String,
    /// The first few things of its kind: hosts, reasons.
    pub samples: Vec<String>,
    /// What else there is to know, by kind.
    pub facts: Map<String, Value>,
    /// Whether it lasts as long as what it is about; otherwise it tells of moments, and is over when somebody has seen it.
    pub lasting: bool,
    /// How often it happened.
    pub count: u64,
    /// When it was raised.
    pub raised_at: Timestamp,
    /// When it happened last.
    pub last_at: Timestamp,
    /// Until when somebody should acknowledge it.
    pub respond_by: Option<Timestamp>,
    /// How often nobody did.
    pub escalation: u8,
    /// Who did.
    pub acknowledged: Option<Acknowledgement>,
    /// When and why it was over.
    pub cleared: Option<Clearing>,
}

/// Somebody has seen it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// When.
    pub at: Timestamp,
    /// Who, as the kernel or the token proved.
    pub by: String,
    /// What they said.
    pub note: String,
}

/// It is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clearing {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: Cleared,
}
