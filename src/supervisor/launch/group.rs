//! The cgroups of one launch, or why there are none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::sandbox::cgroup::{self, Applied, CgroupFault, Cgroups, Leaf, LeafPlace, Limits, ProcessResource, Standby};
use crate::sandbox::plan::{Limit, Resource};
use crate::sandbox::{Entry, Plan};

/// The groups of one launch. Cheap to clone; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Group(Result<(Cgroups, Arc<Leaf>), String>);

/// The ways into the groups of one launch.
#[derive(Debug, Default)]
pub struct Doors<'g> {
    unified: Option<BorrowedFd<'g>>,
    tasks: Vec<File>,
    /// Those that come before the last.
    first: usize,
}

impl Doors<'_> {
    /// How a sandbox starts in the groups.
    pub fn entry(&self) -> Entry<'_> {
        let (first, last) = self.tasks.split_at(self.first);
        Entry { into: self.unified, join: first.iter().map(AsFd::as_fd).collect(), last: last.first().map(AsFd::as_fd) }
    }
}

impl Group {
    /// Makes the groups of `name` below those of this process. Where none can be had, that is told by each limit.
    pub fn make(cgroups: &Result<Cgroups, String>, name: &str) -> Self {
        let groups = match cgroups {
            Ok(groups) => groups,
            Err(reason) => return Self(Err(reason.clone())),
        };
        // Once more: another launch may just have tidied the folder away that this one was about to use.
        let made = groups.leaf(name).or_else(|fault| match fault {
            CgroupFault::Exists(_) => Err(fault),
            _ => groups.leaf(name),
        });
        Self(made.map(|leaf| (groups.clone(), Arc::new(leaf))).map_err(|fault| first_reason(&fault)))
    }

    /// Those that stand ready, under this name. `None` where they cannot have it: they are gone then, with what stood in them.
    pub fn of(cgroups: &Result<Cgroups, String>, standby: Standby, name: &str) -> Option<Self> {
        let groups = cgroups.as_ref().ok()?;
        let leaf = groups.leaf_of(standby, name).ok()?;
        Some(Self(Ok((groups.clone(), Arc::new(leaf)))))
    }

    /// The same as [`Group::make`]; what an earlier run has left under this name is ended first.
    ///
    /// # Errors
    /// It does not end within `patience`, or cannot be removed.
    pub fn make_anew(cgroups: &Result<Cgroups, String>, name: &str, patience: Duration) -> Result<Self, CgroupFault> {
        if let Ok(groups) = cgroups {
            match groups.leaf(name) {
                Ok(leaf) => return Ok(Self(Ok((groups.clone(), Arc::new(leaf))))),
                Err(CgroupFault::Exists(_)) => end_left(groups, name, patience)?,
                // Told, or tried again, below.
                Err(_) => {}
            }
        }
        Ok(Self::make(cgroups, name))
    }

    /// Finds the groups of an earlier launch again.
    ///
    /// # Errors
    /// They are not there, or not ours.
    pub fn adopt(cgroups: &Result<Cgroups, String>, place: Option<LeafPlace>) -> Result<Self, CgroupFault> {
        match (cgroups, place) {
            (Ok(groups), Some(place)) => Ok(Self(Ok((groups.clone(), Arc::new(groups.adopt(place)?))))),
            (Err(reason), _) => Ok(Self(Err(reason.clone()))),
            (Ok(_), None) => Ok(Self(Err("it was started without groups".to_owned()))),
        }
    }

    /// The leaf, where there is one.
    pub fn leaf(&self) -> Option<&Arc<Leaf>> {
        self.0.as_ref().ok().map(|(_, leaf)| leaf)
    }

    /// Why there is none.
    pub fn reason(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// Without groups, what `setrlimit(2)` can hold of the limits; a profile's own limit stays where it is lower.
    pub fn stand_in(&self, limits: &Limits, plan: &mut Plan) {
        if self.0.is_ok() {
            return;
        }
        for limit in cgroup::instead_of_groups(limits) {
            let resource = match limit.resource {
                ProcessResource::Data => Resource::Data,
                ProcessResource::Tasks => Resource::Processes,
            };
            lower(plan, resource, limit.value);
        }
    }

    /// Writes the limits, and tells what became of each.
    pub fn apply(&self, limits: &Limits) -> Vec<Applied> {
        match &self.0 {
            Ok((_, leaf)) => leaf.apply(limits),
            Err(reason) => cgroup::without_groups(limits, reason),
        }
    }

    /// The ways into the groups, opened; none where there are no groups.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn doors(&self) -> Result<Doors<'_>, (PathBuf, io::Error)> {
        let Some(leaf) = self.leaf() else { return Ok(Doors::default()) };
        Ok(Doors { tasks: leaf.enter_self()?, unified: leaf.dir_fd(), first: leaf.place().first_joins() })
    }

