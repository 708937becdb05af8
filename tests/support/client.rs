//! A client that sends exactly the bytes it is given and reads answers strictly.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::{PATIENCE, dechunk, readable};

/// `Basic` credentials.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `Bearer` credentials.
pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A connection to the gateway, or through it.
pub struct Client {
    stream: Stream,
    inbox: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Stream>>),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Stream {
    fn bottom(&self) -> Bottom<'_> {
        match self {
            Self::Tcp(stream) => Bottom::Tcp(stream),
            Self::Unix(stream) => Bottom::Unix(stream),
            Self::Tls(stream) => stream.sock.bottom(),
        }
    }
}

enum Bottom<'a> {
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

/// How the other side ended the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With FIN (and `close_notify` inside TLS).
    Clean,
    /// With RST, or without `close_notify` inside TLS.
    Abort,
}

/// Why no whole answer came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The stream ended before the first byte.
    Nothing(End),
    /// It ended in the middle; these bytes had come.
    Cut(End, Vec<u8>),
    /// It stayed silent.
    Silent(Vec<u8>),
    /// It is not HTTP.
    Garbage(Vec<u8>),
}

/// One whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// Names in lower case, in order.
    pub fields: Vec<(String, String)>,
    /// Decoded if it came in chunks.
    pub body: Vec<u8>,
    /// Trailer lines as they came.
    pub trailers: Vec<String>,
    /// Status line and fields as they came.
    pub head: String,
}

impl Answer {
    /// The value of the first field with this name, lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub fn fields(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The problem document of a refusal.
    pub fn problem(&self) -> serde_json::Value {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{}{}", self.head, self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|fault| panic!("{fault}: {}", self.text()))
    }

    /// The refusal's code; empty when this is not a refusal of the gateway.
    pub fn code(&self) -> String {
        if self.field("content-type") != Some("application/problem+json") {
            return String::new();
        }
        self.problem()["code"].as_str().unwrap_or("").to_owned()
    }

