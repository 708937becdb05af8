//! A sandbox starts in the cgroup that was made for it. Only groups that the test made itself are touched.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use arw::sandbox::{Control, End, Entry, Exit, Launcher, Profile, ProfileName, State, Streams};

use crate::ground::{SURVEY, assert_same};
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
    launcher().prepare(user(), Profile::embedded(ProfileName::Standard), &Entry::default()).expect("launcher");
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

/// Groups of both versions, with what leads into them.
struct Both {
    groups: [Own; 2],
    folder: File,
    tasks: File,
}

impl Both {
    fn new() -> Option<Self> {
        let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let unified = unified.into_iter().find(|place| Path::new(place).join("cgroup.subtree_control").exists());
        let made = unified.filter(|_| is_root()).and_then(Own::below).zip(Own::below("/sys/fs/cgroup/pids"));
        let Some((v2, v1)) = made else {
            println!("SKIP: no cgroups of both versions that this user may make groups in");
            return None;
        };
        let folder = File::open(&v2.0).expect("folder");
        let tasks = File::options().write(true).open(v1.0.join("tasks")).expect("tasks");
        Some(Self { groups: [v2, v1], folder, tasks })
    }

    fn entry(&self) -> Entry<'_> {
        Entry { into: Some(self.folder.as_fd()), join: vec![self.tasks.as_fd()], ..Entry::default() }
    }

    /// The processes of each.
    fn pids(&self) -> [Vec<i32>; 2] {
        self.groups.each_ref().map(|group| {
            let inside = fs::read_to_string(group.0.join("cgroup.procs")).expect("procs");
            inside.lines().map(|pid| pid.parse().expect("a pid")).collect()
        })
    }
}

/// The init of a launch, however much of it was made ahead, is in the groups of the launch, alone with its command, and the
/// launcher's own child.
#[test]
fn an_init_made_ahead_is_in_its_groups_and_reaped_by_the_launcher() {
    let Some((own, other)) = Both::new().zip(Both::new()) else { return };
    let launcher = Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher");
    let cases = [
        ("nothing", None),
        ("namespaces", Some(Entry::default())),
        ("init", Some(own.entry())),
        ("init of others", Some(other.entry())),
    ];
    for (ahead, entry) in cases {
        let stood = entry.map(|entry| {
            launcher.prepare(user(), Profile::embedded(ProfileName::Standard), &entry).expect("prepared");
            let into = [&own, &other]
                .into_iter()
                .find(|both| entry.into.is_some_and(|fd| fd.as_raw_fd() == both.folder.as_raw_fd()));
            into.map(|both| {
                until("the init to stand ready", || both.pids().iter().all(|pids| pids.len() == 1));
                both.pids()[0][0]
            })
        });
        let plan = plan(ProfileName::Standard, &["sleep", "60"]);
        let null = File::options().read(true).write(true).open("/dev/null").expect("null");
        let mut streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
        streams.cgroup = own.entry();
        let launched = launcher.launch(&plan, &streams).expect("launch");
        assert_eq!(launched.report.state(Control::Cgroup), Some(&State::Enforced), "{ahead}");
        assert_eq!(stood.flatten() == Some(launched.pid), ahead == "init", "who stood in the groups is the init");
        for pids in own.pids() {
            assert!(pids.contains(&launched.pid), "{ahead}: {pids:?}");
            assert_eq!(pids.len(), 2, "{ahead}: the init and its command, and no helper: {pids:?}");
        }
        until("others' groups to be left", || other.pids().iter().all(Vec::is_empty));
        assert_eq!(parent(launched.pid), Some(launcher.id()), "{ahead}");
        launched.kill(PATIENCE).expect("ended");
        until("nothing to be left of it, not even a zombie", || parent(launched.pid).is_none());
    }
    // Whoever stands ready goes with the launcher.
    launcher.prepare(user(), Profile::embedded(ProfileName::Standard), &own.entry()).expect("prepared");
    until("the init to stand ready", || own.pids().iter().all(|pids| pids.len() == 1));
    drop(launcher);
    until("it to go", || own.pids().iter().all(Vec::is_empty));
}

