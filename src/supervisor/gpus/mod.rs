//! The GPUs of the runtimes: given at the launch, watched while they are used, and given back when their memory is.
//!
//! ```text
//! launch ── assign ──> House: who holds what, what was in use before <── adopt ── a daemon that comes back
//!                        │
//! driver ── watch ──> readings and Xids, once a second ──┬──> budget and health of each run (its keeper)
//!                                                        └──> metrics
//! end ───── give_back: until the driver has the memory back, or says who keeps it
//! ```
//!
//! Every call into the driver may block for seconds; callers come from threads that may. The lock keeps two
//! launches from being given one GPU, and is held for one question to the driver at a time. Who only looks at what was
//! read last takes no lock that is held over a call.

mod watch;

pub(super) use watch::STALE;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch::{Receiver, Sender};

use crate::domain::{Clock, RuntimeId, Timestamp};
use crate::gpu::{
    Baseline, GpuUuid, Gpus, Health, Holdings, Majors, Memory, Need, ProcessUsage, Reading, Release, Request, Scope,
    Xids, environment, nodes, released, without_gpus,
};

use super::manifest::{Gpu, GpuChoice};

/// Between two looks at whether the memory was given back.
const LOOK: Duration = Duration::from_millis(500);

/// Most processes that are remembered of one run: a reading has as many.
const MAX_PIDS: usize = 4_096;

/// The GPUs of this host and who has them.
#[derive(Debug)]
pub(super) struct Accelerators {
    me: Weak<Self>,
    clock: Arc<dyn Clock>,
    /// Which library, if not the one that the system's loader finds.
    library: Option<PathBuf>,
    house: Mutex<House>,
    /// What the driver reported of errors.
    xids: Mutex<Xids>,
    latest: Sender<Arc<Sample>>,
}

/// Who holds: a runtime and its run, so that the end of one run takes nothing from the next.
pub(super) type Holder = (RuntimeId, u64);

#[derive(Debug, Default)]
struct House {
    /// Opened when the first runtime asks: a host without a GPU is the common case.
    gpus: Option<Arc<Gpus>>,
    holdings: Holdings<Holder>,
    /// What was in use on the GPUs of each before it was launched.
    before: BTreeMap<Holder, Vec<Reading>>,
    /// Which processes of each were seen on its GPUs.
    pids: BTreeMap<Holder, BTreeSet<u32>>,
    /// Runs that were adopted and whose GPUs could not be booked: while there is one, nobody is given a GPU.
    unbooked: BTreeSet<Holder>,
}

/// What all GPUs measured at one moment, and what is wrong with each.
#[derive(Debug, Default)]
pub struct Sample {
    at: Option<Timestamp>,
    readings: Vec<Reading>,
}

impl Sample {
    /// One of them, if it was read.
    pub(super) fn of(&self, gpu: &GpuUuid) -> Option<&Reading> {
        self.readings.iter().find(|reading| reading.uuid == *gpu)
    }

    /// All of them.
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }
}

/// A GPU of a run, as it is written down for a daemon that comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeldGpu {
    pub(super) uuid: String,
    /// Bytes in use on it before the launch, if they could be read.
    used: Option<u64>,
    /// Processes on it before the launch.
    pids: Vec<u32>,
}

impl HeldGpu {
    fn of(uuid: &GpuUuid, before: &[Reading]) -> Self {
        let reading = before.iter().find(|reading| reading.uuid == *uuid);
        Self {
            uuid: uuid.as_str().to_owned(),
            used: reading.and_then(|reading| Some(reading.memory?.used)),
            pids: reading.iter().flat_map(|reading| reading.processes.iter().flatten()).map(|one| one.pid).collect(),
        }
    }

    /// The reading that it is what is left of.
    fn reading(&self) -> Option<Reading> {
        let process = |pid: &u32| ProcessUsage { pid: *pid, memory: None, utilization: None };
        Some(Reading {
            memory: self.used.map(|used| Memory { total: used, reserved: 0, free: 0, used }),
            processes: Some(self.pids.iter().map(process).collect()),
            ..Reading::unknown(GpuUuid::parse(&self.uuid).ok()?, Health::default())
        })
    }
}

/// What a launch gets of a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) environment: Vec<(String, String)>,
    pub(super) devices: Vec<PathBuf>,
    pub(super) gpus: Vec<HeldGpu>,
}

impl Granted {
    /// That of a runtime without a GPU: libraries are told not to look for one.
    pub(super) fn nothing() -> Self {
        let environment = without_gpus().map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { environment, ..Self::default() }
    }
}

