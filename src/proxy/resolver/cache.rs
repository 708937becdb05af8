//! Answers that servers gave, bounded in number and in time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::domain::HostName;

use super::{Answer, AnswerSource, ResolveError};

/// What is remembered about a name, and until when.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) outcome: Result<Arc<[IpAddr]>, ResolveError>,
    pub(super) expires: Instant,
}

impl Entry {
    pub(super) fn answer(self, now: Instant, from: AnswerSource) -> Result<Answer, ResolveError> {
        let ttl_left = self.expires.saturating_duration_since(now);
        self.outcome.map(|addresses| Answer { addresses, ttl_left, from })
    }
}

/// Two generations: new and re-used names live in the young one; when that is full, it becomes the old
/// one and the old one is dropped. So a name in use survives, a flood of names costs no scan, and no
/// list of uses has to be kept.
#[derive(Debug)]
pub(super) struct Cache {
    young: HashMap<HostName, Entry>,
    old: HashMap<HostName, Entry>,
    generation: usize,
}

impl Cache {
    /// Holds at most `capacity` names (an odd number is rounded up); 0 remembers nothing.
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation: capacity.div_ceil(2) }
    }

    pub(super) fn find(&mut self, name: &HostName, now: Instant) -> Option<Entry> {
        if let Some(entry) = self.young.get(name) {
            return (entry.expires > now).then(|| entry.clone());
        }
        let (name, entry) = self.old.remove_entry(name)?;
        if entry.expires <= now {
            return None;
        }
        self.insert(name, entry.clone());
        Some(entry)
    }

    pub(super) fn insert(&mut self, name: HostName, entry: Entry) {
        if self.generation == 0 {
            return;
        }
        self.old.remove(&name);
        if self.young.len() >= self.generation && !self.young.contains_key(&name) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, entry);
    }

    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).expect("a name")
    }

    fn entry(expires: Instant) -> Entry {
        Entry { outcome: Ok(Arc::new([IpAddr::from([192, 0, 2, 1])])), expires }
    }

    #[test]
    fn an_entry_is_gone_the_moment_it_expires() {
        let now = Instant::now();
        let mut cache = Cache::new(8);
        cache.insert(name("a.example"), entry(now + Duration::from_secs(2)));
        let found = cache.find(&name("a.example"), now + Duration::from_secs(1)).expect("still there");
        let answer = found.answer(now + Duration::from_secs(1), AnswerSource::Cache).expect("addresses");
        assert_eq!(answer.ttl_left, Duration::from_secs(1));
        assert!(cache.find(&name("a.example"), now + Duration::from_secs(2)).is_none());
    }

    #[test]
    fn an_expired_entry_of_the_old_generation_is_not_revived() {
        let now = Instant::now();
        let mut cache = Cache::new(2);
        cache.insert(name("a.example"), entry(now));
        cache.insert(name("b.example"), entry(now + Duration::from_secs(9)));
        assert!(cache.find(&name("a.example"), now).is_none());
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_flood_of_names_stays_within_the_bound_and_keeps_what_is_in_use() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut cache = Cache::new(16);
        cache.insert(name("used.example"), entry(later));
        for index in 0..1_000 {
            cache.insert(name(&format!("n{index}.example")), entry(later));
            assert!(cache.len() <= 16);
            assert!(cache.find(&name("used.example"), now).is_some(), "dropped after {index}");
        }
        assert!(cache.find(&name("n0.example"), now).is_none());
    }

    #[test]
    fn capacity_zero_remembers_nothing() {
        let mut cache = Cache::new(0);
        let now = Instant::now();
        cache.insert(name("a.example"), entry(now + Duration::from_secs(60)));
        assert!(cache.find(&name("a.example"), now).is_none());
    }

    #[test]
    fn a_newer_answer_replaces_the_one_in_the_old_generation() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut cache = Cache::new(4);
        for text in ["a.example", "b.example", "c.example"] {
            cache.insert(name(text), entry(later));
        }
        cache.insert(name("a.example"), Entry { outcome: Err(ResolveError::NoAddress), expires: later });
        let found = cache.find(&name("a.example"), now).expect("there");
        assert_eq!(found.outcome, Err(ResolveError::NoAddress));
        assert_eq!(cache.len(), 3);
    }
}
