//! One run: the sandbox, and everything that watches it.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::domain::{Clock, RuntimeId, Timestamp};
use crate::proxy::{EgressLimits, RuntimeGuard};
use crate::sandbox::log::{LogReader, Place};
use crate::sandbox::notify::{Notice, Notifications};
use crate::sandbox::{AdoptError, Channel, End, Exit};

use super::super::death::{ExitCause, MAX_LAST_LINES, Used};
use super::super::launch::{Confinement, Group};
use super::super::life::{LaunchFault, Report, State};
use super::super::manifest::{Probe, RuntimeSpec};
use super::super::records::Records;
use super::super::shared::Shared;
use super::super::spent::Spent;
use super::account::{self, Account};
use super::adoption::take_back;
use super::gpu::{self, Gpus};
use super::{Told, What, probe};

/// How long killed processes are waited for before the life is asked again.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long an init whose channel closed may take to vanish: both come of its end, and this comes first.
const LAST_BREATH: Duration = Duration::from_secs(1);
/// How soon an init that was taken back may not be lost again: two owners would take it from each other for ever.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the log is looked at for the line that says that the runtime is ready.
const LOOK: Duration = Duration::from_millis(100);
/// Lost and gone lines to look through for the last ones of this run.
const LINES: usize = MAX_LAST_LINES;

/// Why a launch failed.
#[derive(Debug)]
pub(in super::super) struct Trouble {
    pub(in super::super) fault: LaunchFault,
    pub(in super::super) reason: String,
}

/// What is left of a run of which nothing lives any more.
#[derive(Debug, Default)]
pub(in super::super) struct Remains {
    pub(super) used: Used,
    pub(super) lived: Duration,
    pub(super) last_lines: Vec<String>,
    pub(super) denials: u64,
    /// Bytes and requests through the gateway.
    pub(super) traffic: (u64, u64),
}

impl Remains {
    /// Of a run that ended while nobody looked: what it said last is in its log, what it used is not known.
    pub(super) fn of_the_dead(log: &LogReader, began: Timestamp, now: Timestamp) -> Self {
        Self { lived: now.since(began), last_lines: last_lines(log, began), ..Self::default() }
    }
}

/// A run of which processes may live.
#[derive(Debug)]
pub(in super::super) struct Running {
    pub(super) run: u64,
    pub(super) began: Timestamp,
    pub(super) channel: Channel,
    pub(super) group: Group,
    pub(super) guard: Arc<RuntimeGuard>,
    pub(super) confinement: Confinement,
    pub(super) account: Arc<Account>,
    pub(super) gpus: Arc<Gpus>,
    pub(super) notify: Option<Notifications>,
    pub(super) records: Records,
    shared: Arc<Shared>,
    id: RuntimeId,
    has_gpus: bool,
    /// Where its log begins.
    pub(super) from: Place,
    /// When its init was last taken back.
    regained: Option<Instant>,
    pub(super) beat: Arc<Beat>,
    /// What lasts as long as the run.
    tasks: Vec<AbortOnDropHandle<()>>,
    /// What looks after it while it is up.
    watching: Vec<AbortOnDropHandle<()>>,
    budgets: Option<AbortOnDropHandle<()>>,
}

/// When the watchdog was last heard of.
#[derive(Debug)]
pub(super) struct Beat {
    start: Instant,
    micros: AtomicU64,
    /// When it last gave a sign of life, by the clock of the day; zero before.
    heard: AtomicI64,
}

impl Beat {
    fn new() -> Self {
        Self { start: Instant::now(), micros: AtomicU64::new(0), heard: AtomicI64::new(0) }
    }

    fn now(&self) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Release);
    }

    fn heard(&self, at: Timestamp) {
        self.heard.store(at.unix_micros(), Ordering::Release);
    }

    /// The last sign of life.
    pub(super) fn heartbeat(&self) -> Option<Timestamp> {
        let micros = self.heard.load(Ordering::Acquire);
        (micros != 0).then(|| Timestamp::from_unix_micros(micros))
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_micros(self.micros.load(Ordering::Acquire))
    }
}

/// What makes a [`Running`].
pub(super) struct Parts {
    pub(super) run: u64,
    pub(super) began: Timestamp,
    pub(super) channel: Channel,
    pub(super) group: Group,
    pub(super) guard: RuntimeGuard,
    pub(super) confinement: Confinement,
    pub(super) notify: Option<Notifications>,
    pub(super) records: Records,
    pub(super) shared: Arc<Shared>,
    /// It was given GPUs, now or by a daemon before this one.
    pub(super) has_gpus: bool,
}

