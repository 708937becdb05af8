//! A small name server for tests: scripted answers over UDP and TCP on loopback, and a count of what
//! was asked, so that a test can say "no query left".
//!
//! Raw wire format (RFC 1035), on threads of its own: it works with every executor and none. Names that
//! nobody scripted are answered NXDOMAIN, and counted too.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for something to happen before a test fails.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// The record type asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    A,
    Aaaa,
    Other(u16),
}

/// One record of an answer.
#[derive(Debug, Clone)]
pub struct Record {
    pub owner: String,
    pub ttl: u32,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub enum Data {
    Addr(IpAddr),
    Cname(String),
}

impl Record {
    pub fn addr(owner: &str, ttl: u32, addr: &str) -> Self {
        Self { owner: owner.to_owned(), ttl, data: Data::Addr(addr.parse().unwrap()) }
    }

    pub fn cname(owner: &str, ttl: u32, target: &str) -> Self {
        Self { owner: owner.to_owned(), ttl, data: Data::Cname(target.to_owned()) }
    }
}

/// What the server does with one query.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub code: u8,
    pub answers: Vec<Record>,
    pub additional: Vec<Record>,
    /// Over UDP: an empty answer with TC set. Over TCP: the whole answer.
    pub truncated: bool,
    /// No answer at all.
    pub silent: bool,
    /// Kept back until [`DnsServer::release`].
    pub held: bool,
    /// First a forged answer with this address: with a wrong id, then with another question.
    pub forged: Option<IpAddr>,
    /// The question comes back in lower case.
    pub lower_case: bool,
    /// Bytes that are no DNS message behind a right id.
    pub garbage: bool,
}

impl Reply {
    pub fn records(answers: impl IntoIterator<Item = Record>) -> Self {
        Self { answers: answers.into_iter().collect(), ..Self::default() }
    }

    /// No record of this type; the name exists.
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn nxdomain() -> Self {
        Self { code: 3, ..Self::default() }
    }

    pub fn servfail() -> Self {
        Self { code: 2, ..Self::default() }
    }

    pub fn refused() -> Self {
        Self { code: 5, ..Self::default() }
    }

    pub fn silence() -> Self {
        Self { silent: true, ..Self::default() }
    }

    pub fn held(self) -> Self {
        Self { held: true, ..self }
    }

    pub fn truncated(self) -> Self {
        Self { truncated: true, ..self }
    }
}

