//! The task that has all automations: it keeps who is disabled, takes reports, and tells of runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::observe::{Known, News};
use super::registry::{Automation, Registry};
use super::status::{AutomationView, Facts, House, Status, view};
use super::usage::{UsageFault, UsageReport};
use crate::domain::{AutomationId, Clock, Money, RuntimeId, Timestamp};
use crate::events::{EventBus, EventKind};
use crate::governance::audit::{Actor, Audit, AuditAction, Deed};
use crate::governance::consent::Consents;
use crate::governance::reason::{MAX_REASON, reason};
use crate::governance::unkept::Unkept;
use crate::proxy::Gateway;
use crate::store::{
    DisabledRow, Entry, Narrowing, ReportRow, Reserve, Reserved, RunRow, Store, StoreFault, Taken, TotalsRow,
};
use crate::supervisor::{Bars, BudgetView, Reported, Reports, RuntimeView, Supervisor, WindowId};

/// Requests of operators that may wait. 64: they ask one by one.
const QUEUE: usize = 64;
/// Reports that may wait. 256: each is on the disk within milliseconds; more than that would wait in vain.
const REPORTS: usize = 256;
/// Least time between two looks at the runtimes: a crowd that starts is looked at ten times a second.
const PACE: Duration = Duration::from_millis(100);
/// Longest time between two looks: heartbeats change nothing else.
const LOOK: Duration = Duration::from_secs(1);
/// Ends that are read back when some were missed: more than a restart window holds.
const DEATHS: usize = 100;

/// What was found in the state before anything was started.
#[derive(Debug, Default)]
pub struct Found {
    registry: Registry,
    disabled: Vec<DisabledRow>,
    /// Those of them that only the reserve tells of.
    unkept: Vec<DisabledRow>,
    /// Whether the reserve tells of anything, or of nobody knows what.
    stale: bool,
    totals: Vec<TotalsRow>,
    runs: Vec<RunRow>,
    bars: Bars,
    reports: Reports,
}

/// Reads what is kept, bars what is disabled and knows what was reported. Call it before anything is launched.
///
/// # Errors
/// When the store cannot be read, or the reserve not be made.
pub async fn found(
    store: &Store,
    state_dir: &Path,
    registry: Registry,
    (bars, reports): (&Bars, &Reports),
    now: Timestamp,
) -> Result<Found, StoreFault> {
    let kept = store.automations();
    let (mut disabled, totals, runs) = (kept.disabled().await?, kept.totals().await?, kept.newest_runs().await?);
    let reserve = reserve(state_dir);
    let told = tokio::task::spawn_blocking(move || reserve.prepare()).await.map_err(|_| StoreFault::Closed)??;
    let stale = told != Reserved::Acts(Vec::new());
    let mut unkept = recalled(told, &registry, now);
    unkept.retain(|row| disabled.iter().all(|known| known.automation != row.automation));
    disabled.extend(unkept.iter().cloned());
    let (bars, reports) = (bars.clone(), reports.clone());
    let found = Found { registry, disabled, unkept, stale, totals, runs, bars, reports };
    found.bars.set(barred(&found.registry, &found.disabled));
    for row in &found.totals {
        let runtime = found.registry.all().find(|one| one.id == row.automation).map(|one| one.runtime.clone());
        if let (Some(runtime), Some(window)) = (runtime, WindowId::parse(&row.window)) {
            found.reports.put(runtime, window, reported(row));
        }
    }
    Ok(found)
}

fn reserve(state_dir: &Path) -> Reserve<DisabledRow> {
    Reserve::new(state_dir, Narrowing::Automations)
}

