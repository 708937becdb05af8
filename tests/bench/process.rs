//! What a process and its descendants cost: CPU time and resident memory.

use std::time::Duration;

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::ClockId;
use nix::unistd::Pid;

/// User and system time of `root` and its living descendants since each began, in nanoseconds' resolution.
///
/// Read from each process's CPU clock (`clock_getcpuclockid(3)`), which includes threads that have ended; the ticks of
/// `/proc/PID/stat` are 10 ms wide, far too coarse.
pub(crate) fn cpu_time(root: Pid) -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in family(root)? {
        let clock = ClockId::pid_cpu_clock_id(pid).with_context(|| format!("CPU clock of process {pid}"))?;
        sum += Duration::from(clock.now()?);
    }
    Ok(sum)
}

/// Resident bytes (`Rss` of `/proc/PID/smaps_rollup`) of `root` and its descendants. The kernel's own memory for
/// sockets and pipes is not in it.
pub(crate) fn resident_bytes(root: Pid) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in family(root)? {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("smaps_rollup has no `Rss`")?;
        sum += line.trim().trim_end_matches(" kB").parse::<u64>()? << 10;
    }
    Ok(sum)
}

/// `root`, its children, and theirs.
fn family(root: Pid) -> anyhow::Result<Vec<Pid>> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(pid) = family.get(next) {
        for thread in
            std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?
        {
            let children = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            family.extend(children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).map(Pid::from_raw));
        }
        next += 1;
    }
    Ok(family)
}

/// Which cores the subject and the load run on, so that neither is moved during a sample.
pub(crate) struct Cores {
    subject: CpuSet,
    load: CpuSet,
    /// For the report.
    pub(crate) note: String,
}

impl Cores {
    /// The last core for the subject and the others for the load; with one core, or unpinned, all for both.
    pub(crate) fn divide(pinned: bool) -> anyhow::Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let usable: Vec<usize> = (0..CpuSet::count()).filter(|&core| all.is_set(core).unwrap_or(false)).collect();
        let (Some(last), true) = (usable.last(), pinned && usable.len() > 1) else {
            let note = format!("subject and load share {} core(s)", usable.len());
            return Ok(Self { subject: all, load: all, note });
        };
        let (mut subject, mut load) = (CpuSet::new(), all);
        subject.set(*last)?;
        load.unset(*last)?;
        Ok(Self { subject, load, note: format!("subject on core {last}, load on the other {}", usable.len() - 1) })
    }

    /// Moves the calling thread to the load's cores; threads that it starts stay there.
    pub(crate) fn enter_load(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(Pid::from_raw(0), &self.load)?)
    }

    /// Runs `spawn` on the subject's cores, so that its child starts there and sizes itself for them.
    pub(crate) fn on_subject<T>(&self, spawn: impl FnOnce() -> T) -> anyhow::Result<T> {
        sched_setaffinity(Pid::from_raw(0), &self.subject)?;
        let child = spawn();
        self.enter_load()?;
        Ok(child)
    }
}
