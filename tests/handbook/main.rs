//! The handbook, line by line, against the real daemon with real runtimes: one test a line.
//!
//! Each test leaves what was typed and what came of it in `docs/handbook-coverage.md`, which must tell just that.
//! Lines that only people can fulfil are attested, and the attestation is looked up in the audit.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../supervisor/stage.rs"]
mod stage;

mod after_action;
mod alerting;
mod compliance;
mod escalation;
mod guardrails;
mod readiness;
mod walk;

use stage::{Host, bash};
use support::{Setup, can_launch};

/// A runtime that waits.
fn waiting(id: &str, more: &str) -> String {
    bash(id, "echo up; sleep 1000", more)
}

/// A daemon with the personas' part of the handbook enabled.
fn host(manifest: &str, more: impl FnOnce(Setup) -> Setup) -> Host {
    Host::start_with(manifest, |setup| more(setup.env("ARW_PERSONA_ENABLE", "1")))
}

/// What `GET /metrics` answers.
fn metrics(host: &Host) -> String {
    use std::io::{Read, Write};
    let control = host.daemon.control;
    let mut stream = std::net::TcpStream::connect(control).unwrap();
    let token = support::daemon::ADMIN_TOKEN;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {control}\r\nX-ARW-Admin: {token}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Records the review that arms the persona of the runtimes.
const REVIEW: &str = "persona review record agent --reviewer \"works council\" --notice \"What the agent reports of itself is kept for 90 days.\" --justification \"meeting of 3 March\"";
