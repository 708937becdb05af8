use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::sandbox::cgroup::{CpuQuota, CpuSet};

fn host(cpus: u16, memory: u64) -> Host {
    Host { cpus: CpuSet::new(0..cpus).expect("cpus"), memory }
}

fn every_preset() -> Vec<Preset> {
    PresetName::ALL.iter().map(|name| Preset::embedded(*name).clone()).collect()
}

fn enforced(preset: &Preset) -> Vec<Applied> {
    let report = |control| Applied { control, outcome: Outcome::Enforced };
    preset.asked().into_iter().map(report).collect()
}

#[test]
fn every_preset_is_read_and_has_its_own_name() {
    for (preset, name) in every_preset().iter().zip(PresetName::ALL.iter().copied()) {
        assert_eq!(preset.name, name);
        assert_eq!(PresetName::parse(name.code()), Ok(name));
        assert_eq!(preset.adapts, name == PresetName::Eco, "{name}");
        assert!(!preset.description.is_empty());
    }
    assert!(PresetName::parse("Eco").is_err() && PresetName::parse("").is_err());
}

#[test]
fn a_larger_preset_never_gives_less() {
    let presets = every_preset();
    let host = host(8, 32 << 30);
    let sizes = |preset: &Preset| {
        let limits = resolve(preset, &host);
        (
            limits.cpu_quota.map_or(u32::MAX, CpuQuota::millis),
            limits.memory_max.unwrap_or(u64::MAX),
            limits.pids_max.unwrap_or(u64::MAX),
            limits.cpu_weight.expect("weight").value(),
            preset.egress.connections,
            preset.egress.bytes_per_second.unwrap_or(u64::MAX),
        )
    };
    for pair in presets[..4].windows(2) {
        let (small, large) = (sizes(&pair[0]), sizes(&pair[1]));
        assert!(
            small.0 <= large.0
                && small.1 <= large.1
                && small.2 <= large.2
                && small.3 <= large.3
                && small.4 <= large.4
                && small.5 <= large.5,
            "{small:?} {large:?}"
        );
        assert!(pair[0].nice >= pair[1].nice);
    }
}

#[test]
fn eco_in_numbers_on_a_host_of_eight_cpus() {
    let limits = resolve(Preset::embedded(PresetName::Eco), &host(8, 32 << 30));
    assert_eq!(limits.cpu_quota, Some(CpuQuota::nearest(2_000)));
    assert_eq!(limits.memory_max, Some(((32_u64 << 30) / 100 * 25) / 65_536 * 65_536));
    assert_eq!(limits.swap_max, Some(0));
    assert_eq!((limits.nice, limits.policy), (Some(10), Some(SchedulingPolicy::Batch)));
    assert_eq!(limits.cpus, None);
}

#[test]
fn no_preset_takes_the_whole_memory_of_the_host() {
    for preset in every_preset() {
        let limits = resolve(&preset, &host(2, 24 << 30));
        assert!(limits.memory_max.expect("bounded") < 24 << 30, "{}", preset.name);
    }
}

#[test]
fn only_a_preset_above_eco_needs_a_justification() {
    assert_eq!(permit(PresetName::Eco, None), Ok(()));
    for name in [PresetName::Balanced, PresetName::Performance, PresetName::Turbo, PresetName::Gpu] {
        for empty in [None, Some(""), Some("  \t\n"), Some("-- ."), Some("\u{200b}")] {
            assert_eq!(permit(name, empty), Err(NeedsJustification(name)), "{empty:?}");
        }
        assert_eq!(permit(name, Some("nightly index, 4 h")), Ok(()));
    }
}

#[test]
fn the_name_is_claimed_only_when_every_limit_holds() {
    for preset in every_preset() {
        let full = enforced(&preset);
        assert_eq!(claim(&full, &preset), Claim::Preset(preset.name));
        for (index, one) in full.iter().enumerate() {
            for outcome in [None, Some(Outcome::Partial("x".into())), Some(Outcome::Unavailable("x".into()))] {
                let mut less = full.clone();
                match outcome {
                    Some(outcome) => less[index].outcome = outcome,
                    None => drop(less.remove(index)),
                }
                let expected = if preset.optional.contains(&one.control) {
                    Claim::Preset(preset.name)
                } else {
                    Claim::Reduced { missing: vec![one.control] }
                };
                assert_eq!(claim(&less, &preset), expected, "{} without {:?}", preset.name, one.control);
            }
        }
        assert!(matches!(claim(&[], &preset), Claim::Reduced { .. }));
    }
}

#[test]
fn one_bad_report_among_good_ones_takes_the_name() {
    let preset = Preset::embedded(PresetName::Eco);
    let mut reports = enforced(preset);
    reports.push(Applied { control: Control::MemoryMax, outcome: Outcome::Unavailable("later".into()) });
    assert_eq!(claim(&reports, preset), Claim::Reduced { missing: vec![Control::MemoryMax] });
}

#[test]
fn what_keeps_a_host_alive_is_never_optional() {
    for preset in every_preset() {
        for control in [Control::CpuQuota, Control::MemoryMax, Control::PidsMax] {
            assert!(!preset.optional.contains(&control), "{}", preset.name);
        }
        assert!(preset.asked().contains(&Control::MemoryMax) && preset.asked().contains(&Control::PidsMax));
    }
}