impl Running {
    pub(super) fn new(parts: Parts, spec: &RuntimeSpec, spent: Spent) -> Self {
        let Parts { run, began, channel, group, guard, confinement, notify, records, shared, has_gpus } = parts;
        let guard = Arc::new(guard);
        let leaf = group.leaf().cloned();
        let (clock, reports) = (Arc::clone(&shared.clock), shared.reports.clone());
        let parts = account::Parts { spent, began, clock, leaf, guard: Arc::clone(&guard), reports };
        let account = Arc::new(Account::new(spec, parts));
        Self {
            run,
            began,
            channel,
            group,
            guard,
            confinement,
            account,
            gpus: Arc::default(),
            notify,
            records,
            shared,
            id: spec.id.clone(),
            has_gpus,
            from: Place::START,
            regained: None,
            beat: Arc::new(Beat::new()),
            tasks: Vec::new(),
            watching: Vec::new(),
            budgets: None,
        }
    }

    /// Begins to hear of its end, of what it says of itself, and of its budgets.
    pub(super) fn attend(&mut self, spec: &RuntimeSpec, tell: &mpsc::Sender<Told>) {
        self.hear_of_the_end(tell);
        if let Some(notify) = self.notify.take() {
            let clock = Arc::clone(&self.shared.clock);
            self.spawn(hear(notify, Arc::clone(&self.beat), clock, self.run, tell.clone()));
        }
        if let Some(Probe::Log { text }) = spec.health.as_ref().map(|health| &health.probe) {
            let reader = LogReader::new(self.records.logs());
            self.spawn(await_line(reader, self.from, text.clone(), self.run, tell.clone()));
        }
        if self.has_gpus {
            let watch = gpu::Watch {
                accelerators: Arc::clone(&self.shared.gpus),
                holder: (self.id.clone(), self.run),
                automation: spec.automation.clone(),
                limit: spec.gpu.as_ref().and_then(|gpu| NonZeroU64::new(gpu.memory?)),
                leaf: self.group.leaf().cloned(),
                gpus: Arc::clone(&self.gpus),
                events: self.shared.events.clone(),
                tell: tell.clone(),
            };
            self.spawn(watch.run());
        }
        self.account(spec, tell);
    }

    fn hear_of_the_end(&mut self, tell: &mpsc::Sender<Told>) {
        let vigil = Vigil {
            channel: self.channel.clone(),
            group: self.group.clone(),
            records: self.records.clone(),
            run: self.run,
            regained: self.regained,
            tell: tell.clone(),
        };
        self.spawn(vigil.hold());
    }

    /// Goes on over another channel to the same init, which had dropped the one before. Its sockets are the same.
    pub(super) fn regain(&mut self, channel: Channel, spec: &RuntimeSpec, state: State, tell: &mpsc::Sender<Told>) {
        self.channel = channel;
        self.regained = Some(Instant::now());
        self.hear_of_the_end(tell);
        if !self.watching.is_empty() {
            // Probes ask over the old one.
            self.watch(spec, state, tell);
        }
    }

    /// Watches the budgets as they are declared now.
    pub(super) fn account(&mut self, spec: &RuntimeSpec, tell: &mpsc::Sender<Told>) {
        self.account.declare(spec);
        let limits = self.guard.limits();
        // The gateway counts these by itself, and would go on by the old ones.
        self.guard.set_limits(EgressLimits { bytes: spec.budget.egress, requests: spec.budget.requests, ..limits });
        self.budgets = None;
        if spec.budget != super::super::Budget::default() {
            let watch = account::watch(
                Arc::clone(&self.account),
                self.run,
                self.records.clone(),
                self.shared.events.clone(),
                tell.clone(),
            );
            self.budgets = Some(AbortOnDropHandle::new(tokio::spawn(watch)));
        }
    }

    /// Begins to probe, and to expect beats of the watchdog, counted from now, in one that is in `state`.
    pub(super) fn watch(&mut self, spec: &RuntimeSpec, state: State, tell: &mpsc::Sender<Told>) {
        self.watching.clear();
        self.beat.now();
        if let Some(health) = spec.health.clone() {
            let passed = match state {
                State::Ready => Some(true),
                State::Degraded => Some(false),
                _ => None,
            };
            let probing = probe::repeat(self.channel.clone(), health, self.run, passed, tell.clone());
            self.watching.push(AbortOnDropHandle::new(tokio::spawn(probing)));
        }
        if let Some(longest) = spec.watchdog {
            let dog = watchdog(Arc::clone(&self.beat), longest, self.run, tell.clone());
            self.watching.push(AbortOnDropHandle::new(tokio::spawn(dog)));
        }
    }

    /// Ends that.
    pub(super) fn stop_watching(&mut self) {
        self.watching.clear();
    }

