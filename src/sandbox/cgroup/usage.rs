//! What a leaf has used, and what went wrong. A number that the host does not give is `None`, never 0.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::leaf::Site;
use super::walk::read;
use super::{Controller, Leaf, Psi};

/// Bytes moved to and from block devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Io {
    /// Read.
    pub read_bytes: u64,
    /// Written.
    pub written_bytes: u64,
}

/// What a leaf has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// CPU time, user and system together, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Periods in which the quota stopped it.
    pub throttled_periods: Option<u64>,
    /// How long the quota stopped it.
    pub throttled: Option<Duration>,
    /// Bytes of memory now.
    pub memory_bytes: Option<u64>,
    /// The most bytes of memory so far (v2: kernel 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// Tasks now.
    pub pids: Option<u64>,
    /// Block devices.
    pub io: Option<Io>,
}

/// What went wrong in a leaf so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    /// Processes that the kernel killed because memory ran out at the leaf's limit.
    pub oom_kills: Option<u64>,
    /// Times that memory reached its limit; in v1 unknown until it did, since kernels differ in counting it.
    pub memory_max_hits: Option<u64>,
    /// Times that memory was above the high mark (v2).
    pub memory_high_hits: Option<u64>,
    /// Forks that were refused.
    pub pids_max_hits: Option<u64>,
}

/// What made the tasks of a leaf wait (v2, kernel 5.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeafPsi {
    /// For a CPU, its own quota included.
    pub cpu: Option<Psi>,
    /// For memory.
    pub memory: Option<Psi>,
    /// For block devices.
    pub io: Option<Psi>,
}

