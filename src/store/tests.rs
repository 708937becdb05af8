//! What is acknowledged is there after any end; what cannot be read is refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::*;
use crate::domain::{AutomationId, Currency, LeaseId, Money, PersonaId, RuntimeId, Timestamp};

fn row(number: i64) -> LeaseRow {
    LeaseRow {
        id: LeaseId::parse(&format!("lease-{number}")).expect("an id"),
        capability: "egress:host:api.example.com".to_owned(),
        subject: PersonaId::parse("demo").expect("an id"),
        issuer: "uid:0".to_owned(),
        justification: "incident 7".to_owned(),
        created_at: Timestamp::from_unix_micros(number),
        expires_at: Timestamp::from_unix_micros(number + 1_000),
        max_uses: Some(3),
        max_bytes: None,
        ended: None,
    }
}

fn entry(id: &str) -> Entry {
    Entry { id: id.to_owned(), body: "{}".to_owned() }
}

fn opened(folder: &Path) -> Connection {
    Connection::open(folder.join(FILE)).expect("opens")
}

fn fault(folder: &Path) -> StoreFault {
    Store::open(folder).map(drop).expect_err("refused")
}

#[tokio::test]
async fn what_was_acknowledged_is_read_back_by_the_next_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    for number in 0..3 {
        store.leases().add(row(number), entry(&format!("add-{number}"))).await.expect("added");
    }
    let at = Timestamp::from_unix_micros(77);
    store.leases().renew(row(1).id, at, entry("renew")).await.expect("renewed");
    let end = vec![(row(2).id, at, "revoked")];
    store.leases().end(end.clone(), vec![entry("end")]).await.expect("ended");
    store.leases().end(vec![(row(2).id, at, "expired")], vec![entry("end")]).await.expect("ended before");
    drop(store);

    let store = Store::open(folder.path()).expect("opens again");
    let mut renewed = row(1);
    renewed.expires_at = at;
    assert_eq!(store.leases().in_force().await.expect("read"), [row(0), renewed]);
    let ended = store.leases().ended(10).await.expect("read");
    assert_eq!(ended, [LeaseRow { ended: Some((at, "revoked".to_owned())), ..row(2) }], "the first end stays");
    let waiting = store.outbox().oldest(10).await.expect("read");
    let ids: Vec<&str> = waiting.iter().map(|(_, entry)| entry.id.as_str()).collect();
    assert_eq!(ids, ["add-0", "add-1", "add-2", "renew", "end"], "each entry once, in order");
    store.outbox().remove_through(waiting[3].0).await.expect("removed");
    assert_eq!(store.outbox().oldest(10).await.expect("read").len(), 1);
    assert_eq!(store.leases().forget_before(Timestamp::from_unix_micros(78)).await.expect("forgot"), 1);
    assert_eq!(store.leases().ended(10).await.expect("read"), []);
}

#[tokio::test]
async fn a_change_and_its_audit_entry_are_made_together_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    store.leases().add(row(0), entry("a")).await.expect("added");
    assert!(store.leases().add(row(0), entry("b")).await.is_err(), "the id is taken");
    assert_eq!(store.outbox().oldest(10).await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_full_file_is_said_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(Store::open(folder.path()).expect("made"));
    let connection = super::open::open(folder.path()).expect("opens");
    connection.pragma_update(None, "max_page_count", 12).expect("bounded");
    let store = Store::own(connection, folder.path()).expect("started");
    let mut added = 0;
    let full = loop {
        let mut row = row(added);
        row.justification = "x".repeat(1_000);
        match store.leases().add(row, entry(&format!("add-{added}"))).await {
            Ok(()) => added += 1,
            Err(fault) => break fault,
        }
        assert!(added < 1_000, "it never was full");
    };
    assert_eq!(full.code(), "store_full", "{full}");
    drop(store);
    let store = Store::open(folder.path()).expect("opens");
    let kept = store.leases().in_force().await.expect("read");
    assert_eq!(i64::try_from(kept.len()).expect("few"), added);
    assert_eq!(store.outbox().oldest(1_000).await.expect("read").len(), kept.len());
    store.leases().add(row(added + 1), entry("later")).await.expect("there is room again");
}

