//! The kill switch: its order, its persistence, its release.
//!
//! ```text
//! CLI ─┐
//! API ─┼─> latch page ─> cut what is open ─> leases ─> runtimes ─> schedules ─> report, audit, event
//! signal   on the disk   deny what comes     revoked   grace,      nothing
//! file ┘                                               then killed  fires
//! ```
//!
//! The page ([`crate::store::LatchFile`]) is written without the database, into space that is there already, so a full
//! disk stops nothing. Whoever can write it latches without a daemon; a running daemon sees that within
//! a quarter of a second, and one that starts comes up latched and ends what it adopts.
//!
//! Narrowing never waits for a record: each step has a bound, and what could not be kept is tried again until it is.
//! The release is the other way round: it is recorded first, and a crash in between leaves the latch closed.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::audit::{self, Actor, Audit, AuditAction, Deed};
use super::leases::Leases;
use super::reason::reason;
use crate::domain::{Clock, RuntimeId, Timestamp, codes};
use crate::events::{EventBus, EventKind};
use crate::proxy::Gateway;
use crate::store::{LatchFile, LatchRecord, LatchStamp, LatchState, Store, StoreFault};
use crate::supervisor::Supervisor;

/// How often the page is looked at: whoever latched it without us is obeyed within this.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for the page before what is open is cut all the same: a disk that hangs must not keep it open.
const PAGE_TIME: Duration = Duration::from_millis(500);
/// Longest wait for the leases: nothing leaves by them any more, and their ends are kept when they can be.
const LEASES_TIME: Duration = Duration::from_secs(1);
/// Pause before a record that could not be kept is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Longest grace that one may ask for: longer is not a kill switch.
pub const MAX_GRACE: Duration = Duration::from_secs(300);

codes! {
    /// One step, in this order.
    StepName {
        /// The page is written: it outlives a restart.
        Latch => "latch",
        /// Open tunnels and exchanges are cut, and everything that asks is denied.
        Cut => "cut",
        /// Leases are taken back.
        Leases => "leases",
        /// Runtimes are ended: asked, and killed after their grace.
        Runtimes => "runtimes",
        /// Schedules and waiting starts are halted.
        Schedules => "schedules",
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which.
    pub step: StepName,
    /// How many pages, flows, leases, runtimes or schedules it ended.
    pub count: u64,
    /// How long it took.
    pub took_ms: u64,
    /// How long after the beginning it was done.
    pub done_ms: u64,
    /// Runtimes of which something is left: it sits in the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<RuntimeId>,
    /// What it could not do yet; it goes on trying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// One use of the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shutdown {
    /// Its id; the audit entry has the same.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Since when it is latched.
    pub since: Timestamp,
    /// Whether it was latched before this was asked.
    pub already_latched: bool,
    /// Whether every step is through.
    pub done: bool,
    /// The steps that are through.
    pub steps: Vec<Step>,
}

/// How the switch stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Whether it is latched.
    pub latched: bool,
    /// Its last use since the daemon came up, or the one that the daemon found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Shutdown>,
}

/// Why the switch was not used or not released.
#[derive(Debug, thiserror::Error)]
pub enum SwitchFault {
    /// No reason, or no readable one.
    #[error("a reason is one line of 1 to {} bytes", super::reason::MAX_REASON)]
    Reason,
    /// A grace that is too long.
    #[error("a grace is at most {} s", MAX_GRACE.as_secs())]
    Grace,
    /// It is not latched.
    #[error("the kill switch is not latched")]
    NotLatched,
    /// It is being used.
    #[error("runtimes are still being ended; release it when that is through")]
    Running,
    /// It could not be kept: it stays latched.
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// What it works on.
#[derive(Debug)]
pub struct Premises {
    /// The page.
    pub file: LatchFile,
    /// What leaves.
    pub gateway: Arc<Gateway>,
    /// What is leased.
    pub leases: Leases,
    /// What runs; none where nothing is supervised.
    pub supervisor: Option<Supervisor>,
    /// The record.
    pub audit: Audit,
    /// Who is told.
    pub events: EventBus,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The kill switch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KillSwitch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    premises: Premises,
    /// Who latched it, as the page says or should say.
    latched: Mutex<Option<LatchRecord>>,
    /// The page as we wrote or read it last.
    stamp: Mutex<Option<LatchStamp>>,
    /// Uses whose steps are not through.
    running: AtomicUsize,
    /// One writer of the page and one release at a time.
    turn: tokio::sync::Mutex<()>,
    report: watch::Sender<Option<Shutdown>>,
    bell: Notify,
}

/// What `file` says, with the gateway latched if it says so. Call it before anything can be dialled. Blocks.
///
/// # Errors
/// When there is no page and none can be made.
pub fn found(file: &LatchFile, gateway: &Gateway, clock: &dyn Clock) -> Result<Option<LatchRecord>, StoreFault> {
    let record = record_of(file.prepare()?, clock);
    if let Some(record) = &record {
        gateway.latch(&record.reason);
        tracing::error!(reason = record.reason, by = record.by, since = %record.since, "the kill switch is latched: nothing leaves and nothing starts");
    }
    Ok(record)
}

/// Who latched it. A page that cannot be read counts as latched.
fn record_of(state: LatchState, clock: &dyn Clock) -> Option<LatchRecord> {
    match state {
        LatchState::Released => None,
        LatchState::Latched(record) => Some(record),
        LatchState::Damaged(why) => Some(LatchRecord {
            id: audit::fresh_id(),
            reason: why,
            by: "daemon".to_owned(),
            since: clock.now(),
            audited: false,
        }),
    }
}

impl KillSwitch {
    /// The switch, as `found` found it.
    pub fn new(premises: Premises, found: Option<LatchRecord>) -> Self {
        let stamp = premises.file.stamp();
        Self(Arc::new(Inner {
            premises,
            latched: Mutex::new(found),
            stamp: Mutex::new(stamp),
            running: AtomicUsize::new(0),
            turn: tokio::sync::Mutex::default(),
            report: watch::Sender::new(None),
            bell: Notify::new(),
        }))
    }