impl Leaf {
    /// What the leaf has used so far.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage { pids: self.tasks(), io: self.io(), ..Usage::default() };
        self.add_cpu(&mut usage);
        match self.site(Controller::Memory) {
            Ok(Site::V2(dir)) => {
                usage.memory_bytes = number(dir, "memory.current");
                usage.memory_peak_bytes = number(dir, "memory.peak");
            }
            Ok(Site::V1(dir)) => {
                usage.memory_bytes = number(dir, "memory.usage_in_bytes");
                usage.memory_peak_bytes = number(dir, "memory.max_usage_in_bytes");
            }
            Err(_) => {}
        }
        usage
    }

    /// What went wrong so far.
    pub fn events(&self) -> Events {
        let mut events = Events::default();
        match self.site(Controller::Memory) {
            Ok(Site::V2(dir)) => {
                events.oom_kills = field(dir, "memory.events", "oom_kill");
                events.memory_max_hits = field(dir, "memory.events", "max");
                events.memory_high_hits = field(dir, "memory.events", "high");
            }
            Ok(Site::V1(dir)) => {
                events.oom_kills = field(dir, "memory.oom_control", "oom_kill");
                // Where swap is limited too, that of both together is asked first, and counts apart.
                let (memory, both) = (number(dir, "memory.failcnt"), number(dir, "memory.memsw.failcnt"));
                let hits = memory.map(|memory| memory.saturating_add(both.unwrap_or(0)));
                // Kernel 6.18 shows 0 even after an OOM kill, so 0 says nothing.
                events.memory_max_hits = hits.filter(|hits| *hits > 0);
            }
            Err(_) => {}
        }
        if let Ok(Site::V1(dir) | Site::V2(dir)) = self.site(Controller::Pids) {
            events.pids_max_hits = field(dir, "pids.events", "max");
        }
        events
    }

    /// What made the tasks wait. On a hybrid host it counts those that are in the v2 group.
    pub fn psi(&self) -> LeafPsi {
        let Some(dir) = &self.place().unified else { return LeafPsi::default() };
        let of = |name: &str| Psi::parse(&read(&dir.join(name)).ok()?);
        LeafPsi { cpu: of("cpu.pressure"), memory: of("memory.pressure"), io: of("io.pressure") }
    }

    fn add_cpu(&self, usage: &mut Usage) {
        if let Some(dir) = self.place().v1_of(Controller::CpuAcct) {
            usage.cpu_seconds = number(dir, "cpuacct.usage").map(|nanos| Duration::from_nanos(nanos).as_secs_f64());
        } else if let Some(dir) = &self.place().unified {
            // v2 counts CPU time with and without its controller.
            let micros = field(dir, "cpu.stat", "usage_usec");
            usage.cpu_seconds = micros.map(|micros| Duration::from_micros(micros).as_secs_f64());
        }
        match self.site(Controller::Cpu) {
            Ok(Site::V2(dir)) => {
                usage.throttled_periods = field(dir, "cpu.stat", "nr_throttled");
                usage.throttled = field(dir, "cpu.stat", "throttled_usec").map(Duration::from_micros);
            }
            Ok(Site::V1(dir)) => {
                usage.throttled_periods = field(dir, "cpu.stat", "nr_throttled");
                usage.throttled = field(dir, "cpu.stat", "throttled_time").map(Duration::from_nanos);
            }
            Err(_) => {}
        }
    }

    fn tasks(&self) -> Option<u64> {
        let Ok(Site::V1(dir) | Site::V2(dir)) = self.site(Controller::Pids) else { return None };
        number(dir, "pids.current")
    }

    fn io(&self) -> Option<Io> {
        match self.site(Controller::Io) {
            Ok(Site::V2(dir)) => Some(io_of_v2(&read(&dir.join("io.stat")).ok()?)),
            Ok(Site::V1(dir)) => Some(io_of_v1(&read(&dir.join("blkio.throttle.io_service_bytes_recursive")).ok()?)),
            Err(_) => None,
        }
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=…`, one line for each device.
fn io_of_v2(text: &str) -> Io {
    let sum = |name: &str| {
        let fields = text.split_ascii_whitespace().filter_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
        fields.fold(0, u64::saturating_add)
    };
    Io { read_bytes: sum("rbytes="), written_bytes: sum("wbytes=") }
}

/// `8:0 Read 1`, one line for each device and direction.
fn io_of_v1(text: &str) -> Io {
    let sum = |name: &str| {
        let of = |line: &str| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            (fields.next()? == name).then(|| fields.next()?.parse::<u64>().ok())?
        };
        text.lines().filter_map(of).fold(0, u64::saturating_add)
    };
    Io { read_bytes: sum("Read"), written_bytes: sum("Write") }
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    read(&dir.join(name)).ok()?.parse().ok()
}

/// The value of a line `key value`.
fn field(dir: &Path, name: &str, key: &str) -> Option<u64> {
    let text = read(&dir.join(name)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::cgroup::LeafPlace;

    fn leaf(dir: &Path, files: &[(&str, &str)]) -> Leaf {
        for (name, text) in files {
            std::fs::write(dir.join(name), text).expect("write");
        }
        Leaf::open(LeafPlace { unified: Some(dir.to_owned()), v1: Vec::new() }, Vec::new()).expect("leaf")
    }

    #[test]
    fn the_files_of_v2_are_read() {
        let dir = tempfile::tempdir().expect("dir");
        let leaf = leaf(
            dir.path(),
            &[
                ("cgroup.controllers", "cpu io memory pids\n"),
                ("cpu.stat", "usage_usec 2500000\nuser_usec 1\nnr_periods 9\nnr_throttled 3\nthrottled_usec 70000\n"),
                ("memory.current", "4096\n"),
                ("memory.peak", "8192\n"),
                ("memory.events", "low 0\nhigh 4\nmax 5\noom 1\noom_kill 2\noom_group_kill 0\n"),
                ("pids.current", "7\n"),
                ("pids.events", "max 6\n"),
                ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n253:0 \n"),
                ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=5\n"),
            ],
        );
        let usage = leaf.usage();
        assert_eq!(usage.cpu_seconds, Some(2.5));
        assert_eq!((usage.throttled_periods, usage.throttled), (Some(3), Some(Duration::from_millis(70))));
        assert_eq!((usage.memory_bytes, usage.memory_peak_bytes, usage.pids), (Some(4_096), Some(8_192), Some(7)));
        assert_eq!(usage.io, Some(Io { read_bytes: 11, written_bytes: 22 }));
        let events = leaf.events();
        assert_eq!((events.oom_kills, events.memory_max_hits), (Some(2), Some(5)));
        assert_eq!((events.memory_high_hits, events.pids_max_hits), (Some(4), Some(6)));
        assert_eq!(leaf.psi().cpu.expect("pressure").some.avg10.hundredths(), 150);
        assert_eq!(leaf.psi().memory, None);
    }

    #[test]
    fn what_the_host_does_not_tell_is_unknown_and_not_zero() {
        let dir = tempfile::tempdir().expect("dir");
        let leaf = leaf(dir.path(), &[("cgroup.controllers", ""), ("memory.current", "4096")]);
        assert_eq!(leaf.usage(), Usage::default());
        assert_eq!(leaf.events(), Events::default());
    }

    #[test]
    fn the_lines_of_v1_devices_are_summed() {
        let text = "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 1\nTotal 31\n";
        assert_eq!(io_of_v1(text), Io { read_bytes: 11, written_bytes: 20 });
    }
}
