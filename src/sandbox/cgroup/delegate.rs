//! Hands v2 controllers down to the leaves (`Documentation/admin-guide/cgroup-v2.rst`, "Organizing
//! Processes and Threads", "Controlling Controllers").
//!
//! A group that hands controllers down may hold no processes itself, so the daemon moves into a group
//! of its own first. Each controller is asked for by its own write: one that is refused takes no other
//! with it, and is reported.

use std::path::Path;

use nix::errno::Errno;

use super::layout::{Hierarchy, SUPERVISOR};
use super::walk::{read, write};
use super::{Controller, Withheld};

/// Makes our folder in the v2 tree and hands it every controller that can be had. What could not be
/// handed down is in the answer; `Err` when there is not even a folder.
pub(super) fn prepare(tree: &Hierarchy, base: &Path) -> Result<Vec<Withheld>, String> {
    let mut withheld = hand_down_from_own(tree);
    make(base)?;
    for more in hand_down(base) {
        if !withheld.iter().any(|known| known.controller == more.controller) {
            withheld.push(more);
        }
    }
    Ok(withheld)
}

/// Moves this process out of the group that shall hand controllers down. Nothing is moved when there is
/// nothing to gain: at the top, when others would stay behind, or when nothing is missing.
pub(super) fn settle(tree: &Hierarchy) -> Result<(), String> {
    let dir = &tree.dir;
    if tree.top || wants(dir).0.is_empty() {
        return Ok(());
    }
    let path = dir.join("cgroup.procs");
    let members = read(&path).map_err(|fault| format!("`{}`: {fault}", path.display()))?;
    let own = std::process::id().to_string();
    if members.lines().any(|pid| pid != own) {
        return Err(format!(
            "other processes are in `{}`, which is not ours alone; start us in a group of our own \
             (`systemd-run --user --scope -p Delegate=yes …`, or our unit)",
            dir.display()
        ));
    }
    if members.is_empty() {
        return Ok(());
    }
    let own_group = dir.join(SUPERVISOR);
    make(&own_group)?;
    let path = own_group.join("cgroup.procs");
    write(&path, &own).map_err(|fault| format!("`{}`: {fault}", path.display()))
}

fn hand_down_from_own(tree: &Hierarchy) -> Vec<Withheld> {
    if !tree.top {
        return match settle(tree) {
            Ok(()) => hand_down(&tree.dir),
            // Not even tried: a group with processes hands `cpu`, `cpuset` and `pids` down and refuses the others, and
            // thereby becomes the root of a threaded subtree, in which no leaf takes a process (cgroup-v2.rst,
            // "Threads").
            Err(reason) => refused(&tree.dir, &reason),
        };
    }
    refused(
        &tree.dir,
        "the top of the hierarchy does not hand it down, and we change nothing there; make a group for us",
    )
}

/// Nothing is handed down, for this reason; what is not there is told as such.
fn refused(dir: &Path, reason: &str) -> Vec<Withheld> {
    let (missing, mut withheld) = wants(dir);
    withheld.extend(missing.into_iter().map(|one| Withheld { controller: Some(one), reason: reason.to_owned() }));
    withheld
}

fn hand_down(dir: &Path) -> Vec<Withheld> {
    let (missing, mut withheld) = wants(dir);
    let path = dir.join("cgroup.subtree_control");
    for controller in missing {
        let reason = match write(&path, &format!("+{}", controller.v2_name())) {
            Ok(()) if names(&path).iter().any(|name| name == controller.v2_name()) => continue,
            Ok(()) => format!("`{}` took it and does not show it", path.display()),
            Err(fault) if fault.raw_os_error() == Some(Errno::EBUSY as i32) => {
                format!("`{}` holds processes, so it hands nothing down", dir.display())
            }
            Err(fault) => format!("`{}`: {fault}", path.display()),
        };
        withheld.push(Withheld { controller: Some(controller), reason });
    }
    withheld
}

/// Controllers that the group has and does not hand down yet, and those that it does not have.
fn wants(dir: &Path) -> (Vec<Controller>, Vec<Withheld>) {
    compare(dir, &names(&dir.join("cgroup.controllers")), &names(&dir.join("cgroup.subtree_control")))
}

