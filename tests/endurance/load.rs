//! Load: clients that open tunnels, are denied and exchange requests in a loop, origins that remember who
//! came, and a tally of what each side saw.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Daemon, PATIENCE, Setup};

/// The persona of all load.
pub(crate) const PERSONA: &str = "load";
/// Leads to the echo origin, as `tcp`.
pub(crate) const ECHO_HOST: &str = "echo.test";
/// Leads to the web origin, as `http`.
pub(crate) const WEB_HOST: &str = "web.test";
/// Leads to the echo origin too, and is in no rule.
pub(crate) const DENIED_HOST: &str = "denied.test";

/// One allow rule for a host on loopback.
pub(crate) fn rule(host: &str, scheme: &str) -> String {
    format!(
        "[[allow]]\nhosts = [\"{host}\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [\"1-65535\"]\nschemes = [\"{scheme}\"]\n"
    )
}

/// The rules of [`PERSONA`].
pub(crate) fn rules() -> String {
    [rule(ECHO_HOST, "tcp"), rule(WEB_HOST, "http")].concat()
}

/// A gateway that knows the persona and the hosts.
pub(crate) fn setup() -> Setup {
    [ECHO_HOST, WEB_HOST, DENIED_HOST]
        .iter()
        .fold(Setup::new(), |setup, host| setup.host(host, &["127.0.0.1"]))
        .persona(PERSONA, &rules())
}

/// An origin on loopback and what reached it.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    said: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

/// What an origin does with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Sends back what comes; the first line of each connection is remembered.
    Echo,
    /// Answers each request with its path; the paths are remembered.
    Web,
}

impl Origin {
    pub(crate) fn echo(executor: &Runtime) -> Self {
        Self::start(executor, Manner::Echo)
    }

    pub(crate) fn web(executor: &Runtime) -> Self {
        Self::start(executor, Manner::Web)
    }

    fn start(executor: &Runtime, manner: Manner) -> Self {
        let listener = executor.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let said = Arc::new(Mutex::new(Vec::new()));
        let serving = executor.spawn({
            let (accepted, said) = (Arc::clone(&accepted), Arc::clone(&said));
            async move {
                let mut guests = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    let said = Arc::clone(&said);
                    guests.spawn(async move {
                        // A guest that breaks off is the guest's business.
                        let _ = match manner {
                            Manner::Echo => echo(stream, &said).await,
                            Manner::Web => answer(stream, &said).await,
                        };
                    });
                    while guests.try_join_next().is_some() {}
                }
            }
        });
        Self { addr, accepted, said, serving }
    }

    /// How many connections were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The first line of each connection, or the path of each request.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn echo(mut stream: TcpStream, said: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut buffer = [0; 256];
    let mut first = true;
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if std::mem::take(&mut first) {
            said.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).trim_end().to_owned());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn answer(stream: TcpStream, said: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let head = read_head(&mut stream).await?;
        let Some(path) = head.split(' ').nth(1) else { return Ok(()) };
        said.lock().unwrap().push(path.to_owned());
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}

/// Up to and with the empty line; less at the end of the stream.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while stream.read_line(&mut head).await? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

/// The gateway's answer to a `CONNECT`.
pub(crate) enum Said {
    /// `200`, with the decision and the tunnel.
    Open(u64, TcpStream),
    /// Anything else.
    Refused(Refusal),
}

/// A refusal's status line.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) decision: Option<u64>,
}

impl Refusal {
    fn read(head: &str) -> io::Result<Self> {
        let mut words = head.split(' ').skip(1);
        let status = words.next().and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let code = words.next().unwrap_or_default().trim_end().to_owned();
        Ok(Self { status, code, decision: decision(head) })
    }
}

fn decision(head: &str) -> Option<u64> {
    head.lines().find_map(|line| line.strip_prefix("X-ARW-Decision-Id: ")).and_then(|value| value.parse().ok())
}

/// Asks `proxy` for a tunnel, patiently.
pub(crate) async fn connect(proxy: SocketAddr, host: &str, port: u16) -> io::Result<Said> {
    let asking = async {
        let mut stream = TcpStream::connect(proxy).await?;
        stream.set_nodelay(true)?;
        let credentials = Daemon::credentials(PERSONA);
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credentials}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream).await?;
        if head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n") {
            assert!(stream.buffer().is_empty(), "an echo does not speak first");
            return Ok(Said::Open(decision(&head).expect("a tunnel has a decision"), stream.into_inner()));
        }
        Ok(Said::Refused(Refusal::read(&head)?))
    };
    timeout(PATIENCE, asking).await?
}

/// Sends `line` through an echo and waits for it.
pub(crate) async fn echoes(tunnel: &mut TcpStream, line: &str) -> io::Result<()> {
    let exchange = async {
        tunnel.write_all(line.as_bytes()).await?;
        let mut back = vec![0; line.len()];
        tunnel.read_exact(&mut back).await?;
        assert_eq!(back, line.as_bytes(), "the echo changed");
        Ok(())
    };
    timeout(PATIENCE, exchange).await?
}

