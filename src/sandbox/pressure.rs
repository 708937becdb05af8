//! Pressure and heat of the host, and how eco gives way to them.
//!
//! ```text
//!             strained for 6 s, 15 s after the last change
//!        ┌────────────────────────────────────────────────┐
//!        │                                                ▼
//!    level 0 ── level 1 ── level 2 ── level 3        half, quarter, eighth of the quota
//!        ▲                                                │
//!        └────────────────────────────────────────────────┘
//!              calm for 60 s, 60 s after the last change
//! ```
//!
//! One level at a time. Strained is above the upper mark of any reading, calm is below the lower mark of
//! all; between them nothing happens, which together with the waiting times keeps it from flapping.
//! [`step`] is pure; [`Sources`] reads the host. It refuses to act on what it cannot read: a missing
//! reading neither tightens nor relaxes.

mod sources;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::cgroup::{CpuQuota, Psi, Share};

pub use sources::Sources;

/// A temperature in thousandths of a degree Celsius.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Celsius(i32);

impl Celsius {
    /// What a sensor of a living host can say; others are broken and are not listened to.
    const BELIEVED: std::ops::RangeInclusive<i32> = -40_000..=125_000;

    /// From degrees; `None` when no working sensor says that.
    pub fn from_degrees(degrees: f32) -> Option<Self> {
        let millis = (f64::from(degrees) * 1_000.0).round();
        // A float becomes an integer by saturation, and not-a-number becomes 0.
        let millis = if millis.is_finite() { millis as i32 } else { return None };
        Self::BELIEVED.contains(&millis).then_some(Self(millis))
    }

    /// Degrees.
    pub fn degrees(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl fmt::Display for Celsius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} °C", self.degrees())
    }
}

/// The host at one moment. What it does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// When, by a clock that never goes back, from any start.
    pub at: Duration,
    /// Waits for a CPU.
    pub cpu: Option<Psi>,
    /// Waits for memory.
    pub memory: Option<Psi>,
    /// Waits for block devices.
    pub io: Option<Psi>,
    /// The hottest sensor.
    pub hottest: Option<Celsius>,
}

/// Why the quota changes; the code is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Tasks of the host waited for a CPU.
    CpuPressure,
    /// All tasks of the host waited for memory at once.
    MemoryPressure,
    /// All tasks of the host waited for block devices at once.
    IoPressure,
    /// A sensor was too hot.
    Heat,
    /// The host is calm again.
    Calm,
}

impl Cause {
    /// The stable name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::CpuPressure => "cpu_pressure",
            Self::MemoryPressure => "memory_pressure",
            Self::IoPressure => "io_pressure",
            Self::Heat => "heat",
            Self::Calm => "calm",
        }
    }
}

/// Why, with the numbers behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The cause.
    pub cause: Cause,
    /// The average over 10 seconds, where the cause is a pressure.
    pub share: Option<Share>,
    /// The hottest sensor, where the cause is heat.
    pub temperature: Option<Celsius>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause.code())?;
        if let Some(share) = self.share {
            write!(f, " {share} over 10 s")?;
        }
        if let Some(temperature) = self.temperature {
            write!(f, " {temperature}")?;
        }
        Ok(())
    }
}

/// A new quota for the runtime, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Adjustment {
    /// The quota from now on.
    pub cpu_quota: CpuQuota,
    /// Why.
    pub reason: Reason,
}

/// The marks of one reading: above `strained` it asks to tighten, below `calm` it allows to relax.
struct Marks<T> {
    strained: T,
    calm: T,
}

/// Some task waits for a CPU most of the time: people and other services notice.
const CPU: Marks<Share> = Marks { strained: Share::percent(60), calm: Share::percent(30) };
/// All tasks at once wait for memory: the host is close to thrashing.
const MEMORY: Marks<Share> = Marks { strained: Share::percent(10), calm: Share::percent(2) };
/// All tasks at once wait for block devices.
const IO: Marks<Share> = Marks { strained: Share::percent(40), calm: Share::percent(15) };
/// Most chips slow themselves down from 90 to 100 °C.
const HEAT: Marks<Celsius> = Marks { strained: Celsius(85_000), calm: Celsius(75_000) };

