//! The words: what is limited, by how much, and what became of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sys::schedule::Policy;

/// CPU time per wall time, in thousandths of one CPU: 1500 is one and a half CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct CpuQuota(u32);

/// The number is not a quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a CPU quota lies between 0.01 and 1024 CPUs")]
pub struct CpuQuotaFault;

impl CpuQuota {
    /// One hundredth of a CPU: the kernel takes no less than 1 ms in each period of 100 ms.
    pub const LEAST: Self = Self(10);
    /// As many as a [`CpuSet`] can name.
    pub const MOST: Self = Self(1_024_000);

    /// A quota known when this is compiled, in thousandths of a CPU; outside of the bounds it does not.
    pub const fn from_const<const MILLIS: u32>() -> Self {
        const { assert!(MILLIS >= Self::LEAST.0 && MILLIS <= Self::MOST.0, "outside of the bounds of a quota") }
        Self(MILLIS)
    }

    /// From thousandths of a CPU.
    ///
    /// # Errors
    /// Below [`CpuQuota::LEAST`] or above [`CpuQuota::MOST`].
    pub fn from_millis(millis: u32) -> Result<Self, CpuQuotaFault> {
        let quota = Self(millis);
        if (Self::LEAST..=Self::MOST).contains(&quota) { Ok(quota) } else { Err(CpuQuotaFault) }
    }

    /// The nearest quota to this many thousandths of a CPU.
    pub fn nearest(millis: u64) -> Self {
        Self(u32::try_from(millis).unwrap_or(u32::MAX)).clamp(Self::LEAST, Self::MOST)
    }

    /// Thousandths of a CPU.
    pub const fn millis(self) -> u32 {
        self.0
    }

    /// Microseconds of CPU time in each [`PERIOD_MICROS`].
    pub(super) fn micros_per_period(self) -> u64 {
        u64::from(self.0) * PERIOD_MICROS / 1_000
    }
}

impl fmt::Display for CpuQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} CPUs", self.0 / 1_000, self.0 % 1_000)
    }
}

/// The kernel's default period: short enough that a throttled runtime still answers its probes.
pub(super) const PERIOD_MICROS: u64 = 100_000;

/// A share against the neighbours, 1 to 10000; 100 is the default (v2's scale, `cgroups(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Weight(u16);

/// The number is not a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a weight lies between 1 and 10000")]
pub struct WeightFault;

impl Weight {
    /// Checks the number.
    ///
    /// # Errors
    /// Outside 1..=10000.
    pub fn new(weight: u64) -> Result<Self, WeightFault> {
        u16::try_from(weight).ok().filter(|weight| (1..=10_000).contains(weight)).map(Self).ok_or(WeightFault)
    }

    /// The number.
    pub const fn value(self) -> u16 {
        self.0
    }

    /// The same share on v1's scale of `cpu.shares`, where the default is 1024 and the least 2.
    pub(super) fn shares(self) -> u64 {
        (u64::from(self.0) * 1_024 / 100).max(2)
    }

    /// The same share on the scale of v1's `blkio` weights: 1 to 1000 with 100 as default.
    pub(super) fn blkio(self) -> u64 {
        u64::from(self.0).min(1_000)
    }
}

/// Some of the host's CPUs, by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CpuSet(Vec<u16>);

/// The text is not a list of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a list of CPUs looks like `0-3,8`; numbers go up to 1023")]
pub struct CpuSetFault;

/// CPUs that `sched_setaffinity` can name with the fixed set of the C library.
const MAX_CPUS: u16 = 1_024;

impl CpuSet {
    /// From numbers, in any order.
    ///
    /// # Errors
    /// None at all, or one of 1024 and more.
    pub fn new(numbers: impl IntoIterator<Item = u16>) -> Result<Self, CpuSetFault> {
        let mut numbers: Vec<u16> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let fits = numbers.last().is_some_and(|last| *last < MAX_CPUS);
        if fits { Ok(Self(numbers)) } else { Err(CpuSetFault) }
    }

