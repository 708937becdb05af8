//! Groups that stand ready for whichever runtime comes next.
//!
//! What makes a launch wait are the hierarchies of version 1: a folder in each of eight, and their files, opened by long paths.
//! Their groups can be renamed (`cgroups(7)`), so they are made ahead and get the runtime's name at its launch. Those of
//! version 2 cannot, and there is one hierarchy only.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::files::Opened;
use super::{CgroupFault, Leaf, LeafPlace, Withheld};

/// The files of version 1 that [`Leaf::apply`] writes to.
const CONTROLS: [&str; 9] = [
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.shares",
    "memory.soft_limit_in_bytes",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "pids.max",
    "blkio.bfq.weight",
    "blkio.weight",
];

/// Groups of version 1 under a name that no runtime has. Dropped, they are removed.
#[derive(Debug)]
pub struct Standby {
    place: LeafPlace,
    withheld: Vec<Withheld>,
    files: Opened,
    tasks: Vec<File>,
}

impl Standby {
    /// Opens what a launch takes. `None` where something cannot be opened: a launch would then say why.
    pub(super) fn open(place: LeafPlace, withheld: Vec<Withheld>) -> Option<Self> {
        let standby = Self { place, withheld, files: Opened::default(), tasks: Vec::new() };
        standby.with_tasks()
    }

    fn with_tasks(mut self) -> Option<Self> {
        for (_, dir) in &self.place.v1 {
            self.files.add(dir, &CONTROLS);
            self.tasks.push(File::options().write(true).open(dir.join("tasks")).ok()?);
        }
        Some(self)
    }

    /// Gives the groups their name, `folder`.
    ///
    /// # Errors
    /// [`CgroupFault::Exists`] when there is one of that name; otherwise the first that cannot be renamed. Nothing is left then.
    pub(super) fn rename(&mut self, folder: &str) -> Result<(LeafPlace, Vec<Withheld>), CgroupFault> {
        for (_, dir) in &mut self.place.v1 {
            let named = dir.with_file_name(folder);
            rename(dir, &named)?;
            *dir = named;
        }
        Ok((std::mem::take(&mut self.place), std::mem::take(&mut self.withheld)))
    }

    /// What was opened, for the leaf that it became.
    pub(super) fn hand_over(mut self, leaf: Leaf) -> Leaf {
        leaf.with_files(std::mem::take(&mut self.files), std::mem::take(&mut self.tasks))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        for path in self.place.paths() {
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn rename(from: &Path, to: &PathBuf) -> Result<(), CgroupFault> {
    std::fs::rename(from, to).map_err(|fault| match fault.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => CgroupFault::Exists(to.clone()),
        _ => CgroupFault::file(to, fault),
    })
}