#[test]
fn the_files_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(FILE), "").expect("written");
    std::fs::set_permissions(folder.path().join(FILE), std::fs::Permissions::from_mode(0o644)).expect("ours");
    let _store = Store::open(folder.path()).expect("an empty file is a new state");
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("read").map(|entry| entry.expect("read")).collect();
    assert!(names.len() >= 2, "the log lies beside it: {names:?}");
    for name in names {
        let mode = name.metadata().expect("read").mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", name.file_name());
    }
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let _store = Store::open(folder.path()).expect("opens");
    assert!(matches!(fault(folder.path()), StoreFault::InUse(_)));
}

#[test]
fn the_file_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(Store::open(folder.path()).expect("made"));
    opened(folder.path()).pragma_update(None, "user_version", 99).expect("set");
    let fault = fault(folder.path());
    assert_eq!(fault.code(), "store_newer");
    assert!(fault.to_string().contains(&format!("schema 99 and this version knows {}", schema::KNOWN)), "{fault}");
}

#[test]
fn what_is_not_ours_or_is_broken_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    opened(folder.path()).execute_batch("CREATE TABLE theirs (a)").expect("made");
    assert!(matches!(fault(folder.path()), StoreFault::Foreign { .. }));

    std::fs::write(&path, "x".repeat(8_192)).expect("written");
    assert!(matches!(fault(folder.path()), StoreFault::Foreign { .. }));

    std::fs::remove_file(&path).expect("removed");
    drop(Store::open(folder.path()).expect("made"));
    let mut bytes = std::fs::read(&path).expect("read");
    // Past the header of the file: the pages of the tables.
    bytes[4_096..].fill(0x5a);
    std::fs::write(&path, &bytes).expect("written");
    assert_eq!(fault(folder.path()).code(), "store_damaged");

    std::fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink("elsewhere", &path).expect("linked");
    assert!(matches!(fault(folder.path()), StoreFault::Io { .. }), "a link is not followed");
    assert!(!folder.path().join("elsewhere").exists());
}

fn id(text: &str) -> AutomationId {
    AutomationId::parse(text).expect("an id")
}

fn runtime(text: &str) -> RuntimeId {
    RuntimeId::parse(text).expect("an id")
}

fn report(number: u64, window: &str, tokens: Option<u64>, spend: Option<&str>) -> ReportRow {
    ReportRow {
        automation: id("nightly"),
        report: format!("r-{number}"),
        window: window.to_owned(),
        tokens,
        spend: spend.map(|text| Money::parse_with_currency(text).expect("money")),
        at: Timestamp::from_unix_micros(7),
    }
}

fn totals(window: &str, tokens: Option<u64>, spend: Option<&str>) -> TotalsRow {
    let spend = spend.map(|text| Money::parse_with_currency(text).expect("money"));
    TotalsRow { automation: id("nightly"), window: window.to_owned(), tokens, spend }
}