/// What was disabled and could not be kept. A reserve that cannot be read may tell of any of them.
fn recalled(told: Reserved<DisabledRow>, registry: &Registry, now: Timestamp) -> Vec<DisabledRow> {
    match told {
        Reserved::Acts(rows) => rows,
        Reserved::Damaged(detail) => {
            tracing::error!(detail, "what was disabled is not known, so every automation is");
            let every = registry.all().map(|one| DisabledRow {
                automation: one.id.clone(),
                runtime: one.runtime.clone(),
                at: now,
                by: Actor::daemon().as_str().to_owned(),
                why: detail.clone(),
            });
            every.collect()
        }
    }
}

const fn reported(row: &TotalsRow) -> Reported {
    Reported { tokens: row.tokens, spend: row.spend }
}

/// Who disabled `automation`: under its name, or its runtime under another.
fn disabled<'r>(rows: &'r [DisabledRow], automation: &Automation) -> Option<&'r DisabledRow> {
    rows.iter().find(|row| row.automation == automation.id || row.runtime == automation.runtime)
}

/// Runtimes that may not run. One that is not declared any more stays barred for when it comes back.
fn barred(registry: &Registry, rows: &[DisabledRow]) -> BTreeSet<RuntimeId> {
    let now = registry.all().filter(|one| disabled(rows, one).is_some()).map(|one| one.runtime.clone());
    now.chain(rows.iter().map(|row| row.runtime.clone())).collect()
}

/// What the keeper needs of the daemon.
#[derive(Debug)]
pub struct Premises {
    /// Where it is kept.
    pub store: Store,
    /// Where what was done is recorded.
    pub audit: Audit,
    /// The kill switch is seen there.
    pub gateway: Arc<Gateway>,
    /// What runs; none where nothing is supervised.
    pub supervisor: Option<Supervisor>,
    /// Who is told.
    pub events: EventBus,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where consents are declared.
    pub config_dir: PathBuf,
    /// Where they are acknowledged.
    pub state_dir: PathBuf,
}

/// Why an automation was not disabled or enabled.
#[derive(Debug, thiserror::Error)]
pub enum AutomationFault {
    /// There is no such automation.
    #[error("there is no automation, and no runtime, `{0}`")]
    Unknown(String),
    /// No reason, or no readable one.
    #[error("a reason is one line of 1 to {MAX_REASON} bytes")]
    Reason,
    /// It could not be kept; nothing was done.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// It is disabled, and that could not be kept anywhere.
    #[error(
        "`{0}` is disabled until the daemon restarts: that is not on the disk, and is tried again until it is ({1})"
    )]
    Unkept(AutomationId, StoreFault),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Gone,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Switched {
    /// Whether it was otherwise before.
    pub changed: bool,
    /// The automation as it is now.
    pub automation: AutomationView,
}

/// What a report came to.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Usage {
    /// Whose.
    pub automation: AutomationId,
    /// The window that it counts in.
    pub window: Option<String>,
    /// What was reported in the window in all.
    pub reported: Reported,
    /// What is spent of each budget.
    pub budgets: Vec<BudgetView>,
    /// Whether the report was known, and counted before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

enum Ask {
    Disable(String, String, Actor, oneshot::Sender<Result<Switched, AutomationFault>>),
    Enable(String, String, Actor, oneshot::Sender<Result<Switched, AutomationFault>>),
    Declare(Registry, oneshot::Sender<()>),
    Book(oneshot::Sender<Book>),
}

/// Whose usage is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// That of the automation, or of the runtime, of this name: an administrator asks.
    Named(String),
    /// That of the runtime which the kernel says is asking.
    Own(RuntimeId),
}

type Report = (Whose, UsageReport, Option<Actor>, oneshot::Sender<Result<Usage, UsageFault>>);

/// What others read.
#[derive(Debug, Clone)]
struct Book {
    registry: Registry,
    disabled: Vec<DisabledRow>,
    reported_at: BTreeMap<AutomationId, Timestamp>,
}

/// The automations. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Automations {
    asks: mpsc::Sender<Ask>,
    reports: mpsc::Sender<Report>,
    shared: Arc<Premises>,
    totals: Reports,
}

