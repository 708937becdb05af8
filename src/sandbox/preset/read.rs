//! A preset's file, key by key: nothing is defaulted, every fault is told.

use std::path::Path;

use toml::de::DeValue;

use crate::config::Faults;
use crate::config::located::{ByteSize, Document, Found, Section, Value, expected, nearest};
use crate::sandbox::cgroup::{Control, CpuQuota, CpuSet, SchedulingPolicy, Weight};

use super::{Affinity, CpuAmount, Egress, MemoryAmount, Percent, Preset, PresetName};

/// The least memory that anything of use starts in.
const LEAST_MEMORY: u64 = 16 << 20;
/// Tasks that a preset may allow: the kernel's own bound of PIDs on a 64-bit host, 2^22.
const MOST_PIDS: u64 = 1 << 22;
/// Connections that a preset may allow: as many as there are ports.
const MOST_CONNECTIONS: u64 = 65_535;

pub(super) fn parse(path: &Path, text: &str) -> Result<Preset, Faults> {
    let document = Document::new(path, text);
    let preset = document.root(text).and_then(|mut root| {
        let preset = take(&document, &mut root);
        root.end();
        preset
    });
    match (preset, document.into_faults()) {
        (Some(preset), faults) if faults.is_empty() => Ok(preset),
        (_, faults) => Err(Faults(faults)),
    }
}

/// Every key is taken before the first missing one ends it, so that all faults show.
fn take(document: &Document, root: &mut Section<'_, '_>) -> Option<Preset> {
    let name = root.require::<PresetName>("name");
    let description = root.require::<String>("description");
    let adapts = root.require::<bool>("adapts");
    let optional = root.list::<Control>("optional").unwrap_or_default();
    let cpu = part(document, root, "cpu", |cpu| {
        let quota = cpu.require::<CpuAmount>("quota");
        let weight = cpu.require::<Weight>("weight");
        let affinity = cpu.require::<Affinity>("affinity");
        let nice = cpu.require::<Nice>("nice");
        let policy = cpu.require::<SchedulingPolicy>("policy");
        Some((quota?.value, weight?.value, affinity?.value, nice?.value, policy?.value))
    });
    let memory = part(document, root, "memory", |memory| {
        let high = memory.require::<MemoryAmount>("high");
        let max = memory.require::<MemoryAmount>("max");
        let swap = memory.require::<MemoryAmount>("swap");
        let (high, max) = (high?, max?);
        ordered(document, &high, &max);
        not_too_small(document, &max);
        Some((high.value, max.value, swap?.value))
    });
    let pids = part(document, root, "tasks", |tasks| Some(tasks.require::<Count<MOST_PIDS>>("max")?.value.0));
    let io = part(document, root, "io", |io| Some(io.require::<Weight>("weight")?.value));
    let egress = part(document, root, "egress", |egress| {
        let connections = egress.require::<Count<MOST_CONNECTIONS>>("connections");
        let rate = egress.require::<Rate>("rate");
        let connections = u32::try_from(connections?.value.0).ok()?;
        Some(Egress { connections, bytes_per_second: rate?.value.0 })
    });
    let ((cpu_quota, cpu_weight, affinity, Nice(nice), policy), (memory_high, memory_max, swap_max)) = (cpu?, memory?);
    let (name, adapts) = (name?, adapts?);
    if adapts.value && cpu_quota == CpuAmount::Unlimited {
        document.fault_with_hint(
            &adapts.place,
            "there is no CPU quota to adapt",
            "give cpu.quota a bound, or write `adapts = false`",
        );
    }
    Some(Preset {
        name: name.value,
        description: description?.value,
        adapts: adapts.value,
        optional: optional.into_iter().map(|found| found.value).collect(),
        cpu_quota,
        cpu_weight,
        affinity,
        nice,
        policy,
        memory_high,
        memory_max,
        swap_max,
        pids_max: pids?,
        io_weight: io?,
        egress: egress?,
    })
}

/// Takes a table that must be there; `read` takes its keys.
fn part<'d, 'i, T>(
    document: &Document,
    root: &mut Section<'d, 'i>,
    key: &'static str,
    read: impl FnOnce(&mut Section<'d, 'i>) -> Option<T>,
) -> Option<T> {
    let place = root.place_of(key);
    let there = root.has(key);
    let Some(mut section) = root.section(key) else {
        if !there {
            document.fault(&place, "the table is missing");
        }
        return None;
    };
    let found = read(&mut section);
    section.end();
    found
}

