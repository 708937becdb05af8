//! What an attacker with the disk but without the key may try: each must be found, and named.

use super::*;
use crate::ledger::merkle::empty_root;
use crate::ledger::note::NoteSigner;
use crate::ledger::{Checkpoint, VerifyOptions, verify_with};

/// Sealed segments, an active one, and everything signed.
fn ledger_of(lines: usize) -> TempDir {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    for _ in 0..lines / 5 {
        fill(&ledger, &clock, 5);
        ledger.checkpoint().expect("signed");
    }
    ledger.maintain().expect("sealed");
    drop(ledger);
    assert_sound(&config.dir);
    dir
}

/// The text of a segment file, sealed or not.
fn text_of(path: &Path) -> String {
    let bytes = fs::read(path).expect("read");
    let bytes = if path.extension().is_some_and(|extension| extension == "zst") {
        zstd::decode_all(&bytes[..]).expect("zstd")
    } else {
        bytes
    };
    String::from_utf8(bytes).expect("ascii")
}

fn put_text(path: &Path, text: &str) {
    let bytes = if path.extension().is_some_and(|extension| extension == "zst") {
        zstd::encode_all(text.as_bytes(), 1).expect("zstd")
    } else {
        text.as_bytes().to_vec()
    };
    fs::write(path, bytes).expect("written");
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = text_of(path).lines().map(ToOwned::to_owned).collect();
    change(&mut lines);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    put_text(path, &text);
}

fn first_fault(dir: &Path) -> Fault {
    check(dir).faults.into_iter().next().expect("it must be found")
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = files_with(dir, ".jsonl.zst");
    files.extend(files_with(dir, ".jsonl"));
    files
}

/// First sequence number of a segment file.
fn first_of(path: &Path) -> u64 {
    path.file_name().expect("named").to_string_lossy()[..20].parse().expect("a number")
}

