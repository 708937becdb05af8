//! Presets: named resource limits. They come with the program as annotated files in `profiles/presets`.
//!
//! A preset says what a runtime may use, in shares of the host or in absolute numbers. [`resolve()`] makes
//! numbers of it for one host, and [`claim`] says afterwards whether the runtime may carry its name:
//! when a limit could not be applied, it may not.

mod read;
mod resolve;

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::config::Faults;
use crate::domain::codes;

use super::cgroup::{Applied, Control, Outcome, SchedulingPolicy, Weight};

pub use resolve::{Host, HostFault, resolve};

codes! {
    /// The presets, from the smallest.
    PresetName {
        /// The default, and the only one without a justification: a guest that the host hardly notices.
        Eco => "eco",
        /// A fair share.
        Balanced => "balanced",
        /// Most of the host.
        Performance => "performance",
        /// All of the host but what keeps it alive.
        Turbo => "turbo",
        /// Feeds an accelerator.
        Gpu => "gpu",
    }
}

/// The text names no preset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no preset; there are eco, balanced, performance, turbo and gpu")]
pub struct PresetNameFault(String);

impl PresetName {
    /// Reads a name.
    ///
    /// # Errors
    /// It is none of the five.
    pub fn parse(text: &str) -> Result<Self, PresetNameFault> {
        Self::from_code(text).ok_or_else(|| PresetNameFault(text.chars().take(64).collect()))
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Eco => include_str!("../../profiles/presets/eco.toml"),
            Self::Balanced => include_str!("../../profiles/presets/balanced.toml"),
            Self::Performance => include_str!("../../profiles/presets/performance.toml"),
            Self::Turbo => include_str!("../../profiles/presets/turbo.toml"),
            Self::Gpu => include_str!("../../profiles/presets/gpu.toml"),
        }
    }
}

/// A whole number of percent, 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(u8);

/// How much CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuAmount {
    /// As much as there is.
    Unlimited,
    /// A share of all CPUs of the host.
    OfHost(Percent),
    /// Thousandths of a CPU.
    Millis(u32),
}

/// How much memory or swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryAmount {
    /// As much as there is.
    Unlimited,
    /// A share of the host's memory.
    OfHost(Percent),
    /// Bytes.
    Bytes(u64),
}

/// Which CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// All that the daemon has.
    All,
    /// The first half of them.
    Half,
    /// These, as far as the daemon has them.
    These(super::cgroup::CpuSet),
}

/// What the runtime's persona may do at once and how fast; the gateway holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Egress {
    /// Connections open at once.
    pub connections: u32,
    /// Bytes in a second, both directions together; `None` is unlimited.
    pub bytes_per_second: Option<u64>,
}

/// Named resource limits, as their file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: PresetName,
    /// One line for a person.
    pub description: String,
    /// Whether pressure and heat tighten its CPU quota.
    pub adapts: bool,
    /// Limits that a host may lack without the runtime losing the name; they are reported all the same.
    pub optional: Vec<Control>,
    /// CPU time.
    pub cpu_quota: CpuAmount,
    /// Share against others.
    pub cpu_weight: Weight,
    /// Which CPUs.
    pub affinity: Affinity,
    /// Niceness, 0 to 19.
    pub nice: i8,
    /// Scheduling policy.
    pub policy: SchedulingPolicy,
    /// Memory from which it is slowed.
    pub memory_high: MemoryAmount,
    /// Memory that ends it.
    pub memory_max: MemoryAmount,
    /// Swap beside it.
    pub swap_max: MemoryAmount,
    /// Tasks.
    pub pids_max: u64,
    /// Share of block devices.
    pub io_weight: Weight,
    /// What leaves the host.
    pub egress: Egress,
}

impl Preset {
    /// The preset as it came with the program, read once.
    pub fn embedded(name: PresetName) -> &'static Self {
        static READ: [OnceLock<Preset>; PresetName::ALL.len()] = [const { OnceLock::new() }; PresetName::ALL.len()];
        READ[name as usize].get_or_init(|| {
            let path = format!("profiles/presets/{name}.toml");
            let preset = Self::parse(Path::new(&path), name.text());
            let preset = preset.expect("an embedded preset is right, which a test holds");
            assert_eq!(preset.name, name, "the name in {path}");
            preset
        })
    }

    /// Reads a preset's file.
    ///
    /// # Errors
    /// Every fault of it, with line, key and a hint.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Faults> {
        read::parse(path, text)
    }

    /// What the preset asks for on any host.
    pub fn asked(&self) -> Vec<Control> {
        let left_out = |control: &Control| match control {
            Control::CpuQuota => self.cpu_quota == CpuAmount::Unlimited,
            Control::CpuAffinity => self.affinity == Affinity::All,
            Control::MemoryHigh => self.memory_high == MemoryAmount::Unlimited,
            Control::MemoryMax => self.memory_max == MemoryAmount::Unlimited,
            Control::SwapMax => self.swap_max == MemoryAmount::Unlimited,
            Control::CpuWeight | Control::Nice | Control::SchedulingPolicy | Control::PidsMax | Control::IoWeight => {
                false
            }
        };
        Control::ALL.into_iter().filter(|control| !left_out(control)).collect()
    }
}

/// A preset above eco was asked for without saying why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the preset `{0}` needs a justification: say why `eco` is not enough")]
pub struct NeedsJustification(pub PresetName);

/// Whether a manifest may ask for the preset: every one above eco needs a justification in words.
///
/// # Errors
/// [`NeedsJustification`]; blanks and punctuation are no words.
pub fn permit(name: PresetName, justification: Option<&str>) -> Result<(), NeedsJustification> {
    let has_words = |text: &str| text.chars().any(char::is_alphanumeric);
    if name == PresetName::Eco || justification.is_some_and(has_words) { Ok(()) } else { Err(NeedsJustification(name)) }
}

/// What a runtime may call itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// It runs within this preset.
    Preset(PresetName),
    /// It does not: these limits do not hold, or not wholly.
    Reduced {
        /// Which.
        missing: Vec<Control>,
    },
}

/// Whether a runtime may carry the preset's name: every limit that the preset asks for, its `optional`
/// ones aside, was reported, and every report of it says enforced. A limit that nobody reported is missing.
pub fn claim(applied: &[Applied], preset: &Preset) -> Claim {
    let holds = |control: Control| {
        let mut reports = applied.iter().filter(|one| one.control == control).peekable();
        reports.peek().is_some() && reports.all(|one| one.outcome == Outcome::Enforced)
    };
    let needed = preset.asked().into_iter().filter(|control| !preset.optional.contains(control));
    let missing: Vec<Control> = needed.filter(|control| !holds(*control)).collect();
    if missing.is_empty() { Claim::Preset(preset.name) } else { Claim::Reduced { missing } }
}

#[cfg(test)]
mod tests;
