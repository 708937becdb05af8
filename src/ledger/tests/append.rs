//! Appending: order, wholeness, time, waiting for a sync, and being off.

use std::collections::BTreeSet;
use std::thread;

use super::*;
use crate::domain::Clock;

#[test]
fn a_line_is_in_the_file_when_append_returns() {
    let dir = folder();
    let (ledger, recovery) = open(&config(dir.path()), &clock());
    assert!(recovery.created);
    assert_eq!(deny(&ledger, "a.example").expect("appended"), 1);
    let lines = all_lines(&config(dir.path()).dir);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].host.as_deref(), Some("a.example"));
    assert_eq!(lines[0].time, start());
}

#[test]
fn appends_from_many_threads_keep_numbers_dense_and_lines_whole() {
    const THREADS: usize = 8;
    const EACH: usize = 400;
    let dir = folder();
    let config = LedgerConfig { segment_bytes: 20_000, ..config(dir.path()) };
    let (ledger, _) = open(&config, &clock());
    let mut seen = BTreeSet::new();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..THREADS)
            .map(|id| {
                let ledger = ledger.clone();
                scope.spawn(move || {
                    let host = format!("{}.example", "x".repeat(id * 40 + 1));
                    (0..EACH).map(|_| deny(&ledger, &host).expect("appended")).collect::<Vec<_>>()
                })
            })
            .collect();
        for handle in handles {
            let numbers = handle.join().expect("no panic");
            assert!(numbers.is_sorted(), "one thread sees its own numbers rise");
            seen.extend(numbers);
        }
    });
    assert_eq!(seen, (1..=(THREADS * EACH) as u64).collect());
    assert_eq!(ledger.status().last_seq, (THREADS * EACH) as u64);
    ledger.shutdown().expect("ends");
    let report = assert_sound(&config.dir);
    assert_eq!(report.signed_size, (THREADS * EACH) as u64);
    assert_dense(&all_lines(&config.dir));
}

#[test]
fn a_clock_that_goes_back_stops_time_and_is_noted_once_per_step() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    deny(&ledger, "a").expect("appended");
    clock.set(Timestamp::from_unix_micros(start().unix_micros() - 5_000_000));
    deny(&ledger, "b").expect("appended");
    deny(&ledger, "c").expect("appended");
    clock.advance(Duration::from_secs(2));
    deny(&ledger, "d").expect("appended");
    clock.set(Timestamp::from_unix_micros(clock.now().unix_micros() - 1));
    deny(&ledger, "e").expect("appended");
    clock.advance(Duration::from_secs(60));
    deny(&ledger, "f").expect("appended");
    let lines = all_lines(&config.dir);
    assert_dense(&lines);
    let notes: Vec<_> = lines.iter().filter(|line| line.kind == Kind::Note).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].detail.as_deref().is_some_and(|text| text.contains("5000000 microseconds")));
    assert_eq!(lines[6].time, start(), "time stands still");
    assert_eq!(lines.last().map(|line| line.time), Some(clock.now()));
}

#[test]
fn time_does_not_go_back_over_a_restart_either() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    deny(&ledger, "a").expect("appended");
    drop(ledger);
    clock.set(Timestamp::from_unix_micros(0));
    let (ledger, _) = open(&config, &clock);
    deny(&ledger, "b").expect("appended");
    let lines = all_lines(&config.dir);
    assert_dense(&lines);
    assert_eq!(lines.len(), 3, "the step is noted");
}

#[test]
fn strict_waits_until_a_sync_covers_the_line() {
    let dir = folder();
    let config = LedgerConfig {
        durability: Durability::Strict,
        // So long that only the waiters' own bell can wake the sync.
        sync_interval: Duration::from_secs(3_600),
        ..config(dir.path())
    };
    let (ledger, _) = open(&config, &clock());
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("starts");
    executor.block_on(async {
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    let receipt = ledger.record(&Record::new(Kind::Deny)).await.expect("recorded");
                    let synced = ledger.shared().durable.borrow().synced;
                    assert!(synced >= receipt.seq());
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    let status = ledger.status();
    assert_eq!((status.last_seq, status.unsynced_lines), (64, 0));
    assert!(status.syncs_total >= 1);
}

#[test]
fn watchers_see_the_last_number() {
    let dir = folder();
    let (ledger, _) = open(&config(dir.path()), &clock());
    deny(&ledger, "a").expect("appended");
    let mut watch = ledger.watch();
    assert_eq!(*watch.borrow_and_update(), 1);
    deny(&ledger, "b").expect("appended");
    assert!(watch.has_changed().expect("alive"));
    assert_eq!(*watch.borrow_and_update(), 2);
}

#[test]
fn a_ledger_that_is_off_counts_and_writes_nothing() {
    let dir = folder();
    let config = LedgerConfig { enable: false, ..config(dir.path()) };
    let (ledger, recovery) = open(&config, &clock());
    assert_eq!(recovery, Recovery::default());
    assert_eq!(deny(&ledger, "a").expect("counted"), 1);
    assert_eq!(deny(&ledger, "b").expect("counted"), 2);
    let status = ledger.status();
    assert!(!status.enabled);
    assert_eq!(status.last_seq, 2);
    assert!(ledger.sums(1).expect("empty") == crate::ledger::Sums::default());
    assert!(!config.dir.exists());
}

#[test]
fn only_one_process_has_a_ledger_and_the_next_gets_it_after_the_end() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    let second = Ledger::open(&config, clock.clone()).expect_err("in use");
    assert!(matches!(second, LedgerError::InUse(_)), "{second}");
    let other_handle = ledger.clone();
    ledger.shutdown().expect("ends");
    assert!(matches!(deny(&other_handle, "a"), Err(LedgerError::Closed)));
    let (_ledger, recovery) = open(&config, &clock);
    assert!(!recovery.created);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let dir = folder();
    for bad in [
        LedgerConfig { retention_days: 89, ..config(dir.path()) },
        LedgerConfig { segment_bytes: 0, ..config(dir.path()) },
        LedgerConfig { sync_interval: Duration::ZERO, ..config(dir.path()) },
        LedgerConfig { origin: "a b".to_owned(), ..config(dir.path()) },
    ] {
        let error = Ledger::open(&bad, clock()).expect_err("refused");
        assert!(matches!(error, LedgerError::Setting { .. } | LedgerError::Key { .. }), "{error}");
    }
}

#[test]
fn full_segments_are_sealed_and_everything_is_read_across_them() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 60);
    ledger.maintain().expect("sealed");
    assert!(files_with(&config.dir, ".jsonl.zst").len() >= 4);
    assert_eq!(files_with(&config.dir, ".jsonl").len(), 1);
    assert_dense(&all_lines(&config.dir));
    assert_eq!(all_lines(&config.dir).len(), 60);
    assert_sound(&config.dir);
    drop(ledger);
    let (ledger, recovery) = open(&config, &clock);
    assert_eq!((recovery.last_seq, recovery.unsealed), (60, 0));
    fill(&ledger, &clock, 30);
    drop(ledger);
    let report = assert_sound(&config.dir);
    assert_eq!((report.lines, report.signed_size, report.unsigned_lines), (90, 90, 0));
}

#[test]
fn a_size_is_signed_once() {
    let dir = folder();
    let (ledger, _) = open(&config(dir.path()), &clock());
    deny(&ledger, "a").expect("appended");
    let first = ledger.checkpoint().expect("signed");
    assert_eq!(first.size, 1);
    assert_eq!(ledger.checkpoint().expect("signed"), first);
    assert_eq!(ledger.status().signed_size, Some(1));
    assert_eq!(ledger.status().root, first.root);
}
