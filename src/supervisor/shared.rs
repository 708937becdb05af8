//! What all keepers share: handles of the floors below, made once by the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::config::RuntimesConfig;
use crate::domain::{Clock, RuntimeId};
use crate::events::EventBus;
use crate::proxy::{Gateway, RuntimeDoors};
use crate::sandbox::cgroup::{Cgroups, Standby};
use crate::sandbox::preset::Host;
use crate::sandbox::{Entry, LaunchError, Launcher, Profile, User};

use super::bars::Bars;
use super::gpus::Accelerators;
use super::manifest::RuntimeSpec;
use super::order::Progress;
use super::spent::Reports;

/// Says whether a runtime may be launched at all, or why not: consent, signatures. Asked before each launch.
pub type Permit = Arc<dyn Fn(&RuntimeSpec) -> Result<(), String> + Send + Sync>;

/// What every keeper needs.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) doors: RuntimeDoors,
    pub(super) events: EventBus,
    pub(super) launchers: Launchers,
    /// What kind of user this process can give a runtime; the first of the range stands in.
    pub(super) user: User,
    pub(super) cgroups: Result<Cgroups, String>,
    /// Groups for whichever runtime is launched next.
    standby: Mutex<Option<Standby>>,
    pub(super) host: Host,
    pub(super) config: RuntimesConfig,
    /// `<state>/runtimes`.
    pub(super) folder: PathBuf,
    pub(super) instance: String,
    pub(super) permit: Permit,
    pub(super) bars: Bars,
    pub(super) reports: Reports,
    pub(super) gpus: Arc<Accelerators>,
    /// The kill switch was used.
    pub(super) shut: AtomicBool,
    /// The daemon ends.
    closed: AtomicBool,
    pub(super) uids: Mutex<BTreeSet<u32>>,
    progress: Mutex<BTreeMap<RuntimeId, Progress>>,
    pub(super) changed: Notify,
    /// Counts what others may have seen change.
    pub(super) seen: watch::Sender<u64>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("folder", &self.folder).field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// What a [`Shared`] is made of.
pub(super) struct Parts {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) doors: RuntimeDoors,
    pub(super) events: EventBus,
    pub(super) cgroups: Result<Cgroups, String>,
    pub(super) host: Host,
    pub(super) config: RuntimesConfig,
    pub(super) folder: PathBuf,
    pub(super) instance: String,
    pub(super) permit: Permit,
    pub(super) bars: Bars,
    pub(super) reports: Reports,
    pub(super) launchers: Launchers,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            clock,
            gateway,
            doors,
            events,
            cgroups,
            host,
            config,
            folder,
            instance,
            permit,
            bars,
            reports,
            launchers,
        } = parts;
        let user = launchers.user(u32::try_from(config.first_uid).unwrap_or(u32::MAX - 1));
        let gpus = Accelerators::new(Arc::clone(&clock), config.gpu_library.clone());
        Self {
            clock,
            gateway,
            doors,
            events,
            launchers,
            user,
            cgroups,
            standby: Mutex::default(),
            host,
            config,
            folder,
            instance,
            permit,
            bars,
            reports,
            gpus,
            shut: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            uids: Mutex::default(),
            progress: Mutex::default(),
            changed: Notify::new(),
            seen: watch::Sender::new(0),
        }
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// Has made ready what the next launch takes, one under `profile` above all.
    pub(super) fn prepare(&self, user: User, profile: &Profile) {
        let mut standby = self.standby();
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        if let (None, Ok(groups)) = (standby.as_ref(), &self.cgroups) {
            *standby = groups.stand_by(&self.instance);
        }
        // While nobody takes these groups away for a runtime.
        let entry = standby.as_ref().map_or_else(Entry::default, |groups| Entry {
            into: groups.dir_fd(),
            join: groups.tasks().collect(),
            last: None,
        });
        self.launchers.prepare(user, profile, &entry);
    }

    pub(super) fn take_standby(&self) -> Option<Standby> {
        self.standby().take()
    }

    /// The daemon ends: what stood ready goes, and nothing is made ready any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.take_standby());
        if let Ok(groups) = &self.cgroups {
            // A folder of a runtime that lives on stays.
            let _ = groups.tidy();
        }
    }

    fn standby(&self) -> MutexGuard<'_, Option<Standby>> {
        self.standby.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A runtime came further, or fell back.
    pub(super) fn progressed(&self, id: &RuntimeId, progress: Progress) {
        let before = self.progress.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), progress);
        if before != Some(progress) {
            self.changed.notify_one();
        }
    }

    pub(super) fn progress(&self, id: &RuntimeId) -> Progress {
        let all = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(id).copied().unwrap_or(Progress::Idle)
    }

    pub(super) fn forget(&self, id: &RuntimeId) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The lowest user id of the range that no runtime of this state folder has; `None` when all are taken.
    pub(super) fn take_uid(&self) -> Option<u32> {
        let mut taken = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.uids().find(|uid| !taken.contains(uid))?;
        taken.insert(free);
        Some(free)
    }

    /// The range of runtimes' user ids.
    pub(super) fn uids(&self) -> Range<u32> {
        let number = |setting| u32::try_from(setting).unwrap_or(u32::MAX);
        let first = number(self.config.first_uid);
        first..first.saturating_add(number(self.config.uids))
    }

    /// `uid` belongs to a runtime from before.
    pub(super) fn hold_uid(&self, uid: u32) {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner).insert(uid);
    }
}

/// The one launcher. Made when it is needed and anew when it died, unless it was made before the daemon gave up the right to:
/// then it sees to that itself. What it launched goes on without it.
#[derive(Debug, Default)]
pub(super) struct Launchers {
    resident: Option<Arc<Launcher>>,
    current: Mutex<Option<Arc<Launcher>>>,
}

impl Launchers {
    pub(super) fn new(resident: Option<Launcher>) -> Self {
        Self { resident: resident.map(Arc::new), current: Mutex::default() }
    }

    /// A launcher that lives. Blocks while one is started.
    pub(super) fn get(&self) -> Result<Arc<Launcher>, LaunchError> {
        if let Some(resident) = &self.resident {
            return match resident.is_alive() {
                true => Ok(Arc::clone(resident)),
                false => Err(LaunchError::Dead),
            };
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(launcher) = current.as_ref().filter(|launcher| launcher.is_alive()) {
            return Ok(Arc::clone(launcher));
        }
        let fresh = Arc::new(Launcher::start()?);
        *current = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// A user of this host for runtimes, the one whose id is `host_id` where they have ids of their own.
    fn user(&self, host_id: u32) -> User {
        self.resident.as_ref().map_or_else(|| User::for_caller(host_id), |resident| resident.user(host_id))
    }

    /// Has made ready what a launch under `profile` takes that may come.
    fn prepare(&self, user: User, profile: &Profile, entry: &Entry<'_>) {
        if let Ok(launcher) = self.get() {
            // A failure shows itself at the launch.
            let _ = launcher.prepare(user, profile, entry);
        }
    }
}
