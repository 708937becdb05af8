//! What arms a persona, and what does not.

use serde_json::json;

use crate::stage::{DEMO, answer, api, armed, code, decides, events, history, kinds, review, setup, text};
use crate::support::{Daemon, Setup, SmallDisk, wait_for};

const FEEDBACK: [&str; 5] = ["persona", "feedback", "send", "demo", r#"{"mood":"calm"}"#];

fn standing(daemon: &Daemon) -> String {
    answer(daemon, &["persona", "show", "demo"])["standing"].as_str().unwrap().to_owned()
}

#[test]
fn enabled_without_a_review_it_arms_nothing_and_says_so_everywhere() {
    let daemon = Daemon::start(setup());
    daemon.wait_for_log("persona_not_reviewed");
    assert_eq!(standing(&daemon), "persona_not_reviewed");
    assert_eq!(code(&daemon, &FEEDBACK), "persona_not_armed");
    let patch = json!({ "patch": [{ "op": "add", "path": "/posture", "value": "off" }], "justification": "x" });
    let (status, refused) = api(&daemon, "POST", "/persona/demo/proposals", Some(&patch));
    assert_eq!((status, refused["code"].as_str()), (409, Some("persona_not_armed")), "{refused}");
    assert!(refused["hint"].as_str().unwrap().contains("persona review record demo"), "{refused}");
    let status = daemon.cli(&["status"]);
    assert!(text(&status).contains("persona_not_reviewed"), "{}", text(&status));
    let told = wait_for("the event", || {
        events(&daemon, "persona.updated").into_iter().find(|event| event["data"]["standing"] == "persona_not_reviewed")
    });
    assert_eq!(told["subject"], "demo");
    // Egress goes on as ever.
    assert_eq!(decides(&daemon, "https://api.example.com"), "allow");
}

#[test]
fn a_review_arms_exactly_what_was_reviewed_and_an_edit_ends_it() {
    let daemon = Daemon::start(setup());
    review(&daemon, "demo");
    assert_eq!(standing(&daemon), "persona_armed");
    let shown = answer(&daemon, &["persona", "show", "demo"]);
    assert_eq!(shown["review"]["reviewer"], "works council");
    assert_eq!(shown["review"]["notice"], "This persona reads the registry.");
    assert_eq!((&shown["review"]["fits"], &shown["review"]["file_digest"]), (&json!(true), &shown["in_force"]));

    daemon.write_persona_file("demo", &DEMO.replace("api.example.com", "*.example.org"));
    wait_for("the edit in force", || (standing(&daemon) == "persona_review_stale").then_some(()));
    assert_eq!(code(&daemon, &FEEDBACK), "persona_not_armed");
    let lines = wait_for("the edit in the history", || {
        let lines = history(&daemon);
        kinds(&lines).contains(&"file_changed").then_some(lines)
    });
    assert_eq!(kinds(&lines), ["file_added", "review_recorded", "file_changed"]);
    assert_eq!(lines[2]["actor"], "daemon");
    assert_eq!(lines[1]["data"]["file_digest"], lines[2]["data"]["before"]);
    // The very text that was reviewed is the reviewed one.
    daemon.write_persona_file("demo", DEMO);
    wait_for("what was reviewed in force", || (standing(&daemon) == "persona_armed").then_some(()));
}

#[test]
fn a_review_counts_after_a_restart_and_only_while_it_is_enabled() {
    let mut daemon = armed();
    daemon.restart();
    assert_eq!(standing(&daemon), "persona_armed");
    daemon.sigterm();
    daemon.wait_for_exit();
    let off = Daemon::start(Setup::new().set("runtimes.enable", false).in_home_of(&daemon));
    assert_eq!(standing(&off), "personas_off");
    assert_eq!(code(&off, &FEEDBACK), "persona_not_armed");
    // Reviewing is what comes before arming.
    review(&off, "demo");
}

#[test]
fn what_the_environment_puts_over_a_file_is_not_what_was_reviewed() {
    let mut daemon = armed();
    daemon.sigterm();
    daemon.wait_for_exit();
    let wider = setup().env("ARW_PERSONA_ID", "demo").env("ARW_NET_POSTURE", "public").in_home_of(&daemon);
    assert_eq!(standing(&Daemon::start(wider)), "persona_review_stale");
}

#[test]
fn feedback_needs_people_who_agreed_to_the_notice_in_force() {
    let daemon = armed();
    assert_eq!(code(&daemon, &FEEDBACK), "not_opted_in");
    let opt = |which| ["persona", "feedback", which, "demo", "--justification", "asked the team"];
    assert_eq!(code(&daemon, &opt("opt-out")), "not_opted_in", "there is nothing to take back");
    answer(&daemon, &opt("opt-in"));
    answer(&daemon, &FEEDBACK);
    let state = answer(&daemon, &["persona", "show", "demo"]);
    assert_eq!((&state["feedback"]["taken"], &state["feedback"]["count"]), (&json!(true), &json!(1)));
    assert_eq!(state["feedback"]["last"], json!({ "mood": "calm" }));
    let heard = events(&daemon, "persona.feedback");
    assert_eq!(heard.len(), 1);
    assert_eq!((&heard[0]["subject"], &heard[0]["data"]["feedback"]["mood"]), (&json!("demo"), &json!("calm")));

    // Other words are another agreement.
    let output = daemon.cli(&[
        "persona",
        "review",
        "record",
        "demo",
        "--reviewer",
        "works council",
        "--notice",
        "It also keeps what it read.",
        "--justification",
        "the notice was rewritten",
    ]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(code(&daemon, &FEEDBACK), "not_opted_in");
    answer(&daemon, &opt("opt-in"));
    answer(&daemon, &FEEDBACK);
    answer(&daemon, &opt("opt-out"));
    assert_eq!(code(&daemon, &FEEDBACK), "not_opted_in");
    let lines = history(&daemon);
    assert_eq!(
        kinds(&lines)[1..],
        ["review_recorded", "feedback_opt_in", "review_recorded", "feedback_opt_in", "feedback_opt_out"]
    );
}

#[test]
fn an_agreement_that_is_taken_back_on_a_full_disk_is_gone_also_after_a_kill() {
    SmallDisk::with(|disk| {
        let mut daemon = Daemon::start(setup().in_home(disk.home()));
        review(&daemon, "demo");
        let opt = |which| ["persona", "feedback", which, "demo", "--justification", "asked the team"];
        answer(&daemon, &opt("opt-in"));
        answer(&daemon, &FEEDBACK);
        disk.fill();
        answer(&daemon, &opt("opt-out"));
        daemon.wait_for_log("what narrows is not in the state yet");
        assert_eq!(code(&daemon, &FEEDBACK), "not_opted_in");
        daemon.kill9();
        disk.free();
        daemon.restart();
        assert_eq!(code(&daemon, &FEEDBACK), "not_opted_in");
        wait_for("the history", || (kinds(&history(&daemon)).last() == Some(&"feedback_opt_out")).then_some(()));
        answer(&daemon, &opt("opt-in"));
        daemon.kill9();
        daemon.restart();
        answer(&daemon, &FEEDBACK);

        disk.spoil("narrowed-opt-ins");
        disk.fill();
        let refused = daemon.cli(&opt("opt-out"));
        let said = text(&refused);
        assert!(!refused.status.success() && said.contains("is refused until the daemon restarts"), "{said}");
        assert_eq!(code(&daemon, &FEEDBACK), "not_opted_in");
        daemon.kill9();
        disk.free();
        daemon.restart();
        assert_eq!(code(&daemon, &FEEDBACK), "not_opted_in", "what cannot be read may tell of anybody");
    });
}

#[test]
fn feedback_is_bounded_in_size_and_pace() {
    let daemon = armed();
    answer(&daemon, &["persona", "feedback", "opt-in", "demo", "--justification", "asked the team"]);
    let send = |body: &serde_json::Value| api(&daemon, "POST", "/persona/demo/feedback", Some(body));
    for bad in [json!("text"), json!([1]), json!(7), json!(null), json!({ "x": "y".repeat(5_000) })] {
        assert_eq!(send(&bad).0, 400, "{bad}");
    }
    assert_eq!(send(&json!({ "x": "y".repeat(70_000) })).0, 413);
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    let body: serde_json::Value = serde_json::Value::String(deep);
    assert_eq!(send(&body).0, 400);
    let answers: Vec<u16> = (0..40).map(|_| send(&json!({ "n": 1 })).0).collect();
    assert!(answers[..10].iter().all(|status| *status == 200), "{answers:?}");
    assert!(answers.contains(&429), "{answers:?}");
    let state = answer(&daemon, &["persona", "show", "demo"]);
    let taken = answers.iter().filter(|status| **status == 200).count();
    assert_eq!(state["feedback"]["count"], json!(taken), "what was refused is not counted");
}
