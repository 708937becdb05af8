//! Alerts as they are kept. What one means is not this floor's to know.

use rusqlite::{Connection, Row, Transaction, TransactionBehavior};

use super::fault::StoreFault;
use super::outbox::{self, Entry};
use super::owner::Store;
use crate::domain::{AlertId, Timestamp};

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// Its name.
    pub id: AlertId,
    /// Everything about it.
    pub body: String,
    /// When it was raised.
    pub raised_at: Timestamp,
    /// When it was cleared, once it was.
    pub cleared_at: Option<Timestamp>,
    /// Whether every route has what there is to tell of it.
    pub told: bool,
}

/// The repository.
#[derive(Debug, Clone, Copy)]
pub struct Alerts<'s>(pub(super) &'s Store);

impl Alerts<'_> {
    /// Those that were not cleared, and those of which something is still to be told, oldest first.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn open(&self) -> Result<Vec<AlertRow>, StoreFault> {
        self.0
            .run(|connection| {
                select(connection, "cleared_at IS NULL OR told = 0 ORDER BY raised_at, id LIMIT ?1", i64::MAX)
            })
            .await
    }

    /// The latest `limit` that were cleared, newest first.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn cleared(&self, limit: u32) -> Result<Vec<AlertRow>, StoreFault> {
        let limit = i64::from(limit);
        self.0
            .run(move |connection| {
                select(connection, "cleared_at IS NOT NULL ORDER BY cleared_at DESC, id LIMIT ?1", limit)
            })
            .await
    }

    /// Keeps alerts as they are now, with the audit entries of what made them so, all or none.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn put(&self, rows: Vec<AlertRow>, entries: Vec<Entry>) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                rows.iter().try_for_each(|row| put(&transaction, row))?;
                outbox::put(&transaction, &entries)?;
                transaction.commit()
            })
            .await
    }

    /// Lets cleared alerts go of which everything was told: those cleared before `then`, and all but the latest `most`.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn forget(&self, then: Timestamp, most: u32) -> Result<usize, StoreFault> {
        self.0
            .run(move |connection| {
                connection.execute(
                    "DELETE FROM alerts WHERE cleared_at IS NOT NULL AND told = 1 AND (cleared_at < ?1 OR id NOT IN \
                     (SELECT id FROM alerts WHERE cleared_at IS NOT NULL ORDER BY cleared_at DESC, id LIMIT ?2))",
                    (then.unix_micros(), i64::from(most)),
                )
            })
            .await
    }
}

fn put(transaction: &Transaction<'_>, row: &AlertRow) -> rusqlite::Result<()> {
    transaction
        .prepare(
            "INSERT INTO alerts (id, body, raised_at, cleared_at, told) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO \
             UPDATE SET body = excluded.body, cleared_at = excluded.cleared_at, told = excluded.told",
        )?
        .execute((
            row.id.as_str(),
            &row.body,
            row.raised_at.unix_micros(),
            row.cleared_at.map(Timestamp::unix_micros),
            row.told,
        ))
        .map(drop)
}

fn select(connection: &Connection, which: &str, limit: i64) -> rusqlite::Result<Vec<AlertRow>> {
    let mut statement =
        connection.prepare(&format!("SELECT id, body, raised_at, cleared_at, told FROM alerts WHERE {which}"))?;
    let rows = statement.query_map([limit], read)?;
    rows.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<AlertRow> {
    let id: String = row.get("id")?;
    let id = AlertId::parse(&id)
        .map_err(|fault| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(fault)))?;
    let cleared_at: Option<i64> = row.get("cleared_at")?;
    Ok(AlertRow {
        id,
        body: row.get("body")?,
        raised_at: row.get("raised_at").map(Timestamp::from_unix_micros)?,
        cleared_at: cleared_at.map(Timestamp::from_unix_micros),
        told: row.get("told")?,
    })
}
