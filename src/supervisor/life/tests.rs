use std::time::Duration;

use crate::domain::Timestamp;

use super::super::death::{Cause, ExitCause};
use super::super::names::RestartRule;
use super::super::order::Progress;
use super::super::window::Backoff;
use super::{
    Effect, Event, Found, HealthReason, LaunchFault, Life, Notice, Origin, Policy, Readiness, Report, Request, Saved,
    Signal, State, Timer, TimerKind, Why, step,
};

pub(super) const POLICY: Policy = Policy {
    restart: RestartRule::OnFailure,
    max_restarts: 3,
    window: Duration::from_secs(600),
    backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) },
    readiness: Readiness::Within(Duration::from_secs(30)),
    failure_threshold: 3,
    stop_grace: Duration::from_secs(10),
};

/// A life that is driven by hand.
struct Stage {
    life: Life,
    policy: Policy,
    now: Timestamp,
    /// What the last event caused.
    effects: Vec<Effect>,
}

impl Stage {
    fn new(policy: Policy) -> Self {
        let now = Timestamp::from_unix_micros(1_000_000_000_000_000);
        Self { life: Life::new(Saved::default()), policy, now, effects: Vec::new() }
    }

    fn ready(policy: Policy) -> Self {
        let mut stage = Self::new(policy);
        stage.event(Event::StartRequested(Origin::Operator));
        stage.report(Report::Launched);
        stage.report(Report::Ready);
        assert_eq!(stage.life.state(), State::Ready);
        stage
    }

    fn event(&mut self, event: Event) -> State {
        let (life, effects) = step(self.life.clone(), event, &self.policy, self.now, &mut |most| most / 2);
        self.life = life;
        self.effects = effects;
        self.life.state()
    }

    fn report(&mut self, report: Report) -> State {
        let run = self.life.run().expect("a run");
        self.event(Event::Process { run, report })
    }

    fn armed(&self) -> Option<(Timer, Duration)> {
        let mut armed = self.effects.iter().filter_map(|effect| match effect {
            Effect::ArmTimer { timer, after } => Some((*timer, *after)),
            _ => None,
        });
        armed.next_back()
    }

    /// Fires the timer that the last event armed, when its time has come.
    fn fire(&mut self) -> State {
        let (timer, after) = self.armed().expect("a timer");
        self.now = self.now.plus(after);
        self.event(Event::TimerFired(timer))
    }

    fn has(&self, effect: &Effect) -> bool {
        self.effects.contains(effect)
    }

    fn signalled(&self) -> Option<Signal> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::SendSignal { signal, .. } => Some(*signal),
            _ => None,
        })
    }

    fn kills(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::KillAll { .. }))
    }

    fn launches(&self) -> Option<Why> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Launch { why, .. } => Some(*why),
            _ => None,
        })
    }

    fn death(&self) -> Option<Cause> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::WriteDeathRecord(death) => Some(death.cause),
            _ => None,
        })
    }

    /// From ready: it ends with a failure, is launched again and is ready at once.
    fn crash_and_come_back(&mut self) {
        self.report(Report::Exited(ExitCause::Exit { code: 1 }));
        assert_eq!(self.report(Report::KillDone), State::Backoff);
        assert_eq!(self.fire(), State::Starting);
        assert_eq!(self.launches(), Some(Why::Restart));
        self.report(Report::Launched);
        assert_eq!(self.report(Report::Ready), State::Ready);
    }

    fn quarantined(policy: Policy) -> Self {
        let mut stage = Self::ready(policy);
        for _ in 0..policy.max_restarts {
            stage.crash_and_come_back();
        }
        stage.report(Report::Exited(ExitCause::Oom));
        assert_eq!(stage.report(Report::KillDone), State::Quarantined);
        stage
    }
}

