//! Who may do what, on a real daemon with real users of the host.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod files;
mod leased;
mod peers;
mod reload;

use std::process::{Command, Output, Stdio};

use support::daemon::ADMIN_TOKEN;
use support::{Answer, Client, Daemon, Setup};

/// `policy.json` with the kill switch for the token and for whoever runs the tests, and with these grants.
fn policy(grants: &[String]) -> String {
    let own = nix::unistd::geteuid();
    let stop = format!(
        r#"{{"id":"stop","principals":["token","uid:{own}"],"actions":["automation:shutdown"],"resources":["daemon"]}}"#
    );
    let all = std::iter::once(stop).chain(grants.iter().cloned()).collect::<Vec<_>>().join(",\n");
    format!("{{\"version\":1,\"grants\":[{all}]}}")
}

/// A grant of `actions` on the daemon.
fn grant(id: &str, principal: &str, actions: &str) -> String {
    format!(r#"{{"id":"{id}","principals":["{principal}"],"actions":[{actions}],"resources":["daemon"]}}"#)
}

/// A daemon that obeys `text`.
fn under(text: &str) -> Setup {
    Setup::new().set("control.policy", "policy.json").file("policy.json", text)
}

/// One request over TCP with the admin token.
fn ask(daemon: &Daemon, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(daemon.control);
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-ARW-Admin: {ADMIN_TOKEN}\r\nContent-Length: 0\r\n\r\n"
    ));
    client.answer_to(method)
}

/// `arw-cli` with the daemon's own settings, as an operator of the host runs it.
fn cli(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arw-cli"))
        .args(arguments)
        .env_clear()
        .env("HOME", daemon.home())
        .env("ARW_STATE_DIR", daemon.state_dir())
        .env("ARW_CONFIG_DIR", daemon.config_dir())
        .env("NO_COLOR", "1")
        .current_dir(daemon.home())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
