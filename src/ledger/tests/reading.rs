//! Proofs, queries, statistics, following and exports.

use std::process::Command;

use super::*;
use crate::domain::{ClientAddr, CloseReason, DenialCode, RuntimeId};
use crate::ledger::{Export, Filter, Follower, Format, ProofFault, RuleSums, leaf_hash, prove, prove_consistency};

fn mixed(config: &LedgerConfig, clock: &Arc<ManualClock>) -> Ledger {
    let (ledger, _) = open(config, clock);
    for round in 0..12_u64 {
        clock.advance(Duration::from_secs(60));
        let who = persona(if round % 3 == 0 { "alpha" } else { "beta" });
        let (pypi, host) = (rule("pypi"), format!("h{}.pypi.example", round % 4));
        let opened = ledger
            .append(&Record {
                persona: Some(&who),
                runtime: (round % 2 == 0).then_some("ocr"),
                client: Some(ClientAddr::Tcp(([127, 0, 0, 1], 4000 + u16::try_from(round).expect("small")).into())),
                host: Some(&host),
                port: Some(443),
                outcome: Some(Outcome::Allow),
                rule: Some(&pypi),
                ..Record::new(Kind::Open)
            })
            .expect("appended")
            .seq();
        let _ = ledger
            .append(&Record {
                persona: Some(&who),
                host: Some(&host),
                opened: Some(opened),
                bytes_up: Some(10),
                bytes_down: Some(100 + round),
                close_reason: Some(CloseReason::Completed),
                ..Record::new(Kind::Close)
            })
            .expect("appended");
        deny(&ledger, "=evil.example").expect("appended");
    }
    ledger.maintain().expect("sealed");
    ledger
}

#[test]
fn every_line_is_proved_with_nothing_but_the_public_key() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let ledger = mixed(&config, &clock);
    deny(&ledger, "not-yet-signed.example").expect("appended");
    let key = crate::ledger::verify::load_public_key(&config.dir).expect("read");
    let signed = crate::ledger::checkpoint::latest(&config.dir, &key).expect("read").expect("there").size;
    assert!(matches!(prove(&config.dir, signed + 1), Err(LedgerError::NoLine { .. })));
    assert!(matches!(prove(&config.dir, 0), Err(LedgerError::NoLine { .. })));
    ledger.checkpoint().expect("signed");
    for line in all_lines(&config.dir) {
        let proof = prove(&config.dir, line.seq).expect("proved");
        assert_eq!(proof.check(&key).expect("it proves").size, 37);
        let other = crate::ledger::Proof { leaf_index: line.seq % 37, ..proof.clone() };
        assert_eq!(other.check(&key), Err(ProofFault::Numbers));
    }
}

#[test]
fn every_older_checkpoint_is_proved_to_be_the_past() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    let mut notes = vec![ledger.checkpoint().expect("signed").note];
    for _ in 0..25 {
        fill(&ledger, &clock, 2);
        notes.push(ledger.checkpoint().expect("signed").note);
    }
    ledger.maintain().expect("sealed");
    let key = crate::ledger::verify::load_public_key(&config.dir).expect("read");
    for note in &notes {
        let proof = prove_consistency(&config.dir, note).expect("proved");
        proof.check(&key).expect("it proves");
    }
}

#[test]
fn the_python_verifier_agrees_and_finds_forgeries() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP: no python3");
        return;
    }
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    drop(mixed(&config, &clock));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify_proof.py");
    let path = dir.path().join("proof.json");
    let run = |proof: &crate::ledger::Proof| {
        fs::write(&path, serde_json::to_vec(proof).expect("plain data")).expect("written");
        let output = Command::new("python3").arg(script).arg(&path).arg(config.dir.join("ledger.pub")).output();
        let output = output.expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let sound = prove(&config.dir, 5).expect("proved");
    assert_eq!(run(&sound).0, Some(0), "{:?}", run(&sound));
    assert!(sound.line.contains("beta"));
    let changed = crate::ledger::Proof { line: sound.line.replace("beta", "evil"), ..sound.clone() };
    assert_eq!(run(&changed).0, Some(1));
    let moved = crate::ledger::Proof { leaf_index: 5, seq: 6, ..sound.clone() };
    assert_eq!(run(&moved).0, Some(1));
    let shorter = crate::ledger::Proof { path: sound.path[1..].to_vec(), ..sound.clone() };
    assert_eq!(run(&shorter).0, Some(1));
    let mut signature = sound.checkpoint.clone().into_bytes();
    let at = signature.len() - 10;
    signature[at] = if signature[at] == b'A' { b'B' } else { b'A' };
    let checkpoint = String::from_utf8(signature).expect("text");
    assert_eq!(run(&crate::ledger::Proof { checkpoint, ..sound }).0, Some(1));
}

