//! From a declaration to a running sandbox.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::domain::{Run, RuntimeId, Timestamp};
use crate::proxy::EgressLimits;
use crate::sandbox::cgroup::{self, CpuQuota, Limits, Standby};
use crate::sandbox::log::{self, LogReader, Place};
use crate::sandbox::notify::Notifications;
use crate::sandbox::plan::{Plan, Resource, Scheduling, WhenAlone};
use crate::sandbox::preset::{self, Preset, PresetName};
use crate::sandbox::profile::{Workload, Workspace};
use crate::sandbox::{Begun, Entry, LaunchError, Launched, Launcher, Log, Profile, Step, Streams, Text, User};

use super::super::gpus::Granted;
use super::super::launch::group::{self, leaf_name};
use super::super::launch::{self, Confinement, Group};
use super::super::life::LaunchFault;
use super::super::manifest::{Budget, Probe, RuntimeSpec};
use super::super::records::{Kept, Records, RunFile};
use super::super::shared::Shared;
use super::super::spent::Spent;
use super::running::Parts;
use super::{Running, Trouble};

/// Longest secret.
const MAX_SECRET: u64 = 64 << 10;
/// How long what an earlier launch left in its cgroup has to go.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a command has the host's attention before the next launch is prepared for: what an interpreter takes to begin.
const BEGINNING: Duration = Duration::from_millis(10);

/// What a launch goes by.
pub(super) struct Wanted {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: Arc<RuntimeSpec>,
    pub(super) run: u64,
    pub(super) began: Timestamp,
    pub(super) uid: u32,
    pub(super) records: Records,
    pub(super) spent: Spent,
    /// Its state, to be written before anything runs; `None` when it was already.
    pub(super) noted: Option<Arc<Note>>,
}

/// A state that is written once, by whoever comes to it first: a launch writes it itself when nothing is left to do before.
/// Another thread that it waited for would first have to get a CPU.
#[derive(Debug)]
pub(super) struct Note {
    id: RuntimeId,
    records: Records,
    kept: Kept,
    written: OnceLock<Result<(), String>>,
}

impl Note {
    pub(super) const fn new(id: RuntimeId, records: Records, kept: Kept) -> Self {
        Self { id, records, kept, written: OnceLock::new() }
    }

    pub(super) fn is_written(&self) -> bool {
        self.written.get().is_some()
    }

