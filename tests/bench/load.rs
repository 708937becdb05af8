//! The client: one operation after another on each of a few connections, until the sample's time is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::origin::{self, Origin, SEND_ME, TAKE_THIS};

/// A bulk transfer is made of such pieces, so that a timed sample can end between two.
const PIECE_BYTES: u64 = 25_000_000;
/// A bulk sample moves at most this: one gigabyte.
const BULK_BYTES: u64 = 1_000_000_000;
/// Longest answer head and body that the client takes; squid's denial page is some 4 KiB.
const ANSWER_BYTES: usize = 32 << 10;

/// How a subject is reached, and by which names it knows the destinations.
#[derive(Debug, Clone)]
pub(crate) struct Road {
    pub(crate) proxy: SocketAddr,
    /// Value of `Proxy-Authorization`.
    pub(crate) credentials: Option<String>,
    /// Allowed for anything.
    pub(crate) origin_host: &'static str,
    /// Allowed for TLS, where the subject tells the difference.
    pub(crate) tls_host: &'static str,
    pub(crate) denied_host: &'static str,
}

/// One operation of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Tunnel,
    TlsTunnel,
    Request,
    BulkDown,
    BulkUp,
    Denial,
    KeptDenial,
}

/// What a sample's load did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Done {
    /// Operations, or for bulk bytes.
    pub(crate) count: u64,
    /// Connections that the subject closed where it could have kept them.
    pub(crate) reconnects: u64,
}

/// Repeats `operation` through `road` on `concurrency` connections until `end`.
pub(crate) async fn run(road: &Road, operation: Operation, concurrency: usize, end: Instant) -> anyhow::Result<Done> {
    let origin = Origin::start().await?;
    let client = Arc::new(Client::new(road.clone(), origin.port)?);
    let mut tasks = JoinSet::new();
    let bulk = matches!(operation, Operation::BulkDown | Operation::BulkUp);
    for _ in 0..if bulk { 1 } else { concurrency } {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            match operation {
                Operation::Tunnel => client.tunnels(end, false).await,
                Operation::TlsTunnel => client.tunnels(end, true).await,
                Operation::Request => client.requests(end).await,
                Operation::BulkDown => client.bulk(end, SEND_ME).await,
                Operation::BulkUp => client.bulk(end, TAKE_THIS).await,
                Operation::Denial => client.denials(end, false).await,
                Operation::KeptDenial => client.denials(end, true).await,
            }
        });
    }
    let mut sum = Done::default();
    while let Some(done) = tasks.join_next().await {
        let done = done??;
        sum.count += done.count;
        sum.reconnects += done.reconnects;
    }
    ensure!(sum.count > 0, "no operation was done in the sample's time");
    Ok(sum)
}

/// Opens `count` tunnels, moves a few bytes through each, and hands them over open.
pub(crate) async fn idle_tunnels(road: &Road, origin: &Origin, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let client = Client::new(road.clone(), origin.port)?;
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = client.open(&client.connect).await?;
        exchange(&mut stream, PING).await?;
        open.push(stream);
    }
    Ok(open)
}

/// What goes through a tunnel and back.
const PING: &[u8] = b"thirty-two bytes there and back.";

/// Every request as bytes, made once.
struct Client {
    proxy: SocketAddr,
    connect: String,
    tls_connect: String,
    hello: Vec<u8>,
    get: String,
    denied: String,
}

