//! `kill -9` between any two steps of an approval: a restart explains the state and completes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::{DEMO, api, approve, decides, file, history, propose, review, setup, state_of};
use crate::support::{Daemon, PATIENCE, wait_for};

/// Other personas: reading them all takes a while, so each step of an approval lasts long enough to be hit.
const OTHERS: usize = 250;
/// Attempts to hit one moment.
const ATTEMPTS: usize = 12;

fn crowded() -> Daemon {
    let setup = (0..OTHERS).fold(setup(), |setup, at| {
        let rules: String = (0..20)
            .map(|rule| format!("[[allow]]\nid = \"r{rule}\"\nhosts = [\"h{rule}.p{at}.example.com\"]\n"))
            .collect();
        setup.persona_file(&format!("other-{at}"), &format!("id = \"other-{at}\"\n{rules}"))
    });
    let daemon = Daemon::start(setup);
    review(&daemon, "demo");
    daemon
}

/// Narrower or wider again, by turns.
fn change(daemon: &Daemon, host: &str) -> Value {
    let (_, state) = api(daemon, "GET", "/state/persona/demo", None);
    let count = state["file"]["document"]["allow"][0]["hosts"].as_array().unwrap().len();
    match count {
        1 => json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": host }]),
        _ => json!([{ "op": "replace", "path": "/allow/0/hosts/1", "value": host }]),
    }
}

/// What must hold after any crash and the restart behind it.
fn explained(daemon: &Daemon, proposal: u64, before: &str, host: &str) -> bool {
    let state = wait_for("the proposal's end", || {
        let state = state_of(daemon, proposal);
        (state != "applying").then_some(state)
    });
    let lines = history(daemon);
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind && line["proposal"] == proposal).count();
    let url = format!("https://{host}");
    match state.as_str() {
        "submitted" => {
            assert_eq!(file(daemon), before, "nobody's approval was kept, so nothing changed");
            assert_eq!((of("proposal_approved"), of("proposal_applied")), (0, 0));
            assert_eq!(decides(daemon, &url), "deny");
        }
        "approved" => {
            assert!(file(daemon).contains(host), "{}", file(daemon));
            assert_eq!((of("proposal_approved"), of("proposal_applied")), (1, 1), "{lines:?}");
            assert_eq!(decides(daemon, &url), "allow");
        }
        other => panic!("{other}: {lines:?}"),
    }
    let (_, shown) = api(daemon, "GET", "/state/persona/demo", None);
    assert_eq!(shown["standing"], "persona_armed", "{shown}");
    assert!(!lines.iter().any(|line| line["kind"] == "file_changed"), "{lines:?}");
    let left: Vec<_> = std::fs::read_dir(daemon.config_dir().join("personas"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".toml"))
        .collect();
    assert!(state != "approved" || left.is_empty(), "{left:?}");
    lines.iter().any(|line| line["proposal"] == proposal && line["data"]["resumed"] == true)
}

/// Approves in the background, kills the daemon when `moment` says so, restarts it; whether the restart had to go on.
fn killed_at(daemon: &mut Daemon, host: &str, moment: impl FnOnce(&Daemon, &AtomicBool)) -> bool {
    let before = file(daemon);
    let patch = change(daemon, host);
    let proposal = propose(daemon, &patch);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asked: &Daemon = daemon;
        let asking = scope.spawn(|| {
            // The answer may never come: that is the point.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| approve(asked, proposal)));
            over.store(true, Ordering::Release);
        });
        moment(asked, &over);
        asked.signal(nix::sys::signal::Signal::SIGKILL);
        asking.join().unwrap();
    });
    daemon.wait_for_exit();
    daemon.restart();
    explained(daemon, proposal, &before, host)
}

fn until(over: &AtomicBool, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() && !over.load(Ordering::Acquire) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn killed_once_the_approval_is_kept_it_is_completed_by_the_next_start() {
    let mut daemon = crowded();
    // The log tells of the approval right behind its commit, and before the file is touched.
    let hit = (0..ATTEMPTS).any(|attempt| {
        let said = daemon.log().matches("a proposal was approved").count();
        killed_at(&mut daemon, &format!("kept{attempt}.example.org"), |daemon, over| {
            until(over, || daemon.log().matches("a proposal was approved").count() > said);
        })
    });
    assert!(hit, "no attempt left anything to go on with");
}

#[test]
fn killed_once_the_file_is_in_place_it_is_completed_by_the_next_start() {
    let mut daemon = crowded();
    let hit = (0..ATTEMPTS).any(|attempt| {
        let host = format!("placed{attempt}.example.org");
        killed_at(&mut daemon, &host.clone(), |daemon, over| until(over, || file(daemon).contains(&host)))
    });
    assert!(hit, "no attempt left anything to go on with");
}

#[test]
fn killed_at_any_time_it_is_one_or_the_other() {
    let mut daemon = crowded();
    for attempt in 0..6_u64 {
        let pause = Duration::from_millis(attempt * 37 % 200);
        killed_at(&mut daemon, &format!("any{attempt}.example.org"), |_, over| {
            let start = Instant::now();
            until(over, || start.elapsed() >= pause);
        });
    }
}

#[test]
fn a_file_that_other_hands_changed_meanwhile_is_left_alone_and_the_history_says_why() {
    let mut daemon = crowded();
    for attempt in 0..ATTEMPTS {
        let host = format!("meanwhile{attempt}.example.org");
        let patch = change(&daemon, &host);
        let proposal = propose(&daemon, &patch);
        let said = daemon.log().matches("a proposal was approved").count();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asked: &Daemon = &daemon;
            let asking = scope.spawn(|| {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| approve(asked, proposal)));
                over.store(true, Ordering::Release);
            });
            until(&over, || asked.log().matches("a proposal was approved").count() > said);
            asked.signal(nix::sys::signal::Signal::SIGKILL);
            asking.join().unwrap();
        });
        daemon.wait_for_exit();
        if file(&daemon).contains(&host) {
            // Too late for this: it was in place already.
            daemon.restart();
            continue;
        }
        let by_hand = DEMO.replace("api.example.com", "hand.example.com");
        daemon.write_persona_file("demo", &by_hand);
        daemon.restart();
        let state = wait_for("the proposal's end", || {
            let state = state_of(&daemon, proposal);
            (state != "applying").then_some(state)
        });
        assert_eq!(file(&daemon), by_hand, "nobody's work is overwritten");
        if state == "submitted" {
            // Killed before the approval was kept; the log was faster than the commit could be seen.
            panic!("the log said so before it was kept");
        }
        assert_eq!(state, "failed");
        let lines = history(&daemon);
        let failed = lines.iter().find(|line| line["kind"] == "proposal_failed").unwrap();
        assert_eq!(failed["data"]["why"], "the file was changed by other hands meanwhile");
        return;
    }
    panic!("no attempt left anything to go on with");
}
