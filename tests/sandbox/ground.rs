//! A root that was begun ahead is the root that the plan asks for, and shows the host as it is at the launch.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use arw::sandbox::plan::{Access, Owner, Plan};
use arw::sandbox::profile::{Workload, Workspace};
use arw::sandbox::{End, Entry, Exit, Launcher, Profile, ProfileName, Streams};

use crate::support::{PATIENCE, is_root, plan, user, workload};

/// A launcher of its own: what is prepared here is for nobody else.
fn launcher() -> Launcher {
    Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher")
}

/// What the command of `plan` says.
fn said(launcher: &Launcher, plan: &Plan) -> String {
    let null = fs::File::open("/dev/null").expect("null");
    let (out, write) = std::io::pipe().expect("pipe");
    let launched = launcher.launch(plan, &Streams::new(null.as_fd(), write.as_fd(), write.as_fd())).expect("launch");
    drop(write);
    let said = std::io::read_to_string(out).expect("text");
    assert_eq!(launched.control.wait().expect("wait"), End::Exit(Exit::Code(0)), "{said}");
    launched.wait_until_gone(PATIENCE).expect("gone");
    said
}

/// Every mount with its options, every entry of the root with its owner and mode, addresses and listeners: without what is
/// another number each time.
pub(crate) const SURVEY: &str = "cut -d' ' -f4- /proc/self/mountinfo | sed -E 's/(shared|master|propagate_from):[0-9]+ //g' | sort; \
    ls -lnR --time-style=+ /dev /etc /home /run /tmp /var /.arw 2>/dev/null | grep -v ' /proc/self/' ; ls -ln --time-style=+ /; \
    ls /proc/bus /proc/fs /proc/irq 2>&1; head -c 9 /proc/kcore /proc/keys 2>&1; id; \
    cat /etc/passwd /etc/hosts /etc/resolv.conf; sort /proc/net/fib_trie; cut -c6-40 /proc/net/tcp | sort; \
    for table in tcp6 udp; do cut -c6-100 /proc/net/$table | awk '{print $1, $3}' | sort; done; \
    for place in / /.arw /usr /etc /dev /dev/pts /proc /run /tmp /dev/shm ~ /opt /var; do \
      ls $place >/dev/null 2>&1 && echo reads $place; touch $place/try 2>/dev/null && rm $place/try && echo writes $place; done; \
    for file in /.arw/closed /etc/passwd /usr/bin/env /dev/null /dev/zero /dev/urandom /dev/full /dev/tty /proc/self/status; do \
      head -c1 $file >/dev/null 2>&1 && echo reads $file; (: >> $file) 2>/dev/null && echo writes $file; done; \
    touch /tmp/made /dev/shm/made ~/made && ls -ln --time-style=+ /tmp /dev/shm ~";

#[test]
fn every_profile_finds_the_same_root_whether_or_not_it_was_begun_ahead() {
    let launcher = launcher();
    for name in ProfileName::ALL.iter().copied() {
        let plan = plan(name, &["sh", "-c", SURVEY]);
        let fresh = said(&launcher, &plan);
        assert!(fresh.contains("/home/runtime") && fresh.lines().count() > 60, "{fresh}");
        let has = |line: &str| fresh.lines().any(|own| own == line);
        assert!(has("writes /tmp") && has("reads /usr") && has("writes /dev/null") && !has("writes /etc"), "{fresh}");
        launcher.prepare(plan.user, Profile::embedded(name), &Entry::default()).expect("prepared");
        assert_same(&said(&launcher, &plan), &fresh, name);
        launcher.prepare(plan.user, Profile::embedded(ProfileName::Strict), &Entry::default()).expect("prepared");
        assert_same(&said(&launcher, &plan), &fresh, name);
    }
}

/// Without the thousands of lines that are the same.
pub(crate) fn assert_same(ahead: &str, fresh: &str, profile: ProfileName) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (ahead, fresh) = (lines(ahead), lines(fresh));
    let only =
        |one: &[String], other: &[String]| one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>();
    let (more, less) = (only(&ahead, &fresh), only(&fresh, &ahead));
    assert!(
        more.is_empty() && less.is_empty() && ahead.len() == fresh.len(),
        "{profile:?}: {more:#?} in place of {less:#?}"
    );
}

/// What one command left in its memory is not what the next one finds.
#[test]
fn each_launch_has_memory_of_its_own() {
    let launcher = launcher();
    let plan = plan(
        ProfileName::Standard,
        &["sh", "-c", "ls -A /tmp /dev/shm ~ | grep mark; touch /tmp/mark /dev/shm/mark ~/mark"],
    );
    for _ in 0..3 {
        launcher.prepare(plan.user, Profile::embedded(ProfileName::Standard), &Entry::default()).expect("prepared");
        assert_eq!(said(&launcher, &plan), "");
    }
}

/// Whether the rules were made ahead or not, a place that another was mounted over has those of the other alone.
#[test]
fn a_workspace_over_a_place_of_the_profile_has_its_own_rights() {
    let launcher = launcher();
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("kept"), "kept").expect("written");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(folder.path(), open).expect("permissions");
    for (access, wanted) in [(Access::ReadOnly, "kept, and no more\n"), (Access::ReadWrite, "kept\n")] {
        let argv =
            ["sh", "-c", "cat /tmp/kept; touch /tmp/more 2>/dev/null && rm /tmp/more && echo || echo ', and no more'"];
        let source = folder.path().canonicalize().expect("path");
        let workspaces = vec![Workspace { source, target: "/tmp".into(), access, owner: Owner::Command }];
        let standard = Profile::embedded(ProfileName::Standard);
        let plan = standard.plan(&Workload { workspaces, ..workload(&argv) }).expect("plan");
        assert_eq!(said(&launcher, &plan), wanted);
        launcher.prepare(plan.user, standard, &Entry::default()).expect("prepared");
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(said(&launcher, &plan), wanted);
    }
}