#[tokio::test]
async fn a_report_counts_once_and_its_sums_are_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    let take = |row| async { store.automations().report(row, None).await.expect("answered") };
    assert_eq!(take(report(1, "run-1", Some(5), None)).await, Taken::Kept(totals("run-1", Some(5), None)));
    assert_eq!(take(report(1, "run-1", Some(5), None)).await, Taken::Known(totals("run-1", Some(5), None)));
    assert_eq!(take(report(1, "run-1", Some(6), None)).await, Taken::Differs);
    assert_eq!(take(report(1, "run-1", Some(5), Some("1 USD"))).await, Taken::Differs);
    let both = totals("run-1", Some(7), Some("1.50 USD"));
    assert_eq!(take(report(2, "run-1", Some(2), Some("1.50 USD"))).await, Taken::Kept(both.clone()));
    let euro = Taken::OtherCurrency(Currency::parse("USD").expect("letters"));
    assert_eq!(take(report(3, "run-1", None, Some("1 EUR"))).await, euro, "the currency of the window stays");
    assert_eq!(take(report(4, "run-1", Some((1 << 53) - 1), None)).await, Taken::TooMuch);
    assert_eq!(take(report(5, "run-1", None, Some("9007199254 USD"))).await, Taken::TooMuch);
    assert_eq!(take(report(3, "run-1", None, None)).await, Taken::Kept(both.clone()), "what was refused left nothing");
    // Another window begins at nothing, and a late repetition of an old report adds nothing to it.
    let fresh = totals("run-2", None, Some("1 EUR"));
    assert_eq!(take(report(6, "run-2", None, Some("1 EUR"))).await, Taken::Kept(fresh.clone()));
    assert_eq!(take(report(1, "run-2", Some(5), None)).await, Taken::Known(fresh.clone()));
    drop(store);
    let store = Store::open(folder.path()).expect("opens again");
    assert_eq!(store.automations().totals().await.expect("read"), [fresh]);
    assert_eq!(
        store.automations().report(report(2, "run-2", Some(2), Some("1.50 USD")), None).await.expect("answered"),
        Taken::Known(totals("run-2", None, Some("1 EUR")))
    );
}

#[tokio::test]
async fn a_flood_of_reports_is_forgotten_from_its_oldest_end_and_costs_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    let other = ReportRow { automation: id("other"), ..report(0, "run-1", Some(1), None) };
    store.automations().report(other.clone(), None).await.expect("answered");
    // As many as are remembered, put there at once.
    store
        .run(|connection| {
            let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
            for number in 0..10_200 {
                transaction.execute(
                    "INSERT INTO usage_reports (automation, report, window, tokens, at) VALUES ('nightly', ?1, 'run-1', 1, 7)",
                    [format!("r-{number}")],
                )?;
            }
            transaction.commit()
        })
        .await
        .expect("put");
    for number in 20_000..20_064 {
        store.automations().report(report(number, "run-1", Some(1), None), None).await.expect("answered");
    }
    let kept: i64 = store
        .run(|connection| {
            connection
                .query_row("SELECT COUNT(*) FROM usage_reports WHERE automation = 'nightly'", [], |row| row.get(0))
        })
        .await
        .expect("counted");
    assert!((10_000..10_064).contains(&kept), "{kept}");
    let again = store.automations().report(other, None).await.expect("answered");
    assert!(matches!(again, Taken::Known(_)), "{again:?}");
}

#[tokio::test]
async fn who_is_disabled_and_what_ran_is_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    let at = Timestamp::from_unix_micros;
    let row = |automation: &str, of: &str| DisabledRow {
        automation: id(automation),
        runtime: runtime(of),
        at: at(5),
        by: "unix:uid=0".to_owned(),
        why: "incident 7".to_owned(),
    };
    store.automations().disable(row("nightly", "ocr"), entry("a")).await.expect("disabled");
    let later = DisabledRow { why: "another".to_owned(), ..row("nightly", "ocr") };
    store.automations().disable(later, entry("b")).await.expect("disabled");
    store.automations().disable(row("ocr", "ocr"), entry("c")).await.expect("disabled");
    store.automations().disable(row("web", "web"), entry("d")).await.expect("disabled");
    let run = |number: u64| RunRow {
        automation: id("nightly"),
        runtime: runtime("ocr"),
        run: number,
        began_at: at(i64::try_from(number).expect("small")),
        ended: None,
    };
    for number in 1..=1_003 {
        store.automations().begin_run(run(number)).await.expect("noted");
    }
    store.automations().begin_run(RunRow { began_at: at(0), ..run(1_003) }).await.expect("noted before");
    store.automations().end_run(runtime("ocr"), 1_003, at(2_000), "budget".to_owned()).await.expect("noted");
    store.automations().end_run(runtime("ocr"), 1_003, at(3_000), "exit".to_owned()).await.expect("noted before");
    drop(store);

    let store = Store::open(folder.path()).expect("opens again");
    let kept = store.automations();
    let all = [row("nightly", "ocr"), row("ocr", "ocr"), row("web", "web")];
    assert_eq!(kept.disabled().await.expect("read"), all, "the first reason stays");
    kept.enable(id("nightly"), runtime("ocr"), entry("e")).await.expect("enabled");
    assert_eq!(kept.disabled().await.expect("read"), [row("web", "web")], "under whatever name");
    assert_eq!(store.outbox().oldest(10).await.expect("read").len(), 5);
    let last = RunRow { ended: Some((at(2_000), "budget".to_owned())), ..run(1_003) };
    assert_eq!(kept.newest_runs().await.expect("read"), std::slice::from_ref(&last));
    assert_eq!(kept.runs(id("nightly"), runtime("ocr"), 2).await.expect("read"), [last, run(1_002)]);
    assert_eq!(kept.runs(id("other"), runtime("ocr"), 5_000).await.expect("read").len(), 1_000);
}

