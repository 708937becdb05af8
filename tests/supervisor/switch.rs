//! The kill switch over real runtimes, tunnels and leases; by API, command, signal and file; with a daemon and without.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use arw::domain::SystemClock;
use arw::governance::audit::Actor;
use arw::governance::switch;
use arw::store::LatchFile;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

use crate::network::{fetch, free_port};
use crate::stage::{Host, PERSONA, bash, lives, perl, server};
use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{Client, Daemon, wait_for};

/// A runtime that does not listen to SIGTERM. Its grace is a second.
fn stubborn(id: &str, mark: &str) -> String {
    bash(id, &format!("trap '' TERM; echo up; while :; do sleep 0.2; done; : {mark}"), "auto_start = true")
}

/// `POST /actions`.
fn action(host: &Host, body: &Json) -> (u16, Json) {
    let mut stream = TcpStream::connect(host.daemon.control).unwrap();
    let body = body.to_string();
    write!(
        stream,
        "POST /actions HTTP/1.1\r\nHost: {}\r\nX-ARW-Admin: {ADMIN_TOKEN}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        host.daemon.control,
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or(Json::Null))
}

fn shut_down(host: &Host) -> Json {
    let (status, position) = action(host, &json!({ "kind": "automation_shutdown", "reason": "incident 7" }));
    assert_eq!(status, 200, "{position}");
    assert_eq!((&position["latched"], &position["shutdown"]["done"]), (&true.into(), &true.into()));
    position["shutdown"].clone()
}

/// A tunnel from outside, as the persona of the runtimes.
fn tunnel(host: &Host) -> Client {
    let mut client = Client::connect(host.daemon.proxy);
    let answer = client.connect_to(&format!("allowed.test:{}", host.port()), &Daemon::credentials(PERSONA));
    assert_eq!(answer.status, 200, "{}", answer.text());
    client
}

fn refused(host: &Host) -> String {
    let mut client = Client::connect(host.daemon.proxy);
    client.connect_to(&format!("allowed.test:{}", host.port()), &Daemon::credentials(PERSONA)).code()
}

fn position(host: &Host) -> Json {
    host.ask("GET", "/state/automation/shutdown").1
}

