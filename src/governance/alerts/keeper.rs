//! The task that has the engine: it learns, keeps what follows, and tells it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::alert::Alert;
use super::engine::{Change, Engine, MAX_ACTIVE, NoSuchAlert};
use super::kind::Step;
use super::settings::Settings;
use super::signal::{LeaseLook, Look, PREFIXES, RuntimeLook, Signal, Watched};
use super::sinks::{Ground, Outlets, RouteStatus};
use crate::domain::{AlertId, Clock, RouteId, Timestamp};
use crate::events::{Delivery, Event, EventBus, EventKind, Subscription};
use crate::governance::audit::{Actor, Audit, AuditAction, Deed};
use crate::governance::leases::{Lease, Leases};
use crate::governance::reason::{MAX_REASON, reason};
use crate::policy::Posture;
use crate::proxy::{Gateway, PersonaStats};
use crate::store::{AlertRow, Entry, Store, StoreFault};
use crate::supervisor::{RuntimeState, RuntimeView, Supervisor};

/// Requests that may wait. 64: operators, one by one.
const QUEUE: usize = 64;
/// Between two looks: what is only seen there is seen within this.
const LOOK: Duration = Duration::from_secs(1);
/// Alerts that may wait for a disk that cannot be written.
const MAX_UNSAVED: usize = 4 * MAX_ACTIVE;
/// Cleared alerts in one answer.
const SHOWN: u32 = 100;
/// How long a cleared alert is kept, and
const KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);
/// how many at the most.
const MOST_KEPT: u32 = 10_000;
/// How often old ones are let go.
const SWEEP: Duration = Duration::from_secs(3_600);

/// What the keeper needs of the daemon.
#[derive(Debug)]
pub struct Premises {
    /// Where alerts are kept.
    pub store: Store,
    /// Where what administrators did is recorded.
    pub audit: Audit,
    /// The gateway, with its ledger, counters and policy.
    pub gateway: Arc<Gateway>,
    /// The runtimes, where there are any.
    pub supervisor: Option<Supervisor>,
    /// The leases.
    pub leases: Leases,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What happens, and who is told.
    pub events: EventBus,
    /// Where spools are.
    pub state_dir: PathBuf,
    /// Where the ledger is.
    pub ledger_dir: PathBuf,
}

/// Why something about alerts was not done.
#[derive(Debug, thiserror::Error)]
pub enum AlertsFault {
    /// There is no such alert.
    #[error(transparent)]
    Unknown(#[from] NoSuchAlert),
    /// There is no such route.
    #[error("there is no route `{0}`")]
    UnknownRoute(RouteId),
    /// No note, or no readable one.
    #[error("a note is one line of 1 to {MAX_REASON} bytes")]
    Note,
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Gone,
}

/// Everything there is to see.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Board {
    /// Alerts that are not over, the worst first.
    pub active: Vec<Alert>,
    /// The latest that are over, newest first.
    pub cleared: Vec<Alert>,
    /// How each route does.
    pub routes: Vec<RouteStatus>,
    /// Alerts for which there was no room, since the daemon came up.
    pub dropped: u64,
}

/// What came of trying a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// Which route.
    pub route: RouteId,
    /// Id of the event that was sent.
    pub event: String,
    /// Whether the sink took it.
    pub delivered: bool,
    /// Why not.
    pub detail: Option<String>,
}

enum Ask {
    Active(oneshot::Sender<(Vec<Alert>, u64)>),
    Acknowledge(AlertId, Actor, String, oneshot::Sender<Result<Alert, AlertsFault>>),
    Apply(Settings, oneshot::Sender<()>),
}

/// The alerts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Alerts {
    asks: mpsc::Sender<Ask>,
    outlets: Outlets,
    store: Store,
    audit: Audit,
    gateway: Arc<Gateway>,
}

