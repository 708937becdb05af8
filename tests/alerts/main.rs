//! Alerts with the real daemon: raised, sent, acknowledged, and kept over every kind of end.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod life;
mod rsyslog;
mod sinks;
mod webhook;

use std::fmt::Write as _;

use serde_json::Value as Json;
use support::{Client, Daemon, Origin, Setup, wait_for};

/// The persona of the tests here.
const AGENT: &str = "agent";
/// So many names below `origin.test`: `h0`, `h1` and so on.
const HOSTS: usize = 600;
/// What webhooks are signed with.
const SECRET: &str = "a secret of the trials 0123456789";

/// A daemon with this `alerts.toml`, whose agent may reach `origin` as `origin.test`.
fn start(alerts: &str, origin: &Origin, change: impl FnOnce(Setup) -> Setup) -> Daemon {
    let rules = format!(
        "[[allow]]\nid = \"origin\"\nhosts = [\"origin.test\", \"*.origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\", \"tcp\"]\n",
        origin.port()
    );
    let setup = Setup::new()
        .host("origin.test", &["127.0.0.1"])
        .host("other.origin.test", &["127.0.0.1"])
        .persona(AGENT, &rules)
        .file("webhook.secret", SECRET)
        .file("alerts.toml", alerts);
    let setup = (0..HOSTS).fold(setup, |setup, number| setup.host(&format!("h{number}.origin.test"), &["127.0.0.1"]));
    Daemon::start(change(setup))
}

/// An `alerts.toml` that raises `policy_denials` at the third denial and clears without a hold.
fn alerts(routes: &str) -> String {
    format!("clear_after = \"0s\"\n[policy_denials]\ncount = 3\n{routes}")
}

/// A route to `path` of `receiver`.
fn webhook(name: &str, receiver: &Origin, path: &str, more: &str) -> String {
    format!(
        "[[routes]]\nname = \"{name}\"\nsink = \"webhook\"\nsecret_file = \"webhook.secret\"\nurl = \"http://{}{path}\"\n{more}\n",
        receiver.addr()
    )
}

/// A route to a file in the state folder.
const FILE: &str = "[[routes]]\nname = \"file\"\nsink = \"jsonl\"\npath = \"alerts.jsonl\"\n";

/// The agent is denied so often.
fn deny(daemon: &Daemon, times: usize) {
    for _ in 0..times {
        let answer = Client::connect(daemon.proxy).connect_to("denied.test:443", &Daemon::credentials(AGENT));
        assert_eq!(answer.status, 403);
    }
}

/// The agent reaches the origin by this name.
fn reach(daemon: &Daemon, origin: &Origin, host: &str) {
    let url = format!("http://{host}:{}/", origin.port());
    let answer = Client::connect(daemon.proxy).get(&url, &Daemon::credentials(AGENT));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What `arw-cli … --json` says, and its exit status.
fn cli(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, Json) {
    let output = daemon.cli(&[arguments, &["--json"]].concat());
    let text = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
    let json = serde_json::from_slice(text);
    (output.status.code(), json.unwrap_or_else(|_| Json::from(String::from_utf8_lossy(text).into_owned())))
}

/// `GET /state/alerts`.
fn board(daemon: &Daemon) -> Json {
    let (code, board) = cli(daemon, &["alerts", "list"]);
    assert_eq!(code, Some(0), "{board}");
    board
}

fn of_code<'b>(board: &'b Json, list: &str, code: &str) -> Vec<&'b Json> {
    board[list].as_array().unwrap().iter().filter(|alert| alert["code"] == code).collect()
}

/// Waits until an alert of this code is in `list`.
fn wait_alert(daemon: &Daemon, list: &str, code: &str) -> Json {
    wait_for(&format!("{code} to be {list}"), || {
        of_code(&board(daemon), list, code).first().map(|alert| (*alert).clone())
    })
}

/// Waits until an alert of this code was raised, whether or not it has been cleared since: one that lasts only as long
/// as its cause may come and go between two looks.
fn wait_raised(daemon: &Daemon, code: &str) -> Json {
    wait_for(&format!("{code} to be raised"), || {
        let board = board(daemon);
        ["active", "cleared"].iter().find_map(|list| of_code(&board, list, code).first().map(|alert| (*alert).clone()))
    })
}

fn route(board: &Json, name: &str) -> Json {
    board["routes"].as_array().unwrap().iter().find(|route| route["name"] == name).unwrap().clone()
}

/// The whole lines of a file in the state folder.
fn lines(daemon: &Daemon, name: &str) -> Vec<Json> {
    let text = std::fs::read_to_string(daemon.state_dir().join(name)).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One number of `/metrics`.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(daemon.control).unwrap();
    let token = support::daemon::ADMIN_TOKEN;
    let mut head = String::new();
    let _ =
        write!(head, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-ARW-Admin: {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is not there:\n{text}")).parse().unwrap()
}

/// The lines of a log of segments, the plain ones.
fn lines_of(folder: &std::path::Path) -> Vec<Json> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "jsonl") {
            let text = std::fs::read_to_string(path).unwrap();
            lines.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
        }
    }
    lines
}
