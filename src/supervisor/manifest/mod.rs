//! What an operator declared, understood: every value of these types was checked.
//!
//! ```text
//! RuntimesFile (config) ── read ──> Manifest      or every fault at once
//! diff(old, new) ──> Change, Change, …            what a reload applies; the rest goes on untouched
//! ```

mod diff;
mod health;
mod process;
mod read;
mod read_runtime;

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{AutomationId, Money, PersonaId, RuntimeId};

use super::life::{Policy, Readiness};
use super::names::{Accelerator, Condition, RestartRule};
use super::publish::Publish;
use super::schedule::Schedule;
use super::spent::Window;
use super::window::Backoff;
use crate::sandbox::preset::PresetName;
use crate::sandbox::{Control, ProfileName};

pub use diff::{Change, diff};
pub use health::{Health, Probe};
pub use process::Process;
pub use read::{MAX_RUNTIMES, read};
pub use read_runtime::{narrow_budget, schedule_of};

/// All runtimes that are declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    runtimes: BTreeMap<RuntimeId, Arc<RuntimeSpec>>,
}

/// What the environment and the server's file set for runtimes that do not say it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// `ARW_RUNTIME_RESTART_MAX`.
    pub restart_max: u64,
    /// `ARW_RUNTIME_RESTART_WINDOW_SEC`.
    pub restart_window: Duration,
    /// `ARW_RUNTIME_HEALTH_INTERVAL_MS`.
    pub health_interval: Duration,
    /// `ARW_AUTONOMY_MAX_RUNTIME`: the wall time of one that has no budget of it.
    pub wall_time: Option<Duration>,
    /// `ARW_PERF_PRESET`: that of a runtime that names none. One above eco needs its justification all the same.
    pub preset: PresetName,
}

/// One runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSpec {
    /// Its id.
    pub id: RuntimeId,
    /// The automation that it is run for; the one of its own name where none is declared.
    pub automation: AutomationId,
    /// What people call it; its id where nothing else is said.
    pub name: String,
    /// Who its traffic leaves as.
    pub persona: PersonaId,
    /// Its confinement.
    pub profile: ProfileName,
    /// Its resources.
    pub preset: PresetName,
    /// Why it needs more than eco.
    pub justification: Option<String>,
    /// What it computes on.
    pub accelerator: Accelerator,
    /// Started when the daemon comes up.
    pub auto_start: bool,
    /// Started by the clock.
    pub schedule: Option<Schedule>,
    /// What has to be there first.
    pub depends_on: Vec<Dependency>,
    /// For finding it.
    pub tags: Vec<String>,
    /// The consent scopes that it reads data under.
    pub consent: Vec<String>,
    /// Ports that the host can reach.
    pub publish: Vec<Publish>,
    /// Controls without which it is not launched, besides those of its profile.
    pub require: Vec<Control>,
    /// What is executed.
    pub process: Process,
    /// How it is looked after.
    pub health: Option<Health>,
    /// The longest time between two beats of its watchdog.
    pub watchdog: Option<Duration>,
    /// When it is started again.
    pub restart: RestartRule,
    /// Most restarts within `restart_window`.
    pub restart_max: usize,
    /// The window.
    pub restart_window: Duration,
    /// How long a restart waits.
    pub backoff: Backoff,
    /// What it may use up in all.
    pub budget: Budget,
    /// What it may use at one time; narrows its preset.
    pub limits: Limits,
    /// Its GPUs; there when `accelerator` is `gpu`.
    pub gpu: Option<Gpu>,
}

/// Something that has to be there first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// On which runtime.
    pub on: RuntimeId,
    /// How far that must have come.
    pub condition: Condition,
}

impl std::fmt::Display for Dependency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.on, self.condition)
    }
}

/// What a runtime may use up in a window; `None` is no budget of that kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Time from launch to end.
    pub wall_time: Option<Duration>,
    /// CPU time of all processes.
    pub cpu_time: Option<Duration>,
    /// GPU time.
    pub gpu_time: Option<Duration>,
    /// Bytes through the gateway, both directions.
    pub egress: Option<u64>,
    /// Requests to leave.
    pub requests: Option<u64>,
    /// Tokens, as reported by the automation.
    pub tokens: Option<u64>,
    /// Money, as reported by the automation.
    pub spend: Option<Money>,
    /// How long all of these last.
    pub window: Window,
}

/// What a runtime may use at one time; `None` is what its preset and profile say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hundredths of one processor: 150 is one and a half.
    pub cpu_percent: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes; zero is none.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u32>,
    /// Descriptors of one process.
    pub open_files: Option<u32>,
    /// Connections open at once.
    pub connections: Option<u32>,
}

