//! Audit entries that were committed with what they tell, and are not in the audit log yet.

use rusqlite::{Transaction, TransactionBehavior};

use super::fault::StoreFault;
use super::owner::Store;

/// One entry. What stands in `body` is its writer's to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique; a second entry of the same id is none.
    pub id: String,
    /// The entry itself.
    pub body: String,
}

/// The repository.
#[derive(Debug, Clone, Copy)]
pub struct Outbox<'s>(pub(super) &'s Store);

impl Outbox<'_> {
    /// Adds an entry that belongs to no other change.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn add(&self, entry: Entry) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                put(&transaction, &[entry])?;
                transaction.commit()
            })
            .await
    }

    /// The oldest `limit` entries, with their places.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn oldest(&self, limit: u32) -> Result<Vec<(i64, Entry)>, StoreFault> {
        self.0
            .run(move |connection| {
                let mut statement = connection.prepare("SELECT place, id, body FROM outbox ORDER BY place LIMIT ?1")?;
                let rows = statement
                    .query_map([limit], |row| Ok((row.get(0)?, Entry { id: row.get(1)?, body: row.get(2)? })))?;
                rows.collect()
            })
            .await
    }

    /// Takes out everything up to `place`: it is in the log.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn remove_through(&self, place: i64) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| connection.execute("DELETE FROM outbox WHERE place <= ?1", [place]).map(drop))
            .await
    }
}

/// Adds `entries` to what `transaction` changes.
pub(super) fn put(transaction: &Transaction<'_>, entries: &[Entry]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("INSERT OR IGNORE INTO outbox (id, body) VALUES (?1, ?2)")?;
    entries.iter().try_for_each(|entry| statement.execute((&entry.id, &entry.body)).map(drop))
}
