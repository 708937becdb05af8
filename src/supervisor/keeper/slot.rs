//! What others may see and use of a runtime while its keeper owns it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::domain::{Clock, Timestamp};
use crate::proxy::RuntimeGuard;
use crate::sandbox::cgroup::Leaf;
use crate::sandbox::{Channel, Text};

use super::super::death::DeathRecord;
use super::super::exec::{ExecFault, Execution, MAX_COMMANDS};
use super::super::launch::Confinement;
use super::super::life::{HealthReason, Life, Policy, State, Timer, TimerKind};
use super::super::manifest::{Budget, RuntimeSpec};
use super::super::records::Records;
use super::super::shared::Shared;
use super::super::spent::{Reports, Spent, WindowId};
use super::super::view::{Denied, EgressView, Restarts, RuntimeView, UsageView};
use super::Running;
use super::account::Account;
use super::gpu::Gpus;
use super::running::Beat;

/// One runtime, as others see it. Nothing in here waits.
#[derive(Debug)]
pub(in super::super) struct Slot {
    shown: Mutex<Shown>,
    state: watch::Sender<State>,
    /// Commands of operators that may run besides.
    commands: Arc<Semaphore>,
    pub(in super::super) records: Records,
    clock: Arc<dyn Clock>,
    reports: Reports,
}

#[derive(Debug)]
struct Shown {
    view: RuntimeView,
    confinement: Option<Confinement>,
    live: Option<Live>,
    /// What its budgets are, and what was spent of them before the run that lives.
    budget: Budget,
    spent: Spent,
}

/// Handles of the run that lives.
#[derive(Debug, Clone)]
struct Live {
    channel: Channel,
    leaf: Option<Arc<Leaf>>,
    guard: Arc<RuntimeGuard>,
    account: Arc<Account>,
    gpus: Arc<Gpus>,
    beat: Arc<Beat>,
}

