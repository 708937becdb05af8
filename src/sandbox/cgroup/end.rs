//! Stops, continues, kills and removes a leaf.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use super::tree::NAP;
use super::walk::{groups, is_gone, pids, read, write};
use super::{CgroupFault, Controller, Leaf};

/// How long `cgroup.kill` alone is waited for before the slower ways are taken as well.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// How long a v1 group is waited for to freeze before its processes are killed as they are.
const FREEZE_FOR_KILL: Duration = Duration::from_millis(50);

impl Leaf {
    /// Kills every process of the leaf, daemonised ones and those in groups made inside included, and
    /// waits until none is left. Holds against a fork bomb: `cgroup.kill` (kernel 5.14) takes all at once,
    /// and in v1 forking is forbidden first (`pids.max` 0) and the group frozen while it is signalled.
    ///
    /// # Errors
    /// [`CgroupFault::Inside`] when the caller is in the leaf: nobody is killed then. [`CgroupFault::Alive`] when some outlived `within`: they sit in the kernel (state `D`).
    pub fn kill(&self, within: Duration) -> Result<(), CgroupFault> {
        let deadline = Instant::now() + within;
        self.begin_kill()?;
        while !self.empty_by(deadline.min(Instant::now() + FIRST_LOOK))? {
            if Instant::now() >= deadline {
                return Err(CgroupFault::Alive(self.pids()?.into_iter().collect()));
            }
            self.kill_at_once();
            self.kill_one_by_one()?;
        }
        Ok(())
    }

    /// Gives the order of [`Leaf::kill`] without waiting for the end: for many leaves at once, give it to all
    /// first and then call `kill` for each.
    ///
    /// # Errors
    /// [`CgroupFault::Inside`] as there; [`CgroupFault::Overgrown`] when not all could be found.
    pub fn begin_kill(&self) -> Result<(), CgroupFault> {
        // A list that is too long to read must not save those on it.
        if self.pids().is_ok_and(|pids| pids.contains(&getpid().as_raw())) {
            return Err(CgroupFault::Inside);
        }
        self.forbid_forks();
        let at_once = self.kill_at_once();
        // A frozen v1 group holds SIGKILL until it is thawed.
        self.set_freezer("THAWED");
        let killed = if at_once { Ok(()) } else { self.kill_one_by_one() };
        self.lift_quota();
        killed
    }

    /// Stops every process of the leaf and waits until all stand still. In v1 not even SIGKILL gets
    /// through until [`Leaf::thaw`]; [`Leaf::kill`] sees to that.
    ///
    /// # Errors
    /// [`CgroupFault::Unsettled`] when that took longer than `within`; thaw it then.
    /// [`CgroupFault::Unavailable`] when no hierarchy here can freeze.
    pub fn freeze(&self, within: Duration) -> Result<(), CgroupFault> {
        let deadline = Instant::now() + within;
        let mut can = false;
        if let Some(dir) = &self.place().unified
            && write(&dir.join("cgroup.freeze"), "1").is_ok()
        {
            can = true;
            self.wait(deadline, "frozen", || shows(dir, "cgroup.events", "frozen 1"))?;
        }
        // A process that is in the v1 groups only would run on.
        let left = if can { self.outside_the_v2_group()? } else { self.pids()? };
        if (!can || !left.is_empty()) && self.set_freezer("FROZEN") {
            can = true;
            self.wait(deadline, "frozen", || self.freezer_shows("FROZEN"))?;
        }
        if can { Ok(()) } else { Err(CgroupFault::Unavailable(vec!["nothing here can freeze a group".to_owned()])) }
    }

    /// Lets a frozen leaf run on.
    ///
    /// # Errors
    /// [`CgroupFault::Unsettled`] when it did not within `within`.
    pub fn thaw(&self, within: Duration) -> Result<(), CgroupFault> {
        let deadline = Instant::now() + within;
        self.set_freezer("THAWED");
        self.wait(deadline, "thawed", || self.freezer().is_none() || self.freezer_shows("THAWED"))?;
        if let Some(dir) = &self.place().unified
            && write(&dir.join("cgroup.freeze"), "0").is_ok()
        {
            self.wait(deadline, "thawed", || shows(dir, "cgroup.events", "frozen 0"))?;
        }
        Ok(())
    }

