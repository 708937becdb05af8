//! How often a runtime was denied, in all and lately.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::domain::{DenialCode, Timestamp};

/// Microseconds of one slot. Five seconds: fine enough for "in the last minute".
const SLOT: i64 = 5_000_000;
/// Slots in a minute.
const SLOTS: usize = 12;

/// Minutes for which it is known why.
const MINUTES: i64 = 5;

/// Denials of one runtime.
#[derive(Debug, Default)]
pub(super) struct Denials {
    total: AtomicU64,
    /// Which slot of all time it is, and how many fell into it.
    recent: Mutex<[(i64, u64); SLOTS]>,
    /// Which minute of all time it is, and how many of each kind fell into it; oldest first.
    why: Mutex<VecDeque<(i64, BTreeMap<DenialCode, u64>)>>,
}

impl Denials {
    pub(super) fn count(&self, code: DenialCode, now: Timestamp) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.note(code, now);
        let (slot, place) = locate(now);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, count) = &mut recent[place];
        if *held == slot {
            *count += 1;
        } else {
            (*held, *count) = (slot, 1);
        }
    }

    fn note(&self, code: DenialCode, now: Timestamp) {
        let minute = now.unix_secs().div_euclid(60);
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.retain(|(held, _)| is_late(*held, minute));
        if why.back().is_none_or(|(held, _)| *held != minute) {
            why.push_back((minute, BTreeMap::new()));
        }
        if let Some((_, codes)) = why.back_mut() {
            *codes.entry(code).or_insert(0) += 1;
        }
    }

    /// Those of the last five minutes by their kind, to a minute.
    pub(super) fn lately(&self, now: Timestamp) -> Vec<(DenialCode, u64)> {
        let minute = now.unix_secs().div_euclid(60);
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: BTreeMap<DenialCode, u64> = BTreeMap::new();
        for (code, count) in why.iter().filter(|(held, _)| is_late(*held, minute)).flat_map(|(_, codes)| codes) {
            *sums.entry(*code).or_insert(0) += count;
        }
        sums.into_iter().collect()
    }

    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Those of the last minute, to five seconds. What a clock that was set back left in the future is not counted.
    pub(super) fn last_minute(&self, now: Timestamp) -> u64 {
        let (slot, _) = locate(now);
        let oldest = slot - i64::try_from(SLOTS).unwrap_or(i64::MAX) + 1;
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().filter(|(held, _)| (oldest..=slot).contains(held)).map(|(_, count)| count).sum()
    }
}

/// Whether `held` is among the last minutes. What a clock that was set back left in the future is not.
fn is_late(held: i64, minute: i64) -> bool {
    held <= minute && held > minute - MINUTES
}

/// The slot of a moment, and its place in the ring.
fn locate(now: Timestamp) -> (i64, usize) {
    let slot = now.unix_micros().div_euclid(SLOT);
    let place = slot.rem_euclid(i64::try_from(SLOTS).unwrap_or(i64::MAX));
    (slot, usize::try_from(place).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn denials_are_forgotten_after_a_minute_and_the_total_is_not() {
        let denials = Denials::default();
        let start = Timestamp::from_unix_micros(1_000_000_000_000_000);
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        denials.count(DenialCode::NotAllowlisted, at(0));
        denials.count(DenialCode::NotAllowlisted, at(1));
        denials.count(DenialCode::NotAllowlisted, at(30));
        assert_eq!(denials.last_minute(at(30)), 3);
        assert_eq!(denials.last_minute(at(54)), 3);
        assert_eq!(denials.last_minute(at(61)), 1);
        assert_eq!(denials.last_minute(at(100)), 0);
        denials.count(DenialCode::NotAllowlisted, at(60));
        assert_eq!(denials.last_minute(at(60)), 2, "a slot that comes round again starts at nothing");
        assert_eq!(denials.last_minute(start), 0, "the clock was set back");
        assert_eq!(denials.total(), 4);
    }

    #[test]
    fn why_is_known_for_five_minutes() {
        let denials = Denials::default();
        let at = |seconds| Timestamp::from_unix_micros(1_000_000_020_000_000).plus(Duration::from_secs(seconds));
        denials.count(DenialCode::LeaseExpired, at(0));
        denials.count(DenialCode::NotAllowlisted, at(100));
        denials.count(DenialCode::LeaseExpired, at(250));
        assert_eq!(denials.lately(at(250)), [(DenialCode::NotAllowlisted, 1), (DenialCode::LeaseExpired, 2)]);
        assert_eq!(denials.lately(at(359)), [(DenialCode::NotAllowlisted, 1), (DenialCode::LeaseExpired, 1)]);
        assert_eq!(denials.lately(at(1_000)), []);
        denials.count(DenialCode::LeaseExpired, at(0));
        assert_eq!(denials.lately(at(0)), [(DenialCode::LeaseExpired, 2)], "the clock was set back");
    }
}