/// Halvings of the quota at the most.
const LEVELS: u8 = 3;
/// The least that pressure leaves, a twentieth of a CPU: a runtime must still answer its probes.
const FLOOR: CpuQuota = CpuQuota::from_const::<50>();
/// How long the host is strained before it counts.
const STRAINED_FOR: Duration = Duration::from_secs(6);
/// How long a change is given to show before the next tightening: longer than the window of `avg10`.
const SETTLE: Duration = Duration::from_secs(15);
/// How long the host is calm before a level is given back.
const CALM_FOR: Duration = Duration::from_secs(60);
/// A gap between readings from which what was before it does not count: the host was asleep.
const GAP: Duration = Duration::from_secs(30);

/// How far a runtime is tightened. Begins with `State::default()`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    level: u8,
    last: Option<Duration>,
    changed: Option<Duration>,
    strained_since: Option<Duration>,
    calm_since: Option<Duration>,
}

impl State {
    /// Halvings of the quota, 0 to 3.
    pub const fn level(&self) -> u8 {
        self.level
    }

    /// The quota at this level for a runtime whose preset gives it `ceiling`.
    pub fn quota(&self, ceiling: CpuQuota) -> CpuQuota {
        let halved = CpuQuota::nearest(u64::from(ceiling.millis() >> self.level));
        halved.max(FLOOR.min(ceiling))
    }
}

/// Takes one reading in. `ceiling` is the quota of the preset: an adjustment never exceeds it.
#[must_use]
pub fn step(state: State, reading: &Reading, ceiling: CpuQuota) -> (State, Option<Adjustment>) {
    // A clock that goes back all the same is taken to stand still.
    let now = state.last.map_or(reading.at, |last| last.max(reading.at));
    let awake = state.last.is_some_and(|last| now - last < GAP);
    let strain = strain(reading);
    let calm = strain.is_none() && is_calm(reading);
    let since = |before: Option<Duration>, holds: bool| holds.then(|| before.filter(|_| awake).unwrap_or(now));
    let mut next = State {
        last: Some(now),
        strained_since: since(state.strained_since, strain.is_some()),
        calm_since: since(state.calm_since, calm),
        ..state
    };
    let for_long = |since: Option<Duration>, long: Duration| since.is_some_and(|since| now - since >= long);
    let settled = |long: Duration| state.changed.is_none_or(|changed| now - changed >= long);
    let (level, reason) = match strain {
        Some(reason) if for_long(next.strained_since, STRAINED_FOR) && settled(SETTLE) && state.level < LEVELS => {
            (state.level + 1, reason)
        }
        None if for_long(next.calm_since, CALM_FOR) && settled(CALM_FOR) && state.level > 0 => {
            (state.level - 1, Reason { cause: Cause::Calm, share: None, temperature: None })
        }
        _ => return (next, None),
    };
    next = State { level, changed: Some(now), ..next };
    let (before, after) = (state.quota(ceiling), next.quota(ceiling));
    (next, (before != after).then_some(Adjustment { cpu_quota: after, reason }))
}

/// The strongest reason to tighten: heat before memory before CPU before devices.
fn strain(reading: &Reading) -> Option<Reason> {
    let pressure = |cause, share: Option<Share>, marks: &Marks<Share>| {
        let share = share.filter(|share| *share >= marks.strained)?;
        Some(Reason { cause, share: Some(share), temperature: None })
    };
    let hot = reading.hottest.filter(|hottest| *hottest >= HEAT.strained);
    hot.map(|hottest| Reason { cause: Cause::Heat, share: None, temperature: Some(hottest) })
        .or_else(|| pressure(Cause::MemoryPressure, full(reading.memory), &MEMORY))
        .or_else(|| pressure(Cause::CpuPressure, some(reading.cpu), &CPU))
        .or_else(|| pressure(Cause::IoPressure, full(reading.io), &IO))
}

/// All that the host tells is below its lower mark, and it tells something.
fn is_calm(reading: &Reading) -> bool {
    let (cpu, memory, io) = (some(reading.cpu), full(reading.memory), full(reading.io));
    let told = cpu.is_some() || memory.is_some() || io.is_some() || reading.hottest.is_some();
    let below = |share: Option<Share>, marks: &Marks<Share>| share.is_none_or(|share| share < marks.calm);
    told && below(cpu, &CPU)
        && below(memory, &MEMORY)
        && below(io, &IO)
        && reading.hottest.is_none_or(|hottest| hottest < HEAT.calm)
}

fn some(psi: Option<Psi>) -> Option<Share> {
    psi.map(|psi| psi.some.avg10)
}

fn full(psi: Option<Psi>) -> Option<Share> {
    psi?.full.map(|full| full.avg10)
}

#[cfg(test)]
mod tests;