    /// Reads the kernel's list format, `0-3,8` (`cpuset(7)`).
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, CpuSetFault> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|number| digits && *number < MAX_CPUS).ok_or(CpuSetFault)
        };
        let mut numbers = Vec::new();
        for part in text.trim_end_matches('\n').split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(CpuSetFault);
            }
            numbers.extend(first..=last);
        }
        Self::new(numbers)
    }

    /// The numbers, rising.
    pub fn numbers(&self) -> &[u16] {
        &self.0
    }

    /// The first half of the CPUs, rounded up.
    #[must_use]
    pub fn half(&self) -> Self {
        Self(self.0[..self.0.len().div_ceil(2)].to_vec())
    }

    /// Those that are in both; `None` when there is no such CPU.
    pub fn common(&self, other: &Self) -> Option<Self> {
        Self::new(self.0.iter().copied().filter(|number| other.0.contains(number))).ok()
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for CpuSet {
    type Error = CpuSetFault;

    fn try_from(text: String) -> Result<Self, CpuSetFault> {
        Self::parse(&text)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(first) = rest.first().copied() {
            let run = rest.iter().zip(first..).take_while(|(number, expected)| *number == expected).count();
            let last = rest[run - 1];
            if first == last {
                write!(f, "{comma}{first}")?
            } else {
                write!(f, "{comma}{first}-{last}")?
            }
            (rest, comma) = (&rest[run..], ",");
        }
        Ok(())
    }
}

/// How the scheduler treats a runtime; see [`Policy`].
pub type SchedulingPolicy = Policy;

/// What a runtime may use. `None` asks for nothing: then nothing is written and nothing is reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU time per wall time.
    pub cpu_quota: Option<CpuQuota>,
    /// Share of the CPUs against other groups.
    pub cpu_weight: Option<Weight>,
    /// Which CPUs.
    pub cpus: Option<CpuSet>,
    /// Niceness, 0 to 19.
    pub nice: Option<i8>,
    /// Scheduling policy.
    pub policy: Option<SchedulingPolicy>,
    /// Bytes of memory from which the runtime is slowed and its memory reclaimed.
    pub memory_high: Option<u64>,
    /// Bytes of memory that end it.
    pub memory_max: Option<u64>,
    /// Bytes of swap beside the memory.
    pub swap_max: Option<u64>,
    /// Tasks, threads included.
    pub pids_max: Option<u64>,
    /// Share of block devices against other groups.
    pub io_weight: Option<Weight>,
}

/// One thing that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// [`Limits::cpu_quota`].
    CpuQuota,
    /// [`Limits::cpu_weight`].
    CpuWeight,
    /// [`Limits::cpus`].
    CpuAffinity,
    /// [`Limits::nice`].
    Nice,
    /// [`Limits::policy`].
    SchedulingPolicy,
    /// [`Limits::memory_high`].
    MemoryHigh,
    /// [`Limits::memory_max`].
    MemoryMax,
    /// [`Limits::swap_max`].
    SwapMax,
    /// [`Limits::pids_max`].
    PidsMax,
    /// [`Limits::io_weight`].
    IoWeight,
}

impl Control {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::CpuQuota,
        Self::CpuWeight,
        Self::CpuAffinity,
        Self::Nice,
        Self::SchedulingPolicy,
        Self::MemoryHigh,
        Self::MemoryMax,
        Self::SwapMax,
        Self::PidsMax,
        Self::IoWeight,
    ];

    /// The stable name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::CpuQuota => "cpu_quota",
            Self::CpuWeight => "cpu_weight",
            Self::CpuAffinity => "cpu_affinity",
            Self::Nice => "nice",
            Self::SchedulingPolicy => "scheduling_policy",
            Self::MemoryHigh => "memory_high",
            Self::MemoryMax => "memory_max",
            Self::SwapMax => "swap_max",
            Self::PidsMax => "pids_max",
            Self::IoWeight => "io_weight",
        }
    }

    /// Whether a process sets it on itself; the others are set on a group.
    pub(super) const fn is_of_a_process(self) -> bool {
        matches!(self, Self::Nice | Self::SchedulingPolicy)
    }
}

impl Limits {
    /// What these limits ask for.
    pub fn asked(&self) -> Vec<Control> {
        Control::ALL.into_iter().filter(|control| self.asks(*control)).collect()
    }

