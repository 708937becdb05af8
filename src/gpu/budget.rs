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
use super::reading::Reading;

/// Percent of the budget at which the warning comes.
const WARN_PERCENT: u64 = 90;
/// Percent below which the warning is over; the gap keeps a runtime at the edge from flapping.
const CALM_PERCENT: u64 = 85;

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
    /// Unmetered when the reading of one of `gpus` is missing or has no processes, or when the driver
    /// does not say what one of the processes holds.
    pub fn of(gpus: &[GpuUuid], pids: &[u32], readings: &[Reading]) -> Self {
        let bytes = gpus.iter().try_fold(0_u64, |sum, gpu| {
            let reading = readings.iter().find(|reading| reading.uuid == *gpu)?;
            let ours = reading.processes.as_ref()?.iter().filter(|process| pids.contains(&process.pid));
            ours.map(|process| process.memory).try_fold(sum, |sum, bytes| Some(sum.saturating_add(bytes?)))
        });
        bytes.map_or(Self::Unmetered, Self::Bytes)
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
