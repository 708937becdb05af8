//! The GPUs of one run: what its processes hold of their memory, and whether they can be used.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::domain::AutomationId;
use crate::events::{EventBus, EventKind};
use crate::gpu::{self, GpuUuid, Notice, Severity, Vram, VramBudget};
use crate::sandbox::cgroup::Leaf;

use super::super::gpus::{Accelerators, Holder, STALE, Sample};
use super::super::life::{HealthReason, Report};
use super::super::spent::BudgetKind;
use super::super::view::{BudgetView, GpuView};
use super::{Told, What};

/// Which budget.
const KIND: BudgetKind = BudgetKind::GpuMemory;

/// What others may see of the GPUs of a run.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    shown: Mutex<Vec<GpuView>>,
}

impl Gpus {
    fn shown(&self) -> MutexGuard<'_, Vec<GpuView>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> Vec<GpuView> {
        self.shown().clone()
    }

    /// Of several GPUs the one of which most is used; one that is not metered comes first.
    pub(super) fn budget(&self) -> Option<BudgetView> {
        let shown = self.shown();
        let rows = shown.iter().filter_map(|gpu| Some(BudgetView::new(KIND, gpu.memory_bytes, gpu.memory_limit?)));
        rows.max_by_key(|row| row.used.unwrap_or(u64::MAX))
    }
}

/// What it takes to watch them.
pub(super) struct Watch {
    pub(super) accelerators: Arc<Accelerators>,
    pub(super) holder: Holder,
    pub(super) automation: AutomationId,
    /// Bytes on each of its GPUs.
    pub(super) limit: Option<NonZeroU64>,
    pub(super) leaf: Option<Arc<Leaf>>,
    pub(super) gpus: Arc<Gpus>,
    pub(super) events: EventBus,
    pub(super) tell: mpsc::Sender<Told>,
}

/// What is remembered between two looks.
#[derive(Default)]
struct State {
    budgets: BTreeMap<GpuUuid, VramBudget>,
    /// What was wrong with each.
    wrong: BTreeMap<GpuUuid, Vec<gpu::HealthReason>>,
    failed: bool,
}

