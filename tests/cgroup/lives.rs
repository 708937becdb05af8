//! Freezing, killing, removing, and finding a leaf again.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arw::sandbox::cgroup::{CgroupFault, Cgroups, Control, CpuQuota, Kind, Limits, Standby};
use arw::sandbox::preset::{Host, Preset, PresetName, resolve};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::{Ground, PATIENCE, is_gone, roots, until};

/// Starts a daemon as a runtime would to outlive its own end: another session, no parent, no terminal.
const DAEMONISES: &str = "(setsid sh -c 'trap \"\" TERM HUP INT; sleep 300 & sleep 300' </dev/null &) ; sleep 300";

#[test]
fn what_the_host_offers_is_told() {
    let cgroups = Cgroups::discover(&roots()).expect("the tables of /proc");
    println!("this host: {:?}", cgroups.kind());
    if cgroups.kind() == Kind::None {
        assert!(matches!(cgroups.leaf("none"), Err(CgroupFault::Unavailable(_))));
    }
}

#[test]
fn daemonised_grandchildren_end_with_the_leaf() {
    let Some(mut ground) = Ground::new("kill") else { return };
    let main = i32::try_from(ground.sh(DAEMONISES)).expect("pid");
    // Five in the end; one of them may be the shell between, which leaves.
    until("the daemon", || ground.leaf.pids().expect("listed").len() >= 5);
    let pids = ground.leaf.pids().expect("listed");
    // Without the group they live on: the end of the main process is not theirs.
    kill(Pid::from_raw(main), Signal::SIGKILL).expect("signalled");
    assert_eq!(ground.end(), Signal::SIGKILL as i32);
    assert!(ground.leaf.pids().expect("listed").len() >= 3);
    ground.leaf.kill(PATIENCE).expect("killed");
    assert!(ground.leaf.is_empty().expect("read") && ground.leaf.pids().expect("listed").is_empty());
    for pid in pids {
        until("the end of each process", || is_gone(pid));
    }
}

/// A bomb that doubles seven times and then makes new processes for those that end: some hundreds even
/// where nothing holds it.
const BOMB: &str = "b() { if [ $1 -lt 7 ]; then b $(($1+1)) & b $(($1+1)) & wait; \
                    else while :; do sleep 0.01 & wait; done; fi; }; b 0 2>/dev/null; sleep 60";

#[test]
fn a_running_fork_bomb_is_killed() {
    let limits = arw::sandbox::cgroup::Limits { pids_max: Some(64), ..Default::default() };
    let Some(mut ground) = Ground::limited("bomb", &limits, arw::sandbox::cgroup::Control::PidsMax) else { return };
    ground.sh(BOMB);
    until("a refused fork", || ground.leaf.events().pids_max_hits.is_some_and(|hits| hits >= 1));
    ground.leaf.kill(PATIENCE).expect("killed");
    assert_eq!(ground.leaf.pids().expect("listed").len(), 0);
}

#[test]
fn the_killed_do_not_wait_for_their_quota_to_die() {
    let quota = CpuQuota::from_millis(10).expect("quota");
    let limits = Limits { cpu_quota: Some(quota), ..Limits::default() };
    let Some(mut ground) = Ground::limited("die", &limits, Control::CpuQuota) else { return };
    ground.sh("sleep 300");
    let place = ground.leaf.place().clone();
    let quotas = || -> Vec<String> {
        let files = place.paths().flat_map(|dir| [dir.join("cpu.max"), dir.join("cpu.cfs_quota_us")]);
        files.filter_map(|file| std::fs::read_to_string(file).ok()).collect()
    };
    let unlimited = |text: &String| text.starts_with("max ") || text == "-1\n";
    assert!(quotas().iter().any(|text| !unlimited(text)), "{:?}", quotas());
    ground.leaf.kill(PATIENCE).expect("killed");
    assert!(quotas().iter().all(unlimited), "{:?}", quotas());
}

#[test]
fn the_v1_groups_alone_suffice_to_kill() {
    let Some(mut ground) = Ground::new("kill-v1") else { return };
    let mut place = ground.leaf.place().clone();
    if place.v1.is_empty() || place.unified.is_none() {
        println!("SKIP kill-v1: not a hybrid host");
        return;
    }
    ground.sh(DAEMONISES);
    until("the daemon", || ground.leaf.pids().expect("listed").len() >= 4);
    place.unified = None;
    let v1 = ground.cgroups.adopt(place).expect("adopted");
    v1.freeze(PATIENCE).expect("frozen");
    v1.kill(PATIENCE).expect("killed although frozen");
    assert_eq!(ground.leaf.pids().expect("listed").len(), 0);
}