impl Automations {
    /// Disables the automation of that name, or of the runtime of that name: it is kept first, then its runtime is told to
    /// end, and nobody starts it until it is enabled. It does not wait for a disk: what the state cannot take is kept in
    /// the reserve.
    ///
    /// # Errors
    /// Why not; nothing was done then, but with [`AutomationFault::Unkept`].
    pub async fn disable(&self, name: &str, why: &str, by: Actor) -> Result<Switched, AutomationFault> {
        self.ask(|answer| Ask::Disable(name.to_owned(), why.to_owned(), by, answer)).await?
    }

    /// Lets it run again. Starts nothing by itself.
    ///
    /// # Errors
    /// Why not; it stays disabled then.
    pub async fn enable(&self, name: &str, why: &str, by: Actor) -> Result<Switched, AutomationFault> {
        self.ask(|answer| Ask::Enable(name.to_owned(), why.to_owned(), by, answer)).await?
    }

    /// Goes by another registry. Call it before the supervisor goes by the manifest of it.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn declare(&self, registry: Registry) -> Result<(), AutomationFault> {
        self.ask(|answer| Ask::Declare(registry, answer)).await
    }

    /// From now on no schedule starts anything. How many schedules were in force.
    pub fn halt_schedules(&self) -> usize {
        self.shared.supervisor.as_ref().map_or(0, Supervisor::halt_schedules)
    }

    /// Schedules start runtimes again, from their next times on.
    pub fn resume_schedules(&self) {
        if let Some(supervisor) = &self.shared.supervisor {
            supervisor.resume_schedules();
        }
    }

    /// The one of that name, or of the runtime of that name; `None` where there is none.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn named(&self, name: &str) -> Result<Option<AutomationId>, AutomationFault> {
        let book = self.ask(Ask::Book).await?;
        Ok(book.registry.find(name).map(|one| one.id.clone()))
    }

    /// Every automation, and why those are impacted that are.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn status(&self) -> Result<Status, AutomationFault> {
        let book = self.ask(Ask::Book).await?;
        let (shared, totals) = (Arc::clone(&self.shared), self.totals.clone());
        // Consents are files.
        let work = move || status(&shared, &totals, &book);
        tokio::task::spawn_blocking(work).await.map_err(|_| AutomationFault::Gone)
    }

    /// The latest `limit` runs of an automation, newest first.
    ///
    /// # Errors
    /// There is no such automation, or they cannot be read.
    pub async fn runs(&self, name: &str, limit: u32) -> Result<Vec<RunRow>, AutomationFault> {
        let book = self.ask(Ask::Book).await?;
        let one = book.registry.find(name).ok_or_else(|| AutomationFault::Unknown(name.to_owned()))?;
        Ok(self.shared.store.automations().runs(one.id.clone(), one.runtime.clone(), limit).await?)
    }

    /// Takes a report of usage. It is kept, and counts, when this returns.
    ///
    /// # Errors
    /// Why it does not count.
    pub async fn report(&self, whose: Whose, report: UsageReport, by: Option<Actor>) -> Result<Usage, UsageFault> {
        let (answer, answered) = oneshot::channel();
        self.reports.try_send((whose, report, by, answer)).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => UsageFault::TooFast,
            mpsc::error::TrySendError::Closed(_) => UsageFault::Gone,
        })?;
        answered.await.map_err(|_| UsageFault::Gone)?
    }

    /// What is spent of the budgets.
    ///
    /// # Errors
    /// There is no such automation.
    pub async fn usage(&self, whose: &Whose) -> Result<Usage, UsageFault> {
        let book = self.ask(Ask::Book).await.map_err(|_| UsageFault::Gone)?;
        let automation = of(&book.registry, whose).ok_or(UsageFault::Unknown)?;
        Ok(usage(&self.shared, &self.totals, automation, false))
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, AutomationFault> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| AutomationFault::Gone)?;
        answered.await.map_err(|_| AutomationFault::Gone)
    }
}

