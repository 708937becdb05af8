//! What a runtime may use: connections at once, a rate, and budgets of bytes and requests.

use std::time::{Duration, Instant};

use arw::domain::CloseReason;
use arw::ledger::Kind;
use arw::proxy::{EgressBudget, EgressLimits, EgressSpent, RuntimeSockets};

use crate::runtime::{Guest, close_of, complete, explicit, is_over};
use crate::support::{Client, Origin, Script, wait_for};
use crate::transparent::{Stage, resets, tcp};
use crate::{authority, rule, url};

const RATE: u64 = 256 << 10;

fn limited(limits: EgressLimits) -> RuntimeSockets {
    RuntimeSockets { limits, ..explicit("ocr") }
}

fn paced(rate: u64) -> EgressLimits {
    EgressLimits { rate: Some(rate), ..EgressLimits::default() }
}

/// An origin that sends so many bytes to whoever connects.
fn sender(bytes: usize) -> Origin {
    Origin::raw(Script::early(vec![b'x'; bytes]).then_hold())
}

/// Whether `took` is what `bytes` take at [`RATE`], of which a second's worth was saved up.
fn holds(bytes: usize, took: Duration) {
    let due = (bytes as f64 - RATE as f64) / RATE as f64;
    assert!(due >= 2.0 && (took.as_secs_f64() / due - 1.0).abs() < 0.15, "{took:?} where {due} s were due");
}

#[test]
fn a_runtime_has_only_so_many_connections_by_either_way() {
    let origin = Origin::http();
    let port = origin.port();
    let stage = Stage::with(&rule("origin", "origin.test", port, "\"http\"", ""), Vec::new());
    let limits = EgressLimits { connections: Some(2), ..EgressLimits::default() };
    let guest = Guest::enter(&stage, RuntimeSockets { limits, ..complete("ocr", port) });
    let synthetic = guest.synthetic(port);
    let mut first = Client::connect(synthetic);
    let mut get = || {
        first.send(format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"));
        first.answer().status
    };
    assert_eq!(get(), 200);
    // It never says a word, and counts all the same: it is accepted before those that come after it.
    let silent = guest.client();
    let refused = guest.client().get(&url(&origin, "/"), "");
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    let detail = refused.problem()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("runtime `ocr`") && detail.contains("egress.connections"), "{detail}");
    assert!(resets(synthetic.ip(), port));
    let denials = stage.lines(Kind::Deny);
    assert_eq!(denials.len(), 2);
    assert!(denials.iter().all(|line| line.runtime.as_deref() == Some("ocr")), "{denials:?}");
    assert_eq!(get(), 200, "those that are open go on");
    guest.guard.set_limits(EgressLimits { connections: Some(3), ..EgressLimits::default() });
    assert_eq!(guest.guard.limits().connections, Some(3));
    assert_eq!(guest.client().get(&url(&origin, "/"), "").status, 200);
    drop(silent);
}

#[test]
fn a_rate_holds_for_a_tunnel() {
    const BYTES: usize = 3 * RATE as usize;
    let origin = sender(BYTES);
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let guest = Guest::enter(&stage, limited(paced(RATE)));
    let started = Instant::now();
    let (mut client, _) = guest.tunnel(&origin);
    assert_eq!(client.read(BYTES).len(), BYTES);
    holds(BYTES, started.elapsed());
}

#[test]
fn a_rate_holds_for_an_exchange_and_for_what_is_sent() {
    const BYTES: usize = 3 * RATE as usize / 2;
    let origin = Origin::http();
    origin.on("/big", Script::ok(&"x".repeat(BYTES)));
    let stage = Stage::with(&rule("origin", "origin.test", origin.port(), "\"http\"", ""), Vec::new());
    let guest = Guest::enter(&stage, limited(paced(RATE)));
    let started = Instant::now();
    let mut client = guest.client();
    let head = format!("POST {} HTTP/1.1\r\nHost: {}\r\n", url(&origin, "/big"), authority(&origin));
    client.send(format!("{head}Content-Length: {BYTES}\r\n\r\n"));
    client.send(vec![b'y'; BYTES]);
    assert_eq!(client.answer().body.len(), BYTES);
    holds(2 * BYTES, started.elapsed());
}

