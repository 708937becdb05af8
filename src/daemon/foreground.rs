//! `arw-cli run`: one command in a sandbox, in the foreground, with a gateway of its own and no daemon.
//!
//! ```text
//! preset ─ cgroup ─ sandbox: launcher ─ init ─ command
//!                              │ listener made inside
//! persona ─ policy ─ gateway ◀─┘      ledger: <state>/runs/<run>/ledger
//! ```
//!
//! The sandbox is made while the ledger is opened, and the gateway starts when both are there: until then what the command
//! sends waits in the listener's queue. That is its only way out, so its persona needs no credentials. It
//! ends with the command: its exit status is ours, and nothing it started survives.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::demo::{self, Demo};
use super::reload::read_policy;
use crate::config::{Environment, Overrides, ServerConfig};
use crate::domain::{Clock, SystemClock};
use crate::events::EventBus;
use crate::ledger::{Ledger, LedgerError, Recovery};
use crate::policy::{Snapshot, Usage};
use crate::proxy::{self, Desk, EgressSpent, FlowTable, Gateway, Inherited, Latch, Metrics, OwnListeners, Resolver};
use crate::sandbox::cgroup::{self, Cgroups, Limits, Roots};
use crate::sandbox::plan::{Access, Owner, Plan, Scheduling};
use crate::sandbox::preset::{self, Host, Preset, PresetName};
use crate::sandbox::profile::{Workload, Workspace};
use crate::sandbox::{End, Entry, LaunchError, Launched, Launcher, Profile, ProfileName, State, Streams, Text, User};
use crate::store::{LatchFile, LatchState};
use crate::supervisor::launch::{self, Confinement, Group, group};
use crate::ui::args::RunArgs;

/// First of the user ids that sandboxes get when root launches them; ids in this range belong to nobody else
/// (systemd reserves it for containers, UID range 524288 and up).
const FIRST_UID: u32 = 600_000;
/// How many there are, so that commands that run at the same time hardly ever share one.
const UIDS: u32 = 60_000;
/// How often the kill switch of the host is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Time that what the command left behind has to go. Thousands of processes that give back their memory on a slow,
/// busy machine take tens of seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every run begins with, whatever its arguments are. Its launcher makes namespaces while those are read.
#[derive(Debug)]
pub struct Ready {
    cgroups: Result<Cgroups, String>,
    launcher: Result<Launcher, LaunchError>,
}

impl Ready {
    /// Starts the launcher.
    pub fn make() -> Self {
        let cgroups = group::discover(&Roots::default());
        // Before there is a second process of ours: one that stays behind keeps every limit from the command. Where it
        // cannot be, each limit says so.
        if let Ok(groups) = &cgroups {
            let _ = groups.settle();
        }
        Self { cgroups, launcher: Launcher::start() }
    }
}

/// Runs the command and gives its exit status: its code, or 128 and the number of the signal that ended it.
///
/// # Errors
/// Whatever keeps it from being launched; nothing is left running then.
pub fn run_command(
    ready: Ready,
    arguments: &RunArgs,
    overrides: Overrides,
    environment: &Environment,
) -> anyhow::Result<u8> {
    let Ready { cgroups, launcher } = ready;
    let launcher = launcher.context("the launcher")?;
    let user = User::for_caller(FIRST_UID + std::process::id() % UIDS);
    // A failure shows itself at the launch.
    let _ = launcher.prepare(user, Profile::embedded(arguments.profile), &Entry::default());
    let loaded = crate::config::load(&overrides, environment)
        .map_err(|faults| anyhow::anyhow!("the settings are faulty:\n{faults}"))?;
    preset::permit(arguments.preset, arguments.justification.as_deref())?;
    let latch = LatchFile::new(&loaded.config.state_dir);
    if let Some(reason) = latched(&latch) {
        bail!(
            "shutdown_latched: the kill switch is latched ({reason}); `arw-cli automation rearm --reason …` releases it"
        );
    }
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    executor.block_on(govern(arguments, loaded.config, &launcher, &cgroups, user, latch))
}

