//! The daemon's life from settings to the last checkpoint.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::confine::{self, Confined};
use super::demo::{self, Demo};
use super::news::{Asker, News};
use super::reload::{Reloader, read_policy};
use super::watch::Watch;
use super::{governance, inherit, log, runtimes, service};
use crate::config::{Environment, Loaded, ServerConfig};
use crate::control::{Command, ControlState, ReloadAsk, serve_on};
use crate::domain::{Clock, Host, SystemClock};
use crate::events::{EventBus, EventKind, FirstSeen};
use crate::governance::audit::Actor;
use crate::governance::authority::Policy;
use crate::governance::automations::Found;
use crate::governance::switch::KillSwitch;
#[cfg(feature = "otlp")]
use crate::governance::traces;
use crate::ledger::{Filter, Kind, Ledger, Recovery};
use crate::policy::Usage;
use crate::proxy::tls::ReloadableAcceptor;
use crate::proxy::{self, Desk, FlowTable, Gateway, Handle, Latch, Metrics, OwnListeners, Pulses, Resolver};
use crate::supervisor::Supervisor;
use crate::sys;

/// Lines from which the hosts that are known already are learned at the start.
const HISTORY: usize = 50_000;
/// How often idle and expired flows are looked for: an expiry ends its tunnels within this.
const SWEEP: Duration = Duration::from_secs(1);
/// Commands of the control API that may wait; reloads are rare and answered one by one.
const COMMANDS: usize = 16;
/// How long threads that sit in a blocking call are waited for at the end: reads and writes of files are done by then.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// Descriptors that are not connections: listeners, ledger, journal, pipes, libraries.
const OTHER_DESCRIPTORS: u64 = 512;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, or from ending cleanly.
pub fn run(loaded: Loaded, environment: &Environment) -> anyhow::Result<()> {
    let Loaded { config, warnings, config_file } = loaded;
    let under_journal = environment.text("JOURNAL_STREAM").is_ok_and(|stream| stream.is_some());
    log::init(&config.log, under_journal)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if let Some(file) = config_file {
        tracing::info!(file = %file.display(), "settings read");
    }
    sys::process::harden().context("hardening the process")?;
    make_private(&config.state_dir)?;
    let config = fit_descriptors(config)?;
    let confined = confine::confine(&config, environment).context("the daemon's own confinement")?;
    // The workers of the proxy have executors of their own: this one serves control, DNS and the housekeeping.
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("arw-control")
        .enable_all()
        .build()
        .context("starting the executor")?;
    let outcome = executor.block_on(serve(config, confined));
    // All that has to be on the disk is. What still sits in a call into a driver is not waited for.
    executor.shutdown_timeout(LAST_CALLS);
    outcome
}

pub(super) fn make_private(folder: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making the state folder {}", folder.display()))
}

