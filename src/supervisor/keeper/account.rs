//! What a runtime's budgets have paid, and when one is spent.
//!
//! A stretch begins with a start that somebody asked for (an operator, the clock, a restore) and goes on over automatic
//! restarts and restarts of the daemon: neither is a way to a fresh budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::domain::{Clock, RuntimeId, Timestamp};
use crate::events::{EventBus, EventKind};
use crate::proxy::{EgressSpent, RuntimeGuard};
use crate::sandbox::cgroup::Leaf;

use super::super::manifest::Budget;
use super::super::records::Records;
use super::super::view::BudgetView;
use super::{Remains, Told, What};

/// Between two looks at the most: what the view shows is at most that old.
const LONGEST: Duration = Duration::from_secs(5);
/// Between two looks at the least: a budget is overdrawn by what is used in that time.
const SHORTEST: Duration = Duration::from_millis(100);
/// How often what was spent is put on disk: a killed daemon forgets that much of the traffic, and nothing of CPU and wall
/// time, which the kernel and the clock know.
const SAVE: Duration = Duration::from_secs(10);
/// Shares at which the operator hears of a budget, in hundredths.
const MARKS: [(u64, EventKind); 3] = [
    (70, EventKind::AutomationBudgetWarning),
    (90, EventKind::AutomationBudgetEscalated),
    (100, EventKind::AutomationBudgetExhausted),
];

/// What was spent in a stretch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Spent {
    /// In runs of the stretch that have ended.
    before: Sums,
    /// In the present one, as far as it was written down.
    run: Sums,
}

/// Sums of one or more runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sums {
    wall_micros: u64,
    cpu_micros: u64,
    egress: u64,
    requests: u64,
}

impl Sums {
    const fn plus(self, other: Self) -> Self {
        Self {
            wall_micros: self.wall_micros.saturating_add(other.wall_micros),
            cpu_micros: self.cpu_micros.saturating_add(other.cpu_micros),
            egress: self.egress.saturating_add(other.egress),
            requests: self.requests.saturating_add(other.requests),
        }
    }
}

impl Spent {
    /// What went through the gateway in the stretch so far: the gateway counts on from there.
    pub(super) const fn traffic(&self) -> EgressSpent {
        let all = self.before.plus(self.run);
        EgressSpent { bytes: all.egress, requests: all.requests }
    }

    /// A new run of the same stretch.
    pub(super) fn next_run(&mut self) {
        self.before = self.before.plus(self.run);
        self.run = Sums::default();
    }

    /// The run has ended.
    pub(super) fn settle(&mut self, remains: &Remains) {
        self.run = Sums {
            wall_micros: micros(remains.lived),
            cpu_micros: remains.used.cpu_micros.unwrap_or(self.run.cpu_micros),
            egress: self.run.egress.max(remains.traffic.0),
            requests: self.run.requests.max(remains.traffic.1),
        };
        self.next_run();
    }
}

/// The budgets of the run that lives.
#[derive(Debug)]
pub(super) struct Account {
    state: Mutex<State>,
    began: Timestamp,
    clock: Arc<dyn Clock>,
    leaf: Option<Arc<Leaf>>,
    guard: Arc<RuntimeGuard>,
    /// Traffic of the run that was counted by a daemon before this one.
    earlier: (u64, u64),
}

#[derive(Debug)]
struct State {
    budget: Budget,
    spent: Spent,
    /// Of each budget, how many of the marks were told.
    told: [usize; 4],
}

