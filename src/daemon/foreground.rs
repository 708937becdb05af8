//! `arw-cli run`: one command in a sandbox, in the foreground, with a gateway of its own and no daemon.
//!
//! ```text
//! preset ─ cgroup ─ sandbox: launcher ─ init ─ command
//!                              │ listener made inside
//! persona ─ policy ─ gateway ◀─┘      ledger: <state>/runs/<run>/ledger
//! ```
//!
//! The command's only way out is the listener that the gateway holds, so its persona needs no credentials. It
//! ends with the command: its exit status is ours, and nothing it started survives.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::demo::{self, Demo};
use super::reload::read_policy;
use crate::config::{Environment, Overrides, ServerConfig};
use crate::domain::{Clock, PersonaId, SYNTHETIC_V4, SystemClock};
use crate::events::EventBus;
use crate::ledger::Ledger;
use crate::policy::Usage;
use crate::proxy::transparent::SyntheticNets;
use crate::proxy::{
    self, EgressLimits, EgressSpent, FlowTable, Gateway, Inherited, Latch, Metrics, OwnListeners, Resolver,
    RuntimeSockets,
};
use crate::sandbox::cgroup::{self, Applied, Cgroups, Leaf, Limits, ProcessResource, Roots};
use crate::sandbox::plan::{Access, Limit, Owner, PROXY_INSIDE, Plan, Resource, SYNTHETIC_V6, Scheduling};
use crate::sandbox::preset::{self, Claim, Host, Preset, PresetName};
use crate::sandbox::profile::{Workload, Workspace};
use crate::sandbox::{End, Entry, Launched, ListenerRole, Profile, ProfileName, Report, State, Streams, Text, User};
use crate::sys;
use crate::ui::args::RunArgs;

/// First of the user ids that sandboxes get when root launches them; ids in this range belong to nobody else
/// (systemd reserves it for containers, UID range 524288 and up).
const FIRST_UID: u32 = 600_000;
/// How many there are, so that commands that run at the same time hardly ever share one.
const UIDS: u32 = 60_000;
/// Most ports of synthetic addresses: each is a listener for IPv4 and one for IPv6, of 128 that a sandbox may have.
const MAX_TRANSPARENT: usize = 60;
/// Time that what the command left behind has to go. Thousands of processes that give back their memory on a slow,
/// busy machine take tens of seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the command and gives its exit status: its code, or 128 and the number of the signal that ended it.
///
/// # Errors
/// Whatever keeps it from being launched; nothing is left running then.
pub fn run_command(arguments: &RunArgs, overrides: Overrides, environment: &Environment) -> anyhow::Result<u8> {
    let loaded = crate::config::load(&overrides, environment)
        .map_err(|faults| anyhow::anyhow!("the settings are faulty:\n{faults}"))?;
    preset::permit(arguments.preset, arguments.justification.as_deref())?;
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    executor.block_on(govern(arguments, loaded.config))
}

async fn govern(arguments: &RunArgs, mut config: ServerConfig) -> anyhow::Result<u8> {
    let stop = CancellationToken::new();
    let run = own_folder(&mut config)?;
    let demo = demonstration(arguments, &mut config, &stop, &run).await?;
    let gateway = gateway(arguments, &config)?;
    let leaf = Group::make(&run);
    let launched = {
        let plan = plan(arguments, demo.as_ref(), transparent_ports(&gateway, &arguments.persona))?;
        let limits = preset::resolve(&Preset::load(arguments.preset)?, &Host::read()?);
        launch(plan, leaf, limits, arguments.preset)?
    };
    let Sandbox { mut launched, leaf, report } = launched;
    if arguments.report {
        eprint!("{report}");
    }
    let inherited = Inherited { runtimes: vec![sockets(&arguments.persona, &mut launched)?], ..Inherited::default() };
    let proxy = proxy::start(&gateway, &config.proxy, None, inherited)?;
    let code = outlive(Arc::new(launched)).await?;
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

fn gateway(arguments: &RunArgs, config: &ServerConfig) -> anyhow::Result<Arc<Gateway>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let policy = read_policy(config).map_err(|faults| anyhow::anyhow!("the personas are faulty:\n{faults}"))?;
    if policy.persona(&arguments.persona).is_none() {
        bail!("there is no persona `{}` in {}", arguments.persona, config.config_dir.join("personas").display());
    }
    let (ledger, _) = Ledger::open(&config.ledger, Arc::clone(&clock)).context("opening the ledger of the run")?;
    Ok(Arc::new(Gateway {
        policy: Arc::new(ArcSwap::from_pointee(policy)),
        usage: Usage::new(),
        ledger,
        resolver: Resolver::new(&config.dns, tokio::runtime::Handle::current()).context("name resolution")?,
        limits: config.limits,
        record_query: config.ledger.record_query,
        flows: Arc::new(FlowTable::default()),
        metrics: Arc::new(Metrics::default()),
        own: OwnListeners::default(),
        first_seen: Mutex::default(),
        events: EventBus::new("arw-cli-run", Arc::clone(&clock)),
        draining: CancellationToken::new(),
        latch: Latch::default(),
        clock,
    }))
}

