//! Memory, tasks and CPU time.

use std::time::{Duration, Instant};

use arw::sandbox::cgroup::{Control, CpuQuota, CpuSet, Limits, Outcome, Weight, without_groups};
use arw::sandbox::preset::{Claim, Host, Preset, PresetName, claim, resolve};
use nix::sys::signal::Signal;

use crate::fixture::{Ground, outcome, until};

/// Takes 96 MiB as one buffer, fills it, and ends well.
const TAKES_96_MIB: &str = "exec dd if=/dev/zero of=/dev/null bs=96M count=1";

fn memory(max: u64) -> Limits {
    Limits { memory_max: Some(max), swap_max: Some(0), ..Limits::default() }
}

#[test]
fn memory_above_the_limit_is_the_end_of_the_process() {
    let Some(mut ground) = Ground::limited("memory", &memory(24 << 20), Control::MemoryMax) else { return };
    ground.sh(TAKES_96_MIB);
    assert_eq!(ground.end(), Signal::SIGKILL as i32);
    let events = ground.leaf.events();
    assert!(events.oom_kills.is_some_and(|kills| kills >= 1), "{events:?}");
    // v1 does not count them on every kernel, and then it is unknown rather than none.
    assert_ne!(events.memory_max_hits, Some(0), "{events:?}");
    let peak = ground.leaf.usage().memory_peak_bytes.expect("peak");
    assert!((20 << 20..=24 << 20).contains(&peak), "{peak}");
}

#[test]
fn without_a_memory_limit_the_same_process_ends_well() {
    let Some(mut ground) = Ground::new("memory-free") else { return };
    ground.sh(TAKES_96_MIB);
    assert_eq!(ground.end(), 0);
    assert!(ground.leaf.events().oom_kills.is_none_or(|kills| kills == 0));
}

#[test]
fn a_memory_limit_counts_the_processes_together() {
    let Some(mut ground) = Ground::limited("memory-sum", &memory(64 << 20), Control::MemoryMax) else { return };
    // Each alone fits; together they do not. They hold what they took while they wait for a pipe.
    let one = "dd if=/dev/zero bs=40M count=1 2>/dev/null | { sleep 60; } &";
    ground.sh(&format!("{one} {one} {one} wait; exit 0"));
    until("an end for lack of memory", || ground.leaf.events().oom_kills.is_some_and(|kills| kills >= 1));
}

/// Starts 64 sleepers and no more: without a limit it is a small nuisance, not a bomb.
const FORKS: &str = "i=0; while [ $i -lt 64 ]; do sleep 60 & i=$((i+1)); done; wait";

#[test]
fn a_fork_bomb_meets_the_limit_of_tasks() {
    let limits = Limits { pids_max: Some(16), ..Limits::default() };
    let Some(mut ground) = Ground::limited("tasks", &limits, Control::PidsMax) else { return };
    ground.sh(FORKS);
    until("a refused fork", || ground.leaf.events().pids_max_hits.is_some_and(|hits| hits >= 1));
    assert!(ground.leaf.usage().pids.expect("counted") <= 16);
    assert!(ground.leaf.pids().expect("listed").len() <= 16);
}

#[test]
fn without_a_limit_of_tasks_the_same_forks_succeed() {
    let Some(mut ground) = Ground::new("tasks-free") else { return };
    ground.sh(FORKS);
    until("64 sleepers", || ground.leaf.pids().expect("listed").len() >= 65);
    assert!(ground.leaf.events().pids_max_hits.is_none_or(|hits| hits == 0));
}

#[test]
fn a_busy_loop_is_throttled_to_its_quota() {
    let quota = CpuQuota::from_millis(100).expect("quota");
    let limits = Limits { cpu_quota: Some(quota), cpu_weight: Weight::new(50).ok(), ..Limits::default() };
    let Some(mut ground) = Ground::limited("quota", &limits, Control::CpuQuota) else { return };
    ground.sh("while :; do :; done");
    let (start, before) = (Instant::now(), ground.leaf.usage().cpu_seconds.expect("counted"));
    until("throttling", || ground.leaf.usage().throttled_periods.is_some_and(|periods| periods >= 10));
    let usage = ground.leaf.usage();
    assert!(usage.throttled.expect("told") > Duration::ZERO);
    let used = usage.cpu_seconds.expect("counted") - before;
    let wall = start.elapsed().as_secs_f64();
    // A tenth of a CPU, and one period more at either end.
    assert!(used <= wall * 0.1 + 0.1, "{used} s in {wall} s");
}

#[test]
fn a_quota_is_changed_while_the_runtime_runs() {
    let limits = Limits { cpu_quota: CpuQuota::from_millis(1_000).ok(), ..Limits::default() };
    let Some(mut ground) = Ground::limited("adapt", &limits, Control::CpuQuota) else { return };
    ground.sh("while :; do :; done");
    for millis in [500, 50, 1_000, 10] {
        let quota = CpuQuota::from_millis(millis).expect("quota");
        assert_eq!(ground.leaf.set_cpu_quota(quota), Outcome::Enforced, "{quota}");
    }
    let before = ground.leaf.usage().throttled_periods.expect("told");
    until("throttling", || ground.leaf.usage().throttled_periods.is_some_and(|periods| periods >= before + 3));
}

#[test]
fn a_runtime_stays_on_its_cpus() {
    let host = Host::read().expect("host");
    let first = CpuSet::new([host.cpus.numbers()[0]]).expect("one");
    let limits = Limits { cpus: Some(first.clone()), ..Limits::default() };
    let Some(mut ground) = Ground::limited("cpus", &limits, Control::CpuAffinity) else { return };
    let pid = ground.sh("while :; do :; done");
    until("the one CPU", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("Cpus_allowed_list:\t{first}"))
    });
    // A list of CPUs that are not there is not called enforced.
    let absent = Limits { cpus: CpuSet::new([1_023]).ok(), ..Limits::default() };
    assert!(matches!(outcome(&ground.leaf.apply(&absent), Control::CpuAffinity), Outcome::Unavailable(_)));
}

#[test]
fn the_preset_is_claimed_only_with_groups() {
    let eco = Preset::embedded(PresetName::Eco);
    let limits = resolve(eco, &Host::read().expect("host"));
    let on_itself = limits.clone();
    // In a thread of its own, which keeps the niceness.
    let process = std::thread::spawn(move || arw::sandbox::cgroup::apply_to_self(&on_itself)).join().expect("thread");
    let without = arw::sandbox::cgroup::merge(without_groups(&limits, "no groups here"), process.clone());
    assert!(matches!(claim(&without, eco), Claim::Reduced { missing } if missing.contains(&Control::MemoryMax)));
    let Some(ground) = Ground::new("eco") else { return };
    let applied = arw::sandbox::cgroup::merge(ground.leaf.apply(&limits), process);
    for one in &applied {
        println!("{}: {:?}", one.control.code(), one.outcome);
    }
    if applied.iter().all(|one| one.outcome == Outcome::Enforced || eco.optional.contains(&one.control)) {
        assert_eq!(claim(&applied, eco), Claim::Preset(PresetName::Eco));
    } else {
        println!("SKIP eco in full: this host does not have every controller");
    }
}