/// Raises the descriptor limit and bounds the connections to what it can hold.
fn fit_descriptors(mut config: ServerConfig) -> anyhow::Result<ServerConfig> {
    let limit = sys::limits::raise_descriptor_limit().context("raising the descriptor limit")?;
    // A tunnel holds two sockets; pipes are held only while bytes move.
    let room = usize::try_from(limit.soft.saturating_sub(OTHER_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(16);
    if config.limits.connections > room {
        tracing::warn!(
            wanted = config.limits.connections,
            room,
            descriptors = limit.soft,
            "limits.connections is lowered to what the descriptor limit holds; raise LimitNOFILE"
        );
        config.limits.connections = room;
    }
    Ok(config)
}

async fn serve(mut config: ServerConfig, confined: Confined) -> anyhow::Result<()> {
    // Before anybody can know that the daemon is there: an early SIGHUP would end it.
    let signals = Signals::catch()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let stop = CancellationToken::new();
    let sockets = inherit::take()?;
    for ignored in sockets.instead_of(&config) {
        tracing::warn!(%ignored, "the service manager handed over sockets, so this setting is not used");
    }
    let demo = demonstration(&mut config, &stop).await;
    let config = Arc::new(config);
    // Before the files are read: what changes in between must not go unnoticed.
    let watch = Watch::new(&config.config_dir.join("personas"), config.control.policy.as_deref());
    let policy = read_policy(&config).map_err(|faults| anyhow::anyhow!("the personas are faulty:\n{faults}"))?;
    for warning in policy.warnings(clock.now()) {
        tracing::warn!(%warning, "policy");
    }
    let policy = Arc::new(ArcSwap::from_pointee(policy));
    let (ledger, recovery) = open_ledger(&config, &clock)?;
    let usage = restore_usage(&ledger)?;
    let events = EventBus::new("arw-server", Arc::clone(&clock));
    let metrics = Arc::new(Metrics::default());
    let gateway = Arc::new(Gateway {
        policy: Arc::clone(&policy),
        usage,
        ledger: ledger.clone(),
        resolver: Resolver::new(&config.dns, tokio::runtime::Handle::current()).context("name resolution")?,
        clock: Arc::clone(&clock),
        limits: config.limits,
        record_query: config.ledger.record_query,
        trace_parents: config.telemetry.otlp_endpoint.is_some(),
        flows: Arc::new(FlowTable::default()),
        metrics: Arc::clone(&metrics),
        own: OwnListeners::default(),
        first_seen: Mutex::new(first_seen(&ledger).await),
        events: events.clone(),
        draining: CancellationToken::new(),
        latch: Latch::default(),
        desk: Desk::default(),
    });
    let tls = match &config.proxy.tls {
        Some(tls) => Some(Arc::new(ReloadableAcceptor::new(tls).context("the TLS listener")?)),
        None => None,
    };
    for warning in tls.iter().flat_map(|tls| tls.warnings()) {
        tracing::warn!(%warning, "the TLS listener");
    }
    #[cfg(feature = "otlp")]
    let traces = traces(&config, &gateway)?;
    // Control binds first: its address must be known before anything can be dialled.
    let control_bind = sockets.control_tcp().and_then(|listener| listener.local_addr().ok());
    gateway.own.add(control_bind.unwrap_or(config.control.bind));
    // What is latched or leased is in force before the first client can ask.
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let foundation = governance::open(&config, &gateway, &clock, &events, &commands).await?;
    let proxy = match config.proxy.enable {
        true => Some(proxy::start(&gateway, &config.proxy, tls.clone(), sockets.proxy)?),
        false => None,
    };
    let started = match &proxy {
        Some(proxy) if config.runtimes.enable => {
            let demo = demo.as_ref();
            let (clock, gateway, events) = (&clock, &gateway, &events);
            let (store, recipes, launcher) = (&foundation.store, &foundation.recipes, confined.launcher);
            let parts =
                runtimes::Parts { config: &config, clock, gateway, proxy, events, demo, store, recipes, launcher };
            match runtimes::start(parts).await {
                Ok(started) => Some(started),
                // The demonstration of the gateway is worth having without that of the runtime.
                Err(fault) if demo.is_some() => {
                    tracing::warn!("there is no supervisor: {fault:#}");
                    None
                }
                Err(fault) => return Err(fault),
            }
        }
        // Without the gateway a runtime would have no way out, and nothing would be recorded.
        _ => None,
    };
    let (supervisor, found) = match started {
        Some((supervisor, found)) => (Some(supervisor), found),
        None => (None, Found::default()),
    };
    let governing = foundation.start(&config, &gateway, &clock, &events, supervisor.clone(), found).await?;
    let state = ControlState {
        config: Arc::clone(&config),
        ledger: ledger.clone(),
        events: events.clone(),
        policy,
        gateway: proxy.as_ref().map(|proxy| Handle::new(Arc::clone(&gateway), proxy.addresses.clone())),
        metrics,
        supervisor: supervisor.clone(),
        governance: governing.handles.clone(),
        walls: confined.walls.map(Arc::new),
        #[cfg(feature = "otlp")]
        traces: traces.as_ref().map(|traces| Arc::clone(&traces.counts)),
        #[cfg(not(feature = "otlp"))]
        traces: None,
        commands,
        clock: Arc::clone(&clock),
    };
    let control = serve_on(&config.control, sockets.control, state, stop.clone()).context("the control API")?;
    gateway.own.add(control.tcp());
    let (askers, asked) = mpsc::channel(COMMANDS);
    let news = News::new(ledger.clone(), events.clone(), &config.ledger.dir);
    let news = tokio::spawn(news.run(asked, stop.clone()));

    let addresses = proxy.as_ref().map(|proxy| proxy.addresses.clone()).unwrap_or_default();
    announce(&config, &addresses, control.tcp(), demo.as_ref(), supervisor.as_ref(), &recovery);
    events.publish(EventKind::ServiceStart, None, json!({"version": env!("CARGO_PKG_VERSION")}));
    service::ready(&format!("{} personas", gateway.policy.load().personas().len()));

    let reloader = Reloader {
        config: Arc::clone(&config),
        gateway: Arc::clone(&gateway),
        tls,
        events: events.clone(),
        supervisor: supervisor.clone(),
        authority: governing.handles.authority.clone(),
        alerts: governing.handles.alerts.clone(),
        automations: governing.handles.automations.clone(),
        audit: governing.handles.audit.clone(),
        recipes: governing.handles.recipes.clone(),
    };
    let pulses = proxy.as_ref().map(proxy::Running::pulses);
    let switch = &governing.handles.switch;
    let end = tend(&reloader, inbox, askers, signals, watch, pulses, switch).await?;

    service::stopping();
    events.publish(EventKind::ServiceStop, None, json!({}));
    // A demonstration leaves nothing behind, however it is stopped.
    let whole = matches!(end, Ending::Whole) || demo.is_some();
    if let (true, Some(supervisor)) = (whole, &supervisor) {
        let report = supervisor.shut_down(None).await.context("ending the runtimes")?;
        tracing::info!(stopped = report.stopped, left = report.left.len(), "the runtimes were ended");
    }
    drop(confined.groups);
    if let Some(supervisor) = &supervisor {
        supervisor.close();
    }
    drop((reloader, supervisor));
    if let Some(proxy) = proxy {
        tokio::task::spawn_blocking(move || proxy.stop()).await.context("stopping the proxy")?;
    }
    stop.cancel();
    control.finished().await;
    governing.finish().await;
    news.await.context("ending the news")?;
    #[cfg(feature = "otlp")]
    if let Some(traces) = traces {
        traces.finish().await;
    }
    tokio::task::spawn_blocking(move || ledger.shutdown()).await?.context("the last checkpoint")?;
    tracing::info!("stopped");
    Ok(())
}

/// The demonstration, while no persona is configured. It is an example and no more: a host whose folder of personas
/// cannot be written has none, and every client is refused there until somebody writes a persona.
async fn demonstration(config: &mut ServerConfig, stop: &CancellationToken) -> Option<Demo> {
    if !config.proxy.enable || config.default_persona.is_some() || !demo::wanted(config) {
        return None;
    }
    match Demo::start(config, stop.clone()).await {
        Ok(demo) => {
            config.dns.hosts.insert(demo::ORIGIN_HOST.to_owned(), vec![std::net::Ipv4Addr::LOCALHOST.into()]);
            Some(demo)
        }
        Err(fault) => {
            let error = format!("{fault:#}");
            tracing::warn!(error, "no persona is configured and the demonstration cannot be made: nobody gets out");
            None
        }
    }
}

/// Traces, where somebody wants them. Started before anything can be recorded, ended when nothing more is.
#[cfg(feature = "otlp")]
fn traces(config: &ServerConfig, gateway: &Gateway) -> anyhow::Result<Option<traces::Traces>> {
    let Some(collector) = config.telemetry.otlp_endpoint.clone() else { return Ok(None) };
    let started = traces::start(traces::Premises {
        collector,
        ledger: gateway.ledger.clone(),
        ledger_dir: &config.ledger.dir,
        events: gateway.events.clone(),
        resolver: gateway.resolver.clone(),
    });
    started.map(Some).map_err(anyhow::Error::msg).context("telemetry.otlp_endpoint")
}

fn open_ledger(config: &ServerConfig, clock: &Arc<dyn Clock>) -> anyhow::Result<(Ledger, Recovery)> {
    let opened = Ledger::open(&config.ledger, Arc::clone(clock));
    let (ledger, recovery) =
        opened.with_context(|| format!("opening the ledger in {}", config.ledger.dir.display()))?;
    if !config.ledger.enable {
        tracing::warn!("the egress ledger is off: nothing is recorded");
    }
    Ok((ledger, recovery))
}

/// What every persona reached before, so that only what is new is told as new.
async fn first_seen(ledger: &Ledger) -> FirstSeen {
    let Ok(reader) = ledger.reader() else { return FirstSeen::new() };
    let read = move || {
        let opened = Filter { kind: Some(Kind::Open), ..Filter::default() };
        let lines = reader.latest(&opened, HISTORY).unwrap_or_default();
        FirstSeen::restore(lines.into_iter().filter_map(|line| {
            let host = Host::parse(line.host?.as_bytes()).ok()?;
            Some((line.persona?, host, line.scheme?))
        }))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// What rules with budgets have spent, as the ledger tells it.
fn restore_usage(ledger: &Ledger) -> anyhow::Result<Usage> {
    let usage = Usage::new();
    let sums = ledger.sums(1).context("reading what was spent from the ledger")?;
    for ((persona, rule), sums) in sums.by_rule {
        usage.restore(&persona, &rule, sums.uses, sums.bytes);
    }
    for (lease, sums) in sums.by_lease {
        usage.restore_lease(&lease, sums.uses, sums.bytes);
    }
    Ok(usage)
}

fn announce(
    config: &ServerConfig,
    proxy: &[SocketAddr],
    control: SocketAddr,
    demo: Option<&Demo>,
    supervisor: Option<&Supervisor>,
    recovery: &Recovery,
) {
    let repaired = recovery.to_string();
    for line in repaired.lines() {
        match recovery.created {
            true => tracing::info!("ledger: {line}"),
            false => tracing::warn!("ledger: {line}"),
        }
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        ?proxy,
        %control,
        state = %config.state_dir.display(),
        personas = %config.config_dir.join("personas").display(),
        "arw-server is up"
    );
    if let (Some(demo), Some(addr)) = (demo, proxy.first()) {
        // To standard output: this is what the command was run for.
        let shows = supervisor.is_some_and(|supervisor| !supervisor.runtimes().is_empty());
        println!("{}", demo.banner(*addr, &config.ledger.dir, &config.control.unix_socket, shows));
    }
}

/// The signals that the daemon obeys.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    kill_switch: Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
            kill_switch: signal(SignalKind::user_defined2()).context("SIGUSR2")?,
        })
    }
}

