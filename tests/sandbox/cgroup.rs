//! A sandbox starts in the cgroup that was made for it. Only groups that the test made itself are touched.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use arw::sandbox::{Control, Entry, Launcher, Profile, ProfileName, State, Streams};

use crate::support::{Extra, PATIENCE, is_root, launcher, plan, start_with, user};

/// A cgroup of this test's own.
struct Own(PathBuf);

impl Own {
    fn below(hierarchy: &str) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(hierarchy).join(format!("arw-sandbox-test-{}-{number}", std::process::id()));
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
    launcher().prepare(user(), Profile::embedded(ProfileName::Standard)).expect("launcher");
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

/// Namespaces that were made ahead hold a process that makes the init; both ways, the init is the launcher's own child.
#[test]
fn an_init_from_namespaces_made_ahead_is_in_its_groups_and_reaped_by_the_launcher() {
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let unified = unified.into_iter().find(|place| Path::new(place).join("cgroup.subtree_control").exists());
    let groups = unified.filter(|_| is_root()).and_then(Own::below).zip(Own::below("/sys/fs/cgroup/pids"));
    let Some((v2, v1)) = groups else {
        println!("SKIP: no cgroups of both versions that this user may make groups in");
        return;
    };
    let folder = File::open(&v2.0).expect("folder");
    let tasks = File::options().write(true).open(v1.0.join("tasks")).expect("tasks");
    let own = Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher");
    for ahead in [false, true] {
        if ahead {
            own.prepare(user(), Profile::embedded(ProfileName::Standard)).expect("prepared");
        }
        let plan = plan(ProfileName::Standard, &["sleep", "60"]);
        let null = File::options().read(true).write(true).open("/dev/null").expect("null");
        let mut streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
        streams.cgroup = Entry { into: Some(folder.as_fd()), join: vec![tasks.as_fd()] };
        let launched = own.launch(&plan, &streams).expect("launch");
        for group in [&v2, &v1] {
            let inside = fs::read_to_string(group.0.join("cgroup.procs")).expect("procs");
            assert!(inside.lines().any(|pid| pid == launched.pid.to_string()), "{ahead}: {inside}");
            assert_eq!(inside.lines().count(), 2, "the init and its command, and no helper: {inside}");
        }
        assert_eq!(parent(launched.pid), Some(own.id()), "ahead: {ahead}");
        launched.kill(PATIENCE).expect("ended");
        let gone = || parent(launched.pid).is_none();
        let begun = std::time::Instant::now();
        while !gone() && begun.elapsed() < PATIENCE {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(gone(), "nothing is left of it, not even a zombie");
    }
}

/// From proc_pid_stat(5), field 4.
fn parent(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