#[test]
fn the_flows_of_a_runtime_share_its_rate_fairly() {
    const FLOWS: usize = 4;
    let origin = sender(8 << 20);
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let guest = Guest::enter(&stage, limited(paced(RATE)));
    let started = Instant::now();
    let mut clients: Vec<Client> = (0..FLOWS).map(|_| guest.tunnel(&origin).0).collect();
    // What the first of them have passed before the last was there is not what is measured.
    wait_for("the burst to pass", || (guest.guard.egress().bytes_down > RATE * 3 / 2).then_some(()));
    let passed = |clients: &mut Vec<Client>| -> Vec<usize> {
        for client in clients.iter_mut() {
            client.read_limit(Duration::from_millis(1));
            while client.try_read(usize::MAX).is_err_and(|fault| matches!(fault, crate::support::Fault::Cut(..))) {}
        }
        clients.iter().map(|client| client.rest().len()).collect()
    };
    let before = passed(&mut clients);
    wait_for("a while to pass", || (guest.guard.egress().bytes_down > RATE * 4).then_some(()));
    let shares: Vec<usize> = passed(&mut clients).iter().zip(before).map(|(now, before)| now - before).collect();
    let fair = shares.iter().sum::<usize>() / FLOWS;
    assert!(shares.iter().all(|share| share.abs_diff(fair) * 10 < fair * 3), "{shares:?}");
    let all = guest.guard.egress().bytes_down as f64;
    let most = RATE as f64 * (1.0 + started.elapsed().as_secs_f64());
    assert!(all <= most * 1.01, "{all} of at most {most}");
}

/// With this rate the first 16 KiB pass, and whatever follows waits for minutes.
fn stuck(origin: &Origin) -> (Stage, Guest, Client, u64) {
    let stage = Stage::with(&rule("origin", "origin.test", origin.port(), "\"http\", \"tcp\"", ""), Vec::new());
    let guest = Guest::enter(&stage, limited(paced(1)));
    let (mut client, opened) = guest.tunnel(origin);
    assert_eq!(client.read(16 << 10).len(), 16 << 10);
    (stage, guest, client, opened)
}

#[test]
fn a_flow_that_waits_for_its_turn_is_cut_at_once() {
    let origin = sender(64 << 10);
    let (stage, guest, mut client, opened) = stuck(&origin);
    let (mut second, other) = guest.tunnel(&origin);
    let started = Instant::now();
    guest.guard.end();
    assert!(is_over(&mut client) && is_over(&mut second));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    for opened in [opened, other] {
        assert_eq!(close_of(&stage, opened).close_reason, Some(CloseReason::RuntimeEnded));
    }
    assert_eq!(close_of(&stage, opened).bytes_down, Some(16 << 10), "what waited did not pass");
}

#[test]
fn an_exchange_that_waits_for_its_turn_is_cut_at_once() {
    let origin = Origin::http();
    origin.on("/big", Script::ok(&"x".repeat(64 << 10)));
    let stage = Stage::with(&rule("origin", "origin.test", origin.port(), "\"http\"", ""), Vec::new());
    let guest = Guest::enter(&stage, limited(paced(1)));
    let mut client = guest.client();
    client.send(format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url(&origin, "/big"), authority(&origin)));
    client.read(15 << 10);
    let started = Instant::now();
    stage.running.as_ref().unwrap().latch("now");
    client.read_to_end();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(stage.line(Kind::Close).close_reason, Some(CloseReason::KillSwitch));
}

#[test]
fn a_rate_that_is_lifted_lets_what_waits_go_on() {
    const BYTES: usize = 4 << 20;
    let origin = sender(BYTES);
    let (_stage, guest, mut client, _) = stuck(&origin);
    guest.guard.set_limits(paced(1 << 30));
    assert_eq!(client.read(1 << 20).len(), 1 << 20);
    guest.guard.set_limits(EgressLimits::default());
    let rest = BYTES - (1 << 20) - (16 << 10);
    assert_eq!(client.read(rest).len(), rest);
}

#[test]
fn a_rate_that_is_set_in_the_middle_of_bulk_holds_from_then_on() {
    let origin = sender(64 << 20);
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let guest = Guest::enter(&stage, explicit("ocr"));
    let (mut client, opened) = guest.tunnel(&origin);
    client.read(4 << 20);
    guest.guard.set_limits(paced(1));
    // What was on its way passes, and then nothing more.
    client.read_limit(Duration::from_millis(500));
    assert!(client.try_read(64 << 20).is_err());
    let passed = guest.guard.egress().bytes_down;
    assert!(passed < 60 << 20, "{passed}");
    client.read_limit(Duration::from_millis(300));
    assert!(client.try_read(64 << 20).is_err());
    assert_eq!(guest.guard.egress().bytes_down, passed);
    guest.guard.end();
    assert_eq!(close_of(&stage, opened).close_reason, Some(CloseReason::RuntimeEnded));
}

