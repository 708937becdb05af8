//! What became of the spans.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::codes;

codes! {
    /// What became of a span.
    Fate {
        /// The collector took it.
        Exported => "exported",
        /// The collector refused it.
        Rejected => "rejected",
        /// There was no room for it, or the daemon ended.
        Dropped => "dropped",
    }
}

/// How many spans met each fate.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Fate::ALL.len()]);

impl Counts {
    /// How many met `fate` since the start.
    pub fn of(&self, fate: Fate) -> u64 {
        self.0[fate as usize].load(Ordering::Relaxed)
    }

    #[cfg(any(feature = "otlp", test))]
    pub(super) fn add(&self, fate: Fate, count: usize) {
        self.0[fate as usize].fetch_add(count as u64, Ordering::Relaxed);
    }
}
