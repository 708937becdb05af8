//! A daemon with personas that may be armed, and what an operator does with it.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{Client, Daemon, Setup};

/// The file of `demo`, with words of people around what counts.
pub(crate) const DEMO: &str = "\
id = \"demo\" # the first
description = \"reads the registry\"

# Only the registry.
[[allow]]
id = \"api\"
hosts = [\"api.example.com\"] # its host
";

/// Armed by the environment, if anything is.
pub(crate) fn setup() -> Setup {
    Setup::new().persona_file("demo", DEMO).env("ARW_PERSONA_ENABLE", "1").set("runtimes.enable", false)
}

/// A daemon whose `demo` is reviewed.
pub(crate) fn armed() -> Daemon {
    let daemon = Daemon::start(setup());
    review(&daemon, "demo");
    daemon
}

pub(crate) fn review(daemon: &Daemon, persona: &str) {
    let output = daemon.cli(&[
        "persona",
        "review",
        "record",
        persona,
        "--reviewer",
        "works council",
        "--notice",
        "This persona reads the registry.",
        "--justification",
        "meeting of 3 March",
    ]);
    assert!(output.status.success(), "{}", text(&output));
}

/// What the client said, on both streams.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The client's answer in JSON.
pub(crate) fn answer(daemon: &Daemon, arguments: &[&str]) -> Value {
    let output = daemon.cli(&[&["--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The stable code of the client's refusal.
pub(crate) fn code(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.cli(&[&["--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", text(&output)));
    error["error"]["code"].as_str().unwrap_or_else(|| panic!("{error}")).to_owned()
}

/// One request to the control API, as an administrator.
pub(crate) fn api(daemon: &Daemon, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    api_with(daemon, method, path, body, &format!("Authorization: Bearer {ADMIN_TOKEN}\r\n"))
}

pub(crate) fn api_with(daemon: &Daemon, method: &str, path: &str, body: Option<&Value>, fields: &str) -> (u16, Value) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut client = Client::connect(daemon.control);
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: \
         {}\r\n{fields}\r\n{body}",
        daemon.control,
        body.len()
    ));
    let answer = client.answer_to(method);
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

/// Proposes `patch` for `demo` and gives its number.
pub(crate) fn propose(daemon: &Daemon, patch: &Value) -> u64 {
    let body = json!({ "patch": patch, "justification": "ticket 12" });
    let (status, proposal) = api(daemon, "POST", "/persona/demo/proposals", Some(&body));
    assert_eq!(status, 201, "{proposal}");
    proposal["id"].as_u64().unwrap()
}

pub(crate) fn approve(daemon: &Daemon, proposal: u64) -> (u16, Value) {
    let path = format!("/persona/demo/proposals/{proposal}/approve");
    api(daemon, "POST", &path, Some(&json!({ "note": "agreed", "widening": true })))
}

/// How a proposal stands.
pub(crate) fn state_of(daemon: &Daemon, proposal: u64) -> String {
    let (status, page) = api(daemon, "GET", "/state/persona/demo/proposals?limit=200", None);
    assert_eq!(status, 200, "{page}");
    let found = page["proposals"].as_array().unwrap().iter().find(|found| found["id"] == proposal);
    found.unwrap_or_else(|| panic!("{page}"))["state"].as_str().unwrap().to_owned()
}

/// The history of `demo`, oldest first.
pub(crate) fn history(daemon: &Daemon) -> Vec<Value> {
    let (status, page) = api(daemon, "GET", "/state/persona/demo/history?limit=200", None);
    assert_eq!(status, 200, "{page}");
    let mut lines = page["lines"].as_array().unwrap().clone();
    lines.reverse();
    lines
}

/// The kinds of a history.
pub(crate) fn kinds(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["kind"].as_str().unwrap()).collect()
}

/// The file of `demo`.
pub(crate) fn file(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.config_dir().join("personas/demo.toml")).unwrap()
}

/// What the gate would decide for `demo` and this URL.
pub(crate) fn decides(daemon: &Daemon, url: &str) -> String {
    let (status, answer) = api(daemon, "POST", "/egress/preview", Some(&json!({ "persona": "demo", "url": url })));
    assert_eq!(status, 200, "{answer}");
    answer["decision"].as_str().unwrap().to_owned()
}

/// Events of the daemon that it still has, as the client prints them in JSON.
pub(crate) fn events(daemon: &Daemon, prefix: &str) -> Vec<Value> {
    let output = daemon.cli(&["--json", "events", "--prefix", prefix, "--replay", "200"]);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
