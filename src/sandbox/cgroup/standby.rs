//! Groups that stand ready for whichever runtime comes next, and the folder that all stand in.
//!
//! What makes a launch wait are the hierarchies of version 1: a folder in each of eight, and their files, opened by long paths.
//! Their groups can be renamed (`cgroups(7)`), so they are made ahead and get the runtime's name at its launch. Those of
//! version 2 cannot, and there is one hierarchy only.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

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

/// What keeps our folder where it is in every hierarchy: a group in it. Dropped, it goes.
///
/// At the top of a hierarchy only a privileged process makes the folder (its mode is 0555), and another of our processes would
/// take an empty one away.
#[derive(Debug, Default)]
pub struct Held(Vec<PathBuf>);

impl Held {
    /// Holds `folders` as far as this process can; what processes that are gone have left in them is removed.
    pub(super) fn in_folders(folders: impl Iterator<Item = PathBuf>) -> Self {
        let own = folders.filter_map(|folder| {
            take_stale_away(&folder);
            let own = folder.join(format!("{HOLDER}{}", std::process::id()));
            std::fs::create_dir(&own).ok().map(|()| own)
        });
        Self(own.collect())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for group in &self.0 {
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// What the name of a holder begins with, before its process id.
const HOLDER: &str = "held-";

fn take_stale_away(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(HOLDER)?.parse().ok());
        if pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn rename(from: &Path, to: &PathBuf) -> Result<(), CgroupFault> {
    std::fs::rename(from, to).map_err(|fault| match fault.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => CgroupFault::Exists(to.clone()),
        _ => CgroupFault::file(to, fault),
    })
}
