//! The VRAM budget of a runtime: a warning at 90 %, the end at 100 %. Pure: a sample in, a notice out.
//!
//! ```text
//!            ≥ 90 %              ≥ 100 %
//!   Within ─────────► Warned ─────────────► Spent (for the rest of this run)
//!     ▲ ◄──────────────┘                      ▲
//!     │     < 85 %                            │
//!     └───────────────── ≥ 100 % ─────────────┘
//! ```
//!
//! A sample that could not be measured moves nothing: it is neither 0 % nor a reason to end a run. That
//! measuring stopped, and that it works again, is said once each.

use std::num::NonZeroU64;

use super::adapter::GpuUuid;
use super::reading::{Memory, ProcessUsage, Reading};

/// Percent of the budget at which the warning comes.
const WARN_PERCENT: u64 = 90;
/// Percent below which the warning is over; the gap keeps a runtime at the edge from flapping.
const CALM_PERCENT: u64 = 85;

/// Bytes in use beyond what the listed processes hold, from which on the list is taken to leave processes
/// out, as it does in a container that hides those of the host. The driver's own use stays well below.
const UNLISTED: u64 = 1 << 30;

/// GPU memory of a runtime at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vram {
    /// So many bytes.
    Bytes(u64),
    /// It could not be measured.
    Unmetered,
}

impl Vram {
    /// What the processes in `pids` hold on the GPUs of a runtime together.
    ///
    /// Unmetered when the reading of one of `gpus` is missing or has no processes, when the driver does not
    /// say what one of the processes holds, or when more is in use than the listed processes explain.
    pub fn of(gpus: &[GpuUuid], pids: &[u32], readings: &[Reading]) -> Self {
        let bytes = gpus.iter().try_fold(0_u64, |bytes, gpu| {
            let reading = readings.iter().find(|reading| reading.uuid == *gpu)?;
            let processes = reading.processes.as_ref().filter(|processes| explains(processes, reading.memory))?;
            let ours = sum(processes.iter().filter(|process| pids.contains(&process.pid)))?;
            Some(bytes.saturating_add(ours))
        });
        bytes.map_or(Self::Unmetered, Self::Bytes)
    }
}

/// What these processes hold together; nothing if the driver does not say it of one.
fn sum<'a>(processes: impl IntoIterator<Item = &'a ProcessUsage>) -> Option<u64> {
    processes.into_iter().try_fold(0_u64, |sum, process| Some(sum.saturating_add(process.memory?)))
}

/// Whether the listed processes explain the memory in use. What one process holds may be unknown; then
/// it may be all of it.
fn explains(processes: &[ProcessUsage], memory: Option<Memory>) -> bool {
    match (sum(processes), memory) {
        (Some(listed), Some(memory)) => memory.used.saturating_sub(listed) < UNLISTED,
        _ => true,
    }
}

/// Where a budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Below the warning.
    Within,
    /// Warned, and not calm since.
    Warned,
    /// Reached once in this run: the run ends.
    Spent,
}

/// What a sample brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// 90 % reached.
    Warn,
    /// Back below 85 %.
    Calm,
    /// 100 % reached: end the run. Given once.
    Stop,
    /// The memory can no longer be measured.
    Unmetered,
    /// The memory can be measured again.
    Metered,
}

/// The VRAM budget of one run; the next run has a fresh one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VramBudget {
    limit: NonZeroU64,
    phase: Phase,
    metered: bool,
}

impl VramBudget {
    /// A budget of `limit` bytes over all GPUs of the runtime.
    pub const fn new(limit: NonZeroU64) -> Self {
        Self { limit, phase: Phase::Within, metered: true }
    }

    /// Where it stands.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Part of the budget that `vram` is, 1.0 being all of it; nothing if it was not measured.
    pub fn ratio(&self, vram: Vram) -> Option<f64> {
        match vram {
            Vram::Bytes(bytes) => Some(bytes as f64 / self.limit.get() as f64),
            Vram::Unmetered => None,
        }
    }

    /// Takes a sample. At most two notices: that measuring works again, and what it found.
    #[must_use]
    pub fn sample(self, vram: Vram) -> (Self, [Option<Notice>; 2]) {
        let Vram::Bytes(bytes) = vram else {
            let notice = self.metered.then_some(Notice::Unmetered);
            return (Self { metered: false, ..self }, [notice, None]);
        };
        let again = (!self.metered).then_some(Notice::Metered);
        let (phase, found) = match self.phase {
            Phase::Spent => (Phase::Spent, None),
            _ if self.reaches(bytes, 100) => (Phase::Spent, Some(Notice::Stop)),
            Phase::Within if self.reaches(bytes, WARN_PERCENT) => (Phase::Warned, Some(Notice::Warn)),
            Phase::Warned if !self.reaches(bytes, CALM_PERCENT) => (Phase::Within, Some(Notice::Calm)),
            same => (same, None),
        };
        (Self { phase, metered: true, ..self }, [again, found])
    }

    fn reaches(&self, bytes: u64, percent: u64) -> bool {
        u128::from(bytes) * 100 >= u128::from(self.limit.get()) * u128::from(percent)
    }
}
