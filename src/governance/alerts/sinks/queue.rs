//! What waits for a route's sink.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::parcel::Parcel;
use super::spool::{Spool, Spooled};

/// Parcels that wait in memory. 1024: as many as wait for a listener of the bus.
const MEMORY: usize = 1024;

/// Counters of one route; they outlive a change of its settings.
#[derive(Debug, Default)]
pub(super) struct Stats {
    /// Taken by the sink.
    pub(super) sent: AtomicU64,
    /// Attempts that failed.
    pub(super) failures: AtomicU64,
    /// Lost, for want of room or because the sink will never take it.
    pub(super) lost: AtomicU64,
    /// Of these, what tells of lost things.
    pub(super) lost_of_loss: AtomicU64,
    /// In the courier's hand.
    pub(super) in_hand: AtomicUsize,
    /// Why the last attempt failed; nothing after one that did not.
    pub(super) fault: Mutex<Option<String>>,
}

impl Stats {
    pub(super) fn lose(&self, parcel: &Parcel) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        if parcel.of_loss {
            self.lost_of_loss.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn say(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    pub(super) fn said(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One queue: many put in, one takes out.
#[derive(Debug)]
pub(super) struct Queue {
    kept: Mutex<Kept>,
    filled: Notify,
    stats: Arc<Stats>,
}

#[derive(Debug)]
enum Kept {
    Memory(VecDeque<Parcel>),
    Disk(Spool),
}

/// A parcel that was taken out. On the disk it stays until it is [`Queue::done`].
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) parcel: Parcel,
    place: Option<u64>,
}

impl Queue {
    pub(super) fn memory(stats: Arc<Stats>) -> Self {
        Self { kept: Mutex::new(Kept::Memory(VecDeque::new())), filled: Notify::new(), stats }
    }

    pub(super) fn disk(spool: Spool, stats: Arc<Stats>) -> Self {
        Self { kept: Mutex::new(Kept::Disk(spool)), filled: Notify::new(), stats }
    }

    pub(super) fn is_on_disk(&self) -> bool {
        matches!(*self.lock(), Kept::Disk(_))
    }

    /// Gives the spool another bound.
    pub(super) fn set_bound(&self, bytes: u64) {
        if let Kept::Disk(spool) = &mut *self.lock() {
            spool.set_bound(bytes);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        match &*self.lock() {
            Kept::Memory(parcels) => parcels.len() + self.stats.in_hand.load(Ordering::Relaxed),
            Kept::Disk(spool) => spool.len(),
        }
    }

    /// Puts a parcel in; on the disk when this returns, where the queue is there. What does not fit is lost, and counted:
    /// the oldest in memory, the newest on the disk.
    pub(super) async fn put(self: &Arc<Self>, parcel: Parcel) {
        if self.is_on_disk() {
            let queue = Arc::clone(self);
            // Ends early only when the executor does.
            let _ = tokio::task::spawn_blocking(move || queue.put_now(parcel)).await;
        } else {
            self.put_now(parcel);
        }
        self.filled.notify_one();
    }

    fn put_now(&self, parcel: Parcel) {
        match &mut *self.lock() {
            Kept::Memory(parcels) => {
                parcels.push_back(parcel);
                if parcels.len() > MEMORY
                    && let Some(oldest) = parcels.pop_front()
                {
                    self.stats.lose(&oldest);
                }
            }
            Kept::Disk(spool) => {
                if let Err(fault) = spool.put(&parcel) {
                    self.stats.lose(&parcel);
                    self.stats.say(Some(fault.to_string()));
                }
            }
        }
    }

    /// Waits for the next parcel. Cancel-safe in that a parcel on the disk is still there, and one in memory is taken only
    /// when this returns.
    pub(super) async fn take(self: &Arc<Self>) -> Taken {
        loop {
            if let Some(taken) = self.take_one().await {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    async fn take_one(self: &Arc<Self>) -> Option<Taken> {
        if !self.is_on_disk() {
            return self.take_now();
        }
        let queue = Arc::clone(self);
        tokio::task::spawn_blocking(move || queue.take_now()).await.ok()?
    }

    /// The next parcel, if there is one.
    pub(super) fn take_now(&self) -> Option<Taken> {
        match &mut *self.lock() {
            Kept::Memory(parcels) => {
                let parcel = parcels.pop_front()?;
                self.stats.in_hand.store(1, Ordering::Relaxed);
                Some(Taken { parcel, place: None })
            }
            Kept::Disk(spool) => loop {
                match spool.first()? {
                    Spooled::Whole(place, parcel) => return Some(Taken { parcel, place: Some(place) }),
                    // A crash of the machine cut it; nobody can know what it said.
                    Spooled::Broken => drop(self.stats.lost.fetch_add(1, Ordering::Relaxed)),
                }
            },
        }
    }

    /// Lets go of what was delivered.
    pub(super) async fn done(self: &Arc<Self>, taken: Taken) {
        self.stats.in_hand.store(0, Ordering::Relaxed);
        let Some(place) = taken.place else { return };
        let queue = Arc::clone(self);
        let remove = move || {
            if let Kept::Disk(spool) = &mut *queue.lock() {
                spool.remove(place);
            }
        };
        // Ends early only when the executor does: then it is delivered once more.
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Puts back what was taken and not delivered.
    pub(super) fn give_back(&self, taken: Taken) {
        self.stats.in_hand.store(0, Ordering::Relaxed);
        if let Kept::Memory(parcels) = &mut *self.lock() {
            parcels.push_front(taken.parcel);
        }
        self.filled.notify_one();
    }

    /// A panic elsewhere leaves a queue that is still one.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
