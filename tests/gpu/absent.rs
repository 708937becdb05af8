//! Hosts without GPUs, and libraries that are not what they should be.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use arw::gpu::{Gpus, UnavailableReason, WatchFault};

use crate::fake::{Fake, host, uuid};

fn reason(gpus: &Gpus) -> UnavailableReason {
    gpus.availability().expect_err("no GPUs").reason
}

#[test]
fn without_a_library_every_question_has_the_same_clear_answer() {
    let gpus = Gpus::open(Some(Path::new("/nonexistent/libnvidia-ml.so.1")));
    let unavailable = gpus.availability().expect_err("no GPUs").clone();
    assert_eq!(unavailable.reason.code(), "no_library");
    let text = unavailable.to_string();
    assert!(text.starts_with("the NVIDIA management library is not installed: `/nonexistent/"), "{text}");
    assert_eq!(gpus.inventory().expect_err("no GPUs"), unavailable);
    assert_eq!(gpus.read(&uuid(0)).expect_err("no GPUs"), unavailable);
    let watched = gpus.watch(std::time::Duration::ZERO, |_| panic!("there is nothing to watch"));
    assert_eq!(watched.expect_err("no GPUs"), WatchFault::Unavailable(unavailable));
}

#[test]
fn a_file_that_is_no_library_is_unusable_and_not_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("libnvidia-ml.so.1");
    fs::write(&file, "not ELF").expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("own file");
    assert_eq!(reason(&Gpus::open(Some(&file))), UnavailableReason::LibraryUnusable);
    assert_eq!(reason(&Gpus::open(Some(folder.path()))), UnavailableReason::LibraryUnusable);
}

#[test]
fn a_library_that_another_user_could_replace_is_not_loaded() {
    let Some(fake) = Fake::new(&host(1)) else { return };
    assert!(fake.open().availability().is_ok());
    let library = fake.library();
    let folder = library.parent().expect("in a folder");

    for (path, mode) in [(library.as_path(), 0o775), (&library, 0o757), (folder, 0o777), (folder, 0o720)] {
        let before = fs::metadata(path).expect("there").permissions();
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("own");
        assert_eq!(reason(&fake.open()), UnavailableReason::LibraryUntrusted, "{} {mode:o}", path.display());
        fs::set_permissions(path, before).expect("own");
    }
    assert_eq!(reason(&Gpus::open(Some(Path::new("libnvidia-ml.so.1")))), UnavailableReason::LibraryUntrusted);
    assert_eq!(fake.log(), ["init", "shutdown"], "it was loaded when it was not trusted");
}

#[test]
fn a_link_is_followed_before_its_folder_is_trusted() {
    let Some(fake) = Fake::new(&host(1)) else { return };
    let outside = tempfile::tempdir().expect("a folder");
    let link = outside.path().join("link.so");
    symlink(fake.library(), &link).expect("linked");
    assert!(Gpus::open(Some(&link)).availability().is_ok());
    fs::set_permissions(fake.library(), Permissions::from_mode(0o777)).expect("own");
    assert_eq!(reason(&Gpus::open(Some(&link))), UnavailableReason::LibraryUntrusted);
}

#[test]
fn what_the_driver_says_at_the_start_is_told_apart() {
    for (script, code) in [
        ("init 9\n", "no_driver"),
        ("init 18\n", "version_mismatch"),
        ("init 4\n", "no_permission"),
        ("init 999\n", "driver_fault"),
        ("init 4242\n", "driver_fault"),
        ("driver 580.95.05\ncount 0\n", "no_gpu"),
    ] {
        let Some(fake) = Fake::new(script) else { return };
        assert_eq!(reason(&fake.open()).code(), code, "{script}");
    }
}

#[test]
fn a_library_without_the_end_of_its_own_life_is_refused_and_not_called() {
    let Some(fake) = Fake::without("-DWITHOUT_SHUTDOWN", &host(1)) else { return };
    assert_eq!(reason(&fake.open()), UnavailableReason::LibraryUnusable);
}

#[test]
fn codes_are_distinct() {
    let codes: std::collections::BTreeSet<_> = UnavailableReason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes.len(), UnavailableReason::ALL.len());
}
