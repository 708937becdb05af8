//! What holds after every sequence of events, the absurd ones included.

use std::time::Duration;

use proptest::prelude::*;

use crate::domain::Timestamp;

use super::super::death::ExitCause;
use super::super::names::RestartRule;
use super::super::window::Backoff;
use super::{
    Effect, Event, HealthReason, LaunchFault, Life, Origin, Policy, Readiness, Report, Saved, State, Timer, TimerKind,
    Why, step,
};

/// One thing that the world does.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Any request.
    Ask(Event),
    /// A report of the present run.
    Report(Report),
    /// A report of a run that is over, or never was.
    Stray(u64, Report),
    /// The newest timer, when its time has come.
    Fire,
    /// A timer out of nowhere.
    StrayTimer(Timer),
    /// Time that passes, in seconds.
    Wait(u32),
    /// The daemon dies, everything it launched dies, and it comes back with what it persisted.
    Crash,
}

fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        3 => Just(Report::Launched),
        1 => Just(Report::LaunchFailed(LaunchFault::Failed)),
        1 => Just(Report::LaunchFailed(LaunchFault::Refused)),
        1 => Just(Report::LaunchFailed(LaunchFault::Barred)),
        2 => Just(Report::Ready),
        1 => Just(Report::ProbePassed),
        1 => Just(Report::ProbeFailed),
        1 => Just(Report::WatchdogMissed),
        1 => prop::sample::select(HealthReason::ALL).prop_map(Report::GpuFailed),
        1 => Just(Report::GpuWell),
        4 => any::<u8>().prop_map(|code| Report::Exited(ExitCause::Exit { code })),
        1 => Just(Report::Exited(ExitCause::Oom)),
        6 => Just(Report::KillDone),
    ]
}

fn request() -> impl Strategy<Value = Event> {
    let origin = prop::sample::select(Origin::ALL);
    prop_oneof![
        6 => origin.prop_map(Event::StartRequested),
        1 => Just(Event::StopRequested),
        1 => Just(Event::Hastened),
        1 => Just(Event::RestartRequested),
        1 => Just(Event::Restore),
        1 => Just(Event::Freeze),
        1 => Just(Event::Thaw),
        1 => Just(Event::BudgetExhausted),
    ]
}

fn timer() -> impl Strategy<Value = Timer> {
    (prop::sample::select(TimerKind::ALL), 0_u64..40).prop_map(|(kind, serial)| Timer { kind, serial })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => request().prop_map(Act::Ask),
        16 => report().prop_map(Act::Report),
        1 => (0_u64..20, report()).prop_map(|(run, report)| Act::Stray(run, report)),
        8 => Just(Act::Fire),
        2 => (0_u32..400).prop_map(Act::Wait),
        1 => Just(Act::Crash),
        // Never armed: a life of 150 events does not come that far.
        1 => timer().prop_map(|timer| Act::StrayTimer(Timer { serial: timer.serial + 10_000, ..timer })),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let restart = prop::sample::select(RestartRule::ALL);
    let readiness = prop_oneof![Just(Readiness::AtOnce), Just(Readiness::Within(Duration::from_secs(5)))];
    (restart, 1_usize..4, readiness, 1_u32..3).prop_map(|(restart, max_restarts, readiness, failure_threshold)| {
        Policy {
            restart,
            max_restarts,
            window: Duration::from_secs(600),
            backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) },
            readiness,
            failure_threshold,
            stop_grace: Duration::from_secs(10),
        }
    })
}

/// The world as it really is, kept apart from what the machine believes.
struct World {
    life: Life,
    now: Timestamp,
    timer: Option<(Timer, Timestamp)>,
    /// The run of which a process may live, and whether its end was ordered.
    alive: Option<(u64, bool)>,
    /// What is on disk.
    disk: Saved,
    /// It was quarantined, and nobody restored it since.
    given_up: bool,
    /// Counted restarts since the last restore.
    restarts: Vec<Timestamp>,
    draws: u64,
}