fn audit(host: &Host) -> String {
    let folder = host.daemon.state_dir().join("audit");
    let shown = host.daemon.cli(&["--json", "ledger", "query", "--dir", folder.to_str().unwrap()]);
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

/// Each text stands in the audit exactly so often.
fn audited(host: &Host, wanted: &[(&str, usize)]) {
    wait_for("the audit", || {
        let said = audit(host);
        wanted.iter().all(|(text, count)| said.matches(text).count() == *count).then_some(())
    });
}

#[test]
fn whoever_connects_while_it_is_latched_starts_nothing_and_spends_no_restart() {
    if !crate::can_launch() {
        return;
    }
    let port = free_port();
    let more = format!(
        "auto_start = true\npublish = [\"127.0.0.1:{port}:8000\"]\n[runtimes.health]\ntcp = \"127.0.0.1:8000\""
    );
    let mut host = Host::start(&perl("web", &server(8000, "from inside"), &more));
    host.wait_state("web", "ready");
    shut_down(&host);
    for start in 0..3 {
        // One more than there are restarts in a window, all in all.
        for _ in 0..2 {
            assert_eq!(fetch(port), None);
        }
        let view = host.view("web");
        assert_eq!((&view["state"], &view["restarts"]["used"]), (&"stopped".into(), &0.into()), "{start}: {view:#}");
        host.daemon.kill9();
        host.daemon.restart();
    }
    assert_eq!(position(&host)["latched"], true);
    // Refused while the daemon that has just started completes the shutdown.
    let over = json!({ "kind": "automation_rearm", "reason": "over" });
    wait_for("the release", || {
        let (status, answer) = action(&host, &over);
        assert!(status == 200 || answer["code"] == "shutdown_running", "{status}: {answer}");
        (status == 200).then_some(())
    });
    // Nor afterwards: an operator says what starts again.
    assert_eq!(fetch(port), None);
    let view = host.wait("web", "held", |view| view["detail"].to_string().contains("an operator stopped it"));
    assert_eq!(view["state"], "stopped");
    host.must("web", "start");
    assert!(fetch(port).expect("an answer").ends_with("from inside"));
}

#[test]
fn it_ends_everything_in_order_stays_over_a_kill_and_is_released_with_a_reason() {
    if !crate::can_launch() {
        return;
    }
    let scheduled = bash("nightly", "sleep 1000", "schedule = \"* * * * *\"");
    let manifest = format!("{}{scheduled}", stubborn("agent", "switch-order-mark"));
    let mut host = Host::start(&manifest);
    host.wait_state("agent", "ready");
    host.wait_log("agent", "up");
    let (mut open, mut idle) = (tunnel(&host), tunnel(&host));
    let lease = host.daemon.cli(&[
        "admin",
        "persona",
        "grant",
        PERSONA,
        "--capability",
        "runtime:manage",
        "--ttl",
        "1h",
        "--justification",
        "x",
    ]);
    assert!(lease.status.success(), "{lease:?}");

    let report = shut_down(&host);
    for client in [&mut open, &mut idle] {
        client.read_to_end();
    }
    let steps = report["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["latch", "cut", "leases", "runtimes", "schedules"]);
    let counts: Vec<u64> = steps.iter().map(|step| step["count"].as_u64().unwrap()).collect();
    assert!(counts[1] >= 2, "both tunnels: {report:#}");
    assert_eq!((counts[2], counts[3], counts[4]), (1, 1, 1), "{report:#}");
    assert!(steps.iter().all(|step| step["fault"].is_null() && step["left"].is_null()), "{report:#}");
    let done: Vec<u64> = steps.iter().map(|step| step["done_ms"].as_u64().unwrap()).collect();
    assert!(done.is_sorted() && done[3] >= 900, "its grace was a second, and it ignores SIGTERM: {report:#}");
    assert!(!lives("switch-order-mark"));
    assert_eq!(refused(&host), "shutdown_latched");
    let (status, problem) = host.act("agent", "start");
    assert_eq!((status, &problem["code"]), (409, &"shutdown_latched".into()));

    // Again: the reason and the time stay, and nothing else changes.
    let (status, again) = action(&host, &json!({ "kind": "automation_shutdown", "reason": "later" }));
    let shutdown = &again["shutdown"];
    assert_eq!((status, &shutdown["reason"], &shutdown["already_latched"]), (200, &"incident 7".into(), &true.into()));
    assert_eq!(shutdown["since"], report["since"]);

    host.daemon.kill9();
    host.daemon.restart();
    assert_eq!(refused(&host), "shutdown_latched");
    wait_for("the resumed report", || (position(&host)["shutdown"]["done"] == true).then_some(()));
    assert_eq!(position(&host)["shutdown"]["reason"], "incident 7");
    assert_eq!(host.view("agent")["state"], "stopped", "it starts with the daemon, but not now");
    assert_eq!(host.ask("GET", "/state/leases").1["leases"], json!([]));

    for (body, status, code) in [
        (json!({ "kind": "automation_rearm", "reason": " " }), 422, "reason_required"),
        (json!({ "kind": "automation_rearm" }), 400, "bad_request"),
        (json!({ "kind": "automation_rearm", "reason": "x", "force": true }), 400, "bad_request"),
        (json!({ "kind": "automation_reset", "reason": "x" }), 400, "bad_request"),
        (json!({ "kind": "automation_shutdown", "reason": "x", "grace_secs": 301 }), 400, "bad_request"),
        (json!({ "kind": "automation_shutdown", "reason": "x", "grace_secs": -1 }), 400, "bad_request"),
    ] {
        let (got, problem) = action(&host, &body);
        assert_eq!((got, &problem["code"]), (status, &code.into()), "{body}: {problem}");
    }
    let released = host.daemon.cli(&["automation", "rearm", "--reason", "incident 7 is closed"]);
    assert!(released.status.success(), "{released:?}");
    assert_eq!(position(&host)["latched"], false);
    assert_eq!(host.view("agent")["state"], "stopped", "nothing starts by itself");
    host.must("agent", "start");
    host.wait_state("agent", "ready");
    drop(tunnel(&host));
    let (status, problem) = action(&host, &json!({ "kind": "automation_rearm", "reason": "x" }));
    assert_eq!((status, &problem["code"]), (409, &"not_latched".into()));
    audited(&host, &[("automation_shutdown", 1), ("automation_rearmed", 1), ("incident 7 is closed", 1)]);
    host.daemon.kill9();
    host.daemon.restart();
    assert_eq!(position(&host)["latched"], false, "the release outlives a kill too");
}

#[test]
fn without_a_daemon_the_command_latches_and_the_next_daemon_ends_what_it_adopts() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&stubborn("agent", "switch-offline-mark"));
    host.wait_state("agent", "ready");
    host.wait_log("agent", "up");
    host.daemon.kill9();
    let latched = host.daemon.cli(&["automation", "shutdown", "--reason", "nobody answers"]);
    let said = String::from_utf8_lossy(&latched.stdout).into_owned();
    assert!(latched.status.success() && said.contains("latched on the disk"), "{latched:?}");
    let again = host.daemon.cli(&["--json", "automation", "shutdown", "--reason", "again"]);
    let again: Json = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&again["offline"], &again["already_latched"]), (&true.into(), &true.into()));
    assert!(lives("switch-offline-mark"), "nobody is there to end it");
    // A run in the foreground is refused by the same page.
    let run = host.daemon.cli(&["run", "--persona", "demo", "--", "true"]);
    assert!(String::from_utf8_lossy(&run.stderr).contains("shutdown_latched"), "{run:?}");

    host.daemon.restart();
    assert_eq!(refused(&host), "shutdown_latched");
    wait_for("the end of what was adopted", || (!lives("switch-offline-mark")).then_some(()));
    let shutdown = wait_for("the report", || {
        let position = position(&host);
        (position["shutdown"]["done"] == true).then(|| position["shutdown"].clone())
    });
    assert_eq!(shutdown["reason"], "nobody answers");
    audited(&host, &[("nobody answers", 1)]);
    host.daemon.kill9();
    let released = host.daemon.cli(&["automation", "rearm", "--reason", "all is well"]);
    assert!(released.status.success(), "{released:?}");
    let twice = host.daemon.cli(&["automation", "rearm", "--reason", "all is well"]);
    assert_eq!(twice.status.code(), Some(1), "there is nothing to release");
    host.daemon.restart();
    host.wait_state("agent", "ready");
    audited(&host, &[("all is well", 1)]);
}

