//! The handles through which the API sees and steers the daemon.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::auth::AdminAuth;
use super::wire::ReloadReport;
use crate::config::{Faults, ServerConfig};
use crate::domain::Clock;
use crate::events::EventBus;
use crate::ledger::Ledger;
use crate::policy::Snapshot;
use crate::proxy::{Handle, Metrics};

/// Event streams at once. 16: a few operators and exporters; each holds a queue of events.
pub(super) const MAX_STREAMS: usize = 16;

/// What the API asks the daemon to do. The daemon's own task takes these one after the other.
#[derive(Debug)]
pub enum Command {
    /// Read the personas again and put them in force, or keep the old ones and say what is wrong.
    Reload(oneshot::Sender<Result<ReloadReport, Faults>>),
}

/// The daemon as the API sees it; every handle is cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlState {
    /// The settings in force.
    pub config: Arc<ServerConfig>,
    /// The record.
    pub ledger: Ledger,
    /// What happens.
    pub events: EventBus,
    /// The policy in force.
    pub policy: Arc<ArcSwap<Snapshot>>,
    /// The gateway; none when the proxy is off.
    pub gateway: Option<Handle>,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// To the daemon's own task.
    pub commands: mpsc::Sender<Command>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What every handler gets.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) state: ControlState,
    pub(crate) auth: AdminAuth,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
}

impl App {
    pub(crate) fn new(state: ControlState, auth: AdminAuth, shutdown: CancellationToken) -> Self {
        Self { state, auth, streams: Arc::new(Semaphore::new(MAX_STREAMS)), shutdown }
    }
}
