//! A runtime as a client: its records name it, its counters move, and its end ends all of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use arw::domain::{CloseReason, PersonaId, Run, RuntimeId};
use arw::ledger::{Filter, Kind, Line};
use arw::proxy::{EgressLimits, EgressSpent, EgressUse, RuntimeGuard, RuntimeSockets};

use crate::support::{Client, End, Origin, PATIENCE, Script, wait_for};
use crate::transparent::{A, Stage, ask, nets, query, resets, sockets, tcp};
use crate::{AGENT, authority, rule, url};

/// Run 3 of runtime `id`, with the explicit proxy only.
pub(crate) fn explicit(id: &str) -> RuntimeSockets {
    RuntimeSockets {
        persona: PersonaId::parse(AGENT).unwrap(),
        run: Some(Run { runtime: RuntimeId::parse(id).unwrap(), number: 3 }),
        limits: EgressLimits::default(),
        spent: EgressSpent::default(),
        nets: nets(),
        proxy: Some(TcpListener::bind("127.0.0.1:0").unwrap()),
        dns_udp: None,
        dns_tcp: None,
        transparent: Vec::new(),
    }
}

/// All sockets that a runtime has.
pub(crate) fn complete(id: &str, port: u16) -> RuntimeSockets {
    let RuntimeSockets { run, proxy, .. } = explicit(id);
    RuntimeSockets { run, proxy, ..sockets(port) }
}

/// A runtime that the gateway attends to.
pub(crate) struct Guest {
    pub(crate) guard: RuntimeGuard,
    pub(crate) proxy: SocketAddr,
    /// Port 1 when it has no resolver.
    pub(crate) resolver: SocketAddr,
}

impl Guest {
    pub(crate) fn enter(stage: &Stage, sockets: RuntimeSockets) -> Self {
        let proxy = sockets.proxy.as_ref().unwrap().local_addr().unwrap();
        let resolver = sockets.dns_udp.as_ref().map(|socket| socket.local_addr().unwrap());
        let guard = stage.running.as_ref().unwrap().runtimes().attend(sockets).unwrap();
        Self { guard, proxy, resolver: resolver.unwrap_or("127.0.0.1:1".parse().unwrap()) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.proxy)
    }

    /// An open tunnel through the explicit proxy, and the sequence number of its grant.
    pub(crate) fn tunnel(&self, origin: &Origin) -> (Client, u64) {
        let mut client = self.client();
        let answer = client.connect_to(&authority(origin), "");
        assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
        (client, answer.decision())
    }

    /// A connection to the synthetic address of `origin.test`.
    pub(crate) fn transparent(&self, port: u16) -> Client {
        Client::connect(self.synthetic(port))
    }

    pub(crate) fn synthetic(&self, port: u16) -> SocketAddr {
        let (code, address) = ask(self.resolver, "origin.test", A);
        assert_eq!(code, 0);
        SocketAddr::new(address.expect("an address"), port)
    }
}

/// The `close` of what line `opened` began.
pub(crate) fn close_of(stage: &Stage, opened: u64) -> Line {
    let is = |line: &Line| line.opened == Some(opened);
    wait_for("a close record", || stage.lines(Kind::Close).into_iter().find(is))
}

fn ping(client: &mut Client) {
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
}

/// Whether nothing comes any more, however it ends.
pub(crate) fn is_over(client: &mut Client) -> bool {
    client.read_to_end().0.is_empty()
}

fn forward(origin: &Origin) -> String {
    rule("origin", "origin.test", origin.port(), "\"http\", \"tcp\"", "")
}

