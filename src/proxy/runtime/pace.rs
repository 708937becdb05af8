//! How fast a runtime's bytes may pass: one bucket for all of its flows.
//!
//! Each flow books a turn for what it is about to pass, and waits until its turn has come. Turns follow each other in
//! the order of their booking, and a flow has one booked for each direction at a time, so flows that want more than
//! there is take turns. Nobody who waits is woken for another's turn.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::proxy::flow::Flow;

/// Most bytes of one turn: what a relay passes through memory at once.
const LARGEST: usize = 16 << 10;
/// Fewest bytes of one turn; below, system calls would cost more than the bytes.
const SMALLEST: usize = 512;
/// Turns that a second is cut into where the rate is low, so that slow does not mean rare.
const PER_SECOND: u64 = 16;
const NANOS: u128 = 1_000_000_000;

/// A token bucket in one number (GCRA, ITU-T I.371): when all that was booked will have passed.
#[derive(Debug)]
pub(in crate::proxy) struct Pace {
    /// Bytes per second; zero for no limit.
    rate: AtomicU64,
    /// Counts changes of the rate: a turn that was booked before one is worth nothing.
    changes: AtomicU32,
    /// Nanoseconds after `epoch`; below zero while there is credit from before it.
    free_at: Mutex<i64>,
    epoch: Instant,
}

/// When a flow's bytes may pass.
#[derive(Debug)]
struct Slot {
    at: Instant,
    change: u32,
}

impl Pace {
    /// A full bucket.
    pub(super) fn new(rate: Option<u64>) -> Self {
        let rate = rate.map_or(0, |rate| rate.max(1));
        Self {
            rate: AtomicU64::new(rate),
            changes: AtomicU32::new(0),
            free_at: Mutex::new(if rate == 0 { 0 } else { -burst(rate) }),
            epoch: Instant::now(),
        }
    }

    pub(super) fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Changes the rate. The bucket is empty then, and nothing is owed. Whether it is another rate: whoever waits must
    /// book anew then.
    pub(super) fn set(&self, rate: Option<u64>) -> bool {
        let rate = rate.map_or(0, |rate| rate.max(1));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rate.swap(rate, Ordering::Relaxed) == rate {
            return false;
        }
        *free_at = self.nanos(Instant::now());
        self.changes.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Most bytes to book at once; `None` while there is no rate.
    pub(in crate::proxy) fn quantum(&self) -> Option<usize> {
        let share = usize::try_from(self.rate()? / PER_SECOND).unwrap_or(LARGEST);
        Some(share.clamp(SMALLEST, LARGEST))
    }

    /// Books a turn for `bytes`; `None` when they may pass now.
    fn book(&self, bytes: usize, now: Instant) -> Option<Slot> {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = self.rate()?;
        let now = self.nanos(now);
        let start = (*free_at).max(now.saturating_sub(burst(rate)));
        *free_at = start.saturating_add(cost(bytes as u64, rate));
        let wait = free_at.saturating_sub(now);
        let at = u64::try_from(*free_at).map_or(self.epoch, |nanos| self.epoch + Duration::from_nanos(nanos));
        (wait > 0).then(|| Slot { at, change: self.changes.load(Ordering::Relaxed) })
    }

    fn nanos(&self, moment: Instant) -> i64 {
        i64::try_from(moment.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(i64::MAX)
    }
}

/// Nanoseconds that `bytes` take at `rate`, rounded up.
fn cost(bytes: u64, rate: u64) -> i64 {
    i64::try_from((u128::from(bytes) * NANOS).div_ceil(u128::from(rate))).unwrap_or(i64::MAX)
}

/// What may be saved up: a second, or the largest turn where that is more.
fn burst(rate: u64) -> i64 {
    cost(rate.max(LARGEST as u64), rate)
}

/// A flow's turn. The default one has come.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Turn(Option<Box<Waiting>>);

#[derive(Debug)]
struct Waiting {
    sleep: Pin<Box<Sleep>>,
    bytes: usize,
    change: u32,
}

impl Turn {
    /// Books a turn for `bytes` of `flow`.
    pub(in crate::proxy) fn book(flow: &Flow, bytes: usize) -> Self {
        let slot = flow.pace().and_then(|pace| pace.book(bytes, Instant::now()));
        Self(slot.map(|slot| {
            // Waiting for a turn is not being idle.
            flow.busy_until(slot.at);
            let sleep = Box::pin(tokio::time::sleep_until(slot.at.into()));
            Box::new(Waiting { sleep, bytes, change: slot.change })
        }))
    }

    /// Ready once the bytes may pass. Whoever changes the rate wakes the flow's task, which then books anew.
    pub(in crate::proxy) fn poll(&mut self, context: &mut Context<'_>, flow: &Flow) -> Poll<()> {
        while let Some(waiting) = &mut self.0 {
            if flow.pace().is_some_and(|pace| pace.changes.load(Ordering::Relaxed) != waiting.change) {
                let bytes = waiting.bytes;
                *self = Self::book(flow, bytes);
            } else {
                ready!(waiting.sleep.as_mut().poll(context));
                self.0 = None;
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 64 << 10;

    fn pace() -> Pace {
        Pace::new(Some(RATE))
    }

    /// Milliseconds from the bucket's beginning to the turn.
    fn wait(pace: &Pace, bytes: usize, at_ms: u64) -> u128 {
        let now = pace.epoch + Duration::from_millis(at_ms);
        pace.book(bytes, now).map_or(0, |slot| slot.at.duration_since(pace.epoch).as_millis())
    }

    #[test]
    fn a_second_is_saved_up_and_no_more() {
        let pace = pace();
        assert_eq!(wait(&pace, 64 << 10, 0), 0);
        assert_eq!(wait(&pace, 16 << 10, 0), 250);
        // Two seconds later a whole second is there again, not more.
        assert_eq!(wait(&pace, 64 << 10, 2_250), 0);
        assert_eq!(wait(&pace, 32 << 10, 2_250), 2_750);
    }

    #[test]
    fn turns_follow_each_other() {
        let pace = pace();
        assert_eq!(wait(&pace, 64 << 10, 0), 0);
        let turns: Vec<u128> = (0..4).map(|_| wait(&pace, 16 << 10, 0)).collect();
        assert_eq!(turns, [250, 500, 750, 1_000]);
    }

    #[test]
    fn a_change_owes_nothing_and_gives_nothing() {
        let pace = pace();
        assert_eq!(wait(&pace, 640 << 10, 0), 9_000);
        assert!(pace.set(Some(2 * RATE)) && !pace.set(Some(2 * RATE)));
        let wait = pace.book(64 << 10, Instant::now()).map(|slot| slot.at.duration_since(pace.epoch));
        assert!(
            wait.is_some_and(|wait| wait >= Duration::from_millis(500) && wait < Duration::from_secs(5)),
            "{wait:?}"
        );
        assert!(pace.set(None));
        assert!(pace.quantum().is_none() && pace.book(1 << 30, Instant::now()).is_none());
    }

    #[test]
    fn a_turn_is_small_where_the_rate_is() {
        let quantum = |rate| Pace::new(Some(rate)).quantum();
        assert_eq!([quantum(0), quantum(64 << 10), quantum(1 << 30)], [Some(512), Some(4 << 10), Some(16 << 10)]);
        // The slowest of all can still pass the largest turn, and overflows nothing.
        let slowest = Pace::new(Some(0));
        assert!(slowest.book(LARGEST, Instant::now()).is_none());
        assert!(slowest.book(LARGEST, Instant::now()).is_some());
        assert!(slowest.book(usize::MAX, Instant::now()).is_some());
    }
}
