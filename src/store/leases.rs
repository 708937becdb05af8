//! Leases as they are kept. What a capability means is not this floor's to know.

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, named_params};

use super::fault::StoreFault;
use super::outbox::{self, Entry};
use super::owner::Store;
use super::row::{count, parsed};
use crate::domain::{LeaseId, PersonaId, Timestamp};

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Its name.
    pub id: LeaseId,
    /// What it permits, as written.
    pub capability: String,
    /// Whom.
    pub subject: PersonaId,
    /// Who gave it.
    pub issuer: String,
    /// Why.
    pub justification: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when.
    pub expires_at: Timestamp,
    /// How many grants.
    pub max_uses: Option<u64>,
    /// How many bytes.
    pub max_bytes: Option<u64>,
    /// When and why it ended, once it has.
    pub ended: Option<(Timestamp, String)>,
}

/// The repository. Each change goes with its audit entries, in one transaction.
#[derive(Debug, Clone, Copy)]
pub struct Leases<'s>(pub(super) &'s Store);

impl Leases<'_> {
    /// Those that have not ended, in the order of their making.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn in_force(&self) -> Result<Vec<LeaseRow>, StoreFault> {
        self.0.run(|connection| select(connection, "ended_at IS NULL ORDER BY created_at, id LIMIT ?1", i64::MAX)).await
    }

    /// The latest `limit` that have ended, newest first.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn ended(&self, limit: u32) -> Result<Vec<LeaseRow>, StoreFault> {
        let limit = i64::from(limit);
        self.0
            .run(move |connection| {
                select(connection, "ended_at IS NOT NULL ORDER BY ended_at DESC, id LIMIT ?1", limit)
            })
            .await
    }

    /// Adds a lease.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn add(&self, row: LeaseRow, entry: Entry) -> Result<(), StoreFault> {
        self.change(vec![entry], move |transaction| {
            transaction
                .execute(
                    "INSERT INTO leases (id, capability, subject, issuer, justification, created_at, expires_at, \
                     max_uses, max_bytes) VALUES (:id, :capability, :subject, :issuer, :justification, :created_at, \
                     :expires_at, :max_uses, :max_bytes)",
                    named_params! {
                        ":id": row.id.as_str(),
                        ":capability": row.capability,
                        ":subject": row.subject.as_str(),
                        ":issuer": row.issuer,
                        ":justification": row.justification,
                        ":created_at": row.created_at.unix_micros(),
                        ":expires_at": row.expires_at.unix_micros(),
                        ":max_uses": row.max_uses.map(bounded),
                        ":max_bytes": row.max_bytes.map(bounded),
                    },
                )
                .map(drop)
        })
        .await
    }

    /// Gives a lease that has not ended another end.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn renew(&self, id: LeaseId, expires_at: Timestamp, entry: Entry) -> Result<(), StoreFault> {
        self.change(vec![entry], move |transaction| {
            transaction
                .execute(
                    "UPDATE leases SET expires_at = ?2 WHERE id = ?1 AND ended_at IS NULL",
                    (id.as_str(), expires_at.unix_micros()),
                )
                .map(drop)
        })
        .await
    }

    /// Ends leases. One that has ended before stays as it is.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn end(
        &self,
        ends: Vec<(LeaseId, Timestamp, &'static str)>,
        entries: Vec<Entry>,
    ) -> Result<(), StoreFault> {
        self.change(entries, move |transaction| {
            let mut statement = transaction
                .prepare("UPDATE leases SET ended_at = ?2, ended_why = ?3 WHERE id = ?1 AND ended_at IS NULL")?;
            ends.iter().try_for_each(|(id, at, why)| statement.execute((id.as_str(), at.unix_micros(), why)).map(drop))
        })
        .await
    }

    /// Lets leases go that ended before `then`; their audit entries stay.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn forget_before(&self, then: Timestamp) -> Result<usize, StoreFault> {
        self.0
            .run(move |connection| connection.execute("DELETE FROM leases WHERE ended_at < ?1", [then.unix_micros()]))
            .await
    }

    async fn change(
        &self,
        entries: Vec<Entry>,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                work(&transaction)?;
                outbox::put(&transaction, &entries)?;
                transaction.commit()
            })
            .await
    }
}

fn select(connection: &Connection, which: &str, limit: i64) -> rusqlite::Result<Vec<LeaseRow>> {
    let columns = "id, capability, subject, issuer, justification, created_at, expires_at, max_uses, max_bytes, \
                   ended_at, ended_why";
    let mut statement = connection.prepare(&format!("SELECT {columns} FROM leases WHERE {which}"))?;
    let rows = statement.query_map([limit], read)?;
    rows.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<LeaseRow> {
    let time = |at: i64| Timestamp::from_unix_micros(at);
    let ended_at: Option<i64> = row.get("ended_at")?;
    let ended_why: Option<String> = row.get("ended_why")?;
    Ok(LeaseRow {
        id: parsed(row, "id", LeaseId::parse)?,
        capability: row.get("capability")?,
        subject: parsed(row, "subject", PersonaId::parse)?,
        issuer: row.get("issuer")?,
        justification: row.get("justification")?,
        created_at: row.get("created_at").map(time)?,
        expires_at: row.get("expires_at").map(time)?,
        max_uses: count(row, "max_uses")?,
        max_bytes: count(row, "max_bytes")?,
        ended: ended_at.map(time).zip(ended_why),
    })
}

/// SQLite's integers are signed; whoever makes a lease bounds its numbers far below.
fn bounded(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
