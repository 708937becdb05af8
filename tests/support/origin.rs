//! The other end: servers that record every byte and answer as they are told.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::{PATIENCE, dechunk, readable};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Number of the connection, from zero.
    pub connection: usize,
    /// Request line and fields, the empty line included.
    pub head: String,
    /// The body, decoded if it came in chunks.
    pub body: Vec<u8>,
    /// Lines behind the last chunk.
    pub trailers: Vec<String>,
}

impl Seen {
    pub fn request_line(&self) -> &str {
        self.head.lines().next().unwrap_or("")
    }

    /// The values of a field, its name in any case.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let of = |line: &'_ str| -> Option<(usize, usize)> {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some((field.len() + 1, value.len()))
        };
        self.head.lines().filter_map(|line| of(line).map(|(from, _)| line[from..].trim())).collect()
    }
}

/// What a route does with a request.
#[derive(Debug, Clone, Default)]
pub struct Script {
    steps: Vec<Step>,
    /// Whether the body is read before the first step.
    read_body: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    ReadBody,
    /// Waits until [`Origin::open_gate`].
    Gate,
    HalfClose,
    Reset,
    Close,
    /// Sends back what comes until the end.
    Echo,
    /// Reads to the end, then sends this and ends.
    AfterEnd(Vec<u8>),
    /// Reads to the end without a word.
    Hold,
}

impl Script {
    /// Reads the request's body, then sends these bytes and keeps the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { steps: vec![Step::Send(bytes.into())], read_body: true }
    }

    /// A `200` with this body.
    pub fn ok(body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// Sends these bytes without reading the body.
    pub fn early(bytes: impl Into<Vec<u8>>) -> Self {
        Self { steps: vec![Step::Send(bytes.into())], read_body: false }
    }

    /// Does nothing yet; does not read the body.
    pub fn quiet() -> Self {
        Self::default()
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    #[must_use]
    pub fn then_send(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Send(bytes.into()))
    }

    #[must_use]
    pub fn then_read_body(self) -> Self {
        self.then(Step::ReadBody)
    }

    /// Waits until the test says so.
    #[must_use]
    pub fn then_wait(self) -> Self {
        self.then(Step::Gate)
    }

    #[must_use]
    pub fn then_half_close(self) -> Self {
        self.then(Step::HalfClose)
    }

    #[must_use]
    pub fn then_reset(self) -> Self {
        self.then(Step::Reset)
    }

    #[must_use]
    pub fn then_close(self) -> Self {
        self.then(Step::Close)
    }

    #[must_use]
    pub fn then_echo(self) -> Self {
        self.then(Step::Echo)
    }

    #[must_use]
    pub fn after_end(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::AfterEnd(bytes.into()))
    }

    #[must_use]
    pub fn then_hold(self) -> Self {
        self.then(Step::Hold)
    }
}