#[derive(Default)]
struct State {
    scripts: HashMap<(String, Kind), VecDeque<Reply>>,
    asked: Vec<(String, Kind)>,
    asked_by_tcp: usize,
    held: Vec<(Vec<u8>, SocketAddr)>,
    released: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

/// The server; it stops when dropped.
pub struct DnsServer {
    addr: SocketAddr,
    udp: UdpSocket,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsServer {
    /// Listens on a free port of 127.0.0.1, UDP and TCP.
    pub fn start() -> Self {
        let (udp, tcp) = (0..64)
            .find_map(|_| {
                let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let udp = UdpSocket::bind(tcp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .expect("a port that is free for both");
        let addr = udp.local_addr().unwrap();
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), stop: AtomicBool::new(false) });
        let threads = vec![
            std::thread::spawn({
                let (udp, shared) = (udp.try_clone().unwrap(), shared.clone());
                move || serve_udp(&udp, &shared)
            }),
            std::thread::spawn({
                let shared = shared.clone();
                move || serve_tcp(&tcp, &shared)
            }),
        ];
        Self { addr, udp, shared, threads }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Replies to queries for `kind` of `name`, one after the other; the last one stays.
    pub fn script(&self, name: &str, kind: Kind, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().unwrap().scripts.insert((name.to_owned(), kind), replies.into_iter().collect());
    }

    /// `name` has these addresses from now on, TTL 60; the type without any answers empty.
    pub fn host(&self, name: &str, addrs: &[&str]) {
        let all: Vec<IpAddr> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        let of = |v6: bool| {
            Reply::records(all.iter().filter(|addr| addr.is_ipv6() == v6).map(|addr| Record {
                owner: name.to_owned(),
                ttl: 60,
                data: Data::Addr(*addr),
            }))
        };
        self.script(name, Kind::A, [of(false)]);
        self.script(name, Kind::Aaaa, [of(true)]);
    }

    /// How often `name` was asked for, all types and repeated packets included.
    pub fn queries(&self, name: &str) -> usize {
        self.shared.state.lock().unwrap().asked.iter().filter(|(asked, _)| asked == name).count()
    }

    pub fn queries_of(&self, name: &str, kind: Kind) -> usize {
        let wanted = (name.to_owned(), kind);
        self.shared.state.lock().unwrap().asked.iter().filter(|asked| **asked == wanted).count()
    }

    /// Everything that was asked, in order.
    pub fn asked(&self) -> Vec<(String, Kind)> {
        self.shared.state.lock().unwrap().asked.clone()
    }

    pub fn asked_by_tcp(&self) -> usize {
        self.shared.state.lock().unwrap().asked_by_tcp
    }

    /// Waits until `name` was asked for at least `times` times.
    pub fn wait_for(&self, name: &str, times: usize) {
        let mut state = self.shared.state.lock().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while state.asked.iter().filter(|(asked, _)| asked == name).count() < times {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "`{name}` was not asked for {times} times: {:?}", state.asked);
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Sends what was held back, and holds nothing back any more.
    pub fn release(&self) {
        let held = {
            let mut state = self.shared.state.lock().unwrap();
            state.released = true;
            std::mem::take(&mut state.held)
        };
        for (message, to) in held {
            self.udp.send_to(&message, to).unwrap();
        }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; the others look at `stop` every tick.
        let _ = TcpStream::connect(self.addr);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    socket.set_read_timeout(Some(TICK)).unwrap();
    let mut buffer = [0; 4096];
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some(query) = Query::parse(&buffer[..len]) else { continue };
        let reply = next_reply(shared, &query, false);
        if let Some(addr) = reply.forged {
            let forged = Reply::records([Record { owner: query.name.clone(), ttl: 60, data: Data::Addr(addr) }]);
            let mut wrong_id = query.answer(&forged, false);
            wrong_id[0] ^= 0x5a;
            socket.send_to(&wrong_id, from).unwrap();
            let elsewhere = Query { question: question("forged.example", query.kind), ..query.clone() };
            socket.send_to(&elsewhere.answer(&forged, false), from).unwrap();
        }
        let message = query.answer(&reply, true);
        let mut state = shared.state.lock().unwrap();
        if reply.held && !state.released {
            state.held.push((message, from));
        } else if !reply.silent {
            let _ = socket.send_to(&message, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let shared = shared.clone();
        connections.push(std::thread::spawn(move || serve_stream(stream, &shared)));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn serve_stream(mut stream: TcpStream, shared: &Shared) {
    stream.set_read_timeout(Some(TICK)).unwrap();
    let mut input = Vec::new();
    let mut buffer = [0; 4096];
    while !shared.stop.load(Ordering::SeqCst) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => input.extend_from_slice(&buffer[..len]),
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        }
        while let Some(len) = input.first_chunk().map(|prefix| usize::from(u16::from_be_bytes(*prefix))) {
            if input.len() < 2 + len {
                break;
            }
            let message: Vec<u8> = input.drain(..2 + len).skip(2).collect();
            let Some(query) = Query::parse(&message) else { return };
            let reply = next_reply(shared, &query, true);
            if !reply.silent {
                let answer = query.answer(&reply, false);
                let prefix = u16::try_from(answer.len()).unwrap().to_be_bytes();
                if stream.write_all(&[&prefix, answer.as_slice()].concat()).is_err() {
                    return;
                }
            }
        }
    }
}

fn next_reply(shared: &Shared, query: &Query, by_tcp: bool) -> Reply {
    let mut state = shared.state.lock().unwrap();
    state.asked.push((query.name.clone(), query.kind));
    state.asked_by_tcp += usize::from(by_tcp);
    let reply = match state.scripts.get_mut(&(query.name.clone(), query.kind)) {
        Some(replies) if replies.len() > 1 => replies.pop_front().unwrap(),
        Some(replies) => replies.front().cloned().unwrap_or_else(Reply::empty),
        None => Reply::nxdomain(),
    };
    shared.changed.notify_all();
    reply
}

#[derive(Clone)]
struct Query {
    id: [u8; 2],
    /// Lower case, without the final dot.
    name: String,
    kind: Kind,
    /// Name, type and class as they came.
    question: Vec<u8>,
}

impl Query {
    fn parse(message: &[u8]) -> Option<Self> {
        let (header, rest) = message.split_at_checked(12)?;
        let mut labels = Vec::new();
        let mut at = 0;
        loop {
            let len = usize::from(*rest.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            labels.push(String::from_utf8(rest.get(at..at + len)?.to_ascii_lowercase()).ok()?);
            at += len;
        }
        let kind = match u16::from_be_bytes(*rest.get(at..)?.first_chunk()?) {
            1 => Kind::A,
            28 => Kind::Aaaa,
            other => Kind::Other(other),
        };
        let question = rest.get(..at + 4)?.to_vec();
        Some(Self { id: [header[0], header[1]], name: labels.join("."), kind, question })
    }

    fn answer(&self, reply: &Reply, by_udp: bool) -> Vec<u8> {
        let cut = reply.truncated && by_udp;
        let mut message = self.id.to_vec();
        if reply.garbage {
            message.extend([0xff; 9]);
            return message;
        }
        let (answers, additional) = if cut { (&[][..], &[][..]) } else { (&reply.answers[..], &reply.additional[..]) };
        let count = |records: &[Record]| u16::try_from(records.len()).unwrap().to_be_bytes();
        message.extend([0x81 | if cut { 0x02 } else { 0 }, 0x80 | reply.code]);
        message.extend([0, 1]);
        message.extend(count(answers));
        message.extend([0, 0]);
        message.extend(count(additional));
        if reply.lower_case {
            message.extend(self.question.to_ascii_lowercase());
        } else {
            message.extend(&self.question);
        }
        for record in answers.iter().chain(additional) {
            encode(record, &mut message);
        }
        message
    }
}

fn question(name: &str, kind: Kind) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_name(name, &mut bytes);
    let kind = match kind {
        Kind::A => 1,
        Kind::Aaaa => 28,
        Kind::Other(other) => other,
    };
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn encode(record: &Record, out: &mut Vec<u8>) {
    encode_name(&record.owner, out);
    let (kind, data) = match &record.data {
        Data::Addr(IpAddr::V4(addr)) => (1_u16, addr.octets().to_vec()),
        Data::Addr(IpAddr::V6(addr)) => (28, addr.octets().to_vec()),
        Data::Cname(target) => {
            let mut bytes = Vec::new();
            encode_name(target, &mut bytes);
            (5, bytes)
        }
    };
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out.extend(record.ttl.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
}

fn encode_name(name: &str, out: &mut Vec<u8>) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
}