#[test]
fn every_fault_of_a_file_is_told_with_its_line() {
    let text = r#"name = "ecko"
description = 5
adapts = true
optional = ["io_wait"]
[cpu]
quota = "101%"
weight = 0
affinity = "3-1"
nice = -5
policy = "fifo"
turbo = true
[memory]
high = "50%"
max = "25%"
swap = "lots"
[tasks]
max = 0
[egress]
connections = 70000
rate = 0
"#;
    let faults = Preset::parse(Path::new("x.toml"), text).expect_err("faulty");
    let told: Vec<String> = faults.0.iter().map(|fault| format!("{}:{}", fault.line.unwrap_or(0), fault.key)).collect();
    assert_eq!(
        told,
        [
            "1:name",
            "1:io",
            "2:description",
            "4:optional[0]",
            "6:cpu.quota",
            "7:cpu.weight",
            "8:cpu.affinity",
            "9:cpu.nice",
            "10:cpu.policy",
            "11:cpu.turbo",
            "13:memory.high",
            "15:memory.swap",
            "17:tasks.max",
            "19:egress.connections",
            "20:egress.rate",
        ],
        "{faults}"
    );
    assert!(Preset::parse(Path::new("x.toml"), "= 1").is_err());
    assert!(Preset::parse(Path::new("x.toml"), "").is_err());
}

#[test]
fn amounts_are_read_in_their_own_forms_only() {
    let eco = PresetName::Eco.text();
    let quota = |amount: &str| {
        let text = eco.replace("quota = \"25%\"", &format!("quota = \"{amount}\""));
        assert_ne!(text, eco, "the line of the quota was not found");
        Preset::parse(Path::new("x.toml"), &text).map(|preset| preset.cpu_quota)
    };
    assert_eq!(quota("1.5 CPUs"), Ok(CpuAmount::Millis(1_500)));
    assert_eq!(quota("0.01 CPUs"), Ok(CpuAmount::Millis(10)));
    assert_eq!(quota("100%"), Ok(CpuAmount::OfHost(Percent(100))));
    for bad in
        ["0%", "101%", "+5%", "1.5%", "%", "0.001 CPUs", "1.2345 CPUs", "-1 CPUs", "1. CPUs", "2000 CPUs", "half"]
    {
        assert!(quota(bad).is_err(), "{bad}");
    }
    // Eco adapts its quota, so it must have one.
    assert!(quota("unlimited").is_err());
}

proptest! {
    #[test]
    fn on_every_host_the_numbers_make_sense(
        cpus in 1_u16..1_024,
        memory in (64_u64 << 20)..(1_u64 << 46),
        which in 0_usize..5,
    ) {
        let preset = Preset::embedded(PresetName::ALL[which]);
        let limits = resolve(preset, &host(cpus, memory));
        if let Some(quota) = limits.cpu_quota {
            prop_assert!(quota >= CpuQuota::LEAST && u64::from(quota.millis()) <= u64::from(cpus) * 1_000);
        }
        let max = limits.memory_max.expect("bounded");
        prop_assert!(max >= 64 << 20 && max <= memory.max(64 << 20));
        prop_assert!(limits.memory_high.is_none_or(|high| high <= max && high > 0));
        prop_assert_eq!(limits.asked(), preset.asked());
    }
}

/// The table of the page, row by row, made of the files.
#[test]
fn the_page_shows_what_the_files_say() {
    let page = include_str!("../../../docs/presets.md");
    let presets = every_preset();
    let row = |name: &str, cell: &dyn Fn(&Preset) -> String| {
        let cells: Vec<String> = presets.iter().map(cell).collect();
        let row = format!("| {name} | {} |", cells.join(" | "));
        assert!(page.lines().any(|line| line == row), "the page lacks:\n{row}");
    };
    let size = |bytes: u64| if bytes == 0 { "0".to_owned() } else { shown(bytes) };
    let amount = |amount: MemoryAmount| match amount {
        MemoryAmount::Unlimited => "unlimited".to_owned(),
        MemoryAmount::OfHost(Percent(share)) => format!("{share}%"),
        MemoryAmount::Bytes(bytes) => size(bytes),
    };
    row("CPU quota", &|preset| match preset.cpu_quota {
        CpuAmount::Unlimited => "unlimited".to_owned(),
        CpuAmount::OfHost(Percent(share)) => format!("{share}%"),
        CpuAmount::Millis(millis) => format!("{millis}m"),
    });
    row("CPU weight", &|preset| preset.cpu_weight.value().to_string());
    row("nice, policy", &|preset| format!("{} {}", preset.nice, format!("{:?}", preset.policy).to_lowercase()));
    row("memory high", &|preset| amount(preset.memory_high));
    row("memory max", &|preset| amount(preset.memory_max));
    row("swap", &|preset| amount(preset.swap_max));
    row("tasks", &|preset| preset.pids_max.to_string());
    row("I/O weight", &|preset| preset.io_weight.value().to_string());
    row("connections", &|preset| preset.egress.connections.to_string());
    row("egress per second", &|preset| preset.egress.bytes_per_second.map_or("unlimited".to_owned(), size));
}

fn shown(bytes: u64) -> String {
    match (bytes >> 30, bytes >> 20) {
        (gib, _) if gib > 0 => format!("{gib}GiB"),
        (_, mib) => format!("{mib}MiB"),
    }
}