    /// How it stands.
    pub fn position(&self) -> Position {
        Position { latched: self.0.premises.gateway.latched().is_some(), shutdown: self.0.report.borrow().clone() }
    }

    /// Uses it. The steps go on whatever becomes of who asked; the receiver has the report as it grows. Once latched it
    /// may be used again: who and why stay as they were, and `grace` hastens what is still ending.
    ///
    /// # Errors
    /// When there is no reason; an unsound request does nothing.
    pub fn shut_down(
        &self,
        why: &str,
        by: Actor,
        grace: Option<Duration>,
    ) -> Result<watch::Receiver<Option<Shutdown>>, SwitchFault> {
        let reason = reason(why).ok_or(SwitchFault::Reason)?;
        if grace.is_some_and(|grace| grace > MAX_GRACE) {
            return Err(SwitchFault::Grace);
        }
        let fresh = LatchRecord {
            id: audit::fresh_id(),
            reason,
            by: by.as_str().to_owned(),
            since: self.0.premises.clock.now(),
            audited: false,
        };
        Ok(self.begin(fresh, grace))
    }

    /// Ends what a daemon that came up latched has adopted.
    pub fn resume(&self) {
        let record = lock(&self.0.latched).clone();
        if let Some(record) = record {
            drop(self.begin(record, None));
        }
    }

