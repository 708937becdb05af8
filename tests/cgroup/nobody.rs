//! The same as an ordinary user to whom no group was delegated.

use std::os::unix::process::CommandExt;
use std::process::Command;

use arw::sandbox::cgroup::{CgroupFault, Cgroups, Control, CpuQuota, Limits, Outcome, install, instead_of_groups};

use crate::fixture::{outcome, roots};

/// `nobody` and `nogroup` on Linux.
const NOBODY: u32 = 65_534;

#[test]
fn an_ordinary_user_is_told_that_there_are_no_groups() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP nobody: only root can become somebody else");
        return;
    }
    // The binary may lie where nobody can go, so it is started from a place where all can.
    let dir = tempfile::Builder::new().prefix("arw-nobody-").tempdir_in("/tmp").expect("dir");
    let binary = dir.path().join("cgroup");
    std::fs::copy(std::env::current_exe().expect("own path"), &binary).expect("copied");
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("given");
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
