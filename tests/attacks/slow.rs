//! Clients that take their time, and heads without end.

use std::time::{Duration, Instant};

use crate::ground::{AGENT, Ground, connect, credentials, row};
use crate::support::{End, Fault, Origin, Script};

/// Far above the limits below and far below the defaults, also on a busy machine.
const SOON: Duration = Duration::from_secs(8);

fn tight() -> Ground {
    Ground::with(|setup| {
        setup
            .set("limits.head_time", "400ms")
            .set("limits.keep_alive_time", "400ms")
            .set("limits.head_bytes", "4KiB")
            .set("limits.exchange_idle_time", "1s")
            .set("limits.first_flight_time", "400ms")
            .set("limits.idle_time", "1s")
    })
}

#[test]
fn a_head_without_end_is_refused() {
    let ground = tight();
    let authority = ground.authority();
    let plain = ground.request("GET", "/", "", "");
    let open = &plain[..plain.len() - 2];
    let long = "x".repeat(5000);
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    ground.refuse_all(&[
        row("one endless field", [open, b"X-Long: ", long.as_bytes()].concat(), 431, "malformed"),
        row("a large field", ground.request("GET", "/", &format!("X-Long: {long}\r\n"), ""), 431, "malformed"),
        row("an endless target", format!("GET http://{authority}/{long}"), 431, "malformed"),
        row("an endless method", "G".repeat(5000), 431, "malformed"),
        row("many fields", ground.request("GET", "/", &many, ""), 431, "malformed"),
        row("an endless CONNECT", [b"CONNECT ", long.as_bytes()].concat(), 431, "malformed"),
    ]);
}

#[test]
fn a_head_that_drips_is_given_up() {
    let ground = tight();
    let started = Instant::now();
    let mut client = ground.client();
    let bytes = ground.request("GET", "/", &"X-Slow: y\r\n".repeat(100), "");
    client.read_limit(Duration::from_millis(40));
    // Each byte comes long before the limit; all of them would take a minute.
    let answer = bytes.iter().find_map(|byte| {
        let _ = client.try_send([*byte]);
        match client.try_answer_to("GET") {
            Err(Fault::Silent(_)) => None,
            other => Some(other),
        }
    });
    let answer = answer.expect("given up").expect("with an answer");
    assert_eq!((answer.status, answer.code().as_str()), (408, "malformed"));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(ground.daemon.ledger_line(answer.decision())["kind"], "deny");
    assert_eq!(ground.origin.connections(), 0);
}

#[test]
fn a_banner_is_no_request_and_waits_for_nothing() {
    let ground = tight();
    let mut client = ground.client();
    client.send("SSH-2.0-OpenSSH_9.9\r\n");
    assert_eq!(client.answer().status, 408);
    assert_eq!(client.read_to_end(), (Vec::new(), End::Clean));
}

#[test]
fn a_client_that_says_nothing_is_let_go_without_a_word() {
    let ground = tight();
    let started = Instant::now();
    let mut silent = ground.client();
    assert_eq!(silent.read_to_end(), (Vec::new(), End::Clean));
    // The same between two requests.
    let mut idle = ground.client();
    idle.send(ground.request("GET", "/", "", ""));
    assert_eq!(idle.answer().status, 200);
    assert_eq!(idle.read_to_end(), (Vec::new(), End::Clean));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn many_idle_clients_do_not_keep_others_out() {
    let ground = tight();
    let mut idle: Vec<_> = (0..200).map(|_| ground.client()).collect();
    for client in &mut idle {
        client.send("GET http://");
    }
    let mut client = ground.client();
    client.send(ground.request("GET", "/", "", ""));
    assert_eq!(client.answer().status, 200);
    for client in &mut idle {
        assert_eq!(client.answer().status, 408);
    }
}

#[test]
fn a_body_that_stops_is_given_up() {
    let ground = tight();
    let started = Instant::now();
    let mut client = ground.client();
    client.send(ground.request("POST", "/stuck", "Content-Length: 100\r\n", "half"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.code().as_str()), (504, "idle_timeout"));
    assert_eq!(ground.daemon.wait_for_close(answer.decision())["close_reason"], "idle_timeout");
    ground.origin.wait_for_ended(1);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn an_upstream_that_never_answers_is_given_up() {
    let ground = tight();
    ground.origin.on("/never", Script::raw("").then_hold());
    ground.origin.on("/half", Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_hold());
    let mut client = ground.client();
    client.send(ground.request("GET", "/never", "", ""));
    let answer = client.answer();
    assert_eq!((answer.status, answer.code().as_str()), (504, "idle_timeout"));
    let mut client = ground.client();
    client.send(ground.request("GET", "/half", "", ""));
    assert!(matches!(client.try_answer_to("GET"), Err(Fault::Cut(..))), "half an answer must not look whole");
}

#[test]
fn a_tunnel_without_a_word_ends() {
    let silent = Origin::raw(Script::quiet().then_hold());
    let rules = |scheme: &str| {
        format!(
            "[[allow]]\nid = \"x\"\nhosts = [\"silent.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"{scheme}\"]\n",
            silent.port()
        )
    };
    let ground = Ground::with(|setup| {
        setup
            .host("silent.test", &["127.0.0.1"])
            .persona("opaque", &rules("tcp"))
            .persona("secure", &rules("https"))
            .set("limits.first_flight_time", "400ms")
            .set("limits.idle_time", "1s")
    });
    let target = format!("silent.test:{}", silent.port());
    for persona in ["opaque", "secure"] {
        let mut client = ground.client();
        client.send(connect(persona, &target));
        let answer = client.answer_to("CONNECT");
        assert_eq!(answer.status, 200);
        let (rest, _) = client.read_to_end();
        assert!(rest.is_empty());
        let close = ground.daemon.wait_for_close(answer.decision());
        assert_eq!(close["close_reason"], "idle_timeout", "{persona}: {close}");
    }
}

#[test]
fn a_first_flight_that_drips_is_given_up() {
    let silent = Origin::raw(Script::quiet().then_hold());
    let rules = format!(
        "[[allow]]\nid = \"x\"\nhosts = [\"silent.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"https\"]\n",
        silent.port()
    );
    let ground = Ground::with(|setup| {
        setup.host("silent.test", &["127.0.0.1"]).persona("secure", &rules).set("limits.first_flight_time", "400ms")
    });
    let mut client = ground.client();
    client.send(connect("secure", format!("silent.test:{}", silent.port())));
    let decision = client.answer_to("CONNECT").decision();
    let started = Instant::now();
    client.read_limit(Duration::from_millis(40));
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(0));
    for byte in hello.take(500) {
        let _ = client.try_send([byte]);
        if !matches!(client.try_read(1), Err(Fault::Silent(_))) {
            break;
        }
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(ground.daemon.wait_for_close(decision)["close_reason"], "idle_timeout");
    assert!(silent.raw_bytes().is_empty());
}

#[test]
fn credentials_are_not_waited_for_again_after_a_drip() {
    // A head that was given up leaves nothing behind that the next bytes could complete.
    let ground = tight();
    let mut client = ground.client();
    client.send(format!("GET http://{}/ HTTP/1.1\r\nHost: {}\r\n", ground.authority(), ground.authority()));
    assert_eq!(client.answer().status, 408);
    let _ = client.try_send(format!("{}\r\n", credentials(AGENT)));
    assert!(client.read_to_end().0.is_empty());
    assert_eq!(ground.origin.connections(), 0);
}
