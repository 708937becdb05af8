//! Large transfers, both ways at once, with readers that stall and half-closes in both orders: every byte
//! arrives, in its place, and is counted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::load::{ECHO_HOST, PERSONA, WEB_HOST, rules};
use super::support::certificates::Authority;
use super::support::{Daemon, PATIENCE, Setup};
use super::{executor, turn};

/// Length after which the pattern repeats: a prime below a MiB, so that no buffer size divides it.
const PERIOD: usize = 1_048_573;
/// Bytes that a writer offers at once.
const OFFER: usize = 256 << 10;
/// A write that does not move for so long means that every buffer on the way is full. Only how long a
/// reader stalls depends on it.
const FULL: Duration = Duration::from_millis(200);
/// Bytes that a slow reader takes in small sips after its stall.
const SIPPED: u64 = 1 << 20;
/// Bytes that the side which ends second keeps back until it has seen the end of the first.
const LAST_WORDS: u64 = 3 << 20;
/// Size of a transfer where the way matters, not the amount.
const SMALL: u64 = 64 << 20;

/// Size of the large transfer.
fn large() -> u64 {
    std::env::var("ARW_TRIAL_MIB").map_or(1024, |text| text.parse::<u64>().expect("a number of MiB")) << 20
}

/// Endless bytes without a short period, different for each direction.
#[derive(Clone)]
struct Pattern(Arc<Vec<u8>>);

impl Pattern {
    fn new(mut state: u64) -> Self {
        let mut bytes = Vec::with_capacity(PERIOD + 8);
        while bytes.len() < PERIOD {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
        }
        bytes.truncate(PERIOD);
        Self(Arc::new(bytes))
    }

    fn up() -> Self {
        Self::new(1)
    }

    fn down() -> Self {
        Self::new(2)
    }

    /// What stands at `offset`, at most `max` of it.
    fn at(&self, offset: u64, max: usize) -> &[u8] {
        let start = usize::try_from(offset % PERIOD as u64).unwrap();
        &self.0[start..PERIOD.min(start.saturating_add(max))]
    }

    #[track_caller]
    fn check(&self, mut offset: u64, mut got: &[u8]) {
        while !got.is_empty() {
            let expected = self.at(offset, got.len());
            let (head, rest) = got.split_at(expected.len());
            assert!(head == expected, "other bytes came between {offset} and {}", offset + head.len() as u64);
            (offset, got) = (offset + head.len() as u64, rest);
        }
    }
}

/// What the four halves of a transfer tell each other.
#[derive(Default)]
struct Signals {
    /// The writer of this direction found every buffer full.
    up_full: Notify,
    down_full: Notify,
    /// The reader of this direction saw its end.
    up_ended: Notify,
    down_ended: Notify,
}

/// Which side ends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Client,
    Origin,
}

/// Writes `total` bytes of `pattern` and the end. `last_words` waits before the last of them.
async fn send(
    mut to: impl AsyncWrite + Unpin,
    pattern: &Pattern,
    total: u64,
    full: &Notify,
    last_words: Option<&Notify>,
) -> io::Result<()> {
    let keep_until = last_words.map_or(total, |_| total.saturating_sub(LAST_WORDS));
    let mut sent = 0;
    while sent < total {
        if sent == keep_until
            && let Some(ended) = last_words
        {
            to.flush().await?;
            ended.notified().await;
        }
        let until = if sent < keep_until { keep_until } else { total };
        let most = usize::try_from(until - sent).unwrap_or(usize::MAX).min(OFFER);
        let offer = pattern.at(sent, most);
        loop {
            if let Ok(written) = timeout(FULL, to.write(offer)).await {
                sent += written? as u64;
                break;
            }
            full.notify_one();
        }
    }
    // A transfer that fits into the buffers on the way fills none of them.
    full.notify_one();
    to.shutdown().await
}

/// Reads and checks everything to the end: nothing until the writer is stuck, then in sips, then at full speed.
async fn receive(
    mut from: impl AsyncRead + Unpin,
    pattern: &Pattern,
    total: u64,
    full: &Notify,
    ended: &Notify,
) -> io::Result<()> {
    full.notified().await;
    let mut buffer = vec![0; OFFER];
    let mut got = 0;
    loop {
        let most = if got < SIPPED { 1_000 } else { OFFER };
        let count = from.read(&mut buffer[..most]).await?;
        if count == 0 {
            break;
        }
        pattern.check(got, &buffer[..count]);
        got += count as u64;
    }
    assert_eq!(got, total, "the end came in the wrong place");
    ended.notify_one();
    Ok(())
}

