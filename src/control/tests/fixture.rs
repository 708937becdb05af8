//! A daemon's worth of handles, and clients that say exactly what a test wants.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::serve::{Bounds, serve_within};
use super::super::{Base, Client, Command, ControlState, Prepared, Running};
use crate::config::ServerConfig;
use crate::domain::{Clock, SystemClock, TokenHash};
use crate::events::EventBus;
use crate::governance::audit::Audit;
use crate::governance::authority::{Authority, Policy};
use crate::governance::automations;
use crate::governance::leases;
use crate::governance::personas;
use crate::governance::recipes::{self, Recipes};
use crate::governance::switch::{self, KillSwitch};
use crate::governance::{Governance, alerts};
use crate::ledger::Ledger;
use crate::policy::{PolicySettings, Usage, load};
use crate::proxy::{Desk, FlowTable, Gateway, Handle, Latch, Metrics, OwnListeners, Resolver};
use crate::store::{LatchFile, Narrowing, Reserve, Store};

/// The admin token of every fixture that has one.
pub(super) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A running API and everything behind it.
pub(super) struct Fixture {
    pub(super) state: ControlState,
    pub(super) config: ServerConfig,
    pub(super) running: Running,
    pub(super) shutdown: CancellationToken,
    pub(super) commands: mpsc::Receiver<Command>,
    /// The gateway's.
    pub(super) draining: CancellationToken,
    // Last, so that the folder outlives what lies in it.
    _folder: tempfile::TempDir,
}

impl Fixture {
    /// With the admin token.
    pub(super) fn start() -> Self {
        Self::start_with(Bounds::default(), Some(TOKEN))
    }

    pub(super) fn start_with(bounds: Bounds, token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut config = ServerConfig::defaults(folder.path().join("state"), folder.path().join("config"));
        config.control.bind = "127.0.0.1:0".parse().expect("literal");
        config.control.admin_token_sha256 = token.map(|text| TokenHash::of(text.as_bytes()).to_hex());
        let (sender, all) = mpsc::channel(4);
        let commands = answer_listeners(all);
        let draining = CancellationToken::new();
        let state = state(&config, sender, draining.clone());
        let shutdown = CancellationToken::new();
        let running = serve_within(bounds, &config.control, Prepared::default(), state.clone(), shutdown.clone())
            .expect("listens");
        Self { state, config, running, shutdown, commands, draining, _folder: folder }
    }

    /// A client on the Unix socket, where this user is an admin.
    pub(super) fn unix(&self) -> Client {
        Client::new(Base::Unix(self.config.control.unix_socket.clone()), None)
    }

    pub(super) async fn tcp_stream(&self) -> TcpStream {
        TcpStream::connect(self.running.tcp()).await.expect("connects")
    }

    pub(super) async fn unix_stream(&self) -> UnixStream {
        UnixStream::connect(&self.config.control.unix_socket).await.expect("connects")
    }

    /// One request over TCP with exactly these header lines besides `Host` and `Connection: close`.
    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n");
        exchange(self.tcp_stream().await, head.as_bytes()).await
    }

    /// As [`Fixture::ask`], with the admin token.
    pub(super) async fn ask_admin(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let credential = format!("X-ARW-Admin: {TOKEN}");
        let headers: Vec<&str> = headers.iter().copied().chain([credential.as_str()]).collect();
        self.ask(method, path, &headers).await
    }
}

/// One answer, taken apart.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Head lines in lower case.
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }

    /// The `code` of problem details.
    pub(super) fn code(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        self.json()["code"].as_str().expect("a code").to_owned()
    }
}

/// Writes `request` and reads to the end of the stream.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &[u8]) -> Answer {
    // The daemon may refuse before it has read everything.
    let _ = stream.write_all(request).await;
    read_answer(stream).await
}

pub(super) async fn read_answer<S: AsyncRead + Unpin>(mut stream: S) -> Answer {
    let mut bytes = Vec::new();
    // A reset behind the answer (unread request bytes) is no matter.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).expect("answers are text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    Answer { status, head, body }
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        let Some(chunk) = rest.get(..size) else { break };
        out.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    out
}

/// Two personas: `demo` may reach one host, `off` nothing.
fn write_personas(config: &ServerConfig) {
    let folder = config.config_dir.join("personas");
    std::fs::create_dir_all(&folder).expect("made");
    let hash = TokenHash::of(b"a token of the demo persona").to_hex();
    let demo = format!(
        "id = \"demo\"\ntokens = [{{ name = \"one\", sha256 = \"{hash}\" }}]\n\n[[allow]]\nid = \"api\"\nhosts = [\"api.example.com\"]\n"
    );
    std::fs::write(folder.join("demo.toml"), demo).expect("written");
    std::fs::write(folder.join("off.toml"), "id = \"off\"\nposture = \"off\"\nuids = [4242]\n").expect("written");
}