impl Alerts {
    /// Everything there is to see.
    ///
    /// # Errors
    /// When what is over cannot be read, or the daemon is stopping.
    pub async fn board(&self) -> Result<Board, AlertsFault> {
        let (active, dropped) = self.active().await?;
        let cleared = self.store.alerts().cleared(SHOWN).await?.iter().filter_map(understood).collect();
        Ok(Board { active, cleared, routes: self.outlets.status(), dropped })
    }

    /// Those that are not over, and how many there was no room for.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn active(&self) -> Result<(Vec<Alert>, u64), AlertsFault> {
        self.ask(Ask::Active).await
    }

    /// How each route does.
    pub fn routes(&self) -> Vec<RouteStatus> {
        self.outlets.status()
    }

    /// Notes that somebody has seen an alert. It is on the disk when this returns.
    ///
    /// # Errors
    /// Why not; then nobody counts as having seen it.
    pub async fn acknowledge(&self, id: AlertId, by: Actor, note: &str) -> Result<Alert, AlertsFault> {
        let note = reason(note).ok_or(AlertsFault::Note)?;
        self.ask(|answer| Ask::Acknowledge(id, by, note, answer)).await?
    }

    /// Sends a trial by `route`, past everything that waits for it.
    ///
    /// # Errors
    /// There is no such route, or it could not be recorded that somebody tries it. A sink that does not take the trial is
    /// no error: the answer says so.
    pub async fn test(&self, route: RouteId, by: Actor) -> Result<Trial, AlertsFault> {
        let trial = self.outlets.prepare(&route, &self.gateway.resolver);
        let trial = trial.ok_or_else(|| AlertsFault::UnknownRoute(route.clone()))?;
        let after = Some(json!({ "route": route }));
        self.audit.record(Deed { after, ..Deed::new(by, AuditAction::AlertRouteTested) }).await?;
        let data = json!({
            "code": "test", "severity": "info", "route": route, "step": "raised",
            "summary": format!("somebody tries the route `{route}`: nothing is wrong"),
        });
        let event = self.gateway.events.unpublished(EventKind::AlertRaised, Some(route.as_str()), data);
        let detail = trial.send(&event).await.err();
        Ok(Trial { route, event: event.id.to_string(), delivered: detail.is_none(), detail })
    }

    /// Puts other settings in force.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn apply(&self, settings: Settings) -> Result<(), AlertsFault> {
        self.ask(|answer| Ask::Apply(settings, answer)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, AlertsFault> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| AlertsFault::Gone)?;
        answered.await.map_err(|_| AlertsFault::Gone)
    }
}

/// The owner; [`Keeper::run`] is its task.
#[derive(Debug)]
pub struct Keeper {
    premises: Premises,
    asks: mpsc::Receiver<Ask>,
    engine: Engine,
    outlets: Outlets,
    heard: Subscription,
    /// What a restart must still tell, as it was when the last daemon ended.
    untold: Vec<Change>,
    /// What is not on the disk yet, and whether all of it was told.
    unsaved: BTreeMap<AlertId, (Alert, bool)>,
    store_fault: Option<String>,
}

/// Listens to what alerts are made of. Call it before anything can happen that they tell.
pub fn listen(events: &EventBus) -> Subscription {
    events.subscribe(None, 0, &PREFIXES.map(str::to_owned))
}

/// Reads what is kept and starts the routes; `heard` is from [`listen`].
///
/// # Errors
/// When the store cannot be read.
pub async fn start(
    premises: Premises,
    settings: Settings,
    heard: Subscription,
) -> Result<(Alerts, Keeper), StoreFault> {
    let mut untold = Vec::new();
    let mut active = Vec::new();
    for row in premises.store.alerts().open().await? {
        let Some(alert) = understood(&row) else { continue };
        if !row.told {
            let step = if alert.cleared.is_some() { Step::Cleared } else { Step::Raised };
            untold.push(Change { step, alert: alert.clone() });
        }
        if alert.cleared.is_none() {
            active.push(alert);
        }
    }
    let (sender, asks) = mpsc::channel(QUEUE);
    let outlets = Outlets::default();
    let alerts = Alerts {
        asks: sender,
        outlets: outlets.clone(),
        store: premises.store.clone(),
        audit: premises.audit.clone(),
        gateway: Arc::clone(&premises.gateway),
    };
    let mut engine = Engine::new(settings.rules.clone(), active, Box::new(fresh_id));
    if premises.gateway.latched().is_some() {
        engine.note(Signal::Shut, premises.clock.now());
    }
    let unsaved = BTreeMap::new();
    let keeper = Keeper { premises, asks, engine, outlets, heard, untold, unsaved, store_fault: None };
    keeper.outlets.apply(&settings.routes, &keeper.ground()).await;
    Ok((alerts, keeper))
}