#[test]
fn queries_find_what_matches_across_segments() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let ledger = mixed(&config, &clock);
    let reader = ledger.reader().expect("readable");
    let all = all_lines(&config.dir);
    let filters = [
        Filter::default(),
        Filter { persona: Some(persona("alpha")), ..Filter::default() },
        Filter { runtime: RuntimeId::parse("ocr").ok(), ..Filter::default() },
        Filter { runtime: RuntimeId::parse("oc").ok(), ..Filter::default() },
        Filter { host: Some("h1.pypi.example".to_owned()), ..Filter::default() },
        Filter { host: Some("*.pypi.example".to_owned()), kind: Some(Kind::Open), ..Filter::default() },
        Filter { host: Some("*.h1.pypi.example".to_owned()), ..Filter::default() },
        Filter { code: Some(DenialCode::NotAllowlisted), ..Filter::default() },
        Filter { code: Some(DenialCode::Ech), ..Filter::default() },
        Filter { decision: Some(Outcome::Allow), rule: Some(rule("pypi")), ..Filter::default() },
        Filter { since: Some(all[20].time), until: Some(all[30].time), ..Filter::default() },
        Filter { from_seq: Some(7), to_seq: Some(19), ..Filter::default() },
    ];
    for filter in filters {
        let expected: Vec<_> = all.iter().filter(|line| filter.matches(line)).cloned().collect();
        assert_eq!(reader.query(&filter, usize::MAX).expect("read"), expected, "{filter:?}");
        let first = &expected[..expected.len().min(3)];
        assert_eq!(reader.query(&filter, 3).expect("read"), first, "{filter:?}");
        let last = &expected[expected.len().saturating_sub(5)..];
        assert_eq!(reader.latest(&filter, 5).expect("read"), last, "{filter:?}");
    }
    assert_eq!(
        reader.query(&Filter { from_seq: Some(7), to_seq: Some(19), ..Filter::default() }, 99).expect("read").len(),
        13
    );
}

#[test]
fn statistics_count_decisions_and_bytes() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let ledger = mixed(&config, &clock);
    let stats = ledger.reader().and_then(|reader| reader.stats(&Filter::default())).expect("read");
    assert_eq!((stats.lines, stats.first_seq, stats.last_seq), (36, Some(1), Some(36)));
    assert_eq!((stats.personas["alpha"].opened, stats.personas["beta"].opened), (4, 8));
    assert_eq!(stats.personas["demo"].denied, 12);
    assert_eq!(stats.codes["not_allowlisted"], 12);
    assert_eq!(stats.hosts["h1.pypi.example"], 3);
    assert_eq!((stats.bytes_up, stats.bytes_down), (120, 1_200 + 66));
}

#[test]
fn budgets_are_summed_by_persona_and_rule() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let ledger = mixed(&config, &clock);
    let sums = ledger.sums(1).expect("read").by_rule;
    // Rounds 0, 3, 6 and 9; the closes name no rule, so their bytes come through their opens.
    let alpha = RuleSums { uses: 4, bytes: 4 * 110 + 18 };
    assert_eq!(sums[&(persona("alpha"), rule("pypi"))], alpha);
    assert_eq!(sums.len(), 2);
    let later = ledger.sums(35).expect("read").by_rule;
    assert!(later.is_empty(), "the open of the last close came before");
}