    /// The ledger's sequence number that the answer names.
    pub fn decision(&self) -> u64 {
        let value = self.field("x-arw-decision-id").unwrap_or_else(|| panic!("no decision: {}", self.head));
        value.parse().unwrap()
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap_or_else(|fault| panic!("{addr}: {fault}"));
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: Stream::Tcp(stream), inbox: Vec::new() }
    }

    pub fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: Stream::Unix(stream), inbox: Vec::new() }
    }

    /// TLS over this connection; the handshake is completed.
    ///
    /// # Errors
    /// What the handshake failed with.
    pub fn try_tls(self, config: Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        assert!(self.inbox.is_empty(), "bytes before the handshake: {}", readable(&self.inbox));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = rustls::ClientConnection::new(config, name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, self.stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream: Stream::Tls(Box::new(stream)), inbox: Vec::new() })
    }

    /// TLS over this connection.
    pub fn tls(self, config: Arc<ClientConfig>, name: &str) -> Self {
        self.try_tls(config, name).unwrap_or_else(|fault| panic!("TLS with {name}: {fault}"))
    }

    /// Sends all of `bytes` at once.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    /// # Errors
    /// When the other side is gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Sends `bytes` in writes of `size`, each a segment of its own.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn send_in_pieces(&mut self, bytes: &[u8], size: usize) -> io::Result<()> {
        bytes.chunks(size).try_for_each(|piece| self.try_send(piece))
    }

    /// Ends the sending direction.
    pub fn half_close(&mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.conn.complete_io(&mut stream.sock);
            return;
        }
        match self.stream.bottom() {
            Bottom::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Bottom::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
        // Gone already is ended too.
        .unwrap_or_default();
    }

    /// Ends it with RST.
    pub fn abort(self) {
        if let Bottom::Tcp(stream) = self.stream.bottom() {
            socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
    }

    /// Makes reads wait for at most `limit`.
    pub fn read_limit(&self, limit: std::time::Duration) {
        match self.stream.bottom() {
            Bottom::Tcp(stream) => stream.set_read_timeout(Some(limit)).unwrap(),
            Bottom::Unix(stream) => stream.set_read_timeout(Some(limit)).unwrap(),
        }
    }

    /// Own address of a TCP connection.
    pub fn local_addr(&self) -> SocketAddr {
        match self.stream.bottom() {
            Bottom::Tcp(stream) => stream.local_addr().unwrap(),
            Bottom::Unix(_) => panic!("a Unix socket has no port"),
        }
    }

    /// Sends a `CONNECT` and reads its answer.
    pub fn connect_to(&mut self, target: &str, fields: &str) -> Answer {
        self.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n"));
        self.answer_to("CONNECT")
    }

    /// Sends a `GET` in absolute form and reads its answer.
    pub fn get(&mut self, url: &str, fields: &str) -> Answer {
        let authority = url.strip_prefix("http://").unwrap_or(url);
        let host = authority.split(['/', '?']).next().unwrap();
        self.send(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        self.answer_to("GET")
    }

    /// Reads one answer to a request that has one with a body.
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// Reads one answer to a request with `method`.
    ///
    /// # Panics
    /// When it does not come whole.
    pub fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer_to(method).unwrap_or_else(|fault| panic!("no answer to {method}: {}", fault.readable()))
    }

    /// Reads one answer to a request with `method`; an interim one counts as one.
    ///
    /// # Errors
    /// [`Fault`] says how it ended.
    pub fn try_answer_to(&mut self, method: &str) -> Result<Answer, Fault> {
        let end = loop {
            if let Some(at) = self.inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let head = self.inbox[..end].to_vec();
        let garbage = || Fault::Garbage(head.clone());
        let text = String::from_utf8(head.clone()).map_err(|_| garbage())?;
        let mut lines = text.split("\r\n");
        let mut status_line = lines.next().unwrap_or("").splitn(3, ' ');
        if !matches!(status_line.next(), Some("HTTP/1.1" | "HTTP/1.0")) {
            return Err(garbage());
        }
        let status: u16 = status_line.next().and_then(|code| code.parse().ok()).ok_or_else(garbage)?;
        let reason = status_line.next().unwrap_or("").to_owned();
        let mut fields = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(garbage)?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, reason, fields, body: Vec::new(), trailers: Vec::new(), head: text };
        let tunnel = method == "CONNECT" && (200..300).contains(&status);
        let bodiless = method == "HEAD" || status < 200 || matches!(status, 204 | 304) || tunnel;
        if bodiless {
            self.inbox.drain(..end);
            return Ok(answer);
        }
        if answer.field("transfer-encoding").is_some() {
            let (body, trailers, length) = loop {
                if let Some(read) = dechunk(&self.inbox[end..]) {
                    break read;
                }
                self.fill()?;
            };
            answer.body = body;
            answer.trailers = trailers;
            self.inbox.drain(..end + length);
        } else if let Some(length) = answer.field("content-length") {
            let length: usize = length.parse().map_err(|_| garbage())?;
            while self.inbox.len() < end + length {
                self.fill()?;
            }
            answer.body = self.inbox[end..end + length].to_vec();
            self.inbox.drain(..end + length);
        } else {
            loop {
                match self.fill() {
                    Ok(()) => {}
                    Err(Fault::Cut(End::Clean, _)) => break,
                    Err(fault) => return Err(fault),
                }
            }
            answer.body = self.inbox[end..].to_vec();
            self.inbox.clear();
        }
        Ok(answer)
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// [`Fault`] says how it ended.
    pub fn try_read(&mut self, count: usize) -> Result<Vec<u8>, Fault> {
        while self.inbox.len() < count {
            self.fill()?;
        }
        Ok(self.inbox.drain(..count).collect())
    }

    /// Reads exactly `count` bytes.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        self.try_read(count).unwrap_or_else(|fault| panic!("wanted {count} bytes: {}", fault.readable()))
    }

    /// Reads until the other side ends, and says how it did.
    ///
    /// # Panics
    /// When it stays silent.
    pub fn read_to_end(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(Fault::Nothing(end) | Fault::Cut(end, _)) => return (std::mem::take(&mut self.inbox), end),
                Err(fault) => panic!("no end: {}", fault.readable()),
            }
        }
    }

    /// What was read and not used.
    pub fn rest(&self) -> &[u8] {
        &self.inbox
    }

    fn fill(&mut self) -> Result<(), Fault> {
        let mut chunk = [0; 16 << 10];
        let end = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break End::Clean,
                Ok(count) => {
                    self.inbox.extend_from_slice(&chunk[..count]);
                    return Ok(());
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Fault::Silent(self.inbox.clone()));
                }
                Err(_) => break End::Abort,
            }
        };
        if self.inbox.is_empty() { Err(Fault::Nothing(end)) } else { Err(Fault::Cut(end, self.inbox.clone())) }
    }
}

impl Fault {
    pub fn readable(&self) -> String {
        match self {
            Self::Nothing(end) => format!("nothing came ({end:?})"),
            Self::Cut(end, bytes) => format!("cut ({end:?}) after {}", readable(bytes)),
            Self::Silent(bytes) => format!("silence after {}", readable(bytes)),
            Self::Garbage(bytes) => format!("not HTTP: {}", readable(bytes)),
        }
    }
}