/// What a stop means for the runtimes.
enum Ending {
    /// SIGTERM, as a service manager sends it: they go on, and the next daemon adopts them.
    DaemonOnly,
    /// SIGINT, as a person at a terminal sends it: they end too.
    Whole,
}

/// Serves commands, signals, file changes and the clock until a signal says stop.
async fn tend(
    reloader: &Reloader,
    mut inbox: mpsc::Receiver<Command>,
    news: mpsc::Sender<Asker>,
    mut signals: Signals,
    mut watch: Watch,
    pulses: Option<Pulses>,
    switch: &KillSwitch,
) -> anyhow::Result<Ending> {
    let mut sweep = tokio::time::interval(SWEEP);
    let mut heartbeat = service::heartbeat().map(tokio::time::interval);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(Ending::DaemonOnly),
            _ = signals.interrupt.recv() => return Ok(Ending::Whole),
            _ = signals.kill_switch.recv() => {
                // The reason is sound, and the report is in the log.
                let _ = switch.shut_down("the daemon got SIGUSR2", Actor::signal("SIGUSR2"), None);
            }
            _ = signals.hangup.recv() => {
                service::reloading();
                // Faults are in the log; the old policy stays.
                let _ = reloader.reload(Actor::signal("SIGHUP"), None).await;
                level(&news);
                service::ready("reloaded");
            }
            () = watch.changed() => {
                let _ = reloader.reload(Actor::files(), None).await;
                level(&news);
            }
            Some(command) = inbox.recv() => match command {
                Command::Reload(ReloadAsk { by, why, answer }) => {
                    // The asker may have gone.
                    let _ = answer.send(reloader.reload(by, why).await);
                    level(&news);
                }
                // Full means that more listeners came at once than there may be: they are answered by silence.
                Command::CatchUp(asker) => drop(news.try_send(asker)),
            },
            _ = sweep.tick() => { reloader.gateway.flows.sweep(reloader.gateway.clock.now()); }
            () = beat(&mut heartbeat) => match pulses.as_ref().map(Pulses::ask).unwrap_or_default() {
                silent if silent.is_empty() => service::alive(),
                // The service manager ends us when this lasts: a gateway that serves nobody is better started anew.
                silent => tracing::error!(workers = ?silent, "proxy workers do not answer"),
            },
        }
    }
}

