//! One runtime's owner: it feeds the runtime's life with what happens, and does what the effects say.
//!
//! ```text
//!  crew ──Order──▶ ┌────────────────────┐
//!  timer ────────▶ │ Keeper             │ ──effects──▶ launch, signal, kill, freeze, records, events
//!  watchers ─Told▶ │ owns Life, Running │ ◀───Told──── launcher thread, exit, probes, notify, watchdog, budget, killer
//!                  └────────────────────┘
//! ```
//!
//! One task owns the state; everything that waits (a launch, a probe, the end of a cgroup) is a task of its own that
//! tells the keeper and is bound to the run that it speaks of. A report about another run is dropped.
//!
//! Refuses: to launch when what must be on disk first could not be written, and to call a run ended while its cgroup has
//! a process.

mod account;
mod adoption;
mod effects;
mod gpu;
mod launching;
mod ports;
mod probe;
mod running;
mod slot;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::domain::Timestamp;
use crate::sandbox::Channel;

use super::life::{Event, Life, Origin, Policy, Report, State, Timer, step};
use super::manifest::RuntimeSpec;
use super::records::{Kept, RecordFault, Records};
use super::request::{Action, RequestFault};
use super::shared::Shared;
use super::spent::{BudgetKind, Spent, Window};

use self::effects::Durable;
use self::launching::Note;
pub(super) use running::{Remains, Running, Trouble};
pub(super) use slot::Slot;

/// Orders that may wait at one keeper: each is answered within a turn of its task.
const INBOX: usize = 64;

/// Reports of watchers that may wait. A flood of `sd_notify` messages waits in its socket instead.
const REPORTS: usize = 64;

/// What others want of a keeper.
#[derive(Debug)]
pub(super) enum Order {
    /// An operator asks.
    Ask(Action, oneshot::Sender<Result<(), RequestFault>>),
    /// A start is wanted; whether it may be was decided by the crew.
    Start(Origin),
    /// It is declared in another way now; whether what runs is to be launched anew.
    Declare(Arc<RuntimeSpec>, Relaunch),
    /// End it, within this grace or its own, and say when nothing of it lives any more.
    End(Option<Duration>, oneshot::Sender<()>),
}

/// Whether a new declaration needs a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relaunch {
    /// What runs goes on.
    No,
    /// What runs is ended and launched as it is declared now.
    IfRunning,
}

/// What watchers tell of a run.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) run: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// The launcher's answer.
    Launched(Result<Box<Running>, Trouble>),
    /// Something that the life goes by.
    Report(Report),
    /// Its budget is spent; which.
    Exhausted(BudgetKind),
    /// Its init had dropped its owner, and is heard over this channel again.
    Regained(Channel),
    /// What it says of itself (`STATUS=`).
    Status(String),
    /// Nothing of it lives any more; what it used and said last.
    Gone(Box<Remains>),
    /// It could not be held still, and why.
    NotFrozen(String),
}

/// The owner of one runtime.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    spec: Arc<RuntimeSpec>,
    policy: Policy,
    life: Life,
    kept: Kept,
    records: Records,
    spent: Spent,
    inbox: mpsc::Receiver<Order>,
    tell: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
    timer: Option<(Timer, Instant)>,
    running: Option<Box<Running>>,
    remains: Option<Box<Remains>>,
    /// Set by an effect that another one in the same turn depends on.
    unwritten: Option<String>,
    /// A state that may not be written yet, and that a launch of the same turn writes.
    writing: Option<Arc<Note>>,
    noted: Option<Arc<Note>>,
    /// What the effects of this turn lead to.
    follow: VecDeque<Event>,
    /// Who waits for nothing of it to live any more.
    waiting: Vec<oneshot::Sender<()>>,
    ports: ports::Ports,
}

/// A keeper at work.
#[derive(Debug)]
pub(super) struct Hand {
    /// Where it takes orders.
    pub(super) orders: mpsc::Sender<Order>,
    /// What others may see.
    pub(super) slot: Arc<Slot>,
    /// Its task.
    pub(super) task: JoinHandle<()>,
}

