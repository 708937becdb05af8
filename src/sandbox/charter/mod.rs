//! What a launcher holds to, whoever asks: given to it before its caller reads the first byte of a network.
//!
//! ```text
//! caller ──Charter──> keeper ─┬─ launcher: namespaces, cgroups ─┐
//!                             │                                 ├─ what goes below is a Breach, and nothing runs
//! manifest ──read when it changes   init: plan, what is bound ──┘
//! ```
//!
//! A caller that somebody else has taken over can launch what it could launch before: the commands it likes, as the users and
//! in the folders that its operator has declared, inside of all walls. It cannot become another user of the host, leave a
//! wall out, or bind what is not declared. What is bound is judged by where its descriptor leads and not by its name.

mod declared;
mod places;

use std::fs::read_link;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, fstat, major};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::domain::codes;

use super::fault::{At, Fault, Step};
use super::plan::{Access, Mount, Owner, Plan, Resource, User};
use super::profile::{BOUNDARY, check_target};
use super::wire::{Ground, Namespace};
use super::{Control, Profile, ProfileName};

use declared::Declared;

/// What a resident launcher is given at its start. Every path is absolute, without links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charter {
    /// First of the host's user ids for runtimes.
    pub first_uid: u32,
    /// How many there are.
    pub uids: u32,
    /// The runtimes' manifest. Its users and its workspaces are allowed too.
    pub manifest: PathBuf,
    /// Whether what the manifest says later on counts. Not where the caller can write it.
    pub follows: bool,
    /// Folders whose folders may be bound for reading: what recipes bring.
    pub shelves: Vec<PathBuf>,
    /// The caller's own folders: they are not bound, and nothing that holds one is.
    pub kept: Vec<PathBuf>,
    /// Folders that the caller can write: a link there leads nowhere.
    pub written: Vec<PathBuf>,
}

codes! {
    /// How a request goes below the charter.
    Breach {
        /// Other namespaces than a launch has.
        Namespaces => "charter_namespaces",
        /// What stands for a cgroup is none.
        Group => "charter_group",
        /// A user of the host that runtimes do not have.
        User => "charter_user",
        /// A wall is left out, or not required.
        Control => "charter_control",
        /// Core files are written, by a program of the host.
        Limit => "charter_limit",
        /// The root does not begin as that of a profile does.
        Root => "charter_root",
        /// Something is made after a folder of the host was bound, and might be made there.
        Order => "charter_order",
        /// A folder of the host would lie over a part of the sandbox.
        Target => "charter_target",
        /// A device node that no profile has.
        Device => "charter_device",
        /// Something of the host that nobody has declared.
        Source => "charter_source",
        /// Something of the host that makes it up would be writable.
        System => "charter_system",
        /// Something of the gateway's own.
        Kept => "charter_kept",
    }
}

impl Breach {
    fn by(self, what: impl std::fmt::Display) -> Fault {
        Fault::said(Step::Charter, format!("{self}: {what}"))
    }
}

/// A charter, and what this host and its manifest make of it.
#[derive(Debug, Clone)]
pub(super) struct Floor {
    charter: Charter,
    /// Who every sandbox is outside, where none has a user of its own.
    mapped: Option<(u32, u32)>,
    /// How the roots of the profiles begin.
    grounds: Vec<Vec<Mount>>,
    /// What some profile leaves out.
    without: Vec<Control>,
    declared: Declared,
}

/// A charter that plans are held against without a launcher: for fuzzing.
#[derive(Debug)]
pub struct Judge(Floor);

impl Judge {
    /// As a launcher of root's would.
    pub fn for_root(charter: Charter) -> Self {
        Self(Floor { mapped: None, ..Floor::new(charter) })
    }

    /// Whether `plan` keeps to it, as far as that can be told from the plan alone.
    ///
    /// # Errors
    /// A fault of [`Step::Charter`], which begins with the code of a [`Breach`].
    pub fn judge(&self, plan: &Plan) -> Result<(), Fault> {
        self.0.admits(plan)
    }
}

