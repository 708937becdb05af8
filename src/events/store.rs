//! A bounded run of events: the ring of a lane, or the queue of a subscriber.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Event;

/// Events in the order of their numbers, bounded in number and in bytes; the oldest go first.
#[derive(Debug)]
pub(super) struct Store {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Store {
    pub(super) const fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, max_events, max_bytes }
    }

    /// Adds the newest event and drops old ones until both bounds hold; tells how many were dropped, and
    /// the number of the last of them. The newest always stays.
    pub(super) fn push(&mut self, event: Arc<Event>) -> Option<Dropped> {
        self.bytes += event.weight;
        self.events.push_back(event);
        let mut dropped = None::<Dropped>;
        while self.events.len() > 1 && (self.events.len() > self.max_events || self.bytes > self.max_bytes) {
            let Some(oldest) = self.pop() else { break };
            let count = dropped.map_or(0, |earlier| earlier.count) + 1;
            dropped = Some(Dropped { count, last: oldest.id });
        }
        dropped
    }

    pub(super) fn pop(&mut self) -> Option<Arc<Event>> {
        let oldest = self.events.pop_front()?;
        self.bytes -= oldest.weight;
        Some(oldest)
    }

    /// The events with a number above `after`, oldest first.
    pub(super) fn since(&self, after: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.range(self.events.partition_point(|event| event.id <= after)..)
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What a [`Store`] let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) count: u64,
    /// Number of the newest of them.
    pub(super) last: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::EventKind;
    use super::*;

    fn event(id: u64, text: usize) -> Arc<Event> {
        let data = json!("x".repeat(text));
        let mut event = Event::new(Arc::from("/test"), EventKind::ServiceHealth, None, data);
        event.id = id;
        Arc::new(event)
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut store = Store::new(2, usize::MAX);
        assert_eq!(store.push(event(1, 0)), None);
        assert_eq!(store.push(event(3, 0)), None);
        assert_eq!(store.push(event(4, 0)), Some(Dropped { count: 1, last: 1 }));
        assert_eq!(store.since(0).map(|event| event.id).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(store.since(3).map(|event| event.id).collect::<Vec<_>>(), [4]);
        assert_eq!(store.since(9).count(), 0);
    }

    #[test]
    fn a_large_event_pushes_out_as_many_as_it_weighs_and_stays_itself() {
        let mut store = Store::new(100, 8 << 10);
        for id in 1..=4 {
            assert_eq!(store.push(event(id, 0)), None);
        }
        assert_eq!(store.push(event(5, 8 << 10)), Some(Dropped { count: 4, last: 4 }));
        assert_eq!(store.len(), 1);
        store.pop().expect("the large one");
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }
}
