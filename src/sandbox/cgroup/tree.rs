//! Makes leaves below the group that is ours, and finds them again.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::layout::{Hierarchy, Layout};
use super::walk::{is_gone, read, write};
use super::{CgroupFault, Controller, Held, Kind, Leaf, LeafPlace, Roots, Standby, Withheld, delegate, standby};

/// What the name of each leaf's folder begins with, so that it never is the name of a file of the kernel.
const PREFIX: &str = "rt-";
/// Longest name of a leaf: as long as an id, and with the prefix well below the kernel's 255.
const MAX_NAME: usize = 64;
/// How often our folder is made again when another of our processes takes it away: each time needs a
/// runtime to end at that very moment.
const ATTEMPTS: u32 = 100;

/// The hierarchies that can hold our leaves.
#[derive(Debug, Clone)]
pub struct Cgroups {
    layout: Layout,
    folder: String,
    /// What the v2 tree did not hand down to our folder, once it was asked to.
    handed: Arc<Mutex<Option<Vec<Withheld>>>>,
    /// The next number of groups that stand ready without a name.
    number: Arc<AtomicU64>,
}

impl Cgroups {
    /// Finds out what the host offers. Reads only; makes and moves nothing.
    ///
    /// # Errors
    /// The two tables in `/proc` cannot be read, or the configured group is none.
    pub fn discover(roots: &Roots) -> Result<Self, CgroupFault> {
        let folder = check_name(&roots.folder)?.to_owned();
        Ok(Self { layout: Layout::read(roots)?, folder, handed: Arc::default(), number: Arc::default() })
    }

    /// Which kind the host offers.
    pub fn kind(&self) -> Kind {
        self.layout.kind()
    }

