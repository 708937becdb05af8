use proptest::prelude::*;

use super::*;
use crate::sandbox::cgroup::PsiLine;

const CEILING: CpuQuota = CpuQuota::from_const::<2_000>();

fn psi(some: u16, full: u16) -> Option<Psi> {
    let line = |percent| PsiLine { avg10: Share::percent(percent), ..PsiLine::default() };
    Some(Psi { some: line(some), full: Some(line(full)) })
}

fn reading(at: u64, cpu: u16) -> Reading {
    Reading { at: Duration::from_secs(at), cpu: psi(cpu, 0), ..Reading::default() }
}

/// Runs readings through and gives the adjustments with the seconds at which they came.
fn run(readings: impl IntoIterator<Item = Reading>) -> (State, Vec<(u64, Adjustment)>) {
    let mut state = State::default();
    let mut found = Vec::new();
    for reading in readings {
        let (next, adjustment) = step(state, &reading, CEILING);
        state = next;
        found.extend(adjustment.map(|adjustment| (reading.at.as_secs(), adjustment)));
    }
    (state, found)
}

#[test]
fn lasting_pressure_tightens_step_by_step_down_to_an_eighth() {
    let (state, found) = run((0..300).map(|at| reading(at, 90)));
    let quotas: Vec<(u64, u32)> = found.iter().map(|(at, one)| (*at, one.cpu_quota.millis())).collect();
    assert_eq!(quotas, [(6, 1_000), (21, 500), (36, 250)]);
    assert_eq!(state.level(), 3);
    assert_eq!(found[0].1.reason.to_string(), "cpu_pressure 90.00 % over 10 s");
}

#[test]
fn a_short_peak_changes_nothing() {
    let (_, found) = run((0..600).map(|at| reading(at, if at % 10 < 5 { 100 } else { 0 })));
    assert_eq!(found, []);
}

#[test]
fn calm_gives_back_one_level_a_minute() {
    let (state, found) = run((0..300).map(|at| reading(at, if at < 40 { 90 } else { 5 })));
    let relaxed: Vec<(u64, u32)> = found[3..].iter().map(|(at, one)| (*at, one.cpu_quota.millis())).collect();
    assert_eq!(relaxed, [(100, 500), (160, 1_000), (220, 2_000)]);
    assert_eq!(state.level(), 0);
    assert_eq!(found[3].1.reason.to_string(), "calm");
}

#[test]
fn between_the_marks_everything_stays() {
    let (state, found) = run((0..900).map(|at| reading(at, if at < 10 { 90 } else { 45 })));
    assert_eq!((state.level(), found.len()), (1, 1));
}

#[test]
fn heat_memory_and_devices_tighten_too() {
    let hot = |at| Reading { at: Duration::from_secs(at), hottest: Celsius::from_degrees(91.0), ..Reading::default() };
    let short = |at| Reading { at: Duration::from_secs(at), memory: psi(50, 12), ..Reading::default() };
    let slow = |at| Reading { at: Duration::from_secs(at), io: psi(90, 60), ..Reading::default() };
    assert_eq!(run((0..10).map(hot)).1[0].1.reason.to_string(), "heat 91.0 °C");
    assert_eq!(run((0..10).map(short)).1[0].1.reason.cause, Cause::MemoryPressure);
    assert_eq!(run((0..10).map(slow)).1[0].1.reason.cause, Cause::IoPressure);
    // Some tasks that wait for memory or devices are daily life.
    let some = |at| Reading { memory: psi(90, 1), io: psi(90, 1), ..reading(at, 0) };
    assert_eq!(run((0..60).map(some)).1, []);
}

#[test]
fn heat_keeps_a_calm_host_tight() {
    let warm = |at| Reading { hottest: Celsius::from_degrees(if at < 10 { 90.0 } else { 80.0 }), ..reading(at, 0) };
    let (state, found) = run((0..600).map(warm));
    assert_eq!((state.level(), found.len()), (1, 1));
}

