//! All runtimes of this host: the manifest in force, who is wanted, who waits for whom, the clock, and the kill switch.
//!
//! ```text
//! Supervisor (handle) ──Ask──▶ ┌──────┐ ──Order──▶ Keeper, one for each runtime
//! schedules, progress ───────▶ │ Crew │
//!                              └──────┘ order::plan(manifest, wanted, progress) says who starts now
//! ```
//!
//! One task owns the manifest and the set of the wanted. Keepers own the lives; the crew only says start.

mod eco;
mod handle;
mod wanted;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::RuntimesConfig;
use crate::domain::{Clock, RuntimeId};
use crate::events::EventBus;
use crate::proxy::{Gateway, RuntimeDoors};
use crate::sandbox::cgroup::Roots;
use crate::sandbox::preset::{Host, HostFault};
use crate::sandbox::{Launcher, Profile, ProfileName};

use super::bars::Bars;
use super::keeper::{Hand, Keeper, Order, Relaunch, Slot};
use super::launch::group;
use super::life::Origin;
use super::manifest::{Change, Manifest, RuntimeSpec, diff};
use super::order::Progress;
use super::records::{self, RecordFault, Records};
use super::request::{Action, RequestFault};
use super::shared::{Launchers, Parts, Permit, Shared};
use super::spent::Reports;
use wanted::Wanted;

pub use handle::{ShutdownReport, Supervisor};

/// Requests that may wait; each is answered within a turn.
const INBOX: usize = 64;
/// Longest sleep until the clock is looked at again: it may have been set.
const LOOK: Duration = Duration::from_secs(30);

/// What operators and the daemon want of the crew.
enum Ask {
    Act(RuntimeId, Action, oneshot::Sender<Result<(), RequestFault>>),
    Apply(Box<Manifest>, oneshot::Sender<Vec<Change>>),
    /// Ends what is barred now, and forgets that somebody wanted it. How many of them were alive.
    EndBarred(oneshot::Sender<usize>),
    ShutDown(Option<Duration>, oneshot::Sender<ShutdownReport>),
}

