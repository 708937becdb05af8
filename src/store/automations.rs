//! Automations as they are kept: which are disabled, what ran, what they reported of themselves.

use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::fault::StoreFault;
use super::outbox::{self, Entry};
use super::owner::Store;
use super::row::{count, parsed};
use crate::domain::{AutomationId, Currency, Money, RuntimeId, Timestamp};

/// Reports whose ids are remembered for each automation. A repeated report behind that counts again, which stops the
/// automation earlier and never later.
const REMEMBERED: i64 = 10_000;
/// How often, in reports, what is beyond that is let go.
const FORGET_EVERY: i64 = 64;
/// Runs that are kept of each automation.
const RUNS: i64 = 1_000;
/// The largest sum of tokens: what JSON readers keep exact (2^53 - 1, RFC 8259 section 6).
const MOST_TOKENS: u64 = (1 << 53) - 1;

/// One that is disabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisabledRow {
    /// Which.
    pub automation: AutomationId,
    /// Its runtime at that time.
    pub runtime: RuntimeId,
    /// Since when.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
    /// Why.
    pub why: String,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Of which automation.
    pub automation: AutomationId,
    /// In which runtime.
    pub runtime: RuntimeId,
    /// Its number there.
    pub run: u64,
    /// When it was launched.
    pub began_at: Timestamp,
    /// When and why it ended, once it has.
    pub ended: Option<(Timestamp, String)>,
}

/// One report of what was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportRow {
    /// By which automation.
    pub automation: AutomationId,
    /// Its name, so that a repeated one counts once.
    pub report: String,
    /// The window that it counts in.
    pub window: String,
    /// Tokens.
    pub tokens: Option<u64>,
    /// Money.
    pub spend: Option<Money>,
    /// When it came.
    pub at: Timestamp,
}

/// What was reported in a window in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotalsRow {
    /// By which automation.
    pub automation: AutomationId,
    /// Its latest window with a report.
    pub window: String,
    /// Tokens; `None` when none were reported.
    pub tokens: Option<u64>,
    /// Money; `None` when none was reported.
    pub spend: Option<Money>,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is kept; these are the sums with it.
    Kept(TotalsRow),
    /// It was kept before, and counts once; these are the sums.
    Known(TotalsRow),
    /// Another one of its name says something else.
    Differs,
    /// It is in another currency than what was reported in the window before.
    OtherCurrency(Currency),
    /// The sum would be more than can be counted exactly.
    TooMuch,
}

/// The repository. Each administrative change goes with its audit entry, in one transaction.
#[derive(Debug, Clone, Copy)]
pub struct Automations<'s>(pub(super) &'s Store);

