//! Whether an ended runtime has given its GPU memory back. The driver frees it some time after the
//! process is gone, and a survivor never does; the next runtime waits for it.

use std::time::Duration;

use super::adapter::GpuUuid;
use super::reading::Reading;
use crate::domain::Timestamp;

/// How long the next start waits. Freeing all memory of a large GPU takes the driver a few seconds; a
/// GPU that needs longer has a survivor on it, or needs a look.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that may stay behind: the driver keeps some for itself after the first use, and is not exact.
pub const RELEASE_SLACK: u64 = 64 << 20;

/// What the GPUs of a runtime held before it began, and when it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    gpus: Vec<Idle>,
    ended: Timestamp,
}

/// One GPU before the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Idle {
    uuid: GpuUuid,
    used: u64,
    pids: Vec<u32>,
}

impl Baseline {
    /// From readings of the assigned GPUs taken before the launch, and the moment when the runtime ended.
    /// A GPU that could not be read before is measured against nothing on it.
    pub fn new(before: &[Reading], ended: Timestamp) -> Self {
        let idle = |reading: &Reading| Idle {
            uuid: reading.uuid.clone(),
            used: reading.memory.map_or(0, |memory| memory.used),
            pids: reading.processes.iter().flatten().map(|process| process.pid).collect(),
        };
        Self { gpus: before.iter().map(idle).collect(), ended }
    }
}

/// How far the giving back is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Everything was given back: the next may start.
    Released,
    /// Not yet; look again.
    Waiting {
        /// Bytes still held beyond what was held before.
        held: u64,
        /// Processes of the runtime that still have a context: survivors to be ended.
        survivors: Vec<u32>,
    },
    /// The time is over: an operator must look.
    Overdue {
        /// Bytes still held beyond what was held before.
        held: u64,
        /// Processes of the runtime that still have a context.
        survivors: Vec<u32>,
    },
    /// A GPU cannot be read. It is not taken for free.
    Unreadable(GpuUuid),
}

/// Compares `now` with before. `ours` are the processes that belonged to the runtime.
///
/// Memory of a process that came meanwhile and is not of the runtime is not waited for: it is its own.
/// A process whose memory the driver does not say explains none.
pub fn released(before: &Baseline, ours: &[u32], now: &[Reading], at: Timestamp) -> Release {
    let (mut held, mut survivors, mut late) = (0_u64, Vec::new(), false);
    for idle in &before.gpus {
        let reading = now.iter().find(|reading| reading.uuid == idle.uuid);
        let read = reading.and_then(|reading| Some((reading.memory?, reading.processes.as_ref()?)));
        let Some((memory, processes)) = read else { return Release::Unreadable(idle.uuid.clone()) };
        let is_ours = |pid: &u32| ours.contains(pid);
        survivors.extend(processes.iter().map(|process| process.pid).filter(is_ours));
        let strangers = processes.iter().filter(|process| !is_ours(&process.pid) && !idle.pids.contains(&process.pid));
        let theirs: u64 = strangers.filter_map(|process| process.memory).fold(0, u64::saturating_add);
        let beyond = memory.used.saturating_sub(idle.used).saturating_sub(theirs);
        late |= beyond > RELEASE_SLACK;
        held = held.saturating_add(beyond);
    }
    survivors.sort_unstable();
    survivors.dedup();
    match late || !survivors.is_empty() {
        false => Release::Released,
        true if at.since(before.ended) >= RELEASE_TIMEOUT => Release::Overdue { held, survivors },
        true => Release::Waiting { held, survivors },
    }
}
