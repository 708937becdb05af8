//! Plain HTTP through the gateway, as RFC 9110 and RFC 9112 want it passed on.

use crate::support::{Client, Daemon, Origin, Script, Setup};
use crate::{authority, credentials, over, url, with};

fn request(origin: &Origin, method: &str, path: &str, fields: &str, body: &str) -> String {
    let authority = authority(origin);
    format!("{method} http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n{}{fields}\r\n{body}", credentials())
}

fn one_worker(setup: Setup) -> Setup {
    setup.set("proxy.workers", 1)
}

#[test]
fn connections_are_kept_on_both_sides() {
    let origin = Origin::http();
    let daemon = with(&origin, "", one_worker);
    let mut client = Client::connect(daemon.proxy);
    for number in 0..10 {
        assert_eq!(client.get(&url(&origin, &format!("/{number}")), &credentials()).status, 200);
    }
    // Another client of the same persona takes the kept connection over.
    let mut other = Client::connect(daemon.proxy);
    assert_eq!(other.get(&url(&origin, "/other"), &credentials()).status, 200);
    assert_eq!((origin.connections(), origin.seen().len()), (1, 11));
    let opens = daemon.ledger_lines().iter().filter(|line| line["kind"] == "open").count();
    assert_eq!(opens, 11, "each request has a record of its own");
}

#[test]
fn a_kept_connection_that_the_upstream_closed_costs_no_request() {
    let origin = Origin::http();
    let daemon = with(&origin, "", one_worker);
    origin.on("/last", Script::ok("last").then_close());
    let mut client = Client::connect(daemon.proxy);
    for round in 1..=5 {
        assert_eq!(client.get(&url(&origin, "/last"), &credentials()).text(), "last");
        origin.wait_for_ended(round);
    }
    assert_eq!(origin.connections(), 5);
}

#[test]
fn a_pool_of_none_keeps_none() {
    let origin = Origin::http();
    let daemon = with(&origin, "", |setup| one_worker(setup).set("limits.pool_per_host", 0));
    let mut client = Client::connect(daemon.proxy);
    for _ in 0..3 {
        assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn close_is_obeyed_from_either_side() {
    let origin = Origin::http();
    let daemon = over(&origin);
    origin
        .on("/close", Script::raw("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").then_close());
    let mut client = Client::connect(daemon.proxy);
    // What the upstream does with its connection is not the client's concern.
    assert_eq!(client.get(&url(&origin, "/close"), &credentials()).text(), "hi");
    let answer = client.get(&url(&origin, "/"), &format!("{}Connection: close\r\n", credentials()));
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert!(client.read_to_end().0.is_empty());
}

#[test]
fn an_http_1_0_client_is_served_and_let_go() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    client.send(format!("GET {} HTTP/1.0\r\n{}\r\n", url(&origin, "/old"), credentials()));
    assert_eq!(client.answer().text(), "GET /old HTTP/1.1");
    assert!(client.read_to_end().0.is_empty());
    // One that asks to stay may not: RFC 9112 section 9.3 forbids it to a proxy.
    let mut client = Client::connect(daemon.proxy);
    client.send(format!("GET {} HTTP/1.0\r\nConnection: keep-alive\r\n{}\r\n", url(&origin, "/old"), credentials()));
    assert_eq!(client.answer().field("connection"), Some("close"));
    assert!(client.read_to_end().0.is_empty());
}

#[test]
fn head_has_a_length_and_no_body() {
    let origin = Origin::http();
    let daemon = over(&origin);
    origin.on("/x", Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"a\"\r\n\r\n"));
    let mut client = Client::connect(daemon.proxy);
    client.send(request(&origin, "HEAD", "/x", "", ""));
    let answer = client.answer_to("HEAD");
    assert_eq!((answer.field("content-length"), answer.field("etag")), (Some("12345"), Some("\"a\"")));
    assert_eq!(client.get(&url(&origin, "/next"), &credentials()).text(), "GET /next HTTP/1.1");
}

#[test]
fn methods_and_options_for_the_whole_server_pass() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    for method in ["PUT", "DELETE", "PATCH", "PROPFIND", "X-OWN"] {
        client.send(request(&origin, method, "/m", "Content-Length: 2\r\n", "ab"));
        assert_eq!(client.answer().text(), format!("{method} /m HTTP/1.1"));
    }
    client.send(request(&origin, "OPTIONS", "", "", ""));
    assert_eq!(client.answer().text(), "OPTIONS * HTTP/1.1");
    client.send(request(&origin, "GET", "?q", "", ""));
    assert_eq!(client.answer().text(), "GET /?q HTTP/1.1");
}

#[test]
fn bodies_pass_whole_in_both_framings_and_both_directions() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let large: String = (0..200_000).map(|number| char::from(b'a' + (number % 26) as u8)).collect();
    let chunked_answer: String =
        large.as_bytes().chunks(7777).fold(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n".to_owned(),
            |text, chunk| text + &format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()),
        ) + "0\r\nX-Sum: 1\r\n\r\n";
    origin.on("/chunked", Script::raw(chunked_answer));
    origin.on("/plain", Script::ok(&large));
    origin.on("/until-close", Script::raw(format!("HTTP/1.1 200 OK\r\n\r\n{large}")).then_close());
    let mut client = Client::connect(daemon.proxy);
    let chunked_body: String = large.as_bytes().chunks(999).fold(String::new(), |text, chunk| {
        text + &format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap())
    }) + "0\r\nX-Up: 2\r\n\r\n";
    client.send(request(&origin, "POST", "/chunked", "Transfer-Encoding: chunked\r\n", &chunked_body));
    let answer = client.answer();
    assert!(answer.text() == large);
    assert_eq!(answer.trailers, ["X-Sum: 1"]);
    client.send(request(&origin, "POST", "/plain", &format!("Content-Length: {}\r\n", large.len()), &large));
    assert!(client.answer().text() == large);
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| seen.body == large.as_bytes()));
    assert_eq!(seen[0].trailers, ["X-Up: 2"]);
    assert!(client.get(&url(&origin, "/until-close"), &credentials()).text() == large);
}