fn of<'r>(registry: &'r Registry, whose: &Whose) -> Option<&'r Automation> {
    match whose {
        Whose::Named(name) => registry.find(name),
        Whose::Own(runtime) => registry.of_runtime(runtime),
    }
}

fn usage(shared: &Premises, totals: &Reports, automation: &Automation, repeated: bool) -> Usage {
    let supervisor = shared.supervisor.as_ref();
    let view = supervisor.and_then(|supervisor| supervisor.runtime(&automation.runtime));
    let window = supervisor.and_then(|supervisor| supervisor.window(&automation.runtime));
    Usage {
        automation: automation.id.clone(),
        window: window.filter(WindowId::is_known).map(|window| window.to_string()),
        reported: window.map(|window| totals.of(&automation.runtime, window)).unwrap_or_default(),
        budgets: view.map(|view| view.budget).unwrap_or_default(),
        repeated,
    }
}

fn status(shared: &Premises, totals: &Reports, book: &Book) -> Status {
    let house = House {
        latched: shared.gateway.latched(),
        schedules_halted: shared.supervisor.as_ref().is_some_and(Supervisor::schedules_halted),
    };
    let views = shared.supervisor.as_ref().map(Supervisor::runtimes).unwrap_or_default();
    let views: BTreeMap<&RuntimeId, &RuntimeView> = views.iter().map(|view| (&view.id, view)).collect();
    let reads = book.registry.all().any(|one| !one.consent.is_empty());
    let consents = reads.then(|| Consents::load(&shared.config_dir, &shared.state_dir));
    let missing = |one: &Automation| match consents.as_ref().filter(|_| !one.consent.is_empty())? {
        Ok(consents) => consents.permits(&one.consent).err().map(|fault| fault.to_string()),
        Err(_) => Some("what is consented to cannot be read: `arw-cli consent validate` says why".to_owned()),
    };
    let automations: Vec<AutomationView> = book
        .registry
        .all()
        .map(|one| {
            let window = shared.supervisor.as_ref().and_then(|supervisor| supervisor.window(&one.runtime));
            let facts = Facts {
                view: views.get(&one.runtime).copied(),
                disabled: disabled(&book.disabled, one),
                reported_at: book.reported_at.get(&one.id).copied(),
                reported: window.map(|window| totals.of(&one.runtime, window)).unwrap_or_default(),
                consent: missing(one),
            };
            view(one, &facts, &house)
        })
        .collect();
    Status {
        latched: house.latched,
        schedules_halted: house.schedules_halted,
        impacted: automations.iter().filter(|one| !one.impacted.is_empty()).map(|one| one.id.clone()).collect(),
        automations,
    }
}

/// The owner; [`Keeper::run`] is its task.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Premises>,
    asks: mpsc::Receiver<Ask>,
    reports: mpsc::Receiver<Report>,
    book: Book,
    bars: Bars,
    totals: Reports,
    known: BTreeMap<RuntimeId, Known>,
    unkept: Unkept<DisabledRow, Entry>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask")
    }
}

/// Takes up what was found.
pub fn start(premises: Premises, found: Found) -> (Automations, Keeper) {
    let Found { registry, disabled, unkept, stale, totals: _, runs, bars, reports: totals } = found;
    let (ask_sender, asks) = mpsc::channel(QUEUE);
    let (report_sender, reports) = mpsc::channel(REPORTS);
    let shared = Arc::new(premises);
    let known = runs.into_iter().map(|row| (row.runtime, Known::kept(row.run, row.ended.is_some()))).collect();
    let book = Book { registry, disabled, reported_at: BTreeMap::new() };
    let handle =
        Automations { asks: ask_sender, reports: report_sender, shared: Arc::clone(&shared), totals: totals.clone() };
    let unkept_here = Unkept::new(reserve(&shared.state_dir), stale);
    let mut keeper = Keeper { shared, asks, reports, book, bars, totals, known, unkept: unkept_here };
    for row in unkept {
        tracing::warn!(automation = %row.automation, by = row.by, why = row.why, "an automation was disabled before the last end of the daemon, and stays so");
        let entry = keeper.disabling(&row);
        keeper.unkept.push(row, entry);
    }
    (handle, keeper)
}

