//! Whether the memory of an ended runtime was given back.

use std::time::Duration;

use arw::domain::Timestamp;
use arw::gpu::{Baseline, RELEASE_SLACK, RELEASE_TIMEOUT, Reading, Release, released};

use crate::fake::{reading, uuid};

const GIB: u64 = 1 << 30;
const END: Timestamp = Timestamp::from_unix_micros(1_000_000_000);

fn waiting(held: u64, survivors: &[u32]) -> Release {
    Release::Waiting { held, survivors: survivors.to_vec() }
}

#[test]
fn memory_is_waited_for_until_it_is_back_within_the_slack() {
    let before = Baseline::new(&[reading(0, GIB, &[])], END);
    let at = |used| released(&before, &[7], &[reading(0, used, &[])], END);
    assert_eq!(at(41 * GIB), waiting(40 * GIB, &[]));
    assert_eq!(at(GIB + RELEASE_SLACK + 1), waiting(RELEASE_SLACK + 1, &[]));
    assert_eq!(at(GIB + RELEASE_SLACK), Release::Released);
    assert_eq!(at(0), Release::Released);
}

#[test]
fn a_survivor_is_named_even_when_it_holds_almost_nothing() {
    let before = Baseline::new(&[reading(0, 0, &[]), reading(1, 0, &[])], END);
    let now = [reading(0, 10, &[(7, Some(10))]), reading(1, 10, &[(7, Some(10)), (8, None)])];
    assert_eq!(released(&before, &[7, 8, 9], &now, END), waiting(20, &[7, 8]));
}

#[test]
fn one_gpu_that_is_free_does_not_excuse_the_other() {
    let before = Baseline::new(&[reading(0, GIB, &[]), reading(1, GIB, &[])], END);
    let now = [reading(0, 0, &[]), reading(1, 3 * GIB, &[])];
    assert_eq!(released(&before, &[], &now, END), waiting(2 * GIB, &[]));
}

#[test]
fn what_a_stranger_took_meanwhile_is_not_waited_for_and_what_it_had_before_counts_once() {
    let before = Baseline::new(&[reading(0, GIB, &[(50, Some(GIB))])], END);
    let stranger = (51, Some(4 * GIB));
    let now = |used| [reading(0, used, &[(50, Some(GIB)), stranger])];
    assert_eq!(released(&before, &[7], &now(5 * GIB), END), Release::Released);
    assert_eq!(released(&before, &[7], &now(9 * GIB), END), waiting(4 * GIB, &[]));
    let silent = [reading(0, 5 * GIB, &[(51, None)])];
    assert_eq!(released(&before, &[7], &silent, END), waiting(4 * GIB, &[]));
}

#[test]
fn the_wait_ends_with_the_clock_and_not_before() {
    let before = Baseline::new(&[reading(0, 0, &[])], END);
    let now = [reading(0, GIB, &[(7, Some(GIB))])];
    let just = END.plus(RELEASE_TIMEOUT.checked_sub(Duration::from_micros(1)).expect("long"));
    assert_eq!(released(&before, &[7], &now, just), waiting(GIB, &[7]));
    let over = Release::Overdue { held: GIB, survivors: vec![7] };
    assert_eq!(released(&before, &[7], &now, END.plus(RELEASE_TIMEOUT)), over);
    let freed = [reading(0, 0, &[])];
    assert_eq!(released(&before, &[7], &freed, END.plus(RELEASE_TIMEOUT * 9)), Release::Released);
}

#[test]
fn a_gpu_that_cannot_be_read_is_not_taken_for_free() {
    let before = Baseline::new(&[reading(0, 0, &[])], END);
    let unreadable = Release::Unreadable(uuid(0));
    assert_eq!(released(&before, &[], &[], END), unreadable);
    for now in [Reading { processes: None, ..reading(0, 0, &[]) }, Reading { memory: None, ..reading(0, 0, &[]) }] {
        assert_eq!(released(&before, &[], &[now], END.plus(RELEASE_TIMEOUT)), unreadable);
    }
}
