//! One runtime's life as a pure machine: `(Life, Event, &Policy, now) -> (Life, effects)`.
//!
//! ```text
//!  stopped ─ Launch ─> starting ─> ready <─> degraded          Every launch has a number, the *run*. A report
//!     ^                   │          │ ^        │              about another run than the present one is ignored.
//!     │                   │          v │        │
//!     │                   │        frozen       │              Whatever the end, it goes through `stopping`:
//!     │                   v          v          v
//!     └─── KillDone ── stopping: [wait for the launcher] ─> signal ─> grace ─> KillAll ─> KillDone
//! ```
//!
//! Only `KillDone` leads out of `stopping`, and only states without a process lead to `Launch`: so there is no
//! launch while a process may live, the grandchildren that a program left behind included.
//!
//! What the owner of the processes must hold:
//! - each [`Effect::Launch`] is answered by `Launched` or `LaunchFailed`, once, also when the launcher died;
//! - `KillDone` is reported after [`Effect::KillAll`] when the cgroup is empty, not before;
//! - timers run on a clock that nobody sets, and each fires at most once, not early;
//! - effects are done in their order: what is to persist is on disk before the launch that follows it.

mod step;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;
use crate::domain::codes;

use super::death::{Cause, Death, ExitCause};
use super::names::RestartRule;
use super::order::Progress;
use super::window::{Backoff, RestartWindow};

pub use step::step;

codes! {
    /// The states that operators see.
    State {
        /// A process was asked for and is not ready yet.
        Starting => "starting",
        /// It does its work, or idles: that is the same.
        Ready => "ready",
        /// It was ready, and probes fail.
        Degraded => "degraded",
        /// It is being ended.
        Stopping => "stopping",
        /// No process, and none is wanted.
        Stopped => "stopped",
        /// It failed, and waits for its next start.
        Backoff => "backoff",
        /// It failed too often; only an operator's `restore` starts it again.
        Quarantined => "quarantined",
        /// Its processes are held still.
        Frozen => "frozen",
        /// It cannot be launched as it is declared.
        Error => "error",
    }
}

codes! {
    /// Who wants a start.
    Origin {
        /// A person or an admin's program.
        Operator => "operator",
        /// `auto_start`, when the daemon came up or the manifest was read.
        Boot => "boot",
        /// The clock.
        Schedule => "schedule",
        /// Somebody connected to one of its published ports.
        Demand => "demand",
        /// A runtime that depends on it.
        Dependent => "dependent",
    }
}

codes! {
    /// Why a runtime is not well.
    HealthReason {
        /// It is well.
        Well => "well",
        /// It was not ready within its grace.
        NotReady => "not_ready",
        /// A probe failed.
        ProbeFailed => "probe_failed",
        /// It missed a beat of its watchdog.
        WatchdogMissed => "watchdog_missed",
        /// The launch failed.
        LaunchFailed => "launch_failed",
        /// The launch was refused: what is declared cannot be had here.
        LaunchRefused => "launch_refused",
        /// It ended with a code other than 0.
        ExitedWithFailure => "exited_with_failure",
        /// It ended by a signal.
        Signalled => "signalled",
        /// The kernel ended it for its memory.
        OutOfMemory => "out_of_memory",
        /// It made a system call that its profile refuses.
        SystemCallRefused => "system_call_refused",
        /// Its budget is spent.
        BudgetExhausted => "budget_exhausted",
        /// Its restart budget is spent.
        RestartsExhausted => "restarts_exhausted",
        /// Processes are still there long after they were killed.
        KillOverdue => "kill_overdue",
        /// Its GPU fell off the bus, or the driver no longer knows it.
        GpuLost => "gpu_lost",
        /// Its GPU must be reset.
        GpuResetRequired => "gpu_reset_required",
        /// Its GPU has memory errors that could not be corrected.
        GpuEccUncorrected => "gpu_ecc_uncorrected",
        /// The driver reported an error of its GPU.
        GpuXidDevice => "gpu_xid_device",
        /// The power cable of its GPU is not properly attached.
        GpuPowerCable => "gpu_power_cable",
        /// The kernel has trouble with the interrupts of its GPU.
        GpuInterruptFault => "gpu_interrupt_fault",
        /// The daemon may not talk to its GPU.
        GpuNoPermission => "gpu_no_permission",
        /// The driver of its GPU and its library differ.
        GpuVersionMismatch => "gpu_version_mismatch",
    }
}

codes! {
    /// What an operator can ask for.
    Request {
        /// Start it.
        Start => "start",
        /// End it and start it again.
        Restart => "restart",
        /// Hold it still.
        Freeze => "freeze",
        /// Let it go on.
        Thaw => "thaw",
    }
}

