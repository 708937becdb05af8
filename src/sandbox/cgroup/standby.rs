//! Groups that stand ready for whichever runtime comes next, and the folder that all stand in.
//!
//! What makes a launch wait are the hierarchies of version 1: a folder in each of eight, and their files, opened by long paths.
//! Their groups can be renamed (`cgroups(7)`), so they are made ahead, with an init in them, and get the runtime's name at its
//! launch. A group of version 2 cannot: beside version 1 it keeps a number for its name, and where there is nothing else none
//! is made ahead.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::O_DIRECTORY;
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

/// Groups under a name that no runtime has. Dropped, they are removed, and whatever stands ready in them is killed.
#[derive(Debug)]
pub struct Standby {
    place: LeafPlace,
    withheld: Vec<Withheld>,
    files: Opened,
    unified: Option<File>,
    tasks: Vec<File>,
}

impl Standby {
    /// Opens what a launch takes. `None` where something cannot be opened: a launch would then say why.
    pub(super) fn open(place: LeafPlace, withheld: Vec<Withheld>) -> Option<Self> {
        let mut standby = Self { place, withheld, files: Opened::default(), unified: None, tasks: Vec::new() };
        if let Some(dir) = &standby.place.unified {
            standby.unified = Some(File::options().read(true).custom_flags(O_DIRECTORY).open(dir).ok()?);
        }
        for (_, dir) in &standby.place.v1 {
            standby.files.add(dir, &CONTROLS);
            standby.tasks.push(File::options().write(true).open(dir.join("tasks")).ok()?);
        }
        Some(standby)
    }

    /// The v2 group, for a process to be made in. Its descriptor is not the leaf's; it stands for the same group.
    pub fn dir_fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// The files by which a process of one thread enters the v1 groups ([`Leaf::enter_self`]), but that of the CPU.
    pub fn tasks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().take(self.place.first_joins()).map(AsFd::as_fd)
    }

    /// The same of the CPU's group, which is entered last.
    pub fn last_tasks(&self) -> Option<BorrowedFd<'_>> {
        self.tasks.get(self.place.first_joins()).map(AsFd::as_fd)
    }

    /// Gives the groups of version 1 their name, `folder`.
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

    /// The files that limits are written to, for the leaf that it became. Who enters that has done so by what stood open here.
    pub(super) fn hand_over(mut self, leaf: Leaf) -> Leaf {
        leaf.with_files(std::mem::take(&mut self.files))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        end(std::mem::take(&mut self.place));
    }
}

/// How long what stands ready may take to die.
const PATIENCE: Duration = Duration::from_millis(500);

/// Kills what stands ready in groups that are no runtime's, and removes them as far as that can be done.
pub(super) fn end(place: LeafPlace) {
    if place.is_empty() {
        return;
    }
    if let Ok(leaf) = Leaf::open(place, Vec::new()) {
        let _ = leaf.kill(PATIENCE);
        let _ = leaf.remove(PATIENCE);
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