    /// Lets go of its network, kills everything, and tells when nothing lives any more. Called again, it tries again.
    pub(super) fn kill(&mut self, tell: &mpsc::Sender<Told>) {
        self.watching.clear();
        self.tasks.clear();
        self.budgets = None;
        let killing = Killing {
            run: self.run,
            began: self.began,
            channel: self.channel.clone(),
            group: self.group.clone(),
            guard: Arc::clone(&self.guard),
            account: Arc::clone(&self.account),
            records: self.records.clone(),
            clock: Arc::clone(&self.shared.clock),
        };
        let (gpus, id) = (self.has_gpus.then(|| Arc::clone(&self.shared.gpus)), self.id.clone());
        let tell = tell.clone();
        self.spawn(async move {
            let run = killing.run;
            // Who is there now is who may keep the memory of its GPUs. The driver is not asked before everything is killed.
            let there = match killing.group.leaf().cloned().filter(|_| gpus.is_some()) {
                Some(leaf) => tokio::task::spawn_blocking(move || leaf.pids().unwrap_or_default()).await,
                None => Ok(BTreeSet::new()),
            };
            if let Some(remains) = killing.through().await {
                // Full or closed: the keeper asks again, or is gone.
                let _ = tell.send(Told { run, what: What::Gone(Box::new(remains)) }).await;
                if let Some(gpus) = gpus {
                    // The driver takes its time; the next launch waits for it, and this run is over. So may the daemon be.
                    tokio::task::spawn_blocking(move || {
                        let pids = there.unwrap_or_default().into_iter();
                        gpus.note(&(id.clone(), run), pids.filter_map(|pid| u32::try_from(pid).ok()));
                        // It was logged, and whoever asks for them next is told.
                        let _ = gpus.give_back(&id, run);
                    });
                }
            }
        });
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
    }
}

/// What the end of a run takes.
struct Killing {
    run: u64,
    began: Timestamp,
    channel: Channel,
    group: Group,
    guard: Arc<RuntimeGuard>,
    account: Arc<Account>,
    records: Records,
    clock: Arc<dyn Clock>,
}

impl Killing {
    /// `None`: something would not die. The life has a timer for that.
    async fn through(self) -> Option<Remains> {
        let (denials, egress) = (self.guard.denials_last_minute(), self.guard.egress());
        let traffic = self.account.traffic();
        self.guard.end();
        // Gone already is what it shall be.
        let _ = self.channel.kill();
        let leaf = self.group.leaf().cloned();
        if let Some(leaf) = leaf {
            let begun = tokio::task::spawn_blocking(move || leaf.begin_kill()).await;
            if let Ok(Err(fault)) = begun {
                tracing::warn!(run = self.run, %fault, "a kill was not taken");
            }
        }
        if tokio::time::timeout(PATIENCE, self.channel.gone()).await.is_err() {
            return None;
        }
        let lived = self.clock.now().since(self.began);
        let (group, records, began) = (self.group, self.records, self.began);
        let rest = tokio::task::spawn_blocking(move || {
            let used = group.leaf().map(|leaf| leaf.usage());
            let lines = last_lines(&LogReader::new(records.logs()), began);
            if let Err(fault) = group.end(PATIENCE) {
                tracing::warn!(%fault, "the cgroup of a runtime is not gone");
                return None;
            }
            if let Err(fault) = records.end() {
                tracing::warn!(%fault, "the record of a run that has ended stays");
            }
            Some((used, lines))
        });
        let (used, last_lines) = rest.await.ok().flatten()?;
        let cpu = used.as_ref().and_then(|used| used.cpu_seconds);
        let used = Used {
            cpu_micros: cpu.map(|seconds| (seconds.max(0.0) * 1_000_000.0) as u64),
            memory_peak: used.as_ref().and_then(|used| used.memory_peak_bytes),
            egress_up: Some(egress.bytes_up),
            egress_down: Some(egress.bytes_down),
        };
        Some(Remains { used, lived, last_lines, denials, traffic })
    }
}

fn last_lines(reader: &LogReader, began: Timestamp) -> Vec<String> {
    let lines = reader.last(LINES).map(|batch| batch.lines).unwrap_or_default();
    lines.iter().filter(|line| line.at >= began).map(|line| line.shown()).collect()
}

/// Who waits for the end of a run.
struct Vigil {
    channel: Channel,
    group: Group,
    records: Records,
    run: u64,
    regained: Option<Instant>,
    tell: mpsc::Sender<Told>,
}