#[test]
fn the_v2_group_alone_suffices_to_freeze_and_kill() {
    let Some(mut ground) = Ground::new("kill-v2") else { return };
    let mut place = ground.leaf.place().clone();
    if place.unified.is_none() {
        println!("SKIP kill-v2: no v2 tree here");
        return;
    }
    ground.sh(DAEMONISES);
    until("the daemon", || ground.leaf.pids().expect("listed").len() >= 4);
    place.v1.clear();
    let v2 = ground.cgroups.adopt(place).expect("adopted");
    v2.freeze(PATIENCE).expect("frozen");
    v2.kill(PATIENCE).expect("killed although frozen");
    assert_eq!(ground.leaf.pids().expect("listed").len(), 0);
}

#[test]
fn a_frozen_leaf_stands_still_until_it_is_thawed() {
    let Some(mut ground) = Ground::new("freeze") else { return };
    let pid = i32::try_from(ground.sh("while :; do :; done")).expect("pid");
    until("work", || ground.leaf.usage().cpu_seconds.is_none_or(|seconds| seconds > 0.0));
    ground.leaf.freeze(PATIENCE).expect("frozen");
    let at_rest = cpu_ticks(pid);
    // Another loop gets the CPU meanwhile: when that has worked, a running one would have too.
    let mut other = std::process::Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().expect("shell");
    let other_pid = i32::try_from(other.id()).expect("pid");
    until("work of a loop outside", || cpu_ticks(other_pid) >= 10);
    other.kill().expect("killed");
    other.wait().expect("ended");
    assert_eq!(cpu_ticks(pid), at_rest);
    ground.leaf.thaw(PATIENCE).expect("thawed");
    until("work after the thaw", || cpu_ticks(pid) > at_rest);
}

/// Why `kill` thaws: a v1 freezer holds even SIGKILL.
#[test]
fn a_v1_freezer_holds_a_kill_until_the_thaw() {
    let Some(mut ground) = Ground::new("held") else { return };
    let mut place = ground.leaf.place().clone();
    place.unified = None;
    let Some(v1) = (!place.is_empty()).then(|| ground.cgroups.adopt(place).expect("adopted")) else {
        println!("SKIP held: no v1 hierarchies here");
        return;
    };
    let pid = i32::try_from(ground.sh("sleep 300; :")).expect("pid");
    if let Err(fault) = v1.freeze(PATIENCE) {
        println!("SKIP held: {fault}");
        return;
    }
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("signalled");
    assert!(!is_gone(pid), "the freezer let it through");
    v1.thaw(PATIENCE).expect("thawed");
    assert_eq!(ground.end(), Signal::SIGKILL as i32);
}

#[test]
fn groups_made_inside_a_leaf_go_with_it() {
    let Some(mut ground) = Ground::new("nested") else { return };
    let inner: Vec<_> = ground.leaf.place().paths().map(|path| path.join("inner/most")).collect();
    for path in &inner {
        std::fs::create_dir_all(path).expect("made");
    }
    let pid = ground.sh("sleep 300; :");
    for path in inner.iter().filter(|path| !path.to_string_lossy().contains("/cpuset/")) {
        std::fs::write(path.join("cgroup.procs"), pid.to_string()).expect("moved deeper");
    }
    assert!(ground.leaf.pids().expect("listed").contains(&i32::try_from(pid).expect("pid")));
    let busy = ground.leaf.remove(Duration::from_millis(20)).expect_err("a process is in it");
    assert!(matches!(busy, CgroupFault::File { .. }), "{busy}");
    ground.leaf.kill(PATIENCE).expect("killed");
    ground.leaf.remove(PATIENCE).expect("removed");
    ground.leaf.remove(PATIENCE).expect("gone already is fine");
}

#[test]
fn another_process_finds_the_leaf_by_its_place() {
    let Some(mut ground) = Ground::new("adopt") else { return };
    let pid = ground.sh("sleep 300; :");
    let state = serde_json::to_string(ground.leaf.place()).expect("written");
    let place = serde_json::from_str(&state).expect("read");
    let adopted = Cgroups::discover(&roots()).expect("tables").adopt(place).expect("adopted");
    assert!(adopted.pids().expect("listed").contains(&i32::try_from(pid).expect("pid")));
    assert!(matches!(ground.cgroups.leaf("adopt"), Err(CgroupFault::Exists(_))));
    assert!(!adopted.pids().expect("listed").is_empty(), "the refused maker touched it");
    adopted.kill(PATIENCE).expect("killed");
}

