//! Tunnels.

use std::io::{Read, Write};

use crate::support::certificates::Authority;
use crate::support::{Client, Daemon, End, Origin, Script, Setup};
use crate::{AGENT, credentials, over, rule, tunnel};

#[test]
fn a_server_that_speaks_first_is_heard() {
    let origin = Origin::raw(Script::early("220 ready\r\n").then_echo());
    let daemon = over(&origin);
    let (mut client, _) = tunnel(&daemon, &origin);
    assert_eq!(client.read(11), b"220 ready\r\n");
    client.send("EHLO x\r\n");
    assert_eq!(client.read(8), b"EHLO x\r\n");
}

#[test]
fn a_client_that_has_said_all_is_answered_all_the_same() {
    let origin = Origin::raw(Script::quiet().after_end("all of it came"));
    let daemon = over(&origin);
    let (mut client, seq) = tunnel(&daemon, &origin);
    client.send("a question");
    client.half_close();
    assert_eq!(client.read_to_end(), (b"all of it came".to_vec(), End::Clean));
    let close = daemon.wait_for_close(seq);
    assert_eq!((&close["bytes_up"], &close["bytes_down"]), (&10.into(), &14.into()), "{close}");
}

#[test]
fn a_server_that_has_said_all_is_told_more_all_the_same() {
    let origin = Origin::raw(Script::early("bye").then_half_close().then_hold());
    let daemon = over(&origin);
    let (mut client, seq) = tunnel(&daemon, &origin);
    assert_eq!(client.read_to_end(), (b"bye".to_vec(), End::Clean));
    client.send("one more thing");
    origin.wait_for_bytes(14);
    client.half_close();
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "upstream_closed");
    assert_eq!(origin.raw_bytes(), b"one more thing");
}

#[test]
fn a_stream_that_was_cut_does_not_look_finished() {
    let origin = Origin::raw(Script::early("half").then_wait().then_reset());
    let daemon = over(&origin);
    let (mut client, _) = tunnel(&daemon, &origin);
    assert_eq!(client.read(4), b"half");
    origin.open_gate();
    assert_eq!(client.read_to_end().1, End::Abort);
}

#[test]
fn a_client_that_aborts_frees_the_upstream() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let (client, seq) = tunnel(&daemon, &origin);
    client.abort();
    origin.wait_for_ended(1);
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "client_closed");
}

#[test]
fn sixty_four_megabytes_come_back_byte_for_byte_past_a_slow_reader() {
    const SIZE: usize = 64 << 20;
    let origin = Origin::echo();
    let daemon = over(&origin);
    let mut stream = std::net::TcpStream::connect(daemon.proxy).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let target = crate::authority(&origin);
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", credentials()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    // Every byte depends on its place, so that a lost, doubled or swapped piece shows.
    let byte_at = |place: usize| (place.wrapping_mul(2_654_435_761) >> 13) as u8;
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for start in (0..SIZE).step_by(1 << 16) {
            let piece: Vec<u8> = (start..start + (1 << 16)).map(byte_at).collect();
            writer.write_all(&piece).unwrap();
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut place = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        // Odd and small at first: the gateway has to hold back what is not read yet.
        let size = if place < 1 << 20 { 1013 } else { buffer.len() };
        let count = stream.read(&mut buffer[..size]).unwrap();
        if count == 0 {
            break;
        }
        if let Some(wrong) = (0..count).find(|at| buffer[*at] != byte_at(place + at)) {
            panic!("byte {} is wrong", place + wrong);
        }
        place += count;
    }
    sender.join().unwrap();
    assert_eq!(place, SIZE);
    let close = daemon.wait_for_ledger("the close", |line| line["kind"] == "close");
    assert_eq!((&close["bytes_up"], &close["bytes_down"]), (&SIZE.into(), &SIZE.into()), "{close}");
}

/// A daemon whose agent may reach `origin` as `tls.test`, by TLS.
fn secure(origin: &Origin, extra: &str) -> Daemon {
    let rules = rule("tls", "tls.test", origin.port(), "\"https\"", extra);
    Daemon::start(Setup::new().host("tls.test", &["127.0.0.1"]).persona(AGENT, &rules))
}

#[test]
fn tls_passes_end_to_end_and_its_name_is_recorded() {
    let authority = Authority::new();
    let origin = Origin::https(authority.server_config(&["tls.test"]));
    let daemon = secure(&origin, "");
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to(&format!("tls.test:{}", origin.port()), &credentials());
    assert_eq!(answer.status, 200);
    let mut client = client.tls(authority.trust(None), "tls.test");
    client.send("GET /secret HTTP/1.1\r\nHost: tls.test\r\n\r\n");
    assert_eq!(client.answer().text(), "GET /secret HTTP/1.1");
    drop(client);
    let close = daemon.wait_for_close(answer.decision());
    assert_eq!(
        (&close["tls"]["sni"], &close["tls"]["version"], &close["tls"]["ech"]),
        (&"tls.test".into(), &"1.3".into(), &false.into()),
        "{close}"
    );
    let all: String = daemon.ledger_lines().iter().map(ToString::to_string).collect();
    assert!(!all.contains("secret"), "{all}");
}

#[test]
fn tls_to_another_name_ends_with_an_alert() {
    let authority = Authority::new();
    let origin = Origin::https(authority.server_config(&["other.test"]));
    let daemon = secure(&origin, "");
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to(&format!("tls.test:{}", origin.port()), &credentials());
    let fault = client.try_tls(authority.trust(None), "other.test").err().expect("refused");
    assert!(fault.to_string().contains("AccessDenied"), "{fault}");
    assert_eq!(daemon.wait_for_close(answer.decision())["code"], "sni_mismatch");
    assert!(origin.raw_bytes().is_empty());
}

#[test]
fn a_rule_may_let_other_protocols_through_a_tls_tunnel() {
    let origin = Origin::echo();
    let daemon = secure(&origin, "tls = { not_tls = \"allow\" }");
    let mut client = Client::connect(daemon.proxy);
    client.connect_to(&format!("tls.test:{}", origin.port()), &credentials());
    client.send("SSH-2.0-x\r\n");
    assert_eq!(client.read(11), b"SSH-2.0-x\r\n");
}

#[test]
fn an_idle_tunnel_stays_open_while_others_come_and_go() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let mut idle: Vec<Client> = (0..200).map(|_| tunnel(&daemon, &origin).0).collect();
    for round in 0..3 {
        let (mut busy, _) = tunnel(&daemon, &origin);
        busy.send(format!("round {round}"));
        assert_eq!(busy.read(7), format!("round {round}").as_bytes());
    }
    for (number, client) in idle.iter_mut().enumerate() {
        let message = format!("{number:04}");
        client.send(&message);
        assert_eq!(client.read(4), message.as_bytes());
    }
    assert_eq!(origin.connections(), 203);
}
