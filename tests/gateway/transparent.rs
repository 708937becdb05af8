//! Programs that know of no proxy: their look-ups and their connections.
//!
//! The gateway runs in this process, with sockets as a launcher would hand them over: on loopback for most
//! tests, inside a network namespace for one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use arw::config::{Durability, PersonaFile, ServerConfig};
use arw::domain::{Clock, PersonaId, SystemClock};
use arw::events::EventBus;
use arw::ledger::{Filter, Kind, Ledger, Line, Outcome};
use arw::policy::{PolicySettings, Snapshot, Usage};
use arw::proxy::{
    Desk, EgressLimits, EgressSpent, FlowTable, Gateway, Inherited, Latch, Metrics, OwnListeners, Resolver, Running,
    RuntimeSockets, SyntheticNets, start,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::certificates::Authority;
use crate::support::{Client, DnsServer, End, Fault, Origin, PATIENCE, Script, wait_for};
use crate::{AGENT, rule};

pub(crate) const A: u16 = 1;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;
/// An address of loopback that no other test binds, so that an origin's port is free there.
const RESOLVER: &str = "127.102.0.1";

/// A gateway with one runtime, whose synthetic addresses are loopback ones.
pub(crate) struct Stage {
    pub(crate) running: Option<Running>,
    pub(crate) ledger: Ledger,
    pub(crate) upstream: DnsServer,
    resolver: SocketAddr,
    _executor: tokio::runtime::Runtime,
    _home: TempDir,
}

pub(crate) fn nets() -> SyntheticNets {
    SyntheticNets { v4: "127.100.0.0/16".parse().unwrap(), v6: "fd00:61::/64".parse().unwrap() }
}

/// Sockets at the first two synthetic addresses on `port`, and at one that is none.
pub(crate) fn sockets(port: u16) -> RuntimeSockets {
    let bind = |ip: &str| TcpListener::bind((ip, port)).unwrap();
    RuntimeSockets {
        persona: PersonaId::parse(AGENT).unwrap(),
        run: None,
        limits: EgressLimits::default(),
        spent: EgressSpent::default(),
        nets: nets(),
        proxy: None,
        dns_udp: Some(UdpSocket::bind((RESOLVER, port)).unwrap()),
        dns_tcp: Some(bind(RESOLVER)),
        transparent: ["127.100.0.1", "127.100.0.2", "127.101.0.1"].map(bind).into(),
    }
}

impl Stage {
    pub(crate) fn new(rules: &str, port: u16) -> Self {
        Self::with(rules, vec![sockets(port)])
    }

    pub(crate) fn with(rules: &str, runtimes: Vec<RuntimeSockets>) -> Self {
        Self::durable(rules, runtimes, Durability::Batch)
    }

    pub(crate) fn durable(rules: &str, runtimes: Vec<RuntimeSockets>, durability: Durability) -> Self {
        let home = TempDir::new().unwrap();
        let upstream = DnsServer::start();
        let resolver = runtimes.first().and_then(|sockets| sockets.dns_udp.as_ref());
        let resolver = resolver.map_or("127.0.0.1:1".parse().unwrap(), |socket| socket.local_addr().unwrap());
        let mut config = ServerConfig::defaults(home.path().join("state"), home.path().join("config"));
        std::fs::create_dir(&config.state_dir).unwrap();
        std::fs::set_permissions(&config.state_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        config.proxy.bind = Vec::new();
        config.proxy.unix_socket = None;
        config.proxy.workers = 1;
        config.ledger.reserve_bytes = 1 << 20;
        config.ledger.durability = durability;
        config.dns.servers = vec![upstream.addr()];
        config.dns.use_hosts_file = false;
        config.dns.hosts = BTreeMap::from([("origin.test".to_owned(), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])]);
        let file = PersonaFile::parse(Path::new("agent.toml"), &format!("id = \"{AGENT}\"\n{rules}"));
        let snapshot = Snapshot::compile(vec![file.expect("readable")], &PolicySettings::default()).expect("sound");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (ledger, _) = Ledger::open(&config.ledger, Arc::clone(&clock)).unwrap();
        let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let gateway = Arc::new(Gateway {
            policy: Arc::new(ArcSwap::from_pointee(snapshot)),
            usage: Usage::new(),
            ledger: ledger.clone(),
            resolver: Resolver::new(&config.dns, executor.handle().clone()).unwrap(),
            clock: Arc::clone(&clock),
            record_query: false,
            trace_parents: false,
            limits: config.limits,
            flows: Arc::new(FlowTable::default()),
            metrics: Arc::new(Metrics::default()),
            own: OwnListeners::default(),
            first_seen: Mutex::default(),
            events: EventBus::new("trial", clock),
            draining: CancellationToken::new(),
            latch: Latch::default(),
            desk: Desk::default(),
        });
        let running = start(&gateway, &config.proxy, None, Inherited { runtimes, ..Inherited::default() }).unwrap();
        Self { running: Some(running), ledger, upstream, resolver, _executor: executor, _home: home }
    }

    pub(crate) fn lines(&self, kind: Kind) -> Vec<Line> {
        let filter = Filter { kind: Some(kind), ..Filter::default() };
        self.ledger.reader().unwrap().query(&filter, 1000).unwrap()
    }

    /// The first line of that kind, once it is there.
    pub(crate) fn line(&self, kind: Kind) -> Line {
        wait_for("a line of the ledger", || self.lines(kind).into_iter().next())
    }

    /// The codes of all denials.
    fn denials(&self) -> Vec<&'static str> {
        self.lines(Kind::Deny).iter().map(|line| line.code.unwrap().code()).collect()
    }

    fn ask(&self, name: &str, kind: u16) -> (u8, Option<IpAddr>) {
        ask(self.resolver, name, kind)
    }

    /// Looks `name` up and connects, as any program does.
    fn connect(&self, name: &str, port: u16) -> Client {
        let (code, address) = self.ask(name, A);
        assert_eq!(code, 0);
        Client::connect(SocketAddr::new(address.expect("an address"), port))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len().try_into().unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// Code and address of an answer to `message`.
fn read_answer(message: &[u8], answer: &[u8]) -> (u8, Option<IpAddr>) {
    assert_eq!((&answer[..2], answer[2] & 0x80), (&message[..2], 0x80));
    assert_eq!(&answer[12..message.len()], &message[12..]);
    let data = answer.get(message.len() + 12..).filter(|_| answer[7] == 1);
    let address = data.map(|data| match data.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(data).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()),
    });
    (answer[3] & 0x0f, address)
}

