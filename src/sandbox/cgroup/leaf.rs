//! One runtime's groups.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::O_DIRECTORY;
use serde::{Deserialize, Serialize};

use super::files::Opened;
use super::layout::Hierarchy;
use super::walk::{self, write};
use super::{CgroupFault, Controller, Withheld};

/// Where the groups of a leaf are; kept in a state file so that another process finds them again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafPlace {
    /// In the v2 tree.
    pub unified: Option<PathBuf>,
    /// In each v1 hierarchy, with the controllers that it has.
    pub v1: Vec<(Vec<Controller>, PathBuf)>,
}

impl LeafPlace {
    /// All groups.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1.iter().map(|(_, path)| path).chain(&self.unified)
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.unified.is_none() && self.v1.is_empty()
    }

    pub(super) fn put(&mut self, hierarchy: &Hierarchy, path: PathBuf) {
        if hierarchy.controllers.is_empty() {
            self.unified = Some(path);
        } else {
            self.v1.push((hierarchy.controllers.clone(), path));
        }
    }

    /// How many groups of v1 are entered before that of the CPU, which is the last if there is another.
    pub fn first_joins(&self) -> usize {
        let has_cpu = |(controllers, _): &(Vec<Controller>, PathBuf)| controllers.contains(&Controller::Cpu);
        let is_alone = self.unified.is_none() && self.v1.len() == 1;
        self.v1.len() - usize::from(!is_alone && self.v1.last().is_some_and(has_cpu))
    }

    pub(super) fn v1_of(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|(controllers, _)| controllers.contains(&controller)).map(|(_, path)| path.as_path())
    }
}

/// The groups of one runtime, as made by [`super::Cgroups::leaf`]. Dropping it changes nothing: a leaf
/// outlives the daemon.
#[derive(Debug)]
pub struct Leaf {
    place: LeafPlace,
    withheld: Vec<Withheld>,
    dir: Option<File>,
    /// What was opened ahead.
    files: Opened,
}

/// Where a controller works for a leaf.
pub(super) enum Site<'l> {
    V1(&'l Path),
    V2(&'l Path),
}

impl Leaf {
    pub(super) fn open(place: LeafPlace, withheld: Vec<Withheld>) -> Result<Self, CgroupFault> {
        let open = |path: &PathBuf| {
            let mut options = File::options();
            options.read(true).custom_flags(O_DIRECTORY).open(path).map_err(|fault| CgroupFault::file(path, fault))
        };
        let dir = place.unified.as_ref().map(open).transpose()?;
        Ok(Self { place, withheld, dir, files: Opened::default() })
    }

    /// With what was opened of it before: files that limits are written to.
    pub(super) fn with_files(self, files: Opened) -> Self {
        Self { files, ..self }
    }

    pub(super) const fn files(&self) -> &Opened {
        &self.files
    }

    /// Where the groups are.
    pub const fn place(&self) -> &LeafPlace {
        &self.place
    }

    /// Controllers that the leaf does not have. Empty for an adopted leaf: its reasons went with the
    /// process that made it.
    pub fn withheld(&self) -> &[Withheld] {
        &self.withheld
    }

    /// The v2 group for `clone3(CLONE_INTO_CGROUP)` (kernel 5.7): the child is in it from its first
    /// instruction. Closed on exec.
    pub fn dir_fd(&self) -> Option<BorrowedFd<'_>> {
        self.dir.as_ref().map(AsFd::as_fd)
    }

    /// The files into which a process of one thread writes `0` to enter the v1 groups with what it starts later.
    ///
    /// The process must be one that may end with the runtime: from then on [`Leaf::kill`] means it too. Of a process with
    /// more threads only the one that writes would be moved. `cgroup.procs` moves them all, and for that waits until no
    /// thread of the host can be under way in a fork or an exit: an RCU grace period, 7 ms and more. The writer's own
    /// thread needs no such wait (Linux 5.5).
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn enter_self(&self) -> Result<Vec<File>, (PathBuf, io::Error)> {
        let paths = self.place.v1.iter().map(|(_, path)| path.join("tasks"));
        let open = |path: PathBuf| File::options().write(true).open(&path).map_err(|fault| (path, fault));
        paths.map(open).collect()
    }

    /// Moves a process into every group. Its children from before stay where they are.
    ///
    /// # Errors
    /// The first group that does not take it; it may be in others then.
    pub fn admit(&self, pid: u32) -> Result<(), CgroupFault> {
        for path in self.place.paths().map(|path| path.join("cgroup.procs")) {
            write(&path, &pid.to_string()).map_err(|fault| CgroupFault::file(&path, fault))?;
        }
        Ok(())
    }

    /// The processes in any of the groups, and in groups made inside them.
    ///
    /// # Errors
    /// A group that cannot be read, or more of them than are visited.
    pub fn pids(&self) -> Result<BTreeSet<i32>, CgroupFault> {
        let mut found = BTreeSet::new();
        for path in self.place.paths() {
            found.extend(walk::pids(path)?);
        }
        Ok(found)
    }

    /// Where `controller` works for this leaf; the reason when nowhere.
    pub(super) fn site(&self, controller: Controller) -> Result<Site<'_>, String> {
        if let Some(path) = self.place.v1_of(controller) {
            return Ok(Site::V1(path));
        }
        if let Some(path) = &self.place.unified {
            let names = walk::read(&path.join("cgroup.controllers")).unwrap_or_default();
            if names.split_ascii_whitespace().any(|name| name == controller.v2_name()) {
                return Ok(Site::V2(path));
            }
        }
        let exact = self.withheld.iter().find(|one| one.controller == Some(controller));
        let general = || self.withheld.iter().find(|one| one.controller.is_none());
        Err(exact
            .or_else(general)
            .map_or_else(|| format!("no `{}` controller here", controller.v2_name()), |one| one.reason.clone()))
    }
}