/// What it finds in its root and can do is what one that was made at the launch would.
#[test]
fn an_init_that_stood_ready_gives_its_command_the_same_root_and_report() {
    let Some(own) = Both::new() else { return };
    let launcher = Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher");
    for name in ProfileName::ALL.iter().copied() {
        let plan = plan(name, &["sh", "-c", SURVEY]);
        let launch = || {
            let null = File::open("/dev/null").expect("null");
            let (out, write) = std::io::pipe().expect("pipe");
            let mut streams = Streams::new(null.as_fd(), write.as_fd(), write.as_fd());
            streams.cgroup = own.entry();
            let launched = launcher.launch(&plan, &streams).expect("launch");
            drop(write);
            let said = std::io::read_to_string(out).expect("text");
            assert_eq!(launched.control.wait().expect("wait"), End::Exit(Exit::Code(0)), "{said}");
            launched.wait_until_gone(PATIENCE).expect("gone");
            (said, launched.report.clone())
        };
        let (fresh, report) = launch();
        launcher.prepare(plan.user, Profile::embedded(name), &own.entry()).expect("prepared");
        until("the init to stand ready", || own.pids().iter().all(|pids| pids.len() == 1));
        let (ahead, measured) = launch();
        assert_same(&ahead, &fresh, name);
        assert_eq!(measured, report, "{name:?}");
        // One that stands ready for another profile builds what the plan says.
        let gpu =
            Profile::embedded(if name == ProfileName::Strict { ProfileName::Compat } else { ProfileName::Strict });
        launcher.prepare(plan.user, gpu, &own.entry()).expect("prepared");
        until("the init to stand ready", || own.pids().iter().all(|pids| pids.len() == 1));
        let (ahead, measured) = launch();
        assert_same(&ahead, &fresh, name);
        assert_eq!(measured, report, "{name:?}");
    }
}

/// The sandbox is made, and the command is not, until the caller says so; of a caller that is gone nothing is left, not even an
/// init that would wait for a later one.
#[test]
fn a_command_that_is_held_begins_when_it_is_told_to_and_never_without() {
    let Some(own) = Both::new() else { return };
    let launcher = Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher");
    let mut plan = plan(ProfileName::Standard, &["echo", "begun"]);
    plan.when_alone = arw::sandbox::plan::WhenAlone::Wait;
    for (ahead, goes_on) in [(false, true), (true, true), (false, false), (true, false)] {
        if ahead {
            launcher.prepare(user(), Profile::embedded(ProfileName::Standard), &own.entry()).expect("prepared");
            until("the init to stand ready", || own.pids().iter().all(|pids| pids.len() == 1));
        }
        let null = File::open("/dev/null").expect("null");
        let (mut out, write) = std::io::pipe().expect("pipe");
        let mut streams = Streams::new(null.as_fd(), write.as_fd(), write.as_fd());
        streams.cgroup = own.entry();
        let begun = launcher.begin(&plan, &streams).expect("begun");
        drop(write);
        until("the init", || own.pids().iter().all(|pids| pids.len() == 1));
        // A launch takes a few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(own.pids().iter().all(|pids| pids.len() == 1), "{:?}: there is no command yet", own.pids());
        nix::fcntl::fcntl(&out, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("set");
        let said = out.read(&mut [0; 8]);
        assert_eq!(said.expect_err("nothing").kind(), std::io::ErrorKind::WouldBlock);
        nix::fcntl::fcntl(&out, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).expect("set");
        if goes_on {
            let launched = begun.go_on().expect("launched");
            assert_eq!(std::io::read_to_string(out).expect("text"), "begun\n");
            launched.kill(PATIENCE).expect("ended");
        } else {
            drop(begun);
            assert_eq!(std::io::read_to_string(out).expect("text"), "");
        }
        until("nothing to be left", || own.pids().iter().all(Vec::is_empty));
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// From proc_pid_stat(5), field 4.
fn parent(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