pub(crate) fn ask(resolver: SocketAddr, name: &str, kind: u16) -> (u8, Option<IpAddr>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let message = query(name, kind);
    socket.send_to(&message, resolver).unwrap();
    let mut answer = [0; 600];
    let length = socket.recv(&mut answer).unwrap();
    read_answer(&message, &answer[..length])
}

/// Whether a connection is reset without a word; the reset may be there before the connecting ends.
pub(crate) fn resets(ip: IpAddr, port: u16) -> bool {
    let is_reset = |fault: std::io::Error| fault.kind() == std::io::ErrorKind::ConnectionReset;
    match TcpStream::connect((ip, port)) {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read(&mut [0]).is_err_and(is_reset)
        }
        Err(fault) => is_reset(fault),
    }
}

pub(crate) fn tcp(origin: &Origin) -> String {
    rule("origin", "origin.test", origin.port(), "\"tcp\"", "")
}

#[test]
fn a_program_that_knows_no_proxy_reaches_an_allowed_name() {
    let origin = Origin::raw(Script::early("220 ready\r\n").then_echo());
    let stage = Stage::new(&tcp(&origin), origin.port());
    let mut client = stage.connect("Origin.Test", origin.port());
    assert_eq!(client.read(11), b"220 ready\r\n", "the server speaks first");
    client.send("EHLO x\r\n");
    assert_eq!(client.read(8), b"EHLO x\r\n");
    client.half_close();
    assert_eq!(client.read_to_end(), (Vec::new(), End::Clean));
    let close = stage.line(Kind::Close);
    assert_eq!((close.bytes_up, close.bytes_down), (Some(8), Some(19)));
    let open = stage.line(Kind::Open);
    assert_eq!((open.host.as_deref(), open.port), (Some("origin.test"), Some(origin.port())));
    assert_eq!((open.identity, open.decision), (Some(arw::domain::Identity::Netns), Some(Outcome::Allow)));
    assert_eq!(open.persona.unwrap().as_str(), AGENT);
}

