//! The ledger driven through its public surface, on real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::{
    Fault, FaultKind, Kind, Ledger, LedgerError, Line, Outcome, Reader, Record, Recovery, VerifyReport, verify,
};
use crate::config::{Durability, LedgerConfig};
use crate::domain::{ManualClock, PersonaId, RuleId, Timestamp};

mod append;
mod failure;
mod reading;
mod recover;
mod retain;
mod speed;
mod tamper;

/// A folder in memory where there is one: these tests sync a lot.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.expect("a folder")
}

fn config(dir: &Path) -> LedgerConfig {
    LedgerConfig {
        enable: true,
        required: true,
        dir: dir.join("ledger"),
        origin: "arw.test/egress".to_owned(),
        durability: Durability::Batch,
        sync_interval: Duration::from_millis(10),
        segment_bytes: 64 << 20,
        retention_days: 90,
        reserve_bytes: 0,
        record_query: false,
    }
}

/// A configuration under which a segment takes about a dozen of [`open_line`]s.
fn small_segments(dir: &Path) -> LedgerConfig {
    LedgerConfig { segment_bytes: 2_000, ..config(dir) }
}

fn start() -> Timestamp {
    Timestamp::parse("2026-11-22T10:00:00Z").expect("valid")
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(start()))
}

fn open(config: &LedgerConfig, clock: &Arc<ManualClock>) -> (Ledger, Recovery) {
    Ledger::open(config, clock.clone()).expect("opens")
}

fn persona(name: &str) -> PersonaId {
    PersonaId::parse(name).expect("valid")
}

fn rule(name: &str) -> RuleId {
    RuleId::parse(name).expect("valid")
}

/// A denial for `host`: one line that stands alone.
fn deny(ledger: &Ledger, host: &str) -> Result<u64, LedgerError> {
    let persona = persona("demo");
    let record = Record {
        persona: Some(&persona),
        host: Some(host),
        port: Some(443),
        outcome: Some(Outcome::Deny),
        code: Some(crate::domain::DenialCode::NotAllowlisted),
        ..Record::new(Kind::Deny)
    };
    ledger.append(&record).map(|receipt| receipt.seq())
}

fn fill(ledger: &Ledger, clock: &ManualClock, lines: usize) {
    for index in 0..lines {
        clock.advance(Duration::from_millis(7));
        deny(ledger, &format!("host-{index}.example")).expect("appended");
    }
}

/// What the folder looks like at this moment, as after a crash: nobody holds the copy.
fn copy(dir: &Path) -> TempDir {
    let target = folder();
    let to = target.path().join("ledger");
    fs::create_dir(&to).expect("made");
    for entry in fs::read_dir(dir).expect("listed") {
        let entry = entry.expect("listed");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    target
}

fn check(dir: &Path) -> VerifyReport {
    verify(dir, &mut |_| ()).expect("readable")
}

fn assert_sound(dir: &Path) -> VerifyReport {
    let report = check(dir);
    assert!(report.is_sound(), "{:#?}", report.faults);
    report
}

fn all_lines(dir: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    Reader::open(dir)
        .and_then(|reader| {
            reader.visit(1, |raw| {
                lines.push(raw.parse()?);
                Ok(std::ops::ControlFlow::Continue(()))
            })
        })
        .expect("readable");
    lines
}

fn assert_dense(lines: &[Line]) {
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line.seq, index as u64 + 1);
    }
    assert!(lines.is_sorted_by_key(|line| line.time));
}

fn files_with(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .expect("listed")
        .map(|entry| entry.expect("listed").path())
        .filter(|path| path.to_string_lossy().ends_with(extension))
        .collect();
    found.sort();
    found
}