/// What makes a host up. Never writable inside, whoever has declared it.
const SYSTEM: [&str; 12] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr"];

/// The character major of GPUs (`Documentation/admin-guide/devices.txt`).
const GPUS: u64 = 195;

impl Floor {
    /// In the process that will launch, or that will make it.
    pub(super) fn new(charter: Charter) -> Self {
        let mapped = (!User::caller_may_become()).then(|| (geteuid().as_raw(), getegid().as_raw()));
        let without = ProfileName::ALL.iter().flat_map(|name| Profile::embedded(*name).without.iter().copied());
        let declared = Declared::read(&charter);
        Self { mapped, grounds: grounds().collect(), without: without.collect(), declared, charter }
    }

    /// Reads the manifest if it is another than before; whether it was.
    pub(super) fn look_again(&mut self) -> bool {
        self.charter.follows && self.declared.look_again(&self.charter)
    }

    /// Whether `wanted` are the namespaces of a launch.
    pub(super) fn admits_namespaces(&self, wanted: &[Namespace]) -> Result<(), Fault> {
        let all = [Namespace::Mount, Namespace::Pid, Namespace::Network, Namespace::Ipc, Namespace::Uts];
        let own = wanted.contains(&Namespace::User) == self.mapped.is_some();
        let more = usize::from(self.mapped.is_some());
        if own && all.iter().all(|one| wanted.contains(one)) && wanted.len() == all.len() + more {
            return Ok(());
        }
        Err(Breach::Namespaces.by(format!("{wanted:?}")))
    }

    /// Whether `ground` may be laid.
    pub(super) fn admits_ground(&self, ground: &Ground) -> Result<(), Fault> {
        ground.mapped.map_or(Ok(()), |user| self.admits_user(user))?;
        match self.ground_of(&ground.mounts) {
            Some(len) if len == ground.mounts.len() => Ok(()),
            _ => Err(Breach::Root.by("a ground that no profile has")),
        }
    }

    /// Whether `file` is in a file system of cgroups: the init writes there before it gives anything up.
    pub(super) fn admits_group(&self, file: &impl AsFd) -> Result<(), Fault> {
        match fstatfs(file.as_fd()).at(Step::Charter)?.filesystem_type() {
            CGROUP2_SUPER_MAGIC | CGROUP_SUPER_MAGIC => Ok(()),
            _ => Err(Breach::Group.by("it lies elsewhere")),
        }
    }

    /// Whether `plan` keeps to it, as far as that can be told from the plan alone.
    pub(super) fn admits(&self, plan: &Plan) -> Result<(), Fault> {
        self.admits_user(plan.user)?;
        if let Some(control) = plan.without.iter().find(|control| !self.without.contains(control)) {
            return Err(Breach::Control.by(format!("{control} is left out")));
        }
        // Measured inside: what the kernel did not do counts, whatever this plan says.
        if let Some(control) = BOUNDARY.iter().find(|control| !plan.require.contains(control)) {
            return Err(Breach::Control.by(format!("{control} is not required")));
        }
        if !plan.limits.iter().any(|limit| limit.resource == Resource::CoreFile && limit.most == 0) {
            return Err(Breach::Limit.by("core files"));
        }
        let ground = self.ground_of(&plan.mounts).ok_or_else(|| Breach::Root.by("no profile begins so"))?;
        let mut bound = false;
        for entry in &plan.mounts[ground..] {
            match entry {
                Mount::Bind { access: Access::ReadOnly | Access::ReadWrite, target, .. } => {
                    check_target(target).map_err(|fault| Breach::Target.by(fault))?;
                    bound = true;
                }
                _ if bound => return Err(Breach::Order.by("a folder of the host is bound before it")),
                Mount::Bind { source, target, owner, .. } => {
                    if !is_gpu(source) || source != target || *owner != Owner::Host {
                        return Err(Breach::Device.by(source.display()));
                    }
                }
                // Inside, in memory.
                Mount::Memory { .. }
                | Mount::Folder { .. }
                | Mount::Link { .. }
                | Mount::File { .. }
                | Mount::Proc { .. }
                | Mount::Terminals => {}
            }
        }
        Ok(())
    }