    /// The groups below which leaves are made, one for each hierarchy. Where leaves have a unit of their own, the group above
    /// it: the unit may be restarted, and its group is another one then.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.layout.v1.iter().chain(&self.layout.unified).map(Hierarchy::lasting)
    }

    /// Moves this process, all its threads with it, into a group of its own if that lets controllers be
    /// handed to leaves (v2). Call it once, before a helper process is started: a process that stays
    /// behind in the daemon's group keeps every controller from the leaves.
    ///
    /// # Errors
    /// Why it stayed where it was. Leaves can still be made: they are frozen, killed and counted without
    /// controllers.
    pub fn settle(&self) -> Result<(), CgroupFault> {
        let Some(tree) = &self.layout.unified else { return Ok(()) };
        delegate::settle(tree).map_err(|reason| CgroupFault::Unavailable(vec![reason]))
    }

    /// Makes the groups of one runtime. What could not be had is told by [`Leaf::withheld`], and again
    /// for each limit by [`Leaf::apply`].
    ///
    /// # Errors
    /// [`CgroupFault::Exists`] when there is such a leaf; it was not touched, and nothing of a new one is
    /// left. [`CgroupFault::Unavailable`] when no hierarchy would have it. [`CgroupFault::Name`].
    pub fn leaf(&self, name: &str) -> Result<Leaf, CgroupFault> {
        let folder = format!("{PREFIX}{}", check_name(name)?);
        let (mut place, mut withheld) = (LeafPlace::default(), Vec::new());
        let made = self.make_v1(&folder, &mut place, &mut withheld);
        self.complete(&folder, made, place, withheld)
    }

    /// Makes our folder in every hierarchy, as far as this process can, and keeps it there: for one that is about to give up the
    /// right to make it.
    pub fn hold(&self) -> Held {
        let made = self.layout.v1.iter().filter_map(|hierarchy| {
            let base = hierarchy.dir.join(&self.folder);
            delegate::make(&base).ok()?;
            fill_cpuset(hierarchy, &base).ok()?;
            Some(base)
        });
        let unified = self.layout.unified.iter().filter_map(|tree| {
            let base = tree.dir.join(&self.folder);
            self.hand_down(tree, &base).ok().map(|_| base)
        });
        Held::in_folders(made.chain(unified))
    }

    /// Makes the groups of whichever runtime comes next, under a number behind `name`. What an earlier process left under such
    /// is killed and taken away. `None` where there are none of v1, or they cannot be had: a leaf is then made from nothing.
    pub fn stand_by(&self, name: &str) -> Option<Standby> {
        if self.layout.v1.is_empty() {
            return None;
        }
        let stem = format!("{PREFIX}{}.", check_name(name).ok()?);
        loop {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            if number == 0 {
                self.sweep(&stem);
            }
            let folder = format!("{stem}{number}");
            let (mut place, mut withheld) = (LeafPlace::default(), Vec::new());
            let made = self.make_v1(&folder, &mut place, &mut withheld);
            match made.and_then(|()| self.make_unified(&folder, &mut place, &mut withheld)) {
                Ok(()) => return Standby::open(place, withheld),
                Err(fault) => {
                    remove_new(&place);
                    // In v2 a runtime of an earlier daemon may have this number.
                    if !matches!(&fault, CgroupFault::Exists(taken) if self.is_unified(taken)) {
                        return None;
                    }
                }
            }
        }
    }

    fn is_unified(&self, path: &Path) -> bool {
        self.layout.unified.as_ref().is_some_and(|tree| path.starts_with(tree.dir.join(&self.folder)))
    }

    /// Takes away what stood ready for an earlier process. In v1 all of these names; a runtime that was launched keeps its number
    /// in v2, where nothing is removed that has a process.
    fn sweep(&self, stem: &str) {
        let named = |hierarchy: &Hierarchy| {
            let entries = std::fs::read_dir(hierarchy.dir.join(&self.folder)).into_iter().flatten().flatten();
            let own = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(stem)));
            own.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for hierarchy in &self.layout.v1 {
            for path in named(hierarchy) {
                standby::end(LeafPlace { unified: None, v1: vec![(hierarchy.controllers.clone(), path)] });
            }
        }
        for path in self.layout.unified.iter().flat_map(named) {
            let _ = std::fs::remove_dir(path);
        }
    }

    /// The same as [`Cgroups::leaf`], of groups that stand ready.
    ///
    /// # Errors
    /// As there.
    pub fn leaf_of(&self, mut standby: Standby, name: &str) -> Result<Leaf, CgroupFault> {
        let folder = format!("{PREFIX}{}", check_name(name)?);
        let (place, withheld) = standby.rename(&folder)?;
        Ok(standby.hand_over(self.finish(place, withheld)?))
    }

    /// Adds the v2 group.
    fn complete(
        &self,
        folder: &str,
        made: Result<(), CgroupFault>,
        mut place: LeafPlace,
        mut withheld: Vec<Withheld>,
    ) -> Result<Leaf, CgroupFault> {
        let made = made.and_then(|()| self.make_unified(folder, &mut place, &mut withheld));
        if let Err(fault) = made {
            remove_new(&place);
            return Err(fault);
        }
        self.finish(place, withheld)
    }

    fn finish(&self, place: LeafPlace, mut withheld: Vec<Withheld>) -> Result<Leaf, CgroupFault> {
        if place.is_empty() {
            let mut reasons = self.layout.unreachable.clone();
            reasons.extend(withheld.into_iter().map(|one| one.reason));
            if reasons.is_empty() {
                reasons.push("the kernel offers none to this process".to_owned());
            }
            reasons.dedup();
            return Err(CgroupFault::Unavailable(reasons));
        }
        withheld
            .extend(self.layout.unreachable.iter().map(|reason| Withheld { controller: None, reason: reason.clone() }));
        Leaf::open(place, withheld)
    }

    /// Finds a leaf again that was made by an earlier process, by what [`Leaf::place`] told.
    ///
    /// # Errors
    /// [`CgroupFault::Foreign`] when a path is not that of a leaf of ours in a hierarchy of this host,
    /// [`CgroupFault::File`] when a group is not there.
    pub fn adopt(&self, place: LeafPlace) -> Result<Leaf, CgroupFault> {
        for path in place.paths() {
            if !self.is_ours(path) {
                return Err(CgroupFault::Foreign(path.to_owned()));
            }
            std::fs::metadata(path).map_err(|fault| CgroupFault::file(path, fault))?;
        }
        if place.is_empty() {
            return Err(CgroupFault::Unavailable(vec!["the runtime was started without groups".to_owned()]));
        }
        Leaf::open(place, Vec::new())
    }

    /// The leaf of this name, if a group of it is there.
    ///
    /// # Errors
    /// [`CgroupFault::Name`].
    pub fn find(&self, name: &str) -> Result<Option<LeafPlace>, CgroupFault> {
        let folder = format!("{PREFIX}{}", check_name(name)?);
        let mut place = LeafPlace::default();
        for hierarchy in self.layout.v1.iter().chain(&self.layout.unified) {
            let path = hierarchy.dir.join(&self.folder).join(&folder);
            if path.is_dir() {
                place.put(hierarchy, path);
            }
        }
        Ok(Some(place).filter(|place| !place.is_empty()))
    }

    /// Removes our folders where no leaf is left in them. The daemon's own group stays: it is in it.
    ///
    /// # Errors
    /// Never for a folder that is in use or not there; otherwise the first that could not be removed.
    pub fn tidy(&self) -> Result<(), CgroupFault> {
        for hierarchy in self.layout.v1.iter().chain(&self.layout.unified) {
            let base = hierarchy.dir.join(&self.folder);
            match std::fs::remove_dir(&base) {
                Err(fault) if !tolerable(&fault) => return Err(CgroupFault::file(&base, fault)),
                _ => {}
            }
        }
        Ok(())
    }

    fn make_v1(&self, folder: &str, place: &mut LeafPlace, withheld: &mut Vec<Withheld>) -> Result<(), CgroupFault> {
        for hierarchy in &self.layout.v1 {
            match self.make_one(hierarchy, folder, |base| delegate::make(base).map(|()| Vec::new()))? {
                Ok((dir, _)) => place.v1.push((hierarchy.controllers.clone(), dir)),
                Err(reason) => withheld.extend(each(hierarchy, &reason)),
            }
        }
        Ok(())
    }

    fn make_unified(
        &self,
        folder: &str,
        place: &mut LeafPlace,
        withheld: &mut Vec<Withheld>,
    ) -> Result<(), CgroupFault> {
        let Some(tree) = &self.layout.unified else { return Ok(()) };
        match self.make_one(tree, folder, |base| self.hand_down(tree, base))? {
            Ok((dir, more)) => {
                bound(&dir);
                place.unified = Some(dir);
                // On a hybrid host the v1 hierarchies have what the v2 tree has not.
                let in_v1 = |one: &Withheld| one.controller.is_some_and(|wanted| place.v1_of(wanted).is_some());
                withheld.extend(more.into_iter().filter(|one| !in_v1(one)));
            }
            Err(reason) => withheld.push(Withheld { controller: None, reason }),
        }
        Ok(())
    }

    /// Asks the v2 tree once, and again when our folder was taken away.
    fn hand_down(&self, tree: &Hierarchy, base: &Path) -> Result<Vec<Withheld>, String> {
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(withheld) = handed.as_ref().filter(|_| base.is_dir()) {
            return Ok(withheld.clone());
        }
        let withheld = delegate::prepare(tree, base)?;
        *handed = Some(withheld.clone());
        Ok(withheld)
    }

    /// Makes the leaf's group in one hierarchy, our folder before it. The outer error ends the making of the
    /// whole leaf, the inner one is a reason.
    fn make_one(
        &self,
        hierarchy: &Hierarchy,
        folder: &str,
        prepare: impl Fn(&Path) -> Result<Vec<Withheld>, String>,
    ) -> Result<Result<(PathBuf, Vec<Withheld>), String>, CgroupFault> {
        let base = hierarchy.dir.join(&self.folder);
        let dir = base.join(folder);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let withheld = match prepare(&base) {
                Ok(withheld) => withheld,
                Err(reason) => return Ok(Err(reason)),
            };
            let made = fill_cpuset(hierarchy, &base).and_then(|()| {
                std::fs::create_dir(&dir).map_err(|fault| (fault, format!("cannot make `{}`", dir.display())))
            });
            match made {
                Ok(()) => {
                    let filled = fill_cpuset(hierarchy, &dir).map_err(told);
                    if filled.is_err() {
                        // It takes no process without CPUs and memory nodes.
                        let _ = std::fs::remove_dir(&dir);
                    }
                    return Ok(filled.map(|()| (dir, withheld)));
                }
                Err((fault, _)) if fault.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(CgroupFault::Exists(dir));
                }
                // Another of our processes tidied the folder away in between.
                Err((fault, _)) if is_gone(&fault) && attempt < ATTEMPTS => {}
                Err(fault) => return Ok(Err(told(fault))),
            }
        }
    }

    /// Whether the path is `<mount>/…/<folder>/rt-<name>` of a hierarchy that we see, with no way up in it.
    fn is_ours(&self, path: &Path) -> bool {
        let mut mounts = self.layout.v1.iter().chain(&self.layout.unified).map(|hierarchy| &hierarchy.mount);
        let name = path.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix(PREFIX));
        mounts.any(|mount| path.starts_with(mount))
            && !path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir))
            && path.parent().and_then(Path::file_name) == Some(OsStr::new(&self.folder))
            && name.is_some_and(|name| check_name(name).is_ok())
    }
}