#[test]
fn a_denied_name_does_not_exist_and_nobody_is_asked_for_it() {
    let origin = Origin::echo();
    let stage = Stage::new(&tcp(&origin), origin.port());
    for kind in [A, AAAA, HTTPS] {
        assert_eq!(stage.ask("stolen-secret.evil.test", kind), (3, None));
    }
    assert_eq!(stage.denials(), ["not_allowlisted"], "one line, however often it is asked");
    let deny = stage.line(Kind::Deny);
    assert_eq!((deny.host.as_deref(), deny.port), (Some("stolen-secret.evil.test"), None));
    assert_eq!(stage.upstream.asked().len(), 0, "no query leaves");
}

#[test]
fn an_allowed_name_has_addresses_and_nothing_else() {
    let origin = Origin::echo();
    let stage = Stage::new(&tcp(&origin), origin.port());
    let (_, v4) = stage.ask("origin.test", A);
    let (_, v6) = stage.ask("origin.test", AAAA);
    let within = |net: ipnet::IpNet, addr: Option<IpAddr>| net.contains(&addr.unwrap());
    assert!(within(nets().v4.into(), v4) && within(nets().v6.into(), v6), "{v4:?} {v6:?}");
    assert_eq!(stage.ask("origin.test", A), (0, v4), "the same address again");
    for kind in [HTTPS, 64, 12, 15, 16, 255] {
        assert_eq!(stage.ask("origin.test", kind), (0, None), "{kind}");
    }
    assert_eq!(stage.ask("origin.test", 252), (5, None), "a zone transfer");
    assert_eq!(stage.ask("localhost", A), (0, Some(IpAddr::V4(Ipv4Addr::LOCALHOST))));
    assert_eq!((stage.upstream.asked().len(), stage.denials().len()), (0, 0));
}

#[test]
fn a_flood_of_denied_names_does_not_flood_the_ledger() {
    let origin = Origin::echo();
    let stage = Stage::new(&tcp(&origin), origin.port());
    let start = std::time::Instant::now();
    let codes: Vec<u8> = (0..1000).map(|number| stage.ask(&format!("secret-{number}.evil.test"), A).0).collect();
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    let recorded = codes.iter().filter(|code| **code == 3).count();
    assert!(codes.iter().all(|code| matches!(code, 2 | 3)), "no name exists");
    assert_eq!(stage.denials().len(), recorded, "what is said not to exist is recorded");
    assert!(recorded <= 128 * seconds, "{recorded} in {seconds} s");
    assert_eq!(stage.ask("origin.test", A).0, 0, "and allowed names go on");
    assert_eq!(stage.upstream.asked().len(), 0);
}

#[test]
fn a_persona_at_its_bound_of_connections_is_reset_even_while_it_stays_silent() {
    let origin = Origin::http();
    let rules = rule("origin", "origin.test", origin.port(), "\"https\", \"http\"", "");
    let stage = Stage::new(&format!("limits = {{ connections = 2 }}\n{rules}"), origin.port());
    let (_, address) = stage.ask("origin.test", A);
    let silent = [0; 2].map(|_| stage.connect("origin.test", origin.port()));
    assert!(resets(address.unwrap(), origin.port()));
    assert_eq!(stage.denials(), ["overloaded"]);
    drop(silent);
}

