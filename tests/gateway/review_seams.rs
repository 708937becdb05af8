//! Where the parts of the gateway meet: a full house, a client that reads nothing, a policy that changes
//! under an open tunnel, a budget that ends in the middle.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::certificates::Authority;
use crate::support::{Client, Daemon, End, Origin, PATIENCE, Script, Setup};

/// A rule that opens one port of `origin.test` on loopback; `more` are further keys of it.
fn rule(id: &str, port: u16, scheme: &str, more: &str) -> String {
    format!(
        "[[allow]]\nid = \"{id}\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{port}]\n\
         schemes = [\"{scheme}\"]\n{more}\n"
    )
}

fn setup(rules: &str) -> Setup {
    Setup::new().host("origin.test", &["127.0.0.1"]).persona("agent", rules)
}

fn credentials() -> String {
    Daemon::credentials("agent")
}

/// A request of the agent's with these fields and this body behind it.
fn request(line: &str, host: &str, fields: &str) -> String {
    format!("{line}\r\nHost: {host}\r\n{}{fields}\r\n", credentials())
}

/// A moment that many seconds from now, as a rule writes it.
fn in_seconds(seconds: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let micros = i64::try_from(now.as_micros()).unwrap() + seconds * 1_000_000;
    format!("expires_at = \"{}\"", arw::domain::Timestamp::from_unix_micros(micros))
}

fn tunnel(daemon: &Daemon, port: u16) -> (Client, u64) {
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to(&format!("origin.test:{port}"), &credentials());
    assert_eq!(answer.status, 200, "{}", answer.head);
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    (client, answer.decision())
}

#[test]
fn a_client_that_comes_when_the_house_is_full_is_told_so() {
    let daemon = Daemon::start(setup("").set("limits.connections", 1).set("proxy.workers", 1));
    let mut first = Client::connect(daemon.proxy);
    assert_eq!(first.get("http://denied.test/", &credentials()).status, 403);
    let mut second = Client::connect(daemon.proxy);
    let answer = second.answer();
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
}

