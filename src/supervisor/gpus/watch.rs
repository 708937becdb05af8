//! The one thread that keeps asking the driver: how the GPUs are, and what befell them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::gpu::{
    GpuEvent, GpuUuid, Gpus, Health, HealthReason, Occurrence, Reading, Unavailable, UnavailableReason, WatchFault,
};

use super::{Accelerators, Sample};

/// Between two looks while a runtime has a GPU: how much a budget can be overdrawn by.
const BUSY: Duration = Duration::from_secs(1);
/// Between two looks while none has: for the metrics.
const IDLE: Duration = Duration::from_secs(10);
/// What was read longer ago is not shown any more: some looks were missed, as with a driver that hangs.
pub(in super::super) const STALE: Duration = Duration::from_secs(30);
/// How long without events until they are asked for again, after the driver refused.
const RETRY: Duration = Duration::from_secs(30);
/// Between two looks for GPUs that came.
const INVENTORY: Duration = Duration::from_secs(60);

/// Starts it. Nobody joins it: it may hang in the driver for as long as the driver does. It ends with `of`.
pub(super) fn start(of: &Accelerators, gpus: &Arc<Gpus>) {
    let (of, gpus) = (Weak::clone(&of.me), Arc::clone(gpus));
    let started = std::thread::Builder::new().name("gpu".to_owned()).spawn(move || Watch::new(of, &gpus).run());
    if let Err(fault) = started {
        tracing::error!(%fault, "GPUs are not watched: there is no thread for it");
    }
}

struct Watch<'g> {
    of: Weak<Accelerators>,
    gpus: &'g Gpus,
    known: BTreeSet<GpuUuid>,
    /// When the inventory was taken, and when the GPUs were read.
    last: Option<(Instant, Instant)>,
}

impl<'g> Watch<'g> {
    fn new(of: Weak<Accelerators>, gpus: &'g Gpus) -> Self {
        Self { of, gpus, known: BTreeSet::new(), last: None }
    }

    fn run(mut self) {
        while self.look().is_continue() {
            let gpus = self.gpus;
            // The same registration for as long as it lasts: what happens between two is told to nobody.
            let ended = gpus.watch(BUSY, |event| {
                if let (Some(event), Some(of)) = (event, self.of.upgrade()) {
                    of.befell(&event);
                }
                self.look()
            });
            let Err(fault) = ended else { return };
            tracing::debug!(%fault, "GPUs are watched by their readings only for now");
            // A GPU that was lost is left out the next time.
            let again = Instant::now() + if fault == WatchFault::Lost { BUSY } else { RETRY };
            while Instant::now() < again {
                std::thread::sleep(BUSY);
                if self.look().is_break() {
                    return;
                }
            }
        }
    }

    /// Reads them, if it is time to.
    fn look(&mut self) -> ControlFlow<()> {
        let Some(of) = self.of.upgrade() else { return ControlFlow::Break(()) };
        let held = of.all_held();
        let (pause, now) = (if held.is_empty() { IDLE } else { BUSY }, Instant::now());
        if self.last.is_some_and(|(_, read)| now.duration_since(read) < pause) {
            return ControlFlow::Continue(());
        }
        let inventory = match self.last {
            Some((inventory, _)) if now.duration_since(inventory) < INVENTORY => inventory,
            _ => {
                let adapters = self.gpus.inventory().map(|inventory| inventory.adapters).unwrap_or_default();
                self.known = adapters.into_iter().map(|adapter| adapter.uuid).collect();
                now
            }
        };
        // One that was lost is not in the inventory any more, and is still asked for by its name.
        self.known.extend(held);
        self.last = Some((inventory, now));
        let at = of.clock.now();
        let readings = self.known.iter().map(|gpu| {
            let reading = self.gpus.read(gpu).unwrap_or_else(|why| Reading::unknown(gpu.clone(), health(&why)));
            let errors = of.xids(|xids| xids.health(gpu, at));
            Reading { health: reading.health.and(&errors), ..reading }
        });
        let sample = Sample { at: Some(at), readings: readings.collect() };
        of.latest.send_replace(Arc::new(sample));
        ControlFlow::Continue(())
    }
}

/// What it means for a GPU that the driver as a whole does not answer.
fn health(why: &Unavailable) -> Health {
    let reason = match why.reason {
        UnavailableReason::VersionMismatch => HealthReason::VersionMismatch,
        UnavailableReason::NoPermission => HealthReason::NoPermission,
        UnavailableReason::NoDriver | UnavailableReason::NoGpu => HealthReason::Lost,
        UnavailableReason::NoLibrary
        | UnavailableReason::LibraryUnusable
        | UnavailableReason::LibraryUntrusted
        | UnavailableReason::DriverFault => HealthReason::Unreadable,
    };
    Health::from_iter([reason])
}

impl Accelerators {
    /// The GPUs that anybody has.
    fn all_held(&self) -> Vec<GpuUuid> {
        let house = self.house.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        house.holdings.all().cloned().collect()
    }

    /// What the driver tells once.
    fn befell(&self, event: &GpuEvent) {
        let gpu = event.gpu.as_ref().map_or("one that cannot say its name", GpuUuid::as_str);
        match event.what {
            Occurrence::Xid(xid) => {
                tracing::error!(gpu, xid = xid.0, reason = xid.reason().code(), "the driver reports an error of a GPU");
                if let Some(uuid) = &event.gpu {
                    let at = self.clock.now();
                    self.xids(|xids| xids.record(uuid.clone(), xid, at));
                }
            }
            // Counted by the GPU itself, so its next reading says it too.
            Occurrence::EccUncorrected => tracing::error!(gpu, "memory of a GPU could not be corrected"),
            Occurrence::Lost => tracing::error!(gpu, "a GPU was lost"),
        }
    }
}