impl Keeper {
    /// Takes the runtime up: one that went on without the daemon is adopted.
    ///
    /// # Errors
    /// What is on disk of it cannot be read. It is not launched then: a restart window or a quarantine may stand there.
    pub(super) fn start(shared: &Arc<Shared>, spec: &Arc<RuntimeSpec>) -> Result<Hand, RecordFault> {
        let records = Records::open(&shared.folder, &spec.id)?;
        let kept = records.kept()?;
        let spent: Spent = records.spent()?;
        let last = records.deaths(1).unwrap_or_default().pop();
        let (orders, inbox) = mpsc::channel(INBOX);
        let (tell, told) = mpsc::channel(REPORTS);
        let life = Life::new(kept.life.clone());
        let slot = Arc::new(Slot::new(spec, &life, last, &records, shared));
        slot.set_spent(spent);
        let ports = ports::Ports::new(Arc::clone(&slot), orders.clone());
        let mut keeper = Self {
            shared: Arc::clone(shared),
            slot: Arc::clone(&slot),
            spec: Arc::clone(spec),
            policy: spec.policy(),
            life,
            kept,
            records,
            spent,
            inbox,
            tell,
            told,
            timer: None,
            running: None,
            remains: None,
            unwritten: None,
            writing: None,
            noted: None,
            follow: VecDeque::new(),
            waiting: Vec::new(),
            ports,
        };
        // Before the daemon says that it is up: who connects at that moment waits until the runtime was looked for. What
        // cannot be had is told then.
        let _ = keeper.ports.listen(&keeper.spec.publish);
        let task = tokio::spawn(async move {
            keeper.adopt().await;
            keeper.listen();
            keeper.ports.begin();
            keeper.keep().await;
        });
        Ok(Hand { orders, slot, task })
    }