#[derive(Default)]
struct State {
    routes: HashMap<String, Script>,
    seen: Vec<Seen>,
    /// Every byte, in the order it came.
    raw: Vec<u8>,
    connections: usize,
    ended: usize,
    /// Scripts that ran to their end.
    performed: usize,
    open: Vec<TcpStream>,
    gate: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        out
    }

    fn wait(&self, what: &str, ready: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap();
        while !ready(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}; the origin saw {}", readable(&state.raw));
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// How an origin treats each connection.
enum Manner {
    Http,
    HttpOverTls(Arc<ServerConfig>),
    Raw(Script),
}

/// A server on loopback; it stops when dropped.
pub struct Origin {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Origin {
    /// HTTP/1.1: answers each path as scripted, others with `200` and the request line.
    pub fn http() -> Self {
        Self::http_at(Ipv4Addr::LOCALHOST.into())
    }

    /// The same on another address of loopback.
    pub fn http_at(ip: IpAddr) -> Self {
        Self::bind(SocketAddr::new(ip, 0), Manner::Http)
    }

    /// The same on a given port.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn try_http_at(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self::serve(TcpListener::bind(addr)?, Manner::Http))
    }

    /// HTTP/1.1 inside TLS.
    pub fn https(config: Arc<ServerConfig>) -> Self {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into(), Manner::HttpOverTls(config))
    }

    /// Runs `script` on each connection as it is, without HTTP.
    pub fn raw(script: Script) -> Self {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into(), Manner::Raw(script))
    }

    /// Sends back what comes.
    pub fn echo() -> Self {
        Self::raw(Script::quiet().then_echo())
    }

    fn bind(addr: SocketAddr, manner: Manner) -> Self {
        Self::serve(TcpListener::bind(addr).unwrap(), manner)
    }

    fn serve(listener: TcpListener, manner: Manner) -> Self {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared, &Arc::new(manner))
        });
        Self { addr, shared, acceptor: Some(acceptor) }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Answers requests for `path` so, from now on.
    pub fn on(&self, path: &str, script: Script) {
        self.shared.update(|state| state.routes.insert(path.to_owned(), script));
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    /// The only request whose target is `path`.
    pub fn seen_at(&self, path: &str) -> Seen {
        let wanted = |seen: &Seen| seen.request_line().split(' ').nth(1) == Some(path);
        self.shared.wait(path, |state| state.seen.iter().any(wanted));
        self.seen().into_iter().find(wanted).expect("waited for")
    }

    /// Waits until `count` requests have come.
    pub fn wait_for_requests(&self, count: usize) {
        self.shared.wait("requests", |state| state.seen.len() >= count);
    }

    /// Every byte so far, of all connections.
    pub fn raw_bytes(&self) -> Vec<u8> {
        self.shared.state.lock().unwrap().raw.clone()
    }

    /// Waits until so many bytes came in all.
    pub fn wait_for_bytes(&self, count: usize) {
        self.shared.wait("bytes", |state| state.raw.len() >= count);
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.state.lock().unwrap().connections
    }

    /// Waits until so many connections were accepted.
    pub fn wait_for_connections(&self, count: usize) {
        self.shared.wait("connections", |state| state.connections >= count);
    }

    /// Waits until so many connections have ended.
    pub fn wait_for_ended(&self, count: usize) {
        self.shared.wait("connections to end", |state| state.ended >= count);
    }

    /// Waits until so many requests were answered to the last byte of their scripts.
    pub fn wait_for_performed(&self, count: usize) {
        self.shared.wait("scripts", |state| state.performed >= count);
    }

    /// Lets every script pass its [`Script::then_wait`].
    pub fn open_gate(&self) {
        self.shared.update(|state| state.gate = true);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.update(|state| {
            state.gate = true;
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, manner: &Arc<Manner>) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let number = shared.update(|state| {
            state.open.push(stream.try_clone().unwrap());
            state.connections += 1;
            state.connections - 1
        });
        let (shared, manner) = (Arc::clone(shared), Arc::clone(manner));
        connections.push(std::thread::spawn(move || {
            // A client that goes away ends the connection, which is all that is wanted.
            let _ = converse(stream, number, &shared, &manner);
            shared.update(|state| state.ended += 1);
        }));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn converse(stream: TcpStream, number: usize, shared: &Shared, manner: &Manner) -> io::Result<()> {
    let socket = stream.try_clone()?;
    let mut line = Line { stream: Flow::Plain(stream), socket, inbox: Vec::new(), shared, number, aborted: false };
    let outcome = match manner {
        Manner::Raw(script) => line.perform(script, None).map(|_| ()),
        Manner::Http => line.http(),
        Manner::HttpOverTls(config) => {
            let Flow::Plain(stream) = line.stream else { unreachable!("just made") };
            let connection = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
            line.stream = Flow::Tls(Box::new(rustls::StreamOwned::new(connection, stream)));
            line.http()
        }
    };
    if !line.aborted {
        // The clone in the shared state would keep the connection open.
        let _ = line.socket.shutdown(Shutdown::Both);
    }
    outcome
}

enum Flow {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

/// One connection.
struct Line<'a> {
    stream: Flow,
    socket: TcpStream,
    inbox: Vec<u8>,
    shared: &'a Shared,
    number: usize,
    /// Whether it is to end with RST.
    aborted: bool,
}

impl Line<'_> {
    fn read(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 << 10];
        let count = match &mut self.stream {
            Flow::Plain(stream) => stream.read(&mut chunk)?,
            Flow::Tls(stream) => stream.read(&mut chunk)?,
        };
        self.inbox.extend_from_slice(&chunk[..count]);
        self.shared.update(|state| state.raw.extend_from_slice(&chunk[..count]));
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Flow::Plain(stream) => stream.write_all(bytes),
            Flow::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Requests, one after the other, until the client ends.
    fn http(&mut self) -> io::Result<()> {
        loop {
            let end = loop {
                if let Some(at) = self.inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                if self.read()? == 0 {
                    return Ok(());
                }
            };
            let head = String::from_utf8_lossy(&self.inbox[..end]).into_owned();
            self.inbox.drain(..end);
            let seen = Seen { connection: self.number, head, body: Vec::new(), trailers: Vec::new() };
            let path = seen.request_line().split(' ').nth(1).unwrap_or("").to_owned();
            let index = self.shared.update(|state| {
                state.seen.push(seen.clone());
                state.seen.len() - 1
            });
            let script = self.shared.state.lock().unwrap().routes.get(&path).cloned();
            let script = script.unwrap_or_else(|| Script::ok(seen.request_line()));
            let outcome = self.perform(&script, Some((index, &seen)));
            self.shared.update(|state| state.performed += 1);
            if !outcome? {
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    fn perform(&mut self, script: &Script, request: Option<(usize, &Seen)>) -> io::Result<bool> {
        if let (Some((index, seen)), true) = (request, script.read_body) {
            self.read_body(index, seen)?;
        }
        for step in &script.steps {
            match step {
                Step::Send(bytes) => self.send(bytes)?,
                Step::ReadBody => {
                    if let Some((index, seen)) = request {
                        self.read_body(index, seen)?;
                    }
                }
                Step::Gate => self.shared.wait("the gate", |state| state.gate),
                Step::HalfClose => self.socket.shutdown(Shutdown::Write)?,
                Step::Reset => {
                    socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO))?;
                    // The RST leaves when the last clone goes.
                    let peer = self.socket.peer_addr()?;
                    self.shared.update(|state| state.open.retain(|open| open.peer_addr().ok() != Some(peer)));
                    self.aborted = true;
                    return Ok(false);
                }
                Step::Close => return Ok(false),
                Step::Echo => loop {
                    let bytes = std::mem::take(&mut self.inbox);
                    if !bytes.is_empty() {
                        self.send(&bytes)?;
                    }
                    if self.read()? == 0 {
                        return Ok(false);
                    }
                },
                Step::AfterEnd(bytes) => {
                    while self.read()? > 0 {}
                    self.send(bytes)?;
                    return Ok(false);
                }
                Step::Hold => {
                    while self.read()? > 0 {}
                    return Ok(false);
                }
            }
        }
        Ok(request.is_some())
    }

    fn read_body(&mut self, index: usize, seen: &Seen) -> io::Result<()> {
        let chunked = !seen.fields("transfer-encoding").is_empty();
        let length = seen.fields("content-length").first().and_then(|value| value.parse::<usize>().ok());
        let (body, trailers, used) = if chunked {
            loop {
                if let Some(whole) = dechunk(&self.inbox) {
                    break whole;
                }
                if self.read()? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        } else {
            let length = length.unwrap_or(0);
            while self.inbox.len() < length {
                if self.read()? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            (self.inbox[..length].to_vec(), Vec::new(), length)
        };
        self.inbox.drain(..used);
        self.shared.update(|state| {
            state.seen[index].body = body;
            state.seen[index].trailers = trailers;
        });
        Ok(())
    }
}