impl Vigil {
    /// Tells how the command ended. An init that only has dropped this owner, because it was slow to read, is taken back.
    async fn hold(self) {
        let mut end = self.channel.ended().await;
        if end == End::Lost && tokio::time::timeout(LAST_BREATH, self.channel.gone()).await.is_err() {
            match self.take_back().await {
                Ok(channel) => return self.say(What::Regained(channel)).await,
                Err(AdoptError::Gone(exit)) => end = exit.map_or(End::Lost, End::Exit),
                Err(fault) => {
                    tracing::error!(run = self.run, %fault, "a run that has dropped its owner is ended");
                }
            }
        }
        let leaf = self.group.leaf().cloned();
        let oom = tokio::task::spawn_blocking(move || leaf.and_then(|leaf| leaf.events().oom_kills).unwrap_or(0) > 0);
        let oom = oom.await.unwrap_or(false);
        self.say(What::Report(Report::Exited(cause(end, oom)))).await;
    }

    async fn take_back(&self) -> Result<Channel, AdoptError> {
        if self.regained.is_some_and(|at| at.elapsed() < AGAIN) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it was taken away again").into());
        }
        take_back(&self.records).await
    }

    async fn say(&self, what: What) {
        let _ = self.tell.send(Told { run: self.run, what }).await;
    }
}

/// Why it ended, from how it ended and whether the kernel took a process for its memory.
pub(super) fn cause(end: End, oom: bool) -> ExitCause {
    let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match end {
        // The filter ends a process with SIGSYS (seccomp(2)).
        End::Exit(Exit::Signal(nix::libc::SIGSYS)) => ExitCause::Seccomp,
        End::Exit(Exit::Signal(nix::libc::SIGKILL)) | End::Lost if oom => ExitCause::Oom,
        // What it started was taken, and it gave up for that; 137 is how a shell says so.
        End::Exit(Exit::Code(137)) if oom => ExitCause::Oom,
        End::Exit(Exit::Signal(signal)) => ExitCause::Signal { signal: number(signal) },
        End::Exit(Exit::Code(code)) => ExitCause::Exit { code: number(code) },
        End::Lost => ExitCause::Signal { signal: number(nix::libc::SIGKILL) },
    }
}

/// Passes on what the runtime says of itself.
async fn hear(mut notify: Notifications, beat: Arc<Beat>, clock: Arc<dyn Clock>, run: u64, tell: mpsc::Sender<Told>) {
    // An error is the end of the socket, and so of the run.
    while let Ok(message) = notify.next().await {
        if message.notices.iter().any(|notice| matches!(notice, Notice::Watchdog | Notice::Status(_))) {
            beat.heard(clock.now());
        }
        for notice in message.notices {
            let what = match notice {
                Notice::Ready => What::Report(Report::Ready),
                Notice::WatchdogTrigger => What::Report(Report::WatchdogMissed),
                Notice::Status(text) => What::Status(text),
                Notice::Watchdog => {
                    beat.now();
                    continue;
                }
                Notice::Stopping | Notice::Reloading => continue,
            };
            if tell.send(Told { run, what }).await.is_err() {
                return;
            }
        }
    }
}

/// Tells when a beat is missed.
async fn watchdog(beat: Arc<Beat>, longest: Duration, run: u64, tell: mpsc::Sender<Told>) {
    loop {
        let due = beat.last() + longest;
        if Instant::now() >= due {
            let _ = tell.send(Told { run, what: What::Report(Report::WatchdogMissed) }).await;
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

/// Waits for the line that says that the runtime is ready.
async fn await_line(reader: LogReader, from: Place, text: String, run: u64, tell: mpsc::Sender<Told>) {
    let reader = Arc::new(reader);
    let mut place = from;
    loop {
        let (again, from) = (Arc::clone(&reader), place);
        let read = tokio::task::spawn_blocking(move || again.since(from)).await;
        let Ok(Ok(batch)) = read else { return };
        let holds = |line: &[u8]| memchr::memmem::find(line, text.as_bytes()).is_some();
        if batch.lines.iter().any(|line| holds(&line.text)) {
            let _ = tell.send(Told { run, what: What::Report(Report::Ready) }).await;
            return;
        }
        place = batch.next;
        if !batch.more {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_put_down_to_its_cause() {
        let exit = |code| End::Exit(Exit::Code(code));
        let signal = |number| End::Exit(Exit::Signal(number));
        for (end, oom, expected) in [
            (exit(0), false, ExitCause::Exit { code: 0 }),
            (exit(3), true, ExitCause::Exit { code: 3 }),
            (exit(137), true, ExitCause::Oom),
            (exit(137), false, ExitCause::Exit { code: 137 }),
            (signal(9), true, ExitCause::Oom),
            (signal(9), false, ExitCause::Signal { signal: 9 }),
            (signal(31), false, ExitCause::Seccomp),
            (signal(11), true, ExitCause::Signal { signal: 11 }),
            (End::Lost, true, ExitCause::Oom),
            (End::Lost, false, ExitCause::Signal { signal: 9 }),
        ] {
            assert_eq!(cause(end, oom), expected, "{end:?} {oom}");
        }
    }
}
