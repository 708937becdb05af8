//! What a GPU measures at one moment. A value that could not be read is absent; it is never zero.

use std::collections::BTreeMap;

use super::adapter::GpuUuid;
use super::health::Health;

/// Most processes of one GPU that are kept, the largest first; a reading has a bound whatever the library says.
const MAX_PROCESSES: usize = 4096;

/// Frame-buffer memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All that is installed.
    pub total: u64,
    /// Kept by driver and firmware.
    pub reserved: u64,
    /// Not allocated.
    pub free: u64,
    /// Allocated by processes, without what is reserved.
    pub used: u64,
}

/// One process on one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Its id in the process namespace of the daemon.
    pub pid: u32,
    /// Bytes that it allocated; absent where the driver does not say.
    pub memory: Option<u64>,
    /// Part of the last sample period in which its kernels ran, in percent, at most 100.
    pub utilization: Option<u8>,
}

/// What one GPU measures now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which one.
    pub uuid: GpuUuid,
    /// Its memory.
    pub memory: Option<Memory>,
    /// Part of the last sample period in which a kernel ran, in percent, at most 100.
    pub utilization: Option<u8>,
    /// Temperature of the die, in °C.
    pub temperature: Option<u32>,
    /// Power drawn, in milliwatts.
    pub power: Option<u32>,
    /// The processes with a context on it, by id; absent when they could not be read, which is not "none".
    pub processes: Option<Vec<ProcessUsage>>,
    /// What is wrong with it.
    pub health: Health,
}

impl Reading {
    /// A reading of which nothing is known but why.
    pub fn unknown(uuid: GpuUuid, health: Health) -> Self {
        Self { uuid, memory: None, utilization: None, temperature: None, power: None, processes: None, health }
    }
}

/// One row of the library's lists of processes: id and bytes.
pub(super) type Row = (u32, Option<u64>);

/// One list of the processes of a GPU from the library's three: with a compute context, with a graphics
/// context, and how busy each was.
///
/// A process in both lists reports the same memory twice, so the larger counts. Several rows of one
/// process in one list are its parts and add up; a part that is not known makes the sum unknown.
pub(super) fn merge(compute: &[Row], graphics: &[Row], busy: &BTreeMap<u32, u8>) -> Vec<ProcessUsage> {
    let sums = |rows: &[Row]| {
        let mut sums: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for (pid, bytes) in rows {
            let sum = sums.entry(*pid).or_insert(Some(0));
            *sum = sum.zip(*bytes).map(|(sum, bytes)| sum.saturating_add(bytes));
        }
        sums
    };
    let mut all = sums(compute);
    for (pid, bytes) in sums(graphics) {
        let known = all.entry(pid).or_insert(bytes);
        *known = (*known).max(bytes);
    }
    let usage = |(pid, memory)| ProcessUsage { pid, memory, utilization: busy.get(&pid).copied() };
    let mut merged: Vec<ProcessUsage> = all.into_iter().map(usage).collect();
    if merged.len() > MAX_PROCESSES {
        merged.sort_by_key(|process| std::cmp::Reverse(process.memory));
        merged.truncate(MAX_PROCESSES);
        merged.sort_by_key(|process| process.pid);
    }
    merged
}

/// How busy each process was: its newest sample `(pid, microseconds, percent)`, unless that is more than
/// [`STALE_MICROS`] older than the newest of all.
pub(super) fn newest(samples: &[(u32, u64, u32)]) -> BTreeMap<u32, u8> {
    let last = samples.iter().map(|(_, at, _)| *at).max().unwrap_or(0);
    let mut newest: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
    for (pid, at, percent) in samples.iter().filter(|(_, at, _)| last - at <= STALE_MICROS) {
        let entry = newest.entry(*pid).or_insert((*at, *percent));
        if *at >= entry.0 {
            *entry = (*at, *percent);
        }
    }
    newest.into_iter().map(|(pid, (_, value))| (pid, percent(value))).collect()
}

/// Samples older than this say nothing about now: NVML keeps some seconds, one each 1/6 to 1 s.
const STALE_MICROS: u64 = 3_000_000;

/// A percentage of the library, which may overshoot.
pub(super) fn percent(value: u32) -> u8 {
    u8::try_from(value.min(100)).expect("at most 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pid: u32, memory: Option<u64>, utilization: Option<u8>) -> ProcessUsage {
        ProcessUsage { pid, memory, utilization }
    }

    #[test]
    fn a_process_in_both_lists_counts_once() {
        let merged = merge(&[(1, Some(10)), (2, Some(5))], &[(1, Some(10)), (3, None)], &BTreeMap::from([(1, 40)]));
        assert_eq!(merged, [of(1, Some(10), Some(40)), of(2, Some(5), None), of(3, None, None)]);
    }

    #[test]
    fn parts_of_a_process_add_up_and_an_unknown_part_makes_the_sum_unknown() {
        assert_eq!(merge(&[(1, Some(10)), (1, Some(7))], &[], &BTreeMap::new()), [of(1, Some(17), None)]);
        assert_eq!(merge(&[(1, Some(10)), (1, None)], &[], &BTreeMap::new()), [of(1, None, None)]);
        assert_eq!(merge(&[(1, Some(u64::MAX)), (1, Some(7))], &[], &BTreeMap::new())[0].memory, Some(u64::MAX));
    }

    #[test]
    fn the_number_of_processes_is_bounded_and_the_largest_stay() {
        let rows: Vec<Row> = (0..5000).map(|pid| (pid, Some(u64::from(pid)))).collect();
        let merged = merge(&rows, &[], &BTreeMap::new());
        assert_eq!((merged.len(), merged[0].pid, merged[4095].pid), (4096, 904, 4999));
    }

    #[test]
    fn the_newest_sample_counts_and_a_stale_one_does_not() {
        let samples = [(1, 10_000_000, 30), (1, 9_500_000, 90), (2, 1_000_000, 50), (3, 10_000_000, 180)];
        assert_eq!(newest(&samples), BTreeMap::from([(1, 30), (3, 100)]));
        assert!(newest(&[]).is_empty());
    }
}
