//! Recipes that an operator put to work. What a version or a digest is, is not this floor's to know.

use rusqlite::{Row, Transaction, TransactionBehavior, params};

use super::fault::StoreFault;
use super::outbox::{self, Entry};
use super::owner::Store;
use super::row::parsed;
use crate::domain::{RuntimeId, Timestamp};

/// One recipe at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeRow {
    /// Which.
    pub id: RuntimeId,
    /// Its version.
    pub version: String,
    /// The digest of its files.
    pub tree: String,
    /// Since when.
    pub at: Timestamp,
    /// Who wanted it.
    pub by: String,
    /// Why.
    pub why: String,
}

/// The repository. Each change goes with its audit entry, in one transaction.
#[derive(Debug, Clone, Copy)]
pub struct Recipes<'s>(pub(super) &'s Store);

impl Recipes<'_> {
    /// All of them, in the order of their ids.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn all(&self) -> Result<Vec<RecipeRow>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement =
                    connection.prepare("SELECT id, version, tree, at, actor, why FROM recipes ORDER BY id")?;
                let rows = statement.query_map([], one)?;
                rows.collect()
            })
            .await
    }

    /// Puts one to work, in the place of its earlier version.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn put(&self, row: RecipeRow, entry: Entry) -> Result<(), StoreFault> {
        self.change(entry, move |transaction| {
            transaction
                .execute(
                    "INSERT OR REPLACE INTO recipes (id, version, tree, at, actor, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![row.id.as_str(), row.version, row.tree, row.at.unix_micros(), row.by, row.why],
                )
                .map(drop)
        })
        .await
    }

    /// Takes one from its work; what was put in its place since stays.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn remove(&self, row: RecipeRow, entry: Entry) -> Result<(), StoreFault> {
        self.change(entry, move |transaction| {
            let which = params![row.id.as_str(), row.version, row.at.unix_micros()];
            transaction.execute("DELETE FROM recipes WHERE id = ?1 AND version = ?2 AND at = ?3", which).map(drop)
        })
        .await
    }

    async fn change(
        &self,
        entry: Entry,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                change(&transaction)?;
                outbox::put(&transaction, &[entry])?;
                transaction.commit()
            })
            .await
    }
}

fn one(row: &Row<'_>) -> rusqlite::Result<RecipeRow> {
    Ok(RecipeRow {
        id: parsed(row, "id", RuntimeId::parse)?,
        version: row.get("version")?,
        tree: row.get("tree")?,
        at: Timestamp::from_unix_micros(row.get("at")?),
        by: row.get("actor")?,
        why: row.get("why")?,
    })
}
