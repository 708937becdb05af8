//! Opening after every kind of end.

use std::io::Write;

use super::*;
use crate::domain::CloseReason;

/// A ledger with `signed` lines under a checkpoint and some behind it, as a crash leaves it.
fn crashed(signed: usize, behind: usize) -> TempDir {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, signed);
    ledger.checkpoint().expect("signed");
    fill(&ledger, &clock, behind);
    copy(&config.dir)
}

fn active_file(dir: &Path) -> PathBuf {
    files_with(&dir.join("ledger"), ".jsonl").pop().expect("there is one")
}

fn later() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(start().plus(Duration::from_secs(3_600))))
}

#[test]
fn a_tail_cut_at_any_byte_is_repaired_and_the_rest_kept() {
    let crash = crashed(3, 3);
    let whole = fs::read(active_file(crash.path())).expect("read");
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &whole).map(|at| at + 1).collect();
    for cut in ends[2]..=whole.len() {
        let copied = copy(&crash.path().join("ledger"));
        fs::write(active_file(copied.path()), &whole[..cut]).expect("cut");
        let (ledger, recovery) = open(&config(copied.path()), &later());
        let kept = ends.iter().filter(|end| **end <= cut).count();
        let torn = cut - ends[kept - 1];
        assert_eq!(recovery.last_seq, kept as u64, "{cut}");
        match recovery.torn {
            None => assert_eq!(torn, 0, "{cut}"),
            Some(tail) => {
                assert_eq!((tail.seq, tail.bytes), (kept as u64 + 1, torn as u64), "{cut}");
                assert_eq!(fs::read(tail.kept_in).expect("kept"), whole[cut - torn..cut]);
            }
        }
        deny(&ledger, "after.example").expect("appended");
        drop(ledger);
        let lines = all_lines(&config(copied.path()).dir);
        assert_dense(&lines);
        let notes = lines.iter().filter(|line| line.kind == Kind::Note).count();
        assert_eq!(notes, usize::from(torn > 0), "{cut}");
        assert_sound(&config(copied.path()).dir);
    }
}

#[test]
fn a_tail_cut_below_the_checkpoint_is_refused_at_any_byte() {
    let crash = crashed(2, 0);
    let whole = fs::read(active_file(crash.path())).expect("read");
    for cut in (0..whole.len()).step_by(7) {
        let copied = copy(&crash.path().join("ledger"));
        fs::write(active_file(copied.path()), &whole[..cut]).expect("cut");
        let error = Ledger::open(&config(copied.path()), later()).expect_err("signed lines are missing");
        assert!(matches!(error, LedgerError::Damaged(_)), "{error}");
        assert_eq!(fs::read(active_file(copied.path())).expect("read").len(), cut, "nothing was touched");
        assert!(files_with(&copied.path().join("ledger"), ".bin").is_empty());
    }
}

#[test]
fn pages_that_a_power_cut_lost_behind_the_checkpoint_are_cut_with_all_that_follows() {
    for garbage in [&[0_u8; 300][..], b"{\"seq\":6}\n", b"\n\n\n", b"{\"seq\":9,\"time\":\"x\"}\nrest"] {
        let crash = crashed(3, 2);
        let mut file = fs::OpenOptions::new().append(true).open(active_file(crash.path())).expect("open");
        file.write_all(garbage).expect("written");
        let (ledger, recovery) = open(&config(crash.path()), &later());
        assert_eq!(recovery.last_seq, 5);
        assert_eq!(recovery.torn.expect("cut").bytes, garbage.len() as u64);
        drop(ledger);
        assert_sound(&config(crash.path()).dir);
    }
}

#[test]
fn a_changed_line_under_the_checkpoint_is_refused_at_the_start() {
    let crash = crashed(4, 1);
    let path = active_file(crash.path());
    let text = fs::read_to_string(&path).expect("read").replace("host-2.example", "host-9.example");
    fs::write(&path, text).expect("written");
    let error = Ledger::open(&config(crash.path()), later()).expect_err("changed");
    assert!(error.to_string().contains("not what was signed"), "{error}");
}

#[test]
fn missing_checkpoints_and_a_missing_key_are_refused_and_nothing_is_made_anew() {
    let crash = crashed(2, 0);
    let dir = config(crash.path()).dir;
    for missing in [&["checkpoint", "checkpoints.log"][..], &["ledger.key"], &["ledger.key", "ledger.pub"]] {
        let copied = copy(&dir);
        let there = config(copied.path()).dir;
        missing.iter().for_each(|name| fs::remove_file(there.join(name)).expect("removed"));
        assert!(Ledger::open(&config(copied.path()), later()).is_err(), "{missing:?}");
        assert!(missing.iter().all(|name| !there.join(name).exists() || *name == "checkpoints.log"), "{missing:?}");
    }
}

