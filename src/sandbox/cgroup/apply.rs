//! Writes limits and reads them back: only what the kernel shows afterwards is called enforced.

use std::path::Path;

use super::leaf::Site;
use super::limits::PERIOD_MICROS;
use super::walk::read;
use super::{Applied, Control, Controller, CpuQuota, CpuSet, Leaf, Limits, Outcome, Weight};

/// The largest page that a kernel of ours counts in: limits of memory are rounded down to whole pages.
const LARGEST_PAGE: u64 = 64 << 10;

impl Leaf {
    /// Sets what `limits` ask of a group, each by itself, and tells what became of it. What a process
    /// sets on itself (niceness, policy) is [`super::apply_to_self`]'s.
    pub fn apply(&self, limits: &Limits) -> Vec<Applied> {
        let asked = limits.asked().into_iter().filter(|control| !control.is_of_a_process());
        let applied = asked.filter_map(|control| Some(Applied::new(control, self.set(control, limits)?))).collect();
        self.files().close();
        applied
    }

    /// Sets the CPU quota alone, while the runtime runs.
    pub fn set_cpu_quota(&self, quota: CpuQuota) -> Outcome {
        told(self.site(Controller::Cpu).and_then(|site| match site {
            Site::V2(dir) => {
                self.set_exactly(dir, "cpu.max", &format!("{} {PERIOD_MICROS}", quota.micros_per_period()))
            }
            Site::V1(dir) => {
                self.set_exactly(dir, "cpu.cfs_period_us", &PERIOD_MICROS.to_string())?;
                self.set_exactly(dir, "cpu.cfs_quota_us", &quota.micros_per_period().to_string())
            }
        }))
    }

    fn set(&self, control: Control, limits: &Limits) -> Option<Outcome> {
        Some(match control {
            Control::CpuQuota => self.set_cpu_quota(limits.cpu_quota?),
            Control::CpuWeight => self.set_cpu_weight(limits.cpu_weight?),
            Control::CpuAffinity => self.set_cpus(limits.cpus.as_ref()?),
            Control::MemoryHigh => self.set_memory_high(limits.memory_high?),
            Control::MemoryMax => self.set_memory_max(limits.memory_max?),
            Control::SwapMax => self.set_swap_max(limits.swap_max?, limits.memory_max),
            Control::PidsMax => self.set_pids_max(limits.pids_max?),
            Control::IoWeight => self.set_io_weight(limits.io_weight?),
            Control::Nice | Control::SchedulingPolicy => return None,
        })
    }

    fn set_cpu_weight(&self, weight: Weight) -> Outcome {
        told(self.site(Controller::Cpu).and_then(|site| match site {
            Site::V2(dir) => self.set_exactly(dir, "cpu.weight", &weight.value().to_string()),
            Site::V1(dir) => self.set_exactly(dir, "cpu.shares", &weight.shares().to_string()),
        }))
    }

    fn set_cpus(&self, cpus: &CpuSet) -> Outcome {
        told(self.site(Controller::CpuSet).and_then(|site| {
            let (dir, effective) = match site {
                Site::V2(dir) => (dir, "cpuset.cpus.effective"),
                Site::V1(dir) => (dir, "cpuset.effective_cpus"),
            };
            self.put(dir, "cpuset.cpus", &cpus.to_string())?;
            let shown = look(dir, effective)?;
            if CpuSet::parse(&shown).as_ref() == Ok(cpus) { Ok(()) } else { Err(format!("the kernel gives `{shown}`")) }
        }))
    }

    fn set_memory_high(&self, bytes: u64) -> Outcome {
        match self.site(Controller::Memory) {
            Ok(Site::V2(dir)) => told(self.set_bytes(dir, "memory.high", bytes)),
            Ok(Site::V1(dir)) => match self.set_bytes(dir, "memory.soft_limit_in_bytes", bytes) {
                Ok(()) => {
                    Outcome::Partial("v1 reclaims above it only when the host is short, and slows nobody".to_owned())
                }
                Err(reason) => Outcome::Unavailable(reason),
            },
            Err(reason) => Outcome::Unavailable(reason),
        }
    }