    fn begin(&self, fresh: LatchRecord, grace: Option<Duration>) -> watch::Receiver<Option<Shutdown>> {
        let (record, already_latched) = {
            // Together: a release that is on its way either sees this use, or is over.
            let mut latched = lock(&self.0.latched);
            self.0.running.fetch_add(1, Ordering::AcqRel);
            let already = latched.as_ref().is_some_and(|held| held.id != fresh.id);
            (latched.get_or_insert(fresh).clone(), already)
        };
        let report = Shutdown {
            id: record.id,
            reason: record.reason,
            by: record.by,
            since: record.since,
            already_latched,
            done: false,
            steps: Vec::new(),
        };
        let mine = watch::Sender::new(None);
        let receiver = mine.subscribe();
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            inner.steps(report, grace, &mine).await;
            inner.running.fetch_sub(1, Ordering::AcqRel);
            inner.bell.notify_one();
        });
        receiver
    }

    /// Releases it. Nothing starts by itself and no lease comes back.
    ///
    /// # Errors
    /// Why it stays latched.
    pub async fn rearm(&self, why: &str, by: Actor) -> Result<(), SwitchFault> {
        let inner = &self.0;
        let why = reason(why).ok_or(SwitchFault::Reason)?;
        let _turn = inner.turn.lock().await;
        if inner.premises.gateway.latched().is_none() {
            return Err(SwitchFault::NotLatched);
        }
        if inner.running.load(Ordering::Acquire) > 0 {
            return Err(SwitchFault::Running);
        }
        let Premises { audit, gateway, supervisor, events, .. } = &inner.premises;
        let record = lock(&inner.latched).clone();
        if let Some(record) = record.as_ref().filter(|record| !record.audited) {
            // What is released must have its beginning in the audit.
            audit.commit(latch_entry(record)).await?;
        }
        let before = record.map(|record| json!({ "latched": true, "reason": record.reason, "since": record.since }));
        audit
            .record(Deed {
                why: Some(why.clone()),
                before,
                after: Some(json!({ "latched": false })),
                ..Deed::new(by.clone(), AuditAction::AutomationRearmed)
            })
            .await?;
        inner.write(None).await?;
        {
            let mut latched = lock(&inner.latched);
            if inner.running.load(Ordering::Acquire) > 0 {
                // It was used again meanwhile; that use writes the page anew.
                return Err(SwitchFault::Running);
            }
            *latched = None;
            gateway.release();
            if let Some(supervisor) = supervisor {
                supervisor.rearm();
            }
        }
        tracing::warn!(reason = why, %by, "the kill switch was released");
        events.publish(EventKind::AutomationRearmed, None, json!({ "reason": why, "by": by.as_str() }));
        Ok(())
    }

    /// Obeys a page that somebody else wrote, and keeps trying what could not be kept, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut retry = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.bell.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            // A page that was written in place within a tick of the clock has the time that it had (inode(7)).
            let due = Instant::now() >= retry;
            if due || self.0.premises.file.stamp() != *lock(&self.0.stamp) {
                self.look().await;
            }
            if due && self.0.running.load(Ordering::Acquire) == 0 {
                self.0.settle().await;
                retry = Instant::now() + RETRY;
            }
        }
    }

    /// Reads the page, and obeys it.
    async fn look(&self) {
        let inner = &self.0;
        let _turn = inner.turn.lock().await;
        let stamp = inner.premises.file.stamp();
        let state = inner.read().await;
        *lock(&inner.stamp) = stamp;
        let Some(record) = record_of(state, &*inner.premises.clock) else {
            let latched = lock(&inner.latched).clone();
            if latched.is_some() {
                tracing::error!("somebody took the latch away from the disk; it stays latched, and is written again");
                if let Err(fault) = inner.write(latched).await {
                    tracing::error!(%fault, "the latch is not on the disk");
                }
            }
            return;
        };
        if inner.premises.gateway.latched().is_none() {
            drop(self.begin(record, None));
        }
    }
}

impl Inner {
    async fn steps(&self, mut report: Shutdown, grace: Option<Duration>, mine: &watch::Sender<Option<Shutdown>>) {
        let begun = Instant::now();
        let Premises { gateway, leases, supervisor, events, .. } = &self.premises;
        let told = |report: &Shutdown| {
            mine.send_replace(Some(report.clone()));
            self.report.send_replace(Some(report.clone()));
        };
        told(&report);
        // Nothing starts from here on, before anybody waits for a disk.
        let ending = supervisor.clone().map(|supervisor| {
            let schedules = supervisor.halt_schedules();
            supervisor.hold();
            (supervisor, schedules)
        });

        let page = tokio::time::timeout(PAGE_TIME, self.persist()).await;
        let fault = match page {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault.to_string()),
            Err(_) => Some("the disk does not answer; it is tried again".to_owned()),
        };
        report.steps.push(Step { fault, ..step(StepName::Latch, 1, begun, begun) });
        told(&report);

        let at = Instant::now();
        let cut = gateway.latch(&report.reason);
        report.steps.push(step(StepName::Cut, cut, begun, at));
        told(&report);

        let at = Instant::now();
        let by = Actor::recorded(&report.by);
        let revoked = tokio::time::timeout(LEASES_TIME, leases.revoke_all(by, report.reason.clone())).await;
        let (count, fault) = match revoked {
            Ok(Ok(ended)) => {
                let late = "their ends are not on the disk yet; it is tried again";
                (ended.leases.len(), (!ended.persisted).then(|| late.to_owned()))
            }
            Ok(Err(fault)) => (0, Some(fault.to_string())),
            Err(_) => (0, Some("the disk does not answer; they are taken back when it does".to_owned())),
        };
        report.steps.push(Step { fault, ..step(StepName::Leases, count, begun, at) });
        told(&report);

