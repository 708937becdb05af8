//! The GPUs of the runtimes: given at the launch, and given back when their memory is.
//!
//! Every call goes into the driver and may block for seconds; callers come from threads that may. The lock keeps two
//! launches from being given one GPU, and is held for one question to the driver at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::{Clock, RuntimeId, Timestamp};
use crate::gpu::{
    Baseline, GpuUuid, Gpus, Holdings, Majors, Need, Reading, Release, Request, Scope, environment, nodes, released,
    without_gpus,
};

use super::manifest::{Gpu, GpuChoice};

/// Between two looks at whether the memory was given back.
const LOOK: Duration = Duration::from_millis(500);

/// The GPUs of this host and who has them.
#[derive(Debug)]
pub(super) struct Accelerators {
    clock: Arc<dyn Clock>,
    house: Mutex<House>,
}

/// Who holds: a runtime and its run, so that the end of one run takes nothing from the next.
type Holder = (RuntimeId, u64);

#[derive(Debug, Default)]
struct House {
    /// Opened when the first runtime asks: a host without a GPU is the common case.
    gpus: Option<Arc<Gpus>>,
    holdings: Holdings<Holder>,
    /// What was in use on the GPUs of each before it was launched.
    before: BTreeMap<Holder, Vec<Reading>>,
    /// Runs that were adopted and whose GPUs could not be booked: while there is one, nobody is given a GPU.
    unbooked: BTreeSet<Holder>,
}

/// What a launch gets of a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) environment: Vec<(String, String)>,
    pub(super) devices: Vec<PathBuf>,
    pub(super) uuids: Vec<String>,
}

impl Granted {
    /// That of a runtime without a GPU: libraries are told not to look for one.
    pub(super) fn nothing() -> Self {
        let environment = without_gpus().map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { environment, ..Self::default() }
    }
}

impl Accelerators {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, house: Mutex::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut House, &Gpus) -> T) -> T {
        let mut house = self.house.lock().unwrap_or_else(PoisonError::into_inner);
        let gpus = Arc::clone(house.gpus.get_or_insert_with(|| Arc::new(Gpus::open(None))));
        work(&mut house, &gpus)
    }

    /// Gives `id` what it asks for. What it had before must have been given back.
    ///
    /// # Errors
    /// In words: there is no GPU, none is free, its memory is not given back, or the driver's nodes are missing.
    pub(super) fn assign(&self, id: &RuntimeId, run: u64, wanted: &Gpu) -> Result<Granted, String> {
        let free = wanted.memory.unwrap_or(0);
        let request = match &wanted.choice {
            GpuChoice::Count(count) => Request::new(Some(*count), &[], free),
            GpuChoice::Uuids(uuids) => Request::new(None, uuids, free),
        };
        let request = request.map_err(|fault| fault.to_string())?;
        let earlier =
            self.with(|house, _| house.before.keys().filter(|(held, _)| held == id).cloned().collect::<Vec<_>>());
        if !earlier.iter().all(|(_, run)| self.give_back(id, *run)) {
            return Err("gpu unavailable: the memory of its last run was not given back".to_owned());
        }
        let holder = (id.clone(), run);
        self.with(|house, gpus| {
            if let Some((other, run)) = house.unbooked.first() {
                return Err(format!("gpu unavailable: what run {run} of `{other}` has is not known"));
            }
            let inventory = gpus.inventory().map_err(|fault| format!("gpu unavailable: {fault}"))?;
            let assigned = house.holdings.assign(&inventory.adapters, &request, &holder);
            let assigned = assigned.map_err(|fault| format!("gpu unavailable: {fault}"))?;
            let uuids: Vec<GpuUuid> = assigned.gpus().iter().map(|gpu| gpu.uuid.clone()).collect();
            match devices(&assigned) {
                Ok(devices) => {
                    house.before.insert(holder.clone(), uuids.iter().filter_map(|uuid| gpus.read(uuid).ok()).collect());
                    let environment = environment(&assigned).map(|(name, value)| (name.to_owned(), value)).to_vec();
                    let uuids = uuids.iter().map(|uuid| uuid.as_str().to_owned()).collect();
                    Ok(Granted { environment, devices, uuids })
                }
                Err(why) => {
                    house.holdings.release(&holder);
                    Err(why)
                }
            }
        })
    }

    /// Books what a run has had since before this daemon.
    ///
    /// # Errors
    /// One of them is not here any more, or another runtime has it.
    pub(super) fn adopt(&self, id: &RuntimeId, run: u64, uuids: &[String]) -> Result<(), String> {
        let holder = (id.clone(), run);
        let uuids = uuids.iter().map(|uuid| GpuUuid::parse(uuid)).collect::<Result<Vec<_>, _>>();
        self.with(|house, gpus| {
            let booked = uuids.map_err(|fault| fault.to_string()).and_then(|uuids| {
                let inventory = gpus.inventory().map_err(|fault| format!("gpu unavailable: {fault}"))?;
                let booked = house.holdings.adopt(&inventory.adapters, &uuids, &holder);
                booked.map(drop).map_err(|fault| format!("gpu unavailable: {fault}"))
            });
            if booked.is_err() {
                house.unbooked.insert(holder.clone());
            }
            // What was in use before it is not known any more: an empty list is measured against nothing.
            house.before.entry(holder).or_default();
            booked
        })
    }

    /// Waits until the memory of `id` is given back, as long as that may take, and lets others have its GPUs. `false`:
    /// it was not, and they stay held.
    pub(super) fn give_back(&self, id: &RuntimeId, run: u64) -> bool {
        let holder = (id.clone(), run);
        let ended = self.clock.now();
        loop {
            match self.look(&holder, ended) {
                Release::Released => {
                    self.with(|house, _| {
                        house.holdings.release(&holder);
                        house.before.remove(&holder);
                        house.unbooked.remove(&holder);
                    });
                    return true;
                }
                Release::Waiting { .. } => std::thread::sleep(LOOK),
                Release::Overdue { held, survivors } => {
                    tracing::error!(runtime = %id, held, ?survivors, "GPU memory was not given back: its GPU stays held");
                    return false;
                }
                Release::Unreadable(gpu) => {
                    tracing::error!(runtime = %id, gpu = %gpu.as_str(), "a GPU cannot be read and stays held");
                    return false;
                }
            }
        }
    }

    fn look(&self, holder: &Holder, ended: Timestamp) -> Release {
        let at = self.clock.now();
        self.with(|house, gpus| {
            let held: Vec<GpuUuid> = house.holdings.of(holder).cloned().collect();
            if held.is_empty() {
                return Release::Released;
            }
            let before = house.before.get(holder).cloned().unwrap_or_default();
            let now: Vec<Reading> = held.iter().filter_map(|uuid| gpus.read(uuid).ok()).collect();
            released(&Baseline::new(&before, ended), &[], &now, at)
        })
    }
}