/// A row of this version; another one is left as it is.
fn understood(row: &AlertRow) -> Option<Alert> {
    match serde_json::from_str(&row.body) {
        Ok(alert) => Some(alert),
        Err(fault) => {
            tracing::error!(alert = %row.id, %fault, "a kept alert is not understood, and not shown");
            None
        }
    }
}

impl Keeper {
    /// Serves until `stop`, then ends the routes.
    pub async fn run(mut self, stop: CancellationToken) {
        let untold = std::mem::take(&mut self.untold);
        self.tell(untold).await;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweeps = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => break,
                },
                delivery = self.heard.next() => self.hear(&delivery).await,
                _ = looks.tick() => self.look().await,
                _ = sweeps.tick() => self.sweep().await,
            }
        }
        self.save(Vec::new()).await;
        self.outlets.stop().await;
    }

    async fn answer(&mut self, ask: Ask) {
        // Whoever asked may have gone; what was done is done.
        match ask {
            Ask::Active(answer) => {
                let active = self.engine.active().into_iter().cloned().collect();
                drop(answer.send((active, self.engine.dropped())));
            }
            Ask::Acknowledge(id, by, note, answer) => drop(answer.send(self.acknowledge(&id, &by, &note).await)),
            Ask::Apply(settings, answer) => {
                let changes = self.engine.set_rules(settings.rules, self.premises.clock.now());
                self.outlets.apply(&settings.routes, &self.ground()).await;
                self.carry(changes).await;
                let _ = answer.send(());
            }
        }
    }

    async fn acknowledge(&mut self, id: &AlertId, by: &Actor, note: &str) -> Result<Alert, AlertsFault> {
        let now = self.premises.clock.now();
        let before = self.engine.active().into_iter().find(|alert| alert.id == *id).cloned();
        let changes = self.engine.acknowledge(id, by.as_str(), note, now)?;
        let Some(alert) = changes.last().map(|change| change.alert.clone()) else {
            return Err(NoSuchAlert(id.clone()).into());
        };
        let entry = self.premises.audit.entry(Deed {
            persona: alert.persona.clone(),
            why: Some(note.to_owned()),
            after: Some(json!({ "alert": id, "code": alert.code, "key": alert.key })),
            ..Deed::new(by.clone(), AuditAction::AlertAcknowledged)
        });
        let told = alert.cleared.is_none();
        self.unsaved.insert(id.clone(), (alert.clone(), told));
        if let Err(fault) = self.try_save(vec![entry]).await {
            // Nobody counts as having seen what is not kept.
            if let Some(before) = before {
                self.unsaved.insert(id.clone(), (before.clone(), true));
                self.engine.put_back(before);
            }
            return Err(fault.into());
        }
        self.premises.audit.committed();
        tracing::info!(alert = %id, %by, "an alert was acknowledged");
        self.tell(changes).await;
        Ok(alert)
    }

    async fn hear(&mut self, delivery: &Delivery) {
        // What was lost of moments is lost; conditions are seen at the next look.
        let Delivery::Event(event) = delivery else { return };
        let policy = self.premises.gateway.policy.load();
        let signal = Signal::of(event, |persona| {
            policy.persona(persona).is_some_and(|persona| persona.posture() == Posture::Allowlist)
        });
        drop(policy);
        match signal {
            None => {}
            Some(Signal::Look) => self.look().await,
            Some(signal) => {
                let change = self.engine.note(signal, self.premises.clock.now());
                self.carry(change.into_iter().collect()).await;
            }
        }
    }

    async fn look(&mut self) {
        let look = self.see().await;
        let changes = self.engine.look(&look, self.premises.clock.now());
        for alert in self.engine.touched() {
            // A flood is written once a look, not once a drop.
            let told = self.unsaved.get(&alert.id).is_none_or(|(_, told)| *told);
            self.unsaved.insert(alert.id.clone(), (alert, told));
        }
        self.carry(changes).await;
    }

    async fn see(&self) -> Look {
        let Premises { gateway, supervisor, leases, clock, state_dir, ledger_dir, .. } = &self.premises;
        let (ledger, state, log) = (gateway.ledger.clone(), state_dir.clone(), ledger_dir.clone());
        // Files and locks that the disk may hold up.
        let measured = tokio::task::spawn_blocking(move || (ledger.status(), disks(&state, &log))).await.ok();
        let (ledger, disks) = measured.map_or((None, None), |(status, disks)| {
            let unavailable = (!status.available)
                .then(|| status.cause_detail.unwrap_or_else(|| "the last append or sync failed".to_owned()));
            (Some((unavailable, status.checkpoint_error)), disks)
        });
        // Their keeper may wait for the disk; what it says is not needed now.
        let leases = tokio::time::timeout(LOOK, leases.near_end(clock.now())).await;
        let denied = |stats: &PersonaStats| stats.denied_total() + stats.previews_denied.load(Ordering::Relaxed);
        let personas = gateway.metrics.personas();
        let denials = personas.iter().map(|(persona, stats)| (Some(persona.clone()), denied(stats)));
        // Under the latch nobody is expected to show a sign of life.
        let policy = gateway.policy.load();
        let expected = policy.personas().filter(|_| gateway.latched().is_none());
        let cadences = expected.filter_map(|persona| {
            let watched = Watched { persona: persona.id().clone(), automation: None };
            Some((watched, persona.heartbeat()?))
        });
        Look {
            cadences: cadences.collect(),
            denials: denials.chain([(None, denied(&gateway.metrics.anonymous))]).collect(),
            runtimes: supervisor.as_ref().map(|supervisor| supervisor.runtimes().iter().map(runtime).collect()),
            ledger,
            disks,
            leases: leases.ok().and_then(Result::ok).map(|leases| leases.iter().map(lease).collect()),
            store: self.store_fault.clone(),
            lost: self.outlets.lost(),
        }
    }

    /// Keeps what changed, then tells it.
    async fn carry(&mut self, changes: Vec<Change>) {
        for Change { alert, .. } in &changes {
            self.unsaved.insert(alert.id.clone(), (alert.clone(), false));
        }
        self.save(Vec::new()).await;
        self.tell(changes).await;
    }

    /// Tells the bus and the routes. What every route has put away is noted as told.
    async fn tell(&mut self, changes: Vec<Change>) {
        for Change { step, alert } in changes {
            let kind = match step {
                Step::Raised | Step::Worsened | Step::Escalated => EventKind::AlertRaised,
                Step::Cleared => EventKind::AlertCleared,
                // Whoever acknowledged it knows; it stands in the audit log.
                Step::Acknowledged => continue,
            };
            tracing::info!(alert = %alert.id, code = %alert.code, key = alert.key, severity = %alert.severity, %step, "alert");
            let event = self.publish(kind, step, &alert);
            let put_away = self.outlets.offer(&event, &alert).await;
            self.unsaved.insert(alert.id.clone(), (alert, put_away));
        }
        self.save(Vec::new()).await;
    }

    fn publish(&self, kind: EventKind, step: Step, alert: &Alert) -> Arc<Event> {
        let mut data = serde_json::to_value(alert).unwrap_or_default();
        data["step"] = json!(step);
        // What an alert is about is looked for by name, too.
        let named = alert.persona.as_ref().map(ToString::to_string);
        let subject = alert.subject.as_deref().or(named.as_deref());
        self.premises.events.tell(kind, subject, data)
    }

    async fn save(&mut self, entries: Vec<Entry>) {
        // Said by the look that follows.
        let _ = self.try_save(entries).await;
    }

    async fn try_save(&mut self, entries: Vec<Entry>) -> Result<(), StoreFault> {
        if self.unsaved.is_empty() && entries.is_empty() {
            return Ok(());
        }
        let rows = self.unsaved.values().map(|(alert, told)| row(alert, *told)).collect();
        match self.premises.store.alerts().put(rows, entries).await {
            Ok(()) => {
                self.unsaved.clear();
                self.store_fault = None;
                Ok(())
            }
            Err(fault) => {
                if self.store_fault.is_none() {
                    tracing::error!(%fault, code = fault.code(), "alerts are not on the disk yet");
                }
                self.store_fault = Some(fault.to_string());
                while self.unsaved.len() > MAX_UNSAVED {
                    self.unsaved.pop_first();
                }
                Err(fault)
            }
        }
    }

    async fn sweep(&self) {
        let now = self.premises.clock.now().unix_micros();
        let then = now.saturating_sub(i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX));
        let then = Timestamp::from_unix_micros(then);
        if let Err(fault) = self.premises.store.alerts().forget(then, MOST_KEPT).await {
            tracing::warn!(%fault, "old alerts stay in the state");
        }
    }

    fn ground(&self) -> Ground {
        Ground {
            events: self.premises.events.clone(),
            resolver: self.premises.gateway.resolver.clone(),
            state_dir: self.premises.state_dir.clone(),
        }
    }
}

