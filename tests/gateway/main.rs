//! What the gateway can do, over real sockets and with the real daemon.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod budgets;
mod denials;
mod exchange;
mod identity;
mod latch;
mod leases;
mod ledger_full;
mod life;
mod reload;
mod report;
mod review_seams;
mod runtime;
mod runtime_limits;
mod transparent;
mod tunnel;

use support::{Client, Daemon, Origin, Setup};

/// The persona of most tests.
const AGENT: &str = "agent";

/// An allow rule for `host` on loopback; `extra` is more TOML of the same rule.
fn rule(id: &str, host: &str, port: u16, schemes: &str, extra: &str) -> String {
    format!(
        "[[allow]]\nid = \"{id}\"\nhosts = [\"{host}\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{port}]\nschemes = [{schemes}]\n{extra}\n"
    )
}

/// A daemon whose agent may reach `origin` as `origin.test`, by HTTP and by unread tunnels.
fn with(origin: &Origin, extra: &str, change: impl FnOnce(Setup) -> Setup) -> Daemon {
    let rules = rule("origin", "origin.test", origin.port(), "\"http\", \"tcp\"", extra);
    Daemon::start(change(Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, &rules)))
}

/// The same without changes.
fn over(origin: &Origin) -> Daemon {
    with(origin, "", |setup| setup)
}

fn credentials() -> String {
    Daemon::credentials(AGENT)
}

fn authority(origin: &Origin) -> String {
    format!("origin.test:{}", origin.port())
}

fn url(origin: &Origin, path: &str) -> String {
    format!("http://{}{path}", authority(origin))
}

/// An open tunnel of the agent's to `origin`, and the sequence number of its grant.
fn tunnel(daemon: &Daemon, origin: &Origin) -> (Client, u64) {
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to(&authority(origin), &credentials());
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    (client, answer.decision())
}