#[test]
fn a_client_that_never_reads_its_refusals_is_let_go() {
    let daemon = Daemon::start(setup("").set("limits.head_time", "500ms").set("limits.keep_alive_time", "500ms"));
    let mut client = TcpStream::connect(daemon.proxy).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let requests = request("GET http://denied.test/ HTTP/1.1", "denied.test", "").repeat(500);
    let fault = loop {
        if let Err(fault) = client.write_all(requests.as_bytes()) {
            break fault.kind();
        }
    };
    assert!(matches!(fault, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "still held: {fault:?}");
}

#[test]
fn a_length_that_the_upstream_calls_a_connection_option_is_kept() {
    let origin = Origin::http();
    let daemon = Daemon::start(setup(&rule("origin", origin.port(), "http", "")));
    let answer = "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello";
    origin.on("/odd", Script::raw(answer));
    let mut client = Client::connect(daemon.proxy);
    client.read_limit(Duration::from_secs(3));
    let url = format!("http://origin.test:{}", origin.port());
    let answer = client.get(&format!("{url}/odd"), &credentials());
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{}", answer.head);
    assert_eq!(client.get(&format!("{url}/next"), &credentials()).text(), "GET /next HTTP/1.1");
}

#[test]
fn bytes_behind_an_upgrade_are_taken_from_the_budget() {
    let origin = Origin::http();
    let daemon = Daemon::start(setup(&rule("origin", origin.port(), "http", "max_bytes = 1000")));
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    origin.on("/ws", Script::raw(switch).then_echo());
    let mut client = Client::connect(daemon.proxy);
    let line = format!("GET http://origin.test:{}/ws HTTP/1.1", origin.port());
    let host = format!("origin.test:{}", origin.port());
    let upgrade = request(&line, &host, "Connection: upgrade\r\nUpgrade: websocket\r\n");
    client.send([upgrade, "x".repeat(3000)].concat());
    let decision = client.answer().decision_or_open(&daemon);
    let close = daemon.wait_for_close(decision);
    assert_eq!(close["close_reason"], "budget_exhausted", "{close}");
    assert!(origin.raw_bytes().len() <= 1000, "{} bytes left", origin.raw_bytes().len());
    assert!(close["bytes_up"].as_u64() <= Some(1000), "{close}");
}

#[test]
fn a_request_that_the_budget_cannot_hold_is_answered() {
    let origin = Origin::http();
    let daemon = Daemon::start(setup(&rule("origin", origin.port(), "http", "max_bytes = 50")));
    let mut client = Client::connect(daemon.proxy);
    let answer = client.get(&format!("http://origin.test:{}/a-path-of-some-length", origin.port()), &credentials());
    assert_eq!((answer.status, answer.code().as_str()), (403, "budget_exhausted"), "{}", answer.head);
    assert_eq!(answer.problem()["retryable"], false, "{}", answer.text());
    let close = daemon.wait_for_close(answer.decision());
    assert_eq!((&close["close_reason"], &close["status"]), (&"budget_exhausted".into(), &403.into()), "{close}");
    assert!(origin.raw_bytes().is_empty());
}

#[test]
fn a_rule_that_ends_sooner_after_a_reload_ends_its_tunnels_sooner() {
    let echo = Origin::echo();
    let daemon = Daemon::start(setup(&rule("echo", echo.port(), "tcp", "")));
    let (mut client, decision) = tunnel(&daemon, echo.port());
    daemon.write_persona("agent", &rule("echo", echo.port(), "tcp", &in_seconds(4)));
    daemon.sighup();
    client.send("pong");
    assert_eq!(client.read(4), b"pong", "it is still allowed");
    assert_eq!(daemon.wait_for_close(decision)["close_reason"], "expired");
}

#[test]
fn a_rule_that_ends_later_after_a_reload_keeps_its_tunnels() {
    let (echo, other) = (Origin::echo(), Origin::echo());
    let end = in_seconds(4);
    let others = rule("other", other.port(), "tcp", &end);
    let daemon = Daemon::start(setup(&[rule("echo", echo.port(), "tcp", &end), others.clone()].concat()));
    let (mut kept, _) = tunnel(&daemon, echo.port());
    let (_ended, decision) = tunnel(&daemon, other.port());
    daemon.write_persona("agent", &[rule("echo", echo.port(), "tcp", ""), others].concat());
    daemon.sighup();
    assert_eq!(daemon.wait_for_close(decision)["close_reason"], "expired");
    kept.send("pong");
    assert_eq!(kept.read(4), b"pong");
}

#[test]
fn an_opaque_tunnel_ends_when_only_tls_is_allowed_any_more() {
    let echo = Origin::echo();
    let daemon = Daemon::start(setup(&rule("echo", echo.port(), "tcp", "")));
    let (_client, decision) = tunnel(&daemon, echo.port());
    daemon.write_persona("agent", &rule("echo", echo.port(), "https", ""));
    daemon.sighup();
    assert_eq!(daemon.wait_for_close(decision)["close_reason"], "policy_narrowed");
}

#[test]
fn a_tunnel_without_bound_ends_when_its_rule_gets_a_byte_budget() {
    let echo = Origin::echo();
    let daemon = Daemon::start(setup(&rule("echo", echo.port(), "tcp", "max_bytes = 1000000")));
    let (_client, decision) = tunnel(&daemon, echo.port());
    daemon.write_persona("agent", &rule("echo", echo.port(), "tcp", "max_bytes = 100"));
    daemon.sighup();
    assert_eq!(daemon.wait_for_close(decision)["close_reason"], "policy_narrowed");
}

#[test]
fn a_refused_client_of_http_1_0_does_not_wait_for_more() {
    let daemon = Daemon::start(setup(""));
    let mut client = Client::connect(daemon.proxy);
    client.send(request("GET http://denied.test/ HTTP/1.0", "denied.test", "Connection: keep-alive\r\n"));
    assert_eq!(client.answer().status, 403);
    // RFC 9112 section 9.3: a proxy does not keep the connection of an HTTP/1.0 client.
    assert_eq!(client.read_to_end(), (Vec::new(), End::Clean));
}

/// A listener whose queue is full: connecting to it hangs.
fn hanging() -> (TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener: TcpListener = socket.into();
    let addr = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 64, "the queue does not fill");
    }
    (listener, held)
}

#[test]
fn a_connect_whose_grant_goes_while_it_dials_is_answered() {
    let (listener, _held) = hanging();
    let port = listener.local_addr().unwrap().port();
    let daemon = Daemon::start(setup(&rule("slow", port, "tcp", "")));
    let mut client = Client::connect(daemon.proxy);
    let target = format!("origin.test:{port}");
    client.send(request(&format!("CONNECT {target} HTTP/1.1"), &target, ""));
    daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    daemon.write_persona("agent", "");
    daemon.sighup();
    let answer = client.answer_to("CONNECT");
    assert_eq!((answer.status, answer.code().as_str()), (403, "policy_narrowed"), "{}", answer.head);
    assert_eq!(answer.problem()["retryable"], false);
    assert_eq!(daemon.wait_for_close(answer.decision())["close_reason"], "policy_narrowed");
}