/// Names of the groups that are there below ours, in any hierarchy.
fn names(ground: &Ground) -> Vec<String> {
    let folders = ground.cgroups.folders().map(|folder| folder.join(roots().folder));
    let entries = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flat_map(Iterator::flatten);
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn groups_that_stood_ready_become_a_leaf_like_any_other() {
    let Some(ground) = Ground::new("fresh") else { return };
    let Some(ready) = ground.cgroups.stand_by("ready") else {
        println!("SKIP: groups of version 2 are not renamed");
        return;
    };
    assert!(names(&ground).contains(&"rt-ready.0".to_owned()));
    let leaf = ground.cgroups.leaf_of(ready, "taken").expect("a leaf");
    let taken = Ground::of(leaf);
    let last = |path: &std::path::PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let place = taken.leaf.place();
    assert!(place.v1.iter().all(|(_, path)| last(path).as_deref() == Some("rt-taken") && path.is_dir()));
    assert!(place.unified.iter().all(|path| last(path).as_deref() == Some("rt-ready.0") && path.is_dir()));
    let numbered = names(&ground).contains(&"rt-ready.0".to_owned());
    assert_eq!(numbered, place.unified.is_some(), "nothing of v1 has its number any more");
    assert_eq!(taken.leaf.place().paths().count(), ground.leaf.place().paths().count());
    let limits = resolve(Preset::embedded(PresetName::Eco), &Host::read().expect("host"));
    assert_eq!(taken.leaf.apply(&limits), ground.leaf.apply(&limits), "every limit as in a fresh one");
    // Once from what was opened ahead, once from what is opened then.
    assert_eq!(taken.leaf.apply(&limits), ground.leaf.apply(&limits));
    let doors = |leaf: &arw::sandbox::cgroup::Leaf| leaf.enter_self().expect("opened").len();
    assert_eq!((doors(&taken.leaf), doors(&taken.leaf)), (doors(&ground.leaf), doors(&ground.leaf)));
    let mut taken = taken;
    taken.sh(DAEMONISES);
    until("the daemon", || taken.leaf.pids().expect("listed").len() >= 3);
}

#[test]
fn groups_that_stand_ready_are_nobodys_and_leave_nothing() {
    let Some(ground) = Ground::new("theirs") else { return };
    let Some(ready) = ground.cgroups.stand_by("idle") else {
        println!("SKIP: groups of version 2 are not renamed");
        return;
    };
    // What a killed daemon has left is killed, taken away, and made anew.
    let mut stood = stand_in(&ready);
    std::mem::forget(ready);
    let next = Cgroups::discover(&roots()).expect("the tables of /proc");
    let ready = next.stand_by("idle").expect("made anew");
    assert_eq!(stood.wait().expect("ended").signal(), Some(Signal::SIGKILL as i32));
    assert!(names(&ground).iter().filter(|name| name.starts_with("rt-idle")).eq(["rt-idle.0"]));
    // Names are refused before anything of the others is touched; what stood ready is gone then.
    let mut stood = stand_in(&ready);
    assert!(matches!(ground.cgroups.leaf_of(ready, "theirs"), Err(CgroupFault::Exists(_))));
    assert_eq!(stood.wait().expect("ended").signal(), Some(Signal::SIGKILL as i32));
    let is_left = || names(&ground).iter().any(|name| name.starts_with("rt-idle"));
    assert!(!is_left() && names(&ground).contains(&"rt-theirs".to_owned()), "{:?}", names(&ground));
    assert!(ground.leaf.place().paths().all(|path| path.is_dir()), "the refused maker touched it");
    drop(ground.cgroups.stand_by("idle").expect("made"));
    assert!(!is_left());
}

/// The next daemon counts from the beginning, and a runtime of the one before has kept its number in v2.
#[test]
fn a_number_that_a_living_runtime_has_is_left_alone() {
    let Some(ground) = Ground::new("numbers") else { return };
    let Some(ready) = ground.cgroups.stand_by("counted") else {
        println!("SKIP: groups of version 2 are not renamed");
        return;
    };
    let mut lives = Ground::of(ground.cgroups.leaf_of(ready, "lives").expect("a leaf"));
    let pid = lives.sh("sleep 100");
    until("the shell", || lives.leaf.pids().is_ok_and(|pids| pids.contains(&pid.cast_signed())));
    let Some(numbered) = lives.leaf.place().unified.clone() else {
        println!("SKIP: this host has no v2 tree");
        return;
    };
    let next = Cgroups::discover(&roots()).expect("the tables of /proc");
    let ready = next.stand_by("counted").expect("made");
    assert!(numbered.is_dir() && !is_gone(pid.cast_signed()), "the runtime lives");
    assert!(names(&ground).contains(&"rt-counted.1".to_owned()), "{:?}", names(&ground));
    let other = Ground::of(next.leaf_of(ready, "other").expect("a leaf"));
    assert_ne!(other.leaf.place().unified, Some(numbered));
}

/// A process in groups that stand ready.
fn stand_in(ready: &Standby) -> Child {
    let tasks: Vec<File> = ready.tasks().map(|fd| File::from(fd.try_clone_to_owned().expect("copied"))).collect();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "read go; exec sleep 100"]).stdin(Stdio::piped());
    let mut child = shell.spawn().expect("a shell");
    for mut file in tasks {
        file.write_all(child.id().to_string().as_bytes()).expect("moved");
    }
    let told = child.stdin.as_mut().expect("a pipe").write_all(b"go\n");
    told.expect("told");
    child
}