    fn set_memory_max(&self, bytes: u64) -> Outcome {
        told(self.site(Controller::Memory).and_then(|site| match site {
            Site::V2(dir) => self.set_bytes(dir, "memory.max", bytes),
            Site::V1(dir) => self.set_bytes(dir, "memory.limit_in_bytes", bytes).or_else(|reason| {
                // v1 refuses a limit above that of memory and swap together, which is set again below.
                self.put(dir, "memory.memsw.limit_in_bytes", "-1").map_err(|_| reason)?;
                self.set_bytes(dir, "memory.limit_in_bytes", bytes)
            }),
        }))
    }

    fn set_swap_max(&self, bytes: u64, memory_max: Option<u64>) -> Outcome {
        match self.site(Controller::Memory) {
            Ok(Site::V2(dir)) => told(self.set_bytes(dir, "memory.swap.max", bytes)),
            Ok(Site::V1(dir)) => {
                let Some(memory) = memory_max else {
                    return Outcome::Unavailable("v1 limits swap only together with memory".to_owned());
                };
                match self.set_bytes(dir, "memory.memsw.limit_in_bytes", memory.saturating_add(bytes)) {
                    Ok(()) => Outcome::Partial("v1 limits the sum of memory and swap".to_owned()),
                    Err(reason) => Outcome::Unavailable(reason),
                }
            }
            Err(reason) => Outcome::Unavailable(reason),
        }
    }

    fn set_pids_max(&self, tasks: u64) -> Outcome {
        told(self.site(Controller::Pids).and_then(|site| match site {
            Site::V1(dir) | Site::V2(dir) => self.set_exactly(dir, "pids.max", &tasks.to_string()),
        }))
    }

    /// Weights of block devices hold only where the device's scheduler knows them, which a group cannot see.
    fn set_io_weight(&self, weight: Weight) -> Outcome {
        let site = match self.site(Controller::Io) {
            Ok(site) => site,
            Err(reason) => return Outcome::Unavailable(reason),
        };
        let v2 = format!("default {}", weight.value());
        let v1 = weight.blkio().to_string();
        let (dir, files) = match site {
            Site::V2(dir) => (dir, [("io.bfq.weight", v1, "BFQ"), ("io.weight", v2, "io.cost")]),
            Site::V1(dir) => (dir, [("blkio.bfq.weight", v1.clone(), "BFQ"), ("blkio.weight", v1, "CFQ")]),
        };
        let there: Vec<_> = files.into_iter().filter(|(name, ..)| dir.join(name).exists()).collect();
        if there.is_empty() {
            return Outcome::Unavailable("no block device here has a scheduler with weights".to_owned());
        }
        let set = there.into_iter().map(|(name, value, scheduler)| self.put(dir, name, &value).map(|_| scheduler));
        match set.collect::<Result<Vec<_>, _>>() {
            Ok(schedulers) => Outcome::Partial(format!("holds on devices with {}", schedulers.join(" or "))),
            Err(reason) => Outcome::Unavailable(reason),
        }
    }

    fn put(&self, dir: &Path, name: &str, value: &str) -> Result<String, String> {
        self.files().exchange(dir, name, value).map_err(|fault| format!("`{}`: {fault}", dir.join(name).display()))
    }

    fn set_exactly(&self, dir: &Path, name: &str, value: &str) -> Result<(), String> {
        let shown = self.put(dir, name, value)?;
        if shown == value { Ok(()) } else { Err(format!("`{name}` shows `{shown}` after `{value}` was written")) }
    }

    /// A limit in bytes, which the kernel rounds down to whole pages.
    fn set_bytes(&self, dir: &Path, name: &str, bytes: u64) -> Result<(), String> {
        let shown = self.put(dir, name, &bytes.to_string())?;
        let close = |got: u64| got <= bytes && bytes - got < LARGEST_PAGE;
        if shown.parse().is_ok_and(close) { Ok(()) } else { Err(format!("`{name}` shows `{shown}` after `{bytes}`")) }
    }
}