fn row(alert: &Alert, told: bool) -> AlertRow {
    AlertRow {
        id: alert.id.clone(),
        body: serde_json::to_string(alert).expect("texts, numbers and maps with text keys have a JSON form"),
        raised_at: alert.raised_at,
        cleared_at: alert.cleared.map(|clearing| clearing.at),
        told,
    }
}

fn runtime(view: &RuntimeView) -> RuntimeLook {
    let state = match view.state {
        RuntimeState::Stopped | RuntimeState::Stopping => None,
        _ => Some(view.health.code()),
    };
    RuntimeLook {
        id: view.id.clone(),
        persona: view.persona.clone(),
        state: view.state.code(),
        // One that is stopped on purpose is not unwell.
        unwell: state.filter(|code| *code != "well"),
        restarts: view.restarts.used as u64,
        automation: view.automation.to_string(),
        budgets: view.budget.iter().filter_map(|budget| Some((budget.kind.code(), budget.ratio?))).collect(),
    }
}

fn lease(lease: &Lease) -> LeaseLook {
    LeaseLook {
        id: lease.id.clone(),
        persona: lease.subject.clone(),
        capability: lease.capability.to_string(),
        expires_at: lease.expires_at,
    }
}

/// Free bytes of the disks that must not be full. Blocks.
fn disks(state: &Path, ledger: &Path) -> Option<Vec<(&'static str, u64)>> {
    let measure = |path: &Path| {
        let disk = statvfs(path).ok()?;
        Some((disk.filesystem_id(), disk.blocks_available().saturating_mul(disk.fragment_size())))
    };
    let (state, ledger) = (measure(state)?, measure(ledger));
    let mut disks = vec![("state folder", state.1)];
    disks.extend(ledger.filter(|ledger| ledger.0 != state.0).map(|ledger| ("ledger", ledger.1)));
    Some(disks)
}

/// A name that nobody else has: 64 random bits.
fn fresh_id() -> AlertId {
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random).expect("the system has randomness");
    AlertId::parse(&format!("alert-{:016x}", u64::from_be_bytes(random)))
        .expect("letters, a hyphen and digits are an id")
}