#[test]
fn a_stream_of_events_passes_as_it_comes() {
    let origin = Origin::http();
    let daemon = over(&origin);
    origin.on(
        "/events",
        Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
            .then_wait()
            .then_send("7\r\ndata: 2\r\n0\r\n\r\n"),
    );
    let mut client = Client::connect(daemon.proxy);
    client.send(request(&origin, "GET", "/events", "", ""));
    let mut so_far = Vec::new();
    while !so_far.ends_with(b"data: 1\r\n") {
        so_far.extend(client.read(1));
    }
    origin.open_gate();
    while !so_far.ends_with(b"0\r\n\r\n") {
        so_far.extend(client.read(1));
    }
    assert!(String::from_utf8(so_far).unwrap().contains("data: 2"));
}

#[test]
fn a_client_that_waits_to_continue_is_told_by_the_origin() {
    let origin = Origin::http();
    let daemon = over(&origin);
    origin.on(
        "/go",
        Script::early("HTTP/1.1 100 Continue\r\n\r\n")
            .then_read_body()
            .then_send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
    );
    origin.on("/no", Script::early("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"));
    let mut client = Client::connect(daemon.proxy);
    let fields = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    client.send(request(&origin, "POST", "/go", fields, ""));
    assert_eq!(client.answer().status, 100);
    client.send("hello");
    assert_eq!(client.answer().status, 201);
    assert_eq!(origin.seen_at("/go").fields("expect"), ["100-continue"]);
    client.send(request(&origin, "POST", "/no", fields, ""));
    assert_eq!(client.answer().status, 417);
    // Whether the body comes after all cannot be known, so no request follows.
    assert!(client.read_to_end().0.is_empty());
}

#[test]
fn interim_answers_pass_in_order() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let hints = |number: u8| format!("HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\n\r\n");
    origin.on(
        "/",
        Script::raw(format!(
            "{}HTTP/1.1 102 Processing\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            hints(1),
            hints(2)
        )),
    );
    let mut client = Client::connect(daemon.proxy);
    client.send(request(&origin, "GET", "/", "", ""));
    let statuses: Vec<u16> = (0..4).map(|_| client.answer().status).collect();
    assert_eq!(statuses, [103, 102, 103, 200]);
    assert_eq!(client.get(&url(&origin, "/next"), &credentials()).text(), "GET /next HTTP/1.1");
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello";
    origin.on("/ws", Script::raw(switch).then_echo());
    let mut client = Client::connect(daemon.proxy);
    client.send(request(
        &origin,
        "GET",
        "/ws",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: y\r\n",
        "",
    ));
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.field("upgrade"), answer.field("sec-websocket-accept")),
        (101, Some("websocket"), Some("x"))
    );
    assert_eq!(client.read(5), b"hello");
    for number in 0..100 {
        let message = format!("message {number}");
        client.send(&message);
        assert_eq!(client.read(message.len()), message.as_bytes());
    }
    let seen = origin.seen_at("/ws");
    assert_eq!(
        (seen.fields("upgrade"), seen.fields("connection"), seen.fields("sec-websocket-key")),
        (vec!["websocket"], vec!["upgrade"], vec!["y"])
    );
    client.half_close();
    assert!(client.read_to_end().0.is_empty());
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    let close = daemon.wait_for_close(open["seq"].as_u64().unwrap());
    assert_eq!((&close["status"], &close["close_reason"]), (&101.into(), &"client_closed".into()), "{close}");
}

#[test]
fn an_upgrade_that_the_origin_declines_is_an_ordinary_answer() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    client.send(request(&origin, "GET", "/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n", ""));
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.get(&url(&origin, "/next"), &credentials()).status, 200);
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    let origin = Origin::http();
    let daemon = over(&origin);
    origin.on("/late", Script::raw("").then_wait().then_send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"));
    let mut client = Client::connect(daemon.proxy);
    client.send(request(&origin, "POST", "/late", "Content-Length: 2\r\n", "hi"));
    client.half_close();
    origin.wait_for_requests(1);
    origin.open_gate();
    assert_eq!(client.answer().text(), "late");
}

#[test]
fn ten_clients_at_once_get_each_their_own_answers() {
    let origin = Origin::http();
    let daemon = over(&origin);
    std::thread::scope(|scope| {
        for client_number in 0..10 {
            let (daemon, origin): (&Daemon, &Origin) = (&daemon, &origin);
            scope.spawn(move || {
                let mut client = Client::connect(daemon.proxy);
                for number in 0..20 {
                    let path = format!("/{client_number}/{number}");
                    assert_eq!(client.get(&url(origin, &path), &credentials()).text(), format!("GET {path} HTTP/1.1"));
                }
            });
        }
    });
    assert_eq!(origin.seen().len(), 200);
}