impl Automations<'_> {
    /// Those that are disabled.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn disabled(&self) -> Result<Vec<DisabledRow>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement = connection
                    .prepare("SELECT automation, runtime, at, by, why FROM automations_disabled ORDER BY automation")?;
                let rows = statement.query_map([], |row| {
                    Ok(DisabledRow {
                        automation: parsed(row, "automation", AutomationId::parse)?,
                        runtime: parsed(row, "runtime", RuntimeId::parse)?,
                        at: row.get("at").map(Timestamp::from_unix_micros)?,
                        by: row.get("by")?,
                        why: row.get("why")?,
                    })
                })?;
                rows.collect()
            })
            .await
    }

    /// Disables one. What was said before stays.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn disable(&self, row: DisabledRow, entry: Entry) -> Result<(), StoreFault> {
        self.change(entry, move |transaction| {
            transaction
                .execute(
                    "INSERT OR IGNORE INTO automations_disabled (automation, runtime, at, by, why) \
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![row.automation.as_str(), row.runtime.as_str(), row.at.unix_micros(), row.by, row.why],
                )
                .map(drop)
        })
        .await
    }

    /// Enables an automation and its runtime, under whatever name that was disabled.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn enable(&self, automation: AutomationId, runtime: RuntimeId, entry: Entry) -> Result<(), StoreFault> {
        self.change(entry, move |transaction| {
            transaction
                .execute(
                    "DELETE FROM automations_disabled WHERE automation = ?1 OR runtime = ?2",
                    [automation.as_str(), runtime.as_str()],
                )
                .map(drop)
        })
        .await
    }

    /// Notes that a run began. One that is noted already stays as it is.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn begin_run(&self, row: RunRow) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                transaction.execute(
                    "INSERT OR IGNORE INTO automation_runs (runtime, run, automation, began_at) VALUES (?1, ?2, ?3, ?4)",
                    params![row.runtime.as_str(), number(row.run), row.automation.as_str(), row.began_at.unix_micros()],
                )?;
                transaction.execute(
                    "DELETE FROM automation_runs WHERE automation = ?1 AND began_at < (SELECT began_at FROM \
                     automation_runs WHERE automation = ?1 ORDER BY began_at DESC LIMIT 1 OFFSET ?2)",
                    params![row.automation.as_str(), RUNS - 1],
                )?;
                transaction.commit()
            })
            .await
    }

    /// Notes that a run ended.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn end_run(&self, runtime: RuntimeId, run: u64, at: Timestamp, why: String) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| {
                connection
                    .execute(
                        "UPDATE automation_runs SET ended_at = ?3, ended_why = ?4 WHERE runtime = ?1 AND run = ?2 AND \
                         ended_at IS NULL",
                        params![runtime.as_str(), number(run), at.unix_micros(), why],
                    )
                    .map(drop)
            })
            .await
    }

    /// The latest `limit` runs of an automation and of its runtime under any other name, newest first.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn runs(
        &self,
        automation: AutomationId,
        runtime: RuntimeId,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreFault> {
        self.0
            .run(move |connection| {
                let mut statement = connection.prepare(
                    "SELECT automation, runtime, run, began_at, ended_at, ended_why FROM automation_runs WHERE \
                     automation = ?1 OR runtime = ?2 ORDER BY began_at DESC, run DESC LIMIT ?3",
                )?;
                let rows = statement.query_map(params![automation.as_str(), runtime.as_str(), limit], read_run)?;
                rows.collect()
            })
            .await
    }

    /// The newest run of each runtime.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn newest_runs(&self) -> Result<Vec<RunRow>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement = connection.prepare(
                    "SELECT automation, runtime, MAX(run) AS run, began_at, ended_at, ended_why FROM automation_runs \
                     GROUP BY runtime",
                )?;
                let rows = statement.query_map([], read_run)?;
                rows.collect()
            })
            .await
    }

    /// Takes a report: kept with its sums and its audit entry, or not at all. It is on the disk when this returns.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn report(&self, row: ReportRow, entry: Option<Entry>) -> Result<Taken, StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                let taken = take(&transaction, &row)?;
                if let (Taken::Kept(_), Some(entry)) = (&taken, entry) {
                    outbox::put(&transaction, &[entry])?;
                }
                // What was not taken changed nothing.
                transaction.commit()?;
                Ok(taken)
            })
            .await
    }

    /// What each automation reported in its latest window.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn totals(&self) -> Result<Vec<TotalsRow>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement = connection.prepare("SELECT * FROM usage_totals ORDER BY automation")?;
                let rows = statement.query_map([], read_totals)?;
                rows.collect()
            })
            .await
    }

    async fn change(
        &self,
        entry: Entry,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                work(&transaction)?;
                outbox::put(&transaction, &[entry])?;
                transaction.commit()
            })
            .await
    }
}

