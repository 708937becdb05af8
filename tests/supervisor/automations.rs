//! Automations: disabled and enabled, observed, budgeted.

use std::time::Duration;

use arw::domain::{AutomationId, RuntimeId, Timestamp};
use arw::store::{DisabledRow, Entry, Store};
use serde_json::{Value as Json, json};

use crate::stage::{Host, bash, lives};
use crate::support::{SmallDisk, wait_for};

/// Does nothing for as long as it may.
const IDLE: &str = "echo up; while :; do sleep 0.2; done";

/// The status of one automation.
fn status(host: &Host, id: &str) -> Json {
    let (code, all) = host.ask("GET", "/state/automation/status");
    assert_eq!(code, 200, "{all}");
    let found = all["automations"].as_array().unwrap().iter().find(|one| one["id"] == id);
    found.unwrap_or_else(|| panic!("no `{id}` in {all:#}")).clone()
}

fn impacts(one: &Json) -> Vec<&str> {
    one["impacted"].as_array().unwrap().iter().map(|impact| impact["code"].as_str().unwrap()).collect()
}

fn said(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_disabled_is_ended_and_nobody_starts_it_until_it_is_enabled() {
    if !crate::can_launch() {
        return;
    }
    let manifest = format!(
        "{}{}",
        bash("job", IDLE, "auto_start = true\nschedule = \"* * * * *\""),
        bash("user", IDLE, "auto_start = true\ndepends_on = [\"job\"]")
    );
    let registry = "[[automations]]\nid = \"nightly\"\nruntime = \"job\"\n";
    let mut host = Host::start_with(&manifest, |setup| setup.file("runtime/automations.toml", registry));
    host.wait_state("job", "ready");
    host.wait_state("user", "ready");
    assert_eq!(impacts(&status(&host, "nightly")), [""; 0]);

    // As the handbook has it, by the name of the runtime.
    let output = host.daemon.cli(&["automation", "disable", "job"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("nightly is disabled"), "{}", said(&output));
    host.wait_state("job", "stopped");
    let event = host.wait_event("automation.disabled", |data| data["automation"] == "nightly");
    assert_eq!(event["data"]["runtime"], "job");

    let nightly = status(&host, "nightly");
    assert_eq!(impacts(&nightly), ["disabled"], "{nightly:#}");
    assert_eq!((&nightly["enabled"], &nightly["next_start"]), (&json!(false), &Json::Null));
    assert!(nightly["disabled"]["by"].as_str().unwrap().contains("uid="), "{nightly:#}");
    for action in ["start", "restart", "restore"] {
        let (code, body) = host.act("job", action);
        assert_eq!((code, &body["code"]), (409, &json!("automation_disabled")), "{action}: {body}");
    }
    // Neither does who depends on it start it, nor a new daemon, nor another manifest.
    host.must("user", "restart");
    host.daemon.restart();
    host.declare(&manifest.replace("echo up", "echo up again"));
    host.wait("user", "waiting", |view| view["waits_for"] == json!(["job:ready"]) || view["state"] == "ready");
    assert_eq!(host.view("job")["state"], "stopped");
    assert_eq!(impacts(&status(&host, "nightly")), ["disabled"]);
    // Nor does another name for it.
    std::fs::write(host.daemon.config_dir().join("runtime/automations.toml"), registry.replace("nightly", "other"))
        .unwrap();
    host.daemon.sighup();
    assert_eq!(impacts(&status(&host, "other")), ["disabled"]);
    assert_eq!(host.act("job", "start").0, 409);

    let again = host.send("POST", "/automations/job/disable", r#"{"reason": "twice"}"#);
    assert_eq!((again.0, &again.1["changed"]), (200, &json!(false)), "{}", again.1);
    let output = host.daemon.cli(&["automation", "enable", "other", "--reason", "incident 7 is closed"]);
    assert!(output.status.success(), "{}", said(&output));
    host.must("job", "start");
    host.wait_state("job", "ready");
    let event = host.wait_event("automation.run.started", |data| data["runtime"] == "job" && data["run"] == 2);
    assert_eq!(event["data"]["automation"], "other");
    let (_, runs) = host.ask("GET", "/automations/job/runs");
    let names: Vec<&Json> = runs["runs"].as_array().unwrap().iter().map(|run| &run["automation"]).collect();
    assert_eq!(names, [&json!("other"), &json!("nightly")], "{runs}");
    // The audit has both, with who and why.
    wait_for("the audit", || {
        let log = std::fs::read_dir(host.daemon.state_dir().join("audit")).unwrap().flatten();
        let text: String = log.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect();
        (text.contains("automation_disabled")
            && text.contains("automation_enabled")
            && text.contains("incident 7 is closed"))
        .then_some(())
    });
}

#[test]
fn an_automation_that_nobody_knows_and_a_reason_that_says_nothing_are_refused() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("job", IDLE, ""));
    for (path, body, code, word) in [
        ("/automations/nobody/disable", r#"{"reason": "x"}"#, 404, "unknown_automation"),
        ("/automations/..%2fx/disable", r#"{"reason": "x"}"#, 404, "unknown_automation"),
        ("/automations/job/disable", r#"{"reason": " "}"#, 422, "reason_required"),
        ("/automations/job/disable", r#"{"reason": "two\nlines"}"#, 422, "reason_required"),
        ("/automations/job/disable", "{}", 400, "bad_request"),
        ("/automations/job/disable", r#"{"reason": "x", "force": true}"#, 400, "bad_request"),
        ("/automations/job/delete", r#"{"reason": "x"}"#, 400, "bad_request"),
    ] {
        let (status, body) = host.send("POST", path, body);
        assert_eq!((status, &body["code"]), (code, &json!(word)), "{path}: {body}");
    }
    assert_eq!(status(&host, "job")["enabled"], true);
    let output = host.daemon.cli(&["automation", "disable", "nobody"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

/// What a daemon leaves that was killed after the disable was kept and before anything was done.
#[test]
fn a_daemon_that_died_after_the_disable_was_kept_ends_the_runtime_when_it_comes_back() {
    if !crate::can_launch() {
        return;
    }
    let mark = format!("automation-{}-kept", std::process::id());
    let mut host = Host::start(&bash("job", &format!(": {mark}; {IDLE}"), "auto_start = true"));
    host.wait_state("job", "ready");
    host.daemon.kill9();
    assert!(lives(&mark));
    let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
    executor.block_on(async {
        let store = Store::open(&host.daemon.state_dir()).unwrap();
        let row = DisabledRow {
            automation: AutomationId::parse("job").unwrap(),
            runtime: RuntimeId::parse("job").unwrap(),
            at: Timestamp::from_unix_micros(1),
            by: "test".to_owned(),
            why: "incident 7".to_owned(),
        };
        let entry = Entry { id: "one".to_owned(), body: "{}".to_owned() };
        store.automations().disable(row, entry).await.unwrap();
    });
    host.daemon.restart();
    host.wait_state("job", "stopped");
    wait_for("its end", || (!lives(&mark)).then_some(()));
    let one = status(&host, "job");
    assert_eq!((impacts(&one), &one["disabled"]["reason"]), (vec!["disabled"], &json!("incident 7")));
    assert_eq!(host.act("job", "start").0, 409);
}

#[test]
fn disabled_on_a_full_disk_it_is_so_also_after_a_kill_or_the_answer_says_that_it_is_not() {
    if crate::can_launch() {
        SmallDisk::with(disabled_on);
    }
}

fn disabled_on(disk: &SmallDisk) {
    let mark = |id: &str| format!("automation-{}-full-{id}", std::process::id());
    let job = |id: &str| bash(id, &format!(": {}; {IDLE}", mark(id)), "auto_start = true");
    let mut host = Host::start_with(&format!("{}{}", job("one"), job("two")), |setup| setup.in_home(disk.home()));
    host.wait_state("one", "ready");
    host.wait_state("two", "ready");
    let disable = |host: &Host, id: &str| {
        let (code, body) = host.send("POST", &format!("/automations/{id}/disable"), r#"{"reason": "incident 7"}"#);
        wait_for("its end", || (!lives(&mark(id))).then_some(()));
        (code, body)
    };
    disk.fill();
    let (code, body) = disable(&host, "one");
    assert_eq!((code, &body["automation"]["enabled"]), (200, &json!(false)), "{body}");
    host.daemon.wait_for_log("what narrows is not in the state yet");
    // Enabling is kept first, as ever.
    let (code, body) = host.send("POST", "/automations/one/enable", r#"{"reason": "too early"}"#);
    assert_eq!((code, &body["code"]), (503, &json!("state_unavailable")), "{body}");
    assert_eq!(status(&host, "one")["enabled"], false);
    host.daemon.kill9();
    disk.free();
    host.daemon.restart();
    let one = status(&host, "one");
    assert_eq!((impacts(&one)[0], &one["disabled"]["reason"]), ("disabled", &json!("incident 7")), "{one:#}");
    // That it was stopped is not on the disk, so its end may be taken for a failure.
    assert!(impacts(&one).iter().all(|code| ["disabled", "failing"].contains(code)), "{one:#}");
    assert_eq!(host.act("one", "start").0, 409);
    let told = || {
        let (_, page) = host.ask("GET", "/state/audit?limit=100");
        let lines = page["entries"].as_array().unwrap().iter();
        lines.filter(|line| line["audit"]["action"] == "automation_disabled" && line["runtime"] == "one").count()
    };
    wait_for("the audit", || (told() == 1).then_some(()));
    // The state has it, and the reserve has not: enabled is enabled.
    let (code, body) = host.send("POST", "/automations/one/enable", r#"{"reason": "over"}"#);
    assert_eq!(code, 200, "{body}");
    host.daemon.kill9();
    host.daemon.restart();
    assert_eq!(status(&host, "one")["enabled"], true);

    // Without the room that is kept for it, it counts until a restart, and the answer says so.
    host.must("two", "start");
    host.wait_state("two", "ready");
    disk.spoil("narrowed-automations");
    disk.fill();
    let (code, body) = disable(&host, "two");
    assert_eq!(code, 503, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("is disabled until the daemon restarts"), "{body}");
    assert_eq!(host.act("two", "start").0, 409);
    // What cannot be read may tell of anybody.
    host.daemon.kill9();
    disk.free();
    host.daemon.restart();
    for id in ["one", "two"] {
        let one = status(&host, id);
        assert!(one["disabled"]["reason"].as_str().unwrap().contains("narrowed-automations"), "{one:#}");
    }
}

#[test]
fn a_kill_at_any_moment_leaves_it_disabled_or_untouched() {
    if !crate::can_launch() {
        return;
    }
    let mark = format!("automation-{}-any", std::process::id());
    let mut host = Host::start(&bash("job", &format!(": {mark}; {IDLE}"), "auto_start = true"));
    for round in 0..6_u64 {
        host.wait_state("job", "ready");
        let answer = std::thread::scope(|scope| {
            let asking =
                scope.spawn(|| host.try_send("POST", "/automations/job/disable", r#"{"reason": "incident 7"}"#));
            std::thread::sleep(Duration::from_micros(round * 1_500));
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(host.daemon.pid().try_into().unwrap()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
            asking.join().unwrap()
        });
        host.daemon.kill9();
        host.daemon.restart();
        let one = status(&host, "job");
        if answer.is_some_and(|(code, _)| code == 200) {
            assert_eq!(one["enabled"], false, "round {round}: it was acknowledged: {one:#}");
        }
        if one["enabled"] == false {
            host.wait_state("job", "stopped");
            wait_for("its end", || (!lives(&mark)).then_some(()));
            let (code, body) = host.send("POST", "/automations/job/enable", r#"{"reason": "next round"}"#);
            assert_eq!(code, 200, "{body}");
            host.must("job", "start");
        } else {
            host.wait_state("job", "ready");
        }
    }
}

#[test]
fn runs_are_told_and_kept_also_those_that_nobody_saw() {
    if !crate::can_launch() {
        return;
    }
    let script = "if [ \"$ARW_RUNTIME_RUN\" = 2 ]; then sleep 1; exit 9; fi; while :; do sleep 0.2; done";
    let mut host = Host::start(&bash("job", script, "auto_start = true\n[runtimes.restart]\npolicy = \"no\""));
    let view = host.wait_state("job", "ready");
    host.wait_event("automation.run.started", |data| data["run"] == 1);
    if host.act("job", "freeze").0 == 200 {
        host.wait_event("automation.run.paused", |data| data["run"] == 1);
        assert_eq!(impacts(&status(&host, "job")), ["paused"]);
        host.must("job", "thaw");
        host.wait_event("automation.run.resumed", |data| data["run"] == 1);
    } else {
        println!("SKIP: without control groups nothing is held still");
    }
    let _ = view;
    host.must("job", "stop");
    let event = host.wait_event("automation.run.stopped", |data| data["run"] == 1);
    assert_eq!((&event["data"]["cause"], &event["subject"]), (&json!("operator"), &json!("job")));
    host.must("job", "start");
    host.wait("job", "in its second run", |view| view["run"] == 2 && !view["pid"].is_null());
    let proc = format!("/proc/{}", host.view("job")["pid"]);
    host.daemon.kill9();
    wait_for("its end", || (!std::path::Path::new(&proc).exists()).then_some(()));
    host.daemon.restart();
    let event = host.wait_event("automation.run.stopped", |data| data["run"] == 2);
    assert_eq!(event["data"]["cause"], "exit");
    let (_, answer) = host.ask("GET", "/automations/job/runs?limit=5");
    let runs = answer["runs"].as_array().unwrap();
    let seen: Vec<(&Json, &Json)> = runs.iter().map(|run| (&run["run"], &run["cause"])).collect();
    assert_eq!(seen, [(&json!(2), &json!("exit")), (&json!(1), &json!("operator"))], "{answer:#}");
    assert_eq!(host.ask("GET", "/automations/job/runs?limit=0").0, 400);
    assert_eq!(host.ask("GET", "/automations/nobody/runs").0, 404);
}