fn told(result: Result<(), String>) -> Outcome {
    result.map_or_else(Outcome::Unavailable, |()| Outcome::Enforced)
}

fn look(dir: &Path, name: &str) -> Result<String, String> {
    let path = dir.join(name);
    read(&path).map_err(|fault| format!("`{}`: {fault}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::cgroup::LeafPlace;

    /// A folder with the files of a v2 leaf; they hold what is written, as the kernel's mostly do.
    fn fake(controllers: &str, files: &[&str]) -> (tempfile::TempDir, Leaf) {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("cgroup.controllers"), controllers).expect("write");
        for name in files {
            std::fs::write(dir.path().join(name), "").expect("write");
        }
        let place = LeafPlace { unified: Some(dir.path().to_owned()), v1: Vec::new() };
        let leaf = Leaf::open(place, Vec::new()).expect("leaf");
        (dir, leaf)
    }

    fn limits() -> Limits {
        Limits {
            cpu_quota: Some(CpuQuota::nearest(500)),
            cpu_weight: Weight::new(50).ok(),
            memory_high: Some(10 << 20),
            memory_max: Some(20 << 20),
            swap_max: Some(0),
            pids_max: Some(64),
            io_weight: Weight::new(50).ok(),
            nice: Some(5),
            ..Limits::default()
        }
    }

    #[test]
    fn limits_are_written_in_the_form_of_v2() {
        let files = ["cpu.max", "cpu.weight", "memory.high", "memory.max", "memory.swap.max", "pids.max", "io.weight"];
        let (dir, leaf) = fake("cpu io memory pids", &files);
        let applied = leaf.apply(&limits());
        for (name, value) in files.iter().zip(["50000 100000", "50", "10485760", "20971520", "0", "64", "default 50"]) {
            assert_eq!(read(&dir.path().join(name)).expect("file"), value, "{name}");
        }
        let weight = Applied::new(Control::IoWeight, Outcome::Partial("holds on devices with io.cost".to_owned()));
        assert_eq!(applied.iter().filter(|one| one.outcome == Outcome::Enforced).count(), 6);
        assert!(applied.contains(&weight), "{applied:?}");
        assert!(!applied.iter().any(|one| one.control == Control::Nice));
    }

    #[test]
    fn a_controller_that_was_not_handed_down_makes_its_limits_unavailable() {
        let (_dir, leaf) = fake("pids", &["cpu.max", "memory.max", "pids.max"]);
        let applied = leaf.apply(&limits());
        for one in applied {
            match one.control {
                Control::PidsMax => assert_eq!(one.outcome, Outcome::Enforced),
                _ => assert!(matches!(one.outcome, Outcome::Unavailable(_)), "{one:?}"),
            }
        }
    }

    #[test]
    fn a_missing_file_is_unavailable_and_names_itself() {
        let (_dir, leaf) = fake("memory", &["memory.max"]);
        let applied = leaf.apply(&Limits { swap_max: Some(0), ..Limits::default() });
        let Outcome::Unavailable(reason) = &applied[0].outcome else { panic!("{applied:?}") };
        assert!(reason.contains("memory.swap.max"), "{reason}");
    }

    #[test]
    fn a_value_that_the_kernel_changed_is_not_called_enforced() {
        let (dir, leaf) = fake("", &[]);
        assert!(leaf.set_exactly(dir.path(), "none", "1").is_err());
        // A device takes every byte and shows none.
        std::os::unix::fs::symlink("/dev/null", dir.path().join("pids.max")).expect("link");
        assert!(leaf.set_exactly(dir.path(), "pids.max", "64").is_err());
        assert!(leaf.set_bytes(dir.path(), "pids.max", 64).is_err());
    }
}