fn each(hierarchy: &Hierarchy, reason: &str) -> Vec<Withheld> {
    let one = |controller: &Controller| Withheld { controller: Some(*controller), reason: reason.to_owned() };
    hierarchy.controllers.iter().map(one).collect()
}

/// Takes back what was made of a leaf that could not be finished; nothing can be in it yet.
fn remove_new(place: &LeafPlace) {
    for path in place.paths() {
        let _ = std::fs::remove_dir(path);
    }
}

/// A new group of v1's `cpuset` has neither CPUs nor memory nodes, and then takes no process.
fn fill_cpuset(hierarchy: &Hierarchy, dir: &Path) -> Result<(), (io::Error, String)> {
    if !hierarchy.controllers.contains(&Controller::CpuSet) {
        return Ok(());
    }
    for (name, effective) in [("cpuset.mems", "cpuset.effective_mems"), ("cpuset.cpus", "cpuset.effective_cpus")] {
        let (path, above) = (dir.join(name), dir.parent().unwrap_or(dir).join(effective));
        let filled = read(&path).and_then(|now| {
            // One that has some keeps them: an operator may have narrowed it.
            if now.is_empty() { write(&path, &read(&above)?) } else { Ok(()) }
        });
        filled.map_err(|fault| (fault, format!("cannot fill `{}`", path.display())))?;
    }
    Ok(())
}