fn compare(dir: &Path, offered: &[String], handed: &[String]) -> (Vec<Controller>, Vec<Withheld>) {
    let has = |list: &[String], controller: Controller| list.iter().any(|name| name == controller.v2_name());
    let (mut missing, mut withheld) = (Vec::new(), Vec::new());
    for controller in Controller::UNIFIED {
        if has(handed, controller) {
        } else if has(offered, controller) {
            missing.push(controller);
        } else {
            let reason = format!("`{}` does not have it", dir.display());
            withheld.push(Withheld { controller: Some(controller), reason });
        }
    }
    (missing, withheld)
}

fn names(path: &Path) -> Vec<String> {
    read(path).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
}

/// Makes a group that may be there already: another of our processes may have been faster.
pub(super) fn make(dir: &Path) -> Result<(), String> {
    match std::fs::create_dir(dir) {
        Err(fault) if fault.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("cannot make `{}`: {fault}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder with the files of a v2 group; what is written to them stays as it was written.
    fn fake(controllers: &str, handed: &str, members: &str) -> (tempfile::TempDir, Hierarchy) {
        let dir = tempfile::tempdir().expect("dir");
        for (name, text) in
            [("cgroup.controllers", controllers), ("cgroup.subtree_control", handed), ("cgroup.procs", members)]
        {
            std::fs::write(dir.path().join(name), text).expect("write");
        }
        let path = dir.path().to_owned();
        (dir, Hierarchy { controllers: Vec::new(), mount: path.clone(), dir: path, top: false })
    }

    fn reason_of(withheld: &[Withheld], controller: Controller) -> String {
        withheld.iter().find(|one| one.controller == Some(controller)).expect("withheld").reason.clone()
    }

    #[test]
    fn what_is_handed_down_already_is_left_alone() {
        let (_dir, tree) = fake("cpu memory pids", "cpu memory pids\n", "1\n2\n");
        let withheld = hand_down_from_own(&tree);
        let kept: Vec<_> = withheld.iter().filter_map(|one| one.controller).collect();
        assert_eq!(kept, [Controller::CpuSet, Controller::Io]);
        assert!(!tree.dir.join(SUPERVISOR).exists());
    }

    #[test]
    fn a_group_with_other_processes_is_neither_left_nor_changed() {
        let (_dir, tree) = fake("cpu memory", "", &format!("{}\n1\n", std::process::id()));
        let withheld = hand_down_from_own(&tree);
        for controller in [Controller::Cpu, Controller::Memory] {
            assert!(reason_of(&withheld, controller).contains("other processes are in"), "{withheld:?}");
        }
        assert!(!tree.dir.join(SUPERVISOR).exists());
        // Nothing was asked for: `cpu` would be granted, and no leaf would take a process any more.
        assert_eq!(read(&tree.dir.join("cgroup.subtree_control")).expect("file"), "");
    }

    #[test]
    fn the_top_of_a_hierarchy_is_never_written() {
        let (_dir, mut tree) = fake("cpu memory", "memory", "");
        tree.top = true;
        let withheld = hand_down_from_own(&tree);
        assert!(reason_of(&withheld, Controller::Cpu).contains("the top of the hierarchy"), "{withheld:?}");
        assert!(!withheld.iter().any(|one| one.controller == Some(Controller::Memory)));
        assert_eq!(read(&tree.dir.join("cgroup.subtree_control")).expect("file"), "memory");
    }

    #[test]
    fn each_write_that_fails_is_told() {
        let (_dir, tree) = fake("cpu memory pids", "", "");
        std::fs::remove_file(tree.dir.join("cgroup.subtree_control")).expect("remove");
        let withheld = hand_down_from_own(&tree);
        for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
            assert!(reason_of(&withheld, controller).contains("cgroup.subtree_control"), "{withheld:?}");
        }
    }

    #[test]
    fn a_write_that_shows_no_effect_is_told() {
        let (_dir, tree) = fake("cpu", "", "");
        // The fake file keeps `+cpu`, which a kernel would show as `cpu`.
        assert!(reason_of(&hand_down_from_own(&tree), Controller::Cpu).contains("does not show it"));
    }

    #[test]
    fn alone_in_its_group_the_daemon_moves_itself() {
        let (_dir, tree) = fake("cpu", "", &format!("{}\n", std::process::id()));
        // A kernel would make the file with the group; the fake makes both beforehand.
        let own_group: PathBuf = tree.dir.join(SUPERVISOR);
        std::fs::create_dir(&own_group).expect("dir");
        std::fs::write(own_group.join("cgroup.procs"), "").expect("write");
        settle(&tree).expect("settled");
        assert_eq!(read(&own_group.join("cgroup.procs")).expect("file"), std::process::id().to_string());
    }
}
