//! The way of the daemon and the control plane to the runtimes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::domain::RuntimeId;
use crate::sandbox::Text;

use super::super::death::DeathRecord;
use super::super::exec::{ExecFault, Execution};
use super::super::gpus::Sample as GpuSample;
use super::super::launch::Confinement;
use super::super::manifest::{Change, Manifest};
use super::super::request::{Action, RequestFault};
use super::super::spent::WindowId;
use super::super::view::RuntimeView;
use super::{Ask, Directory};

/// How long a shutdown waits at the most beyond the longest grace: what is killed is gone in milliseconds, and what is
/// not gone by then sits in the kernel.
const BEYOND_GRACE: Duration = Duration::from_secs(310);

/// All runtimes. Cheap to clone; when the last one is dropped, what runs goes on without an owner.
#[derive(Debug, Clone)]
pub struct Supervisor {
    asks: mpsc::Sender<Ask>,
    directory: Arc<Directory>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask")
    }
}

/// What the kill switch did to the runtimes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ShutdownReport {
    /// How many were alive.
    pub stopped: usize,
    /// Of which something is still there: it sits in the kernel.
    pub left: Vec<RuntimeId>,
    /// How long it took.
    #[serde(rename = "took_ms", serialize_with = "millis")]
    pub took: Duration,
}