fn ordered(document: &Document, high: &Found<MemoryAmount>, max: &Found<MemoryAmount>) {
    let above = match (high.value, max.value) {
        (MemoryAmount::Unlimited, MemoryAmount::OfHost(_) | MemoryAmount::Bytes(_)) => true,
        (MemoryAmount::OfHost(high), MemoryAmount::OfHost(max)) => high.0 > max.0,
        (MemoryAmount::Bytes(high), MemoryAmount::Bytes(max)) => high > max,
        // A share and a number are compared on the host.
        _ => false,
    };
    if above {
        document.fault(&high.place, "it lies above memory.max, so it would never be reached");
    }
}

fn not_too_small(document: &Document, max: &Found<MemoryAmount>) {
    if matches!(max.value, MemoryAmount::Bytes(bytes) if bytes < LEAST_MEMORY) {
        document.fault(&max.place, "nothing starts in less than 16 MiB");
    }
}

impl Value for PresetName {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        Self::parse(&String::read(value)?).map_err(|fault| fault.to_string())
    }
}

impl Value for Control {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let found = Self::ALL.into_iter().find(|control| control.code() == text);
        found.ok_or_else(|| {
            let codes = Self::ALL.map(Self::code);
            let hint = nearest(&text, &codes).map_or_else(|| codes.join(", "), |code| format!("`{code}`"));
            format!("no such limit; expected {hint}")
        })
    }
}

/// `"25%"`.
fn percent(text: &str) -> Option<Percent> {
    let digits = text.strip_suffix('%')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|percent| plain && (1..=100).contains(percent)).map(Percent)
}

impl Value for CpuAmount {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = String::read(value)?;
        let read = || {
            if text == "unlimited" {
                return Some(Self::Unlimited);
            }
            if let Some(share) = percent(&text) {
                return Some(Self::OfHost(share));
            }
            let millis = thousandths(text.strip_suffix(" CPUs")?)?;
            Some(Self::Millis(CpuQuota::from_millis(millis).ok()?.millis()))
        };
        read().ok_or_else(|| "expected \"25%\" of the host, \"1.5 CPUs\" (from 0.01) or \"unlimited\"".to_owned())
    }
}

/// `1.5` as 1500; up to three digits behind the point.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(part) || part.len() > 3 {
        return None;
    }
    let part: u32 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1_000)?.checked_add(part)
}

impl Value for MemoryAmount {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let wrong = || "expected \"25%\" of the host, a size such as \"512MiB\", or \"unlimited\"".to_owned();
        match value {
            DeValue::String(text) if text == "unlimited" => Ok(Self::Unlimited),
            DeValue::String(text) if text.ends_with('%') => percent(text).map(Self::OfHost).ok_or_else(wrong),
            _ => ByteSize::read(value).map(|size| Self::Bytes(size.0)).map_err(|_| wrong()),
        }
    }
}

impl Value for Affinity {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match String::read(value)?.as_str() {
            "all" => Ok(Self::All),
            "half" => Ok(Self::Half),
            list => CpuSet::parse(list)
                .map(Self::These)
                .map_err(|_| "expected \"all\", \"half\" or a list such as \"0-3,8\"".to_owned()),
        }
    }
}

impl Value for SchedulingPolicy {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match String::read(value)?.as_str() {
            "other" => Ok(Self::Other),
            "batch" => Ok(Self::Batch),
            "idle" => Ok(Self::Idle),
            _ => Err("expected \"other\", \"batch\" or \"idle\"; real-time policies could starve the host".to_owned()),
        }
    }
}

impl Value for Weight {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        Self::new(u64::read(value)?).map_err(|fault| fault.to_string())
    }
}

/// Niceness: never below 0, where a runtime would run before the gateway that watches it.
struct Nice(i8);

impl Value for Nice {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let found = value.as_integer().ok_or_else(|| expected("a whole number", value))?;
        let nice = i8::from_str_radix(found.as_str(), found.radix()).ok().filter(|nice| (0..=19).contains(nice));
        nice.map(Self).ok_or_else(|| "niceness lies between 0 and 19: nothing runs before the gateway".to_owned())
    }
}

/// A whole number from 1 to `MOST`.
struct Count<const MOST: u64>(u64);

impl<const MOST: u64> Value for Count<MOST> {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let count = u64::read(value)?;
        if (1..=MOST).contains(&count) { Ok(Self(count)) } else { Err(format!("it lies between 1 and {MOST}")) }
    }
}

/// Bytes in a second: `"4MiB"` or `"unlimited"`.
struct Rate(Option<u64>);

impl Value for Rate {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) if text == "unlimited" => Ok(Self(None)),
            _ => match ByteSize::read(value) {
                Ok(ByteSize(0)) => Err("a rate of 0 lets nothing leave; set the persona's posture to `off`".to_owned()),
                Ok(ByteSize(bytes)) => Ok(Self(Some(bytes))),
                Err(_) => Err("expected bytes in a second such as \"4MiB\", or \"unlimited\"".to_owned()),
            },
        }
    }
}
