//! Putting another policy in force while requests come.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::daemon::{persona_text, write_private};
use crate::support::{Daemon, wait_for};
use crate::{ask, grant, policy, under};

/// In one step, as a deployment does it.
fn put(daemon: &Daemon, text: &str) {
    let (fresh, file) = (daemon.config_dir().join(".fresh"), daemon.config_dir().join("policy.json"));
    write_private(&fresh, text.as_bytes());
    std::fs::rename(fresh, file).unwrap();
}

#[test]
fn a_reload_is_whole_or_not_at_all() {
    let first = policy(&[grant("operate", "token", "\"state:read\",\"policy:reload\"")]);
    let daemon = Daemon::start(under(&first).persona("demo", "posture = \"off\""));
    let personas = || ask(&daemon, "GET", "/state/personas").text();
    // The daemon notices changes by itself too, so each pair is written in the order that is never good in between.
    // A good persona beside a faulty policy: neither comes into force.
    put(&daemon, "{}");
    daemon.write_persona_file("second", &persona_text("second", ""));
    let refused = ask(&daemon, "POST", "/policy/reload");
    assert_eq!(refused.code(), "policy_faults");
    assert!(!personas().contains("\"second\""), "{}", personas());
    // A good policy beside a faulty persona: the same.
    daemon.write_persona_file("second", "id = \"second\"\nposture = \"wild\"\n");
    put(&daemon, &policy(&[grant("look", "token", "\"settings:read\",\"policy:reload\"")]));
    assert_eq!(ask(&daemon, "POST", "/policy/reload").code(), "policy_faults");
    assert_eq!(ask(&daemon, "GET", "/egress/settings").code(), "not_permitted");
    assert_eq!(ask(&daemon, "GET", "/state/personas").status, 200);
    // Both good: both.
    daemon.write_persona_file("second", &persona_text("second", ""));
    assert_eq!(ask(&daemon, "POST", "/policy/reload").status, 200);
    assert_eq!(ask(&daemon, "GET", "/egress/settings").status, 200);
    assert_eq!(ask(&daemon, "GET", "/state/personas").code(), "not_permitted");
}

#[test]
fn a_changed_file_is_noticed_by_itself() {
    let daemon = Daemon::start(under(&policy(&[])));
    assert_eq!(ask(&daemon, "GET", "/state/tunnels").code(), "not_permitted");
    put(&daemon, &policy(&[grant("look", "token", "\"state:read\"")]));
    wait_for("the new policy", || (ask(&daemon, "GET", "/state/tunnels").status == 200).then_some(()));
}

#[test]
fn under_load_every_answer_is_by_one_policy_or_by_the_other() {
    let (look, set) = (grant("look", "token", "\"state:read\""), grant("set", "token", "\"settings:read\""));
    let (first, second) = (policy(&[look]), policy(&[set]));
    let daemon = Daemon::start(under(&first));
    let (done, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for path in ["/state/tunnels", "/egress/settings"] {
                        let answer = ask(&daemon, "GET", path);
                        let fine = answer.status == 200 || (answer.status == 403 && answer.code() == "not_permitted");
                        assert!(fine, "{path}: {} {}", answer.status, answer.text());
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for round in 0..10 {
            put(&daemon, if round % 2 == 0 { &second } else { &first });
            daemon.sighup();
            let (open, closed) = if round % 2 == 0 {
                ("/egress/settings", "/state/tunnels")
            } else {
                ("/state/tunnels", "/egress/settings")
            };
            wait_for("the policy of this round", || (ask(&daemon, "GET", open).status == 200).then_some(()));
            assert_eq!(ask(&daemon, "GET", closed).code(), "not_permitted", "round {round}");
            if round == 5 {
                // A broken file in between changes nothing.
                put(&daemon, "{\"version\":1}");
                daemon.sighup();
                assert_eq!(ask(&daemon, "GET", open).status, 200);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(answers.load(Ordering::Relaxed) > 0);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}