#[test]
fn a_changed_byte_in_any_line_is_found_and_the_line_is_named() {
    let sound = ledger_of(45);
    for (which, path) in segment_files(&sound.path().join("ledger")).iter().enumerate() {
        let count = text_of(path).lines().count();
        for index in 0..count {
            let copied = copy(&sound.path().join("ledger"));
            let there = segment_files(&copied.path().join("ledger"))[which].clone();
            edit(&there, |lines| lines[index] = lines[index].replace("\"port\":443", "\"port\":444"));
            let fault = first_fault(&copied.path().join("ledger"));
            assert_eq!(fault.kind, FaultKind::ChangedLine);
            assert_eq!(fault.place.file, there);
            assert_eq!(fault.place.line, Some(index as u64 + 1));
            assert_eq!(fault.place.seq, Some(first_of(&there) + index as u64));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_line_is_found() {
    let sound = ledger_of(10);
    let active = segment_files(&sound.path().join("ledger")).pop().expect("active");
    let bytes = fs::read(&active).expect("read");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&active, &changed).expect("written");
        assert!(!check(&sound.path().join("ledger")).is_sound(), "byte {at}");
    }
}

#[test]
fn removed_repeated_and_inserted_lines_are_named() {
    type Change = fn(&mut Vec<String>);
    let cases: [(Change, usize); 5] = [
        (|lines| drop(lines.remove(2)), 2),
        (|lines| lines.insert(3, lines[2].clone()), 3),
        (|lines| lines.swap(1, 2), 1),
        (|lines| lines.insert(2, String::new()), 2),
        (|lines| lines[2] = "x".repeat(200 << 10), 2),
    ];
    let sound = ledger_of(45);
    for (change, at) in cases {
        for which in [1, segment_files(&sound.path().join("ledger")).len() - 1] {
            let copied = copy(&sound.path().join("ledger"));
            let there = segment_files(&copied.path().join("ledger"))[which].clone();
            edit(&there, change);
            let fault = first_fault(&copied.path().join("ledger"));
            assert_eq!(fault.kind, FaultKind::WrongLine, "{fault:?}");
            assert_eq!(fault.place.file, there);
            assert_eq!(fault.place.line, Some(at as u64 + 1));
            assert_eq!(fault.place.seq, Some(first_of(&there) + at as u64));
        }
    }
}

#[test]
fn a_removed_line_is_found_even_when_the_rest_is_renumbered() {
    let sound = ledger_of(45);
    let active = segment_files(&sound.path().join("ledger")).pop().expect("active");
    let first = first_of(&active);
    edit(&active, |lines| {
        lines.remove(1);
        for (index, line) in lines.iter_mut().enumerate().skip(1) {
            let seq = first + index as u64;
            *line = line.replacen(&format!("\"seq\":{}", seq + 1), &format!("\"seq\":{seq}"), 1);
        }
    });
    let fault = first_fault(&sound.path().join("ledger"));
    assert_eq!((fault.place.line, fault.place.seq), (Some(2), Some(first + 1)), "{fault:?}");
}

#[test]
fn a_cut_tail_is_found_at_a_line_and_inside_one() {
    let sound = ledger_of(45);
    let active = segment_files(&sound.path().join("ledger")).pop().expect("active");
    let text = text_of(&active);
    let count = text.lines().count() as u64;
    let last = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
    for cut in [last, last + 5, text.len() - 1] {
        fs::write(&active, &text[..cut]).expect("cut");
        let fault = first_fault(&sound.path().join("ledger"));
        assert_eq!(fault.kind, FaultKind::CutTail, "{fault:?}");
        assert_eq!((fault.place.file, fault.place.line), (active.clone(), Some(count)));
        assert_eq!(fault.place.seq, Some(first_of(&active) + count - 1));
    }
    fs::remove_file(&active).expect("removed");
    let fault = first_fault(&sound.path().join("ledger"));
    assert_eq!((fault.kind, fault.place.seq), (FaultKind::CutTail, Some(first_of(&active))));
}

#[test]
fn swapped_missing_and_emptied_segments_are_named() {
    let sound = ledger_of(60);
    let files = segment_files(&sound.path().join("ledger"));

    let copied = copy(&sound.path().join("ledger"));
    let there = segment_files(&copied.path().join("ledger"));
    fs::copy(&files[1], &there[2]).expect("swapped");
    fs::copy(&files[2], &there[1]).expect("swapped");
    let fault = first_fault(&copied.path().join("ledger"));
    assert_eq!((fault.kind, fault.place.file, fault.place.line), (FaultKind::WrongLine, there[1].clone(), Some(1)));

    let copied = copy(&sound.path().join("ledger"));
    let there = segment_files(&copied.path().join("ledger"));
    for extension in ["seal", "marks", "jsonl.zst"] {
        let name = format!("{:020}.{extension}", first_of(&there[1]));
        fs::remove_file(copied.path().join("ledger").join(name)).expect("removed");
    }
    let fault = first_fault(&copied.path().join("ledger"));
    assert_eq!((fault.kind, fault.place.seq), (FaultKind::WrongSegment, Some(first_of(&there[1]))));

    let copied = copy(&sound.path().join("ledger"));
    let there = segment_files(&copied.path().join("ledger"));
    fs::remove_file(&there[1]).expect("removed");
    let fault = first_fault(&copied.path().join("ledger"));
    assert_eq!((fault.kind, fault.place.file), (FaultKind::WrongSegment, there[1].clone()));

    let copied = copy(&sound.path().join("ledger"));
    let there = segment_files(&copied.path().join("ledger"));
    edit(&there[1], |lines| drop(lines.pop()));
    let fault = first_fault(&copied.path().join("ledger"));
    assert_eq!((fault.kind, fault.place.file), (FaultKind::CutTail, there[1].clone()));

    let copied = copy(&sound.path().join("ledger"));
    let there = segment_files(&copied.path().join("ledger"));
    fs::write(&there[1], b"not zstd").expect("written");
    let fault = first_fault(&copied.path().join("ledger"));
    assert_eq!((fault.kind, fault.place.file), (FaultKind::Unreadable, there[1].clone()));
}

#[test]
fn a_plain_file_planted_beside_a_sealed_segment_is_found() {
    let sound = ledger_of(45);
    let sealed = segment_files(&sound.path().join("ledger"))[0].clone();
    let text = text_of(&sealed).replace("host-1.example", "host-0.example");
    fs::write(sealed.with_extension(""), text).expect("planted");
    let fault = first_fault(&sound.path().join("ledger"));
    assert_eq!((fault.kind, fault.place.line), (FaultKind::ChangedLine, Some(2)));
}

#[test]
fn changed_forged_and_missing_checkpoints_are_found() {
    let sound = ledger_of(20);
    let dir = sound.path().join("ledger");
    let latest = dir.join("checkpoint");
    let note = fs::read_to_string(&latest).expect("read");
    let forger = NoteSigner::from_seed("arw.test/egress", &[9; 32]).expect("a good name");
    let forged = Checkpoint::sign(&forger, 20, empty_root()).note;
    let renumbered = note.replacen("\n20\n", "\n15\n", 1);
    for bad in [forged.as_str(), &renumbered, &note[..note.len() - 3], "", "\n"] {
        fs::write(&latest, bad).expect("written");
        let fault = first_fault(&dir);
        assert_eq!((fault.kind, fault.place.file), (FaultKind::BadCheckpoint, latest.clone()), "{bad:?}");
    }
    fs::remove_file(&latest).expect("removed");
    assert_eq!(first_fault(&dir).kind, FaultKind::BadCheckpoint);
    fs::write(&latest, &note).expect("restored");
    let log = dir.join("checkpoints.log");
    let text = fs::read_to_string(&log).expect("read");
    fs::write(&log, text.replacen("\n5\n", "\n6\n", 1)).expect("written");
    assert_eq!(first_fault(&dir).place.file, log);
}

#[test]
fn a_forged_or_replayed_segment_record_is_found() {
    let sound = ledger_of(60);
    let dir = sound.path().join("ledger");
    let seals = files_with(&dir, ".seal");
    let (first, second) = (fs::read(&seals[0]).expect("read"), fs::read(&seals[1]).expect("read"));
    fs::write(&seals[0], &second).expect("written");
    assert_eq!(first_fault(&dir).kind, FaultKind::BadSegmentRecord);
    let changed = String::from_utf8(first.clone()).expect("text").replacen("\"bytes\":", "\"bytes\":1", 1);
    fs::write(&seals[0], changed).expect("written");
    assert_eq!(first_fault(&dir).kind, FaultKind::BadSegmentRecord);
    // Passing a live segment off as one that retention took.
    fs::write(&seals[0], &first).expect("restored");
    assert_sound(&dir);
    fs::write(seals[0].with_extension("removed"), &first).expect("written");
    fs::remove_file(segment_files(&dir)[0].clone()).expect("removed");
    fs::remove_file(&seals[0]).expect("removed");
    let fault = first_fault(&dir);
    assert_eq!((fault.kind, fault.place.seq), (FaultKind::EarlyRemoval, Some(1)));
}

#[test]
fn a_ledger_rolled_back_whole_is_found_with_a_checkpoint_that_was_kept() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 10);
    ledger.checkpoint().expect("signed");
    let old = copy(&config.dir);
    fill(&ledger, &clock, 10);
    let kept = ledger.checkpoint().expect("signed").note;
    let old_dir = old.path().join("ledger");
    assert_sound(&old_dir);
    let options = VerifyOptions { key: None, checkpoints: vec![kept.clone()] };
    let report = verify_with(&old_dir, &options, &mut |_| ()).expect("readable");
    assert_eq!(report.faults[0].kind, FaultKind::CutTail);
    // And rewritten from there with the stolen key: another tree of the same size.
    let (forked, _) = open(&super::config(old.path()), &clock);
    fill(&forked, &clock, 9);
    deny(&forked, "another.example").expect("appended");
    drop(forked);
    assert_sound(&old_dir);
    let report = verify_with(&old_dir, &options, &mut |_| ()).expect("readable");
    assert_eq!(report.faults[0].kind, FaultKind::ForkedCheckpoints);
}

#[test]
fn a_swapped_public_key_does_not_help_against_one_that_was_kept() {
    let sound = ledger_of(10);
    let dir = sound.path().join("ledger");
    let kept = crate::ledger::verify::load_public_key(&dir).expect("read");
    let forger = NoteSigner::from_seed("arw.test/egress", &[9; 32]).expect("a good name");
    fs::write(dir.join("ledger.pub"), forger.verifier().to_string()).expect("written");
    assert!(!check(&dir).is_sound());
    let options = VerifyOptions { key: Some(kept), checkpoints: Vec::new() };
    assert!(verify_with(&dir, &options, &mut |_| ()).expect("readable").is_sound());
}