/// What a kill switch does: the order to all, then the wait for each.
#[test]
fn twenty_leaves_end_within_a_second() {
    let mut grounds: Vec<Ground> = (0..20).map_while(|number| Ground::new(&format!("many-{number}"))).collect();
    let pids: Vec<u32> = grounds.iter_mut().map(|ground| ground.sh(DAEMONISES)).collect();
    for ground in &grounds {
        until("the daemon", || ground.leaf.pids().expect("listed").len() >= 3);
    }
    let start = Instant::now();
    for ground in &grounds {
        ground.leaf.begin_kill().expect("ordered");
    }
    for ground in &grounds {
        ground.leaf.kill(PATIENCE).expect("killed");
    }
    let took = start.elapsed();
    println!("{} leaves ended in {took:?}", pids.len());
    assert!(took < Duration::from_secs(1) || pids.is_empty(), "{took:?}");
}

/// The test binary again, inside a leaf: what it makes stands below that leaf, and ends with it.
#[test]
fn a_daemon_makes_its_leaves_below_the_group_that_it_is_in() {
    let Some(mut ground) = Ground::new("outer") else { return };
    let said = tempfile::NamedTempFile::new().expect("file");
    let binary = std::env::current_exe().expect("own path");
    let arguments = "--exact --ignored --nocapture lives::inside_a_leaf";
    ground.sh(&format!("exec {} {arguments} >{} 2>&1", binary.display(), said.path().display()));
    let code = ground.end();
    let text = std::fs::read_to_string(said.path()).expect("read");
    assert!(code == 0 && text.contains("1 passed"), "{code}: {text}");
}

#[test]
#[ignore = "run inside a leaf by a_daemon_makes_its_leaves_below_the_group_that_it_is_in"]
fn inside_a_leaf() {
    let mut ground = Ground::new("inner").expect("a leaf");
    let outer: Vec<_> =
        ground.leaf.place().paths().map(|path| path.ancestors().nth(2).expect("deep").to_owned()).collect();
    assert!(!outer.is_empty() && outer.iter().all(|path| path.ends_with("rt-outer")), "{outer:?}");
    // Killing from within would be the end of the killer.
    let around = ground.cgroups.leaf("around").expect("a leaf");
    around.admit(std::process::id()).expect("admitted");
    assert!(matches!(around.kill(PATIENCE), Err(CgroupFault::Inside)));
    for path in &outer {
        // A v2 group that hands controllers down takes no process; then we had moved into our own.
        let own = [path.join("arw-supervisor/cgroup.procs"), path.join("cgroup.procs")];
        std::fs::write(own.iter().find(|path| path.exists()).expect("one of them"), "0").expect("back");
    }
    around.remove(PATIENCE).expect("removed");
    // The kernel refuses groups inside beyond the bound, so that nobody hides in thousands.
    if let Some(unified) = &ground.leaf.place().unified {
        let made =
            (0..100).take_while(|number| std::fs::create_dir(unified.join(format!("g{number}"))).is_ok()).count();
        // Those of the leaf around count as well.
        assert!((1..=64).contains(&made), "{made}");
    }
    ground.sh("sleep 300; :");
    ground.leaf.kill(PATIENCE).expect("killed");
}

/// User and system time in clock ticks: fields 14 and 15 of `/proc/<pid>/stat`.
fn cpu_ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    [11, 12].into_iter().filter_map(|field| fields.get(field)?.parse::<u64>().ok()).sum()
}

/// The part of a launch that is ours; the whole of one has a few milliseconds.
#[test]
fn a_leaf_costs_little() {
    let Some(ground) = Ground::new("cost") else { return };
    let eco = Preset::embedded(PresetName::Eco);
    let limits = resolve(eco, &Host::read().expect("host"));
    let mut times: Vec<(Duration, Duration, Duration)> = (0..50)
        .map(|number| {
            let start = Instant::now();
            let leaf = ground.cgroups.leaf(&format!("cost-{number}")).expect("leaf");
            let made = start.elapsed();
            leaf.apply(&limits);
            let limited = start.elapsed() - made;
            leaf.remove(PATIENCE).expect("removed");
            (made, limited, start.elapsed() - made - limited)
        })
        .collect();
    times.sort();
    let (made, limited, removed) = times[times.len() / 2];
    println!("made {made:?}, limited {limited:?}, removed {removed:?}");
    // Far above what it takes: only a wait that crept in would be noticed.
    assert!(made + limited < Duration::from_millis(500), "{made:?} {limited:?}");
}