    /// Blocks while it is written.
    pub(super) fn write(&self) -> Result<(), &str> {
        let written = self.written.get_or_init(|| {
            let written = self.records.note(&self.kept).map_err(|fault| fault.to_string());
            if let Err(fault) = &written {
                tracing::error!(runtime = %self.id, %fault, "the state of a runtime could not be written");
            }
            written
        });
        match written {
            Ok(()) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

impl Trouble {
    fn refused(reason: impl Into<String>) -> Self {
        Self { fault: LaunchFault::Refused, reason: reason.into() }
    }

    fn failed(reason: impl Into<String>) -> Self {
        Self { fault: LaunchFault::Failed, reason: reason.into() }
    }
}

/// A launch whose command waits.
struct Beginning<'p> {
    launcher: Arc<Launcher>,
    begun: Begun<'p>,
}

/// What a run has outside of its sandbox.
struct Ways {
    files: [File; 2],
    /// Where its own lines begin.
    from: Place,
    exit: File,
    adoption: Arc<OwnedFd>,
    null: File,
}

impl Ways {
    fn streams<'w>(&'w self, entry: Entry<'w>, log_bytes: u64) -> Streams<'w> {
        let mut streams = Streams::new(self.null.as_fd(), self.null.as_fd(), self.null.as_fd());
        streams.exit_record = Some(self.exit.as_fd());
        streams.adoption = Some(self.adoption.as_fd());
        streams.log = Some(Log { files: [self.files[0].as_fd(), self.files[1].as_fd()], bound: log_bytes });
        streams.cgroup = entry;
        streams
    }
}

fn failed(what: &str, fault: &dyn std::fmt::Display) -> Trouble {
    Trouble::failed(format!("{what}: {fault}"))
}

/// What a blocking thread brings back.
struct Started {
    launched: Launched,
    group: Group,
    confinement: Confinement,
    egress: preset::Egress,
    from: Place,
    user: User,
}

impl Wanted {
    /// Launches at once, and when that is awaited hands the sockets to the gateway. The command may have run for a moment
    /// before: its connections wait in the listeners' queues.
    pub(super) fn launch(self) -> impl Future<Output = Result<(Box<Running>, Place), Trouble>> + Send {
        let wanted = Arc::new(self);
        let blocking = Arc::clone(&wanted);
        let started = tokio::task::spawn_blocking(move || blocking.start());
        wanted.take_up(started)
    }

    async fn take_up(
        self: Arc<Self>,
        started: JoinHandle<Result<Started, Trouble>>,
    ) -> Result<(Box<Running>, Place), Trouble> {
        let started = started.await.map_err(|_| Trouble::failed("the launch panicked"))??;
        let Started { launched, group, confinement, egress, from, user } = started;
        self.prepare_for_the_next(user);
        let undo = group.clone();
        match self.attend(launched, group, confinement, egress) {
            Ok(running) => Ok((Box::new(running), from)),
            Err(trouble) => {
                // Dropping the channel does not end it: it waits for a later owner.
                let _ = tokio::task::spawn_blocking(move || undo.end(PATIENCE)).await;
                let _ = self.records.end();
                Err(trouble)
            }
        }
    }

    /// Not at once: the command begins now, and on a host of few CPUs it would wait for that.
    fn prepare_for_the_next(&self, user: User) {
        let (shared, profile) = (Arc::clone(&self.shared), Profile::embedded(self.spec.profile));
        tokio::spawn(async move {
            tokio::time::sleep(BEGINNING).await;
            tokio::task::spawn_blocking(move || shared.prepare(user, profile));
        });
    }

    fn attend(
        &self,
        launched: Launched,
        group: Group,
        confinement: Confinement,
        egress: preset::Egress,
    ) -> Result<Running, Trouble> {
        let attended = launched.attend().map_err(|fault| Trouble::failed(format!("holding it: {fault}")))?;
        let lost = |what: &str, fault: std::io::Error| {
            let _ = attended.channel.kill();
            Trouble::failed(format!("{what}: {fault}"))
        };
        let run = Run { runtime: self.spec.id.clone(), number: self.run };
        let limits = egress_limits(&egress, &self.spec);
        let sockets = launch::sockets(&self.spec.persona, Some(run), limits, self.spent.traffic(), attended.listeners)
            .map_err(|fault| lost("its sockets", fault))?;
        let guard = self.shared.doors.attend(sockets).map_err(|fault| lost("its way to the gateway", fault))?;
        let notify = attended.notify.map(Notifications::new).transpose();
        let notify = notify.map_err(|fault| lost("its notify socket", fault))?;
        let parts = Parts {
            run: self.run,
            began: self.began,
            channel: attended.channel,
            group,
            guard,
            confinement,
            notify,
            records: self.records.clone(),
            shared: Arc::clone(&self.shared),
            has_gpus: self.spec.gpu.is_some(),
        };
        Ok(Running::new(parts, &self.spec, self.spent))
    }

    /// Blocks for the milliseconds that a launch takes.
    fn start(&self) -> Result<Started, Trouble> {
        let started = self.start_with_gpus();
        // It counts, launched or not.
        let _ = self.noted.as_ref().map(|note| note.write());
        started
    }

    fn start_with_gpus(&self) -> Result<Started, Trouble> {
        (self.shared.permit)(&self.spec).map_err(Trouble::refused)?;
        let name = self.spec.preset;
        let preset = Preset::embedded(name);
        let limits = narrowed(preset::resolve(preset, &self.shared.host), &self.spec);
        let granted = match &self.spec.gpu {
            Some(gpu) => self.shared.gpus.assign(&self.spec.id, self.run, gpu).map_err(Trouble::refused)?,
            None => Granted::nothing(),
        };
        let started = self.start_with(preset, name, &limits, &granted);
        if started.is_err() && self.spec.gpu.is_some() {
            // Nothing ran on it; whatever is wrong was logged.
            let _ = self.shared.gpus.give_back(&self.spec.id, self.run);
        }
        started
    }

    fn start_with(
        &self,
        preset: &Preset,
        name: PresetName,
        limits: &Limits,
        granted: &Granted,
    ) -> Result<Started, Trouble> {
        let mut plan = self.plan(limits, granted)?;
        let ready = match self.shared.take_standby() {
            Some(standby) => self.begin(&plan, standby)?,
            None => None,
        };
        let (group, outcome) = match ready {
            Some((begun, group, ways)) => {
                let outcome = self.start_in(&plan, &group, &ways, Some(begun), limits, granted);
                (group, outcome)
            }
            None => {
                let group = self.group()?;
                group.stand_in(limits, &mut plan);
                let outcome = self.ways().and_then(|ways| self.start_in(&plan, &group, &ways, None, limits, granted));
                (group, outcome)
            }
        };
        match outcome {
            Ok((launched, applied, from)) => {
                let claim = preset::claim(&applied, preset);
                let report = launched.report.clone();
                let confinement = Confinement { report, applied, claim, preset: name };
                if let Err(fault) =
                    self.records.begin(&self.run_file(&plan, &group, &confinement, granted, Some(&launched)))
                {
                    let _ = launched.kill(PATIENCE);
                    let _ = group.end(PATIENCE);
                    return Err(Trouble::failed(fault.to_string()));
                }
                Ok(Started { launched, group, confinement, egress: preset.egress, from, user: plan.user })
            }
            Err(trouble) => {
                // Nothing lives: the launch ended what it had begun.
                let _ = group.end(PATIENCE);
                let _ = self.records.end();
                Err(trouble)
            }
        }
    }

    /// Has the sandbox begun in groups that stand ready, and gives them their name meanwhile. `None` where one of it cannot be
    /// had; nothing is left then.
    fn begin<'p>(&self, plan: &'p Plan, standby: Standby) -> Result<Option<(Beginning<'p>, Group, Ways)>, Trouble> {
        let ways = self.ways()?;
        let entry = Entry { into: standby.dir_fd(), join: standby.tasks().collect(), last: standby.last_tasks() };
        let Ok(launcher) = self.shared.launchers.get() else { return Ok(None) };
        let Ok(begun) = launcher.begin(plan, &ways.streams(entry, self.shared.config.log_bytes)) else {
            return Ok(None);
        };
        let group = Group::of(&self.shared.cgroups, standby, &self.leaf_name());
        Ok(group.map(|group| (Beginning { launcher, begun }, group, ways)))
    }

    fn start_in(
        &self,
        plan: &Plan,
        group: &Group,
        ways: &Ways,
        beginning: Option<Beginning<'_>>,
        limits: &Limits,
        granted: &Granted,
    ) -> Result<(Launched, Vec<cgroup::Applied>, Place), Trouble> {
        let of_group = group.apply(limits);
        let unknown = Confinement {
            report: crate::sandbox::Report::default(),
            applied: Vec::new(),
            claim: preset::Claim::Reduced { missing: Vec::new() },
            preset: PresetName::Eco,
        };
        self.records
            .begin(&self.run_file(plan, group, &unknown, granted, None))
            .map_err(|fault| failed("its record", &fault))?;
        if let Some(note) = &self.noted {
            note.write().map_err(|why| failed("its state cannot be written, so it is not launched", &why))?;
        }
        let launched = match beginning {
            Some(Beginning { launcher, begun }) => (launcher, begun.go_on()),
            None => self.launch_in(plan, group, ways)?,
        };
        let launched = match launched {
            // It died meanwhile; another one is asked, once.
            (launcher, Err(_)) if !launcher.is_alive() => self.launch_in(plan, group, ways)?.1,
            (_, outcome) => outcome,
        };
        let launched = launched.map_err(|fault| trouble(&fault))?;
        let applied = cgroup::merge(of_group, launched.scheduled.clone());
        Ok((launched, applied, ways.from))
    }

    fn launch_in(
        &self,
        plan: &Plan,
        group: &Group,
        ways: &Ways,
    ) -> Result<(Arc<Launcher>, Result<Launched, LaunchError>), Trouble> {
        let doors = group.doors().map_err(|(path, fault)| failed(&path.display().to_string(), &fault))?;
        let launcher = self.shared.launchers.get().map_err(|fault| failed("the launcher", &fault))?;
        let launched = launcher.launch(plan, &ways.streams(doors.entry(), self.shared.config.log_bytes));
        Ok((launcher, launched))
    }

    /// Opens what the run has outside of its sandbox.
    fn ways(&self) -> Result<Ways, Trouble> {
        let logs = self.records.logs();
        let files = log::open(&logs).map_err(|fault| failed("its log", &fault))?;
        let from = LogReader::new(logs).end().map_err(|fault| failed("its log", &fault))?;
        let exit = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(self.records.exit_record())
            .map_err(|fault| failed("its exit record", &fault))?;
        let adoption = self.records.listen_for_adoption().map_err(|fault| failed("its socket", &fault))?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(|fault| failed("/dev/null", &fault))?;
        Ok(Ways { files, from, exit, adoption, null })
    }

    fn run_file(
        &self,
        plan: &Plan,
        group: &Group,
        confinement: &Confinement,
        granted: &Granted,
        launched: Option<&Launched>,
    ) -> RunFile {
        RunFile {
            run: self.run,
            began: self.began,
            declared: self.spec.declared(),
            leaf: group.leaf().map(|leaf| leaf.place().clone()),
            listeners: plan.network.listeners.clone(),
            confinement: confinement.clone(),
            frozen: false,
            gpus: granted.gpus.clone(),
            window: self.spent.window(),
            init: launched.map(|launched| launched.id.clone()),
        }
    }

    fn leaf_name(&self) -> String {
        leaf_name(&self.shared.instance, self.spec.id.as_str())
    }

    /// The groups of this run. What an earlier launch left under the name is ended first.
    fn group(&self) -> Result<Group, Trouble> {
        Group::make_anew(&self.shared.cgroups, &self.leaf_name(), PATIENCE)
            .map_err(|fault| Trouble::failed(format!("what an earlier run left: {fault}")))
    }

    fn plan(&self, limits: &Limits, granted: &Granted) -> Result<Plan, Trouble> {
        let spec = &self.spec;
        let user = self.shared.user.with_host_id(spec.process.user.unwrap_or(self.uid));
        let argv = std::iter::once(&spec.process.command).chain(&spec.process.args);
        let mut workload = Workload::new(argv.map(|word| Text::from(word.as_str())).collect(), user);
        workload.env = self.environment(granted)?;
        workload.devices.clone_from(&granted.devices);
        workload.workdir.clone_from(&spec.process.workdir);
        for folder in &spec.process.workspaces {
            let source = folder.source.canonicalize();
            let source =
                source.map_err(|fault| Trouble::refused(format!("workspace {}: {fault}", folder.source.display())))?;
            workload.workspaces.push(Workspace { source, ..folder.clone() });
        }
        let inner: Vec<u16> = spec.inner_ports();
        workload.transparent_ports =
            launch::transparent_ports(&self.shared.gateway.policy.load(), &spec.persona, &inner);
        workload.published_ports = inner;
        workload.host_name = host_name(spec.id.as_str());
        workload.when_alone = WhenAlone::Wait;
        workload.scheduling = Scheduling::of(limits);
        workload.notify = spec.watchdog.is_some() || spec.notifies();
        workload.require = spec.require.clone();
        let mut plan =
            Profile::embedded(spec.profile).plan(&workload).map_err(|fault| Trouble::refused(fault.to_string()))?;
        if let Some(files) = spec.limits.open_files {
            group::lower(&mut plan, Resource::OpenFiles, u64::from(files));
        }
        Ok(plan)
    }

    fn environment(&self, granted: &Granted) -> Result<Vec<(Text, Text)>, Trouble> {
        let spec = &self.spec;
        let mut all: Vec<(Text, Text)> = vec![
            (Text::from("ARW_RUNTIME_ID"), Text::from(spec.id.as_str())),
            (Text::from("ARW_RUNTIME_RUN"), Text::from(self.run.to_string().as_str())),
            (Text::from("ARW_PERSONA_ID"), Text::from(spec.persona.as_str())),
        ];
        let own = |(name, value): &(String, String)| (Text::from(name.as_str()), Text::from(value.as_str()));
        all.extend(granted.environment.iter().map(own));
        all.extend(spec.process.env.iter().map(own));
        for (name, file) in &spec.process.secrets {
            all.push((Text::from(name.as_str()), secret(file)?));
        }
        if let Some(longest) = spec.watchdog {
            all.push((Text::from("WATCHDOG_USEC"), Text::from(longest.as_micros().to_string().as_str())));
        }
        Ok(all)
    }
}

/// What the file holds, without the line end that editors leave. Its name may be told, its contents never.
fn secret(path: &Path) -> Result<Text, Trouble> {
    let refused = |why: &dyn std::fmt::Display| Trouble::refused(format!("the secret in {}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|fault| match fault.kind() {
        std::io::ErrorKind::PermissionDenied => {
            refused(&format!("{fault}; a confined daemon reads folders that were named when it started: restart it"))
        }
        _ => refused(&fault),
    })?;
    let mut bytes = Vec::new();
    file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(|fault| refused(&fault))?;
    if bytes.len() as u64 > MAX_SECRET {
        return Err(refused(&format!("more than {MAX_SECRET} bytes")));
    }
    if bytes.contains(&0) {
        return Err(refused(&"it has a NUL inside"));
    }
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    Ok(Text::from_parts(&[&bytes[..end]]))
}

/// What can be had another time, and what cannot as it is declared.
fn trouble(fault: &LaunchError) -> Trouble {
    let missing = |errno: i32| matches!(errno, nix::libc::ENOENT | nix::libc::EACCES | nix::libc::ENOTDIR);
    match fault {
        LaunchError::Step(step) => match step.step {
            Step::Require | Step::Charter => Trouble::refused(fault.to_string()),
            Step::Exec | Step::BindSource | Step::Workdir if missing(step.errno) => Trouble::refused(fault.to_string()),
            _ => Trouble::failed(fault.to_string()),
        },
        _ => Trouble::failed(fault.to_string()),
    }
}

/// The preset's limits, narrowed by the declaration. Nothing widens a preset.
fn narrowed(mut limits: Limits, spec: &RuntimeSpec) -> Limits {
    fn least<T: Ord + Copy>(preset: &mut Option<T>, own: Option<T>) {
        *preset = match (*preset, own) {
            (Some(preset), Some(own)) => Some(preset.min(own)),
            (preset, own) => preset.or(own),
        };
    }
    let own = &spec.limits;
    least(&mut limits.cpu_quota, own.cpu_percent.map(|percent| CpuQuota::nearest(u64::from(percent) * 10)));
    least(&mut limits.memory_max, own.memory);
    if let (Some(high), Some(max)) = (&mut limits.memory_high, limits.memory_max) {
        *high = (*high).min(max);
    }
    least(&mut limits.swap_max, own.swap);
    least(&mut limits.pids_max, own.processes.map(u64::from));
    limits
}

/// What the gateway holds of the preset and the budgets.
pub(super) fn egress_limits(egress: &preset::Egress, spec: &RuntimeSpec) -> EgressLimits {
    let Budget { egress: bytes, requests, .. } = spec.budget;
    let preset = launch::egress_limits(egress);
    let own = spec.limits.connections.and_then(|own| usize::try_from(own).ok()).unwrap_or(usize::MAX);
    EgressLimits { connections: preset.connections.map(|most| most.min(own)), rate: preset.rate, bytes, requests }
}

/// The id as a name of a host (RFC 1123): letters, digits and `-`.
fn host_name(id: &str) -> String {
    let name: String = id.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    name.trim_matches('-').chars().take(63).collect()
}

/// What the spec says that several places ask.
impl RuntimeSpec {
    /// Ports inside on which it listens for others or for probes.
    fn inner_ports(&self) -> Vec<u16> {
        let probed = self.health.as_ref().and_then(|health| match &health.probe {
            Probe::Http { address, .. } | Probe::Tcp { address } => Some(address.port()),
            Probe::Exec { .. } | Probe::Log { .. } | Probe::Notify => None,
        });
        let mut ports: Vec<u16> = self.publish.iter().map(|publish| publish.inner).chain(probed).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn notifies(&self) -> bool {
        matches!(self.health.as_ref().map(|health| &health.probe), Some(Probe::Notify))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_becomes_the_name_of_a_host() {
        assert_eq!(host_name("model.v2_x-"), "model-v2-x");
        assert_eq!(host_name(&"a".repeat(64)).len(), 63);
    }

    #[test]
    fn a_secret_is_read_without_its_line_end_and_never_repeated() {
        let home = tempfile::tempdir().expect("folder");
        let file = home.path().join("key");
        std::fs::write(&file, "hunter2\r\n").expect("written");
        assert_eq!(secret(&file).expect("read").as_bytes(), b"hunter2");
        std::fs::write(&file, "hunt\0er2").expect("written");
        let trouble = secret(&file).expect_err("a NUL");
        assert!(!trouble.reason.contains("hunt") && trouble.fault == LaunchFault::Refused, "{}", trouble.reason);
        std::fs::write(&file, vec![b'x'; 70_000]).expect("written");
        assert!(secret(&file).is_err());
        assert!(secret(&home.path().join("absent")).is_err());
    }
}
