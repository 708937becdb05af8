//! Whether the workers are alive: each is asked, and answers from the loop that accepts and serves.
//!
//! A worker that waits for a disk that does not come back, or that spins, serves nobody and answers nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The questions to one worker, by number.
#[derive(Debug, Default)]
struct Pulse {
    asked: AtomicU64,
    answered: AtomicU64,
    bell: Notify,
}

/// Asks the workers of a running proxy; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pulses(Arc<[Pulse]>);

impl Pulses {
    pub(super) fn of(workers: usize) -> Self {
        Self((0..workers).map(|_| Pulse::default()).collect())
    }

    /// The workers, by number, that have not answered the last question. Then asks all of them anew.
    pub fn ask(&self) -> Vec<usize> {
        let silent = self.0.iter().enumerate().filter_map(|(index, pulse)| {
            let asked = pulse.asked.fetch_add(1, Ordering::Relaxed);
            let answered = pulse.answered.load(Ordering::Relaxed) == asked;
            pulse.bell.notify_one();
            (!answered).then_some(index)
        });
        silent.collect()
    }

    /// Waits for a question to the worker `index` and answers it. Nothing is lost when the wait is given up.
    pub(super) async fn answer(&self, index: usize) {
        let pulse = &self.0[index];
        pulse.bell.notified().await;
        pulse.answered.store(pulse.asked.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_answer_is_named_until_it_does() {
        let pulses = Pulses::of(3);
        assert!(pulses.ask().is_empty(), "nobody was asked before");
        for index in [0, 2] {
            pulses.answer(index).await;
        }
        assert_eq!(pulses.ask(), [1]);
        for index in [0, 2] {
            pulses.answer(index).await;
        }
        // An answer to an old question is one to all that were asked by then.
        pulses.answer(1).await;
        assert!(pulses.ask().is_empty());
        assert_eq!(pulses.ask(), [0, 1, 2]);
    }
}
