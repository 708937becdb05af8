//! The transitions.

use std::time::Duration;

use crate::domain::Timestamp;

use super::super::death::{Cause, Death, ExitCause};
use super::super::names::RestartRule;
use super::{
    Awake, Effect, Event, Found, HealthReason, LaunchFault, Life, Notice, Origin, Phase, Policy, Readiness, Report,
    Request, Run, Signal, Stage, State, Stop, Then, Timer, TimerKind, Why,
};

/// How long after a kill to look again: processes in an uninterruptible sleep need the device that they wait for.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// What happens to `life` when `event` happened at `now`, and what is to be done about it.
///
/// `draw(n)` gives a random number of `0..=n`; it spreads restarts. Every event is taken in every state: what does
/// not apply is ignored, and a request that cannot be had is refused by a notice.
pub fn step(
    life: Life,
    event: Event,
    policy: &Policy,
    now: Timestamp,
    draw: &mut dyn FnMut(u64) -> u64,
) -> (Life, Vec<Effect>) {
    let from = life.state();
    let mut turn = Turn { life, effects: Vec::new(), policy, now };
    match event {
        Event::StartRequested(origin) => turn.start(origin, draw),
        Event::StopRequested => turn.stop(Cause::Operator),
        Event::Hastened => turn.hasten(),
        Event::BudgetExhausted => turn.stop(Cause::Budget),
        Event::RestartRequested => turn.start_again(),
        Event::Restore => turn.restore(),
        Event::Freeze => turn.freeze(),
        Event::Thaw => turn.thaw(),
        Event::TimerFired(timer) => turn.timer(timer),
        Event::Process { run, report } => {
            if turn.life.run() == Some(run) {
                turn.report(report, draw);
            }
        }
    }
    turn.end(from)
}

/// See [`Life::adopt`].
pub(super) fn adopt(mut life: Life, run: Run, found: Found, policy: &Policy) -> (Life, Vec<Effect>) {
    let from = life.state();
    life.saved.runs = life.saved.runs.max(run.number);
    let mut turn = Turn { life, effects: Vec::new(), policy, now: run.began };
    turn.life.phase = Phase::Launching(run);
    match found {
        // Nothing lives in a quarantine. Whatever this is, it does not go on.
        _ if turn.life.saved.quarantined => turn.kill(None, Then::Rest),
        Found::Running => turn.up(run),
        Found::Frozen => turn.life.phase = Phase::Frozen(run, Awake::Ready),
    }
    turn.end(from)
}

/// One event being handled.
struct Turn<'p> {
    life: Life,
    effects: Vec<Effect>,
    policy: &'p Policy,
    now: Timestamp,
}