#[test]
fn a_start_is_persisted_launched_watched_and_becomes_ready() {
    let mut stage = Stage::new(POLICY);
    assert_eq!(stage.event(Event::StartRequested(Origin::Boot)), State::Starting);
    assert!(matches!(stage.effects[0], Effect::Persist(Saved { runs: 1, .. })));
    assert_eq!(stage.effects[1], Effect::Launch { run: 1, why: Why::Asked(Origin::Boot) });
    stage.report(Report::Launched);
    assert!(stage.has(&Effect::StartWatching { run: 1 }));
    assert_eq!(stage.report(Report::ProbeFailed), State::Starting, "the grace is not over");
    assert_eq!(stage.report(Report::ProbePassed), State::Ready);
    assert!(stage.has(&Effect::Publish(Notice::StateChanged { from: State::Starting, to: State::Ready })));
}

#[test]
fn without_a_probe_it_is_ready_at_once() {
    let mut stage = Stage::new(Policy { readiness: Readiness::AtOnce, ..POLICY });
    stage.event(Event::StartRequested(Origin::Operator));
    assert_eq!(stage.report(Report::Launched), State::Ready);
}

#[test]
fn a_stop_asks_waits_for_the_grace_and_kills_what_is_left() {
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.event(Event::StopRequested), State::Stopping);
    assert_eq!(stage.signalled(), Some(Signal::Terminate));
    assert_eq!(stage.fire(), State::Stopping);
    assert!(stage.kills());
    assert_eq!(stage.report(Report::Exited(ExitCause::Signal { signal: 9 })), State::Stopping);
    assert_eq!(stage.report(Report::KillDone), State::Stopped);
    assert_eq!(stage.death(), Some(Cause::Operator));
    assert_eq!(stage.life.progress(), Progress::Idle);
}

#[test]
fn when_the_main_process_ends_what_it_left_behind_is_killed() {
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.report(Report::Exited(ExitCause::Exit { code: 0 })), State::Stopping);
    assert!(stage.kills());
    assert_eq!(stage.report(Report::KillDone), State::Stopped);
    assert_eq!(stage.death(), Some(Cause::Exit { code: 0 }));
    assert_eq!(stage.life.progress(), Progress::Completed);
}

#[test]
fn an_end_is_not_done_before_the_kill_was_asked_for() {
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.report(Report::KillDone), State::Ready);
    stage.event(Event::StopRequested);
    assert_eq!(stage.report(Report::KillDone), State::Stopping);
}

#[test]
fn a_stop_during_the_launch_waits_for_the_launcher() {
    let mut stage = Stage::new(POLICY);
    stage.event(Event::StartRequested(Origin::Operator));
    assert_eq!(stage.event(Event::StopRequested), State::Stopping);
    assert!(stage.signalled().is_none() && !stage.kills());
    stage.report(Report::Launched);
    assert_eq!(stage.signalled(), Some(Signal::Terminate));
}

#[test]
fn what_does_not_die_is_killed_again_and_told() {
    let mut stage = Stage::ready(POLICY);
    stage.event(Event::StopRequested);
    stage.fire();
    for _ in 0..3 {
        assert_eq!(stage.fire(), State::Stopping);
        assert!(stage.kills() && stage.has(&Effect::Publish(Notice::Health(super::HealthReason::KillOverdue))));
    }
}

#[test]
fn idle_is_not_failure() {
    let mut stage = Stage::ready(POLICY);
    let mut fired = 0;
    // Nothing is reported for as long as there are timers.
    while stage.armed().is_some() {
        assert_eq!(stage.fire(), State::Ready);
        fired += 1;
    }
    assert_eq!(fired, 1, "the healthy stretch is the only timer of a ready runtime");
    assert!(stage.effects.is_empty());
}

#[test]
fn probes_degrade_then_restart_and_one_that_passes_forgives() {
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.report(Report::ProbeFailed), State::Degraded);
    assert_eq!(stage.report(Report::ProbeFailed), State::Degraded);
    assert_eq!(stage.report(Report::ProbePassed), State::Ready);
    stage.report(Report::ProbeFailed);
    stage.report(Report::ProbeFailed);
    assert_eq!(stage.report(Report::ProbeFailed), State::Stopping);
    stage.fire();
    assert_eq!(stage.report(Report::KillDone), State::Backoff);
    assert_eq!(stage.death(), Some(Cause::Probe));
}