fn demo() -> PersonaId {
    PersonaId::parse("demo").expect("an id")
}

fn proposal() -> ProposalRow {
    ProposalRow {
        id: 0,
        persona: demo(),
        state: "submitted".to_owned(),
        patch: "[]".to_owned(),
        base: "aa".to_owned(),
        widens: "[]".to_owned(),
        justification: "incident 7".to_owned(),
        submitted_by: "uid:0".to_owned(),
        submitted_at: Timestamp::from_unix_micros(1),
        decided: None,
        result: None,
        text: None,
    }
}

fn happened(kind: &str, at: i64, proposal: Option<i64>) -> HistoryRow {
    HistoryRow {
        seq: 0,
        persona: demo(),
        at: Timestamp::from_unix_micros(at),
        kind: kind.to_owned(),
        actor: "uid:0".to_owned(),
        proposal,
        data: "{}".to_owned(),
    }
}

fn decision(id: i64, state: &'static str, file: Option<(&str, &str)>) -> ProposalDecision {
    ProposalDecision {
        id,
        state,
        by: "uid:1".to_owned(),
        at: Timestamp::from_unix_micros(5),
        note: "agreed".to_owned(),
        file: file.map(|(digest, text)| (digest.to_owned(), text.to_owned())),
    }
}

#[tokio::test]
async fn a_proposal_is_decided_once_and_its_way_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    let personas = store.personas();
    let id = personas.submit(proposal(), happened("submitted", 1, None), entry("submit")).await.expect("kept");
    let file = Some(("bb", "id = \"demo\""));
    let decided =
        personas.decide("submitted", decision(id, "applying", file), happened("approved", 5, Some(id)), entry("yes"));
    assert!(decided.await.expect("kept"));
    for state in ["applying", "rejected"] {
        let again =
            personas.decide("submitted", decision(id, state, None), happened("twice", 6, Some(id)), entry(state));
        assert!(!again.await.expect("looked at"), "{state}");
    }
    drop(store);

    let store = Store::open(folder.path()).expect("opens again");
    let personas = store.personas();
    let applying = personas.proposals(None, Some("applying"), 10).await.expect("read");
    let expected = ProposalRow {
        id,
        state: "applying".to_owned(),
        decided: Some(("uid:1".to_owned(), Timestamp::from_unix_micros(5), "agreed".to_owned())),
        result: Some("bb".to_owned()),
        text: Some("id = \"demo\"".to_owned()),
        ..proposal()
    };
    assert_eq!(applying, [expected]);
    let review = ReviewRow {
        persona: demo(),
        at: Timestamp::from_unix_micros(6),
        reviewer: "uid:1".to_owned(),
        recorded_by: "uid:1".to_owned(),
        justification: "agreed".to_owned(),
        file_digest: "bb".to_owned(),
        notice: "told".to_owned(),
        notice_digest: "cc".to_owned(),
        proposal: Some(id),
    };
    let end = ProposalEnd { id, state: "approved", review: Some(review.clone()), known: Some("bb".to_owned()) };
    personas.finish(end, happened("applied", 6, Some(id)), entry("done")).await.expect("kept");
    assert_eq!(personas.reviews().await.expect("read"), [review]);
    assert_eq!(personas.known().await.expect("read").get(&demo()).map(String::as_str), Some("bb"));
    let lines = personas.history(demo(), None, 10).await.expect("read");
    let kinds: Vec<&str> = lines.iter().map(|(line, _)| line.kind.as_str()).collect();
    assert_eq!(kinds, ["applied", "approved", "submitted"], "nothing of the refused decisions");
    assert!(lines.iter().all(|(line, _)| line.proposal == Some(id)));
    let ids: Vec<String> =
        store.outbox().oldest(10).await.expect("read").into_iter().map(|(_, entry)| entry.id).collect();
    assert_eq!(ids, ["submit", "yes", "done"]);
}