/// The nodes that the launch adds, each found to be what it should be.
fn devices(assigned: &crate::gpu::Assignment) -> Result<Vec<PathBuf>, String> {
    let majors = std::fs::read_to_string("/proc/devices").map_err(|fault| format!("/proc/devices: {fault}"))?;
    let nodes = nodes(assigned, &Majors::parse(&majors)).map_err(|fault| format!("gpu unavailable: {fault}"))?;
    let mut found = Vec::new();
    for node in nodes {
        let is_it = std::fs::metadata(&node.path).is_ok_and(|metadata| node.is(metadata.rdev()));
        match (is_it, node.need, node.scope) {
            (true, _, Scope::Assigned) => found.push(node.path),
            (true, _, Scope::Shared) | (false, Need::Optional, _) => {}
            (false, Need::Required, _) => {
                return Err(format!("gpu unavailable: {} is not the driver's node", node.path.display()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SystemClock;

    #[test]
    fn a_host_without_a_gpu_says_so_and_holds_nothing() {
        let accelerators = Accelerators::new(Arc::new(SystemClock));
        let id = RuntimeId::parse("trainer").expect("id");
        let wanted = Gpu { choice: GpuChoice::Count(1), memory: None };
        if let Err(why) = accelerators.assign(&id, 1, &wanted) {
            assert!(why.starts_with("gpu unavailable: "), "{why}");
        }
        // Nothing is held, or it is given back at once: nothing ran on it.
        assert!(accelerators.give_back(&id, 1));
        let absurd = Gpu { choice: GpuChoice::Uuids(vec!["not a uuid".to_owned()]), memory: None };
        assert!(accelerators.assign(&id, 2, &absurd).is_err());
        // What an adopted run has is not known: nobody else is given a GPU until that run has ended.
        assert!(accelerators.adopt(&id, 7, &["GPU-00000000-0000-0000-0000-000000000000".to_owned()]).is_err());
        let other = RuntimeId::parse("other").expect("id");
        let why = accelerators.assign(&other, 1, &wanted).expect_err("not known");
        assert!(why.contains("run 7 of `trainer`"), "{why}");
        assert!(accelerators.give_back(&id, 7));
        let after = accelerators.assign(&other, 2, &wanted).err().unwrap_or_default();
        assert!(!after.contains("trainer"), "{after}");
    }
}
