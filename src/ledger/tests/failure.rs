//! Disks that are full, limits, files that vanish, syncs that fail.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;
use crate::ledger::Cause;

const SCRATCH: &str = "LEDGER_TEST_SCRATCH";

fn cause_of(error: &LedgerError) -> Option<Cause> {
    match error {
        LedgerError::Unavailable { cause, .. } => Some(*cause),
        _ => None,
    }
}

/// Appends until it works again. Every try is a real one; the ledger mends itself in about a second.
fn append_until_it_works(ledger: &Ledger) -> u64 {
    loop {
        match deny(ledger, "again.example") {
            Ok(seq) => return seq,
            Err(error) => assert!(cause_of(&error).is_some(), "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Runs one of the ignored tests of this file as a process of its own, started by `script`.
fn run_apart(script: &str, test: &str, scratch: &Path) -> std::process::Output {
    let program = std::env::current_exe().expect("a test has a file");
    Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .arg(program)
        .args(["--exact", &format!("ledger::tests::failure::{test}"), "--ignored", "--nocapture"])
        .env(SCRATCH, scratch)
        .output()
        .expect("unshare(1) is there")
}

fn may_mount(scratch: &Path) -> bool {
    let probe = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs"]).arg(scratch).output();
    match probe {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("SKIP: cannot mount here: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            eprintln!("SKIP: no unshare(1): {error}");
            false
        }
    }
}

fn assert_child_passed(output: &std::process::Output) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_full_disk_denies_keeps_every_line_whole_and_ends_by_itself() {
    let dir = folder();
    if may_mount(dir.path()) {
        let script = format!("mount -t tmpfs -o size=400k tmpfs \"${SCRATCH}\"; exec \"$0\" \"$@\"");
        assert_child_passed(&run_apart(&script, "inside_a_small_disk", dir.path()));
    }
}

#[test]
#[ignore = "needs the small file system that its caller mounts"]
fn inside_a_small_disk() {
    let scratch = PathBuf::from(std::env::var_os(SCRATCH).expect("set by the caller"));
    let ballast = scratch.join("ballast");
    fs::write(&ballast, vec![1; 100 << 10]).expect("fits");
    let (config, clock) = (config(&scratch), clock());
    let (ledger, _) = open(&config, &clock);
    let mut written = 0;
    let error = loop {
        match deny(&ledger, "some-host.example") {
            Ok(seq) => written = seq,
            Err(error) => break error,
        }
    };
    assert_eq!(cause_of(&error), Some(Cause::DiskFull), "{error}");
    assert!(written > 100);
    for _ in 0..2 {
        assert!(deny(&ledger, "refused.example").is_err());
    }
    let status = ledger.status();
    assert!(!status.available);
    assert_eq!((status.cause, status.refused_total, status.last_seq), (Some(Cause::DiskFull), 3, written));
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    assert!(fs::read(&active).expect("read").ends_with(b"}\n"), "no part of a line is left");
    fs::remove_file(&ballast).expect("removed");
    assert_eq!(deny(&ledger, "again.example").expect("works again"), written + 2);
    assert!(ledger.status().available);
    drop(ledger);
    let lines = all_lines(&config.dir);
    assert_dense(&lines);
    let note = &lines[usize::try_from(written).expect("fits")];
    assert_eq!(note.kind, Kind::Note);
    let told = note.detail.as_deref().expect("a sentence");
    assert!(told.contains("3 were refused") && told.contains("disk_full"), "{told}");
    assert_sound(&config.dir);
}

#[test]
fn a_short_write_leaves_no_part_of_a_line() {
    let dir = folder();
    if may_mount(dir.path()) {
        // A soft limit that the child may raise; the signal is ignored, so that write(2) says EFBIG.
        let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
        assert_child_passed(&run_apart(script, "under_a_file_size_limit", dir.path()));
    }
}

#[test]
#[ignore = "ignores SIGXFSZ only under its caller"]
fn under_a_file_size_limit() {
    let scratch = PathBuf::from(std::env::var_os(SCRATCH).expect("set by the caller"));
    let (config, clock) = (config(&scratch), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 20);
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("readable");
    // Every place in the next line where the write may stop short, but not the whole line.
    for room in [1, 2, 50, 100, 150] {
        let length = fs::metadata(&active).expect("there").len();
        setrlimit(Resource::RLIMIT_FSIZE, length + room, hard).expect("lowered");
        let error = deny(&ledger, "a-host-that-makes-the-line-long-enough.example").expect_err("no room");
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).expect("raised");
        assert_eq!(cause_of(&error), Some(Cause::DiskFull), "{error}");
        assert_eq!(fs::metadata(&active).expect("there").len(), length, "rolled back");
        deny(&ledger, "next.example").expect("works again");
    }
    drop(ledger);
    assert_dense(&all_lines(&config.dir));
    assert_sound(&config.dir);
}

#[test]
fn a_read_only_disk_is_refused_with_its_reason() {
    let dir = folder();
    if may_mount(dir.path()) {
        let script = format!("mount -t tmpfs -o ro tmpfs \"${SCRATCH}\"; exec \"$0\" \"$@\"");
        assert_child_passed(&run_apart(&script, "on_a_read_only_disk", dir.path()));
    }
}

#[test]
#[ignore = "needs the read-only file system that its caller mounts"]
fn on_a_read_only_disk() {
    let scratch = PathBuf::from(std::env::var_os(SCRATCH).expect("set by the caller"));
    let error = Ledger::open(&config(&scratch), clock()).expect_err("read-only");
    assert!(error.to_string().contains("Read-only"), "{error}");
}

#[test]
fn below_the_reserve_nothing_is_written() {
    let dir = folder();
    let config = LedgerConfig { reserve_bytes: u64::MAX, ..config(dir.path()) };
    let (ledger, _) = open(&config, &clock());
    let error = deny(&ledger, "a").expect_err("no space is that large");
    assert_eq!(cause_of(&error), Some(Cause::BelowReserve), "{error}");
    assert_eq!(all_lines(&config.dir), []);
}

#[test]
fn a_removed_active_file_denies_and_is_written_anew_from_the_open_one() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 10);
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    fs::remove_file(&active).expect("removed");
    assert!(ledger.shared().sync().is_err());
    let error = deny(&ledger, "a").expect_err("the file is gone");
    assert_eq!(cause_of(&error), Some(Cause::FileChanged), "{error}");
    assert_eq!(ledger.status().cause, Some(Cause::FileChanged));
    let seq = append_until_it_works(&ledger);
    assert_eq!(seq, 12, "ten lines, and the note");
    drop(ledger);
    assert_dense(&all_lines(&config.dir));
    assert_sound(&config.dir);
}

#[test]
fn a_replaced_active_file_denies_and_the_foreign_one_is_kept_aside() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 3);
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    fs::rename(&active, active.with_extension("stolen")).expect("moved");
    fs::write(&active, "foreign").expect("written");
    assert!(ledger.shared().sync().is_err());
    assert!(deny(&ledger, "a").is_err());
    append_until_it_works(&ledger);
    drop(ledger);
    assert_eq!(fs::read(active.with_extension("foreign")).expect("kept"), b"foreign");
    assert_sound(&config.dir);
}