#[test]
fn a_follower_gives_every_line_once_over_seals_and_restarts() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let (mut ledger, _) = open(&config, &clock);
    let mut follower = Follower::new(&config.dir, 1);
    let mut seen = Vec::new();
    for round in 0..20 {
        fill(&ledger, &clock, 1 + round % 7);
        if round % 3 == 0 {
            ledger.maintain().expect("sealed");
        }
        if round % 5 == 4 {
            drop(ledger);
            ledger = open(&config, &clock).0;
        }
        if round % 2 == 0 {
            seen.extend(follower.poll(4).expect("read"));
        }
    }
    loop {
        let more = follower.poll(7).expect("read");
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    assert_dense(&seen);
    assert_eq!(seen.len() as u64, ledger.status().last_seq);
    assert!(follower.poll(10).expect("read").is_empty());
    deny(&ledger, "one.more").expect("appended");
    assert_eq!(follower.poll(10).expect("read").len(), 1);
    assert_eq!(Follower::new(&config.dir, 40).poll(1).expect("read")[0].seq, 40);
}

#[test]
fn a_line_is_not_read_before_it_is_whole() {
    let dir = folder();
    let (config, clock) = (config(dir.path()), clock());
    let (ledger, _) = open(&config, &clock);
    fill(&ledger, &clock, 2);
    let crash = copy(&config.dir);
    let path = files_with(&crash.path().join("ledger"), ".jsonl").pop().expect("there");
    let text = fs::read(&path).expect("read");
    fs::write(&path, &text[..text.len() - 1]).expect("cut");
    let there = crash.path().join("ledger");
    assert_eq!(all_lines(&there).len(), 1);
    let mut follower = Follower::new(&there, 1);
    assert_eq!(follower.poll(10).expect("read").len(), 1);
    fs::write(&path, &text).expect("completed");
    assert_eq!(follower.poll(10).expect("read").len(), 1);
}

fn export(ledger: &Ledger, format: Format, raw: bool) -> String {
    let mut out = Vec::new();
    let export = Export { filter: Filter::default(), format, raw };
    let count = export.write(&ledger.reader().expect("readable"), &mut out).expect("written");
    assert_eq!(count, 36);
    String::from_utf8(out).expect("text")
}

#[test]
fn exports_are_anonymous_unless_raw_is_asked_for() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let ledger = mixed(&config, &clock);
    for format in [Format::Csv, Format::Jsonl, Format::Ocsf] {
        let text = export(&ledger, format, false);
        for name in ["alpha", "beta", "demo", "pypi", "evil", "127.0.0.1"] {
            assert!(!text.contains(name), "{name} in {format:?}");
        }
        assert_eq!(text, export(&ledger, format, false), "the same names every time");
        assert!(export(&ledger, format, true).contains("alpha"));
    }
}

#[test]
fn raw_json_lines_are_the_very_bytes_that_proofs_are_about() {
    let dir = folder();
    let (config, clock) = (small_segments(dir.path()), clock());
    let ledger = mixed(&config, &clock);
    let text = export(&ledger, Format::Jsonl, true);
    ledger.checkpoint().expect("signed");
    for (index, line) in text.lines().enumerate() {
        let proof = prove(&config.dir, index as u64 + 1).expect("proved");
        assert_eq!(leaf_hash(line.as_bytes()), leaf_hash(proof.line.as_bytes()));
    }
}

#[test]
fn a_spreadsheet_does_not_run_what_a_client_sent() {
    let dir = folder();
    let ledger = mixed(&small_segments(dir.path()), &clock());
    let text = export(&ledger, Format::Csv, true);
    assert!(text.starts_with("seq,time,kind,persona,"));
    assert!(text.contains(",'=evil.example,") && !text.contains(",=evil"));
}

#[test]
fn ocsf_events_are_network_activity() {
    let dir = folder();
    let ledger = mixed(&small_segments(dir.path()), &clock());
    let text = export(&ledger, Format::Ocsf, true);
    let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events[0]["class_uid"], 4001);
    assert_eq!(events[0]["type_uid"], 400_101);
    assert_eq!(events[0]["src_endpoint"]["ip"], "127.0.0.1");
    assert_eq!(events[1]["traffic"]["bytes_out"], 10);
    assert_eq!(events[2]["disposition_id"], 2);
    assert_eq!(events[2]["status_code"], "not_allowlisted");
}
