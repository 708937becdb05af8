//! The bus itself: numbering, keeping, handing out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::domain::Clock;

use super::event::{Event, EventKind, Kinds, Lane};
use super::store::Store;
use super::subscription::{Queue, Subscription};

/// Events kept in each lane for replay. 4096: a dashboard that was away for a while gets the picture.
const LANE_EVENTS: usize = 4096;

/// Bytes kept in each lane. 4 MiB: about a kilobyte per event.
const LANE_BYTES: usize = 4 << 20;

/// Where events are published and subscribed to. Cheap to clone; all clones are one bus.
#[derive(Debug, Clone)]
pub struct EventBus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Arc<str>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// Everything that decides the order, under one lock: who takes a number also hands the event out, and
/// who subscribes sees either before or after it. Nothing in here waits.
#[derive(Debug)]
struct State {
    /// Number of the first event of this life.
    first: u64,
    /// Number of the next event.
    next: u64,
    busy: KeptLane,
    quiet: KeptLane,
    queues: Vec<Arc<Queue>>,
    lost: u64,
}

/// The ring of one lane.
#[derive(Debug)]
struct KeptLane {
    store: Store,
    /// Number of the newest event that is no longer kept; 0 when all are.
    dropped: u64,
}

/// How the bus is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BusStats {
    /// Events published in this life.
    pub published: u64,
    /// Number of the latest event; `None` before the first.
    pub last_id: Option<u64>,
    /// Events that slow subscribers lost, each counted once per subscriber.
    pub lost: u64,
    /// Subscribers now.
    pub subscribers: usize,
    /// Events kept for replay.
    pub kept: usize,
    /// What they weigh in memory, in bytes, approximately.
    pub kept_bytes: usize,
}

impl EventBus {
    /// A bus whose events carry `source` (a URI reference, such as `/arw/host-a`).
    ///
    /// Numbers start at the clock's microseconds since the epoch: a life that publishes fewer than a
    /// million events a second never reaches the numbers of the next one, so `Last-Event-ID` stays
    /// meaningful over a restart. They stay below 2^53, so that JavaScript keeps them whole.
    pub fn new(source: &str, clock: Arc<dyn Clock>) -> Self {
        let first = u64::try_from(clock.now().unix_micros()).unwrap_or(0).max(1);
        let lane = || KeptLane { store: Store::new(LANE_EVENTS, LANE_BYTES), dropped: 0 };
        let state = State { first, next: first, busy: lane(), quiet: lane(), queues: Vec::new(), lost: 0 };
        Self { shared: Arc::new(Shared { source: Arc::from(source), clock, state: Mutex::new(state) }) }
    }

    /// Publishes an event and returns its number. Never waits for a listener.
    pub fn publish(&self, kind: EventKind, subject: Option<&str>, data: Value) -> u64 {
        self.tell(kind, subject, data).id
    }

    /// Publishes an event and returns it. Never waits for a listener.
    pub fn tell(&self, kind: EventKind, subject: Option<&str>, data: Value) -> Arc<Event> {
        let mut event = Event::new(Arc::clone(&self.shared.source), kind, subject, data);
        let mut state = self.lock();
        self.number(&mut event, &mut state);
        let event = Arc::new(event);
        let lost: u64 = state
            .queues
            .iter()
            .filter(|queue| queue.kinds.contains(kind))
            .map(|queue| queue.push(Arc::clone(&event)))
            .sum();
        state.lost += lost;
        let lane = match kind.lane() {
            Lane::Busy => &mut state.busy,
            Lane::Quiet => &mut state.quiet,
        };
        if let Some(dropped) = lane.store.push(Arc::clone(&event)) {
            lane.dropped = dropped.last;
        }
        event
    }

    /// An event with a number of its own that no listener gets: for trying the way to one.
    pub fn unpublished(&self, kind: EventKind, subject: Option<&str>, data: Value) -> Event {
        let mut event = Event::new(Arc::clone(&self.shared.source), kind, subject, data);
        self.number(&mut event, &mut self.lock());
        event
    }

    fn number(&self, event: &mut Event, state: &mut State) {
        event.id = state.next;
        event.time = self.shared.clock.now();
        state.next += 1;
    }

    /// Whether somebody listens to one of `kinds`.
    pub fn is_heard(&self, kinds: &[EventKind]) -> bool {
        let state = self.lock();
        state.queues.iter().any(|queue| kinds.iter().any(|kind| queue.kinds.contains(*kind)))
    }

    /// Listens to the kinds whose name starts with one of `prefix` (none: to all).
    ///
    /// With `after`, every kept event with a higher number comes first, and [`super::Delivery::Lost`] tells of
    /// those that are no longer kept. A number from the future (the clock was set back over a restart)
    /// is taken as one from the past: rather twice than never. Without `after`, the last `replay` kept
    /// events come first.
    pub fn subscribe(&self, after: Option<u64>, replay: usize, prefix: &[String]) -> Subscription {
        let kinds = Kinds::with_prefix(prefix);
        let queue = Arc::new(Queue::new(kinds));
        let mut state = self.lock();
        let (kept, missing) = match after {
            Some(after) => {
                let after = if after >= state.next { 0 } else { after };
                (state.kept(kinds, after), state.missing(kinds, after))
            }
            None => {
                let mut kept = state.kept(kinds, 0);
                kept.drain(..kept.len().saturating_sub(replay));
                (kept, 0)
            }
        };
        state.queues.push(Arc::clone(&queue));
        Subscription::new(self.clone(), queue, kept, missing)
    }

    /// How the bus is doing.
    pub fn stats(&self) -> BusStats {
        let state = self.lock();
        let published = state.next - state.first;
        BusStats {
            published,
            last_id: (published > 0).then(|| state.next - 1),
            lost: state.lost,
            subscribers: state.queues.len(),
            kept: state.busy.store.len() + state.quiet.store.len(),
            kept_bytes: state.busy.store.bytes() + state.quiet.store.bytes(),
        }
    }

    pub(super) fn forget(&self, queue: &Arc<Queue>) {
        self.lock().queues.retain(|other| !Arc::ptr_eq(other, queue));
    }

    /// Nothing under this lock can panic half way, so a poisoned one is as good as another.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Kept events of `kinds` above `after`, in the order of their numbers.
    fn kept(&self, kinds: Kinds, after: u64) -> VecDeque<Arc<Event>> {
        let wanted = |event: &&Arc<Event>| kinds.contains(event.kind);
        let mut busy = self.busy.store.since(after).filter(wanted).peekable();
        let mut quiet = self.quiet.store.since(after).filter(wanted).peekable();
        let mut kept = VecDeque::new();
        loop {
            let next = match (busy.peek(), quiet.peek()) {
                (Some(left), Some(right)) if left.id < right.id => busy.next(),
                (Some(_), None) => busy.next(),
                (_, Some(_)) => quiet.next(),
                (None, None) => return kept,
            };
            kept.extend(next.map(Arc::clone));
        }
    }

    /// At most how many events of `kinds` above `after` are no longer kept. Exact when `kinds` is all.
    fn missing(&self, kinds: Kinds, after: u64) -> u64 {
        let lanes = [(Lane::Busy, &self.busy), (Lane::Quiet, &self.quiet)];
        if !lanes.iter().any(|(lane, kept)| kinds.touches(*lane) && kept.dropped > after) {
            return 0;
        }
        let published = self.next - self.first.max(after.saturating_add(1)).min(self.next);
        let kept: usize = lanes.iter().map(|(_, kept)| kept.store.since(after).count()).sum();
        published.saturating_sub(kept as u64)
    }
}

#[cfg(test)]
mod tests;