#[test]
fn a_broken_gpu_degrades_and_is_no_failed_probe() {
    let lost = Report::GpuFailed(HealthReason::GpuLost);
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.report(lost), State::Degraded);
    assert!(stage.has(&Effect::Publish(Notice::Health(HealthReason::GpuLost))));
    // Told again and again it stays what it is, and nothing is restarted for it.
    for _ in 0..10 {
        assert_eq!(stage.report(lost), State::Degraded);
        assert!(stage.effects.is_empty());
    }
    assert_eq!(stage.report(Report::GpuWell), State::Ready);
    assert!(stage.has(&Effect::Publish(Notice::Health(HealthReason::Well))));
    // A probe that fails besides is counted by itself, and what is well of the GPU does not forgive it.
    stage.report(lost);
    assert_eq!(stage.report(Report::ProbeFailed), State::Degraded);
    assert_eq!(stage.report(Report::GpuWell), State::Degraded);
    stage.report(Report::ProbeFailed);
    assert_eq!(stage.report(Report::ProbeFailed), State::Stopping);
    // One that is not ready yet has nothing to lose.
    let mut stage = Stage::new(POLICY);
    stage.event(Event::StartRequested(Origin::Operator));
    assert_eq!(stage.report(lost), State::Starting);
}

#[test]
fn one_that_is_never_ready_is_restarted() {
    let mut stage = Stage::new(POLICY);
    stage.event(Event::StartRequested(Origin::Operator));
    stage.report(Report::Launched);
    assert_eq!(stage.armed().map(|(timer, after)| (timer.kind, after.as_secs())), Some((TimerKind::Startup, 30)));
    assert_eq!(stage.fire(), State::Stopping);
    stage.fire();
    assert_eq!(stage.report(Report::KillDone), State::Backoff);
}

#[test]
fn a_missed_beat_aborts_and_restarts() {
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.report(Report::WatchdogMissed), State::Stopping);
    assert_eq!(stage.signalled(), Some(Signal::Abort));
    stage.report(Report::Exited(ExitCause::Signal { signal: 6 }));
    assert_eq!(stage.report(Report::KillDone), State::Backoff);
    assert_eq!(stage.death(), Some(Cause::Watchdog), "not the signal that the supervisor sent");
}

#[test]
fn beyond_the_window_it_is_quarantined_and_only_restore_starts_it() {
    let mut stage = Stage::quarantined(POLICY);
    assert!(stage.has(&Effect::Publish(Notice::Quarantined)));
    assert!(stage.life.saved().quarantined);
    let requests = [Origin::Operator, Origin::Boot, Origin::Schedule, Origin::Demand, Origin::Dependent];
    for event in requests.map(Event::StartRequested).into_iter().chain([
        Event::RestartRequested,
        Event::StopRequested,
        Event::StartRequested(Origin::Operator),
        Event::BudgetExhausted,
        Event::Thaw,
    ]) {
        assert_eq!(stage.event(event), State::Quarantined, "{event:?}");
        assert_eq!(stage.launches(), None, "{event:?}");
    }
    assert_eq!(stage.event(Event::Restore), State::Starting);
    assert_eq!(stage.launches(), Some(Why::Restore));
    stage.report(Report::Launched);
    stage.report(Report::Ready);
    assert!(stage.has(&Effect::Publish(Notice::RestoreCompleted)));
    stage.crash_and_come_back();
}

#[test]
fn a_quarantine_outlives_the_daemon() {
    let stage = Stage::quarantined(POLICY);
    let text = serde_json::to_string(stage.life.saved()).expect("text");
    let saved: Saved = serde_json::from_str(&text).expect("saved");
    assert_eq!(&saved, stage.life.saved());
    assert_eq!(Life::new(saved.clone()).state(), State::Quarantined);
    let (life, effects) = Life::adopt(saved, 9, stage.now, Found::Running, &POLICY);
    assert_eq!(life.state(), State::Stopping);
    assert!(effects.contains(&Effect::KillAll { run: 9 }));
    let event = Event::Process { run: 9, report: Report::KillDone };
    let (life, _) = step(life, event, &POLICY, stage.now, &mut |_| 0);
    assert_eq!(life.state(), State::Quarantined);
}

