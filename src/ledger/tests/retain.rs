//! Letting go: only what is sealed and old enough, and the tree stays whole.

use super::*;
use crate::ledger::{ProofFault, prove, prove_consistency};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn old_segments_go_and_what_is_left_still_verifies_and_proves() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 37);
    let inside = ledger.checkpoint().expect("signed").note;
    ledger.maintain().expect("sealed");
    clock.advance(60 * DAY);
    fill(&ledger, &clock, 30);
    let kept = ledger.checkpoint().expect("signed").note;
    ledger.maintain().expect("sealed");
    let before = files_with(&config.dir, ".zst");
    clock.advance(29 * DAY);
    ledger.maintain().expect("nothing to do");
    assert_eq!(files_with(&config.dir, ".zst"), before, "89 days are not 90");

    clock.advance(DAY + Duration::from_secs(1));
    ledger.maintain().expect("removed");
    let removed = files_with(&config.dir, ".removed");
    assert!(removed.len() >= 2 && removed.len() < before.len(), "{removed:?}");
    let report = assert_sound(&config.dir);
    assert_eq!(report.removed_segments, removed.len() as u64);
    assert_eq!(report.removed_lines + report.lines, ledger.status().last_seq);

    let last_removed = report.removed_lines;
    let first_kept = prove(&config.dir, last_removed + 1).expect("proved");
    let key = crate::ledger::verify::load_public_key(&config.dir).expect("read");
    first_kept.check(&key).expect("it proves");
    assert!(matches!(prove(&config.dir, 1), Err(LedgerError::NoLine { .. })));
    prove_consistency(&config.dir, &kept).expect("the past is proved").check(&key).expect("it proves");
    if !config.dir.join(format!("{:020}.removed", 38)).exists() {
        // The head lies inside a removed segment: its tree is gone, and that is said.
        let result = prove_consistency(&config.dir, &inside);
        assert!(result.is_ok() || matches!(result, Err(LedgerError::NoLine { .. })), "{result:?}");
    }
    let notes = all_removal_notes(&config.dir);
    assert_eq!(notes, removed.len(), "each removal is a line");

    drop(ledger);
    let (ledger, recovery) = open(&config, &clock);
    assert!(recovery.torn.is_none());
    fill(&ledger, &clock, 3);
    drop(ledger);
    assert_sound(&config.dir);

    // A proof of another line does not become one of this line.
    let mut proof = prove(&config.dir, last_removed + 2).expect("proved");
    proof.line = proof.line.replace("demo", "evil");
    assert_eq!(proof.check(&key), Err(ProofFault::Root));
}

fn all_removal_notes(dir: &Path) -> usize {
    let mut notes = 0;
    Reader::open(dir)
        .and_then(|reader| {
            reader.visit(1, |raw| {
                let line = raw.parse()?;
                notes += usize::from(line.detail.is_some_and(|text| text.starts_with("retention removes")));
                Ok(std::ops::ControlFlow::Continue(()))
            })
        })
        .expect("readable");
    notes
}

#[test]
fn a_removal_that_a_crash_broke_off_is_finished_at_the_next_start() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 30);
    ledger.maintain().expect("sealed");
    let with_lines = copy(&config.dir);
    clock.advance(91 * DAY);
    deny(&ledger, "now.example").expect("appended");
    ledger.maintain().expect("removed");
    drop(ledger);
    for file in files_with(&with_lines.path().join("ledger"), ".zst") {
        fs::copy(&file, config.dir.join(file.file_name().expect("named"))).expect("put back");
    }
    assert_sound(&config.dir);
    let (ledger, _) = open(&config, &clock);
    assert!(files_with(&config.dir, ".zst").is_empty());
    drop(ledger);
    assert_sound(&config.dir);
}

#[test]
fn the_active_segment_stays_whatever_its_age() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 5);
    clock.advance(4_000 * DAY);
    ledger.maintain().expect("nothing to do");
    assert_eq!(all_lines(&config.dir).len(), 5);
}