impl Client {
    fn new(road: Road, port: u16) -> anyhow::Result<Self> {
        let credentials = match &road.credentials {
            Some(value) => format!("Proxy-Authorization: {value}\r\n"),
            None => String::new(),
        };
        let connect = |host: &str, port: u16| {
            format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credentials}User-Agent: bench\r\n\r\n")
        };
        let host = road.origin_host;
        Ok(Self {
            proxy: road.proxy,
            connect: connect(host, port),
            tls_connect: connect(road.tls_host, port),
            hello: origin::client_hello("tls.bench.test")?,
            get: format!(
                "GET http://{host}:{port}/small HTTP/1.1\r\nHost: {host}:{port}\r\n{credentials}User-Agent: bench\r\nAccept: */*\r\n\r\n"
            ),
            denied: connect(road.denied_host, 443),
        })
    }

    async fn open(&self, connect: &str) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.proxy).await?;
        stream.write_all(connect.as_bytes()).await?;
        let answer = Answer::read(&mut stream, true).await?;
        ensure!(answer.status == 200, "CONNECT was answered {}", answer.status);
        Ok(stream)
    }

    async fn tunnels(&self, end: Instant, tls: bool) -> anyhow::Result<Done> {
        let (connect, payload) = if tls { (&self.tls_connect, self.hello.as_slice()) } else { (&self.connect, PING) };
        let mut done = Done::default();
        while Instant::now() < end {
            let mut stream = self.open(connect).await?;
            exchange(&mut stream, payload).await?;
            close(stream).await?;
            done.count += 1;
        }
        Ok(done)
    }

    async fn requests(&self, end: Instant) -> anyhow::Result<Done> {
        let mut kept = Kept::new(self.proxy);
        while Instant::now() < end {
            let status = kept.ask(&self.get).await?;
            ensure!(status == 200, "GET was answered {status}");
        }
        Ok(kept.done)
    }

    async fn denials(&self, end: Instant, keep: bool) -> anyhow::Result<Done> {
        let mut kept = Kept::new(self.proxy);
        while Instant::now() < end {
            let status = kept.ask(&self.denied).await?;
            ensure!(status == 403, "the denied host was answered {status}");
            if !keep && let Some(stream) = kept.stream.take() {
                close(stream).await?;
            }
        }
        Ok(kept.done)
    }

    async fn bulk(&self, end: Instant, wish: u8) -> anyhow::Result<Done> {
        let mut stream = self.open(&self.connect).await?;
        let mut block = vec![0x5a; 256 << 10];
        let mut done = Done::default();
        while Instant::now() < end && done.count < BULK_BYTES {
            stream.write_u8(wish).await?;
            stream.write_u64(PIECE_BYTES).await?;
            if wish == SEND_ME {
                origin::receive(&mut stream, &mut block, PIECE_BYTES).await?;
            } else {
                origin::send(&mut stream, &block, PIECE_BYTES).await?;
                stream.read_u8().await?;
            }
            done.count += PIECE_BYTES;
        }
        Ok(done)
    }
}

async fn exchange(stream: &mut TcpStream, payload: &[u8]) -> anyhow::Result<()> {
    stream.write_all(payload).await?;
    let mut back = vec![0; payload.len()];
    stream.read_exact(&mut back).await.context("the tunnel ended before the echo")?;
    ensure!(back == payload, "the echo is not what was sent");
    Ok(())
}

/// Ends our side and waits for the other's, so that the whole life of the tunnel lies in the sample.
async fn close(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 64];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A connection kept from one request to the next for as long as the subject keeps it.
struct Kept {
    proxy: SocketAddr,
    stream: Option<TcpStream>,
    done: Done,
}

impl Kept {
    fn new(proxy: SocketAddr) -> Self {
        Self { proxy, stream: None, done: Done::default() }
    }

    async fn ask(&mut self, request: &str) -> anyhow::Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.proxy).await?,
        };
        stream.write_all(request.as_bytes()).await?;
        let answer = Answer::read(&mut stream, false).await?;
        self.done.count += 1;
        if answer.keeps {
            self.stream = Some(stream);
        } else {
            self.done.reconnects += 1;
        }
        Ok(answer.status)
    }
}

/// An answer, read whole.
struct Answer {
    status: u16,
    keeps: bool,
}

impl Answer {
    /// Reads one answer; that to a successful CONNECT has no body.
    async fn read(stream: &mut TcpStream, to_connect: bool) -> anyhow::Result<Self> {
        let mut buffer = vec![0; 4096];
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                ensure!(filled < ANSWER_BYTES, "the answer is longer than {ANSWER_BYTES} bytes");
                buffer.resize(filled * 2, 0);
            }
            let length = stream.read(&mut buffer[filled..]).await?;
            ensure!(length > 0, "the connection ended within an answer");
            filled += length;
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Response::new(&mut fields);
            let httparse::Status::Complete(head_bytes) = head.parse(&buffer[..filled])? else { continue };
            let status = head.code.context("no status")?;
            let field = |name: &str| {
                let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                found.and_then(|field| std::str::from_utf8(field.value).ok())
            };
            let body_bytes = match field("content-length") {
                _ if to_connect && status == 200 => 0,
                Some(length) => length.parse::<usize>()?,
                None => anyhow::bail!("an answer {status} without Content-Length"),
            };
            if filled >= head_bytes + body_bytes {
                let keeps = !field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                return Ok(Self { status, keeps });
            }
        }
    }
}