#[test]
fn a_window_outlives_the_daemon() {
    let mut stage = Stage::ready(POLICY);
    for _ in 0..3 {
        stage.crash_and_come_back();
    }
    stage.report(Report::Exited(ExitCause::Oom));
    // The daemon dies here, the runtime with it; what was persisted comes back.
    let saved = Saved { failed: true, ..stage.life.saved().clone() };
    stage.life = Life::new(saved);
    assert_eq!(stage.event(Event::StartRequested(Origin::Boot)), State::Quarantined);
}

#[test]
fn starting_a_failing_runtime_by_connecting_to_it_spends_its_restarts() {
    let mut stage = Stage::new(Policy { restart: RestartRule::No, ..POLICY });
    let mut launches = 0;
    for _ in 0..50 {
        stage.event(Event::StartRequested(Origin::Demand));
        if stage.life.state() == State::Backoff {
            stage.fire();
        }
        if stage.launches().is_none() {
            break;
        }
        launches += 1;
        stage.report(Report::Launched);
        stage.report(Report::Exited(ExitCause::Exit { code: 1 }));
        assert_eq!(stage.report(Report::KillDone), State::Stopped);
    }
    assert_eq!(launches, 1 + POLICY.max_restarts);
    assert_eq!(stage.life.state(), State::Quarantined);
}

#[test]
fn a_job_that_completes_may_run_as_often_as_its_schedule_says() {
    let mut stage = Stage::new(Policy { readiness: Readiness::AtOnce, ..POLICY });
    for _ in 0..20 {
        assert_eq!(stage.event(Event::StartRequested(Origin::Schedule)), State::Starting);
        stage.report(Report::Launched);
        stage.report(Report::Exited(ExitCause::Exit { code: 0 }));
        assert_eq!(stage.report(Report::KillDone), State::Stopped);
    }
}

#[test]
fn a_healthy_stretch_pays_the_budget_back_even_if_the_clock_was_put_back() {
    let mut stage = Stage::ready(POLICY);
    for _ in 0..3 {
        stage.crash_and_come_back();
    }
    let (timer, after) = stage.armed().expect("the healthy stretch");
    assert_eq!((timer.kind, after), (TimerKind::Healthy, POLICY.window));
    stage.now = Timestamp::from_unix_micros(0);
    stage.event(Event::TimerFired(timer));
    assert!(stage.has(&Effect::Publish(Notice::BudgetPaidBack)));
    stage.crash_and_come_back();
}

#[test]
fn waits_grow_with_the_restarts_of_the_window() {
    let mut stage = Stage::ready(POLICY);
    let mut waits = Vec::new();
    for _ in 0..3 {
        stage.report(Report::Exited(ExitCause::Signal { signal: 11 }));
        stage.report(Report::KillDone);
        waits.push(stage.armed().expect("the wait").1.as_millis());
        stage.fire();
        stage.report(Report::Launched);
        stage.report(Report::Ready);
    }
    assert_eq!(waits, [500, 1_000, 2_000], "the drawn number is half of its bound");
}

#[test]
fn the_restart_policy_decides_after_an_end() {
    for (restart, code, state) in [
        (RestartRule::No, 0, State::Stopped),
        (RestartRule::No, 1, State::Stopped),
        (RestartRule::OnFailure, 0, State::Stopped),
        (RestartRule::OnFailure, 1, State::Backoff),
        (RestartRule::Always, 0, State::Backoff),
        (RestartRule::Always, 1, State::Backoff),
    ] {
        let mut stage = Stage::ready(Policy { restart, ..POLICY });
        stage.report(Report::Exited(ExitCause::Exit { code }));
        assert_eq!(stage.report(Report::KillDone), state, "{restart} {code}");
        let mut stage = Stage::ready(Policy { restart, ..POLICY });
        stage.event(Event::StopRequested);
        stage.fire();
        assert_eq!(stage.report(Report::KillDone), State::Stopped, "a stop is a stop: {restart}");
    }
}

#[test]
fn a_spent_budget_is_a_hard_stop() {
    let mut stage = Stage::ready(Policy { restart: RestartRule::Always, ..POLICY });
    assert_eq!(stage.event(Event::BudgetExhausted), State::Stopping);
    stage.report(Report::Exited(ExitCause::Exit { code: 0 }));
    assert_eq!(stage.report(Report::KillDone), State::Stopped);
    assert_eq!(stage.death(), Some(Cause::Budget));
    assert_eq!(stage.life.progress(), Progress::Failed);
}

