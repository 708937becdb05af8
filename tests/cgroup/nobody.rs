//! The same as an ordinary user to whom no group was delegated.

use std::os::unix::process::CommandExt;
use std::process::Command;

use arw::sandbox::cgroup::{CgroupFault, Cgroups, Control, CpuQuota, Limits, Outcome, install, instead_of_groups};

use crate::fixture::{Ground, outcome, roots};

/// `nobody` and `nogroup` on Linux.
const NOBODY: u32 = 65_534;

/// A copy of the test binary in a place where everybody can go; the build's own may lie where nobody can.
fn binary_for_everybody() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::Builder::new().prefix("arw-nobody-").tempdir_in("/tmp").expect("dir");
    let binary = dir.path().join("cgroup");
    // By another process: were it open for writing here, a thread that starts a program at that moment would hand
    // the descriptor on, and executing the copy would fail with ETXTBSY.
    let copied = Command::new("cp").arg(std::env::current_exe().expect("own path")).arg(&binary).status();
    assert!(copied.expect("cp").success());
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("given");
    (dir, binary)
}

#[test]
fn an_ordinary_user_is_told_that_there_are_no_groups() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP nobody: only root can become somebody else");
        return;
    }
    let (_dir, binary) = binary_for_everybody();
    let child = Command::new(&binary)
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", "nobody::as_nobody"])
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("child");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run as nobody by an_ordinary_user_is_told_that_there_are_no_groups"]
fn as_nobody() {
    assert!(!nix::unistd::geteuid().is_root());
    let cgroups = Cgroups::discover(&roots()).expect("the tables of /proc");
    let fault = cgroups.leaf("demo").expect_err("nothing was delegated");
    println!("{fault}");
    assert!(matches!(&fault, CgroupFault::Unavailable(reasons) if !reasons.is_empty()));
    let limits = Limits {
        memory_max: Some(256 << 20),
        pids_max: Some(64),
        cpu_quota: Some(CpuQuota::LEAST),
        ..Limits::default()
    };
    let applied = arw::sandbox::cgroup::without_groups(&limits, &fault.to_string());
    assert!(matches!(outcome(&applied, Control::CpuQuota), Outcome::Unavailable(_)));
    assert!(matches!(outcome(&applied, Control::MemoryMax), Outcome::Partial(_)));
    // What stands in for them holds for a process.
    install(&instead_of_groups(&limits)).expect("lowered");
    let taken = Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=512M", "count=1"]).output().expect("dd");
    assert!(!taken.status.success(), "512 MiB were taken under a limit of 256");
    let taken = Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]).output().expect("dd");
    assert!(taken.status.success());
}

/// What a service manager delegates: the folder, and the files through which processes and controllers go.
const DELEGATED: [&str; 5] = ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"];

#[test]
fn an_ordinary_user_with_a_group_of_its_own_has_limits() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP delegated: only root can delegate");
        return;
    }
    let Some(mut ground) = Ground::new("delegated") else { return };
    for path in ground.leaf.place().paths() {
        for name in DELEGATED {
            // Each version lacks some of these files.
            let _ = std::os::unix::fs::chown(path.join(name), Some(NOBODY), Some(NOBODY));
        }
    }
    let (dir, binary) = binary_for_everybody();
    let said = dir.path().join("said");
    let arguments = "--exact --ignored --nocapture --test-threads=1 nobody::as_nobody_with_a_group";
    let change = format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups");
    ground.sh(&format!("cd /; exec {change} {} {arguments} >{} 2>&1", binary.display(), said.display()));
    let code = ground.end();
    let text = std::fs::read_to_string(&said).expect("read");
    println!("{text}");
    assert!(code == 0 && text.contains("1 passed"), "{code}");
}

#[test]
#[ignore = "run as nobody by an_ordinary_user_with_a_group_of_its_own_has_limits"]
fn as_nobody_with_a_group() {
    assert!(!nix::unistd::geteuid().is_root());
    let limits = Limits {
        memory_max: Some(24 << 20),
        swap_max: Some(0),
        pids_max: Some(16),
        cpu_quota: CpuQuota::from_millis(500).ok(),
        ..Limits::default()
    };
    let mut ground = Ground::new("by-nobody").expect("a delegated group");
    for one in ground.leaf.apply(&limits) {
        println!("{}: {:?}", one.control.code(), one.outcome);
        assert!(!matches!(one.outcome, Outcome::Unavailable(_)), "{one:?}");
    }
    ground.sh("exec dd if=/dev/zero of=/dev/null bs=96M count=1");
    assert_eq!(ground.end(), nix::sys::signal::Signal::SIGKILL as i32);
    assert!(ground.leaf.events().oom_kills.is_some_and(|kills| kills >= 1));
}