fn take(transaction: &Transaction<'_>, row: &ReportRow) -> rusqlite::Result<Taken> {
    let automation = row.automation.as_str();
    let kept = transaction
        .query_row("SELECT * FROM usage_totals WHERE automation = ?1", [automation], read_totals)
        .optional()?;
    let known = transaction
        .query_row(
            "SELECT tokens, spend, currency FROM usage_reports WHERE automation = ?1 AND report = ?2",
            [automation, &row.report],
            |known| Ok((count(known, "tokens")?, money(known)?)),
        )
        .optional()?;
    // Sums of a window that is over are not added to.
    let before = kept.filter(|kept| kept.window == row.window).unwrap_or_else(|| TotalsRow {
        automation: row.automation.clone(),
        window: row.window.clone(),
        tokens: None,
        spend: None,
    });
    if let Some(known) = known {
        return Ok(if known == (row.tokens, row.spend) { Taken::Known(before) } else { Taken::Differs });
    }
    let tokens = match (before.tokens, row.tokens) {
        (Some(before), Some(more)) => match before.checked_add(more).filter(|sum| *sum <= MOST_TOKENS) {
            Some(sum) => Some(sum),
            None => return Ok(Taken::TooMuch),
        },
        (before, more) => more.or(before),
    };
    let spend = match (before.spend, row.spend) {
        (Some(before), Some(more)) if before.currency() != more.currency() => {
            return Ok(Taken::OtherCurrency(before.currency()));
        }
        (Some(before), Some(more)) => match before.plus(more) {
            Some(sum) => Some(sum),
            None => return Ok(Taken::TooMuch),
        },
        (before, more) => more.or(before),
    };
    transaction.execute(
        "INSERT INTO usage_reports (automation, report, window, tokens, spend, currency, at) VALUES (?1, ?2, ?3, ?4, ?5, \
         ?6, ?7)",
        params![
            automation,
            row.report,
            row.window,
            row.tokens.map(number),
            row.spend.map(|money| number(money.millionths())),
            row.spend.map(|money| money.currency().to_string()),
            row.at.unix_micros(),
        ],
    )?;
    if transaction.last_insert_rowid() % FORGET_EVERY == 0 {
        transaction.execute(
            "DELETE FROM usage_reports WHERE automation = ?1 AND place <= (SELECT place FROM usage_reports WHERE \
             automation = ?1 ORDER BY place DESC LIMIT 1 OFFSET ?2)",
            params![automation, REMEMBERED],
        )?;
    }
    transaction.execute(
        "INSERT OR REPLACE INTO usage_totals (automation, window, tokens, spend, currency, at) VALUES (?1, ?2, ?3, ?4, \
         ?5, ?6)",
        params![
            automation,
            row.window,
            tokens.map(number),
            spend.map(|money| number(money.millionths())),
            spend.map(|money| money.currency().to_string()),
            row.at.unix_micros(),
        ],
    )?;
    Ok(Taken::Kept(TotalsRow { tokens, spend, ..before }))
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let ended_at: Option<i64> = row.get("ended_at")?;
    let ended_why: Option<String> = row.get("ended_why")?;
    Ok(RunRow {
        automation: parsed(row, "automation", AutomationId::parse)?,
        runtime: parsed(row, "runtime", RuntimeId::parse)?,
        run: count(row, "run")?.unwrap_or(0),
        began_at: row.get("began_at").map(Timestamp::from_unix_micros)?,
        ended: ended_at.map(Timestamp::from_unix_micros).zip(ended_why),
    })
}

fn read_totals(row: &Row<'_>) -> rusqlite::Result<TotalsRow> {
    Ok(TotalsRow {
        automation: parsed(row, "automation", AutomationId::parse)?,
        window: row.get("window")?,
        tokens: count(row, "tokens")?,
        spend: money(row)?,
    })
}

fn money(row: &Row<'_>) -> rusqlite::Result<Option<Money>> {
    let Some(millionths) = count(row, "spend")? else { return Ok(None) };
    let currency = parsed(row, "currency", Currency::parse)?;
    let money = Money::from_millionths(millionths, currency);
    money.map(Some).ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(0, number(millionths)))
}

/// SQLite's integers are signed; every number here is bounded far below.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