#[test]
fn bytes_that_somebody_else_appended_deny_and_do_not_stay() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 3);
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    let mut text = fs::read(&active).expect("read");
    text.extend_from_slice(b"{\"seq\":4}\n");
    fs::write(&active, text).expect("written");
    assert!(ledger.shared().sync().is_err());
    append_until_it_works(&ledger);
    drop(ledger);
    assert_dense(&all_lines(&config.dir));
    assert_sound(&config.dir);
}

#[test]
fn lines_that_cannot_be_read_back_keep_it_unavailable() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 3);
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    let text = fs::read_to_string(&active).expect("read").replace("host-1", "host-2");
    fs::write(&active, text + "x").expect("written");
    assert!(ledger.shared().sync().is_err());
    // The first real try to mend comes after its pause; it must fail, and say why.
    loop {
        let error = deny(&ledger, "a").expect_err("the past was changed");
        if error.to_string().contains("cannot be read back") {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(ledger.status().last_seq, 3);
}

#[test]
fn after_a_failed_sync_the_lines_are_written_into_a_new_file() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 5);
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    let before = fs::metadata(&active).expect("there").ino();
    let failed = std::io::Error::from_raw_os_error(libc::EIO);
    crate::ledger::shared::lock(&ledger.shared().writer).sync_failed(&failed);
    let error = deny(&ledger, "a").expect_err("in doubt");
    assert_eq!(cause_of(&error), Some(Cause::SyncFailed), "{error}");
    assert!(ledger.shared().sync().is_err(), "a second sync of the same file proves nothing");
    assert!(ledger.checkpoint().is_err(), "and nothing is signed on it");
    append_until_it_works(&ledger);
    assert_ne!(fs::metadata(&active).expect("there").ino(), before);
    ledger.checkpoint().expect("signed");
    drop(ledger);
    assert_sound(&config.dir);
}

#[test]
fn who_waits_for_a_sync_that_fails_is_told() {
    let dir = folder();
    let config = LedgerConfig { durability: Durability::Strict, ..config(dir.path()) };
    let (ledger, _) = open(&config, &clock());
    let active = files_with(&config.dir, ".jsonl").pop().expect("there");
    fs::remove_file(active).expect("removed");
    let executor = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let result = executor.block_on(ledger.record(&Record::new(Kind::Deny)));
    assert!(matches!(result, Err(LedgerError::Unavailable { .. })), "{result:?}");
}