impl Watch {
    /// Until the run ends.
    pub(super) async fn run(self) {
        let (accelerators, holder) = (Arc::clone(&self.accelerators), self.holder.clone());
        let held = tokio::task::spawn_blocking(move || accelerators.held(&holder)).await.unwrap_or_default();
        let mut samples = self.accelerators.samples();
        let mut state = State::default();
        loop {
            let sample = Arc::clone(&samples.borrow_and_update());
            // Before the first one there is nothing to go by.
            if held.iter().any(|gpu| sample.of(gpu).is_some()) && self.look(&held, &sample, &mut state).await.is_err() {
                return;
            }
            match timeout(STALE, samples.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                // The driver hangs: what it said last is not true any more.
                Err(_) => {
                    if self.look(&held, &Sample::default(), &mut state).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Fails when nobody listens any more.
    async fn look(&self, held: &[GpuUuid], sample: &Sample, state: &mut State) -> Result<(), ()> {
        let pids = self.pids(held, sample).await;
        let mut shown = Vec::with_capacity(held.len());
        let mut unusable = None;
        for gpu in held {
            let reading = sample.of(gpu);
            let vram = match (&pids, reading) {
                (Some(pids), Some(reading)) => Vram::of(std::slice::from_ref(gpu), pids, std::slice::from_ref(reading)),
                _ => Vram::Unmetered,
            };
            self.meter(gpu, vram, state).await?;
            // What is not known now is as it was.
            let before = || state.wrong.get(gpu).cloned().unwrap_or_default();
            let wrong: Vec<gpu::HealthReason> =
                reading.map_or_else(before, |reading| reading.health.reasons().collect());
            unusable = unusable.or_else(|| wrong.iter().copied().find(|one| one.severity() == Severity::Unusable));
            shown.push(GpuView {
                uuid: gpu.as_str().to_owned(),
                memory_bytes: match vram {
                    Vram::Bytes(bytes) => Some(bytes),
                    Vram::Unmetered => None,
                },
                memory_limit: self.limit.map(NonZeroU64::get),
                health: wrong.iter().map(|one| one.code()).collect(),
            });
            self.tell_health(gpu, wrong, state);
        }
        *self.gpus.shown() = shown;
        // Each time: it may have become ready since.
        match unusable.and_then(health) {
            Some(reason) => {
                state.failed = true;
                self.report(What::Report(Report::GpuFailed(reason))).await
            }
            None if std::mem::take(&mut state.failed) => self.report(What::Report(Report::GpuWell)).await,
            None => Ok(()),
        }
    }

    /// The processes of the run; `None` where they are not known.
    async fn pids(&self, held: &[GpuUuid], sample: &Sample) -> Option<Vec<u32>> {
        let leaf = self.leaf.clone()?;
        let there = tokio::task::spawn_blocking(move || leaf.pids()).await.ok()?.ok()?;
        let there: BTreeSet<u32> = there.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect();
        let on_gpu = held.iter().filter_map(|gpu| sample.of(gpu)?.processes.as_ref()).flatten().map(|one| one.pid);
        let on_gpu: Vec<u32> = on_gpu.filter(|pid| there.contains(pid)).collect();
        let (accelerators, holder, seen) = (Arc::clone(&self.accelerators), self.holder.clone(), on_gpu.clone());
        // The lock may be held over a call into the driver.
        tokio::task::spawn_blocking(move || accelerators.note(&holder, seen)).await.ok()?;
        Some(on_gpu)
    }

    async fn meter(&self, gpu: &GpuUuid, vram: Vram, state: &mut State) -> Result<(), ()> {
        let Some(limit) = self.limit else { return Ok(()) };
        let budget = state.budgets.remove(gpu).unwrap_or_else(|| VramBudget::new(limit));
        let (budget, notices) = budget.sample(vram);
        let ratio = budget.ratio(vram);
        state.budgets.insert(gpu.clone(), budget);
        let (id, run) = &self.holder;
        let publish = |kind| {
            let used = match vram {
                Vram::Bytes(bytes) => Some(bytes),
                Vram::Unmetered => None,
            };
            let data = json!({"automation": self.automation, "runtime": id, "run": run, "kind": KIND, "gpu": gpu.as_str(), "used": used, "limit": limit, "ratio": ratio});
            self.events.publish(kind, Some(id.as_str()), data);
        };
        for notice in notices.into_iter().flatten() {
            match notice {
                Notice::Warn => {
                    tracing::warn!(runtime = %id, run, gpu = %gpu, ratio, "a runtime is about to spend its GPU memory");
                    publish(EventKind::AutomationBudgetWarning);
                }
                Notice::Calm => tracing::info!(runtime = %id, run, gpu = %gpu, "a runtime has GPU memory left again"),
                Notice::Unmetered => {
                    tracing::warn!(runtime = %id, run, gpu = %gpu, "the GPU memory of a runtime cannot be measured: its budget does not hold");
                }
                Notice::Metered => tracing::info!(runtime = %id, run, gpu = %gpu, "GPU memory is measured again"),
                Notice::Stop => {
                    publish(EventKind::AutomationBudgetExhausted);
                    self.report(What::Exhausted(KIND)).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells what is wrong with a GPU when that is other than before.
    fn tell_health(&self, gpu: &GpuUuid, wrong: Vec<gpu::HealthReason>, state: &mut State) {
        let before = state.wrong.insert(gpu.clone(), wrong.clone()).unwrap_or_default();
        if before == wrong {
            return;
        }
        let (id, run) = &self.holder;
        let codes: Vec<&str> = wrong.iter().map(|one| one.code()).collect();
        tracing::warn!(runtime = %id, run, gpu = %gpu, ?codes, "the health of a runtime's GPU changed");
        let data = json!({"runtime": id, "run": run, "gpu": gpu.as_str(), "gpu_health": codes});
        self.events.publish(EventKind::RuntimeHealth, Some(id.as_str()), data);
    }

    async fn report(&self, what: What) -> Result<(), ()> {
        self.tell.send(Told { run: self.holder.1, what }).await.map_err(drop)
    }
}

/// The reason of a runtime that stands for that of its GPU; none for what does not keep the GPU from being used.
const fn health(reason: gpu::HealthReason) -> Option<HealthReason> {
    match reason {
        gpu::HealthReason::Lost => Some(HealthReason::GpuLost),
        gpu::HealthReason::ResetRequired => Some(HealthReason::GpuResetRequired),
        gpu::HealthReason::EccUncorrected => Some(HealthReason::GpuEccUncorrected),
        gpu::HealthReason::XidDevice => Some(HealthReason::GpuXidDevice),
        gpu::HealthReason::PowerCable => Some(HealthReason::GpuPowerCable),
        gpu::HealthReason::InterruptFault => Some(HealthReason::GpuInterruptFault),
        gpu::HealthReason::NoPermission => Some(HealthReason::GpuNoPermission),
        gpu::HealthReason::VersionMismatch => Some(HealthReason::GpuVersionMismatch),
        gpu::HealthReason::RetirementPending
        | gpu::HealthReason::XidApplication
        | gpu::HealthReason::ThermalSlowdown
        | gpu::HealthReason::InforomCorrupt
        | gpu::HealthReason::Unreadable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_unwell_exactly_when_its_gpu_cannot_be_used_and_says_why_in_the_same_word() {
        for reason in gpu::HealthReason::ALL {
            let said = health(reason);
            assert_eq!(said.is_some(), reason.severity() == Severity::Unusable, "{reason:?}");
            assert!(said.is_none_or(|said| said.code() == reason.code()), "{reason:?}");
        }
    }

    #[test]
    fn the_budget_that_is_shown_is_that_of_the_fullest_gpu_and_never_a_guess() {
        let gpu =
            |memory_bytes| GpuView { uuid: String::new(), memory_bytes, memory_limit: Some(100), health: Vec::new() };
        let of = |gpus: &[Option<u64>]| {
            let shown = Gpus::default();
            *shown.shown() = gpus.iter().copied().map(gpu).collect();
            shown.budget().map(|row| row.ratio)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[Some(20), Some(90), Some(3)]), Some(Some(0.9)));
        assert_eq!(of(&[Some(20), None]), Some(None));
    }
}