    /// Removes the groups of the leaf with those made inside, children first. Kills nobody: a leaf with a
    /// process in it stays. One that is gone already is fine.
    ///
    /// # Errors
    /// The group that was still busy after `within`.
    pub fn remove(&self, within: Duration) -> Result<(), CgroupFault> {
        let deadline = Instant::now() + within;
        for top in self.place().paths() {
            while let Err((path, fault)) = remove_tree(top)? {
                let busy = matches!(fault.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty);
                if !busy || Instant::now() >= deadline {
                    return Err(CgroupFault::file(&path, fault));
                }
                std::thread::sleep(NAP);
            }
        }
        Ok(())
    }

    fn forbid_forks(&self) {
        if let Some(dir) = self.place().v1_of(Controller::Pids) {
            // What counts is that processes end; without this it takes more rounds.
            let _ = write(&dir.join("pids.max"), "0");
        }
    }

    /// Dying takes CPU time, and a hundred processes that die on a twentieth of a CPU take it for minutes. Each has its
    /// order by now, so none does anything else with what this gives.
    fn lift_quota(&self) {
        let v2 = self.place().unified.as_ref().map(|dir| (dir.join("cpu.max"), "max"));
        let v1 = self.place().v1_of(Controller::Cpu).map(|dir| (dir.join("cpu.cfs_quota_us"), "-1"));
        for (path, unlimited) in v2.into_iter().chain(v1) {
            // A group without a quota has no such file.
            let _ = write(&path, unlimited);
        }
    }

    /// Whether the v2 tree took the order.
    fn kill_at_once(&self) -> bool {
        self.place().unified.as_ref().is_some_and(|dir| write(&dir.join("cgroup.kill"), "1").is_ok())
    }

    /// Freezes the v1 group, signals each process and thaws. Nothing in a frozen group can end, so no
    /// number read from it is taken by a stranger meanwhile.
    fn kill_one_by_one(&self) -> Result<(), CgroupFault> {
        if self.set_freezer("FROZEN") {
            let _ = self.wait(Instant::now() + FREEZE_FOR_KILL, "frozen", || self.freezer_shows("FROZEN"));
        }
        let found = self.pids();
        for pid in found.iter().flatten().map(|pid| Pid::from_raw(*pid)).filter(|pid| *pid != getpid()) {
            // Gone is what it shall be.
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.set_freezer("THAWED");
        found.map(drop)
    }

    fn empty_by(&self, deadline: Instant) -> Result<bool, CgroupFault> {
        loop {
            let empty = self.is_empty()?;
            if empty || Instant::now() >= deadline {
                return Ok(empty);
            }
            std::thread::sleep(NAP);
        }
    }

    /// Whether no process is left. In v2 the kernel says so of the whole tree in one line.
    ///
    /// # Errors
    /// A group that cannot be read.
    pub fn is_empty(&self) -> Result<bool, CgroupFault> {
        if let Some(dir) = &self.place().unified {
            let events = read(&dir.join("cgroup.events"));
            let empty = match events {
                Ok(text) => text.lines().any(|line| line == "populated 0"),
                Err(fault) => is_gone(&fault),
            };
            if !empty {
                return Ok(false);
            }
        }
        for (_, path) in &self.place().v1 {
            if !pids(path)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn outside_the_v2_group(&self) -> Result<BTreeSet<i32>, CgroupFault> {
        let inside = self.place().unified.as_deref().map_or_else(|| Ok(BTreeSet::new()), pids)?;
        Ok(self.pids()?.difference(&inside).copied().collect())
    }

    fn freezer(&self) -> Option<&Path> {
        self.place().v1_of(Controller::Freezer)
    }

    fn set_freezer(&self, state: &str) -> bool {
        self.freezer().is_some_and(|dir| write(&dir.join("freezer.state"), state).is_ok())
    }

    fn freezer_shows(&self, state: &str) -> bool {
        self.freezer().is_some_and(|dir| shows(dir, "freezer.state", state))
    }

    fn wait(&self, deadline: Instant, what: &'static str, done: impl Fn() -> bool) -> Result<(), CgroupFault> {
        while !done() {
            if Instant::now() >= deadline {
                return Err(CgroupFault::Unsettled(what));
            }
            std::thread::sleep(NAP);
        }
        Ok(())
    }
}

fn shows(dir: &Path, name: &str, line: &str) -> bool {
    read(&dir.join(name)).is_ok_and(|text| text.lines().any(|found| found == line))
}

/// Removes a group with all below it; the group that would not go is in the inner error.
fn remove_tree(top: &Path) -> Result<Result<(), (PathBuf, io::Error)>, CgroupFault> {
    for path in groups(top)?.into_iter().rev() {
        match std::fs::remove_dir(&path) {
            Err(fault) if !is_gone(&fault) => return Ok(Err((path, fault))),
            _ => {}
        }
    }
    Ok(Ok(()))
}
