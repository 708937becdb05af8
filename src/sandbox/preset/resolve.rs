//! Makes numbers of a preset for one host.

use std::io;
use std::path::Path;

use crate::sandbox::cgroup::{CpuQuota, CpuSet, Limits, own_cpus};

use super::{Affinity, CpuAmount, MemoryAmount, Preset};

/// The least memory that a share of a small host comes to: below it nothing of use starts.
const LEAST_MEMORY: u64 = 64 << 20;
/// Limits of memory are counted in pages; whole ones read back as written on every kernel of ours.
const PAGE: u64 = 64 << 10;

/// What a preset's shares are shares of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// CPUs that the daemon may use.
    pub cpus: CpuSet,
    /// Bytes of memory.
    pub memory: u64,
}

/// The host could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum HostFault {
    /// Which CPUs there are is not known.
    #[error("the CPUs of the host are not known: {0}")]
    Cpus(String),
    /// `/proc/meminfo` cannot be read.
    #[error("the memory of the host is not known")]
    Memory(#[source] io::Error),
}

impl Host {
    /// This host: the CPUs of this process, and `MemTotal` of `/proc/meminfo`.
    ///
    /// # Errors
    /// One of them is not told.
    pub fn read() -> Result<Self, HostFault> {
        let text = std::fs::read_to_string(Path::new("/proc/meminfo")).map_err(HostFault::Memory)?;
        let memory = total(&text)
            .ok_or_else(|| HostFault::Memory(io::Error::new(io::ErrorKind::InvalidData, "there is no `MemTotal`")))?;
        Ok(Self { cpus: own_cpus().map_err(HostFault::Cpus)?, memory })
    }
}

/// `MemTotal:       24684272 kB`, which means KiB.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// The preset in numbers for `host`. A quota of the whole host and more, and an affinity of all CPUs, ask
/// for nothing.
pub fn resolve(preset: &Preset, host: &Host) -> Limits {
    let memory_max = bytes(preset.memory_max, host).map(|bytes| bytes.max(LEAST_MEMORY));
    let high = bytes(preset.memory_high, host);
    Limits {
        cpu_quota: quota(preset.cpu_quota, host),
        cpu_weight: Some(preset.cpu_weight),
        cpus: affinity(&preset.affinity, host),
        nice: Some(preset.nice),
        policy: Some(preset.policy),
        memory_high: high.map(|high| memory_max.map_or(high, |max| high.clamp(LEAST_MEMORY.min(max), max))),
        memory_max,
        swap_max: bytes(preset.swap_max, host),
        pids_max: Some(preset.pids_max),
        io_weight: Some(preset.io_weight),
    }
}

fn quota(amount: CpuAmount, host: &Host) -> Option<CpuQuota> {
    let all = host.cpus.numbers().len() as u64 * 1_000;
    let millis = match amount {
        CpuAmount::Unlimited => return None,
        CpuAmount::OfHost(share) => all * u64::from(share.0) / 100,
        CpuAmount::Millis(millis) => u64::from(millis),
    };
    Some(CpuQuota::nearest(millis.min(all)))
}

fn bytes(amount: MemoryAmount, host: &Host) -> Option<u64> {
    let bytes = match amount {
        MemoryAmount::Unlimited => return None,
        MemoryAmount::OfHost(share) => host.memory / 100 * u64::from(share.0),
        MemoryAmount::Bytes(bytes) => bytes.min(host.memory),
    };
    Some(bytes - bytes % PAGE)
}

fn affinity(affinity: &Affinity, host: &Host) -> Option<CpuSet> {
    match affinity {
        Affinity::All => None,
        Affinity::Half => Some(host.cpus.half()),
        // None of them is there: the list stays, the kernel refuses it, and the report says so.
        Affinity::These(list) => Some(list.common(&host.cpus).unwrap_or_else(|| list.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_host_is_read_in_its_odd_unit() {
        assert_eq!(total("MemTotal:       24684272 kB\nMemFree: 1 kB\n"), Some(24_684_272 << 10));
        for bad in ["", "MemTotal: 1 MB", "MemTotal: x kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(total(bad), None, "{bad}");
        }
        let host = Host::read().expect("this host");
        assert!(host.memory > LEAST_MEMORY && !host.cpus.numbers().is_empty());
    }
}
