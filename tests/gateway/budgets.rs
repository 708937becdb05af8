//! Rules that run out: of uses, of bytes, of time, of pace.

use std::time::{Duration, SystemTime};

use crate::support::{Client, Daemon, Origin, wait_for};
use crate::{authority, credentials, tunnel, url, with};

fn get(daemon: &Daemon, origin: &Origin) -> crate::support::Answer {
    Client::connect(daemon.proxy).get(&url(origin, "/"), &credentials())
}

#[test]
fn uses_run_out_and_stay_spent_after_a_restart() {
    let origin = Origin::http();
    let mut daemon = with(&origin, "max_uses = 2", |setup| setup);
    assert_eq!((get(&daemon, &origin).status, get(&daemon, &origin).status), (200, 200));
    let answer = get(&daemon, &origin);
    assert_eq!((answer.status, answer.code().as_str()), (403, "budget_exhausted"));
    assert_eq!(answer.problem()["rule"], "origin");
    daemon.restart();
    assert_eq!(get(&daemon, &origin).code(), "budget_exhausted");
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn uses_are_counted_exactly_however_many_ask_at_once() {
    let origin = Origin::http();
    let daemon = with(&origin, "max_uses = 10", |setup| setup);
    let granted: usize = std::thread::scope(|scope| {
        let askers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..5).filter(|_| get(&daemon, &origin).status == 200).count())).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).sum()
    });
    assert_eq!((granted, origin.seen().len()), (10, 10));
}

#[test]
fn bytes_run_out_in_the_middle_of_a_tunnel_and_no_more_of_them_pass() {
    let origin = Origin::raw(crate::support::Script::quiet().then_hold());
    let mut daemon = with(&origin, "max_bytes = \"10KiB\"", |setup| setup);
    let (mut client, seq) = tunnel(&daemon, &origin);
    let _ = client.try_send(vec![1; 50_000]);
    let close = daemon.wait_for_close(seq);
    assert_eq!(close["close_reason"], "budget_exhausted", "{close}");
    origin.wait_for_ended(1);
    assert!(origin.raw_bytes().len() <= 10 << 10, "{} bytes left", origin.raw_bytes().len());
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to(&authority(&origin), &credentials());
    assert_eq!((answer.status, answer.code().as_str()), (403, "budget_exhausted"));
    daemon.restart();
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.connect_to(&authority(&origin), &credentials()).code(), "budget_exhausted");
}

#[test]
fn an_upload_above_the_budget_is_cut_off() {
    let origin = Origin::http();
    let daemon = with(&origin, "max_bytes = \"10KiB\"", |setup| setup);
    let mut client = Client::connect(daemon.proxy);
    let authority = authority(&origin);
    let head = format!(
        "POST http://{authority}/up HTTP/1.1\r\nHost: {authority}\r\n{}Content-Length: 50000\r\n\r\n",
        credentials()
    );
    client.send(head);
    let _ = client.try_send(vec![b'x'; 50_000]);
    let answer = client.answer();
    assert_eq!((answer.status, answer.code().as_str()), (403, "budget_exhausted"));
    origin.wait_for_ended(1);
    assert!(origin.raw_bytes().len() <= 10 << 10, "{} bytes left", origin.raw_bytes().len());
}

#[test]
fn tunnels_that_share_a_budget_are_not_cut_before_it_is_spent() {
    let origin = Origin::echo();
    // Far more than is moved below, and less than what two relays read at once.
    let daemon = with(&origin, "max_bytes = \"300KiB\"", |setup| setup);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (daemon, origin) = (&daemon, &origin);
            scope.spawn(move || {
                let (mut client, _) = tunnel(daemon, origin);
                for _ in 0..400 {
                    client.send("12345678");
                    assert_eq!(client.read(8), b"12345678");
                }
            });
        }
    });
    let cut: Vec<_> =
        daemon.ledger_lines().into_iter().filter(|line| line["close_reason"] == "budget_exhausted").collect();
    assert!(cut.is_empty(), "{cut:?}");
}

#[test]
fn a_rate_answers_429_when_it_is_spent() {
    let origin = Origin::http();
    let daemon = with(&origin, "rate = \"2/h\"", |setup| setup);
    assert_eq!((get(&daemon, &origin).status, get(&daemon, &origin).status), (200, 200));
    let answer = get(&daemon, &origin);
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"));
    assert!(answer.field("retry-after").is_some());
    assert_eq!(answer.problem()["retryable"], true);
}

#[test]
fn a_rule_that_expires_ends_its_tunnels() {
    let origin = Origin::echo();
    let end = SystemTime::now() + Duration::from_secs(3);
    let end = time::OffsetDateTime::from(end).format(&time::format_description::well_known::Rfc3339).unwrap();
    let daemon = with(&origin, &format!("expires_at = \"{end}\""), |setup| setup);
    let (mut client, seq) = tunnel(&daemon, &origin);
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    assert!(client.read_to_end().0.is_empty());
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "expired");
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to(&authority(&origin), &credentials());
    assert_eq!((answer.status, answer.code().as_str()), (403, "lease_expired"));
}

#[test]
fn a_persona_has_only_so_many_tunnels_and_connections() {
    let origin = Origin::echo();
    let rules = crate::rule("origin", "origin.test", origin.port(), "\"tcp\"", "");
    let setup = crate::support::Setup::new()
        .host("origin.test", &["127.0.0.1"])
        .persona(crate::AGENT, &format!("[limits]\ntunnels = 2\n{rules}"))
        .persona("narrow", &format!("[limits]\nconnections = 1\n{rules}"));
    let daemon = Daemon::start(setup);
    let (first, second) = (tunnel(&daemon, &origin), tunnel(&daemon, &origin));
    let mut third = Client::connect(daemon.proxy);
    let answer = third.connect_to(&authority(&origin), &credentials());
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    assert!(answer.field("retry-after").is_some());
    drop(first);
    wait_for("a free place", || {
        let mut client = Client::connect(daemon.proxy);
        (client.connect_to(&authority(&origin), &credentials()).status == 200).then_some(())
    });
    drop(second);
    let narrow = Daemon::credentials("narrow");
    let mut one = Client::connect(daemon.proxy);
    assert_eq!(one.connect_to(&authority(&origin), &narrow).status, 200);
    let mut two = Client::connect(daemon.proxy);
    assert_eq!(two.connect_to(&authority(&origin), &narrow).code(), "overloaded");
}