impl Accelerators {
    pub(super) fn new(clock: Arc<dyn Clock>, library: Option<PathBuf>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            clock,
            library,
            house: Mutex::default(),
            xids: Mutex::default(),
            latest: Sender::new(Arc::default()),
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut House, &Gpus) -> T) -> T {
        let mut house = self.house.lock().unwrap_or_else(PoisonError::into_inner);
        let gpus = match &house.gpus {
            Some(gpus) => Arc::clone(gpus),
            None => self.open(&mut house),
        };
        work(&mut house, &gpus)
    }

    fn open(&self, house: &mut House) -> Arc<Gpus> {
        let gpus = Arc::new(Gpus::open(self.library.as_deref()));
        match gpus.availability() {
            Ok(versions) => {
                tracing::info!(driver = versions.driver, "the GPUs of this host can be given to runtimes");
                watch::start(self, &gpus);
            }
            Err(unavailable) => tracing::warn!(%unavailable, "no GPU can be given to a runtime"),
        }
        house.gpus = Some(Arc::clone(&gpus));
        gpus
    }

    /// Looks for the GPUs, so that they are measured before the first runtime has one. Blocks.
    pub(super) fn prepare(&self) {
        self.with(|_, _| ());
    }

    /// Follows what they measure.
    pub(super) fn samples(&self) -> Receiver<Arc<Sample>> {
        self.latest.subscribe()
    }

    /// What they measured last; nothing if that is too long ago to be true now.
    pub(super) fn sample(&self) -> Arc<Sample> {
        let latest = Arc::clone(&self.latest.borrow());
        let is_fresh = latest.at.is_some_and(|at| self.clock.now().since(at) < STALE);
        if is_fresh { latest } else { Arc::default() }
    }

    /// The GPUs that a run has.
    pub(super) fn held(&self, holder: &Holder) -> Vec<GpuUuid> {
        self.with(|house, _| house.holdings.of(holder).cloned().collect())
    }

    /// Remembers which processes of a run were seen on its GPUs: who may keep their memory after its end.
    pub(super) fn note(&self, holder: &Holder, pids: impl IntoIterator<Item = u32>) {
        let mut house = self.house.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a run that has ended, nobody asks any more.
        if house.holdings.of(holder).next().is_none() {
            return;
        }
        let known = house.pids.entry(holder.clone()).or_default();
        let room = MAX_PIDS.saturating_sub(known.len());
        known.extend(pids.into_iter().take(room));
    }

    fn xids<T>(&self, work: impl FnOnce(&mut Xids) -> T) -> T {
        work(&mut self.xids.lock().unwrap_or_else(PoisonError::into_inner))
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
        for (_, run) in &earlier {
            self.give_back(id, *run).map_err(|why| format!("gpu unavailable: {why}"))?;
        }
        let holder = (id.clone(), run);
        let now = self.clock.now();
        let errors = self.xids(|xids| xids.clone());
        self.with(|house, gpus| {
            if let Some((other, run)) = house.unbooked.first() {
                return Err(format!("gpu unavailable: what run {run} of `{other}` has is not known"));
            }
            // What was not there before may be by now: a driver that was loaded since.
            let opened = gpus.availability().is_err().then(|| self.open(house));
            let gpus = opened.as_deref().unwrap_or(gpus);
            let mut inventory = gpus.inventory().map_err(|fault| format!("gpu unavailable: {fault}"))?;
            for adapter in &mut inventory.adapters {
                adapter.health = std::mem::take(&mut adapter.health).and(&errors.health(&adapter.uuid, now));
            }
            let assigned = house.holdings.assign(&inventory.adapters, &request, &holder);
            let assigned = assigned.map_err(|fault| format!("gpu unavailable: {fault}"))?;
            let uuids: Vec<GpuUuid> = assigned.gpus().iter().map(|gpu| gpu.uuid.clone()).collect();
            match devices(&assigned) {
                Ok(devices) => {
                    let before: Vec<Reading> = uuids.iter().filter_map(|uuid| gpus.read(uuid).ok()).collect();
                    let environment = environment(&assigned).map(|(name, value)| (name.to_owned(), value)).to_vec();
                    let held = uuids.iter().map(|uuid| HeldGpu::of(uuid, &before)).collect();
                    house.before.insert(holder, before);
                    Ok(Granted { environment, devices, gpus: held })
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
    pub(super) fn adopt(&self, id: &RuntimeId, run: u64, held: &[HeldGpu]) -> Result<(), String> {
        let holder = (id.clone(), run);
        let uuids = held.iter().map(|gpu| GpuUuid::parse(&gpu.uuid)).collect::<Result<Vec<_>, _>>();
        self.with(|house, gpus| {
            let booked = uuids.map_err(|fault| fault.to_string()).and_then(|uuids| {
                let inventory = gpus.inventory().map_err(|fault| format!("gpu unavailable: {fault}"))?;
                let booked = house.holdings.adopt(&inventory.adapters, &uuids, &holder);
                booked.map(drop).map_err(|fault| format!("gpu unavailable: {fault}"))
            });
            if booked.is_err() {
                house.unbooked.insert(holder.clone());
            }
            house.before.insert(holder, held.iter().filter_map(HeldGpu::reading).collect());
            booked
        })
    }

    /// Waits until the memory of a run is given back, as long as that may take, and lets others have its GPUs.
    ///
    /// # Errors
    /// In words: it was not, and its GPUs stay held.
    pub(super) fn give_back(&self, id: &RuntimeId, run: u64) -> Result<(), String> {
        let holder = (id.clone(), run);
        let ended = self.clock.now();
        let mut told = None;
        loop {
            let why = match self.look(&holder, ended) {
                Release::Released => {
                    self.with(|house, _| {
                        house.holdings.release(&holder);
                        house.before.remove(&holder);
                        house.pids.remove(&holder);
                        house.unbooked.remove(&holder);
                    });
                    return Ok(());
                }
                Release::Waiting { held, survivors } => {
                    if told.as_ref() != Some(&survivors) {
                        tracing::info!(runtime = %id, run, held, ?survivors, "GPU memory is not given back yet");
                        told = Some(survivors);
                    }
                    std::thread::sleep(LOOK);
                    continue;
                }
                Release::Overdue { held, survivors } if survivors.is_empty() => {
                    format!("{held} bytes of run {run} are not given back, by no process that is known")
                }
                Release::Overdue { held, survivors } => {
                    let pids: Vec<String> = survivors.iter().map(ToString::to_string).collect();
                    format!("{held} bytes of run {run} are not given back: process {} holds on", pids.join(", "))
                }
                Release::Unreadable(gpu) => format!("what run {run} left on {gpu} cannot be read"),
            };
            tracing::error!(runtime = %id, run, why, "a GPU stays held");
            return Err(why);
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
            let ours: Vec<u32> = house.pids.get(holder).into_iter().flatten().copied().collect();
            let now: Vec<Reading> = held.iter().filter_map(|uuid| gpus.read(uuid).ok()).collect();
            released(&Baseline::new(&before, ended), &ours, &now, at)
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
        // Whatever this host has, this file is no library.
        let accelerators = Accelerators::new(Arc::new(SystemClock), Some("/proc/version".into()));
        let id = RuntimeId::parse("trainer").expect("id");
        let wanted = Gpu { choice: GpuChoice::Count(1), memory: None };
        let why = accelerators.assign(&id, 1, &wanted).expect_err("no library");
        assert!(why.starts_with("gpu unavailable: "), "{why}");
        // Nothing is held, or it is given back at once: nothing ran on it.
        assert_eq!(accelerators.give_back(&id, 1), Ok(()));
        let absurd = Gpu { choice: GpuChoice::Uuids(vec!["not a uuid".to_owned()]), memory: None };
        assert!(accelerators.assign(&id, 2, &absurd).is_err());
        // What an adopted run has is not known: nobody else is given a GPU until that run has ended.
        let uuid = GpuUuid::parse("GPU-00000000-0000-0000-0000-000000000000").expect("uuid");
        assert!(accelerators.adopt(&id, 7, &[HeldGpu::of(&uuid, &[])]).is_err());
        let other = RuntimeId::parse("other").expect("id");
        let why = accelerators.assign(&other, 1, &wanted).expect_err("not known");
        assert!(why.contains("run 7 of `trainer`"), "{why}");
        assert_eq!(accelerators.give_back(&id, 7), Ok(()));
        let after = accelerators.assign(&other, 2, &wanted).err().unwrap_or_default();
        assert!(!after.contains("trainer"), "{after}");
        assert!(accelerators.sample().readings().is_empty());
    }

    #[test]
    fn what_was_on_a_gpu_before_is_the_same_after_it_was_written_down() {
        let uuid = GpuUuid::parse("GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5f").expect("uuid");
        let process = ProcessUsage { pid: 50, memory: Some(7), utilization: Some(3) };
        let before = Reading {
            memory: Some(Memory { total: 100, reserved: 1, free: 79, used: 20 }),
            processes: Some(vec![process]),
            ..Reading::unknown(uuid.clone(), Health::default())
        };
        let at = Timestamp::from_unix_micros(0);
        for before in [vec![before], Vec::new()] {
            let text = serde_json::to_string(&HeldGpu::of(&uuid, &before)).expect("text");
            let held: HeldGpu = serde_json::from_str(&text).expect("held");
            let found: Vec<Reading> = held.reading().into_iter().collect();
            let against = |before: &[Reading]| {
                let now = Reading {
                    memory: Some(Memory { total: 1 << 40, reserved: 0, free: 0, used: 1 << 30 }),
                    processes: Some(vec![process]),
                    ..Reading::unknown(uuid.clone(), Health::default())
                };
                released(&Baseline::new(before, at), &[], &[now], at)
            };
            if before.is_empty() {
                assert_eq!(against(&found), Release::Waiting { held: (1 << 30) - 7, survivors: Vec::new() });
            } else {
                assert_eq!(against(&found), against(&before));
            }
        }
    }
}
