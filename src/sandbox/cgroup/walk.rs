//! Visits the groups of a leaf, those made inside it included.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::CgroupFault;

/// Groups visited in one hierarchy of a leaf: a runtime that may make groups can make very many.
const MAX_GROUPS: usize = 4_096;

/// The group and all below it, parents first. A group that goes away meanwhile is left out.
pub(super) fn groups(top: &Path) -> Result<Vec<PathBuf>, CgroupFault> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(dir) = found.get(next).cloned() {
        next += 1;
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(fault) if is_gone(&fault) => continue,
            Err(fault) => return Err(CgroupFault::file(&dir, fault)),
        };
        for entry in entries.map_while(Result::ok) {
            // Of the entry itself, so that a link would not lead out of the leaf.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
        if found.len() > MAX_GROUPS {
            return Err(CgroupFault::Overgrown(top.to_owned()));
        }
    }
    Ok(found)
}

/// The processes of a group and of all below it, by their numbers in our PID namespace. One that is
/// outside of it shows as 0 and is left out: a number below 2 is never a process of a runtime.
pub(super) fn pids(top: &Path) -> Result<BTreeSet<i32>, CgroupFault> {
    let mut found = BTreeSet::new();
    for group in groups(top)? {
        let path = group.join("cgroup.procs");
        match std::fs::read_to_string(&path) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1)),
            // A threaded group of v2 lists its processes at the root of its domain, which is visited too.
            Err(fault) if is_gone(&fault) || fault.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
            Err(fault) => return Err(CgroupFault::file(&path, fault)),
        }
    }
    Ok(found)
}

/// A group that was removed: its folder is not there, or its open files have lost it.
pub(super) fn is_gone(fault: &io::Error) -> bool {
    fault.kind() == io::ErrorKind::NotFound || fault.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// Writes to a file that the kernel made; it is never created.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Reads a file of a group without its last newline.
pub(super) fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_groups_inside_are_found_and_odd_numbers_are_not() {
        let fake = tempfile::tempdir().expect("dir");
        let inside = fake.path().join("a/b");
        std::fs::create_dir_all(&inside).expect("dir");
        std::fs::write(fake.path().join("cgroup.procs"), "0\n1\n-5\n77\n").expect("write");
        std::fs::write(inside.join("cgroup.procs"), "88\n77\n99999999999\n").expect("write");
        std::os::unix::fs::symlink("/", fake.path().join("away")).expect("link");
        assert_eq!(pids(fake.path()).expect("pids"), BTreeSet::from([77, 88]));
        assert_eq!(groups(fake.path()).expect("groups").len(), 3);
    }

    #[test]
    fn a_forest_of_groups_is_refused_rather_than_walked() {
        let fake = tempfile::tempdir().expect("dir");
        for number in 0..MAX_GROUPS {
            std::fs::create_dir(fake.path().join(number.to_string())).expect("dir");
        }
        assert!(matches!(groups(fake.path()), Err(CgroupFault::Overgrown(_))));
    }

    #[test]
    fn a_file_that_the_kernel_did_not_make_is_never_created() {
        let fake = tempfile::tempdir().expect("dir");
        let path = fake.path().join("memory.max");
        assert!(write(&path, "1").is_err());
        assert!(!path.exists());
    }
}
