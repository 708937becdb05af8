//! The restart budget: how many restarts a runtime may have within a window, and how long each waits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

/// Most moments kept: the largest `max` that a manifest may set.
pub(super) const MAX_RESTARTS: usize = 1_000;

/// The moments of the restarts of late. Kept across restarts of the daemon, so that a crash of it is no way to
/// a fresh budget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RestartWindow(Vec<Timestamp>);

/// How long a restart waits: a random time between zero and a bound that doubles with each restart in the window
/// ("full jitter": runtimes that failed together do not come back together).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base: Duration,
    /// The bound of every wait.
    pub max: Duration,
}

impl RestartWindow {
    /// Restarts that still count at `now`. A moment in the future counts: a clock that was put back gives no budget.
    pub fn count(&self, now: Timestamp, window: Duration) -> usize {
        self.0.iter().filter(|at| now.since(**at) < window).count()
    }

    /// Writes a restart down, and forgets those that no longer count.
    pub(super) fn record(&mut self, now: Timestamp, window: Duration) {
        self.0.retain(|at| now.since(*at) < window);
        if self.0.len() >= MAX_RESTARTS {
            self.0.remove(0);
        }
        self.0.push(now);
    }

    /// Gives the whole budget back.
    pub(super) fn pay_back(&mut self) {
        self.0.clear();
    }

    /// Whether nothing is written down.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Backoff {
    /// The wait before restart number `count` of the window, from zero. `draw(n)` gives a random number of `0..=n`.
    pub fn wait(&self, count: usize, draw: &mut dyn FnMut(u64) -> u64) -> Duration {
        let doublings = u32::try_from(count).unwrap_or(u32::MAX);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(factor).min(self.max);
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(draw(micros).min(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_unix_micros(secs * 1_000_000)
    }

    #[test]
    fn a_restart_counts_until_the_window_has_passed() {
        let mut window = RestartWindow::default();
        window.record(at(0), WINDOW);
        assert_eq!(window.count(at(599), WINDOW), 1);
        assert_eq!(window.count(at(600), WINDOW), 0);
    }

    #[test]
    fn a_clock_that_is_put_back_gives_no_budget() {
        let mut window = RestartWindow::default();
        window.record(at(10_000), WINDOW);
        assert_eq!(window.count(at(0), WINDOW), 1);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut window = RestartWindow::default();
        (0..5_000).for_each(|_| window.record(at(0), WINDOW));
        assert_eq!(window.count(at(0), WINDOW), MAX_RESTARTS);
    }

    #[test]
    fn the_bound_of_a_wait_doubles_up_to_its_end() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };
        let mut highest = |bound: u64| bound;
        let bounds: Vec<u64> =
            [0, 1, 2, 5, 6, 31, 32, 64, usize::MAX].map(|n| backoff.wait(n, &mut highest).as_secs()).to_vec();
        assert_eq!(bounds, [1, 2, 4, 32, 60, 60, 60, 60, 60]);
        assert_eq!(backoff.wait(3, &mut |_| 0), Duration::ZERO);
        assert_eq!(backoff.wait(0, &mut |_| u64::MAX), Duration::from_secs(1));
    }
}