        if let Some((supervisor, schedules)) = ending {
            let at = Instant::now();
            let ended = match supervisor.shut_down(grace).await {
                Ok(ended) => Step { left: ended.left, ..step(StepName::Runtimes, ended.stopped, begun, at) },
                Err(fault) => Step { fault: Some(fault.to_string()), ..step(StepName::Runtimes, 0, begun, at) },
            };
            report.steps.push(ended);
            report.steps.push(step(StepName::Schedules, schedules, begun, Instant::now()));
        }
        report.done = true;
        tracing::error!(reason = report.reason, by = report.by, steps = ?report.steps, "the kill switch was used");
        let data = serde_json::to_value(&report).expect("texts, numbers and lists have a JSON form");
        events.publish(EventKind::AutomationShutdown, None, data);
        told(&report);
    }

    /// Brings the page to what is latched here. It never releases: only [`KillSwitch::rearm`] does.
    async fn persist(&self) -> Result<(), StoreFault> {
        let _turn = self.turn.lock().await;
        let Some(wanted) = lock(&self.latched).clone() else { return Ok(()) };
        match self.read().await {
            LatchState::Latched(kept) if kept == wanted => Ok(()),
            _ => self.write(Some(wanted)).await,
        }
    }

    /// Keeps what is not kept yet: the page, and its audit entry.
    async fn settle(&self) {
        let Some(record) = lock(&self.latched).clone() else { return };
        if !matches!(self.read().await, LatchState::Latched(_)) {
            match self.persist().await {
                Ok(()) => tracing::warn!("the latch is on the disk"),
                Err(fault) => tracing::error!(%fault, "the latch is not on the disk"),
            }
        }
        if record.audited {
            return;
        }
        match self.premises.audit.commit(latch_entry(&record)).await {
            Ok(()) => {
                if let Some(held) = lock(&self.latched).as_mut().filter(|held| held.id == record.id) {
                    held.audited = true;
                }
                if let Err(fault) = self.persist().await {
                    tracing::warn!(%fault, "the latch does not say yet that it is in the audit");
                }
            }
            Err(fault) => tracing::error!(%fault, "the use of the kill switch is not in the audit yet"),
        }
    }

    async fn read(&self) -> LatchState {
        let file = self.premises.file.clone();
        let read = tokio::task::spawn_blocking(move || file.read()).await;
        read.unwrap_or_else(|_| LatchState::Damaged("the daemon is stopping".to_owned()))
    }

    async fn write(&self, record: Option<LatchRecord>) -> Result<(), StoreFault> {
        let file = self.premises.file.clone();
        let write = tokio::task::spawn_blocking(move || file.write(record.as_ref()).map(|()| file.stamp()));
        let stamp = write.await.map_err(|_| StoreFault::Closed)??;
        *lock(&self.stamp) = stamp;
        Ok(())
    }
}

fn latch_entry(record: &LatchRecord) -> crate::store::Entry {
    let deed = Deed {
        why: Some(record.reason.clone()),
        before: Some(json!({ "latched": false })),
        after: Some(json!({ "latched": true })),
        ..Deed::new(Actor::recorded(&record.by), AuditAction::AutomationShutdown)
    };
    audit::entry(record.id.clone(), deed, record.since)
}

/// Latches `file` without a daemon. Whether it was latched already. Blocks.
///
/// # Errors
/// When there is no reason or the page cannot be written.
pub fn latch_offline(file: &LatchFile, why: &str, by: &Actor, clock: &dyn Clock) -> Result<bool, SwitchFault> {
    let reason = reason(why).ok_or(SwitchFault::Reason)?;
    if let LatchState::Latched(_) = file.read() {
        return Ok(true);
    }
    let record =
        LatchRecord { id: audit::fresh_id(), reason, by: by.as_str().to_owned(), since: clock.now(), audited: false };
    file.write(Some(&record))?;
    Ok(false)
}

/// Releases `file` without a daemon, after it is in the audit. The state is held meanwhile, so no daemon can start on it.
///
/// # Errors
/// Why it stays latched; [`StoreFault::InUse`] when a daemon has the state.
pub async fn rearm_offline(
    file: &LatchFile,
    state_dir: &Path,
    why: &str,
    by: &Actor,
    clock: &dyn Clock,
) -> Result<(), SwitchFault> {
    let why = reason(why).ok_or(SwitchFault::Reason)?;
    let record = record_of(file.read(), clock).ok_or(SwitchFault::NotLatched)?;
    let store = Store::open(state_dir)?;
    if !record.audited {
        store.outbox().add(latch_entry(&record)).await?;
    }
    let deed = Deed {
        why: Some(why),
        before: Some(json!({ "latched": true, "reason": record.reason, "since": record.since })),
        after: Some(json!({ "latched": false })),
        ..Deed::new(by.clone(), AuditAction::AutomationRearmed)
    };
    store.outbox().add(audit::entry(audit::fresh_id(), deed, clock.now())).await?;
    file.write(None)?;
    Ok(())
}

fn step(step: StepName, count: usize, begun: Instant, at: Instant) -> Step {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Step {
        step,
        count: count as u64,
        took_ms: millis(at.elapsed()),
        done_ms: millis(begun.elapsed()),
        left: Vec::new(),
        fault: None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