/// A route that was added may listen to what only the news tell: they look whether somebody does.
fn level(news: &mpsc::Sender<Asker>) {
    // Nobody waits for the answer; full means that they will look anyway.
    let (asker, _) = oneshot::channel();
    let _ = news.try_send(asker);
}

async fn beat(heartbeat: &mut Option<tokio::time::Interval>) {
    match heartbeat {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Reads settings and personas as a start would, and says what it found.
///
/// # Errors
/// Every fault of the persona files.
pub fn check(loaded: &Loaded) -> anyhow::Result<()> {
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let policy = read_policy(&loaded.config).map_err(|faults| anyhow::anyhow!("the personas are faulty:\n{faults}"))?;
    for warning in policy.warnings(SystemClock.now()) {
        eprintln!("warning: {warning}");
    }
    let declared = runtimes::read_declared(&loaded.config, Vec::new());
    let declared = declared.map_err(|faults| anyhow::anyhow!("the runtimes' manifest is faulty:\n{faults}"))?;
    let authority = Policy::load(loaded.config.control.policy.as_deref());
    let authority = authority.map_err(|faults| anyhow::anyhow!("the policy is faulty:\n{faults}"))?;
    let (personas, runtimes) = (policy.personas().len(), declared.manifest.runtimes().len());
    let grants = match authority.is_open() {
        true => String::new(),
        false => format!(", {} grants", authority.summary().grants),
    };
    let alerts = governance::read_alerts(&loaded.config);
    let alerts = alerts.map_err(|faults| anyhow::anyhow!("the alerts are faulty:\n{faults}"))?;
    let routes = alerts.routes.len();
    println!("settings, {personas} personas{grants}, {runtimes} runtimes and {routes} alert routes are sound");
    Ok(())
}