async fn govern(
    arguments: &RunArgs,
    mut config: ServerConfig,
    launcher: &Launcher,
    cgroups: &Result<Cgroups, String>,
    user: User,
    latch: LatchFile,
) -> anyhow::Result<u8> {
    let stop = CancellationToken::new();
    let run = own_folder(&mut config)?;
    let demo = demonstration(arguments, &mut config, &stop, &run).await?;
    let policy = policy(arguments, &config)?;
    let resolver = Resolver::new(&config.dns, tokio::runtime::Handle::current()).context("name resolution")?;
    let ledger = open_ledger(&config)?;
    let leaf = OwnGroup(Group::make(cgroups, &run));
    let preset = Preset::embedded(arguments.preset);
    let launched = {
        let ports = launch::transparent_ports(&policy, &arguments.persona, &[]);
        let plan = plan(arguments, user, demo.as_ref(), ports)?;
        let limits = preset::resolve(preset, &Host::read()?);
        launch_it(launcher, plan, leaf, limits, arguments.preset)?
    };
    let Sandbox { mut launched, leaf, report } = launched;
    let ledger = match ledger.await? {
        Ok((ledger, _)) => ledger,
        Err(fault) => {
            // It has run for a moment, and nothing of it has left: nobody accepts its connections.
            launched.kill(PATIENCE).context("ending a command without a ledger")?;
            return Err(fault).context("opening the ledger of the run");
        }
    };
    let gateway = gateway(&config, policy, resolver, ledger);
    if arguments.report {
        eprint!("{report}");
    }
    let listeners = launched.listeners.drain(..);
    let limits = launch::egress_limits(&preset.egress);
    let sockets = launch::sockets(&arguments.persona, None, limits, EgressSpent::default(), listeners)?;
    let inherited = Inherited { runtimes: vec![sockets], ..Inherited::default() };
    let proxy = proxy::start(&gateway, &config.proxy, None, inherited)?;
    let launched = Arc::new(launched);
    let obeying = tokio::spawn(obey(latch, Arc::clone(&gateway), Arc::clone(&launched)));
    let code = outlive(launched).await?;
    obeying.abort();
    tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        proxy.stop();
        drop(leaf);
        gateway.ledger.shutdown().context("the last checkpoint")
    })
    .await??;
    stop.cancel();
    if arguments.report {
        eprintln!("ledger: {}", config.ledger.dir.display());
    }
    Ok(code)
}

/// Why the kill switch is latched, if it is. What cannot be read counts as latched.
fn latched(latch: &LatchFile) -> Option<String> {
    match latch.read() {
        LatchState::Released => None,
        LatchState::Latched(record) => Some(record.reason),
        LatchState::Damaged(why) => Some(why),
    }
}

/// Waits for the kill switch of the host, then cuts what is open and ends the command.
async fn obey(latch: LatchFile, gateway: Arc<Gateway>, launched: Arc<Launched>) {
    let reason = loop {
        tokio::time::sleep(LOOK).await;
        if let Some(reason) = latched(&latch) {
            break reason;
        }
    };
    gateway.latch(&reason);
    eprintln!("arw-cli: the kill switch was used: {reason}");
    // Fails only when it has ended already.
    let _ = tokio::task::spawn_blocking(move || launched.kill(PATIENCE)).await;
}

/// A folder for this run alone: its ledger is its own, so that runs and a daemon do not wait for each other.
fn own_folder(config: &mut ServerConfig) -> anyhow::Result<String> {
    let run = format!("{}-{}", SystemClock.now().unix_micros(), std::process::id());
    config.state_dir = config.state_dir.join("runs").join(&run);
    config.ledger.dir = config.state_dir.join("ledger");
    super::start::make_private(&config.state_dir)?;
    // The gateway listens nowhere but inside.
    config.proxy.bind = Vec::new();
    config.proxy.unix_socket = None;
    config.proxy.tls = None;
    config.proxy.workers = 1;
    config.proxy.drain = Duration::ZERO;
    Ok(run)
}

/// With nothing configured the persona `demo` has an origin to reach, as the daemon's demonstration has.
async fn demonstration(
    arguments: &RunArgs,
    config: &mut ServerConfig,
    stop: &CancellationToken,
    run: &str,
) -> anyhow::Result<Option<Demo>> {
    if arguments.persona.as_str() != demo::PERSONA || !demo::wanted(config) {
        return Ok(None);
    }
    config.config_dir = config.state_dir.join("config");
    config.dns.hosts.insert(demo::ORIGIN_HOST.to_owned(), vec![std::net::Ipv4Addr::LOCALHOST.into()]);
    let demo = Demo::start(config, stop.clone()).await.with_context(|| format!("the demonstration of run {run}"))?;
    Ok(Some(demo))
}

fn policy(arguments: &RunArgs, config: &ServerConfig) -> anyhow::Result<Snapshot> {
    let policy = read_policy(config).map_err(|faults| anyhow::anyhow!("the personas are faulty:\n{faults}"))?;
    if policy.persona(&arguments.persona).is_none() {
        bail!("there is no persona `{}` in {}", arguments.persona, config.config_dir.join("personas").display());
    }
    Ok(policy)
}

/// Opens the ledger on a thread of its own: its keys take a dozen syncs, and the sandbox is made meanwhile. The gateway
/// starts when both are there, so nothing leaves before. That the folder can be made is found out first.
fn open_ledger(config: &ServerConfig) -> anyhow::Result<JoinHandle<Result<(Ledger, Recovery), LedgerError>>> {
    super::start::make_private(&config.ledger.dir)?;
    let config = config.ledger.clone();
    Ok(tokio::task::spawn_blocking(move || Ledger::open(&config, Arc::new(SystemClock))))
}

