//! Runtimes that may not run, whoever asks, and whether the clock starts any.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::RuntimeId;

/// What governance forbids. Cheap to clone; whoever holds it sees every change at once.
///
/// It only says no: what runs is ended by whoever bars it.
#[derive(Debug, Clone, Default)]
pub struct Bars(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    barred: RwLock<BTreeSet<RuntimeId>>,
    halted: AtomicBool,
}

impl Bars {
    /// Bars exactly these.
    pub fn set(&self, barred: BTreeSet<RuntimeId>) {
        *self.0.barred.write().unwrap_or_else(PoisonError::into_inner) = barred;
    }

    /// Whether it may not run.
    pub fn holds(&self, id: &RuntimeId) -> bool {
        self.0.barred.read().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// No schedule starts anything from now on.
    pub(super) fn halt_schedules(&self) {
        self.0.halted.store(true, Ordering::Release);
    }

    /// Schedules start runtimes again.
    pub(super) fn resume_schedules(&self) {
        self.0.halted.store(false, Ordering::Release);
    }

    /// Whether no schedule starts anything.
    pub fn schedules_halted(&self) -> bool {
        self.0.halted.load(Ordering::Acquire)
    }
}