impl Keeper {
    /// Serves until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.shared.supervisor.as_ref().map(Supervisor::changes);
        let mut next = tokio::time::Instant::now();
        loop {
            if tokio::time::Instant::now() >= next {
                // What it could not do it said; the next look tries again.
                let _ = self.settle().await;
                self.observe().await;
                next = tokio::time::Instant::now() + LOOK;
            }
            let changed = async {
                let changed = match &mut changes {
                    Some(changes) => changes.changed().await.is_ok(),
                    None => false,
                };
                if !changed {
                    // The supervisor is gone, or there is none.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // Operators first: a flood of reports holds nobody up.
                biased;
                () = stop.cancelled() => return,
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                () = changed => next = next.min(tokio::time::Instant::now() + PACE),
                () = tokio::time::sleep_until(next) => {}
                Some((whose, report, by, answer)) = self.reports.recv() => {
                    // Whoever reported may have gone; what is kept is kept.
                    let _ = answer.send(self.report(&whose, &report, by).await);
                }
            }
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // Whoever asked may have gone; what was done is done.
        match ask {
            Ask::Disable(name, why, by, answer) => drop(answer.send(self.disable(&name, &why, by).await)),
            Ask::Enable(name, why, by, answer) => drop(answer.send(self.enable(&name, &why, by).await)),
            Ask::Declare(registry, answer) => {
                self.book.registry = registry;
                self.bars.set(barred(&self.book.registry, &self.book.disabled));
                let _ = answer.send(());
            }
            Ask::Book(answer) => drop(answer.send(self.book.clone())),
        }
    }

    fn find(&self, name: &str) -> Result<Automation, AutomationFault> {
        self.book.registry.find(name).cloned().ok_or_else(|| AutomationFault::Unknown(name.to_owned()))
    }

    async fn disable(&mut self, name: &str, why: &str, by: Actor) -> Result<Switched, AutomationFault> {
        let why = reason(why).ok_or(AutomationFault::Reason)?;
        let one = self.find(name)?;
        let changed = disabled(&self.book.disabled, &one).is_none();
        let mut unkept = None;
        if changed {
            let row = DisabledRow {
                automation: one.id.clone(),
                runtime: one.runtime.clone(),
                at: self.shared.clock.now(),
                by: by.as_str().to_owned(),
                why: why.clone(),
            };
            let entry = self.disabling(&row);
            // Kept before it acts: whatever ends the daemon from here on, the next one finds it disabled.
            self.unkept.push(row.clone(), entry);
            unkept = self.settle().await.err().filter(|_| !self.unkept.is_kept());
            self.book.disabled.push(row);
            self.bars.set(barred(&self.book.registry, &self.book.disabled));
        }
        // Also when it was disabled before: an end that was not through is asked for again.
        if let Some(supervisor) = &self.shared.supervisor {
            supervisor.end_barred().await.map_err(|_| AutomationFault::Gone)?;
        }
        if changed {
            tracing::warn!(automation = %one.id, runtime = %one.runtime, %by, why, "an automation was disabled");
            let data = json!({
                "automation": one.id, "runtime": one.runtime, "persona": one.persona, "by": by.as_str(), "reason": why,
            });
            self.shared.events.publish(EventKind::AutomationDisabled, Some(one.id.as_str()), data);
        }
        match unkept {
            Some(fault) => Err(AutomationFault::Unkept(one.id, fault)),
            None => Ok(self.switched(&one, changed)),
        }
    }

    /// The audit entry of what `row` tells.
    fn disabling(&self, row: &DisabledRow) -> Entry {
        let persona = self.book.registry.find(row.automation.as_str()).map(|one| one.persona.clone());
        self.shared.audit.entry(Deed {
            persona,
            runtime: Some(row.runtime.clone()),
            why: Some(row.why.clone()),
            before: Some(json!({ "automation": row.automation, "enabled": true })),
            after: Some(json!({ "automation": row.automation, "enabled": false })),
            ..Deed::new(Actor::recorded(&row.by), AuditAction::AutomationDisabled)
        })
    }

    /// Brings what was disabled into the state, or at least into the reserve.
    async fn settle(&mut self) -> Result<(), StoreFault> {
        let brought = self.bring().await;
        self.unkept.settle(brought).await
    }

    async fn bring(&mut self) -> Result<(), StoreFault> {
        while let Some((row, entry)) = self.unkept.first() {
            self.shared.store.automations().disable(row, entry).await?;
            self.shared.audit.committed();
            self.unkept.shift();
        }
        Ok(())
    }

    async fn enable(&mut self, name: &str, why: &str, by: Actor) -> Result<Switched, AutomationFault> {
        let why = reason(why).ok_or(AutomationFault::Reason)?;
        let one = self.find(name)?;
        let changed = match disabled(&self.book.disabled, &one) {
            None => false,
            Some(row) => {
                let before = json!({ "automation": one.id, "enabled": false, "since": row.at, "by": row.by });
                // What the reserve still tells of would disable it again.
                self.settle().await?;
                let entry = self.shared.audit.entry(Deed {
                    persona: Some(one.persona.clone()),
                    runtime: Some(one.runtime.clone()),
                    why: Some(why.clone()),
                    before: Some(before),
                    after: Some(json!({ "automation": one.id, "enabled": true })),
                    ..Deed::new(by.clone(), AuditAction::AutomationEnabled)
                });
                self.shared.store.automations().enable(one.id.clone(), one.runtime.clone(), entry).await?;
                self.shared.audit.committed();
                self.book.disabled.retain(|row| row.automation != one.id && row.runtime != one.runtime);
                self.bars.set(barred(&self.book.registry, &self.book.disabled));
                if let Some(supervisor) = &self.shared.supervisor {
                    supervisor.reconsider();
                }
                tracing::info!(automation = %one.id, runtime = %one.runtime, %by, why, "an automation was enabled");
                let data = json!({
                    "automation": one.id, "runtime": one.runtime, "persona": one.persona, "by": by.as_str(),
                    "reason": why,
                });
                self.shared.events.publish(EventKind::AutomationEnabled, Some(one.id.as_str()), data);
                true
            }
        };
        Ok(self.switched(&one, changed))
    }

    fn switched(&self, one: &Automation, changed: bool) -> Switched {
        let supervisor = self.shared.supervisor.as_ref();
        let runtime = supervisor.and_then(|supervisor| supervisor.runtime(&one.runtime));
        let window = supervisor.and_then(|supervisor| supervisor.window(&one.runtime));
        let facts = Facts {
            view: runtime.as_ref(),
            disabled: disabled(&self.book.disabled, one),
            reported_at: self.book.reported_at.get(&one.id).copied(),
            reported: window.map(|window| self.totals.of(&one.runtime, window)).unwrap_or_default(),
            consent: None,
        };
        let house = House {
            latched: self.shared.gateway.latched(),
            schedules_halted: supervisor.is_some_and(Supervisor::schedules_halted),
        };
        Switched { changed, automation: view(one, &facts, &house) }
    }

    async fn report(&mut self, whose: &Whose, report: &UsageReport, by: Option<Actor>) -> Result<Usage, UsageFault> {
        let one = of(&self.book.registry, whose).cloned().ok_or(UsageFault::Unknown)?;
        report.examine(&one.budget)?;
        let supervisor = self.shared.supervisor.as_ref();
        let window = supervisor.and_then(|supervisor| supervisor.window(&one.runtime));
        let window = window.filter(WindowId::is_known).ok_or(UsageFault::NeverRan)?;
        let row = ReportRow {
            automation: one.id.clone(),
            report: report.report_id.clone(),
            window: window.to_string(),
            tokens: report.tokens,
            spend: report.spend,
            at: self.shared.clock.now(),
        };
        let entry = by.map(|by| {
            self.shared.audit.entry(Deed {
                persona: Some(one.persona.clone()),
                runtime: Some(one.runtime.clone()),
                after: Some(json!({
                    "automation": one.id, "report_id": report.report_id, "tokens": report.tokens, "spend": report.spend,
                })),
                ..Deed::new(by, AuditAction::UsageReported)
            })
        });
        let (sums, repeated) = match self.shared.store.automations().report(row, entry).await? {
            Taken::Kept(sums) => (sums, false),
            Taken::Known(sums) => (sums, true),
            Taken::Differs => return Err(UsageFault::Differs),
            Taken::TooMuch => return Err(UsageFault::TooMuch),
            Taken::OtherCurrency(expected) => {
                let found = report.spend.map_or(expected, Money::currency);
                return Err(UsageFault::Currency { expected, found });
            }
        };
        // Kept; from here on the account of the runtime sees it.
        self.totals.put(one.runtime.clone(), window, reported(&sums));
        self.book.reported_at.insert(one.id.clone(), self.shared.clock.now());
        self.shared.audit.committed();
        Ok(usage(&self.shared, &self.totals, &one, repeated))
    }

    /// Looks at every runtime, keeps what ran and tells it.
    async fn observe(&mut self) {
        let Some(supervisor) = self.shared.supervisor.clone() else { return };
        for view in supervisor.runtimes() {
            let known = self.known.get(&view.id).cloned().unwrap_or_default();
            let deaths = if known.missed(&view) {
                let (supervisor, id) = (supervisor.clone(), view.id.clone());
                let read = tokio::task::spawn_blocking(move || supervisor.deaths(&id, DEATHS)).await;
                read.ok().and_then(Result::ok).unwrap_or_default()
            } else {
                view.last_death.clone().into_iter().collect()
            };
            let reported_at = self.book.reported_at.get(&view.automation).copied();
            let known = self.known.entry(view.id.clone()).or_default();
            for news in known.look(&view, &deaths, reported_at) {
                self.tell(&view, news).await;
            }
        }
    }

    async fn tell(&self, view: &RuntimeView, news: News) {
        let kept = self.shared.store.automations();
        let (kind, run, more, written) = match news {
            News::Started { run, at } => {
                let row = RunRow {
                    automation: view.automation.clone(),
                    runtime: view.id.clone(),
                    run,
                    began_at: at,
                    ended: None,
                };
                (EventKind::AutomationRunStarted, run, json!({ "at": at }), kept.begin_run(row).await)
            }
            News::Stopped { run, began, at, cause } => {
                let written = kept.end_run(view.id.clone(), run, at, cause.code().to_owned()).await;
                // With its code or signal, where it has one.
                let mut more = json!(cause);
                (more["began"], more["at"]) = (json!(began), json!(at));
                (EventKind::AutomationRunStopped, run, more, written)
            }
            News::Heartbeat { run, at } => (EventKind::AutomationRunHeartbeat, run, json!({ "at": at }), Ok(())),
            News::Paused { run } => (EventKind::AutomationRunPaused, run, json!({}), Ok(())),
            News::Resumed { run } => (EventKind::AutomationRunResumed, run, json!({}), Ok(())),
        };
        if let Err(fault) = written {
            tracing::warn!(runtime = %view.id, run, %fault, "the history of runs lacks a line");
        }
        let mut data = json!({
            "automation": view.automation, "runtime": view.id, "persona": view.persona, "run": run,
        });
        if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
            data.extend(more);
        }
        self.shared.events.publish(kind, Some(view.automation.as_str()), data);
    }
}