fn told((fault, what): (io::Error, String)) -> String {
    format!("{what}: {fault}")
}

/// Groups that may be made inside a leaf, and how deep: a runtime that finds a way to make some shall not
/// hide in thousands of them.
const INSIDE: [(&str, &str); 2] = [("cgroup.max.descendants", "64"), ("cgroup.max.depth", "8")];

fn bound(leaf: &Path) {
    for (name, value) in INSIDE {
        // Only a second wall: the sandbox has no cgroup file system to make groups in.
        let _ = write(&leaf.join(name), value);
    }
}

fn tolerable(fault: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, PermissionDenied, ResourceBusy};
    matches!(fault.kind(), NotFound | ResourceBusy | DirectoryNotEmpty | PermissionDenied)
}

fn check_name(name: &str) -> Result<&str, CgroupFault> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if first && name.len() <= MAX_NAME && name.bytes().all(good) {
        Ok(name)
    } else {
        Err(CgroupFault::Name(name.chars().take(MAX_NAME).collect()))
    }
}

/// How long a wait between two looks at the kernel is: short against a launch, long against a look.
pub(super) const NAP: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// A v1 hierarchy `pids` in a folder: the tables are fake, the folders real.
    fn fake() -> (tempfile::TempDir, Cgroups) {
        let dir = tempfile::tempdir().expect("dir");
        let mount = dir.path().join("pids");
        std::fs::create_dir_all(mount.join("me")).expect("dir");
        let line = format!("8 1 0:1 / {} rw - cgroup cgroup rw,pids\n", mount.display());
        std::fs::write(dir.path().join("mountinfo"), line).expect("write");
        std::fs::write(dir.path().join("own"), "8:pids:/me\n").expect("write");
        let roots = Roots {
            root: dir.path().to_owned(),
            mountinfo: dir.path().join("mountinfo"),
            own: dir.path().join("own"),
            ..Roots::default()
        };
        let cgroups = Cgroups::discover(&roots).expect("tables");
        (dir, cgroups)
    }

    #[test]
    fn a_leaf_stands_below_our_folder_in_the_own_group() {
        let (dir, cgroups) = fake();
        let leaf = cgroups.leaf("demo").expect("leaf");
        let expected = dir.path().join("pids/me/arw/rt-demo");
        assert_eq!(leaf.place().paths().collect::<Vec<_>>(), [&expected]);
        assert!(expected.is_dir());
        assert!(cgroups.adopt(leaf.place().clone()).is_ok());
        std::fs::create_dir(dir.path().join("pids/me/arw/other")).expect("dir");
        std::fs::write(dir.path().join("pids/me/arw/rt-file"), "").expect("write");
        assert_eq!(cgroups.find("demo").expect("found").as_ref(), Some(leaf.place()));
        for absent in ["file", "other", "none"] {
            assert_eq!(cgroups.find(absent).expect("looked"), None, "{absent}");
        }
        assert!(cgroups.find("../demo").is_err());
        std::fs::remove_dir(dir.path().join("pids/me/arw/other")).expect("removed");
        std::fs::remove_file(dir.path().join("pids/me/arw/rt-file")).expect("removed");
        cgroups.tidy().expect("a folder in use is left");
        leaf.remove(Duration::from_secs(1)).expect("removed");
        cgroups.tidy().expect("tidy");
        assert!(!dir.path().join("pids/me/arw").exists() && dir.path().join("pids/me").exists());
    }

    #[test]
    fn leaves_are_made_while_others_tidy_up() {
        let (_dir, cgroups) = fake();
        std::thread::scope(|scope| {
            let tidier = scope.spawn(|| (0..2_000).try_for_each(|_| cgroups.tidy()));
            while !tidier.is_finished() {
                let leaf = cgroups.leaf("demo").expect("made");
                leaf.remove(Duration::from_secs(1)).expect("removed");
            }
            tidier.join().expect("thread").expect("tidy");
        });
    }

    #[test]
    fn a_leaf_that_is_there_is_not_taken_over() {
        let (_dir, cgroups) = fake();
        let first = cgroups.leaf("demo").expect("leaf");
        assert!(matches!(cgroups.leaf("demo"), Err(CgroupFault::Exists(_))));
        assert!(first.place().paths().all(|path| path.is_dir()));
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let (dir, cgroups) = fake();
        for bad in ["", ".", "..", "../x", "a/b", "/etc", "a\nb", "a\0", "Demo", "-x", &"a".repeat(65)] {
            assert!(matches!(cgroups.leaf(bad), Err(CgroupFault::Name(_))), "{bad:?}");
        }
        assert!(!dir.path().join("pids/me/arw").exists());
    }

    #[test]
    fn only_our_own_leaves_are_adopted() {
        let (dir, cgroups) = fake();
        let leaf = cgroups.leaf("demo").expect("leaf");
        let inside = dir.path().join("pids");
        std::fs::create_dir_all(inside.join("other/rt-x")).expect("dir");
        std::fs::create_dir_all(dir.path().join("elsewhere/arw/rt-x")).expect("dir");
        for foreign in [
            inside.clone(),
            inside.join("me"),
            inside.join("me/arw"),
            inside.join("other/rt-x"),
            inside.join("me/arw/../arw/rt-demo"),
            inside.join("me/arw/rt-"),
            dir.path().join("elsewhere/arw/rt-x"),
            PathBuf::from("/arw/rt-demo"),
        ] {
            let place = LeafPlace { unified: None, v1: vec![(vec![Controller::Pids], foreign.clone())] };
            assert!(matches!(cgroups.adopt(place), Err(CgroupFault::Foreign(_))), "{}", foreign.display());
        }
        leaf.remove(Duration::from_secs(1)).expect("removed");
        assert!(matches!(cgroups.adopt(leaf.place().clone()), Err(CgroupFault::File { .. })));
    }

    #[test]
    fn without_any_hierarchy_the_reason_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("mountinfo"), "").expect("write");
        std::fs::write(dir.path().join("own"), "0::/me\n").expect("write");
        let roots = Roots { mountinfo: dir.path().join("mountinfo"), own: dir.path().join("own"), ..Roots::default() };
        let cgroups = Cgroups::discover(&roots).expect("tables");
        assert_eq!(cgroups.kind(), Kind::None);
        let fault = cgroups.leaf("demo").expect_err("none");
        assert_eq!(fault.to_string(), "no control groups: the v2 tree is not mounted below `/sys/fs/cgroup`");
    }
}
