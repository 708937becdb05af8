//! How runs end, and what follows.

use std::time::{Duration, Instant};

use crate::stage::{Host, bash, lives};
use crate::support::wait_for;

#[test]
fn a_failing_runtime_is_restarted_then_quarantined_and_only_a_restore_starts_it() {
    if !crate::can_launch() {
        return;
    }
    let more = "auto_start = true\n[runtimes.restart]\nbackoff = \"100ms\"\nmax = 2\nwindow = \"600s\"";
    let mut host = Host::start(&bash("failing", "echo run; exit 7", more));
    let view = host.wait_state("failing", "quarantined");
    assert_eq!(view["last_death"]["cause"], "exit");
    assert_eq!(view["last_death"]["code"], 7);
    assert_eq!(view["last_death"]["run"], 3, "one start and two restarts: {view:#}");
    assert_eq!(view["last_death"]["last_lines"][0], "run");
    assert_eq!(host.act("failing", "start").0, 409);
    // A restart of the daemon is no way out.
    host.daemon.restart();
    assert_eq!(host.view("failing")["state"], "quarantined");
    assert_eq!(host.act("failing", "restart").0, 409);
    host.must("failing", "restore");
    let view = host.wait("failing", "run again", |view| view["last_death"]["run"].as_u64() > Some(3));
    assert_ne!(view["state"], "error");
}

#[test]
fn a_stop_ends_every_process_also_one_that_left() {
    if !crate::can_launch() {
        return;
    }
    let script = "setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 1; done # left-behind-mark' & \
                  trap '' TERM; echo up; while :; do sleep 1; done";
    let host = Host::start(&bash("stubborn", script, "auto_start = true"));
    host.wait_log("stubborn", "up");
    wait_for("the grandchild", || lives("left-behind-mark").then_some(()));
    host.must("stubborn", "stop");
    let view = host.wait_state("stubborn", "stopped");
    assert_eq!(view["last_death"]["cause"], "operator");
    assert!(!lives("left-behind-mark"), "a process of the runtime is still there");
}

#[test]
fn what_the_kernel_takes_for_its_memory_is_put_down_to_that() {
    if !crate::can_launch() {
        return;
    }
    let script = "echo growing; perl -e '$x = \"a\"; $x .= $x while 1'; exit $?";
    let more =
        "auto_start = true\n[runtimes.limits]\nmemory = \"64MiB\"\nswap = 0\n[runtimes.restart]\npolicy = \"no\"";
    let host = Host::start(&bash("hog", script, more));
    host.wait("hog", "dead", |view| !view["last_death"].is_null());
    let (_, report) = host.ask("GET", "/orchestrator/runtimes/hog/report");
    let applied = report["applied"].as_array().unwrap();
    let memory = applied.iter().find(|one| one["control"] == "memory_max").unwrap();
    if memory["outcome"] != "enforced" {
        println!("SKIP: no memory controller here: {memory}");
        return;
    }
    assert_eq!(host.death("hog")["cause"], "oom", "{}", host.death("hog"));
}

#[test]
fn a_required_control_that_is_missing_refuses_the_launch() {
    if !crate::can_launch() {
        return;
    }
    // A program that is not there is refused as well: neither is tried again.
    let host = Host::start(&bash("x", "true", "").replace("/bin/bash", "/no/such/program"));
    host.must("x", "start");
    let view = host.wait_state("x", "error");
    assert!(view["detail"].as_str().unwrap().contains("/no/such/program"), "{view:#}");
    assert!(view["last_death"].is_null(), "nothing lived");
}

#[test]
fn data_is_not_read_without_consent() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("reader", "echo read", "consent = [\"text:read\"]"));
    host.must("reader", "start");
    let view = host.wait_state("reader", "error");
    assert!(view["detail"].as_str().unwrap().contains("consent_missing"), "{view:#}");
    assert!(!host.log("reader").contains("read"));
}

#[test]
fn a_refused_system_call_is_told_apart() {
    if !crate::can_launch() {
        return;
    }
    // The 32-bit entry is answered with the end of the process.
    let more = "auto_start = true\nprofile = \"strict\"\n[runtimes.restart]\npolicy = \"no\"";
    let host = Host::start(&bash("sys", "kill -SYS $$", more));
    host.wait("sys", "dead", |view| !view["last_death"].is_null());
    assert_eq!(host.death("sys")["cause"], "seccomp");
}

#[test]
fn dependants_wait_and_follow() {
    if !crate::can_launch() {
        return;
    }
    let first = bash("base", "sleep 0.3; echo ready-now; sleep 1000", "[runtimes.health]\nlog = \"ready-now\"");
    let second = bash("app", "echo app; sleep 1000", "depends_on = [\"base:ready\"]");
    let host = Host::start(&format!("{first}{second}"));
    host.must("app", "start");
    host.wait_state("app", "ready");
    assert_eq!(host.view("base")["state"], "ready");
    // It is ready as soon as it runs, and writes after that.
    host.wait_log("app", "app");
    let (base, app) = (host.log("base"), host.log("app"));
    let time = |log: &str, word: &str| log.lines().find(|line| line.contains(word)).unwrap()[..27].to_owned();
    assert!(time(&base, "ready-now") <= time(&app, "app"), "{base}{app}");
}

#[test]
fn frozen_it_stands_still_and_goes_on_after() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("clock", "while :; do echo tick; sleep 0.05; done", "auto_start = true"));
    host.wait_log("clock", "tick");
    let (status, body) = host.act("clock", "freeze");
    if status == 409 {
        println!("SKIP: nothing here can freeze: {body}");
        return;
    }
    host.wait_state("clock", "frozen");
    // What was on its way when it froze arrives; then nothing does.
    let settled = wait_for("the log to stand still", || {
        let before = host.log("clock").len();
        std::thread::sleep(std::time::Duration::from_millis(300));
        (host.log("clock").len() == before).then_some(before)
    });
    host.must("clock", "thaw");
    host.wait_state("clock", "ready");
    wait_for("a tick", || (host.log("clock").len() > settled).then_some(()));
}

#[test]
fn restarts_leave_no_descriptor_and_no_cgroup_behind() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("again", "sleep 1000", "auto_start = true"));
    host.wait_state("again", "ready");
    let folder = format!("/proc/{}/fd", host.daemon.pid());
    if let Err(why) = std::fs::read_dir(&folder) {
        // The daemon is not dumpable: only root looks into it.
        println!("SKIP: the daemon's descriptors cannot be counted: {why}");
        return;
    }
    let count = || std::fs::read_dir(&folder).unwrap().count();
    let restart = || {
        let run = host.view("again")["run"].as_u64();
        host.must("again", "restart");
        host.wait("again", "launched anew", |view| view["state"] == "ready" && view["run"].as_u64() > run);
    };
    restart();
    // What the next launch finds ready is made soon after this one, and is a dozen descriptors of its own.
    std::thread::sleep(Duration::from_millis(500));
    let before = count();
    let begun = Instant::now();
    (0..10).for_each(|_| restart());
    println!("ten restarts took {:?}", begun.elapsed());
    wait_for("descriptors to be closed", || (count() <= before + 2).then_some(()));
}