fn gateway(config: &ServerConfig, policy: Snapshot, resolver: Resolver, ledger: Ledger) -> Arc<Gateway> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Arc::new(Gateway {
        policy: Arc::new(ArcSwap::from_pointee(policy)),
        usage: Usage::new(),
        ledger,
        resolver,
        limits: config.limits,
        record_query: config.ledger.record_query,
        trace_parents: false,
        flows: Arc::new(FlowTable::default()),
        metrics: Arc::new(Metrics::default()),
        own: OwnListeners::default(),
        first_seen: Mutex::default(),
        events: EventBus::new("arw-cli-run", Arc::clone(&clock)),
        draining: CancellationToken::new(),
        latch: Latch::default(),
        desk: Desk::default(),
        clock,
    })
}

fn plan(arguments: &RunArgs, user: User, demo: Option<&Demo>, transparent_ports: Vec<u16>) -> anyhow::Result<Plan> {
    let argv = arguments.command.iter().cloned().map(Text::from).collect();
    let mut workload = Workload::new(argv, user);
    for variable in &arguments.env {
        let (name, value) = variable.split_once('=').context("an environment variable is written NAME=VALUE")?;
        workload.env.push((Text::from(name), Text::from(value)));
    }
    if let Some(demo) = demo {
        workload.env.push((Text::from("ARW_DEMO_ORIGIN"), Text::from(demo.url())));
    }
    for (folders, access) in [(&arguments.workspace, Access::ReadWrite), (&arguments.read_only, Access::ReadOnly)] {
        for folder in folders {
            let source = folder.canonicalize().with_context(|| format!("workspace {}", folder.display()))?;
            workload.workspaces.push(Workspace { target: source.clone(), source, access, owner: Owner::Command });
        }
    }
    workload.workdir.clone_from(&arguments.workdir);
    workload.transparent_ports = transparent_ports;
    Ok(Profile::embedded(arguments.profile).plan(&workload)?)
}

/// The cgroups of the run. Ends what is left in them and removes them, also when the run fails half-way.
struct OwnGroup(Group);

impl Drop for OwnGroup {
    fn drop(&mut self) {
        if let Err(fault) = self.0.end(PATIENCE) {
            eprintln!("arw-cli: the cgroup of the run could not be removed: {fault}");
        }
    }
}

struct Sandbox {
    launched: Launched,
    leaf: OwnGroup,
    report: Confinement,
}

fn launch_it(
    launcher: &Launcher,
    mut plan: Plan,
    leaf: OwnGroup,
    limits: Limits,
    name: PresetName,
) -> anyhow::Result<Sandbox> {
    let of_group = leaf.0.apply(&limits);
    leaf.0.stand_in(&limits, &mut plan);
    plan.scheduling = Scheduling::of(&limits);
    let opened = leaf.0.doors();
    let doors = opened.map_err(|(path, fault)| anyhow::anyhow!("opening {}: {fault}", path.display()))?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut streams = Streams::new(stdin.as_fd(), stdout.as_fd(), stderr.as_fd());
    streams.cgroup = doors.entry();
    let launched = launcher.launch(&plan, &streams).context("the sandbox")?;
    let applied = cgroup::merge(of_group, launched.scheduled.clone());
    let claim = preset::claim(&applied, Preset::embedded(name));
    let report = Confinement { report: launched.report.clone(), applied, claim, preset: name };
    Ok(Sandbox { launched, leaf, report })
}

/// Waits for the command, passes signals on, and sees to it that nothing is left.
async fn outlive(launched: Arc<Launched>) -> anyhow::Result<u8> {
    let mut signals = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
        let (mut stream, launched) = (signal(kind)?, Arc::clone(&launched));
        signals.push(tokio::spawn(async move {
            while stream.recv().await.is_some() {
                // Fails only when the command has ended already.
                let _ = launched.control.signal(kind.as_raw_value());
            }
        }));
    }
    let waiting = Arc::clone(&launched);
    let end = tokio::task::spawn_blocking(move || {
        let end = waiting.control.wait();
        waiting.kill(PATIENCE).context("ending what the command left behind")?;
        end.context("waiting for the command")
    })
    .await??;
    signals.iter().for_each(tokio::task::JoinHandle::abort);
    match end {
        End::Exit(exit) => Ok(u8::try_from(exit.code() & 0xff).unwrap_or(u8::MAX)),
        End::Lost => bail!("the sandbox was killed from outside"),
    }
}

/// `arw-cli sandbox check`: tries to escape from a real sandbox of `profile` and prints what held. `true` when
/// everything did.
///
/// # Errors
/// When the sandbox itself cannot be made.
pub fn check_sandbox(profile: ProfileName) -> anyhow::Result<bool> {
    let user = User::for_caller(FIRST_UID + std::process::id() % UIDS);
    let checked = crate::sandbox::check::run(Path::new("/proc/self/exe"), Profile::embedded(profile), user)?;
    for tried in &checked.attempts {
        println!("{tried}");
    }
    for finding in &checked.report.findings {
        if finding.state != State::Enforced {
            println!("{}: {} {}", finding.control.code(), finding.state.code(), finding.state.why());
        }
    }
    Ok(checked.held())
}