fn millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl Supervisor {
    pub(super) fn new(asks: mpsc::Sender<Ask>, directory: Arc<Directory>) -> Self {
        Self { asks, directory }
    }

    /// Takes away what stands ready for launches. Runtimes that live go on.
    pub fn close(&self) {
        self.directory.shared.close();
    }

    /// Every runtime, in the order of their ids, without what takes reading files.
    pub fn runtimes(&self) -> Vec<RuntimeView> {
        self.directory.slots().iter().map(|slot| slot.view()).collect()
    }

    /// One runtime.
    pub fn runtime(&self, id: &RuntimeId) -> Option<RuntimeView> {
        self.directory.slot(id).map(|slot| slot.view())
    }

    /// Every runtime, with what it uses of the host. Reads files: call it on a thread that may block.
    pub fn measured(&self) -> Vec<RuntimeView> {
        self.directory.slots().iter().map(|slot| slot.measured()).collect()
    }

    /// One runtime, with what it uses of the host. Reads files.
    pub fn measured_one(&self, id: &RuntimeId) -> Option<RuntimeView> {
        self.directory.slot(id).map(|slot| slot.measured())
    }

    /// What was measured at its last launch; `None` before the first, and for an unknown one.
    pub fn report(&self, id: &RuntimeId) -> Option<Confinement> {
        self.directory.slot(id)?.confinement()
    }

    /// The newest `limit` death records, newest last. Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or there is no such runtime (`NotFound`).
    pub fn deaths(&self, id: &RuntimeId, limit: usize) -> io::Result<Vec<DeathRecord>> {
        self.directory.slot(id).ok_or(io::ErrorKind::NotFound)?.records.deaths(limit)
    }

    /// What the GPUs of this host measured last. Empty where no runtime asks for one.
    pub fn gpus(&self) -> Arc<GpuSample> {
        self.directory.shared.gpus.sample()
    }

    /// Where its log lies; read it with [`crate::sandbox::log::LogReader`].
    pub fn log_files(&self, id: &RuntimeId) -> Option<[PathBuf; 2]> {
        self.directory.slot(id).map(|slot| slot.records.logs())
    }

    /// Asks for `action`; answered when it was taken up, not when it is done.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn request(&self, id: &RuntimeId, action: Action) -> Result<RuntimeView, RequestFault> {
        let (answer, taken) = oneshot::channel();
        self.ask(Ask::Act(id.clone(), action, answer)).await?;
        taken.await.map_err(|_| RequestFault::Gone)??;
        self.runtime(id).ok_or(RequestFault::Unknown)
    }

    /// Executes one more command inside a runtime, for at most `time`.
    ///
    /// # Errors
    /// It does not run, or the command cannot be executed.
    pub async fn exec(&self, id: &RuntimeId, argv: Vec<Text>, time: Duration) -> Result<Execution, ExecFault> {
        let slot = self.directory.slot(id).ok_or(ExecFault::Unknown)?;
        if self.is_shut() {
            return Err(ExecFault::Shut);
        }
        slot.exec(argv, time).await
    }

    /// Puts a manifest in force: the difference only.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn apply(&self, manifest: Manifest) -> Result<Vec<Change>, RequestFault> {
        let (answer, applied) = oneshot::channel();
        self.ask(Ask::Apply(Box::new(manifest), answer)).await?;
        applied.await.map_err(|_| RequestFault::Gone)
    }

    /// The kill switch: nothing starts from now on, and everything that runs is ended within its own grace, or within
    /// `grace`; zero kills at once. Answers when nothing lives any more.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn shut_down(&self, grace: Option<Duration>) -> Result<ShutdownReport, RequestFault> {
        self.directory.shared.shut.store(true, Ordering::Release);
        let (answer, ended) = oneshot::channel();
        self.ask(Ask::ShutDown(grace, answer)).await?;
        ended.await.map_err(|_| RequestFault::Gone)
    }

    /// Ends what its bars forbid. Answered when each was told to end, with how many of them were alive.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn end_barred(&self) -> Result<usize, RequestFault> {
        let (answer, told) = oneshot::channel();
        self.ask(Ask::EndBarred(answer)).await?;
        told.await.map_err(|_| RequestFault::Gone)
    }

    /// From now on no schedule starts anything. How many schedules that were in force.
    pub fn halt_schedules(&self) -> usize {
        let bars = &self.directory.shared.bars;
        let halted_before = bars.schedules_halted();
        bars.halt_schedules();
        let mut count = 0;
        for slot in self.directory.slots() {
            let view = slot.view();
            count += usize::from(!halted_before && view.schedule.is_some() && !bars.holds(&view.id));
            if view.schedule.is_some() {
                slot.set_next(None);
            }
        }
        count
    }

    /// Schedules start runtimes again, from their next times on.
    pub fn resume_schedules(&self) {
        self.directory.shared.bars.resume_schedules();
    }

    /// Whether no schedule starts anything.
    pub fn schedules_halted(&self) -> bool {
        self.directory.shared.bars.schedules_halted()
    }

    /// Says that bars were lifted: what waits for one of those may start it now.
    pub fn reconsider(&self) {
        self.directory.shared.changed.notify_one();
    }

    /// The window that the budgets of `id` count in now.
    pub fn window(&self, id: &RuntimeId) -> Option<WindowId> {
        self.directory.slot(id).map(|slot| slot.window())
    }

    /// Changes whenever something that [`Supervisor::runtimes`] shows may have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.directory.shared.seen.subscribe()
    }

    /// Lets nothing start from now on; what runs goes on until [`Supervisor::shut_down`].
    pub fn hold(&self) {
        self.directory.shared.shut.store(true, Ordering::Release);
    }

    /// Lets starts happen again. Starts nothing by itself.
    pub fn rearm(&self) {
        self.directory.shared.shut.store(false, Ordering::Release);
        self.resume_schedules();
        self.directory.shared.changed.notify_one();
    }

    /// Whether the kill switch was used.
    pub fn is_shut(&self) -> bool {
        self.directory.shared.is_shut()
    }

    async fn ask(&self, ask: Ask) -> Result<(), RequestFault> {
        self.asks.send(ask).await.map_err(|_| RequestFault::Gone)
    }
}

/// Waits until nothing of them lives any more.
pub(super) async fn await_ends(ends: Vec<(RuntimeId, oneshot::Receiver<()>, bool)>) -> ShutdownReport {
    let begun = Instant::now();
    let deadline = begun + BEYOND_GRACE;
    let mut report = ShutdownReport::default();
    for (id, ended, lived) in ends {
        report.stopped += usize::from(lived);
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            report.left.push(id);
        }
    }
    report.took = begun.elapsed();
    report
}
