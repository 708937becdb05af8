//! What a client is told when something may not leave.

use crate::support::{Client, Daemon, Origin, Setup};
use crate::{AGENT, authority, credentials, over, rule, tunnel, url};

#[test]
fn an_allowed_request_passes_and_is_recorded_before_it_does() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    let answer = client.get(&url(&origin, "/hello?q=1"), &credentials());
    assert_eq!((answer.status, answer.text().as_str()), (200, "GET /hello?q=1 HTTP/1.1"));
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    for (field, value) in [
        ("persona", "agent"),
        ("host", "origin.test"),
        ("rule", "origin"),
        ("method", "GET"),
        ("path", "/hello"),
        ("decision", "allow"),
        ("via", "policy"),
        ("scheme", "http"),
        ("identity", "basic"),
    ] {
        assert_eq!(open[field], value, "{open}");
    }
    assert_eq!(open["address"], format!("127.0.0.1:{}", origin.port()));
    let close = daemon.wait_for_close(open["seq"].as_u64().unwrap());
    assert_eq!((&close["close_reason"], &close["status"]), (&"completed".into(), &200.into()), "{close}");
    assert!(close["bytes_up"].as_u64() > Some(0) && close["bytes_down"].as_u64() > Some(0), "{close}");
}

#[test]
fn a_query_is_recorded_only_where_the_operator_asks_for_it() {
    let origin = Origin::http();
    let rules = rule("origin", "origin.test", origin.port(), "\"http\"", "");
    let setup = Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, &rules);
    let daemon = Daemon::start(setup.set("ledger.record_query", true));
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/hello?q=1"), &credentials()).status, 200);
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    assert_eq!(open["path"], "/hello?q=1", "{open}");
}

#[test]
fn a_denied_request_says_why_and_where_it_is_recorded() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    let answer = client.get("http://elsewhere.test/", &credentials());
    assert_eq!(answer.status, 403, "{}", answer.head);
    let seq = answer.decision();
    assert_eq!(answer.reason, format!("not_allowlisted elsewhere.test (decision {seq})"));
    assert_eq!(answer.field("proxy-status"), Some("arw; error=http_request_denied; details=\"not_allowlisted\""));
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    let problem = answer.problem();
    for (field, value) in [("code", "not_allowlisted"), ("persona", "agent"), ("host", "elsewhere.test")] {
        assert_eq!(problem[field], value, "{problem}");
    }
    assert_eq!(
        (&problem["status"], &problem["retryable"], &problem["decision"]),
        (&403.into(), &false.into(), &seq.into())
    );
    let hint = problem["lease_hint"].as_str().unwrap();
    assert!(
        hint.starts_with("arw-cli admin persona grant agent --capability egress:host:elsewhere.test:80 "),
        "{hint}"
    );
    let line = daemon.ledger_line(seq);
    for (field, value) in [
        ("kind", "deny"),
        ("code", "not_allowlisted"),
        ("host", "elsewhere.test"),
        ("persona", "agent"),
        ("decision", "deny"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn the_status_line_of_a_denied_connect_tells_a_person_what_happened() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to("api.example.com:443", &credentials());
    assert_eq!(answer.reason, format!("not_allowlisted api.example.com (decision {})", answer.decision()));
    assert_eq!(answer.problem()["port"], 443);
}

#[test]
fn a_client_without_identity_is_asked_for_it() {
    let origin = Origin::http();
    let daemon = over(&origin);
    for fields in ["", "Proxy-Authorization: Basic bm9ib2R5Ong=\r\n"] {
        let mut client = Client::connect(daemon.proxy);
        let answer = client.get(&url(&origin, "/"), fields);
        assert_eq!(answer.status, 407);
        let asked = answer.fields("proxy-authenticate");
        assert!(asked.iter().any(|way| way.starts_with("Basic realm=")), "{}", answer.head);
        assert!(asked.iter().any(|way| way.starts_with("Bearer")), "{}", answer.head);
        assert_eq!(answer.code(), if fields.is_empty() { "no_identity" } else { "unknown_persona" });
        // On the same connection, as browsers do it.
        assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
    }
}

#[test]
fn a_browser_at_the_proxy_is_told_what_this_is() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    client.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("forward proxy") && answer.text().contains("curl -x"), "{}", answer.text());
}

#[test]
fn a_rule_that_denies_is_named() {
    let origin = Origin::http();
    let deny = "[[deny]]\nid = \"no-admin\"\nhosts = [\"origin.test\"]\npaths = [\"/admin/*\"]\nschemes = [\"http\"]\n";
    let daemon = crate::with(&origin, deny, |setup| setup);
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/open"), &credentials()).status, 200);
    let answer = client.get(&url(&origin, "/admin/x"), &credentials());
    assert_eq!((answer.status, answer.code().as_str()), (403, "denied_by_rule"));
    assert_eq!(answer.problem()["rule"], "no-admin");
    assert_eq!(daemon.ledger_line(answer.decision())["rule"], "no-admin");
}

#[test]
fn an_upstream_that_is_not_there_is_a_502_with_a_record() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let (authority, url) = (authority(&origin), url(&origin, "/"));
    drop(origin);
    let mut client = Client::connect(daemon.proxy);
    let forward = client.get(&url, &credentials());
    let connect = client.connect_to(&authority, &credentials());
    for answer in [forward, connect] {
        assert_eq!((answer.status, answer.code().as_str()), (502, "connect_failed"));
        assert!(answer.field("proxy-status").unwrap().contains("connection_refused"), "{}", answer.head);
        assert_eq!(daemon.ledger_line(answer.decision())["kind"], "open");
        assert_eq!(daemon.wait_for_close(answer.decision())["close_reason"], "connect_failed");
    }
}

#[test]
fn an_answer_to_head_is_refused_without_a_body() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    client.send(format!("HEAD http://elsewhere.test/ HTTP/1.1\r\nHost: elsewhere.test\r\n{}\r\n", credentials()));
    let answer = client.answer_to("HEAD");
    assert_eq!(answer.status, 403);
    assert!(answer.field("content-length").unwrap().parse::<u32>().unwrap() > 50);
    assert_eq!(client.get(&url(&origin, "/next"), &credentials()).text(), "GET /next HTTP/1.1");
}

#[test]
fn a_granted_connect_names_its_decision_and_both_ends_of_it_are_recorded() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let (mut client, seq) = tunnel(&daemon, &origin);
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    let open = daemon.ledger_line(seq);
    assert_eq!(
        (&open["kind"], &open["scheme"], &open["host"]),
        (&"open".into(), &"tcp".into(), &"origin.test".into()),
        "{open}"
    );
    client.half_close();
    client.read_to_end();
    let close = daemon.wait_for_close(seq);
    assert_eq!((&close["bytes_up"], &close["bytes_down"]), (&4.into(), &4.into()), "{close}");
    assert_eq!(close["close_reason"], "client_closed");
}