/// Asks for a tunnel over `stream`; gives the decision.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, port: u16, credentials: &str) -> io::Result<u64> {
    let request = format!("CONNECT {ECHO_HOST}:{port} HTTP/1.1\r\nHost: {ECHO_HOST}:{port}\r\n{credentials}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // One by one: what follows the head is the tunnel's.
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let decision = head.lines().find_map(|line| line.strip_prefix("X-ARW-Decision-Id: ")).expect("a decision");
    Ok(decision.parse().unwrap())
}

/// Moves `total` bytes each way through a tunnel over `stream` and checks both ends and the ledger.
fn through_tunnel<S>(executor: &Runtime, gateway: &Daemon, mut stream: S, credentials: &str, total: u64, first: First)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let started = std::time::Instant::now();
    let decision = executor.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let signals = Arc::new(Signals::default());
        let origin = tokio::spawn({
            let signals = Arc::clone(&signals);
            async move {
                let (stream, _) = listener.accept().await.unwrap();
                let (read, write) = stream.into_split();
                let (up, down) = (Pattern::up(), Pattern::down());
                let wait = (first == First::Client).then_some(&signals.up_ended);
                tokio::try_join!(
                    receive(read, &up, total, &signals.up_full, &signals.up_ended),
                    send(write, &down, total, &signals.down_full, wait),
                )
                .unwrap();
            }
        });
        let decision = timeout(PATIENCE, open(&mut stream, port, credentials)).await.unwrap().unwrap();
        let (read, write) = tokio::io::split(stream);
        let client = tokio::spawn(async move {
            let (up, down) = (Pattern::up(), Pattern::down());
            let wait = (first == First::Origin).then_some(&signals.down_ended);
            tokio::try_join!(
                receive(read, &down, total, &signals.down_full, &signals.down_ended),
                send(write, &up, total, &signals.up_full, wait),
            )
            .unwrap();
        });
        client.await.unwrap();
        origin.await.unwrap();
        decision
    });
    let close = gateway.wait_for_close(decision);
    assert_eq!((close["bytes_up"].as_u64(), close["bytes_down"].as_u64()), (Some(total), Some(total)), "{close}");
    let reason = if first == First::Client { "client_closed" } else { "upstream_closed" };
    assert_eq!(close["close_reason"], reason, "{close}");
    println!("{} MiB each way, {first:?} first: {:.1} s", total >> 20, started.elapsed().as_secs_f64());
}

fn setup() -> Setup {
    let uid = nix::unistd::getuid();
    Setup::new()
        .host(ECHO_HOST, &["127.0.0.1"])
        .host(WEB_HOST, &["127.0.0.1"])
        .persona(PERSONA, &format!("uids = [{uid}]\n{}", rules()))
}

fn tcp(executor: &Runtime, gateway: &Daemon) -> TcpStream {
    executor.block_on(TcpStream::connect(gateway.proxy)).unwrap()
}

#[test]
fn a_gigabyte_each_way_is_exact_with_stalled_readers_and_half_closes() {
    let _turn = turn();
    let (executor, gateway) = (executor(), Daemon::start(setup()));
    let credentials = Daemon::credentials(PERSONA);
    through_tunnel(&executor, &gateway, tcp(&executor, &gateway), &credentials, large(), First::Client);
    through_tunnel(&executor, &gateway, tcp(&executor, &gateway), &credentials, SMALL, First::Origin);
}

#[test]
fn a_tunnel_over_the_unix_socket_is_exact() {
    let _turn = turn();
    let (executor, gateway) = (executor(), Daemon::start(setup()));
    for first in [First::Client, First::Origin] {
        let stream = executor.block_on(UnixStream::connect(gateway.unix_socket())).unwrap();
        through_tunnel(&executor, &gateway, stream, "", SMALL, first);
    }
}

#[test]
fn a_tunnel_over_the_tls_listener_is_exact() {
    let _turn = turn();
    let authority = Authority::new();
    let (certificate, key) = authority.server(&["gateway.test"]);
    let setup = setup()
        .file("gateway.pem", certificate)
        .file("gateway.key", key)
        .set("proxy.tls.bind", "127.0.0.1:0")
        .set("proxy.tls.certificate", "gateway.pem")
        .set("proxy.tls.key", "gateway.key");
    let (executor, gateway) = (executor(), Daemon::start(setup));
    let connector = TlsConnector::from(authority.trust(None));
    let listener = *gateway.proxies.last().expect("a TLS listener");
    for first in [First::Client, First::Origin] {
        let stream = executor.block_on(async {
            let stream = TcpStream::connect(listener).await.unwrap();
            connector.connect("gateway.test".try_into().unwrap(), stream).await.unwrap()
        });
        through_tunnel(&executor, &gateway, stream, &Daemon::credentials(PERSONA), SMALL, first);
    }
}