#[test]
fn a_tunnel_over_tls_that_is_cut_looks_cut_to_the_upstream() {
    let authority = Authority::new();
    let (certificate, key) = authority.server(&["localhost"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = Daemon::start(
        setup(&rule("raw", port, "tcp", ""))
            .set("proxy.tls.bind", "127.0.0.1:0")
            .set("proxy.tls.certificate", "cert.pem")
            .set("proxy.tls.key", "key.pem")
            .file("cert.pem", certificate)
            .file("key.pem", key),
    );
    let mut client = Client::connect(daemon.proxies[1]).tls(authority.trust(None), "localhost");
    let answer = client.connect_to(&format!("origin.test:{port}"), &credentials());
    assert_eq!(answer.status, 200, "{}", answer.head);
    let (mut upstream, _) = listener.accept().unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send("half a message");
    let mut start = [0; 14];
    upstream.read_exact(&mut start).unwrap();
    client.abort();
    let end = upstream.read(&mut start);
    assert_eq!(end.map_err(|fault| fault.kind()), Err(ErrorKind::ConnectionReset), "the part must not look whole");
    assert_eq!(daemon.wait_for_close(answer.decision())["close_reason"], "client_closed");
}

#[test]
fn the_record_of_a_request_that_was_cut_has_every_byte_that_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = Daemon::start(setup(&rule("raw", port, "http", "")));
    let mut client = TcpStream::connect(daemon.proxy).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let (host, line) = (format!("origin.test:{port}"), format!("POST http://origin.test:{port}/ HTTP/1.1"));
    client.write_all(request(&line, &host, "Content-Length: 1000000000\r\n").as_bytes()).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Until nothing moves any more: the upstream reads nothing, and every buffer is full.
    while client.write(&[b'x'; 10_007]).is_ok() {}
    daemon.write_persona("agent", "");
    daemon.sighup();
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open")["seq"].as_u64().unwrap();
    let close = daemon.wait_for_close(open);
    assert_eq!(close["close_reason"], "policy_narrowed", "{close}");
    let (mut left, mut chunk) = (0, vec![0; 1 << 20]);
    while let Ok(count @ 1..) = upstream.read(&mut chunk) {
        left += count as u64;
    }
    assert_eq!(close["bytes_up"].as_u64(), Some(left), "{close}");
}

#[test]
fn the_record_of_the_end_names_the_address_that_answered() {
    let origin = Origin::http();
    let rules = rule("origin", origin.port(), "http", "").replace("127.0.0.1/32", "127.0.0.0/24");
    let setup = Setup::new().host("origin.test", &["127.0.0.77", "127.0.0.1"]).persona("agent", &rules);
    let daemon = Daemon::start(setup);
    let mut client = Client::connect(daemon.proxy);
    let answer = client.get(&format!("http://origin.test:{}/", origin.port()), &credentials());
    assert_eq!(answer.status, 200);
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    assert_eq!(open["address"], format!("127.0.0.77:{}", origin.port()));
    let close = daemon.wait_for_close(open["seq"].as_u64().unwrap());
    assert_eq!(close["address"], format!("127.0.0.1:{}", origin.port()), "{close}");
}

#[test]
fn a_client_that_ends_after_its_server_is_gone_still_has_a_whole_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemon = Daemon::start(setup(&rule("raw", port, "tcp", "")));
    let mut client = TcpStream::connect(daemon.proxy).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = format!("origin.test:{port}");
    client.write_all(request(&format!("CONNECT {target} HTTP/1.1"), &target, "").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let (mut upstream, _) = listener.accept().unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    upstream.write_all(b"all of it").unwrap();
    upstream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = [0; 9];
    client.read_exact(&mut answer).unwrap();
    // What TLS does at its end: a last word that nobody reads, and then the close.
    client.write_all(b"bye").unwrap();
    assert_eq!(upstream.peek(&mut answer).unwrap(), 3);
    drop(upstream);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open")["seq"].as_u64().unwrap();
    assert_eq!(daemon.wait_for_close(open)["close_reason"], "upstream_closed");
    assert_eq!(client.read(&mut answer).map_err(|fault| fault.kind()), Ok(0), "it looks cut");
}

#[test]
fn report_mode_lets_a_first_flight_pass_and_says_what_it_would_have_denied() {
    let echo = Origin::echo();
    let rules = rule("echo", echo.port(), "https", "");
    let daemon = Daemon::start(setup(&format!("mode = \"report\"\n{rules}")));
    let (client, passed) = tunnel(&daemon, echo.port());
    drop(client);
    let close = daemon.wait_for_close(passed);
    assert_eq!((&close["code"], &close["decision"]), (&"not_tls".into(), &"would_deny".into()), "{close}");
    // One that is open when the persona is enforced again goes on no longer.
    let (_client, open) = tunnel(&daemon, echo.port());
    daemon.write_persona("agent", &rules);
    daemon.sighup();
    assert_eq!(daemon.wait_for_close(open)["close_reason"], "policy_narrowed");
}

/// The sequence number of the only grant, for answers that do not name it.
trait Decision {
    fn decision_or_open(&self, daemon: &Daemon) -> u64;
}

impl Decision for crate::support::Answer {
    fn decision_or_open(&self, daemon: &Daemon) -> u64 {
        daemon.wait_for_ledger("the grant", |line| line["kind"] == "open")["seq"].as_u64().unwrap()
    }
}