#[test]
fn a_signal_and_a_page_written_by_somebody_else_are_obeyed() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&bash("agent", "sleep 1000; : switch-signal-mark", "auto_start = true"));
    host.wait_state("agent", "ready");
    host.daemon.signal(Signal::SIGUSR2);
    wait_for("the shutdown", || (position(&host)["shutdown"]["done"] == true).then_some(()));
    assert!(!lives("switch-signal-mark"));
    assert_eq!(position(&host)["shutdown"]["by"], "signal:SIGUSR2");
    let (status, _) = action(&host, &json!({ "kind": "automation_rearm", "reason": "a trial" }));
    assert_eq!(status, 200);

    // The daemon's socket is somebody else's: the page is written, and the daemon sees it.
    host.must("agent", "start");
    host.wait_state("agent", "ready");
    let mut open = tunnel(&host);
    let latched =
        host.daemon.cli(&["--base", "unix:/nonexistent/control.sock", "automation", "shutdown", "--reason", "by file"]);
    assert!(latched.status.success(), "{latched:?}");
    open.read_to_end();
    wait_for("the shutdown by file", || (position(&host)["shutdown"]["done"] == true).then_some(()));
    assert_eq!(
        (position(&host)["shutdown"]["reason"].as_str(), refused(&host).as_str()),
        (Some("by file"), "shutdown_latched")
    );

    // Also a page that was written in place within a tick of the clock, so that its time says nothing.
    let (status, problem) = action(&host, &json!({ "kind": "automation_rearm", "reason": "a trial" }));
    assert_eq!(status, 200, "{problem}");
    let page = std::fs::File::options().read(true).write(true).open(host.daemon.state_dir().join("latch")).unwrap();
    let before = page.metadata().unwrap().modified().unwrap();
    let aside = tempfile::tempdir().unwrap();
    let file = LatchFile::new(aside.path());
    switch::latch_offline(&file, "unseen", &Actor::offline(0), &SystemClock).unwrap();
    page.write_all_at(&std::fs::read(file.path()).unwrap(), 0).unwrap();
    page.set_modified(before).unwrap();
    wait_for("the page that looks old", || (position(&host)["shutdown"]["reason"] == "unseen").then_some(()));
    wait_for("its end", || (position(&host)["shutdown"]["done"] == true).then_some(()));
    let (status, problem) = action(&host, &json!({ "kind": "automation_rearm", "reason": "a trial" }));
    assert_eq!(status, 200, "{problem}");
    let by_file = ["--base", "unix:/nonexistent/control.sock", "automation", "shutdown", "--reason", "by file"];
    assert!(host.daemon.cli(&by_file).status.success());
    wait_for("the latch", || (position(&host)["shutdown"]["reason"] == "by file").then_some(()));
    wait_for("its end", || (position(&host)["shutdown"]["done"] == true).then_some(()));

    // Whoever takes the page away has not released it: it is written again.
    let page = host.daemon.state_dir().join("latch");
    std::fs::remove_file(&page).unwrap();
    wait_for("the page again", || {
        std::fs::read_to_string(&page).is_ok_and(|text| text.contains("by file")).then_some(())
    });
    assert_eq!(refused(&host), "shutdown_latched");
    // A page that cannot be read counts as latched at the start.
    host.daemon.kill9();
    std::fs::File::options().write(true).open(&page).unwrap().write_all_at(b"\0", 17).unwrap();
    host.daemon.restart();
    assert_eq!(refused(&host), "shutdown_latched");
    wait_for("the report", || (position(&host)["shutdown"]["done"] == true).then_some(()));
    let (status, problem) = action(&host, &json!({ "kind": "automation_rearm", "reason": "the page was damaged" }));
    assert_eq!(status, 200, "{problem}");
    drop(tunnel(&host));
}