impl Turn<'_> {
    fn end(mut self, from: State) -> (Life, Vec<Effect>) {
        let to = self.life.state();
        if from != to {
            self.publish(Notice::StateChanged { from, to });
        }
        (self.life, self.effects)
    }

    fn start(&mut self, origin: Origin, draw: &mut dyn FnMut(u64) -> u64) {
        let by_operator = origin == Origin::Operator;
        match self.life.phase {
            // Else whoever can connect to a published port could restart a failing runtime without end.
            Phase::Stopped if self.life.saved.failed && !by_operator => self.restart(draw),
            Phase::Stopped => self.launch(Why::Asked(origin)),
            Phase::Backoff(_) | Phase::Error if by_operator => self.launch(Why::Asked(origin)),
            Phase::Stopping(stop) if by_operator => {
                self.life.phase = Phase::Stopping(Stop { then: Then::Launch, ..stop })
            }
            Phase::Quarantined | Phase::Error => self.refuse(Request::Start),
            Phase::Backoff(_)
            | Phase::Stopping(_)
            | Phase::Launching(_)
            | Phase::Starting(..)
            | Phase::Ready(..)
            | Phase::Degraded(..)
            | Phase::Frozen(..) => {}
        }
    }

    /// An operator or a budget ends it, and it stays so.
    fn stop(&mut self, cause: Cause) {
        match self.life.phase {
            Phase::Stopping(stop) => self.life.phase = Phase::Stopping(Stop { then: Then::Rest, ..stop }),
            Phase::Backoff(_) => self.life.phase = Phase::Stopped,
            // A quarantine outlives a stop: else stop and start would be the way out of it.
            Phase::Stopped | Phase::Quarantined | Phase::Error => {}
            Phase::Launching(_) | Phase::Starting(..) | Phase::Ready(..) | Phase::Degraded(..) | Phase::Frozen(..) => {
                if cause == Cause::Budget {
                    self.health(HealthReason::BudgetExhausted);
                }
                self.ask(Signal::Terminate, cause, Then::Rest);
            }
        }
    }

    /// The timer of the longer grace is one of a state that was left.
    fn hasten(&mut self) {
        if let Phase::Stopping(Stop { stage: Stage::Asked(_), run, cause, then }) = self.life.phase {
            let stage = Stage::Asked(self.arm(TimerKind::Grace, self.policy.stop_grace));
            self.life.phase = Phase::Stopping(Stop { run, stage, cause, then });
        }
    }

    fn start_again(&mut self) {
        match self.life.phase {
            Phase::Stopped | Phase::Backoff(_) | Phase::Error => self.launch(Why::Asked(Origin::Operator)),
            Phase::Quarantined => self.refuse(Request::Restart),
            Phase::Stopping(stop) => self.life.phase = Phase::Stopping(Stop { then: Then::Launch, ..stop }),
            Phase::Launching(_) | Phase::Starting(..) | Phase::Ready(..) | Phase::Degraded(..) | Phase::Frozen(..) => {
                self.ask(Signal::Terminate, Cause::Operator, Then::Launch);
            }
        }
    }

    fn restore(&mut self) {
        self.publish(Notice::RestoreRequested);
        self.life.saved.restarts.pay_back();
        self.life.saved.quarantined = false;
        self.life.saved.failed = false;
        if matches!(self.life.phase, Phase::Quarantined | Phase::Error | Phase::Backoff(_)) {
            self.launch(Why::Restore);
            self.life.restoring = true;
        } else {
            self.persist();
            self.publish(Notice::RestoreCompleted);
        }
    }

    fn freeze(&mut self) {
        let (run, awake) = match self.life.phase {
            Phase::Ready(run, _) => (run, Awake::Ready),
            Phase::Degraded(run, failures) => (run, Awake::Degraded(failures)),
            Phase::Frozen(..) => return,
            _ => return self.refuse(Request::Freeze),
        };
        // What is held still answers no probe and beats no watchdog.
        self.perform(Effect::StopWatching { run: run.number });
        self.perform(Effect::Freeze { run: run.number });
        self.life.phase = Phase::Frozen(run, awake);
    }

    fn thaw(&mut self) {
        let Phase::Frozen(run, awake) = self.life.phase else { return self.refuse(Request::Thaw) };
        self.perform(Effect::Thaw { run: run.number });
        self.perform(Effect::StartWatching { run: run.number });
        match awake {
            Awake::Ready => self.ready(run),
            Awake::Degraded(failures) => self.life.phase = Phase::Degraded(run, failures),
        }
    }

    fn timer(&mut self, timer: Timer) {
        match self.life.phase {
            Phase::Starting(_, armed) if armed == timer => {
                self.health(HealthReason::NotReady);
                self.ask(Signal::Terminate, Cause::Probe, Then::Judge);
            }
            Phase::Ready(_, armed) if armed == timer => self.pay_back(),
            Phase::Stopping(Stop { stage: Stage::Asked(armed), cause, then, .. }) if armed == timer => {
                self.kill(cause, then);
            }
            Phase::Stopping(Stop { stage: Stage::Killing(armed), cause, then, .. }) if armed == timer => {
                self.health(HealthReason::KillOverdue);
                self.kill(cause, then);
            }
            Phase::Backoff(armed) if armed == timer => self.restart_now(),
            // A timer of a state that was left.
            _ => {}
        }
    }

    fn report(&mut self, report: Report, draw: &mut dyn FnMut(u64) -> u64) {
        match (report, self.life.phase) {
            (Report::Launched, Phase::Launching(run)) => self.up(run),
            (Report::Launched, Phase::Stopping(stop)) if stop.stage == Stage::Launching => {
                let cause = stop.cause.unwrap_or(Cause::Operator);
                self.signal(stop.run, Signal::Terminate, cause, stop.then);
            }
            (Report::LaunchFailed(fault), phase) => self.launch_failed(fault, phase),
            (Report::Ready, Phase::Launching(run)) => {
                // It was quicker than its launcher.
                self.perform(Effect::StartWatching { run: run.number });
                self.ready(run);
            }
            (Report::Ready | Report::ProbePassed, Phase::Starting(run, _)) => self.ready(run),
            (Report::ProbePassed, Phase::Degraded(run, _)) => self.ready(run),
            (Report::ProbeFailed, Phase::Ready(run, _)) => self.probe_failed(run, 1),
            (Report::ProbeFailed, Phase::Degraded(run, failures)) => self.probe_failed(run, failures.saturating_add(1)),
            // Its program may still have something to save, and nothing could start on that GPU: it is only told.
            (Report::GpuFailed(reason), Phase::Ready(run, _)) => {
                self.health(reason);
                self.life.phase = Phase::Degraded(run, 0);
            }
            (Report::GpuWell, Phase::Degraded(run, 0)) => self.ready(run),
            (Report::WatchdogMissed, Phase::Starting(..) | Phase::Ready(..) | Phase::Degraded(..)) => {
                self.health(HealthReason::WatchdogMissed);
                self.ask(Signal::Abort, Cause::Watchdog, Then::Judge);
            }
            (Report::Exited(cause), phase) => self.exited(cause, phase),
            (Report::KillDone, Phase::Stopping(stop)) if matches!(stop.stage, Stage::Killing(_)) => {
                self.settle(stop, draw);
            }
            _ => {}
        }
    }

    fn launch_failed(&mut self, fault: LaunchFault, phase: Phase) {
        let then = match phase {
            Phase::Stopping(Stop { stage: Stage::Killing(_), .. }) => return,
            Phase::Stopping(stop) => stop.then,
            _ => match fault {
                LaunchFault::Refused => Then::GiveUp,
                LaunchFault::Failed => Then::Judge,
                LaunchFault::Barred => Then::Rest,
            },
        };
        match fault {
            LaunchFault::Refused => self.health(HealthReason::LaunchRefused),
            LaunchFault::Failed => self.health(HealthReason::LaunchFailed),
            LaunchFault::Barred => {}
        }
        // Whatever half of a launch may be left goes too.
        self.kill(None, then);
    }

    fn exited(&mut self, exit: ExitCause, phase: Phase) {
        match phase {
            Phase::Stopping(Stop { stage: Stage::Killing(_), .. }) => {}
            Phase::Stopping(stop) => self.kill(stop.cause, stop.then),
            _ => {
                match exit {
                    ExitCause::Exit { code: 0 } => {}
                    ExitCause::Exit { .. } => self.health(HealthReason::ExitedWithFailure),
                    ExitCause::Signal { .. } => self.health(HealthReason::Signalled),
                    ExitCause::Oom => self.health(HealthReason::OutOfMemory),
                    ExitCause::Seccomp => self.health(HealthReason::SystemCallRefused),
                }
                self.kill(Some(exit.into()), Then::Judge);
            }
        }
    }

    fn probe_failed(&mut self, run: Run, failures: u32) {
        self.health(HealthReason::ProbeFailed);
        if failures >= self.policy.failure_threshold {
            self.ask(Signal::Terminate, Cause::Probe, Then::Judge);
        } else {
            self.life.phase = Phase::Degraded(run, failures);
        }
    }

    /// Launched.
    fn up(&mut self, run: Run) {
        self.perform(Effect::StartWatching { run: run.number });
        match self.policy.readiness {
            Readiness::AtOnce => self.ready(run),
            Readiness::Within(grace) => self.life.phase = Phase::Starting(run, self.arm(TimerKind::Startup, grace)),
        }
    }

    fn ready(&mut self, run: Run) {
        self.life.phase = Phase::Ready(run, self.arm(TimerKind::Healthy, self.policy.window));
        self.health(HealthReason::Well);
        if std::mem::take(&mut self.life.restoring) {
            self.publish(Notice::RestoreCompleted);
        }
    }

    /// Healthy for a whole window. By the clock nothing counts any more anyway, unless that was put back.
    fn pay_back(&mut self) {
        if !self.life.saved.restarts.is_empty() || self.life.saved.failed {
            self.life.saved.restarts.pay_back();
            self.life.saved.failed = false;
            self.persist();
            self.publish(Notice::BudgetPaidBack);
        }
    }

    /// Asks the present run to end; where the launcher has not answered, as soon as it has.
    fn ask(&mut self, signal: Signal, cause: Cause, then: Then) {
        match self.life.phase {
            Phase::Launching(run) => {
                let stop = Stop { run, stage: Stage::Launching, cause: Some(cause), then };
                self.life.phase = Phase::Stopping(stop);
            }
            Phase::Frozen(run, _) => {
                // What is held still cannot end, and a v1 freezer keeps even SIGKILL waiting.
                self.perform(Effect::Thaw { run: run.number });
                self.signal(run, signal, cause, then);
            }
            Phase::Starting(run, _) | Phase::Ready(run, _) | Phase::Degraded(run, _) => {
                self.perform(Effect::StopWatching { run: run.number });
                self.signal(run, signal, cause, then);
            }
            Phase::Stopped | Phase::Stopping(_) | Phase::Backoff(_) | Phase::Quarantined | Phase::Error => {}
        }
    }

    fn signal(&mut self, run: Run, signal: Signal, cause: Cause, then: Then) {
        self.perform(Effect::SendSignal { run: run.number, signal });
        let stage = Stage::Asked(self.arm(TimerKind::Grace, self.policy.stop_grace));
        self.life.phase = Phase::Stopping(Stop { run, stage, cause: Some(cause), then });
    }

    /// Kills what there is of the present run.
    fn kill(&mut self, cause: Option<Cause>, then: Then) {
        let run = match self.life.phase {
            Phase::Starting(run, _) | Phase::Ready(run, _) | Phase::Degraded(run, _) => {
                self.perform(Effect::StopWatching { run: run.number });
                run
            }
            Phase::Frozen(run, _) => {
                self.perform(Effect::Thaw { run: run.number });
                run
            }
            Phase::Launching(run) | Phase::Stopping(Stop { run, .. }) => run,
            Phase::Stopped | Phase::Backoff(_) | Phase::Quarantined | Phase::Error => return,
        };
        self.perform(Effect::KillAll { run: run.number });
        let stage = Stage::Killing(self.arm(TimerKind::Kill, KILL_AGAIN));
        self.life.phase = Phase::Stopping(Stop { run, stage, cause, then });
    }

    /// Nothing lives any more.
    fn settle(&mut self, stop: Stop, draw: &mut dyn FnMut(u64) -> u64) {
        self.life.restoring = false;
        if let Some(cause) = stop.cause {
            let death = Death { run: stop.run.number, cause, began: stop.run.began, ended: self.now };
            self.perform(Effect::WriteDeathRecord(death));
            self.life.last = Some(cause);
        }
        let failed = match (stop.cause, stop.then) {
            (Some(cause), _) => cause.is_failure(),
            (None, Then::Judge) => true,
            // What was refused or barred has not run, so it has not failed: else each start of the daemon would spend a
            // restart of what only lacks a consent or a GPU.
            (None, Then::Launch | Then::Rest | Then::GiveUp) => self.life.saved.failed,
        };
        self.life.saved.failed = failed;
        self.persist();
        let again = match self.policy.restart {
            RestartRule::No => false,
            RestartRule::OnFailure => failed,
            RestartRule::Always => true,
        };
        match stop.then {
            _ if self.life.saved.quarantined => self.life.phase = Phase::Quarantined,
            Then::Launch => self.launch(Why::Asked(Origin::Operator)),
            Then::Judge if again => self.restart(draw),
            Then::Judge if stop.cause.is_none() => self.life.phase = Phase::Error,
            Then::GiveUp => self.life.phase = Phase::Error,
            Then::Judge | Then::Rest => self.life.phase = Phase::Stopped,
        }
    }

    /// A restart is due: later, or never.
    fn restart(&mut self, draw: &mut dyn FnMut(u64) -> u64) {
        let count = self.life.saved.restarts.count(self.now, self.policy.window);
        if count >= self.policy.max_restarts {
            return self.quarantine();
        }
        let wait = self.policy.backoff.wait(count, draw);
        self.life.phase = Phase::Backoff(self.arm(TimerKind::Backoff, wait));
    }

    /// The wait is over. The budget is looked at again: it is spent by a launch, not by the wait for one.
    fn restart_now(&mut self) {
        let window = self.policy.window;
        if self.life.saved.restarts.count(self.now, window) >= self.policy.max_restarts {
            return self.quarantine();
        }
        self.life.saved.restarts.record(self.now, window);
        self.launch(Why::Restart);
    }

    fn quarantine(&mut self) {
        self.life.phase = Phase::Quarantined;
        self.life.saved.quarantined = true;
        self.persist();
        self.health(HealthReason::RestartsExhausted);
        self.publish(Notice::Quarantined);
    }

    fn launch(&mut self, why: Why) {
        self.life.saved.runs = self.life.saved.runs.saturating_add(1);
        let run = self.life.saved.runs;
        self.persist();
        self.perform(Effect::Launch { run, why });
        self.life.phase = Phase::Launching(Run { number: run, began: self.now });
    }

    fn arm(&mut self, kind: TimerKind, after: Duration) -> Timer {
        self.life.timers = self.life.timers.saturating_add(1);
        let timer = Timer { kind, serial: self.life.timers };
        self.perform(Effect::ArmTimer { timer, after });
        timer
    }

    fn persist(&mut self) {
        self.perform(Effect::Persist(self.life.saved.clone()));
    }

    fn health(&mut self, reason: HealthReason) {
        self.publish(Notice::Health(reason));
    }

    fn refuse(&mut self, request: Request) {
        let state = self.life.state();
        self.publish(Notice::Refused { request, state });
    }

    fn publish(&mut self, notice: Notice) {
        self.perform(Effect::Publish(notice));
    }

    fn perform(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}
