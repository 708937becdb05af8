//! What is raised when. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kind::{AlertKind, Severity};
use crate::domain::Timestamp;

/// The operator's rules, with what is not said filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How long what an alert is about must be over before it is cleared: what comes back sooner is the same alert.
    pub clear_after: Duration,
    /// Other severities than the kind's own; `None` is off.
    pub severities: BTreeMap<AlertKind, Option<Severity>>,
    /// In what time somebody should acknowledge, by severity. Without one nobody is waited for.
    pub respond: BTreeMap<Severity, Duration>,
    /// So many denials of a persona
    pub denials: u64,
    /// within this time are an alert.
    pub denial_window: Duration,
    /// So many restarts of a runtime within its window are an alert.
    pub restarts: u64,
    /// Less free space than this is an alert.
    pub disk_free: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            clear_after: Duration::from_secs(30),
            severities: BTreeMap::new(),
            // The handbook's first two steps.
            respond: BTreeMap::from([
                (Severity::Critical, Duration::from_secs(5 * 60)),
                (Severity::Warning, Duration::from_secs(15 * 60)),
            ]),
            denials: 20,
            denial_window: Duration::from_secs(10 * 60),
            restarts: 2,
            disk_free: 512 << 20,
        }
    }
}

impl Rules {
    /// How bad `kind` is; `None` when it is off.
    pub(super) fn severity(&self, kind: AlertKind) -> Option<Severity> {
        self.severities.get(&kind).copied().unwrap_or(Some(kind.severity()))
    }

    /// Until when an alert of this severity should be acknowledged.
    pub(super) fn respond_by(&self, severity: Severity, now: Timestamp) -> Option<Timestamp> {
        self.respond.get(&severity).map(|target| now.plus(*target))
    }
}