#[test]
fn killed_at_any_moment_of_a_shutdown_the_next_daemon_completes_it() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&stubborn("agent", "switch-kill-mark"));
    for round in 0..4_u64 {
        host.wait_state("agent", "ready");
        let control = host.daemon.control;
        let asker = std::thread::spawn(move || {
            let body = r#"{"kind":"automation_shutdown","reason":"a trial"}"#;
            let Ok(mut stream) = TcpStream::connect(control) else { return false };
            let asked = write!(
                stream,
                "POST /actions HTTP/1.1\r\nHost: {control}\r\nX-ARW-Admin: {ADMIN_TOKEN}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let mut answer = String::new();
            asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
        });
        // From before the page is written to within the grace of a second.
        std::thread::sleep(Duration::from_millis([0, 5, 60, 600][usize::try_from(round).unwrap()]));
        host.daemon.kill9();
        let acknowledged = asker.join().unwrap();
        host.daemon.restart();
        let latched = position(&host)["latched"] == true;
        assert!(latched || !acknowledged, "what was acknowledged is latched");
        if latched {
            wait_for("its end", || (!lives("switch-kill-mark")).then_some(()));
            wait_for("the report", || (position(&host)["shutdown"]["done"] == true).then_some(()));
            assert_eq!(refused(&host), "shutdown_latched");
            let (status, problem) = action(&host, &json!({ "kind": "automation_rearm", "reason": "next round" }));
            assert_eq!(status, 200, "{problem}");
            host.must("agent", "start");
        } else {
            assert!(round < 2, "after 60 ms the page was written");
            host.wait_state("agent", "ready");
        }
    }
}