impl World {
    fn new() -> Self {
        Self {
            life: Life::new(Saved::default()),
            now: Timestamp::from_unix_micros(1_000_000_000_000_000),
            timer: None,
            alive: None,
            disk: Saved::default(),
            given_up: false,
            restarts: Vec::new(),
            draws: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn act(&mut self, act: Act, policy: &Policy) -> Result<(), TestCaseError> {
        let event = match act {
            Act::Ask(event) => event,
            Act::Report(report) => match self.life.run() {
                Some(run) => Event::Process { run, report },
                None => return Ok(()),
            },
            // A report of the present run must be true to be reported; a stray one is of another.
            Act::Stray(run, report) if self.life.run() != Some(run) => Event::Process { run, report },
            Act::Stray(..) => return Ok(()),
            Act::Fire => match self.timer.take() {
                Some((timer, at)) => {
                    self.now = self.now.max(at);
                    Event::TimerFired(timer)
                }
                None => return Ok(()),
            },
            Act::StrayTimer(timer) => Event::TimerFired(timer),
            Act::Wait(secs) => {
                self.now = self.now.plus(Duration::from_secs(u64::from(secs)));
                return Ok(());
            }
            Act::Crash => {
                self.alive = None;
                self.timer = None;
                self.life = Life::new(self.disk.clone());
                return Ok(());
            }
        };
        // The launcher answers once, and an empty cgroup is reported when there was an order to empty it.
        if let Event::Process { run, report: Report::KillDone } = event
            && self.alive == Some((run, true))
        {
            self.alive = None;
        }
        self.given_up &= event != Event::Restore;
        let mut draws = self.draws;
        let mut draw = |most: u64| {
            draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            draws % most.saturating_add(1).max(1)
        };
        let (life, effects) = step(self.life.clone(), event, policy, self.now, &mut draw);
        self.draws = draws;
        self.life = life;
        for effect in effects {
            self.perform(effect, event, policy)?;
        }
        self.given_up |= self.life.state() == State::Quarantined;
        self.check()
    }

    fn perform(&mut self, effect: Effect, event: Event, policy: &Policy) -> Result<(), TestCaseError> {
        match effect {
            Effect::Launch { run, why } => {
                prop_assert_eq!(self.alive, None, "a launch while a process may live");
                prop_assert!(!self.given_up, "out of a quarantine by {:?}", event);
                prop_assert!(!self.disk.quarantined, "a launch with a quarantine on disk");
                prop_assert_eq!(self.disk.runs, run, "a launch whose number is not on disk");
                self.alive = Some((run, false));
                if event == Event::Restore {
                    self.restarts.clear();
                }
                if why == Why::Restart {
                    self.restarts.push(self.now);
                    let window = self.restarts.iter().filter(|at| self.now.since(**at) < policy.window);
                    prop_assert!(window.count() <= policy.max_restarts, "more restarts than the window allows");
                }
            }
            Effect::KillAll { run } => {
                prop_assert_eq!(self.alive.map(|(run, _)| run), Some(run));
                self.alive = Some((run, true));
            }
            Effect::SendSignal { run, .. } | Effect::Freeze { run } | Effect::Thaw { run } => {
                prop_assert_eq!(self.alive.map(|(run, _)| run), Some(run), "something done to a run that is over");
            }
            Effect::ArmTimer { timer, after } => self.timer = Some((timer, self.now.plus(after))),
            Effect::Persist(saved) => {
                if event == Event::Restore {
                    self.restarts.clear();
                }
                self.disk = saved;
            }
            Effect::StartWatching { .. } | Effect::StopWatching { .. } => {}
            Effect::WriteDeathRecord(death) => {
                prop_assert!(matches!(event, Event::Process { report: Report::KillDone, .. }), "{:?}", death);
                prop_assert_eq!(self.alive, None);
            }
            Effect::Publish(_) => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.life.run(), self.alive.map(|(run, _)| run), "the machine knows what may live");
        prop_assert_eq!(self.life.saved(), &self.disk, "what is believed is on disk");
        prop_assert_eq!(self.life.state() == State::Quarantined, self.disk.quarantined);
        Ok(())
    }

    /// Ends the present run as a well-behaved world would.
    fn finish(&mut self, policy: &Policy) -> Result<(), TestCaseError> {
        for act in
            [Act::Ask(Event::StopRequested), Act::Report(Report::Launched), Act::Fire, Act::Report(Report::KillDone)]
        {
            self.act(act, policy)?;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_launch_beside_a_process_none_out_of_quarantine_and_no_more_than_the_window_allows(
        policy in policy(),
        acts in prop::collection::vec(act(), 1..150),
    ) {
        let mut world = World::new();
        for act in acts {
            world.act(act, &policy)?;
        }
    }

    #[test]
    fn every_stop_ends_with_nothing_alive(
        policy in policy(),
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let mut world = World::new();
        for act in acts {
            world.act(act, &policy)?;
        }
        world.finish(&policy)?;
        prop_assert_eq!(world.alive, None);
        let at_rest = matches!(world.life.state(), State::Stopped | State::Quarantined | State::Error);
        prop_assert!(at_rest, "{:?}", world.life);
    }

    #[test]
    fn nothing_panics_whatever_the_clock_the_timers_and_the_numbers_are(
        policy in policy(),
        steps in prop::collection::vec((act(), any::<i64>(), timer(), any::<bool>()), 1..100),
        runs in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
    ) {
        let mut life = Life::new(Saved { runs, ..Saved::default() });
        for (act, micros, timer, own) in steps {
            let run = life.run();
            let event = match act {
                Act::Ask(event) => event,
                Act::Report(report) => Event::Process { run: run.unwrap_or(runs), report },
                Act::Stray(run, report) => Event::Process { run, report },
                Act::Fire if own => Event::TimerFired(Timer { serial: life.timers, ..timer }),
                _ => Event::TimerFired(timer),
            };
            let now = Timestamp::from_unix_micros(micros);
            let (next, effects) = step(life, event, &policy, now, &mut |_| u64::MAX);
            let launched = effects.iter().filter(|effect| matches!(effect, Effect::Launch { .. })).count();
            prop_assert!(launched <= 1 && (launched == 0 || run.is_none() || next.run() != run || runs == u64::MAX));
            life = next;
        }
    }
}
