//! The handles through which the API sees and steers the daemon.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::auth::AdminAuth;
use super::problem::{Problem, ProblemCode};
use super::wire::ReloadReport;
use crate::config::{Faults, ServerConfig};
use crate::domain::Clock;
use crate::events::EventBus;
use crate::governance::Governance;
use crate::governance::audit::Actor;
use crate::governance::traces::Counts;
use crate::ledger::Ledger;
use crate::policy::Snapshot;
use crate::proxy::{Handle, Metrics};
use crate::sandbox::confine::Walls;
use crate::supervisor::Supervisor;

/// Event streams at once. 16: a few operators and exporters; each holds a queue of events.
pub(super) const MAX_STREAMS: usize = 16;

/// Requests that read the ledger's files at once. 2: a page may read a whole segment, and the gateway
/// needs the disk and the cores.
const MAX_READS: usize = 2;

/// What the API asks the daemon to do. The daemon's own task takes these one after the other.
#[derive(Debug)]
pub enum Command {
    /// Read the personas again and put them in force, or keep the old ones and say what is wrong.
    Reload(ReloadAsk),
    /// Publish what the ledger has and the events do not yet, then answer.
    CatchUp(oneshot::Sender<()>),
}

/// A reload that somebody wants; the audit has it, whatever comes of it.
#[derive(Debug)]
pub struct ReloadAsk {
    /// Who.
    pub by: Actor,
    /// Why.
    pub why: Option<String>,
    /// Who is told.
    pub answer: oneshot::Sender<Result<ReloadReport, Faults>>,
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
    /// The supervised runtimes; none when nothing is supervised here.
    pub supervisor: Option<Supervisor>,
    /// What the handbook asks for beyond the gate.
    pub governance: Governance,
    /// What the daemon has put around itself; none when the settings say so.
    pub walls: Option<Arc<Walls>>,
    /// What became of the spans; none when no traces are exported.
    pub traces: Option<Arc<Counts>>,
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
    reads: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
}

impl App {
    pub(crate) fn new(state: ControlState, auth: AdminAuth, shutdown: CancellationToken) -> Self {
        let (streams, reads) = (Semaphore::new(MAX_STREAMS), Semaphore::new(MAX_READS));
        Self { state, auth, streams: Arc::new(streams), reads: Arc::new(reads), shutdown }
    }

    /// Waits for the turn to read the ledger's files; hold it while reading.
    pub(crate) async fn reading(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = Arc::clone(&self.reads).acquire_owned().await;
        turn.map_err(|_| Problem::new(ProblemCode::Internal, "the daemon is going down"))
    }
}