codes! {
    /// What a timer is for.
    TimerKind {
        /// The end of the time in which it has to be ready.
        Startup => "startup",
        /// The end of the time to end by itself.
        Grace => "grace",
        /// A look at whether the killed are gone.
        Kill => "kill",
        /// The next start.
        Backoff => "backoff",
        /// The healthy stretch that pays the restart budget back.
        Healthy => "healthy",
    }
}

/// One timer. Only the newest of a runtime means anything; others are ignored when they fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// What for.
    pub kind: TimerKind,
    /// Which one.
    pub serial: u64,
}

/// What the machine goes by, from the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// When it is started again.
    pub restart: RestartRule,
    /// Most restarts within `window`.
    pub max_restarts: usize,
    /// The window; also the healthy stretch after which the whole budget is paid back.
    pub window: Duration,
    /// How long a restart waits.
    pub backoff: Backoff,
    /// When it counts as ready.
    pub readiness: Readiness,
    /// Failed probes in a row until it is restarted; at least 1.
    pub failure_threshold: u32,
    /// From the signal that asks it to end until everything is killed.
    pub stop_grace: Duration,
}

/// When a runtime counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// As soon as it was launched.
    AtOnce,
    /// When it says so or a probe passes, within this time.
    Within(Duration),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A start is wanted.
    StartRequested(Origin),
    /// An operator or the kill switch wants it to end and stay so.
    StopRequested,
    /// What is asked to end already has less time for it: its policy's grace from now on.
    Hastened,
    /// An operator wants it to end and start again.
    RestartRequested,
    /// An operator gives the restart budget back, and starts it if it had been given up.
    Restore,
    /// An operator wants it held still.
    Freeze,
    /// An operator wants it to go on.
    Thaw,
    /// One of its budgets is spent: the hard stop.
    BudgetExhausted,
    /// A timer fired.
    TimerFired(Timer),
    /// Something happened to a process of a run.
    Process {
        /// The run.
        run: u64,
        /// What.
        report: Report,
    },
}

/// What happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The command was executed.
    Launched,
    /// It was not.
    LaunchFailed(LaunchFault),
    /// It said that it is ready: `sd_notify(3)` or a line of its log.
    Ready,
    /// A probe passed.
    ProbePassed,
    /// A probe failed.
    ProbeFailed,
    /// It missed a beat of its watchdog.
    WatchdogMissed,
    /// One of its GPUs cannot be used any more; why.
    GpuFailed(HealthReason),
    /// Its GPUs can be used again.
    GpuWell,
    /// Its main process ended. Others of its cgroup may still live.
    Exited(ExitCause),
    /// After [`Effect::KillAll`]: its cgroup is empty.
    KillDone,
}

/// Why a command was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchFault {
    /// It will not be, as it is declared: a required control is missing, a file is not there, a consent is missing.
    Refused,
    /// It may be another time.
    Failed,
    /// Not now: the kill switch is latched, or it was disabled. That says nothing about the runtime.
    Barred,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Launch a new run.
    Launch {
        /// Its number, never used before.
        run: u64,
        /// Why.
        why: Why,
    },
    /// Begin to probe and to expect beats of the watchdog, counted from now.
    StartWatching {
        /// The run.
        run: u64,
    },
    /// End that.
    StopWatching {
        /// The run.
        run: u64,
    },
    /// Fire this timer after that time. It replaces the runtime's timer before it.
    ArmTimer {
        /// The timer.
        timer: Timer,
        /// From now, on a clock that nobody sets.
        after: Duration,
    },
    /// Signal the main process.
    SendSignal {
        /// The run.
        run: u64,
        /// Which.
        signal: Signal,
    },
    /// Kill every process of the cgroup, and report `KillDone` when it is empty.
    KillAll {
        /// The run.
        run: u64,
    },
    /// Hold all its processes still.
    Freeze {
        /// The run.
        run: u64,
    },
    /// Let them go on.
    Thaw {
        /// The run.
        run: u64,
    },
    /// Write down how it ended.
    WriteDeathRecord(Death),
    /// Put this on disk before the next effect.
    Persist(Saved),
    /// Tell whoever listens.
    Publish(Notice),
}

/// A signal to a main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: end.
    Terminate,
    /// SIGABRT: end, and leave a trace of where you hung.
    Abort,
}

/// Why a run is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was asked for.
    Asked(Origin),
    /// It had failed or ended; counted in the restart window.
    Restart,
    /// An operator restored it.
    Restore,
}