    /// Lets a frozen leaf run on; where there is none, nothing was frozen.
    ///
    /// # Errors
    /// It did not within `patience`.
    pub fn thaw(&self, patience: Duration) -> Result<(), CgroupFault> {
        self.leaf().map_or(Ok(()), |leaf| leaf.thaw(patience))
    }

    /// Holds every process of the leaf still.
    ///
    /// # Errors
    /// There is no leaf, or it did not within `patience`.
    pub fn freeze(&self, patience: Duration) -> Result<(), CgroupFault> {
        match &self.0 {
            Ok((_, leaf)) => leaf.freeze(patience),
            Err(reason) => Err(CgroupFault::Unavailable(vec![reason.clone()])),
        }
    }

    /// Ends what is left in the groups, waits for it, and removes them.
    ///
    /// # Errors
    /// Something would not die within `patience`, or a group cannot be removed.
    pub fn end(&self, patience: Duration) -> Result<(), CgroupFault> {
        let Ok((groups, leaf)) = &self.0 else { return Ok(()) };
        leaf.kill(patience)?;
        leaf.remove(patience)?;
        groups.tidy()
    }
}

fn end_left(groups: &Cgroups, name: &str, patience: Duration) -> Result<(), CgroupFault> {
    let Some(place) = groups.find(name)? else { return Ok(()) };
    let ended = groups.adopt(place).and_then(|leaf| {
        leaf.kill(patience)?;
        leaf.remove(patience)
    });
    match ended {
        Err(CgroupFault::Unavailable(_)) => Ok(()),
        other => other,
    }
}

/// Lowers a limit of the plan, or adds it.
pub fn lower(plan: &mut Plan, resource: Resource, most: u64) {
    match plan.limits.iter_mut().find(|own| own.resource == resource) {
        Some(own) => own.most = own.most.min(most),
        None => plan.limits.push(Limit { resource, most }),
    }
}

/// One reason of perhaps eight alike: the first hierarchy's.
fn first_reason(fault: &CgroupFault) -> String {
    fault.to_string().split(';').next().unwrap_or_default().to_owned()
}

/// The name of a runtime's leaf: `instance` keeps the daemons of one host apart, and a long id is cut to what a leaf's
/// name may have, with its hash behind.
pub fn leaf_name(instance: &str, id: &str) -> String {
    use sha2::{Digest, Sha256};
    const ROOM: usize = 64 - 9;
    if id.len() <= ROOM {
        return format!("{instance}-{id}");
    }
    let hash = Sha256::digest(id.as_bytes());
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{instance}-{}-{hash}", &id[..ROOM - 9])
}

/// The groups that this process may make, or why none.
pub fn discover(roots: &cgroup::Roots) -> Result<Cgroups, String> {
    Cgroups::discover(roots).map_err(|fault| first_reason(&fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_named_within_its_bound_and_apart_from_others() {
        let (one, two) = ("a".repeat(64), format!("{}b", "a".repeat(63)));
        for id in ["x", &one, &two] {
            assert!(leaf_name("0123abcd", id).len() <= 64);
        }
        assert_ne!(leaf_name("0123abcd", &one), leaf_name("0123abcd", &two));
        assert_eq!(leaf_name("0123abcd", "demo"), "0123abcd-demo");
    }

    #[test]
    fn a_path_is_not_needed_where_there_are_no_groups() {
        let group = Group::make(&Err("none here".to_owned()), "x");
        let doors = group.doors().expect("none");
        assert!(doors.entry().into.is_none() && doors.entry().join.is_empty());
        assert_eq!(group.reason(), Some("none here"));
        assert!(group.end(Duration::ZERO).is_ok());
    }
}
