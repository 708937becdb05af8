//! The VRAM budget: a table of its life, and properties over random samples.

use std::num::NonZeroU64;

use arw::gpu::{Notice, Phase, Reading, Vram, VramBudget};
use proptest::prelude::*;

use crate::fake::{reading, uuid};

fn budget(limit: u64) -> VramBudget {
    VramBudget::new(NonZeroU64::new(limit).expect("not zero"))
}

/// The notices of each sample in turn.
fn life(limit: u64, samples: &[Vram]) -> (Vec<Vec<Notice>>, Phase) {
    let mut now = budget(limit);
    let mut all = Vec::new();
    for sample in samples {
        let (next, notices) = now.sample(*sample);
        all.push(notices.into_iter().flatten().collect());
        now = next;
    }
    (all, now.phase())
}

#[test]
fn it_warns_once_calms_below_the_gap_and_stops_once() {
    use Notice::{Calm, Stop, Warn};
    let samples = [0, 89, 90, 91, 89, 85, 84, 89, 90, 99, 100, 100, 0].map(Vram::Bytes);
    let (notices, phase) = life(100, &samples);
    let at = |step: usize| notices[step].as_slice();
    assert_eq!((at(2), at(6), at(8), at(10)), (&[Warn][..], &[Calm][..], &[Warn][..], &[Stop][..]));
    assert_eq!(notices.iter().flatten().count(), 4, "{notices:?}");
    assert_eq!(phase, Phase::Spent);
}

#[test]
fn a_leap_over_the_warning_stops_at_once() {
    assert_eq!(life(100, &[Vram::Bytes(5), Vram::Bytes(u64::MAX)]).0[1], [Notice::Stop]);
    assert_eq!(life(u64::MAX, &[Vram::Bytes(u64::MAX)]).0[0], [Notice::Stop]);
    assert_eq!(life(1, &[Vram::Bytes(0), Vram::Bytes(1)]).0[1], [Notice::Stop]);
}

#[test]
fn unmetered_is_neither_zero_nor_the_end() {
    use Notice::{Metered, Stop, Unmetered, Warn};
    let samples =
        [Vram::Bytes(95), Vram::Unmetered, Vram::Unmetered, Vram::Bytes(95), Vram::Unmetered, Vram::Bytes(100)];
    let expected = [vec![Warn], vec![Unmetered], vec![], vec![Metered], vec![Unmetered], vec![Metered, Stop]];
    assert_eq!(life(100, &samples).0, expected);
    assert_eq!(budget(100).ratio(Vram::Unmetered), None);
    assert_eq!(budget(200).ratio(Vram::Bytes(50)), Some(0.25));
}

#[test]
fn the_memory_of_a_runtime_is_that_of_its_processes_on_its_gpus() {
    let readings = [reading(0, 0, &[(1, Some(10)), (2, Some(20)), (9, Some(500))]), reading(1, 0, &[(2, Some(5))])];
    let of =
        |gpus: &[u32], pids: &[u32]| Vram::of(&gpus.iter().map(|gpu| uuid(*gpu)).collect::<Vec<_>>(), pids, &readings);
    assert_eq!(of(&[0, 1], &[1, 2]), Vram::Bytes(35));
    assert_eq!(of(&[1], &[1, 2]), Vram::Bytes(5));
    assert_eq!(of(&[0, 1], &[]), Vram::Bytes(0));
    assert_eq!(of(&[0, 7], &[1]), Vram::Unmetered, "a GPU without a reading");
}

#[test]
fn memory_that_the_driver_does_not_say_is_unmetered_only_for_its_own_runtime() {
    let readings = [reading(0, 0, &[(1, None), (2, Some(3))])];
    assert_eq!(Vram::of(&[uuid(0)], &[1, 2], &readings), Vram::Unmetered);
    assert_eq!(Vram::of(&[uuid(0)], &[2], &readings), Vram::Bytes(3));
    let unread = [Reading { processes: None, ..reading(0, 0, &[]) }];
    assert_eq!(Vram::of(&[uuid(0)], &[2], &unread), Vram::Unmetered);
}

#[test]
fn memory_that_no_listed_process_explains_is_not_taken_for_none() {
    const GIB: u64 = 1 << 30;
    let of = |used, processes: &[(u32, Option<u64>)]| Vram::of(&[uuid(0)], &[1], &[reading(0, used, processes)]);
    assert_eq!(of(40 * GIB, &[]), Vram::Unmetered, "the daemon cannot see the host's processes");
    assert_eq!(of(GIB, &[]), Vram::Unmetered);
    assert_eq!(of(GIB - 1, &[]), Vram::Bytes(0));
    assert_eq!(of(40 * GIB, &[(1, Some(GIB)), (2, Some(39 * GIB))]), Vram::Bytes(GIB));
    assert_eq!(of(40 * GIB, &[(1, Some(GIB)), (2, None)]), Vram::Bytes(GIB));
}

proptest! {
    #[test]
    fn a_budget_stops_exactly_once_and_exactly_when_it_is_reached(
        limit in 1..u64::MAX,
        samples in prop::collection::vec(prop::option::of((0..130_u128, 0..3_u64)), 0..60),
    ) {
        let mut now = budget(limit);
        let (mut stops, mut warned, mut reached) = (0, false, false);
        for sample in samples {
            let bytes = sample.map(|(percent, beyond)| {
                u64::try_from(u128::from(limit) * percent / 100).unwrap_or(u64::MAX).saturating_add(beyond)
            });
            let before = now.phase();
            let (next, notices) = now.sample(bytes.map_or(Vram::Unmetered, Vram::Bytes));
            reached |= bytes.is_some_and(|bytes| bytes >= limit);
            for notice in notices.into_iter().flatten() {
                match notice {
                    Notice::Stop => stops += 1,
                    // Warnings and calms take turns.
                    Notice::Warn => prop_assert!(!std::mem::replace(&mut warned, true)),
                    Notice::Calm => prop_assert!(std::mem::replace(&mut warned, false)),
                    Notice::Metered => prop_assert!(bytes.is_some()),
                    Notice::Unmetered => prop_assert!(bytes.is_none()),
                }
            }
            if bytes.is_none() {
                prop_assert_eq!(next.phase(), before);
            }
            prop_assert_eq!(next.phase() == Phase::Spent, reached);
            now = next;
        }
        prop_assert_eq!(stops, usize::from(reached));
    }
}
