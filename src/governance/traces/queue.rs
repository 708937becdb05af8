//! What waits for the collector: bounded in number and bytes, the oldest lost first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::counts::{Counts, Fate};

/// Spans that wait. 4096: some seconds of a busy gateway, or a day of a quiet one.
const MAX_SPANS: usize = 4_096;
/// Bytes that wait: times a few kilobytes that a long span has, no more than this.
const MAX_BYTES: usize = 8 << 20;
/// Spans of one request: what OpenTelemetry's own exporters send.
pub(super) const BATCH: usize = 512;
/// Bytes of the spans of one request. Collectors take 20 MiB and proxies before them 1 MiB.
const BATCH_BYTES: usize = 1_000_000;

/// Spans between the two tasks.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Box<str>>,
    bytes: usize,
}

impl Queue {
    pub(super) const fn new(counts: Arc<Counts>) -> Self {
        let waiting = Waiting { spans: VecDeque::new(), bytes: 0 };
        Self { waiting: Mutex::new(waiting), filled: Notify::const_new(), counts }
    }

    /// Adds a span.
    pub(super) fn put(&self, span: Box<str>) {
        let full = {
            let mut waiting = self.lock();
            waiting.bytes += span.len();
            waiting.spans.push_back(span);
            self.bound(&mut waiting);
            waiting.spans.len() >= BATCH
        };
        if full {
            self.filled.notify_one();
        }
    }

    /// The oldest spans, as many as one request carries; empty when none waits.
    pub(super) fn take(&self) -> Vec<Box<str>> {
        let mut waiting = self.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH
            && let Some(next) = waiting.spans.front()
            && (batch.is_empty() || bytes + next.len() <= BATCH_BYTES)
        {
            bytes += next.len();
            batch.extend(waiting.spans.pop_front());
        }
        waiting.bytes -= bytes;
        batch
    }

    /// Puts a batch back where it was: it is the oldest, and goes first when there is no room.
    pub(super) fn give_back(&self, batch: Vec<Box<str>>) {
        let mut waiting = self.lock();
        for span in batch.into_iter().rev() {
            waiting.bytes += span.len();
            waiting.spans.push_front(span);
        }
        self.bound(&mut waiting);
    }

    /// Drops what still waits.
    pub(super) fn clear(&self) {
        let mut waiting = self.lock();
        self.counts.add(Fate::Dropped, waiting.spans.len());
        *waiting = Waiting::default();
    }

    /// Ends when there is a whole batch, or there was one.
    pub(super) async fn filled(&self) {
        if self.lock().spans.len() < BATCH {
            self.filled.notified().await;
        }
    }

    fn bound(&self, waiting: &mut Waiting) {
        while waiting.spans.len() > MAX_SPANS || waiting.bytes > MAX_BYTES {
            let Some(oldest) = waiting.spans.pop_front() else { return };
            waiting.bytes -= oldest.len();
            self.counts.add(Fate::Dropped, 1);
        }
    }

    /// Nothing under this lock can panic half way, so a poisoned one is as good as another.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (Queue, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        (Queue::new(Arc::clone(&counts)), counts)
    }

    fn span(number: usize) -> Box<str> {
        number.to_string().into_boxed_str()
    }

    #[test]
    fn the_oldest_are_lost_first_and_each_is_counted() {
        let (queue, counts) = queue();
        (0..MAX_SPANS + 10).for_each(|number| queue.put(span(number)));
        assert_eq!(counts.of(Fate::Dropped), 10);
        let batch = queue.take();
        assert_eq!((batch.len(), &batch[0]), (BATCH, &span(10)));
        // What came meanwhile is newer, so of what is given back only as much stays as there is room for.
        (0..20).for_each(|number| queue.put(span(number)));
        queue.give_back(batch);
        assert_eq!(counts.of(Fate::Dropped), 30);
        assert_eq!(queue.take()[0], span(30));
        queue.clear();
        assert_eq!(counts.of(Fate::Dropped), 30 + (MAX_SPANS - BATCH) as u64);
        assert!(queue.take().is_empty());
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn bytes_are_bounded_in_the_queue_and_in_a_batch() {
        let (queue, counts) = queue();
        let large = "x".repeat(600_000).into_boxed_str();
        (0..20).for_each(|_| queue.put(large.clone()));
        assert!(queue.lock().bytes <= MAX_BYTES);
        assert_eq!(counts.of(Fate::Dropped), 20 - (MAX_BYTES / large.len()) as u64);
        assert_eq!(queue.take().len(), 1);
        queue.clear();
        queue.put("x".repeat(BATCH_BYTES * 2).into_boxed_str());
        assert_eq!(queue.take().len(), 1, "one that is too large alone would wait for ever");
    }

    #[tokio::test]
    async fn a_whole_batch_wakes_who_waits() {
        let (queue, _) = queue();
        (0..BATCH).for_each(|number| queue.put(span(number)));
        queue.filled().await;
        queue.take();
        // What was told before may be told once more; then nothing is.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), queue.filled()).await;
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), queue.filled()).await;
        assert!(waited.is_err());
    }
}
