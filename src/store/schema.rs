//! The tables, as steps from one version to the next. A step never changes once released.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// Says whose file it is (`PRAGMA application_id`): "ARWS".
pub(super) const APPLICATION: i64 = 0x4152_5753;

/// Each step leads from the version that is its index to the next.
const STEPS: &[&str] = &[
    "
    CREATE TABLE leases (
        id TEXT PRIMARY KEY NOT NULL,
        capability TEXT NOT NULL,
        subject TEXT NOT NULL,
        issuer TEXT NOT NULL,
        justification TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        max_uses INTEGER,
        max_bytes INTEGER,
        ended_at INTEGER,
        ended_why TEXT,
        CHECK ((ended_at IS NULL) = (ended_why IS NULL))
    ) STRICT;
    CREATE INDEX leases_in_force ON leases (id) WHERE ended_at IS NULL;
    CREATE INDEX leases_ended ON leases (ended_at) WHERE ended_at IS NOT NULL;
    CREATE TABLE outbox (
        place INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE automations_disabled (
        automation TEXT PRIMARY KEY NOT NULL,
        runtime TEXT NOT NULL,
        at INTEGER NOT NULL,
        by TEXT NOT NULL,
        why TEXT NOT NULL
    ) STRICT;
    CREATE TABLE automation_runs (
        runtime TEXT NOT NULL,
        run INTEGER NOT NULL,
        automation TEXT NOT NULL,
        began_at INTEGER NOT NULL,
        ended_at INTEGER,
        ended_why TEXT,
        PRIMARY KEY (runtime, run),
        CHECK ((ended_at IS NULL) = (ended_why IS NULL))
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX automation_runs_by_automation ON automation_runs (automation, began_at);
    CREATE TABLE usage_reports (
        place INTEGER PRIMARY KEY AUTOINCREMENT,
        automation TEXT NOT NULL,
        report TEXT NOT NULL,
        window TEXT NOT NULL,
        tokens INTEGER,
        spend INTEGER,
        currency TEXT,
        at INTEGER NOT NULL,
        UNIQUE (automation, report),
        CHECK ((spend IS NULL) = (currency IS NULL))
    ) STRICT;
    CREATE INDEX usage_reports_by_automation ON usage_reports (automation, place);
    CREATE TABLE usage_totals (
        automation TEXT PRIMARY KEY NOT NULL,
        window TEXT NOT NULL,
        tokens INTEGER,
        spend INTEGER,
        currency TEXT,
        at INTEGER NOT NULL,
        CHECK ((spend IS NULL) = (currency IS NULL))
    ) STRICT;
",
    "
    CREATE TABLE alerts (
        id TEXT PRIMARY KEY NOT NULL,
        body TEXT NOT NULL,
        raised_at INTEGER NOT NULL,
        cleared_at INTEGER,
        told INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX alerts_open ON alerts (id) WHERE cleared_at IS NULL OR told = 0;
    CREATE INDEX alerts_cleared ON alerts (cleared_at) WHERE cleared_at IS NOT NULL;
",
    "
    CREATE TABLE persona_reviews (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        persona TEXT NOT NULL,
        at INTEGER NOT NULL,
        reviewer TEXT NOT NULL,
        recorded_by TEXT NOT NULL,
        justification TEXT NOT NULL,
        file_digest TEXT NOT NULL,
        notice TEXT NOT NULL,
        notice_digest TEXT NOT NULL,
        proposal INTEGER
    ) STRICT;
    CREATE INDEX persona_reviews_of ON persona_reviews (persona, seq);
    CREATE TABLE persona_proposals (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        persona TEXT NOT NULL,
        state TEXT NOT NULL,
        patch TEXT NOT NULL,
        base TEXT NOT NULL,
        widens TEXT NOT NULL,
        justification TEXT NOT NULL,
        submitted_by TEXT NOT NULL,
        submitted_at INTEGER NOT NULL,
        decided_by TEXT,
        decided_at INTEGER,
        note TEXT,
        result TEXT,
        text TEXT,
        CHECK ((state = 'applying') = (text IS NOT NULL)),
        CHECK ((state = 'submitted') = (decided_at IS NULL))
    ) STRICT;
    CREATE INDEX persona_proposals_of ON persona_proposals (persona, id);
    CREATE INDEX persona_proposals_in ON persona_proposals (state, id);
    CREATE TABLE persona_history (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        persona TEXT NOT NULL,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        actor TEXT NOT NULL,
        proposal INTEGER,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX persona_history_of ON persona_history (persona, seq);
    CREATE TABLE persona_notes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        line INTEGER NOT NULL,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX persona_notes_on ON persona_notes (line, id);
    CREATE TABLE persona_opt_ins (
        persona TEXT PRIMARY KEY NOT NULL,
        granted INTEGER NOT NULL,
        notice_digest TEXT NOT NULL,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        justification TEXT NOT NULL
    ) STRICT;
    CREATE TABLE persona_feedback (
        persona TEXT PRIMARY KEY NOT NULL,
        count INTEGER NOT NULL,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE TABLE persona_known (
        persona TEXT PRIMARY KEY NOT NULL,
        digest TEXT NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE recipes (
        id TEXT PRIMARY KEY NOT NULL,
        version TEXT NOT NULL,
        tree TEXT NOT NULL,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        why TEXT NOT NULL
    ) STRICT;
",
];

/// The version that this program writes.
pub(super) const KNOWN: i64 = STEPS.len() as i64;

/// The version of the file; zero for a new one.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Leads the file from `found` to [`KNOWN`], all steps or none.
pub(super) fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    let from = usize::try_from(found).unwrap_or(usize::MAX).min(STEPS.len());
    if from == STEPS.len() {
        return Ok(());
    }
    let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
    for step in &STEPS[from..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", KNOWN)?;
    transaction.commit()
}