    fn asks(&self, control: Control) -> bool {
        match control {
            Control::CpuQuota => self.cpu_quota.is_some(),
            Control::CpuWeight => self.cpu_weight.is_some(),
            Control::CpuAffinity => self.cpus.is_some(),
            Control::Nice => self.nice.is_some(),
            Control::SchedulingPolicy => self.policy.is_some(),
            Control::MemoryHigh => self.memory_high.is_some(),
            Control::MemoryMax => self.memory_max.is_some(),
            Control::SwapMax => self.swap_max.is_some(),
            Control::PidsMax => self.pids_max.is_some(),
            Control::IoWeight => self.io_weight.is_some(),
        }
    }
}

/// What became of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "snake_case")]
pub enum Outcome {
    /// It was written and read back.
    Enforced,
    /// Something holds, and this is what is missing.
    Partial(String),
    /// Nothing holds, and this is why.
    Unavailable(String),
}

impl Outcome {
    /// Which of two that speak of one control says that more holds.
    const fn rank(&self) -> u8 {
        match self {
            Self::Enforced => 2,
            Self::Partial(_) => 1,
            Self::Unavailable(_) => 0,
        }
    }
}

/// A limit and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Which.
    pub control: Control,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Applied {
    pub(super) const fn new(control: Control, outcome: Outcome) -> Self {
        Self { control, outcome }
    }
}

/// Joins what two mechanisms achieved in the same launch, the group's and the process's own: of each
/// control the better one, since either holds without the other.
pub fn merge(group: Vec<Applied>, process: Vec<Applied>) -> Vec<Applied> {
    let mut joined = group;
    for one in process {
        match joined.iter_mut().find(|other| other.control == one.control) {
            Some(other) if one.outcome.rank() > other.outcome.rank() => *other = one,
            Some(_) => {}
            None => joined.push(one),
        }
    }
    joined.sort_by_key(|applied| applied.control);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_round_trip_in_the_kernel_form() {
        for text in ["0", "0-3", "0-3,8", "1,3,5-6", "1023"] {
            assert_eq!(CpuSet::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(CpuSet::parse("3,1,2,2\n").expect("list").to_string(), "1-3");
        for bad in ["", "a", "3-1", "1024", "0-", "-1", "+1", "0,,1", "0 1", "0-99999"] {
            assert_eq!(CpuSet::parse(bad), Err(CpuSetFault), "{bad}");
        }
        assert_eq!(CpuSet::parse("0-4").expect("list").half().to_string(), "0-2");
        let (some, other) = (CpuSet::parse("0-3").expect("list"), CpuSet::parse("2-8").expect("list"));
        assert_eq!(some.common(&other).expect("shared").to_string(), "2-3");
        assert_eq!(some.common(&CpuSet::parse("9").expect("list")), None);
    }

    #[test]
    fn quotas_and_weights_are_bounded() {
        assert_eq!(CpuQuota::from_millis(9), Err(CpuQuotaFault));
        assert_eq!(CpuQuota::nearest(0), CpuQuota::LEAST);
        assert_eq!(CpuQuota::nearest(u64::MAX), CpuQuota::MOST);
        assert_eq!(CpuQuota::from_millis(1_500).expect("quota").to_string(), "1.500 CPUs");
        assert_eq!(CpuQuota::LEAST.micros_per_period(), 1_000);
        for bad in [0, 10_001, u64::MAX] {
            assert_eq!(Weight::new(bad), Err(WeightFault));
        }
        assert_eq!(Weight::new(100).expect("weight").shares(), 1_024);
        assert_eq!(Weight::new(1).expect("weight").shares(), 10);
    }

    #[test]
    fn joining_keeps_the_better_of_two_mechanisms() {
        let none = || Outcome::Unavailable("no cpuset".to_owned());
        let some = || Outcome::Partial("it may widen itself".to_owned());
        let group = vec![Applied::new(Control::PidsMax, Outcome::Enforced), Applied::new(Control::CpuAffinity, none())];
        let process = vec![Applied::new(Control::CpuAffinity, some()), Applied::new(Control::PidsMax, none())];
        let joined = merge(group, process);
        assert_eq!(joined[0], Applied::new(Control::CpuAffinity, some()));
        assert_eq!(joined[1], Applied::new(Control::PidsMax, Outcome::Enforced));
    }
}
