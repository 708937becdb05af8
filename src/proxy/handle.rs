//! What the gateway shows of itself to the control plane: counts and open tunnels, never a way in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::{PersonaId, Scheme, Timestamp};

/// The gateway at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Where it listens: `127.0.0.1:9080`, `unix:/…/proxy.sock`.
    pub listening: Vec<String>,
    /// Client connections now.
    pub connections: u64,
    /// Open tunnels now.
    pub tunnels: u64,
    /// Per persona; personas without traffic may be absent.
    pub personas: BTreeMap<PersonaId, PersonaCounts>,
    /// Whether it stopped accepting and waits for open tunnels.
    pub draining: bool,
    /// Since the start.
    pub totals: Totals,
}

/// One persona's share, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PersonaCounts {
    /// Client connections.
    pub connections: u64,
    /// Open tunnels.
    pub tunnels: u64,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Requests granted.
    pub allowed: u64,
    /// Requests denied.
    pub denied: u64,
    /// Bytes from clients to upstreams.
    pub bytes_up: u64,
    /// Bytes from upstreams to clients.
    pub bytes_down: u64,
}

/// One open tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelView {
    /// The ledger's sequence number of its `open`.
    pub seq: u64,
    /// Whose traffic.
    pub persona: PersonaId,
    /// From where.
    pub client: String,
    /// What it was granted for.
    pub scheme: Scheme,
    /// Host, in normal form.
    pub host: String,
    /// Port.
    pub port: u16,
    /// When it was granted.
    pub since: Timestamp,
    /// Bytes from the client so far.
    pub bytes_up: u64,
    /// Bytes to the client so far.
    pub bytes_down: u64,
}

/// A view of the running gateway; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    status: Arc<dyn Fn() -> Status + Send + Sync>,
    tunnels: Arc<dyn Fn(usize) -> Vec<TunnelView> + Send + Sync>,
}

impl Handle {
    /// A view through `status` and `tunnels`, which must not block.
    pub fn new(
        status: impl Fn() -> Status + Send + Sync + 'static,
        tunnels: impl Fn(usize) -> Vec<TunnelView> + Send + Sync + 'static,
    ) -> Self {
        Self { status: Arc::new(status), tunnels: Arc::new(tunnels) }
    }

    /// The gateway now.
    pub fn status(&self) -> Status {
        (self.status)()
    }

    /// At most `limit` open tunnels.
    pub fn tunnels(&self, limit: usize) -> Vec<TunnelView> {
        let mut views = (self.tunnels)(limit);
        views.truncate(limit);
        views
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// The gateway's counters.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Appends the gateway's families in the OpenMetrics text format, without the final `# EOF`.
    pub fn encode(&self, out: &mut String) {
        out.push_str("# TYPE arw_egress_accepted counter\narw_egress_accepted_total 0\n");
    }
}