impl Account {
    pub(super) fn new(
        budget: Budget,
        spent: Spent,
        began: Timestamp,
        clock: Arc<dyn Clock>,
        leaf: Option<Arc<Leaf>>,
        guard: Arc<RuntimeGuard>,
    ) -> Self {
        let earlier = (spent.run.egress, spent.run.requests);
        Self { state: Mutex::new(State { budget, spent, told: [0; 4] }), began, clock, leaf, guard, earlier }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_budget(&self, budget: Budget) {
        self.state().budget = budget;
    }

    /// Bytes and requests of the run so far.
    pub(super) fn traffic(&self) -> (u64, u64) {
        let used = self.guard.egress();
        let bytes = used.bytes_up.saturating_add(used.bytes_down);
        (self.earlier.0.saturating_add(bytes), self.earlier.1.saturating_add(used.requests))
    }

    /// Looks at everything that is metered; reads a file.
    fn measure(&self) -> Spent {
        let cpu = self.leaf.as_ref().and_then(|leaf| leaf.usage().cpu_seconds);
        let (egress, requests) = self.traffic();
        let lived = self.clock.now().since(self.began);
        let mut state = self.state();
        let run = &mut state.spent.run;
        *run = Sums {
            wall_micros: micros(lived),
            cpu_micros: cpu.map_or(run.cpu_micros, |seconds| micros(Duration::from_secs_f64(seconds.max(0.0)))),
            egress: run.egress.max(egress),
            requests: run.requests.max(requests),
        };
        state.spent
    }

    pub(super) fn view(&self) -> Vec<BudgetView> {
        let metered_cpu = self.leaf.is_some();
        let state = self.state();
        let all = state.spent.before.plus(state.spent.run);
        let Budget { wall_time, cpu_time, gpu_time, egress, requests, tokens } = state.budget;
        let rows = [
            ("wall_time", Some(all.wall_micros), wall_time.map(micros)),
            ("cpu_time", metered_cpu.then_some(all.cpu_micros), cpu_time.map(micros)),
            ("gpu_time", None, gpu_time.map(micros)),
            ("egress", Some(all.egress), egress),
            ("requests", Some(all.requests), requests),
            ("tokens", None, tokens),
        ];
        rows.into_iter().filter_map(|(kind, used, limit)| Some(BudgetView::new(kind, used, limit?))).collect()
    }

    /// Marks that were passed since the last look.
    fn passed(&self, view: &[BudgetView]) -> Vec<(EventKind, BudgetView)> {
        const KINDS: [&str; 4] = ["wall_time", "cpu_time", "egress", "requests"];
        let mut state = self.state();
        let mut passed = Vec::new();
        for (kind, told) in KINDS.iter().zip(&mut state.told) {
            let Some(row) = view.iter().find(|row| row.kind == *kind) else { continue };
            let percent = row.ratio.map_or(0, |ratio| (ratio * 100.0) as u64);
            while let Some((mark, event)) = MARKS.get(*told).filter(|(mark, _)| percent >= *mark) {
                let _ = mark;
                passed.push((*event, *row));
                *told += 1;
            }
        }
        passed
    }

    /// When to look again: no budget can be overdrawn by more than a moment until then.
    fn next_look(view: &[BudgetView]) -> Duration {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
        let left = view.iter().filter_map(|row| {
            let left = row.limit.saturating_sub(row.used?);
            match row.kind {
                "wall_time" => Some(Duration::from_micros(left)),
                "cpu_time" => Some(Duration::from_micros(left / cpus)),
                // The gateway holds these by itself, and is asked once a second.
                "egress" | "requests" => Some(Duration::from_secs(1)),
                _ => None,
            }
        });
        left.min().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
    }
}

/// Watches the budgets of one run until one is spent.
pub(super) async fn watch(
    account: Arc<Account>,
    id: RuntimeId,
    run: u64,
    records: Records,
    events: EventBus,
    tell: mpsc::Sender<Told>,
) {
    let mut saved = tokio::time::Instant::now();
    loop {
        let spent = account.measure();
        let view = account.view();
        for (kind, row) in account.passed(&view) {
            let data = serde_json::json!({"runtime": id, "run": run, "kind": row.kind, "used": row.used, "limit": row.limit, "ratio": row.ratio});
            events.publish(kind, Some(id.as_str()), data);
        }
        if let Some(row) = view.iter().find(|row| row.ratio.is_some_and(|ratio| ratio >= 1.0)) {
            let _ = tell.send(Told { run, what: What::Exhausted(row.kind) }).await;
            return;
        }
        if saved.elapsed() >= SAVE {
            saved = tokio::time::Instant::now();
            let records = records.clone();
            let written = tokio::task::spawn_blocking(move || records.spend(&spent)).await;
            if let Ok(Err(fault)) = written {
                tracing::warn!(runtime = %id, %fault, "what was spent could not be written down");
            }
        }
        tokio::time::sleep(Account::next_look(&view)).await;
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
