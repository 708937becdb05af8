//! What others see of a runtime.

use serde::Serialize;

use crate::domain::{AutomationId, Currency, DenialCode, PersonaId, RuntimeId, Timestamp};
use crate::sandbox::cgroup::{Leaf, Psi};
use crate::sandbox::preset::Claim;

use super::death::DeathRecord;
use super::life::{HealthReason, State};
use super::names::Accelerator;
use super::spent::BudgetKind;
use crate::sandbox::ProfileName;
use crate::sandbox::preset::PresetName;

/// One runtime at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct RuntimeView {
    /// Its id.
    pub id: RuntimeId,
    /// The automation that it is run for.
    pub automation: AutomationId,
    /// What people call it.
    pub name: String,
    /// Who its traffic leaves as.
    pub persona: PersonaId,
    /// Its confinement.
    pub profile: ProfileName,
    /// The limits that were asked for.
    pub preset: PresetName,
    /// What may be claimed of them; `None` before the first launch.
    pub claim: Option<Claim>,
    /// What it computes on.
    pub accelerator: Accelerator,
    /// For finding it.
    pub tags: Vec<String>,
    /// Whether it starts with the daemon.
    pub auto_start: bool,
    /// Its state.
    pub state: State,
    /// When it entered that state.
    pub since: Timestamp,
    /// How it is.
    pub health: HealthReason,
    /// One sentence for a person: why a launch was refused, or what the runtime says of itself.
    pub detail: Option<String>,
    /// The run of which a process may live.
    pub run: Option<u64>,
    /// The process id of its init, as the host sees it.
    pub pid: Option<i32>,
    /// When that run was launched.
    pub started_at: Option<Timestamp>,
    /// How much of its restart budget is used.
    pub restarts: Restarts,
    /// When the clock starts it, as it was declared.
    pub schedule: Option<String>,
    /// When it starts next by itself.
    pub next_start: Option<Timestamp>,
    /// What it waits for before it starts, as in the manifest.
    pub waits_for: Vec<String>,
    /// Ports that the host can reach.
    pub publish: Vec<String>,
    /// How the last run ended.
    pub last_death: Option<DeathRecord>,
    /// What left and came in this run.
    pub egress: Option<EgressView>,
    /// What was denied to this run in the last minutes.
    pub denied: Vec<Denied>,
    /// When it last gave a sign of life by `sd_notify`.
    pub heartbeat_at: Option<Timestamp>,
    /// The window that its budgets count in; `None` before the first.
    pub window: Option<String>,
    /// What it has used up of what it may.
    pub budget: Vec<BudgetView>,
    /// Its GPUs in this run, as they were last read.
    pub gpus: Vec<GpuView>,
    /// What it uses of the host; only where it was asked for.
    pub usage: Option<UsageView>,
    /// Why it has less CPU than its preset gives, while that is so.
    pub throttled_by_host: Option<String>,
}

/// Denials of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Denied {
    /// Why.
    pub code: DenialCode,
    /// How many.
    pub count: u64,
}

/// The restart budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Restarts {
    /// Restarts that count now.
    pub used: usize,
    /// Most of them within the window.
    pub max: usize,
    /// The window, in seconds.
    pub window_secs: u64,
    /// Restarts since this daemon came up, whatever became of the budget.
    pub total: u64,
}

/// What went through the gateway in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EgressView {
    /// Bytes that left.
    pub bytes_up: u64,
    /// Bytes that came.
    pub bytes_down: u64,
    /// Requests to leave that were granted.
    pub requests: u64,
    /// Requests to leave that were denied.
    pub denials: u64,
    /// Tunnels and exchanges open now.
    pub open: usize,
}

/// One GPU of a runtime.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuView {
    /// Its name.
    pub uuid: String,
    /// What the runtime's processes hold of its memory; `None` where it is not metered.
    pub memory_bytes: Option<u64>,
    /// What they may hold.
    pub memory_limit: Option<u64>,
    /// Codes of what is wrong with it; empty is the good case.
    pub health: Vec<&'static str>,
}

/// One budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BudgetView {
    /// Of what.
    pub kind: BudgetKind,
    /// What was used, in microseconds, bytes, numbers or millionths; `None` where it is not metered.
    pub used: Option<u64>,
    /// What there is.
    pub limit: u64,
    /// Used of limit; `None` where it is not metered, never 0 then.
    pub ratio: Option<f64>,
    /// Of money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
}

impl BudgetView {
    pub(super) fn new(kind: BudgetKind, used: Option<u64>, limit: u64) -> Self {
        // For the eye only: what is decided is decided by whole numbers.
        let ratio = used.map(|used| if limit == 0 { 1.0 } else { used as f64 / limit as f64 });
        Self { kind, used, limit, ratio, currency: None }
    }

    /// Whether so many hundredths are spent.
    pub fn has_reached(&self, percent: u64) -> bool {
        self.used.is_some_and(|used| u128::from(used) * 100 >= u128::from(self.limit) * u128::from(percent))
    }

    /// Whether nothing is left of it.
    pub fn is_spent(&self) -> bool {
        self.has_reached(100)
    }
}

/// What a runtime uses of the host. A number that the host does not give is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct UsageView {
    /// CPU time since the launch.
    pub cpu_seconds: Option<f64>,
    /// How long its quota stopped it.
    pub throttled_seconds: Option<f64>,
    /// Memory now.
    pub memory_bytes: Option<u64>,
    /// The most memory so far.
    pub memory_peak_bytes: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Processes that the kernel ended for the memory.
    pub oom_kills: Option<u64>,
    /// Forks that its limit refused.
    pub pids_max_hits: Option<u64>,
    /// How much of the last ten seconds some task of it waited.
    pub waited: Waited,
}

/// Shares of the last ten seconds, 0 to 1, in which some task waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Waited {
    /// For a CPU.
    pub cpu: Option<f64>,
    /// For memory.
    pub memory: Option<f64>,
    /// For block devices.
    pub io: Option<f64>,
}

impl UsageView {
    pub(super) fn of(leaf: &Leaf) -> Self {
        let (usage, events, psi) = (leaf.usage(), leaf.events(), leaf.psi());
        let share = |psi: Option<Psi>| psi.map(|psi| psi.some.avg10.ratio());
        Self {
            cpu_seconds: usage.cpu_seconds,
            throttled_seconds: usage.throttled.map(|time| time.as_secs_f64()),
            memory_bytes: usage.memory_bytes,
            memory_peak_bytes: usage.memory_peak_bytes,
            pids: usage.pids,
            oom_kills: events.oom_kills,
            pids_max_hits: events.pids_max_hits,
            waited: Waited { cpu: share(psi.cpu), memory: share(psi.memory), io: share(psi.io) },
        }
    }
}