/// The GPUs of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Which.
    pub choice: GpuChoice,
    /// Bytes of GPU memory on each: warned about, then stopped for.
    pub memory: Option<u64>,
}

/// Which GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuChoice {
    /// As many of those that are free.
    Count(u32),
    /// These, as the driver names them.
    Uuids(Vec<String>),
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            restart_max: 3,
            restart_window: Duration::from_secs(600),
            health_interval: Duration::from_secs(10),
            preset: PresetName::Eco,
            wall_time: None,
        }
    }
}

impl Manifest {
    /// Every runtime, in the order of their ids.
    pub fn runtimes(&self) -> impl ExactSizeIterator<Item = &Arc<RuntimeSpec>> {
        self.runtimes.values()
    }

    /// The same manifest with each runtime as `change` leaves it. Ids stay.
    #[must_use]
    pub fn with(self, change: impl Fn(&mut RuntimeSpec)) -> Self {
        let runtimes = self.runtimes.into_iter().map(|(id, spec)| {
            let mut spec = Arc::unwrap_or_clone(spec);
            change(&mut spec);
            debug_assert_eq!(spec.id, id);
            (id, Arc::new(spec))
        });
        Self { runtimes: runtimes.collect() }
    }

    /// The same manifest with one more runtime, where there is room and its id is free.
    pub fn including(&mut self, spec: Arc<RuntimeSpec>) -> bool {
        let free = self.runtimes.len() < MAX_RUNTIMES && !self.runtimes.contains_key(&spec.id);
        if free {
            self.runtimes.insert(spec.id.clone(), spec);
        }
        free
    }

    /// The runtime of that id.
    pub fn runtime(&self, id: &RuntimeId) -> Option<&Arc<RuntimeSpec>> {
        self.runtimes.get(id)
    }
}

/// The automation of a runtime that none is declared for.
pub(super) fn own_automation(id: &RuntimeId) -> AutomationId {
    AutomationId::parse(id.as_str()).expect("all kinds of id have one form")
}

impl RuntimeSpec {
    /// What its state machine goes by.
    pub fn policy(&self) -> Policy {
        Policy {
            restart: self.restart,
            max_restarts: self.restart_max,
            window: self.restart_window,
            backoff: self.backoff,
            readiness: self.health.as_ref().map_or(Readiness::AtOnce, |health| Readiness::Within(health.grace)),
            failure_threshold: self.health.as_ref().map_or(1, |health| health.failure_threshold),
            stop_grace: self.process.stop_grace,
        }
    }

    /// What of it needs a launch, hashed: a later daemon compares it with what it finds declared. The first word is the
    /// version of the form, so that an upgrade that adds to it launches nothing anew.
    pub(super) fn declared(&self) -> String {
        use sha2::{Digest, Sha256};
        let process = &self.process;
        let keys = (
            (self.persona.as_str(), self.profile.code(), self.preset.code(), self.accelerator.code()),
            (&process.command, &process.args, &process.env, &process.secrets, &process.workdir, process.user),
            (
                &self.consent,
                self.publish.iter().map(ToString::to_string).collect::<Vec<_>>(),
                self.require.iter().map(|name| name.code()).collect::<Vec<_>>(),
                self.watchdog,
            ),
            format!("{:?} {:?} {:?}", self.limits, self.gpu, process.workspaces),
        );
        // Lists, texts and numbers always have a JSON form.
        let json = serde_json::to_vec(&keys).unwrap_or_default();
        let hash: String = Sha256::digest(&json).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("1 {hash}")
    }

    /// What stands in for a runtime that is not declared any more, until what is left of it has ended.
    pub(super) fn stranger(id: RuntimeId) -> Self {
        let defaults = Defaults::default();
        // An id is a persona's name as well: all have one form.
        let persona = PersonaId::parse(id.as_str()).expect("all kinds of id have one form");
        let window = defaults.restart_window;
        Self {
            name: id.to_string(),
            automation: own_automation(&id),
            id,
            persona,
            profile: ProfileName::Standard,
            preset: PresetName::Eco,
            justification: None,
            accelerator: Accelerator::None,
            auto_start: false,
            schedule: None,
            depends_on: Vec::new(),
            tags: Vec::new(),
            consent: Vec::new(),
            publish: Vec::new(),
            require: Vec::new(),
            process: Process::nothing(),
            health: None,
            watchdog: None,
            restart: RestartRule::No,
            restart_max: 0,
            restart_window: window,
            backoff: Backoff { base: window, max: window },
            budget: Budget::default(),
            limits: Limits::default(),
            gpu: None,
        }
    }

    /// The files that hold its secrets.
    pub fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.process.secrets.iter().map(|(_, file)| file)
    }
}