/// Everything that the supervisor needs of the daemon.
pub struct Premises<'p> {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The gateway that runtimes leave through.
    pub gateway: Arc<Gateway>,
    /// Where their sockets are handed over.
    pub doors: RuntimeDoors,
    /// Who is told.
    pub events: EventBus,
    /// The settings.
    pub config: RuntimesConfig,
    /// The daemon's state folder.
    pub state_dir: &'p Path,
    /// Which hierarchies cgroups are made in.
    pub roots: Roots,
    /// Says whether a runtime may be launched at all.
    pub permit: Permit,
    /// The kill switch was used before this start.
    pub shut: bool,
    /// What may not run.
    pub bars: Bars,
    /// What runtimes reported of themselves.
    pub reports: Reports,
    /// The launcher of a daemon that can execute nothing any more; without one they are made when they are needed.
    pub launcher: Option<Launcher>,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The state folder.
    #[error(transparent)]
    Record(#[from] RecordFault),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// What is shared between the crew's task and the handles.
#[derive(Debug)]
struct Directory {
    shared: Arc<Shared>,
    slots: RwLock<BTreeMap<RuntimeId, Arc<Slot>>>,
}

impl Directory {
    fn slot(&self, id: &RuntimeId) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The owner of all keepers.
struct Crew {
    directory: Arc<Directory>,
    shared: Arc<Shared>,
    manifest: Manifest,
    keepers: BTreeMap<RuntimeId, Hand>,
    wanted: Wanted,
    asks: mpsc::Receiver<Ask>,
}

/// Takes up what `manifest` declares: what went on without a daemon is adopted, what is no longer declared is ended, and
/// what starts with the daemon is started.
///
/// # Errors
/// The state folder cannot be used, or the host cannot be measured.
pub async fn start(premises: Premises<'_>, manifest: Manifest) -> Result<Supervisor, StartFault> {
    let Premises { clock, gateway, doors, events, config, state_dir, roots, permit, shut, bars, reports, launcher } =
        premises;
    let folder = state_dir.join("runtimes");
    let instance = records::instance(&folder)?;
    let cgroups = group::discover(&roots);
    if let Ok(groups) = &cgroups
        && let Err(fault) = groups.settle()
    {
        tracing::warn!(%fault, "controllers cannot be handed to runtimes: their limits will not hold");
    }
    let host = Host::read()?;
    let launchers = Launchers::new(launcher);
    let parts = Parts {
        clock,
        gateway,
        doors,
        events,
        cgroups,
        host,
        config,
        folder,
        instance,
        permit,
        bars,
        reports,
        launchers,
    };
    let shared = Arc::new(Shared::new(parts));
    shared.shut.store(shut, Ordering::Release);
    if shut {
        shared.bars.halt_schedules();
    }
    for id in Records::ids(&shared.folder) {
        if let Some(uid) =
            Records::open(&shared.folder, &id).and_then(|records| records.kept()).ok().and_then(|kept| kept.uid)
        {
            shared.hold_uid(uid);
        }
    }
    let directory = Arc::new(Directory { shared: Arc::clone(&shared), slots: RwLock::default() });
    let (sender, asks) = mpsc::channel(INBOX);
    let mut crew = Crew {
        directory: Arc::clone(&directory),
        shared: Arc::clone(&shared),
        manifest: Manifest::default(),
        keepers: BTreeMap::new(),
        wanted: Wanted::default(),
        asks,
    };
    crew.end_strangers(&manifest).await;
    crew.take_up(manifest);
    crew.look_for_gpus();
    crew.end_barred().await;
    // One root waits for the first launch, for which the default profile stands in.
    if crew.manifest.runtimes().len() > 0 {
        let warm = Arc::clone(&shared);
        tokio::task::spawn_blocking(move || {
            warm.prepare(warm.user, Profile::embedded(ProfileName::Standard));
        });
    }
    eco::watch(&directory);
    tokio::spawn(crew.run());
    Ok(Supervisor::new(sender, directory))
}

impl Crew {
    async fn run(mut self) {
        self.plan().await;
        loop {
            let wake = self.wanted.next_due(&self.shared.clock.now()).map_or(LOOK, |due| due.min(LOOK));
            let wake = Instant::now() + wake;
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(Ask::Act(id, action, answer)) => {
                        let taken = self.act(&id, action).await;
                        let _ = answer.send(taken);
                    }
                    Some(Ask::Apply(manifest, answer)) => {
                        let changes = self.apply(*manifest).await;
                        let _ = answer.send(changes);
                    }
                    Some(Ask::EndBarred(answer)) => {
                        let _ = answer.send(self.end_barred().await);
                    }
                    Some(Ask::ShutDown(grace, answer)) => {
                        // Lives end at the same time; the crew goes on meanwhile.
                        self.wanted.clear();
                        let ends = self.order_ends(grace).await;
                        tokio::spawn(async move {
                            let _ = answer.send(handle::await_ends(ends).await);
                        });
                    }
                    None => return,
                },
                () = self.shared.changed.notified() => {
                    // Bars and the kill switch change what the clock starts.
                    self.show_next();
                    self.plan().await;
                }
                () = tokio::time::sleep_until(wake) => self.on_time().await,
            }
        }
    }

    /// Runtimes that are no longer declared and may have gone on without the daemon.
    async fn end_strangers(&mut self, manifest: &Manifest) {
        for id in Records::ids(&self.shared.folder) {
            let declared = manifest.runtime(&id).is_some();
            let lives = Records::open(&self.shared.folder, &id).and_then(|records| records.run());
            if declared || matches!(lives, Ok(None)) {
                continue;
            }
            tracing::info!(runtime = %id, "a runtime that is not declared any more is ended");
            let spec = Arc::new(RuntimeSpec::stranger(id));
            match Keeper::start(&self.shared, &spec) {
                Ok(keeper) => end(keeper, None).await,
                Err(fault) => tracing::error!(%fault, "it cannot be ended"),
            }
        }
    }

    fn take_up(&mut self, manifest: Manifest) {
        let now = self.shared.clock.now();
        for spec in manifest.runtimes() {
            self.add(spec);
            self.wanted.declare(spec, &now);
            if spec.auto_start {
                self.wanted.want(&spec.id, Origin::Boot);
            }
        }
        self.manifest = manifest;
        self.show_next();
    }

    /// What was barred while no daemon ran, or since. A run that is there ends within its grace.
    async fn end_barred(&mut self) -> usize {
        let barred: Vec<RuntimeId> = self.keepers.keys().filter(|id| self.shared.bars.holds(id)).cloned().collect();
        let mut lived = 0;
        for id in barred {
            self.wanted.forget(&id);
            let Some(keeper) = self.keepers.get(&id) else { continue };
            keeper.slot.set_next(None);
            lived += usize::from(keeper.slot.view().run.is_some());
            // Who waits for its end asks for its state.
            let _ = keeper.orders.send(Order::End(None, oneshot::channel().0)).await;
        }
        lived
    }

    fn add(&mut self, spec: &Arc<RuntimeSpec>) {
        match Keeper::start(&self.shared, spec) {
            Ok(keeper) => {
                let mut slots = self.directory.slots.write().unwrap_or_else(PoisonError::into_inner);
                slots.insert(spec.id.clone(), Arc::clone(&keeper.slot));
                self.keepers.insert(spec.id.clone(), keeper);
            }
            Err(fault) => tracing::error!(runtime = %spec.id, %fault, "a runtime cannot be looked after"),
        }
    }

    async fn act(&mut self, id: &RuntimeId, action: Action) -> Result<(), RequestFault> {
        if !self.keepers.contains_key(id) {
            return Err(RequestFault::Unknown);
        }
        let starts = matches!(action, Action::Start | Action::Restart | Action::Restore);
        if starts && self.shared.is_shut() {
            return Err(RequestFault::Shut);
        }
        if starts && self.shared.bars.holds(id) {
            return Err(RequestFault::Disabled);
        }
        if action == Action::Stop {
            self.wanted.forget(id);
        }
        if matches!(action, Action::Start | Action::Restore) {
            let by = self.wanted.blocked(&self.manifest, id, |id| self.shared.progress(id));
            if !by.is_empty() {
                return Err(RequestFault::Blocked { by });
            }
            let waits = self.wanted.waits(&self.manifest, id, |id| self.shared.progress(id));
            let may_start = self.shared.progress(id) != Progress::Ready;
            if waits && may_start && action == Action::Start {
                // What it waits for comes first; it follows by itself.
                self.wanted.want(id, Origin::Operator);
                self.plan().await;
                return Ok(());
            }
        }
        let (answer, taken) = oneshot::channel();
        self.order(id, Order::Ask(action, answer)).await?;
        taken.await.map_err(|_| RequestFault::Gone)?
    }

    async fn order(&self, id: &RuntimeId, order: Order) -> Result<(), RequestFault> {
        let keeper = self.keepers.get(id).ok_or(RequestFault::Unknown)?;
        keeper.orders.send(order).await.map_err(|_| RequestFault::Gone)
    }

    /// Starts who may start now.
    async fn plan(&mut self) {
        if self.shared.is_shut() {
            return;
        }
        let progress = |id: &RuntimeId| self.shared.progress(id);
        let due = self.wanted.due(&self.manifest, progress);
        for (id, waits_for) in due.waiting {
            if let Some(keeper) = self.keepers.get(&id) {
                keeper.slot.set_waits(waits_for);
            }
        }
        for (id, origin) in due.start {
            if self.shared.bars.holds(&id) {
                continue;
            }
            if let Some(keeper) = self.keepers.get(&id) {
                keeper.slot.set_waits(Vec::new());
            }
            // A keeper that is gone has been taken out.
            let _ = self.order(&id, Order::Start(origin)).await;
        }
    }

    /// Schedules.
    async fn on_time(&mut self) {
        let now = self.shared.clock.now();
        for id in self.wanted.fire(&now) {
            if self.shared.is_shut() || self.shared.bars.schedules_halted() || self.shared.bars.holds(&id) {
                continue;
            }
            let busy = matches!(self.shared.progress(&id), Progress::Coming | Progress::Started | Progress::Ready);
            if busy {
                tracing::info!(runtime = %id, "its time has come and it still runs: this time is left out");
                continue;
            }
            if self.wanted.waits(&self.manifest, &id, |id| self.shared.progress(id)) {
                self.wanted.want(&id, Origin::Schedule);
            } else {
                let _ = self.order(&id, Order::Start(Origin::Schedule)).await;
            }
        }
        self.show_next();
        self.plan().await;
    }

    fn show_next(&self) {
        for (id, next) in self.wanted.next_starts() {
            if let Some(keeper) = self.keepers.get(&id) {
                let halted = self.shared.bars.schedules_halted() || self.shared.bars.holds(&id);
                keeper.slot.set_next(Some(next).filter(|_| !halted));
            }
        }
    }

    async fn apply(&mut self, fresh: Manifest) -> Vec<Change> {
        let changes = diff(&self.manifest, &fresh);
        let now = self.shared.clock.now();
        let mut removed = Vec::new();
        for change in &changes {
            match change {
                Change::Remove(id) => {
                    self.wanted.forget(id);
                    self.wanted.undeclare(id);
                    self.directory.slots.write().unwrap_or_else(PoisonError::into_inner).remove(id);
                    if let Some(keeper) = self.keepers.remove(id) {
                        removed.push((id.clone(), tokio::spawn(end(keeper, None))));
                    }
                }
                Change::Relaunch { spec, .. } | Change::Adjust { spec, .. } => {
                    let relaunch = match change {
                        Change::Relaunch { .. } => Relaunch::IfRunning,
                        _ => Relaunch::No,
                    };
                    self.wanted.declare(spec, &now);
                    let _ = self.order(&spec.id, Order::Declare(Arc::clone(spec), relaunch)).await;
                }
                Change::Add(spec) => {
                    self.wanted.declare(spec, &now);
                    if spec.auto_start {
                        self.wanted.want(&spec.id, Origin::Boot);
                    }
                }
            }
        }
        // Their ports must be free before others take them; each has its grace and the kill after it.
        for (id, ended) in removed {
            let _ = ended.await;
            self.shared.forget(&id);
        }
        for change in &changes {
            if let Change::Add(spec) = change {
                self.add(spec);
            }
        }
        self.manifest = fresh;
        self.look_for_gpus();
        self.end_barred().await;
        self.show_next();
        self.plan().await;
        changes
    }

    /// Where a runtime asks for one or a library is named, so that they are measured from now on. It may take seconds.
    fn look_for_gpus(&self) {
        let asks = self.manifest.runtimes().any(|spec| spec.gpu.is_some());
        if asks || self.shared.config.gpu_library.is_some() {
            let gpus = Arc::clone(&self.shared.gpus);
            tokio::task::spawn_blocking(move || gpus.prepare());
        }
    }

    async fn order_ends(&self, grace: Option<Duration>) -> Vec<(RuntimeId, oneshot::Receiver<()>, bool)> {
        let mut ends = Vec::with_capacity(self.keepers.len());
        for (id, keeper) in &self.keepers {
            let (done, ended) = oneshot::channel();
            let lived = keeper.slot.view().run.is_some();
            if keeper.orders.send(Order::End(grace, done)).await.is_ok() {
                ends.push((id.clone(), ended, lived));
            }
        }
        ends
    }
}

/// Ends a keeper with its runtime.
async fn end(keeper: Hand, grace: Option<Duration>) {
    let (done, ended) = oneshot::channel();
    if keeper.orders.send(Order::End(grace, done)).await.is_ok() {
        let _ = ended.await;
    }
    drop(keeper.orders);
    let _ = keeper.task.await;
}