#[test]
fn a_refused_launch_is_an_error_and_a_failed_one_is_tried_again() {
    for (fault, restart, state) in [
        (LaunchFault::Refused, RestartRule::Always, State::Error),
        (LaunchFault::Failed, RestartRule::OnFailure, State::Backoff),
        (LaunchFault::Failed, RestartRule::No, State::Error),
    ] {
        let mut stage = Stage::new(Policy { restart, ..POLICY });
        stage.event(Event::StartRequested(Origin::Boot));
        assert_eq!(stage.report(Report::LaunchFailed(fault)), State::Stopping);
        assert!(stage.kills(), "half a launch may be left");
        assert_eq!(stage.report(Report::KillDone), state);
        assert_eq!(stage.death(), None, "nothing lived");
    }
}

#[test]
fn what_was_refused_or_barred_has_not_failed() {
    for (fault, state) in [(LaunchFault::Refused, State::Error), (LaunchFault::Barred, State::Stopped)] {
        let mut stage = Stage::new(Policy { restart: RestartRule::Always, ..POLICY });
        // More often than there are restarts: each is a start of the daemon.
        for _ in 0..20 {
            assert_eq!(stage.event(Event::StartRequested(Origin::Boot)), State::Starting, "{fault:?}");
            stage.report(Report::LaunchFailed(fault));
            assert_eq!(stage.report(Report::KillDone), state);
            stage.life = Life::new(stage.life.saved().clone());
        }
        assert!(stage.life.saved().restarts.is_empty());
    }
    // One that has failed stays one that has failed.
    let mut stage = Stage::ready(Policy { restart: RestartRule::No, ..POLICY });
    stage.report(Report::Exited(ExitCause::Oom));
    stage.report(Report::KillDone);
    assert_eq!(stage.event(Event::StartRequested(Origin::Operator)), State::Starting);
    stage.report(Report::LaunchFailed(LaunchFault::Barred));
    assert_eq!(stage.report(Report::KillDone), State::Stopped);
    assert_eq!(stage.event(Event::StartRequested(Origin::Demand)), State::Backoff);
}

#[test]
fn frozen_ones_are_not_probed_and_come_back_as_they_were() {
    let mut stage = Stage::ready(POLICY);
    stage.report(Report::ProbeFailed);
    assert_eq!(stage.event(Event::Freeze), State::Frozen);
    assert!(stage.has(&Effect::StopWatching { run: 1 }) && stage.has(&Effect::Freeze { run: 1 }));
    for report in [Report::ProbeFailed, Report::WatchdogMissed, Report::ProbePassed] {
        assert_eq!(stage.report(report), State::Frozen);
        assert!(stage.effects.is_empty());
    }
    assert_eq!(stage.event(Event::Thaw), State::Degraded);
    assert!(stage.has(&Effect::StartWatching { run: 1 }));
}

#[test]
fn a_frozen_one_is_thawed_before_it_is_ended() {
    let mut stage = Stage::ready(POLICY);
    stage.event(Event::Freeze);
    stage.event(Event::StopRequested);
    let at = |wanted: &dyn Fn(&Effect) -> bool| stage.effects.iter().position(wanted).expect("an effect");
    let thaw = at(&|effect| matches!(effect, Effect::Thaw { .. }));
    assert!(thaw < at(&|effect| matches!(effect, Effect::SendSignal { .. })));
    let mut stage = Stage::ready(POLICY);
    stage.event(Event::Freeze);
    stage.report(Report::Exited(ExitCause::Oom));
    assert!(matches!(stage.effects[1], Effect::Thaw { .. }) && stage.kills());
}

