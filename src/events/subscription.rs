//! A listener's end of the bus.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::bus::EventBus;
use super::event::{Event, Kinds};
use super::store::Store;

/// Events that wait for one listener. 1024: some seconds of a busy gateway.
const QUEUE_EVENTS: usize = 1024;

/// Bytes that wait for one listener. 2 MiB: times a few listeners, still little.
const QUEUE_BYTES: usize = 2 << 20;

/// What a listener gets.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The next event.
    Event(Arc<Event>),
    /// This many events are missing. Of a listener that is too slow: exactly those before the next
    /// event. At the start of a replay: those that are no longer kept; they lie between the old events
    /// that still are (rare kinds are kept longer), and as all kinds are counted it is an upper bound.
    Lost(u64),
}

/// Listens until it is dropped. One task owns it.
#[derive(Debug)]
pub struct Subscription {
    bus: EventBus,
    /// Kept events, from before the subscription; older than everything in the queue.
    replay: VecDeque<Arc<Event>>,
    /// Missing before the replay.
    missing: u64,
    queue: Arc<Queue>,
}

/// What publishers fill and the listener empties.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) kinds: Kinds,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug)]
struct Waiting {
    store: Store,
    /// Dropped since the listener last asked; older than everything in the store.
    lost: u64,
}

impl Subscription {
    pub(super) const fn new(bus: EventBus, queue: Arc<Queue>, replay: VecDeque<Arc<Event>>, missing: u64) -> Self {
        Self { bus, replay, missing, queue }
    }

    /// Waits for the next delivery. Cancel-safe: dropping the future loses nothing.
    pub async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.try_next() {
                return delivery;
            }
            // A permit is kept if the queue was filled since, so nothing is slept through.
            self.queue.filled.notified().await;
        }
    }

    /// The next delivery, if there is one now.
    pub fn try_next(&mut self) -> Option<Delivery> {
        if self.missing > 0 {
            return Some(Delivery::Lost(std::mem::take(&mut self.missing)));
        }
        if let Some(event) = self.replay.pop_front() {
            return Some(Delivery::Event(event));
        }
        let mut waiting = self.queue.lock();
        if waiting.lost > 0 {
            return Some(Delivery::Lost(std::mem::take(&mut waiting.lost)));
        }
        waiting.store.pop().map(Delivery::Event)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.forget(&self.queue);
    }
}

impl Queue {
    pub(super) const fn new(kinds: Kinds) -> Self {
        let waiting = Waiting { store: Store::new(QUEUE_EVENTS, QUEUE_BYTES), lost: 0 };
        Self { kinds, waiting: Mutex::new(waiting), filled: Notify::const_new() }
    }

    /// Adds an event and wakes the listener; tells how many had to go for it.
    pub(super) fn push(&self, event: Arc<Event>) -> u64 {
        let dropped = {
            let mut waiting = self.lock();
            let dropped = waiting.store.push(event).map_or(0, |dropped| dropped.count);
            waiting.lost += dropped;
            dropped
        };
        self.filled.notify_one();
        dropped
    }

    /// A panic elsewhere cannot leave this half done, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