/// The process that stood ready is gone when its init is there, and only that is a child of the launcher.
#[test]
fn nothing_stays_of_the_process_that_stood_ready() {
    let launcher = launcher();
    let plan = plan(ProfileName::Standard, &["sleep", "60"]);
    let children = || {
        let is_child = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            parent == Some(launcher.id())
        };
        let entries = fs::read_dir("/proc").expect("proc").flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect::<Vec<i32>>()
    };
    launcher.prepare(plan.user, Profile::embedded(ProfileName::Standard), &Entry::default()).expect("prepared");
    let null = fs::File::open("/dev/null").expect("null");
    let launched = launcher.launch(&plan, &Streams::new(null.as_fd(), null.as_fd(), null.as_fd())).expect("launch");
    assert_eq!(children(), [launched.pid]);
    let name = fs::read_to_string(format!("/proc/{}/comm", launched.pid)).expect("the pid is the init's");
    assert!(!name.contains("sleep"), "{name}");
    launched.kill(PATIENCE).expect("killed");
    assert_eq!(children(), [0; 0], "none is left to be reaped");
}

/// A profile with a file of the host, as an operator could write one.
fn profile_with(path: &Path) -> Profile {
    Profile { read_only: vec![path.to_owned()], ..Profile::embedded(ProfileName::Standard).clone() }
}

/// A folder of the host for everybody that no sandbox covers or has a link for.
fn folder_in_reach() -> Option<tempfile::TempDir> {
    let places = [env!("CARGO_TARGET_TMPDIR"), "/run/lock", "/var/lib"];
    let covered =
        |place: &&str| ["/tmp", "/var/tmp", "/var/run", "/dev"].iter().any(|own| Path::new(place).starts_with(own));
    let folder = places.iter().filter(|place| !covered(place)).find_map(|place| tempfile::tempdir_in(place).ok())?;
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    Some(folder)
}

#[test]
fn a_file_that_was_replaced_since_is_seen_as_it_is_now() {
    let Some(folder) = folder_in_reach() else {
        println!("SKIP: there is no folder to write in but /tmp");
        return;
    };
    let file = folder.path().join("list");
    let profile = profile_with(&file);
    let argv = ["sh", "-c", &format!("cat {} 2>&1 || true", file.display())];
    let plan = profile.plan(&workload(&argv)).expect("plan");
    let launcher = launcher();
    let replace = |text: &str| {
        let new = folder.path().join("new");
        fs::write(&new, text).expect("written");
        fs::rename(&new, &file).expect("renamed");
    };
    let prepare = || {
        launcher.prepare(plan.user, &profile, &Entry::default()).expect("prepared");
        // Until the ground was laid; a launch that is faster finds the same.
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    prepare();
    replace("first");
    assert_eq!(said(&launcher, &plan), "first", "there was none when the ground was laid");
    prepare();
    assert_eq!(said(&launcher, &plan), "first");
    prepare();
    replace("second");
    assert_eq!(said(&launcher, &plan), "second", "a bind keeps the file that it was made of");
    prepare();
    fs::remove_file(&file).expect("removed");
    assert!(said(&launcher, &plan).contains("No such file"), "a file that is gone is not seen");
}

/// The root stands there until it is entered, and covers what lies below.
#[test]
fn a_workspace_below_the_stage_is_bound_all_the_same() {
    if !is_root() {
        println!("SKIP: only root can make a folder below /mnt");
        return;
    }
    let launcher = launcher();
    let standard = Profile::embedded(ProfileName::Standard);
    for stage in ["/mnt", "/media", "/srv"].into_iter().filter(|stage| Path::new(stage).is_dir()) {
        let folder = tempfile::tempdir_in(stage).expect("folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("permissions");
        fs::write(folder.path().join("here"), "the workspace").expect("written");
        let workspace = Workspace {
            source: folder.path().to_owned(),
            target: "/work".into(),
            access: Access::ReadOnly,
            owner: Owner::Host,
        };
        let workload = Workload { workspaces: vec![workspace], ..workload(&["cat", "/work/here"]) };
        let plan = standard.plan(&workload).expect("plan");
        launcher.prepare(user(), standard, &Entry::default()).expect("prepared");
        assert_eq!(said(&launcher, &plan), "the workspace", "{stage}");
    }
}

/// A spare that waits for hours shows what was mounted meanwhile, as a root made at the launch would.
#[test]
fn a_disk_that_was_mounted_since_is_seen() {
    if !is_root() {
        println!("SKIP: only root mounts");
        return;
    }
    let folder = folder_in_reach().expect("root writes everywhere");
    let profile = profile_with(folder.path());
    let argv = ["sh", "-c", &format!("cat {}/disk/file", folder.path().display())];
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).expect("folder");
    let plan = profile.plan(&workload(&argv)).expect("plan");
    let launcher = launcher();
    launcher.prepare(plan.user, &profile, &Entry::default()).expect("prepared");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let _mounted = crate::support::Memory::mount(&disk);
    fs::write(disk.join("file"), "mounted later").expect("written");
    assert_eq!(said(&launcher, &plan), "mounted later");
}
