//! What a runtime's budgets have paid while it runs, and when one is spent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::{AutomationId, Clock, RuntimeId, Timestamp};
use crate::events::{EventBus, EventKind};
use crate::proxy::{EgressSpent, RuntimeGuard};
use crate::sandbox::cgroup::Leaf;

use super::super::manifest::{Budget, GpuChoice, RuntimeSpec};
use super::super::records::Records;
use super::super::spent::{BudgetKind, Metered, Reports, Spent, Sums, Window, WindowId, micros};
use super::super::view::BudgetView;
use super::{Remains, Told, What};

/// Between two looks at the most: what the view shows is at most that old, and a window ends at most that late.
const LONGEST: Duration = Duration::from_secs(5);
/// Between two looks at the least: a budget is overdrawn by what is used in that time.
const SHORTEST: Duration = Duration::from_millis(100);
/// How often what was spent is put on disk: a killed daemon forgets that much of the traffic, and nothing of CPU and wall
/// time, which the kernel and the clock know.
const SAVE: Duration = Duration::from_secs(10);

/// The budgets of the run that lives.
#[derive(Debug)]
pub(super) struct Account {
    id: RuntimeId,
    state: Mutex<State>,
    began: Timestamp,
    clock: Arc<dyn Clock>,
    leaf: Option<Arc<Leaf>>,
    guard: Arc<RuntimeGuard>,
    reports: Reports,
    gpus: u64,
    /// Traffic of the run that was counted by a daemon before this one.
    earlier: (u64, u64),
}

#[derive(Debug)]
struct State {
    automation: AutomationId,
    budget: Budget,
    spent: Spent,
}

/// What an [`Account`] is made of.
pub(super) struct Parts {
    pub(super) spent: Spent,
    pub(super) began: Timestamp,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) leaf: Option<Arc<Leaf>>,
    pub(super) guard: Arc<RuntimeGuard>,
    pub(super) reports: Reports,
}

/// How many GPUs it has.
pub(super) fn gpus(spec: &RuntimeSpec) -> u64 {
    spec.gpu.as_ref().map_or(0, |gpu| match &gpu.choice {
        GpuChoice::Count(count) => u64::from(*count),
        GpuChoice::Uuids(uuids) => uuids.len() as u64,
    })
}