    /// Whether `entry` begins a root of some profile: it is bound by its name then, which only root can give to something else.
    pub(super) fn is_common(&self, entry: &Mount) -> bool {
        self.grounds.iter().any(|ground| ground.contains(entry))
    }

    /// Whether what `entry` binds may be bound. `opened` is what will be.
    pub(super) fn admits_source(&self, entry: &Mount, opened: &OwnedFd) -> Result<(), Fault> {
        let Mount::Bind { source, access, owner, .. } = entry else { return Ok(()) };
        let named = || source.display().to_string();
        let place = read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).at_with(Step::Charter, named)?;
        let found = fstat(opened).at_with(Step::Charter, named)?;
        let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
        if *access == Access::Device {
            let is_it = kind == SFlag::S_IFCHR && major(found.st_rdev) == GPUS && is_gpu(&place);
            return if is_it { Ok(()) } else { Err(Breach::Device.by(place.display())) };
        }
        if kind != SFlag::S_IFDIR && kind != SFlag::S_IFREG {
            return Err(Breach::Source.by(format!("{} is no folder and no file", place.display())));
        }
        let read_only = *access == Access::ReadOnly;
        let is_on = |shelf: &PathBuf| place.starts_with(shelf) && place != *shelf;
        if read_only && *owner == Owner::Host && self.charter.shelves.iter().any(is_on) {
            return Ok(());
        }
        if !self.declared.names(&place, *access) {
            return Err(Breach::Source.by(format!("{} is declared by no runtime", place.display())));
        }
        if self.charter.kept.iter().any(|kept| kept.starts_with(&place)) {
            return Err(Breach::Kept.by(place.display()));
        }
        if !read_only && SYSTEM.iter().any(|system| place.starts_with(system) || Path::new(system).starts_with(&place))
        {
            return Err(Breach::System.by(place.display()));
        }
        Ok(())
    }

    fn admits_user(&self, user: User) -> Result<(), Fault> {
        let last = self.charter.first_uid.saturating_add(self.charter.uids);
        let is_right = match (user, self.mapped) {
            (User::Host { uid, gid }, None) => {
                let has_range = (self.charter.first_uid..last).contains(&uid);
                uid != 0 && uid == gid && (has_range || self.declared.users().contains(&uid))
            }
            (User::Mapped { uid, gid, outside_uid, outside_gid }, Some(own)) => {
                uid != 0 && gid != 0 && (outside_uid, outside_gid) == own
            }
            _ => false,
        };
        if is_right { Ok(()) } else { Err(Breach::User.by(format!("{user:?}"))) }
    }

    /// How many of `mounts` begin a profile's root.
    fn ground_of(&self, mounts: &[Mount]) -> Option<usize> {
        let longest = |mounts: &[Mount], ground: &Vec<Mount>| mounts.starts_with(ground).then_some(ground.len());
        let known = self.grounds.iter().filter_map(|ground| longest(mounts, ground)).max();
        // A link of the host may lead elsewhere by now: it is looked at again, and costs a moment.
        known.or_else(|| grounds().filter_map(|ground| longest(mounts, &ground)).max())
    }
}

fn grounds() -> impl Iterator<Item = Vec<Mount>> {
    ProfileName::ALL.iter().map(|name| Profile::embedded(*name).ground())
}

/// The node of one card; those that all cards share are a profile's own.
fn is_gpu(path: &Path) -> bool {
    let number = path.to_str().and_then(|path| path.strip_prefix("/dev/nvidia"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