#[test]
fn a_byte_budget_ends_a_tunnel_in_the_middle_and_whoever_waits_is_told() {
    let origin = sender(100_000);
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let limits = EgressLimits { bytes: Some(10_000), ..EgressLimits::default() };
    let spent = EgressSpent { bytes: 4_000, requests: 0 };
    let guest = Guest::enter(&stage, RuntimeSockets { spent, ..limited(limits) });
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = executor.block_on(async {
        let waiting = guest.guard.budget_spent();
        tokio::pin!(waiting);
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(early.is_err(), "nothing is spent yet");
        let (mut client, opened) = guest.tunnel(&origin);
        assert!(client.read_to_end().0.len() <= 6_000);
        let close = close_of(&stage, opened);
        assert_eq!((close.close_reason, close.bytes_down), (Some(CloseReason::BudgetExhausted), Some(6_000)));
        waiting.await
    });
    assert_eq!((told, guest.guard.spent_budget()), (EgressBudget::Bytes, Some(EgressBudget::Bytes)));
    assert_eq!(guest.guard.spent(), EgressSpent { bytes: 10_000, requests: 1 });
    let answer = guest.client().connect_to(&authority(&origin), "");
    assert_eq!((answer.status, answer.code().as_str()), (403, "budget_exhausted"));
    let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("runtime `ocr`") && detail.contains("10000 bytes"), "{detail}");
    guest.guard.set_limits(EgressLimits { bytes: Some(20_000), ..EgressLimits::default() });
    assert_eq!(guest.guard.spent_budget(), None);
    let (mut client, opened) = guest.tunnel(&origin);
    is_over(&mut client);
    assert_eq!(close_of(&stage, opened).bytes_down, Some(10_000), "what was spent before is still spent");
}

#[test]
fn a_byte_budget_holds_for_an_exchange_too() {
    let origin = Origin::http();
    let stage = Stage::with(&rule("origin", "origin.test", origin.port(), "\"http\"", ""), Vec::new());
    let limits = EgressLimits { bytes: Some(10 << 10), ..EgressLimits::default() };
    let guest = Guest::enter(&stage, limited(limits));
    let mut client = guest.client();
    let authority = authority(&origin);
    client.send(format!("POST http://{authority}/up HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 50000\r\n\r\n"));
    let _ = client.try_send(vec![b'x'; 50_000]);
    let answer = client.answer();
    assert_eq!((answer.status, answer.code().as_str()), (403, "budget_exhausted"));
    origin.wait_for_ended(1);
    assert!(origin.raw_bytes().len() <= 10 << 10, "{} bytes left", origin.raw_bytes().len());
    assert_eq!(guest.guard.spent_budget(), Some(EgressBudget::Bytes), "too little for it is spent");
}

#[test]
fn a_budget_of_requests_counts_grants_and_what_was_spent_before() {
    let origin = Origin::http();
    let stage = Stage::with(&rule("origin", "origin.test", origin.port(), "\"http\"", ""), Vec::new());
    let limits = EgressLimits { requests: Some(5), ..EgressLimits::default() };
    let spent = EgressSpent { bytes: 0, requests: 3 };
    let guest = Guest::enter(&stage, RuntimeSockets { spent, ..limited(limits) });
    let mut client = guest.client();
    assert_eq!(client.get("http://evil.test/", "").code(), "not_allowlisted", "a denial spends nothing");
    assert_eq!(client.get(&url(&origin, "/"), "").status, 200);
    assert_eq!(client.get(&url(&origin, "/"), "").status, 200);
    assert_eq!(client.get(&url(&origin, "/"), "").code(), "budget_exhausted");
    assert_eq!((guest.guard.egress().requests, guest.guard.spent().requests), (2, 5));
    assert_eq!(guest.guard.spent_budget(), Some(EgressBudget::Requests));
    guest.guard.set_spent(EgressSpent::default());
    assert_eq!(client.get(&url(&origin, "/"), "").status, 200);
    assert_eq!(origin.seen().len(), 3);
}

#[test]
fn a_runtime_without_budget_has_no_name_looked_up() {
    let origin = Origin::echo();
    let rules = rule("late", "late.test", origin.port(), "\"tcp\"", "");
    let stage = Stage::with(&rules, Vec::new());
    let limits = EgressLimits { requests: Some(0), ..EgressLimits::default() };
    let guest = Guest::enter(&stage, limited(limits));
    assert_eq!(guest.client().connect_to(&format!("late.test:{}", origin.port()), "").code(), "budget_exhausted");
    assert_eq!(stage.upstream.queries("late.test"), 0);
}
