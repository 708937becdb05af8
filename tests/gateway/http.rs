//! Plain HTTP through the gateway.

use crate::support::{Client, Daemon, Origin, Setup};

/// A persona `agent` that may reach `origin.test` on loopback, by plain HTTP.
fn ground(origin: &Origin) -> Setup {
    let rules = format!(
        "[[allow]]\nid = \"origin\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\"]\n",
        origin.port()
    );
    Setup::new().host("origin.test", &["127.0.0.1"]).persona("agent", &rules)
}

#[test]
fn an_allowed_request_passes_and_is_recorded_before_it_does() {
    let origin = Origin::http();
    let daemon = Daemon::start(ground(&origin));
    let mut client = Client::connect(daemon.proxy);
    let url = format!("http://origin.test:{}/hello", origin.port());
    let answer = client.get(&url, &Daemon::credentials("agent"));
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    assert_eq!(answer.text(), "GET /hello HTTP/1.1");
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    assert_eq!(open["host"], "origin.test");
    assert_eq!(open["rule"], "origin");
}

#[test]
fn a_denied_request_says_why_and_where_it_is_recorded() {
    let origin = Origin::http();
    let daemon = Daemon::start(ground(&origin));
    let mut client = Client::connect(daemon.proxy);
    let answer = client.get("http://elsewhere.test/", &Daemon::credentials("agent"));
    assert_eq!(answer.status, 403, "{}", answer.head);
    assert_eq!(answer.code(), "not_allowlisted");
    let line = daemon.ledger_line(answer.decision());
    assert_eq!(line["kind"], "deny");
    assert_eq!(line["code"], "not_allowlisted");
    assert_eq!(line["host"], "elsewhere.test");
    assert_eq!(origin.connections(), 0);
}