impl Slot {
    pub(super) fn new(
        spec: &RuntimeSpec,
        life: &Life,
        last: Option<DeathRecord>,
        records: &Records,
        shared: &Shared,
    ) -> Self {
        let now = shared.clock.now();
        let view = RuntimeView {
            id: spec.id.clone(),
            name: String::new(),
            automation: spec.automation.clone(),
            persona: spec.persona.clone(),
            profile: spec.profile,
            preset: spec.preset,
            claim: None,
            accelerator: spec.accelerator,
            tags: Vec::new(),
            auto_start: false,
            state: life.state(),
            since: now,
            health: HealthReason::Well,
            detail: None,
            run: None,
            pid: None,
            started_at: None,
            restarts: Restarts { used: 0, max: spec.restart_max, window_secs: spec.restart_window.as_secs(), total: 0 },
            schedule: None,
            next_start: None,
            waits_for: Vec::new(),
            publish: Vec::new(),
            last_death: last,
            egress: None,
            denied: Vec::new(),
            heartbeat_at: None,
            window: None,
            budget: Vec::new(),
            gpus: Vec::new(),
            usage: None,
            throttled_by_host: None,
        };
        let shown = Shown { view, confinement: None, live: None, budget: spec.budget, spent: Spent::default() };
        let slot = Self {
            shown: Mutex::new(shown),
            state: watch::Sender::new(life.state()),
            commands: Arc::new(Semaphore::new(MAX_COMMANDS)),
            records: records.clone(),
            clock: Arc::clone(&shared.clock),
            reports: shared.reports.clone(),
        };
        slot.declare(spec);
        slot
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without what takes reading files.
    pub(in super::super) fn view(&self) -> RuntimeView {
        let shown = self.shown();
        let mut view = shown.view.clone();
        let window = match &shown.live {
            Some(live) => {
                view.egress = Some(EgressView::of(&live.guard));
                let denied = live.guard.denials_lately().into_iter();
                view.denied = denied.map(|(code, count)| Denied { code, count }).collect();
                view.heartbeat_at = live.beat.heartbeat();
                view.budget = live.account.view();
                view.budget.extend(live.gpus.budget());
                view.gpus = live.gpus.view();
                live.account.window()
            }
            None => {
                let spent = shown.spent.at(shown.budget.window, self.clock.now());
                view.budget = spent.rows(&shown.budget, self.reports.of(&view.id, spent.window()));
                spent.window()
            }
        };
        view.window = window.is_known().then(|| window.to_string());
        view
    }

    /// The window that its budgets count in now.
    pub(in super::super) fn window(&self) -> WindowId {
        let shown = self.shown();
        match &shown.live {
            Some(live) => live.account.window(),
            None => shown.spent.at(shown.budget.window, self.clock.now()).window(),
        }
    }

    /// What was spent, while nothing of it runs.
    pub(super) fn set_spent(&self, spent: Spent) {
        self.shown().spent = spent;
    }

    /// With what it uses of the host. Reads files.
    pub(in super::super) fn measured(&self) -> RuntimeView {
        let mut view = self.view();
        let leaf = self.shown().live.as_ref().and_then(|live| live.leaf.clone());
        view.usage = leaf.map(|leaf| UsageView::of(&leaf));
        view
    }

    pub(in super::super) fn confinement(&self) -> Option<Confinement> {
        self.shown().confinement.clone()
    }

    /// The leaf of the run that lives.
    pub(in super::super) fn leaf(&self) -> Option<Arc<Leaf>> {
        self.shown().live.as_ref().and_then(|live| live.leaf.clone())
    }

    /// The channel to the run that lives.
    pub(super) fn channel(&self) -> Option<Channel> {
        self.shown().live.as_ref().map(|live| live.channel.clone())
    }

    /// Follows the state.
    pub(super) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Runs one more command beside the runtime's own.
    pub(in super::super) async fn exec(&self, argv: Vec<Text>, time: Duration) -> Result<Execution, ExecFault> {
        let state = *self.state.borrow();
        // What is held still or being ended takes no orders; the rest is known by whether it has a channel.
        let takes_orders = !matches!(state, State::Frozen | State::Stopping);
        let channel = self.channel().filter(|_| takes_orders).ok_or(ExecFault::NotRunning(state))?;
        let place = Arc::clone(&self.commands).try_acquire_owned().map_err(|_| ExecFault::Crowded)?;
        Execution::start(&channel, argv, time, place).await
    }

    pub(super) fn declare(&self, spec: &RuntimeSpec) {
        let mut shown = self.shown();
        shown.budget = spec.budget;
        let view = &mut shown.view;
        view.automation = spec.automation.clone();
        view.schedule = spec.schedule.as_ref().map(ToString::to_string);
        view.name.clone_from(&spec.name);
        view.persona = spec.persona.clone();
        view.profile = spec.profile;
        view.preset = spec.preset;
        view.accelerator = spec.accelerator;
        view.tags.clone_from(&spec.tags);
        view.auto_start = spec.auto_start;
        view.publish = spec.publish.iter().map(ToString::to_string).collect();
    }

    /// A run lives.
    pub(super) fn begin(&self, running: &Running, spec: &RuntimeSpec) {
        let mut shown = self.shown();
        shown.view.claim = Some(running.confinement.claim.clone());
        shown.view.profile = spec.profile;
        shown.view.pid = Some(running.channel.pid());
        shown.view.started_at = Some(running.began);
        shown.view.detail = None;
        shown.confinement = Some(running.confinement.clone());
        shown.live = Some(Live {
            channel: running.channel.clone(),
            leaf: running.group.leaf().cloned(),
            guard: Arc::clone(&running.guard),
            account: Arc::clone(&running.account),
            gpus: Arc::clone(&running.gpus),
            beat: Arc::clone(&running.beat),
        });
    }

    /// Its init is heard over another channel.
    pub(super) fn regain(&self, channel: &Channel) {
        if let Some(live) = &mut self.shown().live {
            live.channel = channel.clone();
        }
    }

    /// It has let go of its network and is being killed; what is asked of it from now on is answered by nobody.
    pub(super) fn finish(&self) {
        let mut shown = self.shown();
        if let Some(live) = shown.live.take() {
            shown.spent = live.account.spent();
        }
        shown.view.pid = None;
        shown.view.egress = None;
        shown.view.throttled_by_host = None;
    }

    pub(super) fn bury(&self, record: DeathRecord) {
        let mut shown = self.shown();
        shown.view.started_at = None;
        shown.view.last_death = Some(record);
    }

    /// It is started again.
    pub(super) fn count_restart(&self) {
        self.shown().view.restarts.total += 1;
    }

    pub(super) fn set_health(&self, reason: HealthReason) {
        self.shown().view.health = reason;
    }

    pub(super) fn set_detail(&self, detail: Option<String>) {
        self.shown().view.detail = detail;
    }

    pub(in super::super) fn set_throttled(&self, why: Option<String>) {
        self.shown().view.throttled_by_host = why;
    }

    pub(in super::super) fn set_waits(&self, waits_for: Vec<String>) {
        self.shown().view.waits_for = waits_for;
    }

    pub(in super::super) fn set_next(&self, next: Option<Timestamp>) {
        self.shown().view.next_start = next;
    }

    /// After a turn of the machine.
    pub(super) fn update(&self, life: &Life, policy: &Policy, timer: Option<(Timer, Instant)>, now: Timestamp) {
        let state = life.state();
        {
            let view = &mut self.shown().view;
            if view.state != state {
                view.since = now;
                view.state = state;
            }
            view.run = life.run();
            let used = life.saved().restarts.count(now, policy.window);
            let (max, window_secs, total) = (policy.max_restarts, policy.window.as_secs(), view.restarts.total);
            view.restarts = Restarts { used, max, window_secs, total };
            let backoff = timer.filter(|(timer, _)| timer.kind == TimerKind::Backoff);
            if let Some((_, at)) = backoff {
                view.next_start = Some(now.plus(at.saturating_duration_since(Instant::now())));
            } else if state != State::Stopped {
                view.next_start = None;
            }
        }
        self.state.send_if_modified(|shown| std::mem::replace(shown, state) != state);
    }
}

impl EgressView {
    fn of(guard: &RuntimeGuard) -> Self {
        let used = guard.egress();
        Self {
            bytes_up: used.bytes_up,
            bytes_down: used.bytes_down,
            requests: used.requests,
            denials: used.denials,
            open: used.open,
        }
    }
}