#[test]
fn connections_of_an_unclean_end_get_a_close_without_numbers() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    let (who, which) = (persona("demo"), rule("pypi"));
    let opened = |host: &str| {
        let record = Record { persona: Some(&who), rule: Some(&which), host: Some(host), ..Record::new(Kind::Open) };
        ledger.append(&record).expect("appended").seq()
    };
    let closed = |seq: u64| {
        let record = Record { opened: Some(seq), bytes_up: Some(1), ..Record::new(Kind::Close) };
        let _ = ledger.append(&record).expect("appended");
    };
    let (one, two, three) = (opened("one"), opened("two"), opened("three"));
    closed(two);
    // The segment is full now; the connections live on in the next.
    fill(&ledger, &clock, 14);
    ledger.maintain().expect("sealed");
    assert_eq!(files_with(&config.dir, ".zst").len(), 1);
    let four = opened("four");
    closed(three);
    let crash = copy(&config.dir);
    let after = small_segments(crash.path());
    let (ledger, recovery) = open(&after, &later());
    assert_eq!(recovery.unclean_closes, 2);
    drop(ledger);
    let unclean: Vec<_> =
        all_lines(&after.dir).into_iter().filter(|line| line.close_reason == Some(CloseReason::Unclean)).collect();
    assert_eq!(unclean.iter().map(|line| line.opened).collect::<Vec<_>>(), [Some(one), Some(four)]);
    for line in &unclean {
        assert_eq!((line.bytes_up, line.bytes_down, line.duration_ms), (None, None, None));
        assert_eq!((line.persona.as_ref(), line.rule.as_ref()), (Some(&who), Some(&which)));
    }
    let (ledger, recovery) = open(&after, &later());
    assert_eq!((recovery.unclean_closes, recovery.torn), (0, None), "once is enough");
    drop(ledger);
    assert_sound(&after.dir);
}

#[test]
fn a_seal_that_a_crash_broke_off_at_any_step_is_done_again() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 40);
    let unsealed = copy(&config.dir);
    ledger.maintain().expect("sealed");
    ledger.checkpoint().expect("signed");
    let sealed = copy(&config.dir);
    let name = |extension: &str| format!("00000000000000000001.{extension}");
    // What the first segment may look like: each step adds a file, the last takes the plain one.
    let steps: [&[&str]; 5] = [
        &["jsonl"],
        &["jsonl", "marks"],
        &["jsonl", "marks", "seal"],
        &["jsonl", "marks", "seal", "jsonl.zst.tmp"],
        &["jsonl", "marks", "seal", "jsonl.zst"],
    ];
    for files in steps {
        let crash = copy(&unsealed.path().join("ledger"));
        let there = crash.path().join("ledger");
        for log in ["checkpoint", "checkpoints.log"] {
            fs::copy(sealed.path().join("ledger").join(log), there.join(log)).expect("copied");
        }
        for extension in files.iter().filter(|extension| **extension != "jsonl") {
            let from = sealed.path().join("ledger").join(name(extension.trim_end_matches(".tmp")));
            fs::copy(from, there.join(name(extension))).expect("copied");
        }
        assert_sound(&there);
        let (ledger, recovery) = open(&small_segments(crash.path()), &later());
        assert!(recovery.unsealed > 0, "{files:?}");
        ledger.maintain().expect("sealed");
        assert_eq!(files_with(&there, ".jsonl").len(), 1, "{files:?}");
        assert!(files_with(&there, ".tmp").is_empty(), "{files:?}");
        drop(ledger);
        assert_sound(&there);
        assert_dense(&all_lines(&there));
    }
}

#[test]
fn a_checkpoint_log_torn_anywhere_is_cut_and_goes_on() {
    let crash = crashed(3, 0);
    let path = crash.path().join("ledger").join("checkpoints.log");
    let whole = fs::read(&path).expect("read");
    for cut in (0..whole.len()).step_by(11) {
        let copied = copy(&crash.path().join("ledger"));
        fs::write(copied.path().join("ledger").join("checkpoints.log"), &whole[..cut]).expect("cut");
        let (ledger, _) = open(&config(copied.path()), &later());
        deny(&ledger, "a").expect("appended");
        drop(ledger);
        assert_sound(&config(copied.path()).dir);
    }
}

#[test]
fn checkpoints_rolled_back_behind_a_sealed_segment_are_refused() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 5);
    ledger.checkpoint().expect("signed");
    let old = copy(&config.dir);
    fill(&ledger, &clock, 30);
    ledger.maintain().expect("sealed");
    drop(ledger);
    for name in ["checkpoint", "checkpoints.log"] {
        fs::copy(old.path().join("ledger").join(name), config.dir.join(name)).expect("rolled back");
    }
    let error = Ledger::open(&config, later()).expect_err("older than the seal");
    assert!(error.to_string().contains("are sealed"), "{error}");
}