#[test]
fn every_line_of_a_runtimes_traffic_names_it_and_its_run() {
    let origin = Origin::http();
    let port = origin.port();
    let rules = rule("origin", "origin.test", port, "\"http\"", "");
    let stage = Stage::with(&rules, Vec::new());
    let guest = Guest::enter(&stage, complete("ocr", port));
    let mut client = guest.client();
    assert_eq!(client.get(&url(&origin, "/granted"), "").status, 200);
    assert_eq!(client.get("http://evil.test/denied", "").code(), "not_allowlisted");
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.answer().code(), "malformed");
    assert_eq!(guest.client().connect_to("evil.test:443", "").code(), "not_allowlisted");
    assert!(resets("127.100.0.2".parse().unwrap(), port), "an address that stands for nothing");
    let mut client = guest.transparent(port);
    client.send(format!("GET /transparent HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(ask(guest.resolver, "evil.test", A).0, 3);
    drop(client);
    wait_for("both closes", || (stage.lines(Kind::Close).len() == 2).then_some(()));
    let all = stage.ledger.reader().unwrap().query(&Filter::default(), 1000).unwrap();
    let traffic: Vec<&Line> = all.iter().filter(|line| line.kind != Kind::Note).collect();
    assert_eq!(traffic.len(), 2 + 2 + 5, "{traffic:#?}");
    for line in &traffic {
        assert_eq!((line.runtime.as_deref(), line.run.as_deref()), (Some("ocr"), Some("3")), "{line:?}");
    }
    let of = |id: &str| Filter { runtime: RuntimeId::parse(id).ok(), ..Filter::default() };
    let count = |id: &str| stage.ledger.reader().unwrap().query(&of(id), 1000).unwrap().len();
    assert_eq!((count("ocr"), count("oc")), (9, 0));
}

#[test]
fn a_first_flight_that_is_refused_is_a_denial_of_the_runtime() {
    let origin = Origin::echo();
    let stage = Stage::with(&rule("origin", "origin.test", origin.port(), "\"https\"", ""), Vec::new());
    let guest = Guest::enter(&stage, explicit("ocr"));
    let (mut client, opened) = guest.tunnel(&origin);
    client.send("this is no TLS");
    assert!(is_over(&mut client));
    close_of(&stage, opened);
    let deny = stage.line(Kind::Deny);
    assert_eq!((deny.code.unwrap().code(), deny.runtime.as_deref()), ("not_tls", Some("ocr")));
    assert_eq!(guest.guard.egress().denials, 1);
}

#[test]
fn a_command_that_nobody_supervises_has_no_name_in_the_record() {
    let origin = Origin::http();
    let stage = Stage::with(&forward(&origin), Vec::new());
    let guest = Guest::enter(&stage, RuntimeSockets { run: None, ..explicit("ocr") });
    assert_eq!(guest.client().get(&url(&origin, "/"), "").status, 200);
    let open = stage.line(Kind::Open);
    assert_eq!((open.persona.unwrap().as_str(), open.runtime, open.run), (AGENT, None, None));
}

#[test]
fn what_a_runtime_does_is_counted_while_it_does_it() {
    let origin = Origin::echo();
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let guest = Guest::enter(&stage, explicit("ocr"));
    let other = Guest::enter(&stage, explicit("other"));
    assert_eq!(guest.guard.egress(), EgressUse::default());
    let (mut first, opened) = guest.tunnel(&origin);
    let (mut second, _) = guest.tunnel(&origin);
    ping(&mut first);
    ping(&mut second);
    assert_eq!(guest.client().connect_to("evil.test:443", "").code(), "not_allowlisted");
    let expected = EgressUse { bytes_up: 8, bytes_down: 8, requests: 2, denials: 1, open: 2 };
    assert_eq!(guest.guard.egress(), expected, "the tunnels are still open");
    assert_eq!(guest.guard.denials_last_minute(), 1);
    drop(first);
    assert_eq!(close_of(&stage, opened).bytes_up, Some(4));
    let expected = EgressUse { open: 1, ..expected };
    wait_for("the count to go down", || (guest.guard.egress() == expected).then_some(()));
    assert_eq!(guest.guard.spent(), EgressSpent { bytes: 16, requests: 2 });
    assert_eq!(other.guard.egress(), EgressUse::default(), "and nobody else's");
}

#[test]
fn the_end_of_a_runtime_ends_all_of_it_and_nothing_else() {
    let origin = Origin::http();
    origin.on("/slow", Script::quiet().then_hold());
    let raw = Origin::echo();
    let port = raw.port();
    let rules = [forward(&origin), rule("raw", "origin.test", port, "\"tcp\"", "")].concat();
    let stage = Stage::with(&rules, Vec::new());
    let guest = Guest::enter(&stage, complete("ocr", port));
    let other = Guest::enter(&stage, explicit("other"));
    let (mut bystander, _) = other.tunnel(&raw);
    let (mut tunnel, opened) = guest.tunnel(&raw);
    let mut transparent = guest.transparent(port);
    ping(&mut tunnel);
    ping(&mut transparent);
    // Kept alive, in the middle of a head, without a word, in the middle of an exchange, and a resolver's stream.
    let mut kept = guest.client();
    assert_eq!(kept.get(&url(&origin, "/"), "").status, 200);
    let mut halfway = guest.client();
    halfway.send("GET http://origin.test/ HTTP/1.1\r\nHo");
    let mut silent = guest.client();
    let mut waiting = guest.client();
    waiting.send(format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url(&origin, "/slow"), authority(&origin)));
    let mut stream = TcpStream::connect(guest.resolver).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let message = query("origin.test", A);
    stream.write_all(&[&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    origin.wait_for_requests(2);

    let started = Instant::now();
    assert_eq!(guest.guard.end(), 3, "two tunnels and an exchange");
    for client in [&mut tunnel, &mut transparent, &mut kept, &mut halfway, &mut silent] {
        assert!(is_over(client));
    }
    let answer = waiting.answer();
    assert_eq!((answer.status, answer.code().as_str()), (503, "runtime_ended"), "{}", answer.head);
    assert!(is_over(&mut waiting));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(started.elapsed() < Duration::from_secs(5), "what waits for a time-out takes longer");
    let close = close_of(&stage, opened);
    assert_eq!((close.close_reason, close.runtime.as_deref()), (Some(CloseReason::RuntimeEnded), Some("ocr")));
    wait_for("all three to be recorded", || {
        let ended = |line: &&Line| line.close_reason == Some(CloseReason::RuntimeEnded);
        (stage.lines(Kind::Close).iter().filter(ended).count() == 3).then_some(())
    });
    wait_for("the listener to close", || TcpStream::connect(guest.proxy).is_err().then_some(()));
    wait_for("the resolver to close", || UdpSocket::bind(guest.resolver).ok());
    wait_for("nothing to be open", || (guest.guard.egress().open == 0).then_some(()));
    assert_eq!(guest.guard.end(), 0, "it may be said again");
    ping(&mut bystander);
}

#[test]
fn requests_that_were_sent_ahead_of_the_end_get_nowhere() {
    let origin = Origin::http();
    origin.on("/slow", Script::quiet().then_hold());
    let stage = Stage::with(&forward(&origin), Vec::new());
    let guest = Guest::enter(&stage, explicit("ocr"));
    let mut client = guest.client();
    let get = |path: &str| format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url(&origin, path), authority(&origin));
    client.send([get("/slow"), get("/next"), get("/last")].concat());
    origin.wait_for_requests(1);
    guest.guard.end();
    let _ = client.read_to_end();
    assert_eq!((origin.seen().len(), stage.lines(Kind::Open).len()), (1, 1));
}

#[test]
fn dropping_the_guard_is_the_end() {
    let origin = Origin::echo();
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let guest = Guest::enter(&stage, explicit("ocr"));
    let (mut client, opened) = guest.tunnel(&origin);
    ping(&mut client);
    drop(guest.guard);
    assert_eq!(client.read_to_end(), (Vec::new(), End::Abort));
    assert_eq!(close_of(&stage, opened).close_reason, Some(CloseReason::RuntimeEnded));
}

#[test]
fn a_thousand_tunnels_of_a_runtime_are_cut_at_once() {
    const TUNNELS: usize = 1000;
    // One thread for all of them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = std::thread::spawn(move || listener.incoming().take(TUNNELS).collect::<Result<Vec<_>, _>>().unwrap());
    let stage = Stage::with(&rule("origin", "origin.test", port, "\"tcp\"", ""), Vec::new());
    let guest = Guest::enter(&stage, explicit("ocr"));
    let mut clients: Vec<Client> = (0..TUNNELS)
        .map(|_| {
            let mut client = guest.client();
            assert_eq!(client.connect_to(&format!("origin.test:{port}"), "").status, 200);
            client
        })
        .collect();
    let held = held.join().unwrap();
    let started = Instant::now();
    assert_eq!(guest.guard.end(), TUNNELS);
    wait_for("every tunnel to end", || (guest.guard.egress().open == 0).then_some(()));
    let took = started.elapsed();
    assert!(clients.iter_mut().all(is_over));
    eprintln!("cut in {took:?}");
    // A tenth of a second or so on an idle machine.
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(held);
}