/// News of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Its state changed.
    StateChanged {
        /// Before.
        from: State,
        /// Now.
        to: State,
    },
    /// Its health changed.
    Health(HealthReason),
    /// It was given up: an alert.
    Quarantined,
    /// Its restart budget was paid back by a healthy stretch.
    BudgetPaidBack,
    /// An operator asked for a restore.
    RestoreRequested,
    /// The restored runtime is ready.
    RestoreCompleted,
    /// What was asked for cannot be had in this state.
    Refused {
        /// What.
        request: Request,
        /// The state.
        state: State,
    },
}

/// What outlives the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The number of the last run.
    pub runs: u64,
    /// The restarts of late.
    pub restarts: RestartWindow,
    /// It was given up.
    pub quarantined: bool,
    /// The last run failed: the next start that no operator asked for is a restart.
    pub failed: bool,
}

/// How a daemon that came back finds a runtime that went on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Running,
    /// It is held still.
    Frozen,
}

/// One runtime's life. Its state is private: it changes by [`step()`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    phase: Phase,
    saved: Saved,
    /// Serial of the newest timer.
    timers: u64,
    /// How the last run ended.
    last: Option<Cause>,
    /// A restore waits for the runtime to be ready.
    restoring: bool,
}

/// One launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    number: u64,
    began: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stopped,
    /// The launcher has not answered.
    Launching(Run),
    /// Launched, not ready.
    Starting(Run, Timer),
    Ready(Run, Timer),
    Degraded(Run, u32),
    Frozen(Run, Awake),
    Stopping(Stop),
    Backoff(Timer),
    Quarantined,
    Error,
}

/// What a frozen runtime comes back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awake {
    Ready,
    Degraded(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stop {
    run: Run,
    stage: Stage,
    /// `None`: nothing was ever executed.
    cause: Option<Cause>,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The launcher has not answered: what does not exist yet cannot be signalled, and what is killed now
    /// may be launched after.
    Launching,
    /// It was asked to end.
    Asked(Timer),
    /// It is killed.
    Killing(Timer),
}

/// What comes after a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Nothing.
    Rest,
    /// The restart policy says.
    Judge,
    /// A launch, since an operator wants one.
    Launch,
    /// Nothing, until the declaration changes.
    GiveUp,
}

impl Life {
    /// A runtime of which no process lives.
    pub const fn new(saved: Saved) -> Self {
        let phase = if saved.quarantined { Phase::Quarantined } else { Phase::Stopped };
        Self { phase, saved, timers: 0, last: None, restoring: false }
    }

    /// A runtime that went on without the daemon as `run`, launched at `began`, and what to do about it. One
    /// that has readiness to prove gets the time for it anew.
    pub fn adopt(saved: Saved, run: u64, began: Timestamp, found: Found, policy: &Policy) -> (Self, Vec<Effect>) {
        step::adopt(Self::new(saved), Run { number: run, began }, found, policy)
    }

    /// The state that operators see.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Stopped => State::Stopped,
            Phase::Launching(_) | Phase::Starting(..) => State::Starting,
            Phase::Ready(..) => State::Ready,
            Phase::Degraded(..) => State::Degraded,
            Phase::Frozen(..) => State::Frozen,
            Phase::Stopping(_) => State::Stopping,
            Phase::Backoff(_) => State::Backoff,
            Phase::Quarantined => State::Quarantined,
            Phase::Error => State::Error,
        }
    }

    /// The run of which a process may live.
    pub const fn run(&self) -> Option<u64> {
        match self.phase {
            Phase::Launching(run)
            | Phase::Starting(run, _)
            | Phase::Ready(run, _)
            | Phase::Degraded(run, _)
            | Phase::Frozen(run, _)
            | Phase::Stopping(Stop { run, .. }) => Some(run.number),
            Phase::Stopped | Phase::Backoff(_) | Phase::Quarantined | Phase::Error => None,
        }
    }

    /// How the last run ended, as far as this daemon saw it.
    pub const fn last(&self) -> Option<Cause> {
        self.last
    }

    /// What outlives the daemon.
    pub const fn saved(&self) -> &Saved {
        &self.saved
    }

    /// How far it has come, for those that depend on it.
    pub const fn progress(&self) -> Progress {
        match (self.phase, self.last) {
            (Phase::Stopped, Some(Cause::Exit { code: 0 })) => Progress::Completed,
            (Phase::Stopped, None | Some(Cause::Operator)) => Progress::Idle,
            (Phase::Stopped, Some(_)) | (Phase::Quarantined | Phase::Error, _) => Progress::Failed,
            (Phase::Launching(_) | Phase::Stopping(_) | Phase::Backoff(_), _) => Progress::Coming,
            (Phase::Starting(..) | Phase::Degraded(..) | Phase::Frozen(..), _) => Progress::Started,
            (Phase::Ready(..), _) => Progress::Ready,
        }
    }
}