/// What the clients saw.
#[derive(Default)]
pub(crate) struct Tally {
    /// Decisions of tunnels that were seen to open.
    pub(crate) opened: Mutex<Vec<u64>>,
    /// Decisions of denials.
    pub(crate) denied: Mutex<Vec<u64>>,
    /// Paths of requests that were answered.
    pub(crate) answered: Mutex<Vec<String>>,
    /// How often the gateway said that its ledger cannot write.
    pub(crate) unavailable: AtomicUsize,
    /// Answers that no test expects.
    pub(crate) surprises: Mutex<Vec<String>>,
    /// Connections that broke.
    pub(crate) broken: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    pub(crate) fn unavailable(&self) -> usize {
        self.unavailable.load(Ordering::SeqCst)
    }

    fn refused(&self, refusal: &Refusal, asked: &str) {
        if (refusal.status, refusal.code.as_str()) == (503, "ledger_unavailable") {
            self.unavailable.fetch_add(1, Ordering::SeqCst);
        } else {
            self.surprises.lock().unwrap().push(format!("{asked}: {refusal:?}"));
        }
    }

    fn broke(&self, fault: &io::Error, asked: &str) {
        self.broken.lock().unwrap().push(format!("{asked}: {fault}"));
    }
}

/// Running clients.
pub(crate) struct Load {
    pub(crate) tally: Arc<Tally>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

/// Where the clients go.
#[derive(Clone, Copy)]
struct Way {
    proxy: SocketAddr,
    echo: u16,
    web: u16,
}

/// How many clients of each sort: more than the cores can serve at once, so that each moment finds some of
/// them in each step.
const TUNNELLERS: usize = 12;
const DENIED: usize = 4;
const READERS: usize = 4;

impl Load {
    /// Starts the clients; they go on until [`Load::stop`].
    pub(crate) fn start(executor: &Runtime, proxy: SocketAddr, echo: &Origin, web: &Origin) -> Self {
        let way = Way { proxy, echo: echo.addr.port(), web: web.addr.port() };
        let (tally, stop) = (Arc::new(Tally::default()), CancellationToken::new());
        let mut clients = JoinSet::new();
        let inside = executor.enter();
        for index in 0..TUNNELLERS + DENIED + READERS {
            let (tally, stop) = (Arc::clone(&tally), stop.clone());
            clients.spawn(async move {
                while !stop.is_cancelled() {
                    match index {
                        0..TUNNELLERS => tunnel(way, &tally).await,
                        TUNNELLERS..READERS_FROM => be_denied(way, &tally).await,
                        _ => read_pages(way, &tally, &stop).await,
                    }
                }
            });
        }
        drop(inside);
        Self { tally, stop, clients }
    }

    /// Lets each client finish what it does.
    pub(crate) fn stop(mut self, executor: &Runtime) -> Arc<Tally> {
        self.stop.cancel();
        executor.block_on(async {
            while let Some(ended) = self.clients.join_next().await {
                ended.unwrap();
            }
        });
        self.tally
    }
}

const READERS_FROM: usize = TUNNELLERS + DENIED;

async fn tunnel(way: Way, tally: &Tally) {
    match connect(way.proxy, ECHO_HOST, way.echo).await {
        Ok(Said::Open(decision, mut stream)) => {
            tally.opened.lock().unwrap().push(decision);
            if let Err(fault) = echoes(&mut stream, &format!("{decision}\n")).await {
                tally.broke(&fault, "an open tunnel");
            }
        }
        Ok(Said::Refused(refusal)) => tally.refused(&refusal, "a tunnel that is allowed"),
        Err(fault) => tally.broke(&fault, "a tunnel that is allowed"),
    }
}

async fn be_denied(way: Way, tally: &Tally) {
    match connect(way.proxy, DENIED_HOST, way.echo).await {
        Ok(Said::Open(decision, _)) => {
            tally.surprises.lock().unwrap().push(format!("decision {decision} let a denied host through"));
        }
        Ok(Said::Refused(Refusal { status: 403, code, decision: Some(decision) })) if code == "not_allowlisted" => {
            tally.denied.lock().unwrap().push(decision);
        }
        Ok(Said::Refused(refusal)) => tally.refused(&refusal, "a tunnel that is denied"),
        Err(fault) => tally.broke(&fault, "a tunnel that is denied"),
    }
}

/// Requests on one kept connection, each for a page of its own, until it ends.
async fn read_pages(way: Way, tally: &Tally, stop: &CancellationToken) {
    static PAGE: AtomicU64 = AtomicU64::new(0);
    let reading = async {
        let mut stream = BufReader::new(TcpStream::connect(way.proxy).await?);
        let credentials = Daemon::credentials(PERSONA);
        while !stop.is_cancelled() {
            let path = format!("/page/{}", PAGE.fetch_add(1, Ordering::Relaxed));
            let host = format!("{WEB_HOST}:{}", way.web);
            let request = format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n");
            let page = async {
                stream.get_mut().write_all(request.as_bytes()).await?;
                let head = read_head(&mut stream).await?;
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let length = length.and_then(|length| length.parse().ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await?;
                io::Result::Ok((head, body))
            };
            let (head, body) = timeout(PATIENCE, page).await??;
            if head.starts_with("HTTP/1.1 200 ") {
                assert_eq!(body, path.as_bytes(), "another page came");
                tally.answered.lock().unwrap().push(path);
            } else {
                tally.refused(&Refusal::read(&head)?, "a page that is allowed");
            }
        }
        io::Result::Ok(())
    };
    if let Err(fault) = reading.await {
        tally.broke(&fault, "a page that is allowed");
    }
}
