//! The kill switch: while it is latched nothing new leaves, and what was open was cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::domain::{Denial, DenialCode, Timestamp};

/// Latched or not. Looking at it is one atomic load.
#[derive(Debug, Default)]
pub struct Latch {
    /// How often it was latched and released: odd while it is latched.
    turns: AtomicU64,
    why: Mutex<Option<Latched>>,
}

/// Why and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Latched {
    /// In words of whoever latched it. Not for clients.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// What a request found when it came: no latch, and none since while this stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass(u64);

impl Latch {
    fn why(&self) -> MutexGuard<'_, Option<Latched>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Latches it. The first reason stays.
    pub(super) fn set(&self, reason: &str, now: Timestamp) {
        let mut why = self.why();
        if why.is_none() {
            *why = Some(Latched { reason: reason.to_owned(), since: now });
            self.turns.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Releases it. Whether it was latched.
    pub(super) fn release(&self) -> bool {
        let mut why = self.why();
        let was = why.take().is_some();
        if was {
            self.turns.fetch_add(1, Ordering::AcqRel);
        }
        was
    }

    /// Why it is latched, if it is.
    pub(super) fn state(&self) -> Option<Latched> {
        self.why().clone()
    }

    /// Whether it is latched.
    pub(super) fn is_set(&self) -> bool {
        self.turns.load(Ordering::Acquire) % 2 == 1
    }

    /// Lets a request begin.
    ///
    /// # Errors
    /// `shutdown_latched`, not recorded yet.
    pub(super) fn pass(&self) -> Result<Pass, Denial> {
        let turns = self.turns.load(Ordering::Acquire);
        if turns % 2 == 1 { Err(Self::denial()) } else { Ok(Pass(turns)) }
    }

    /// Whether it was not latched since `pass` was given, not even for a moment.
    pub(super) fn stands(&self, pass: Pass) -> bool {
        self.turns.load(Ordering::Acquire) == pass.0
    }

    /// What a client hears. The reason is the operators' own.
    pub(super) fn denial() -> Denial {
        Denial::new(
            DenialCode::ShutdownLatched,
            "the kill switch is latched: nothing leaves until an operator releases it",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_does_not_outlive_a_latch_however_short() {
        let latch = Latch::default();
        let now = Timestamp::from_unix_micros(7);
        let pass = latch.pass().expect("released");
        assert!(latch.stands(pass) && !latch.release());
        latch.set("first", now);
        latch.set("second", now);
        assert_eq!(latch.state(), Some(Latched { reason: "first".to_owned(), since: now }));
        assert_eq!(latch.pass().map_err(|denial| denial.code).err(), Some(DenialCode::ShutdownLatched));
        assert!(latch.is_set() && latch.release() && !latch.is_set() && latch.state().is_none());
        assert!(!latch.stands(pass) && latch.pass().is_ok());
    }
}