#[test]
fn reports_of_another_run_and_timers_of_another_state_are_ignored() {
    let mut stage = Stage::ready(POLICY);
    let (old, _) = stage.armed().expect("the healthy stretch");
    stage.crash_and_come_back();
    let before = stage.life.clone();
    for event in [
        Event::TimerFired(old),
        Event::Process { run: 1, report: Report::Exited(ExitCause::Oom) },
        Event::Process { run: 1, report: Report::WatchdogMissed },
        Event::Process { run: 3, report: Report::LaunchFailed(LaunchFault::Refused) },
    ] {
        stage.event(event);
        assert_eq!(stage.life, before, "{event:?}");
        assert!(stage.effects.is_empty(), "{event:?}");
    }
}

#[test]
fn a_stop_overrides_a_restart_that_is_under_way() {
    let mut stage = Stage::ready(POLICY);
    stage.event(Event::RestartRequested);
    stage.event(Event::StopRequested);
    stage.fire_grace();
    assert_eq!(stage.report(Report::KillDone), State::Stopped);
    let mut stage = Stage::ready(POLICY);
    stage.report(Report::Exited(ExitCause::Oom));
    stage.event(Event::StopRequested);
    assert_eq!(stage.report(Report::KillDone), State::Stopped);
    let mut stage = Stage::ready(POLICY);
    stage.report(Report::Exited(ExitCause::Oom));
    stage.report(Report::KillDone);
    let (wait, _) = stage.armed().expect("the wait");
    assert_eq!(stage.event(Event::StopRequested), State::Stopped);
    assert_eq!(stage.event(Event::TimerFired(wait)), State::Stopped);
}

impl Stage {
    /// The main process follows the request to end.
    fn fire_grace(&mut self) {
        self.report(Report::Exited(ExitCause::Exit { code: 0 }));
        assert!(self.kills());
    }
}

#[test]
fn an_operators_restart_ends_it_first_and_is_not_counted() {
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.event(Event::RestartRequested), State::Stopping);
    stage.fire_grace();
    assert_eq!(stage.report(Report::KillDone), State::Starting);
    assert_eq!(stage.launches(), Some(Why::Asked(Origin::Operator)));
    assert!(stage.life.saved().restarts.is_empty());
}

#[test]
fn an_adopted_one_goes_on_and_its_next_run_has_a_new_number() {
    let now = Timestamp::from_unix_micros(0);
    let (life, effects) = Life::adopt(Saved::default(), 41, now, Found::Running, &POLICY);
    assert_eq!(life.state(), State::Starting);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Launch { .. })));
    assert!(effects.contains(&Effect::StartWatching { run: 41 }));
    let mut stage = Stage { life, policy: POLICY, now, effects };
    stage.report(Report::ProbePassed);
    stage.event(Event::RestartRequested);
    stage.fire_grace();
    stage.report(Report::KillDone);
    assert_eq!(stage.life.run(), Some(42));
    let (life, _) = Life::adopt(Saved::default(), 41, now, Found::Frozen, &POLICY);
    assert_eq!(life.state(), State::Frozen);
}

#[test]
fn what_cannot_be_had_is_refused_by_a_notice() {
    let mut stage = Stage::new(POLICY);
    stage.event(Event::Freeze);
    assert!(stage.has(&Effect::Publish(Notice::Refused { request: Request::Freeze, state: State::Stopped })));
    stage.event(Event::Thaw);
    assert!(stage.has(&Effect::Publish(Notice::Refused { request: Request::Thaw, state: State::Stopped })));
}

#[test]
fn a_shorter_grace_hastens_what_is_asked_to_end_already() {
    let mut stage = Stage::ready(POLICY);
    stage.event(Event::StopRequested);
    let (long, _) = stage.armed().expect("the grace");
    stage.policy.stop_grace = Duration::ZERO;
    assert_eq!(stage.event(Event::Hastened), State::Stopping);
    let (short, after) = stage.armed().expect("the shorter grace");
    assert_eq!(after, Duration::ZERO);
    stage.event(Event::TimerFired(long));
    assert!(!stage.kills(), "its time is not the one that counts");
    stage.event(Event::TimerFired(short));
    assert!(stage.kills());
    assert_eq!(stage.report(Report::KillDone), State::Stopped);
    // Where nothing is asked to end it changes nothing.
    let mut stage = Stage::ready(POLICY);
    assert_eq!(stage.event(Event::Hastened), State::Ready);
    assert!(stage.effects.is_empty());
}
