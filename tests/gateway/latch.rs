//! The kill switch: nothing new leaves, everything open is cut, and a release lets it go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use arw::config::Durability;
use arw::domain::{CloseReason, PersonaId};
use arw::ledger::Kind;
use arw::proxy::Running;

use crate::AGENT;
use crate::runtime::{Guest, close_of, complete, explicit, is_over};
use crate::support::dns::{Kind as Asked, Record, Reply};
use crate::support::{Client, Origin, Script, wait_for};
use crate::transparent::{A, Stage, ask, resets, tcp};
use crate::{authority, rule, url};

fn running(stage: &Stage) -> &Running {
    stage.running.as_ref().unwrap()
}

#[test]
fn while_it_is_latched_nothing_leaves_and_every_answer_says_so() {
    let origin = Origin::http();
    origin.on("/slow", Script::quiet().then_hold());
    let port = origin.port();
    let stage = Stage::with(&rule("origin", "origin.test", port, "\"http\", \"tcp\"", ""), Vec::new());
    let guest = Guest::enter(&stage, complete("ocr", port));
    let (mut tunnel, opened) = guest.tunnel(&origin);
    let mut kept = guest.client();
    assert_eq!(kept.get(&url(&origin, "/"), "").status, 200);
    let mut waiting = guest.client();
    waiting.send(format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url(&origin, "/slow"), authority(&origin)));
    origin.wait_for_requests(2);
    let synthetic = guest.synthetic(port);

    assert_eq!(running(&stage).latch("incident 7"), 2, "a tunnel and an exchange");
    assert!(is_over(&mut tunnel));
    assert_eq!(waiting.answer().status, 403, "nothing was answered yet");
    assert_eq!(close_of(&stage, opened).close_reason, Some(CloseReason::KillSwitch));
    let before = origin.connections();
    let answer = kept.get(&url(&origin, "/"), "");
    assert_eq!((answer.status, answer.code().as_str()), (403, "shutdown_latched"));
    assert!(!answer.text().contains("incident 7"), "the reason is the operators' own");
    assert_eq!(guest.client().connect_to(&authority(&origin), "").code(), "shutdown_latched");
    assert!(resets(synthetic.ip(), port));
    let deny = stage.lines(Kind::Deny);
    assert_eq!(deny.len(), 3, "each has its record: {deny:?}");
    assert!(deny.iter().all(|line| line.code.unwrap().code() == "shutdown_latched"));
    for name in ["origin.test", "localhost", "evil.test"] {
        assert_eq!(ask(guest.resolver, name, A), (3, None), "{name}");
    }
    assert_eq!(origin.connections(), before);

    let latched = running(&stage).latched().unwrap();
    assert_eq!((running(&stage).latch("later"), latched.reason.as_str()), (0, "incident 7"));
    assert_eq!(running(&stage).latched(), Some(latched), "the first reason stays");
    assert!(running(&stage).release() && !running(&stage).release());
    assert_eq!(running(&stage).latched(), None);
    assert_eq!(kept.get(&url(&origin, "/"), "").status, 200, "the connection was kept");
    assert_eq!(ask(guest.resolver, "origin.test", A), (0, Some(synthetic.ip())));
    guest.tunnel(&origin);
}

#[test]
fn a_request_that_was_under_way_when_it_was_latched_does_not_slip_through() {
    let origin = Origin::echo();
    let rules = rule("late", "late.test", origin.port(), "\"tcp\"", "");
    for released in [false, true] {
        let stage = Stage::with(&rules, Vec::new());
        stage.upstream.script(
            "late.test",
            Asked::A,
            [Reply::records([Record::addr("late.test", 60, "127.0.0.1")]).held()],
        );
        stage.upstream.script("late.test", Asked::Aaaa, [Reply::empty()]);
        let guest = Guest::enter(&stage, explicit("ocr"));
        let mut client = guest.client();
        let target = format!("late.test:{}", origin.port());
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        wait_for("the question", || (stage.upstream.queries_of("late.test", Asked::A) > 0).then_some(()));
        assert_eq!(running(&stage).latch("now"), 0, "nothing is open yet");
        if released {
            // Also when the latch is long gone: it was decided before.
            assert!(running(&stage).release());
        }
        stage.upstream.release();
        assert_eq!(client.answer_to("CONNECT").code(), "shutdown_latched");
        assert_eq!((origin.connections(), stage.lines(Kind::Open).len()), (0, 0));
    }
}

#[test]
fn no_tunnel_of_many_that_are_being_opened_outlives_the_latch() {
    let origin = Origin::echo();
    // A grant that waits for the disk is recorded and is in no table yet.
    let stage = Stage::durable(&tcp(&origin), Vec::new(), Durability::Strict);
    let guests: Vec<Guest> = (0..4).map(|number| Guest::enter(&stage, explicit(&format!("ocr-{number}")))).collect();
    for round in 0..10 {
        let (stop, start) = (AtomicBool::new(false), Barrier::new(9));
        // Kept open, so that only the latch can have ended them.
        let clients: Arc<Mutex<Vec<Client>>> = Arc::default();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (origin, guest, clients) = (&origin, &guests[number % 4], Arc::clone(&clients));
                let (stop, start) = (&stop, &start);
                scope.spawn(move || {
                    start.wait();
                    while !stop.load(Ordering::Relaxed) {
                        let mut client = guest.client();
                        client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", authority(origin)));
                        // Cut between the grant and the answer is cut too.
                        let status = client.try_answer_to("CONNECT").map_or(0, |answer| answer.status);
                        assert!(matches!(status, 0 | 200 | 403), "{status}");
                        clients.lock().unwrap().push(client);
                    }
                });
            }
            start.wait();
            wait_for("some tunnels", || (clients.lock().unwrap().len() > 8 + round).then_some(()));
            running(&stage).latch("now");
            // They go on asking for a while.
            let asked = clients.lock().unwrap().len();
            wait_for("some refusals", || (clients.lock().unwrap().len() > asked + 8).then_some(()));
            stop.store(true, Ordering::Relaxed);
        });
        wait_for("every flow to end", || guests.iter().all(|guest| guest.guard.egress().open == 0).then_some(()));
        assert!(clients.lock().unwrap().iter_mut().all(is_over));
        assert!(running(&stage).release());
    }
    let (opens, closes) = (stage.ledger.reader().unwrap(), stage.ledger.reader().unwrap());
    let of = |kind| arw::ledger::Filter { kind: Some(kind), ..Default::default() };
    let opens = opens.query(&of(Kind::Open), usize::MAX).unwrap();
    let closes = closes.query(&of(Kind::Close), usize::MAX).unwrap();
    assert_eq!(opens.len(), closes.len());
    for close in closes {
        assert_eq!(close.close_reason, Some(CloseReason::KillSwitch), "{close:?}");
    }
}

#[test]
fn the_flows_of_one_persona_can_be_cut() {
    let origin = Origin::echo();
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let guest = Guest::enter(&stage, explicit("ocr"));
    let (mut client, opened) = guest.tunnel(&origin);
    let cut =
        |persona: &str| running(&stage).cut_persona(&PersonaId::parse(persona).unwrap(), CloseReason::LeaseRevoked);
    assert_eq!((cut("nobody"), cut(AGENT)), (0, 1));
    assert!(is_over(&mut client));
    assert_eq!(close_of(&stage, opened).close_reason, Some(CloseReason::LeaseRevoked));
    guest.tunnel(&origin);
}