#[test]
fn a_host_that_tells_nothing_is_left_as_it_is() {
    let silent = |at| Reading { at: Duration::from_secs(at), ..Reading::default() };
    assert_eq!(run((0..600).map(silent)).1, []);
    let (state, _) = run((0..10).map(|at| reading(at, 90)).chain((10..900).map(silent)));
    assert_eq!(state.level(), 1, "what is not told does not relax");
}

#[test]
fn what_was_before_a_sleep_of_the_host_does_not_count() {
    assert_eq!(run([reading(0, 90), reading(5, 90), reading(3_600, 90)]).1, []);
    assert_eq!(run([reading(0, 90), reading(5, 90), reading(6, 90)]).1.len(), 1);
}

#[test]
fn a_small_ceiling_is_never_raised_to_the_floor() {
    let tiny = CpuQuota::from_const::<20>();
    let mut state = State::default();
    for at in 0..100 {
        let (next, adjustment) = step(state, &reading(at, 100), tiny);
        assert_eq!(adjustment, None);
        state = next;
    }
    assert_eq!(state.quota(tiny), tiny);
}

fn any_reading() -> impl Strategy<Value = (u64, Option<u16>, Option<u16>, Option<i32>)> {
    // Mostly steps of some seconds, and now and then a sleep or a clock that goes back.
    let pause = prop_oneof![8 => 0_u64..5, 1 => 25_u64..4_000];
    (
        pause,
        proptest::option::weighted(0.9, 0_u16..=100),
        proptest::option::weighted(0.5, 0_u16..=100),
        proptest::option::weighted(0.3, 20_i32..110),
    )
}

proptest! {
    #[test]
    fn whatever_is_read_the_quota_stays_bounded_and_never_flaps(
        readings in proptest::collection::vec(any_reading(), 1..400),
        millis in 10_u32..64_000,
    ) {
        let ceiling = CpuQuota::from_millis(millis).expect("quota");
        let (mut state, mut at) = (State::default(), Duration::ZERO);
        let mut last: Option<(Duration, u8)> = None;
        for (pause, cpu, memory, heat) in readings {
            at += Duration::from_secs(pause);
            let reading = Reading {
                at,
                cpu: cpu.and_then(|percent| psi(percent, 0)),
                memory: memory.and_then(|percent| psi(0, percent)),
                io: None,
                hottest: heat.map(|degrees| Celsius(degrees * 1_000)),
            };
            let (next, adjustment) = step(state, &reading, ceiling);
            prop_assert!(next.level() <= LEVELS);
            prop_assert!(next.level().abs_diff(state.level()) <= 1);
            prop_assert!(next.quota(ceiling) <= ceiling && next.quota(ceiling) >= FLOOR.min(ceiling));
            if let Some(adjustment) = adjustment {
                prop_assert_eq!(adjustment.cpu_quota, next.quota(ceiling));
                prop_assert_ne!(adjustment.cpu_quota, state.quota(ceiling));
            }
            if next.level() != state.level() {
                let relaxed = next.level() < state.level();
                if let Some((before, _)) = last {
                    let least = if relaxed { CALM_FOR } else { SETTLE };
                    prop_assert!(at - before >= least);
                }
                if relaxed {
                    prop_assert!(is_calm(&reading));
                } else {
                    prop_assert!(strain(&reading).is_some());
                }
                last = Some((at, next.level()));
            }
            state = next;
        }
    }

    #[test]
    fn readings_between_the_marks_never_change_anything(
        readings in proptest::collection::vec((0_u64..10, 30_u16..60), 1..200),
        level in 0_u8..=LEVELS,
    ) {
        let mut state = State { level, ..State::default() };
        let mut at = 0;
        for (pause, cpu) in readings {
            at += pause;
            let (next, adjustment) = step(state, &reading(at, cpu), CEILING);
            prop_assert_eq!((next.level(), adjustment), (level, None));
            state = next;
        }
    }

    #[test]
    fn a_clock_that_goes_back_does_no_harm(times in proptest::collection::vec(0_u64..1_000, 1..100)) {
        let mut state = State::default();
        for at in times {
            let (next, _) = step(state, &reading(at, 90), CEILING);
            prop_assert!(next.last >= state.last);
            state = next;
        }
    }
}
