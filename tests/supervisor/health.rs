//! Readiness, probes and the watchdog.

use crate::stage::{Host, bash, perl, server};

/// A perl program that says `$message` to `NOTIFY_SOCKET`.
const NOTIFY: &str = "use Socket; sub say_it { my $m = shift; socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die $!; \
     connect($s, sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!; syswrite($s, $m); }";

#[test]
fn an_http_probe_makes_ready_and_its_failures_restart() {
    if !crate::can_launch() {
        return;
    }
    let program = format!(
        "my $p = fork; if (!$p) {{ {} }} print \"server $p\\n\"; sleep 1000",
        server(8000, "well").replace('\n', " ")
    );
    let more = "auto_start = true\n[runtimes.health]\nhttp = \"http://127.0.0.1:8000/health\"\ninterval = \"100ms\"\nfailure_threshold = 2\n[runtimes.restart]\nbackoff = \"100ms\"";
    let host = Host::start(&perl("web", &program, more));
    let view = host.wait_state("web", "ready");
    assert_eq!(view["health"], "well");
    // Its server goes, the main process stays: only the probe can tell.
    let inits = std::process::Command::new("pgrep").args(["-P", &view["pid"].to_string()]).output().unwrap();
    let main = String::from_utf8_lossy(&inits.stdout).trim().to_owned();
    let server = std::process::Command::new("pgrep").args(["-P", &main]).output().unwrap();
    let server: i32 = String::from_utf8_lossy(&server.stdout).trim().parse().expect("the server's process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), nix::sys::signal::Signal::SIGKILL).unwrap();
    let view = host.wait("web", "restarted", |view| view["last_death"]["cause"] == "probe");
    assert_eq!(view["last_death"]["run"], 1);
    host.wait("web", "ready again", |view| view["state"] == "ready" && view["run"] == 2);
}

#[test]
fn one_that_is_not_ready_in_time_failed() {
    if !crate::can_launch() {
        return;
    }
    let more = "auto_start = true\n[runtimes.health]\nlog = \"never said\"\ngrace = \"1s\"\n[runtimes.restart]\npolicy = \"no\"";
    let host = Host::start(&bash("slow", "sleep 1000", more));
    let view = host.wait_end("slow");
    assert_eq!(view["last_death"]["cause"], "probe");
    assert_eq!(view["health"], "not_ready");
}

#[test]
fn an_exec_probe_runs_inside() {
    if !crate::can_launch() {
        return;
    }
    let more = "auto_start = true\n[runtimes.health]\nexec = [\"/usr/bin/test\", \"-e\", \"/tmp/ready\"]\ninterval = \"100ms\"";
    let host = Host::start(&bash("file", "sleep 0.5; touch /tmp/ready; echo made; sleep 1000", more));
    host.wait_state("file", "ready");
    assert!(host.log("file").contains("made"));
    assert!(!std::path::Path::new("/tmp/ready").exists(), "the private /tmp is not the host's");
}

/// An interval of an hour, so that only the probes of the start and of a thaw can tell.
const HOURLY: &str = "auto_start = true\n[runtimes.health]\nexec = [\"/usr/bin/test\", \"-e\", \"/tmp/ready\"]\ninterval = \"1h\"\ntimeout = \"10s\"\ngrace = \"1h\"";

#[test]
fn what_is_ready_early_is_not_kept_waiting_for_an_interval() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("early", "sleep 1; touch /tmp/ready; sleep 1000", HOURLY));
    host.wait_state("early", "ready");
}

#[test]
fn what_does_not_answer_after_a_thaw_is_found() {
    if !crate::can_launch() {
        return;
    }
    let script = "touch /tmp/ready; sleep 2; rm /tmp/ready; echo gone; sleep 1000";
    let host = Host::start(&bash("file", script, HOURLY));
    host.wait_state("file", "ready");
    host.wait_log("file", "gone");
    let (status, body) = host.act("file", "freeze");
    if status == 409 {
        println!("SKIP: nothing here can freeze: {body}");
        return;
    }
    host.wait_state("file", "frozen");
    host.must("file", "thaw");
    host.wait_state("file", "degraded");
}

#[test]
fn a_missed_beat_ends_it_with_an_abort() {
    if !crate::can_launch() {
        return;
    }
    let program = format!(
        "{NOTIFY} say_it(\"READY=1\\nSTATUS=at work\"); for (1..4) {{ say_it('WATCHDOG=1'); select(undef, undef, undef, 0.5) }} print \"hung\\n\"; sleep 1000"
    );
    let more = "auto_start = true\n[runtimes.health]\nnotify = true\n[runtimes.watchdog]\nsec = 2\n[runtimes.restart]\npolicy = \"no\"";
    let host = Host::start(&perl("dog", &program, more));
    host.wait_state("dog", "ready");
    // It came with the readiness, and is shown a moment after it.
    host.wait("dog", "at work", |view| view["detail"] == "at work");
    let view = host.wait_state("dog", "stopped");
    assert_eq!(view["last_death"]["cause"], "watchdog");
    assert_eq!(view["health"], "watchdog_missed");
}

#[test]
fn idle_is_not_failure() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("idle", "read -t 1000 < <(sleep 1000)", "auto_start = true"));
    host.wait_state("idle", "ready");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let view = host.view("idle");
    assert_eq!((&view["state"], &view["run"], &view["health"]), (&"ready".into(), &1.into(), &"well".into()));
}