#[test]
fn a_release_waits_for_the_end_and_a_second_use_hastens_it() {
    if !crate::can_launch() {
        return;
    }
    let slow =
        bash("agent", "trap '' TERM; echo up; while :; do sleep 0.2; done; : switch-slow-mark", "auto_start = true")
            .replace("stop_grace = \"1s\"", "stop_grace = \"60s\"");
    let host = Host::start(&slow);
    host.wait_state("agent", "ready");
    host.wait_log("agent", "up");
    host.daemon.signal(Signal::SIGUSR2);
    wait_for("the latch", || (position(&host)["latched"] == true).then_some(()));
    let (status, problem) = action(&host, &json!({ "kind": "automation_rearm", "reason": "too early" }));
    assert_eq!((status, &problem["code"]), (409, &"shutdown_running".into()), "{problem}");
    let begun = Instant::now();
    let hastened = host.daemon.cli(&["automation", "shutdown", "--reason", "now", "--grace", "0s"]);
    assert!(hastened.status.success(), "{hastened:?}");
    assert!(!lives("switch-slow-mark") && begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    wait_for("both uses to be over", || {
        let (status, _) = action(&host, &json!({ "kind": "automation_rearm", "reason": "over" }));
        (status == 200).then_some(())
    });
}

#[test]
fn it_works_while_the_disk_is_full() {
    if !crate::can_launch() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: only root may mount a small disk");
        return;
    }
    let manifest = bash("agent", "sleep 1000; : switch-disk-mark", "auto_start = true");
    let host = Host::start_with(&manifest, |setup| setup.mounting("size=24m"));
    host.wait_state("agent", "ready");
    let filler = host.daemon.state_dir().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    let report = shut_down(&host);
    let latch = &report["steps"][0];
    assert!(latch["fault"].is_null(), "the page needs no space: {report:#}");
    assert!(!lives("switch-disk-mark"));
    // An open file keeps its space.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    // Once there is room the audit has it.
    let folder = host.daemon.state_dir().join("audit");
    wait_for("the audit", || {
        let shown = host.daemon.cli(&["--json", "ledger", "query", "--dir", folder.to_str().unwrap()]);
        String::from_utf8_lossy(&shown.stdout).contains("automation_shutdown").then_some(())
    });
}

/// `cargo test --release --test supervisor -- --ignored --nocapture --test-threads=1 measured_switch`
#[test]
#[ignore = "a measurement, for an idle machine"]
fn measured_switch_over_a_hundred_runtimes_and_a_thousand_tunnels() {
    let manifest: String = (0..100)
        .map(|n| bash(&format!("idle-{n}"), "sleep 100000; : switch-crowd-mark", "auto_start = true"))
        .collect();
    let host = Host::start(&manifest);
    wait_for("all to be ready", || {
        let (_, all) = host.ask("GET", "/state/runtime_supervisor");
        let ready = all["runtimes"].as_array().unwrap().iter().filter(|view| view["state"] == "ready").count();
        (ready == 100).then_some(())
    });
    let tunnels: Vec<Client> = (0..1_000).map(|_| tunnel(&host)).collect();
    let begun = Instant::now();
    let report = shut_down(&host);
    let answered = begun.elapsed();
    for mut client in tunnels {
        client.read_to_end();
    }
    println!("answered after {answered:?}; every tunnel had ended after {:?}; {:#}", begun.elapsed(), report["steps"]);
    assert!(!lives("switch-crowd-mark"));
}