    /// Until nobody gives orders any more. What runs goes on then: a later daemon adopts it.
    async fn keep(mut self) {
        loop {
            let timer = self.timer.map(|(_, at)| at);
            tokio::select! {
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                Some(told) = self.told.recv() => self.hear(told).await,
                () = sleep_until(timer) => {
                    if let Some((timer, _)) = self.timer.take() {
                        self.turn(Event::TimerFired(timer)).await;
                    }
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Ask(action, answer) => {
                let taken = self.ask(action).await;
                // The asker may have gone.
                let _ = answer.send(taken);
            }
            Order::Start(origin) => {
                // Whoever may connect to a port cannot undo what an operator decided.
                let held = self.kept.held && matches!(origin, Origin::Demand);
                match self.may_start(origin == Origin::Schedule) {
                    Ok(()) if !held => self.turn(Event::StartRequested(origin)).await,
                    Ok(()) => {
                        self.slot.set_detail(Some("an operator stopped it: a connection does not start it".to_owned()))
                    }
                    Err(fault) => tracing::debug!(runtime = %self.spec.id, %origin, %fault, "it is not started"),
                }
            }
            Order::Declare(spec, relaunch) => self.declare(spec, relaunch).await,
            Order::End(grace, done) => self.end(grace, done).await,
        }
    }

    async fn ask(&mut self, action: Action) -> Result<(), RequestFault> {
        let state = self.life.state();
        let refused = RequestFault::Refused { action, state };
        if matches!(action, Action::Start | Action::Restart | Action::Restore) {
            self.may_start(true)?;
        }
        let event = match (action, state) {
            (Action::Start | Action::Restart, State::Quarantined) => return Err(refused),
            (Action::Freeze, State::Ready | State::Degraded) => {
                if let Some(reason) = self.running.as_ref().and_then(|running| running.group.reason()) {
                    return Err(RequestFault::Unavailable(format!("it cannot be held still: {reason}")));
                }
                Event::Freeze
            }
            (Action::Freeze, State::Frozen) => return Ok(()),
            (Action::Thaw, State::Frozen) => Event::Thaw,
            (Action::Freeze | Action::Thaw, _) => return Err(refused),
            (Action::Start, _) => Event::StartRequested(Origin::Operator),
            (Action::Stop, _) => Event::StopRequested,
            (Action::Restart, _) => Event::RestartRequested,
            (Action::Restore, _) => Event::Restore,
        };
        let held = action == Action::Stop;
        if self.kept.held != held && !matches!(action, Action::Freeze | Action::Thaw) {
            self.kept.held = held;
            // Held after all, if the power is cut in that moment, is what an operator can undo.
            self.persist(if held { Durable::First } else { Durable::Soon }).await;
        }
        self.turn(event).await;
        Ok(())
    }

    /// Whether it may be started at all; `fresh`: in a window of its own, where its budgets count by run.
    fn may_start(&self, fresh: bool) -> Result<(), RequestFault> {
        if self.shared.is_shut() {
            return Err(RequestFault::Shut);
        }
        if self.shared.bars.holds(&self.spec.id) {
            return Err(RequestFault::Disabled);
        }
        let window = self.spec.budget.window;
        // What runs ends by its account; a start is refused where it would end at once.
        if self.life.run().is_some() || (fresh && window == Window::Run) {
            return Ok(());
        }
        let spent = self.spent.at(window, self.now());
        let rows = spent.rows(&self.spec.budget, self.shared.reports.of(&self.spec.id, spent.window()));
        match rows.iter().find(|row| row.is_spent()) {
            Some(row) => Err(RequestFault::BudgetExhausted { kind: row.kind, until: spent.window().end() }),
            None => Ok(()),
        }
    }

    async fn declare(&mut self, spec: Arc<RuntimeSpec>, relaunch: Relaunch) {
        self.policy = spec.policy();
        self.spec = spec;
        self.slot.declare(&self.spec);
        self.listen();
        let errs = self.life.state() == State::Error;
        let runs = self.life.run().is_some();
        if relaunch == Relaunch::IfRunning && (runs || errs) {
            self.turn(Event::RestartRequested).await;
        } else if let Some(running) = &mut self.running {
            // Budgets may have changed.
            running.account(&self.spec, &self.tell);
        }
    }

    /// Ends it for good.
    async fn end(&mut self, grace: Option<Duration>, done: oneshot::Sender<()>) {
        if let Some(grace) = grace {
            self.policy.stop_grace = grace;
        }
        self.waiting.push(done);
        // By the kill switch an operator has stopped it, running or not.
        let holds = self.shared.is_shut() && !self.kept.held;
        self.kept.held |= holds;
        let asked = self.life.state() == State::Stopping;
        self.turn(Event::StopRequested).await;
        if holds {
            self.persist(Durable::Soon).await;
        }
        if asked && self.policy.stop_grace < self.spec.policy().stop_grace {
            self.turn(Event::Hastened).await;
        }
        self.policy = self.spec.policy();
    }

    async fn hear(&mut self, told: Told) {
        let Told { run, what } = told;
        if self.life.run() != Some(run) {
            return;
        }
        let report = match what {
            What::Report(report) => report,
            What::Launched(Ok(mut running)) => {
                running.attend(&self.spec, &self.tell);
                self.slot.begin(&running, &self.spec);
                self.running = Some(running);
                Report::Launched
            }
            What::Launched(Err(trouble)) => {
                tracing::warn!(runtime = %self.spec.id, run, reason = %trouble.reason, "a runtime was not launched");
                self.slot.set_detail(Some(trouble.reason));
                Report::LaunchFailed(trouble.fault)
            }
            What::Gone(remains) => {
                // What was held of it goes now, and not at the next launch.
                self.spent = self.running.take().map_or(self.spent, |running| running.account.settled(&remains));
                self.slot.set_spent(self.spent);
                self.save_spent().await;
                self.remains = Some(remains);
                Report::KillDone
            }
            What::Regained(channel) => {
                tracing::warn!(runtime = %self.spec.id, run, "the init of a runtime had dropped its owner and has it again");
                if let Some(running) = &mut self.running {
                    self.slot.regain(&channel);
                    running.regain(channel, &self.spec, self.life.state(), &self.tell);
                }
                return;
            }
            What::Status(status) => return self.slot.set_detail(Some(status)),
            What::Exhausted(kind) => {
                self.slot.set_detail(Some(format!("its budget of `{kind}` is spent")));
                return self.turn(Event::BudgetExhausted).await;
            }
            What::NotFrozen(why) => {
                self.slot.set_detail(Some(why));
                return self.turn(Event::Thaw).await;
            }
        };
        self.turn(Event::Process { run, report }).await;
    }

    /// One event, its effects, and the events that those lead to.
    async fn turn(&mut self, event: Event) {
        self.follow.push_back(event);
        while let Some(event) = self.follow.pop_front() {
            let now = self.now();
            let (life, effects) = step(self.life.clone(), event, &self.policy, now, &mut draw);
            self.life = life;
            self.perform_all(effects).await;
        }
        self.after();
    }

    /// What others see after a turn.
    fn after(&mut self) {
        self.slot.update(&self.life, &self.policy, self.timer, self.now());
        if self.life.run().is_none() {
            for waiting in self.waiting.drain(..) {
                let _ = waiting.send(());
            }
        }
        self.shared.progressed(&self.spec.id, self.life.progress());
        self.shared.seen.send_modify(|count| *count += 1);
    }

    fn listen(&mut self) {
        if let Err(why) = self.ports.listen(&self.spec.publish) {
            tracing::error!(runtime = %self.spec.id, "{why}");
            self.slot.set_detail(Some(why));
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A random number of `0..=most`, for spreading restarts; a bias of 2^-64 does not matter there.
fn draw(most: u64) -> u64 {
    let mut random = [0_u8; 8];
    // Without random bytes every wait is the longest.
    if getrandom::fill(&mut random).is_err() {
        return most;
    }
    most.checked_add(1).map_or(u64::from_ne_bytes(random), |count| u64::from_ne_bytes(random) % count)
}