#[test]
fn the_resolver_answers_by_tcp_too() {
    let origin = Origin::echo();
    let stage = Stage::new(&tcp(&origin), origin.port());
    let mut stream = TcpStream::connect(stage.resolver).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for name in ["origin.test", "evil.test"] {
        let message = query(name, A);
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        // The length comes in a segment of its own.
        stream.write_all(&length).unwrap();
        stream.write_all(&message).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        let (code, address) = read_answer(&message, &answer);
        assert_eq!((code, address.is_some()), if name == "origin.test" { (0, true) } else { (3, false) });
    }
    // A message that is longer than any query ends it.
    stream.write_all(&[0xff, 0xff]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn addresses_that_stand_for_nothing_are_reset_and_recorded() {
    let origin = Origin::echo();
    let stage = Stage::new(&tcp(&origin), origin.port());
    // Nobody has looked anything up, so none of them stands for a name.
    for (ip, code) in [("127.100.0.1", "ip_literal"), ("127.101.0.1", "special_address")] {
        assert!(resets(ip.parse().unwrap(), origin.port()), "{ip}");
        assert_eq!(stage.denials().last(), Some(&code));
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_port_that_no_rule_names_is_reset_and_recorded() {
    let origin = Origin::echo();
    let other = origin.port() ^ 1;
    let stage = Stage::new(&rule("origin", "origin.test", other, "\"tcp\"", ""), origin.port());
    let (_, address) = stage.ask("origin.test", A);
    assert!(resets(address.unwrap(), origin.port()));
    assert_eq!(stage.denials(), ["port_not_allowed"]);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn plain_http_passes_the_same_rules_as_by_proxy() {
    let origin = Origin::http();
    let port = origin.port();
    let stage = Stage::new(&rule("origin", "origin.test", port, "\"http\"", "paths = [\"/open/*\"]"), port);
    let mut client = stage.connect("origin.test", port);
    let mut get = |path: &str, host: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.answer()
    };
    let host = format!("origin.test:{port}");
    assert_eq!(get("/open/a?b", &host).status, 200);
    assert_eq!(get("/shut", &host).code(), "path_not_allowed");
    assert_eq!(get("/open/c", &host).status, 200, "and the connection goes on");
    let refused = get("/open/d", "other.test");
    assert_eq!((refused.status, refused.code()), (400, "malformed".to_owned()));
    assert_eq!(origin.seen().len(), 2);
    assert_eq!(origin.seen_at("/open/a?b").fields("host"), [&host]);
}

#[test]
fn tls_and_plain_http_share_a_port_when_a_rule_grants_both() {
    let authority = Authority::new();
    let origin = Origin::https(authority.server_config(&["origin.test"]));
    let port = origin.port();
    let stage = Stage::new(&rule("origin", "origin.test", port, "\"https\", \"http\"", ""), port);
    let mut client = stage.connect("origin.test", port).tls(authority.trust(None), "origin.test");
    client.send("GET /inside HTTP/1.1\r\nHost: origin.test\r\n\r\n");
    assert_eq!(client.answer().text(), "GET /inside HTTP/1.1");
    let fault = stage.connect("origin.test", port).try_tls(authority.trust(None), "other.test").err();
    assert!(fault.expect("refused").to_string().contains("AccessDenied"));
    assert_eq!(stage.denials(), ["sni_mismatch"]);
    let mut client = stage.connect("origin.test", port);
    client.send(format!("GET /plain HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"));
    // The origin speaks TLS only; what counts is that the request went to the gate as plain HTTP.
    let _: Result<_, Fault> = client.try_answer_to("GET");
    let plain = |line: &Line| line.path.as_deref() == Some("/plain");
    wait_for("the request's grant", || stage.lines(Kind::Open).into_iter().find(plain));
}

#[test]
fn a_runtime_comes_and_goes_while_the_proxy_runs() {
    let origin = Origin::echo();
    let stage = Stage::with(&tcp(&origin), Vec::new());
    let sockets = sockets(origin.port());
    let resolver = sockets.dns_udp.as_ref().unwrap().local_addr().unwrap();
    let guard = stage.running.as_ref().unwrap().runtimes().attend(sockets).unwrap();
    let (_, address) = ask(resolver, "origin.test", A);
    let address = SocketAddr::new(address.unwrap(), origin.port());
    let mut client = Client::connect(address);
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    drop(guard);
    wait_for("the listener to close", || TcpStream::connect(address).is_err().then_some(()));
    wait_for("the resolver to close", || UdpSocket::bind(resolver).ok());
}

#[test]
fn nothing_of_a_runtime_outlives_the_proxy() {
    let origin = Origin::echo();
    let mut stage = Stage::new(&tcp(&origin), origin.port());
    let (_, address) = stage.ask("origin.test", A);
    stage.running.take().unwrap().stop();
    assert!(TcpStream::connect((address.unwrap(), origin.port())).is_err());
    assert!(UdpSocket::bind(stage.resolver).is_ok() && TcpListener::bind(stage.resolver).is_ok());
}

/// In a namespace with nothing but loopback and the synthetic nets, as the sandbox makes them. Root only.
#[test]
fn inside_a_network_namespace_every_synthetic_address_leads_to_its_name() {
    use nix::sched::{CloneFlags, unshare};
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: making a network namespace in a thread takes root");
        return;
    }
    let origin = Origin::echo();
    let port = origin.port();
    let (hand, taken) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    // A namespace belongs to a thread: sockets stay in the one that they were made in.
    let inside = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let script = "ip link set lo up && ip route add local 198.18.0.0/15 dev lo && \
                      ip -6 route add local fd00:61::/64 dev lo";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        let nets = SyntheticNets { v4: "198.18.0.0/15".parse().unwrap(), v6: nets().v6 };
        let resolver = "127.0.0.1:53".parse().unwrap();
        hand.send(RuntimeSockets {
            persona: PersonaId::parse(AGENT).unwrap(),
            run: None,
            limits: EgressLimits::default(),
            spent: EgressSpent::default(),
            nets,
            proxy: Some(TcpListener::bind("127.0.0.1:9080").unwrap()),
            dns_udp: Some(UdpSocket::bind(resolver).unwrap()),
            dns_tcp: None,
            // Both families in one socket, so that IPv4 comes in its mapped form.
            transparent: vec![TcpListener::bind(("::", port)).unwrap()],
        })
        .unwrap();
        gone.recv().unwrap();
        for kind in [A, AAAA] {
            let (_, address) = ask(resolver, "origin.test", kind);
            let mut client = Client::connect(SocketAddr::new(address.unwrap(), port));
            client.send("ping");
            assert_eq!(client.read(4), b"ping");
        }
        for ip in ["198.18.77.77", "127.0.0.1", "fd00:61::7777", "::1"] {
            assert!(resets(ip.parse().unwrap(), port), "{ip}");
        }
        // Everything else has no route.
        let fault = TcpStream::connect("192.0.2.1:443").expect_err("no route");
        assert_eq!(fault.raw_os_error(), Some(nix::errno::Errno::ENETUNREACH as i32));
        let mut client = Client::connect("127.0.0.1:9080".parse().unwrap());
        assert_eq!(client.connect_to(&format!("origin.test:{port}"), "").status, 200);
    });
    let stage = Stage::with(&tcp(&origin), vec![taken.recv().unwrap()]);
    go.send(()).unwrap();
    inside.join().unwrap();
    assert_eq!(stage.denials(), ["ip_literal", "special_address", "ip_literal", "special_address"]);
    assert_eq!(origin.connections(), 3);
}
