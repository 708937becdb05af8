//! A sandbox starts in the cgroup that was made for it. Only groups that the test made itself are touched.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use arw::sandbox::{Control, Entry, ProfileName, State};

use crate::support::{Extra, is_root, launcher, plan, start_with, user};

/// A cgroup of this test's own.
struct Own(PathBuf);

impl Own {
    fn below(hierarchy: &str) -> Option<Self> {
        let path = Path::new(hierarchy).join(format!("arw-sandbox-test-{}", std::process::id()));
        fs::create_dir(&path).ok().map(|()| Self(path))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// What the command itself reads, and the report.
fn launch_into(entry: Entry<'_>) -> (String, Option<State>) {
    let plan = plan(ProfileName::Standard, &["cat", "/proc/self/cgroup"]);
    let mut running = start_with(&plan, &Extra { cgroup: Some(entry), ..Extra::default() }).expect("launch");
    let state = running.launched.report.state(Control::Cgroup).cloned();
    (running.finish().said, state)
}

#[test]
fn a_sandbox_is_born_in_its_v2_group_and_sees_nothing_above() {
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let place = places.into_iter().find(|place| Path::new(place).join("cgroup.subtree_control").exists());
    let Some(own) = place.filter(|_| is_root()).and_then(Own::below) else {
        println!("SKIP: no cgroup v2 that this user may make groups in");
        return;
    };
    let folder = File::open(&own.0).expect("folder");
    let (said, state) = launch_into(Entry { into: Some(folder.as_fd()), ..Entry::default() });
    assert_eq!(state, Some(State::Enforced), "{said}");
    assert!(said.lines().any(|line| line == "0::/"), "{said}");
    launcher().prepare(user()).expect("launcher");
    let (said, state) = launch_into(Entry { into: Some(folder.as_fd()), ..Entry::default() });
    assert_eq!(state, Some(State::Enforced), "an init made ahead enters it too: {said}");
    assert!(said.lines().any(|line| line == "0::/"), "{said}");
    let (_, state) = launch_into(Entry::default());
    assert!(matches!(state, Some(State::Unavailable(_))), "{state:?}");
}

#[test]
fn a_sandbox_enters_its_v1_groups_first_of_all() {
    let Some(own) = Some("/sys/fs/cgroup/pids").filter(|_| is_root()).and_then(Own::below) else {
        println!("SKIP: no cgroup v1 that this user may make groups in");
        return;
    };
    let tasks = File::options().write(true).open(own.0.join("tasks")).expect("tasks");
    let (said, state) = launch_into(Entry { join: vec![tasks.as_fd()], ..Entry::default() });
    assert_eq!(state, Some(State::Enforced), "{said}");
    assert!(said.lines().any(|line| line.ends_with(":pids:/")), "{said}");
}