#[tokio::test]
async fn a_history_is_paged_annotated_and_let_go_by_age() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    let personas = store.personas();
    for at in 1..=5 {
        personas.know(vec![(Some(format!("{at}")), happened("changed", at, None))]).await.expect("kept");
    }
    let page = personas.history(demo(), None, 2).await.expect("read");
    assert_eq!(page.iter().map(|(line, _)| line.seq).collect::<Vec<_>>(), [5, 4]);
    let page = personas.history(demo(), Some(4), 10).await.expect("read");
    assert_eq!(page.iter().map(|(line, _)| line.seq).collect::<Vec<_>>(), [3, 2, 1]);

    let note =
        |text: &str| NoteRow { at: Timestamp::from_unix_micros(9), actor: "uid:0".to_owned(), text: text.to_owned() };
    let other = PersonaId::parse("other").expect("an id");
    for (persona, seq, expected) in [
        (demo(), 1, Annotated::Added),
        (demo(), 5, Annotated::Added),
        (demo(), 5, Annotated::Added),
        (demo(), 5, Annotated::Full),
        (demo(), 6, Annotated::NoSuchLine),
        (other, 5, Annotated::NoSuchLine),
    ] {
        let id = format!("note-{persona}-{seq}-{expected:?}");
        assert_eq!(personas.annotate(persona, seq, note("x"), 2, entry(&id)).await.expect("looked at"), expected);
    }
    personas.forget_before(Timestamp::from_unix_micros(4), &["approved"]).await.expect("let go");
    let left = personas.history(demo(), None, 10).await.expect("read");
    assert_eq!(left.iter().map(|(line, notes)| (line.seq, notes.len())).collect::<Vec<_>>(), [(5, 2), (4, 0)]);
    personas.know(vec![(None, happened("removed", 9, None))]).await.expect("kept");
    assert!(personas.known().await.expect("read").is_empty());
    assert_eq!(personas.history(demo(), None, 1).await.expect("read")[0].0.seq, 6, "numbers are not used twice");
}

#[tokio::test]
async fn a_recipe_at_work_is_taken_away_as_the_version_that_was_meant() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("opens");
    let row = |version: &str, at: i64| RecipeRow {
        id: RuntimeId::parse("nightly").expect("an id"),
        version: version.to_owned(),
        tree: "00".to_owned(),
        at: Timestamp::from_unix_micros(at),
        by: "uid:0".to_owned(),
        why: "release".to_owned(),
    };
    let (old, new) = (row("1.0.0", 1), row("1.1.0", 2));
    store.recipes().put(old.clone(), entry("old")).await.expect("put");
    store.recipes().put(new.clone(), entry("new")).await.expect("put");
    store.recipes().remove(old, entry("late")).await.expect("nothing is left of it");
    assert_eq!(store.recipes().all().await.expect("read"), std::slice::from_ref(&new));
    drop(store);
    let store = Store::open(folder.path()).expect("opens again");
    assert_eq!(store.recipes().all().await.expect("read"), std::slice::from_ref(&new));
    store.recipes().remove(new, entry("taken")).await.expect("removed");
    assert_eq!(store.recipes().all().await.expect("read"), []);
    let waiting = store.outbox().oldest(10).await.expect("read");
    let ids: Vec<&str> = waiting.iter().map(|(_, entry)| entry.id.as_str()).collect();
    assert_eq!(ids, ["old", "new", "late", "taken"], "each with its entry");
}