fn plan(arguments: &RunArgs, demo: Option<&Demo>, transparent_ports: Vec<u16>) -> anyhow::Result<Plan> {
    let user = User::for_caller(FIRST_UID + std::process::id() % UIDS);
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

/// The cgroups of the run, or why there are none.
struct Group(Result<(Cgroups, Leaf), String>);

impl Group {
    fn make(run: &str) -> Self {
        let make =
            || Cgroups::discover(&Roots::default()).and_then(|groups| groups.leaf(run).map(|leaf| (groups, leaf)));
        // Once more: another run may just have tidied the folder away that this one was about to use.
        let made = make().or_else(|_| make());
        // One reason of perhaps eight alike: the first hierarchy's.
        Self(made.map_err(|fault| fault.to_string().split(';').next().unwrap_or_default().to_owned()))
    }

    /// Without groups, what `setrlimit(2)` can hold of the limits; a profile's own limit stays where it is lower.
    fn stand_in(&self, limits: &Limits, plan: &mut Plan) {
        if self.0.is_ok() {
            return;
        }
        for limit in cgroup::instead_of_groups(limits) {
            let resource = match limit.resource {
                ProcessResource::Data => Resource::Data,
                ProcessResource::Tasks => Resource::Processes,
            };
            match plan.limits.iter_mut().find(|own| own.resource == resource) {
                Some(own) => own.most = own.most.min(limit.value),
                None => plan.limits.push(Limit { resource, most: limit.value }),
            }
        }
    }

    fn apply(&self, limits: &Limits) -> Vec<Applied> {
        match &self.0 {
            Ok((_, leaf)) => leaf.apply(limits),
            Err(reason) => cgroup::without_groups(limits, reason),
        }
    }

    fn doors(&self) -> anyhow::Result<Vec<File>> {
        let Ok((_, leaf)) = &self.0 else { return Ok(Vec::new()) };
        let open = |path: PathBuf| {
            OpenOptions::new().write(true).open(&path).with_context(|| format!("opening {}", path.display()))
        };
        leaf.enter_all_paths().into_iter().map(open).collect()
    }
}

/// Ends what is left in the groups and removes them, also when the run fails half-way.
impl Drop for Group {
    fn drop(&mut self) {
        let Ok((groups, leaf)) = &self.0 else { return };
        let ended = leaf.kill(PATIENCE).and_then(|()| leaf.remove(PATIENCE)).and_then(|()| groups.tidy());
        if let Err(fault) = ended {
            eprintln!("arw-cli: the cgroup of the run could not be removed: {fault}");
        }
    }
}

struct Sandbox {
    launched: Launched,
    leaf: Group,
    report: Confinement,
}

fn launch(mut plan: Plan, leaf: Group, limits: Limits, name: PresetName) -> anyhow::Result<Sandbox> {
    let of_group = leaf.apply(&limits);
    leaf.stand_in(&limits, &mut plan);
    plan.scheduling = Scheduling::of(&limits);
    let doors = leaf.doors()?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut streams = Streams::new(stdin.as_fd(), stdout.as_fd(), stderr.as_fd());
    if !doors.is_empty() {
        streams.cgroup = Entry::Join(doors.iter().map(AsFd::as_fd).collect());
    }
    let launched = crate::sandbox::launch(&plan, &streams).context("the sandbox")?;
    let applied = cgroup::merge(of_group, launched.scheduled.clone());
    let claim = preset::claim(&applied, &Preset::load(name)?);
    let report = Confinement { report: launched.report.clone(), applied, claim, name };
    Ok(Sandbox { launched, leaf, report })
}

/// The sockets that were made inside, and whose they are.
fn sockets(persona: &PersonaId, launched: &mut Launched) -> anyhow::Result<RuntimeSockets> {
    let mut sockets = RuntimeSockets {
        persona: persona.clone(),
        run: None,
        limits: EgressLimits::default(),
        spent: EgressSpent::default(),
        nets: SyntheticNets { v4: SYNTHETIC_V4, v6: SYNTHETIC_V6 },
        proxy: None,
        dns_udp: None,
        dns_tcp: None,
        transparent: Vec::new(),
    };
    for (listener, socket) in launched.listeners.drain(..) {
        if listener.role != ListenerRole::DnsUdp {
            // Accepted sockets inherit it.
            sys::socket::set_nodelay(&socket)?;
        }
        match listener.role {
            ListenerRole::Proxy => sockets.proxy = Some(socket.into()),
            ListenerRole::DnsUdp => sockets.dns_udp = Some(socket.into()),
            ListenerRole::DnsTcp => sockets.dns_tcp = Some(socket.into()),
            ListenerRole::Transparent => sockets.transparent.push(socket.into()),
        }
    }
    Ok(sockets)
}

/// Ports at which programs that know of no proxy are served: the web's, and every single port that an allow
/// rule of the persona names. A range is for programs that use the explicit proxy.
fn transparent_ports(gateway: &Gateway, persona: &PersonaId) -> Vec<u16> {
    let policy = gateway.policy.load();
    let rules = policy.persona(persona).map(|persona| persona.allow_rules().collect::<Vec<_>>()).unwrap_or_default();
    let named = rules.iter().flat_map(|rule| &rule.ports).filter_map(|port| port.parse().ok());
    let mut ports: Vec<u16> = [80, 443].into_iter().chain(named).filter(|port| *port != PROXY_INSIDE.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.truncate(MAX_TRANSPARENT);
    ports
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

/// What holds, in words for a person.
struct Confinement {
    report: Report,
    applied: Vec<Applied>,
    claim: Claim,
    name: PresetName,
}

impl std::fmt::Display for Confinement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.report.findings {
            writeln!(f, "{:<24} {:<12} {}", finding.control.code(), finding.state.code(), finding.state.why())?;
        }
        for one in &self.applied {
            let (code, why) = match &one.outcome {
                cgroup::Outcome::Enforced => ("enforced", ""),
                cgroup::Outcome::Partial(why) => ("partial", why.as_str()),
                cgroup::Outcome::Unavailable(why) => ("unavailable", why.as_str()),
            };
            writeln!(f, "{:<24} {code:<12} {why}", one.control.code())?;
        }
        match &self.claim {
            Claim::Preset(name) => writeln!(f, "preset                   {name}"),
            Claim::Reduced { missing } => {
                let missing: Vec<&str> = missing.iter().map(|control| control.code()).collect();
                writeln!(f, "preset                   not {}: {} not enforced", self.name, missing.join(", "))
            }
        }
    }
}

/// `arw-cli sandbox check`: tries to escape from a real sandbox of `profile` and prints what held. `true` when
/// everything did.
///
/// # Errors
/// When the sandbox itself cannot be made.
pub fn check_sandbox(profile: ProfileName) -> anyhow::Result<bool> {
    let user = User::for_caller(FIRST_UID + std::process::id() % UIDS);
    let checked = crate::sandbox::check::run(Path::new("/proc/self/exe"), &Profile::embedded(profile), user)?;
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