/// There is no daemon that follows the ledger: the events are level with it always. The rest is for the test.
fn answer_listeners(mut all: mpsc::Receiver<Command>) -> mpsc::Receiver<Command> {
    let (sender, rest) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(command) = all.recv().await {
            match command {
                Command::CatchUp(asker) => drop(asker.send(())),
                reload => drop(sender.send(reload).await),
            }
        }
    });
    rest
}

fn state(config: &ServerConfig, commands: mpsc::Sender<Command>, draining: CancellationToken) -> ControlState {
    write_personas(config);
    std::fs::create_dir_all(&config.state_dir).expect("made");
    std::fs::set_permissions(&config.state_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("private");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let snapshot = load(&config.config_dir.join("personas"), &PolicySettings::default()).expect("sound");
    let policy = Arc::new(ArcSwap::from_pointee(snapshot));
    let (ledger, _) = Ledger::open(&config.ledger, Arc::clone(&clock)).expect("opens");
    let metrics = Arc::new(Metrics::default());
    let events = EventBus::new("/arw/test", Arc::clone(&clock));
    let gateway = Arc::new(Gateway {
        policy: Arc::clone(&policy),
        usage: Usage::new(),
        ledger: ledger.clone(),
        resolver: Resolver::new(&config.dns, tokio::runtime::Handle::current()).expect("made"),
        clock: Arc::clone(&clock),
        limits: config.limits,
        record_query: false,
        trace_parents: false,
        flows: Arc::new(FlowTable::default()),
        metrics: Arc::clone(&metrics),
        own: OwnListeners::default(),
        first_seen: std::sync::Mutex::default(),
        events: events.clone(),
        draining,
        latch: Latch::default(),
        desk: Desk::default(),
    });
    ControlState {
        config: Arc::new(config.clone()),
        governance: governance(config, &gateway, &clock, &events),
        ledger,
        events,
        policy,
        gateway: Some(Handle::new(gateway, vec!["127.0.0.1:9080".parse().expect("literal")])),
        metrics,
        supervisor: None,
        walls: None,
        traces: None,
        commands,
        clock,
    }
}

fn governance(config: &ServerConfig, gateway: &Arc<Gateway>, clock: &Arc<dyn Clock>, events: &EventBus) -> Governance {
    let store = Store::open(&config.state_dir).expect("the state");
    let (audit, _) =
        Audit::open(&config.state_dir, &config.ledger, store.clone(), Arc::clone(clock)).expect("the audit log");
    let (reloads, _) = mpsc::channel(1);
    let of_personas = personas::Premises {
        store: store.clone(),
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        events: events.clone(),
        reloads,
    };
    let config = config.clone();
    let premises = leases::Premises {
        store: store.clone(),
        reserve: Reserve::new(&config.state_dir, Narrowing::Leases),
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        events: events.clone(),
    };
    // The store answers from a thread of its own, and so does this: a test's only thread must not wait for itself.
    let started = std::thread::spawn(move || {
        let executor = tokio::runtime::Builder::new_current_thread().build().expect("an executor");
        let leases = executor.block_on(leases::start(premises)).expect("the leases");
        let personas = executor.block_on(personas::start(&config, of_personas)).expect("the personas");
        (config, leases, personas)
    });
    let (config, (leases, keeper), (personas, personas_keeper)) = started.join().expect("started");
    tokio::spawn(personas_keeper.run(CancellationToken::new()));
    tokio::spawn(keeper.run(CancellationToken::new()));
    let premises = automations::Premises {
        store: store.clone(),
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        supervisor: None,
        events: events.clone(),
        clock: Arc::clone(clock),
        config_dir: config.config_dir.clone(),
        state_dir: config.state_dir.clone(),
    };
    let (automations, clerk) = automations::start(premises, automations::Found::default());
    tokio::spawn(clerk.run(CancellationToken::new()));
    let premises = switch::Premises {
        file: LatchFile::new(&config.state_dir),
        gateway: Arc::clone(gateway),
        leases: leases.clone(),
        supervisor: None,
        audit: audit.clone(),
        events: events.clone(),
        clock: Arc::clone(clock),
    };
    let authority = Authority::new(Policy::open(), events.clone(), Arc::clone(clock));
    let switch = KillSwitch::new(premises, None);
    let kept = store.clone();
    let premises = alerts::Premises {
        store,
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        supervisor: None,
        leases: leases.clone(),
        clock: Arc::clone(clock),
        events: events.clone(),
        state_dir: config.state_dir.clone(),
        ledger_dir: config.ledger.dir.clone(),
    };
    let heard = alerts::listen(events);
    let started = std::thread::spawn(move || {
        let executor = tokio::runtime::Builder::new_current_thread().build().expect("an executor");
        executor.block_on(alerts::start(premises, alerts::Settings::default(), heard)).expect("the alerts")
    });
    let (alerts, keeper) = started.join().expect("started");
    tokio::spawn(keeper.run(CancellationToken::new()));
    let recipes = Recipes::new(recipes::Premises {
        store: kept,
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        config: Arc::new(config),
        defaults: crate::supervisor::Defaults::default(),
    });
    Governance { leases, personas, switch, audit, authority, recipes, automations, alerts }
}