impl Account {
    pub(super) fn new(spec: &RuntimeSpec, parts: Parts) -> Self {
        let Parts { spent, began, clock, leaf, guard, reports } = parts;
        let earlier = (spent.of_run().egress, spent.of_run().requests);
        let state = State { automation: spec.automation.clone(), budget: spec.budget, spent };
        let (id, gpus) = (spec.id.clone(), gpus(spec));
        Self { id, state: Mutex::new(state), began, clock, leaf, guard, reports, gpus, earlier }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes by what is declared now.
    pub(super) fn declare(&self, spec: &RuntimeSpec) {
        let mut state = self.state();
        state.automation = spec.automation.clone();
        state.budget = spec.budget;
        let rows = self.rows(&state);
        state.spent.rearm(&rows);
    }

    /// Bytes and requests of the run so far.
    pub(super) fn traffic(&self) -> (u64, u64) {
        let used = self.guard.egress();
        let bytes = used.bytes_up.saturating_add(used.bytes_down);
        (self.earlier.0.saturating_add(bytes), self.earlier.1.saturating_add(used.requests))
    }

    /// Looks at everything that is metered; reads a file. A window that is over ends here.
    fn measure(&self) -> Spent {
        let cpu = self.leaf.as_ref().and_then(|leaf| leaf.usage().cpu_seconds);
        let (egress, requests) = self.traffic();
        let now = self.clock.now();
        let lived = micros(now.since(self.began));
        let mut state = self.state();
        let known = state.spent.of_run();
        let cpu_micros = cpu.map_or(known.cpu_micros, |seconds| micros(Duration::from_secs_f64(seconds.max(0.0))));
        let run =
            Sums { wall_micros: lived, cpu_micros, gpu_micros: lived.saturating_mul(self.gpus), egress, requests };
        // The clock may have been put back; what was spent stays spent.
        state.spent.measure(run.most(known), Metered { cpu: self.leaf.is_some(), gpu: self.gpus > 0 });
        let window = state.budget.window;
        if state.spent.roll(window, now) {
            // What passes between the count and this is not in the new window: the next look has it again.
            self.guard.set_spent(EgressSpent::default());
        }
        state.spent
    }

    /// What was spent when the run ended.
    pub(super) fn settled(&self, remains: &Remains) -> Spent {
        let mut spent = self.state().spent;
        let lived = micros(remains.lived);
        let run = Sums {
            wall_micros: lived,
            cpu_micros: remains.used.cpu_micros.unwrap_or(0),
            gpu_micros: lived.saturating_mul(self.gpus),
            egress: remains.traffic.0,
            requests: remains.traffic.1,
        };
        let metered = Metered { cpu: self.leaf.is_some(), gpu: self.gpus > 0 };
        spent.measure(run.most(spent.of_run()), metered);
        spent.end_run();
        spent
    }

    pub(super) fn spent(&self) -> Spent {
        self.state().spent
    }

    pub(super) fn window(&self) -> WindowId {
        self.state().spent.window()
    }

    pub(super) fn view(&self) -> Vec<BudgetView> {
        self.rows(&self.state())
    }

    fn rows(&self, state: &State) -> Vec<BudgetView> {
        state.spent.rows(&state.budget, self.reports.of(&self.id, state.spent.window()))
    }

    /// Marks that were passed since the last look.
    fn passed(&self, view: &[BudgetView]) -> (AutomationId, Vec<(EventKind, BudgetView)>, Spent) {
        let mut state = self.state();
        let passed = state.spent.pass(view);
        (state.automation.clone(), passed, state.spent)
    }

    /// When to look again: no budget can be overdrawn by more than a moment until then.
    fn next_look(&self, view: &[BudgetView]) -> Duration {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
        let left = view.iter().filter_map(|row| {
            let left = || Some(row.limit.saturating_sub(row.used?));
            match row.kind {
                BudgetKind::WallTime => left().map(Duration::from_micros),
                BudgetKind::CpuTime => left().map(|left| Duration::from_micros(left / cpus)),
                BudgetKind::GpuTime => left().map(|left| Duration::from_micros(left / self.gpus.max(1))),
                // Looked at by itself.
                BudgetKind::GpuMemory => None,
                // The gateway holds the first two by itself; the others are told by whoever spends them.
                BudgetKind::Egress | BudgetKind::Requests | BudgetKind::Tokens | BudgetKind::Spend => {
                    Some(Duration::from_secs(1))
                }
            }
        });
        let state = self.state();
        let window = match state.budget.window {
            Window::Run => None,
            Window::Every(_) => state.spent.window().end().map(|end| end.since(self.clock.now())),
        };
        left.chain(window).min().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
    }
}

/// Watches the budgets of one run until one is spent.
pub(super) async fn watch(
    account: Arc<Account>,
    run: u64,
    records: Records,
    events: EventBus,
    tell: mpsc::Sender<Told>,
) {
    let id = account.id.clone();
    let mut saved = tokio::time::Instant::now();
    loop {
        account.measure();
        let view = account.view();
        let (automation, passed, spent) = account.passed(&view);
        for (kind, row) in &passed {
            let mut data = serde_json::json!({
                "automation": automation, "runtime": id, "run": run, "window": spent.window().to_string(),
                "kind": row.kind, "used": row.used, "limit": row.limit, "ratio": row.ratio,
            });
            if let Some(currency) = row.currency {
                data["currency"] = serde_json::json!(currency);
            }
            events.publish(*kind, Some(automation.as_str()), data);
        }
        if let Some(row) = view.iter().find(|row| row.is_spent()) {
            // Told before anything waits for the disk; the keeper writes down what was spent when the run has ended.
            let _ = tell.send(Told { run, what: What::Exhausted(row.kind) }).await;
            return;
        }
        // What was told is kept, so that a later daemon does not tell it again.
        if saved.elapsed() >= SAVE || !passed.is_empty() {
            saved = tokio::time::Instant::now();
            let records = records.clone();
            let written = tokio::task::spawn_blocking(move || records.spend(&spent)).await;
            if let Ok(Err(fault)) = written {
                tracing::warn!(runtime = %id, %fault, "what was spent could not be written down");
            }
        }
        tokio::time::sleep(account.next_look(&view)).await;
    }
}