/// How a body says where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
}

impl Framing {
    fn field(self, total: u64) -> String {
        match self {
            Self::Length => format!("Content-Length: {total}\r\n"),
            Self::Chunks => "Transfer-Encoding: chunked\r\n".to_owned(),
        }
    }
}

/// Writes a body; chunks have sizes that no buffer has.
async fn send_body(
    to: &mut (impl AsyncWrite + Unpin),
    framing: Framing,
    pattern: &Pattern,
    total: u64,
) -> io::Result<()> {
    let mut sent = 0;
    let mut size = 1;
    while sent < total {
        let most = usize::try_from(total - sent).unwrap_or(usize::MAX).min(if framing == Framing::Length {
            OFFER
        } else {
            size
        });
        let part = pattern.at(sent, most);
        if framing == Framing::Chunks {
            to.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
        }
        to.write_all(part).await?;
        if framing == Framing::Chunks {
            to.write_all(b"\r\n").await?;
        }
        sent += part.len() as u64;
        size = size * 3 % 99_991;
    }
    if framing == Framing::Chunks {
        to.write_all(b"0\r\n\r\n").await?;
    }
    to.flush().await
}

/// Reads a body and checks it.
async fn receive_body<R: AsyncRead + Unpin>(
    from: &mut BufReader<R>,
    framing: Framing,
    pattern: &Pattern,
    total: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; OFFER];
    let mut got = 0;
    loop {
        let mut left = match framing {
            Framing::Length => total,
            Framing::Chunks => {
                let mut line = String::new();
                from.read_line(&mut line).await?;
                u64::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"))
            }
        };
        let is_last = left == 0 || framing == Framing::Length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(if got < SIPPED { 1_000 } else { OFFER });
            let count = from.read(&mut buffer[..most]).await?;
            assert!(count > 0, "the body ended after {got} bytes");
            pattern.check(got, &buffer[..count]);
            (got, left) = (got + count as u64, left - count as u64);
        }
        if framing == Framing::Chunks {
            let mut line = String::new();
            from.read_line(&mut line).await?;
            assert_eq!(line, "\r\n", "behind a chunk");
        }
        if is_last {
            assert_eq!(got, total);
            return Ok(());
        }
    }
}

async fn read_head<R: AsyncRead + Unpin>(from: &mut BufReader<R>) -> io::Result<String> {
    let mut head = String::new();
    while from.read_line(&mut head).await? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

#[test]
fn bodies_of_plain_http_are_exact_in_every_framing() {
    let _turn = turn();
    let (executor, gateway) = (executor(), Daemon::start(setup()));
    for (up_framing, down_framing) in [
        (Framing::Length, Framing::Length),
        (Framing::Chunks, Framing::Chunks),
        (Framing::Length, Framing::Chunks),
        (Framing::Chunks, Framing::Length),
    ] {
        executor.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let origin = tokio::spawn(async move {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let head = read_head(&mut stream).await.unwrap();
                assert!(head.starts_with("POST /exact HTTP/1.1\r\n"), "{head}");
                receive_body(&mut stream, up_framing, &Pattern::up(), SMALL).await.unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\n{}\r\n", down_framing.field(SMALL));
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                send_body(stream.get_mut(), down_framing, &Pattern::down(), SMALL).await.unwrap();
            });
            let (read, mut write) = TcpStream::connect(gateway.proxy).await.unwrap().into_split();
            let request = format!(
                "POST http://{WEB_HOST}:{port}/exact HTTP/1.1\r\nHost: {WEB_HOST}:{port}\r\n{}{}\r\n",
                Daemon::credentials(PERSONA),
                up_framing.field(SMALL)
            );
            write.write_all(request.as_bytes()).await.unwrap();
            send_body(&mut write, up_framing, &Pattern::up(), SMALL).await.unwrap();
            let mut read = BufReader::new(read);
            let head = read_head(&mut read).await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            receive_body(&mut read, down_framing, &Pattern::down(), SMALL).await.unwrap();
            origin.await.unwrap();
        });
    }
    let lines = gateway.ledger_lines();
    let closes: Vec<_> = lines.iter().filter(|line| line["kind"] == "close" && line["host"] == WEB_HOST).collect();
    for close in closes {
        assert!(close["bytes_up"].as_u64() >= Some(SMALL) && close["bytes_down"].as_u64() >= Some(SMALL), "{close}");
        assert_eq!(close["close_reason"], "completed", "{close}");
    }
}
