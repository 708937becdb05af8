//! Feedback that a persona sends from inside its sandbox.

use serde_json::{Value as Json, json};

use crate::stage::{Host, PERSONA};
use crate::support::wait_for;
use crate::usage::{body, desk, line, status_of};

/// As `post`, but with a body that is sent byte by byte as it stands.
const RAW: &str = r#"
raw() { dial; printf 'POST %s HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "$2" "${#3}" "$3" >&3; hear "$1"; }
LC_ALL=C
"#;

fn heard(host: &Host, persona: &str) -> Json {
    let (status, state) = host.ask("GET", &format!("/state/persona/{persona}"));
    assert_eq!(status, 200, "{state}");
    state["feedback"].clone()
}

fn agreed(host: &Host, persona: &str, granted: bool) {
    let body = json!({ "granted": granted, "justification": "asked the team" }).to_string();
    let (status, answer) = host.send("POST", &format!("/persona/{persona}/feedback/consent"), &body);
    assert_eq!(status, 200, "{answer}");
}

fn reviewed(host: &Host, persona: &str) {
    let body = json!({ "reviewer": "works council", "notice": "It says how it is.", "justification": "meeting" });
    let (status, answer) = host.send("POST", &format!("/persona/{persona}/review"), &body.to_string());
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_runtime_is_heard_as_its_own_persona_once_people_agreed_and_as_nobody_else() {
    if !crate::can_launch() {
        return;
    }
    let early = desk("early", r#"post early /feedback '{"mood":"calm"}'"#, "auto_start = true");
    let script = r#"
        raw mine /feedback '{"mood":"calm"}'
        raw own /persona/agent/feedback '{"mood":"fine","note":"x\u001b[2J\u0000\ny"}'
        raw other /persona/other/feedback '{"mood":"forged"}'
        raw traversal /persona/../feedback '{"mood":"forged"}'
        raw control /feedback "$(printf '{"mood":"\001"}')"
        raw list /feedback '["calm"]'
        raw text /feedback '"calm"'
        raw deep /feedback "{\"a\":$(printf '[%.0s' {1..300})1$(printf ']%.0s' {1..300})}"
        raw large /feedback "{\"a\":\"$(printf 'x%.0s' {1..5000})\"}"
        raw huge /feedback "{\"a\":\"$(printf 'x%.0s' {1..20000})\"}"
        raw agree /persona/agent/feedback/consent '{"granted":true,"justification":"x"}'
        get read /feedback
        dial; say "POST /feedback HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Length: 2\r\n\r\n{}"; hear undeclared
        dial; say "POST /feedback HTTP/1.1\r\nHost: gateway.arw.internal\r\nX-ARW-Persona: other\r\nX-ARW-Project: other\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"mood\":\"mine\"}"; hear header"#;
    let late = desk("late", &format!("{RAW}{script}"), "");
    let last = desk("last", r#"post last /feedback '{"mood":"calm"}'"#, "");
    let host = Host::start_with(&format!("{early}{late}{last}"), |setup| {
        setup.env("ARW_PERSONA_ENABLE", "1").persona("other", "")
    });
    let refused = |id: &str, mark: &str, status: &str, code: &str| {
        let answer = line(&host, id, mark);
        assert!(status_of(&answer) == status && body(&answer)["code"] == code, "{mark}: {answer}");
    };
    host.wait_log("early", "done");
    refused("early", "early", "409", "persona_not_armed");
    for persona in [PERSONA, "other"] {
        reviewed(&host, persona);
    }
    host.must("early", "restart");
    wait_for("the second run", || host.log("early").matches("done").nth(1).map(drop));
    assert!(host.log("early").contains("not_opted_in"), "armed, and nobody agreed: {}", host.log("early"));
    for persona in [PERSONA, "other"] {
        agreed(&host, persona, true);
    }

    host.must("late", "start");
    host.wait_log("late", "done");
    for mark in ["mine", "own", "header"] {
        let answer = line(&host, "late", mark);
        assert!(status_of(&answer) == "200" && body(&answer)["at"].is_string(), "{mark}: {answer}");
    }
    for (mark, status, code) in [
        ("other", "403", "not_yours"),
        ("traversal", "403", "not_yours"),
        ("control", "400", "bad_request"),
        ("list", "400", "bad_request"),
        ("text", "400", "bad_request"),
        ("deep", "400", "bad_request"),
        ("large", "400", "bad_request"),
        ("huge", "413", "body_too_large"),
        ("agree", "404", "not_found"),
        ("read", "405", "method_not_allowed"),
        ("undeclared", "415", "not_json"),
    ] {
        refused("late", mark, status, code);
    }
    let mine = heard(&host, PERSONA);
    assert_eq!((&mine["count"], &mine["last"]["mood"]), (&json!(3), &json!("mine")), "{mine}");
    assert!(mine["last_by"].as_str().unwrap().starts_with("runtime:late#"), "as the kernel says: {mine}");
    let others = heard(&host, "other");
    assert_eq!((&others["count"], &others["last"]), (&json!(0), &Json::Null), "{others}");
    let event = host.wait_event("persona.feedback", |data| data["feedback"]["mood"] == "fine");
    assert_eq!(event["subject"], PERSONA);
    assert_eq!(event["data"]["feedback"]["note"], "x\u{1b}[2J\0\ny", "whole, and only as JSON has it");
    assert!(!host.daemon.log().contains('\u{1b}'));

    // Taken back, it is not heard.
    agreed(&host, PERSONA, false);
    host.must("last", "start");
    host.wait_log("last", "done");
    refused("last", "last", "409", "not_opted_in");
    assert_eq!(heard(&host, PERSONA)["count"], 3);
}

#[test]
fn a_flood_of_feedback_is_slowed_and_what_was_taken_is_what_was_told() {
    if !crate::can_launch() {
        return;
    }
    let flood = r#"for i in $(seq 40); do post "f$i" /feedback "{\"n\":$i}"; done"#;
    let host = Host::start_with(&desk("flood", flood, ""), |setup| setup.env("ARW_PERSONA_ENABLE", "1"));
    reviewed(&host, PERSONA);
    agreed(&host, PERSONA, true);
    host.must("flood", "start");
    host.wait_log("flood", "done");
    let log = host.log("flood");
    let (taken, slowed) = (log.matches("HTTP/1.1 200").count(), log.matches("HTTP/1.1 429").count());
    assert!(taken >= 10 && taken + slowed == 40, "{taken} taken, {slowed} slowed");
    assert_eq!(heard(&host, PERSONA)["count"], taken);
}
