//! Personas as they are kept: reviews, proposals, history, opt-ins. What the words mean is not this floor's to know.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, named_params};
use serde::{Deserialize, Serialize};

use super::fault::StoreFault;
use super::outbox::{self, Entry};
use super::owner::Store;
use crate::domain::{PersonaId, Timestamp};

/// One recorded review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewRow {
    /// Whose.
    pub persona: PersonaId,
    /// When.
    pub at: Timestamp,
    /// Who reviewed.
    pub reviewer: String,
    /// Who recorded it.
    pub recorded_by: String,
    /// Why, and with whom.
    pub justification: String,
    /// Digest of what was reviewed.
    pub file_digest: String,
    /// What people were told.
    pub notice: String,
    /// Its digest.
    pub notice_digest: String,
    /// The approved proposal that carried an earlier review over to the file that it made.
    pub proposal: Option<i64>,
}

/// One proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposalRow {
    /// Its number; none before it is kept.
    pub id: i64,
    /// For whom.
    pub persona: PersonaId,
    /// How it stands.
    pub state: String,
    /// The patch, as JSON.
    pub patch: String,
    /// Digest of the file that it was made for.
    pub base: String,
    /// What it would open, as JSON.
    pub widens: String,
    /// Why.
    pub justification: String,
    /// By whom.
    pub submitted_by: String,
    /// When.
    pub submitted_at: Timestamp,
    /// Who decided, when, and what was said.
    pub decided: Option<(String, Timestamp, String)>,
    /// Digest of the file that it makes, once approved.
    pub result: Option<String>,
    /// That file, while it is being put in place.
    pub text: Option<String>,
}

/// One line of a persona's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// Its number, in the order of all personas' histories; zero before it is kept.
    pub seq: i64,
    /// Whose.
    pub persona: PersonaId,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: String,
    /// Who did it.
    pub actor: String,
    /// By which proposal.
    pub proposal: Option<i64>,
    /// The rest, as JSON.
    pub data: String,
}

/// What somebody added to a line of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteRow {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub text: String,
}

/// Whether feedback of a persona may be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptInRow {
    /// Whose.
    pub persona: PersonaId,
    /// Yes, or taken back.
    pub granted: bool,
    /// Digest of the notice that was agreed to.
    pub notice_digest: String,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// Why.
    pub justification: String,
}

/// What a persona said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedbackRow {
    /// How often it said something.
    pub count: i64,
    /// When last.
    pub at: Timestamp,
    /// Who said it.
    pub actor: String,
    /// What, as JSON.
    pub body: String,
}

/// How a proposal ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposalEnd {
    /// Which.
    pub id: i64,
    /// As what.
    pub state: &'static str,
    /// The review that holds for the file that it made.
    pub review: Option<ReviewRow>,
    /// Digest of what is in force of the persona since.
    pub known: Option<String>,
}

/// A decision on a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposalDecision {
    /// On which.
    pub id: i64,
    /// As what it stands since.
    pub state: &'static str,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What was said.
    pub note: String,
    /// The file that is being put in place, and its digest.
    pub file: Option<(String, String)>,
}

/// The repository. Each change goes with its history and its audit entries, in one transaction.
#[derive(Debug, Clone, Copy)]
pub struct Personas<'s>(pub(super) &'s Store);

impl Personas<'_> {
    /// The latest review of each persona.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn reviews(&self) -> Result<Vec<ReviewRow>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement = connection.prepare(
                    "SELECT * FROM persona_reviews WHERE seq IN (SELECT max(seq) FROM persona_reviews GROUP BY persona)",
                )?;
                let rows = statement.query_map([], review)?;
                rows.collect()
            })
            .await
    }

    /// Adds a review.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn add_review(&self, row: ReviewRow, line: HistoryRow, entry: Entry) -> Result<(), StoreFault> {
        self.change(vec![entry], move |transaction| {
            put_review(transaction, &row)?;
            put_line(transaction, &line).map(drop)
        })
        .await
    }

    /// Adds a proposal and tells its number. `line` gets the number too.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn submit(&self, row: ProposalRow, mut line: HistoryRow, entry: Entry) -> Result<i64, StoreFault> {
        self.change(vec![entry], move |transaction| {
            transaction.execute(
                "INSERT INTO persona_proposals (persona, state, patch, base, widens, justification, submitted_by, \
                 submitted_at) VALUES (:persona, :state, :patch, :base, :widens, :justification, :by, :at)",
                named_params! {
                    ":persona": row.persona.as_str(),
                    ":state": row.state,
                    ":patch": row.patch,
                    ":base": row.base,
                    ":widens": row.widens,
                    ":justification": row.justification,
                    ":by": row.submitted_by,
                    ":at": row.submitted_at.unix_micros(),
                },
            )?;
            let id = transaction.last_insert_rowid();
            line.proposal = Some(id);
            put_line(transaction, &line)?;
            Ok(id)
        })
        .await
    }

    /// One proposal.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn proposal(&self, id: i64) -> Result<Option<ProposalRow>, StoreFault> {
        self.0
            .run(move |connection| {
                connection.query_row("SELECT * FROM persona_proposals WHERE id = ?1", [id], proposal).optional()
            })
            .await
    }

    /// Proposals in the state `state`, or in any, for `persona`, or for any: the latest `limit`, newest first.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn proposals(
        &self,
        persona: Option<PersonaId>,
        state: Option<&'static str>,
        limit: u32,
    ) -> Result<Vec<ProposalRow>, StoreFault> {
        self.0
            .run(move |connection| {
                let mut statement = connection.prepare(
                    "SELECT * FROM persona_proposals WHERE (?1 IS NULL OR persona = ?1) AND (?2 IS NULL OR state = ?2) \
                     ORDER BY id DESC LIMIT ?3",
                )?;
                let persona = persona.as_ref().map(PersonaId::as_str);
                let rows = statement.query_map((persona, state, limit), proposal)?;
                rows.collect()
            })
            .await
    }

    /// How many proposals for `persona` are in the state `state`.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn count(&self, persona: PersonaId, state: &'static str) -> Result<u64, StoreFault> {
        self.0
            .run(move |connection| {
                connection.query_row(
                    "SELECT count(*) FROM persona_proposals WHERE persona = ?1 AND state = ?2",
                    (persona.as_str(), state),
                    |row| row.get::<_, i64>(0),
                )
            })
            .await
            .map(|count| u64::try_from(count).unwrap_or(0))
    }

    /// Decides a proposal that is in the state `from`; whether it was.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn decide(
        &self,
        from: &'static str,
        decision: ProposalDecision,
        line: HistoryRow,
        entry: Entry,
    ) -> Result<bool, StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                let (result, text) = decision.file.unzip();
                let changed = transaction.execute(
                    "UPDATE persona_proposals SET state = :state, decided_by = :by, decided_at = :at, note = :note, \
                     result = :result, text = :text WHERE id = :id AND state = :from",
                    named_params! {
                        ":id": decision.id,
                        ":from": from,
                        ":state": decision.state,
                        ":by": decision.by,
                        ":at": decision.at.unix_micros(),
                        ":note": decision.note,
                        ":result": result,
                        ":text": text,
                    },
                )?;
                if changed == 0 {
                    return Ok(false);
                }
                put_line(&transaction, &line)?;
                outbox::put(&transaction, &[entry])?;
                transaction.commit()?;
                Ok(true)
            })
            .await
    }

    /// Ends the putting in place of a proposal.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn finish(&self, end: ProposalEnd, line: HistoryRow, entry: Entry) -> Result<(), StoreFault> {
        self.change(vec![entry], move |transaction| {
            transaction
                .execute("UPDATE persona_proposals SET state = ?2, text = NULL WHERE id = ?1", (end.id, end.state))?;
            if let Some(review) = &end.review {
                put_review(transaction, review)?;
            }
            if let Some(digest) = &end.known {
                put_known(transaction, &line.persona, Some(digest))?;
            }
            put_line(transaction, &line).map(drop)
        })
        .await
    }

    /// The latest `limit` lines of a history before the line `before`, newest first, each with its notes.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn history(
        &self,
        persona: PersonaId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<(HistoryRow, Vec<NoteRow>)>, StoreFault> {
        self.0
            .run(move |connection| {
                let mut lines = connection.prepare(
                    "SELECT * FROM persona_history WHERE persona = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
                )?;
                let before = before.unwrap_or(i64::MAX);
                let rows = lines.query_map((persona.as_str(), before, limit), line)?;
                let rows: Vec<HistoryRow> = rows.collect::<rusqlite::Result<_>>()?;
                rows.into_iter()
                    .map(|row| {
                        let notes = notes_of(connection, row.seq)?;
                        Ok((row, notes))
                    })
                    .collect()
            })
            .await
    }

    /// Adds a note to the line `seq` of a persona's history, which has fewer than `most`.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn annotate(
        &self,
        persona: PersonaId,
        seq: i64,
        note: NoteRow,
        most: usize,
        entry: Entry,
    ) -> Result<Annotated, StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                let own: bool = transaction.query_row(
                    "SELECT EXISTS (SELECT 1 FROM persona_history WHERE seq = ?1 AND persona = ?2)",
                    (seq, persona.as_str()),
                    |row| row.get(0),
                )?;
                if !own {
                    return Ok(Annotated::NoSuchLine);
                }
                if notes_of(&transaction, seq)?.len() >= most {
                    return Ok(Annotated::Full);
                }
                transaction.execute(
                    "INSERT INTO persona_notes (line, at, actor, text) VALUES (?1, ?2, ?3, ?4)",
                    (seq, note.at.unix_micros(), &note.actor, &note.text),
                )?;
                outbox::put(&transaction, &[entry])?;
                transaction.commit()?;
                Ok(Annotated::Added)
            })
            .await
    }

    /// What was last said of each persona's feedback.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn opt_ins(&self) -> Result<Vec<OptInRow>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement = connection.prepare("SELECT * FROM persona_opt_ins")?;
                let rows = statement.query_map([], |row| {
                    Ok(OptInRow {
                        persona: persona_of(row)?,
                        granted: row.get("granted")?,
                        notice_digest: row.get("notice_digest")?,
                        at: time(row, "at")?,
                        actor: row.get("actor")?,
                        justification: row.get("justification")?,
                    })
                })?;
                rows.collect()
            })
            .await
    }

    /// Takes the place of what was said of a persona's feedback before.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn opt(&self, row: OptInRow, line: HistoryRow, entry: Entry) -> Result<(), StoreFault> {
        self.change(vec![entry], move |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO persona_opt_ins (persona, granted, notice_digest, at, actor, justification) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    row.persona.as_str(),
                    row.granted,
                    &row.notice_digest,
                    row.at.unix_micros(),
                    &row.actor,
                    &row.justification,
                ),
            )?;
            put_line(transaction, &line).map(drop)
        })
        .await
    }

    /// Notes what a persona said, and counts it.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn heard(
        &self,
        persona: PersonaId,
        at: Timestamp,
        actor: String,
        body: String,
    ) -> Result<(), StoreFault> {
        self.change(Vec::new(), move |transaction| {
            transaction
                .execute(
                    "INSERT INTO persona_feedback (persona, count, at, actor, body) VALUES (?1, 1, ?2, ?3, ?4) \
                     ON CONFLICT (persona) DO UPDATE SET count = count + 1, at = ?2, actor = ?3, body = ?4",
                    (persona.as_str(), at.unix_micros(), &actor, &body),
                )
                .map(drop)
        })
        .await
    }

    /// What each persona said last.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn feedback(&self) -> Result<BTreeMap<PersonaId, FeedbackRow>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement = connection.prepare("SELECT * FROM persona_feedback")?;
                let rows = statement.query_map([], |row| {
                    let feedback = FeedbackRow {
                        count: row.get("count")?,
                        at: time(row, "at")?,
                        actor: row.get("actor")?,
                        body: row.get("body")?,
                    };
                    Ok((persona_of(row)?, feedback))
                })?;
                rows.collect()
            })
            .await
    }

    /// Digest of what was last known to be in force of each persona.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn known(&self) -> Result<BTreeMap<PersonaId, String>, StoreFault> {
        self.0
            .run(|connection| {
                let mut statement = connection.prepare("SELECT persona, digest FROM persona_known")?;
                let rows = statement.query_map([], |row| Ok((persona_of(row)?, row.get("digest")?)))?;
                rows.collect()
            })
            .await
    }

    /// Notes what is in force of personas since; none is one that is gone.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn know(&self, changes: Vec<(Option<String>, HistoryRow)>) -> Result<(), StoreFault> {
        self.change(Vec::new(), move |transaction| {
            changes.iter().try_for_each(|(digest, line)| {
                put_known(transaction, &line.persona, digest.as_deref())?;
                put_line(transaction, line).map(drop)
            })
        })
        .await
    }

    /// Lets go what is older than `then`: lines of histories, proposals that are in one of the states `ended`, and reviews
    /// that a later one replaced.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub async fn forget_before(&self, then: Timestamp, ended: &'static [&'static str]) -> Result<(), StoreFault> {
        let then = then.unix_micros();
        self.change(Vec::new(), move |transaction| {
            transaction.execute(
                "DELETE FROM persona_notes WHERE line IN (SELECT seq FROM persona_history WHERE at < ?1)",
                [then],
            )?;
            transaction.execute("DELETE FROM persona_history WHERE at < ?1", [then])?;
            for state in ended {
                transaction
                    .execute("DELETE FROM persona_proposals WHERE state = ?2 AND decided_at < ?1", (then, state))?;
            }
            transaction
                .execute(
                    "DELETE FROM persona_reviews WHERE at < ?1 AND seq NOT IN \
                     (SELECT max(seq) FROM persona_reviews GROUP BY persona)",
                    [then],
                )
                .map(drop)
        })
        .await
    }

    async fn change<T: Send + 'static>(
        &self,
        entries: Vec<Entry>,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreFault> {
        self.0
            .run(move |connection| {
                let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
                let made = work(&transaction)?;
                outbox::put(&transaction, &entries)?;
                transaction.commit()?;
                Ok(made)
            })
            .await
    }
}

/// What came of adding a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotated {
    /// It is there.
    Added,
    /// The persona's history has no such line.
    NoSuchLine,
    /// The line has as many notes as it may.
    Full,
}

fn put_review(transaction: &Transaction<'_>, row: &ReviewRow) -> rusqlite::Result<()> {
    transaction
        .execute(
            "INSERT INTO persona_reviews (persona, at, reviewer, recorded_by, justification, file_digest, notice, \
             notice_digest, proposal) VALUES (:persona, :at, :reviewer, :recorded_by, :justification, :file_digest, \
             :notice, :notice_digest, :proposal)",
            named_params! {
                ":persona": row.persona.as_str(),
                ":at": row.at.unix_micros(),
                ":reviewer": row.reviewer,
                ":recorded_by": row.recorded_by,
                ":justification": row.justification,
                ":file_digest": row.file_digest,
                ":notice": row.notice,
                ":notice_digest": row.notice_digest,
                ":proposal": row.proposal,
            },
        )
        .map(drop)
}

fn put_line(transaction: &Transaction<'_>, row: &HistoryRow) -> rusqlite::Result<i64> {
    transaction.execute(
        "INSERT INTO persona_history (persona, at, kind, actor, proposal, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (row.persona.as_str(), row.at.unix_micros(), &row.kind, &row.actor, row.proposal, &row.data),
    )?;
    Ok(transaction.last_insert_rowid())
}

fn put_known(transaction: &Transaction<'_>, persona: &PersonaId, digest: Option<&str>) -> rusqlite::Result<()> {
    match digest {
        Some(digest) => transaction.execute(
            "INSERT OR REPLACE INTO persona_known (persona, digest) VALUES (?1, ?2)",
            (persona.as_str(), digest),
        ),
        None => transaction.execute("DELETE FROM persona_known WHERE persona = ?1", [persona.as_str()]),
    }
    .map(drop)
}

fn notes_of(connection: &Connection, seq: i64) -> rusqlite::Result<Vec<NoteRow>> {
    let mut statement = connection.prepare("SELECT at, actor, text FROM persona_notes WHERE line = ?1 ORDER BY id")?;
    let rows = statement.query_map([seq], |row| {
        Ok(NoteRow { at: time(row, "at")?, actor: row.get("actor")?, text: row.get("text")? })
    })?;
    rows.collect()
}

fn review(row: &Row<'_>) -> rusqlite::Result<ReviewRow> {
    Ok(ReviewRow {
        persona: persona_of(row)?,
        at: time(row, "at")?,
        reviewer: row.get("reviewer")?,
        recorded_by: row.get("recorded_by")?,
        justification: row.get("justification")?,
        file_digest: row.get("file_digest")?,
        notice: row.get("notice")?,
        notice_digest: row.get("notice_digest")?,
        proposal: row.get("proposal")?,
    })
}

fn proposal(row: &Row<'_>) -> rusqlite::Result<ProposalRow> {
    let by: Option<String> = row.get("decided_by")?;
    let at: Option<i64> = row.get("decided_at")?;
    let note: Option<String> = row.get("note")?;
    Ok(ProposalRow {
        id: row.get("id")?,
        persona: persona_of(row)?,
        state: row.get("state")?,
        patch: row.get("patch")?,
        base: row.get("base")?,
        widens: row.get("widens")?,
        justification: row.get("justification")?,
        submitted_by: row.get("submitted_by")?,
        submitted_at: time(row, "submitted_at")?,
        decided: by.zip(at).zip(note).map(|((by, at), note)| (by, Timestamp::from_unix_micros(at), note)),
        result: row.get("result")?,
        text: row.get("text")?,
    })
}

fn line(row: &Row<'_>) -> rusqlite::Result<HistoryRow> {
    Ok(HistoryRow {
        seq: row.get("seq")?,
        persona: persona_of(row)?,
        at: time(row, "at")?,
        kind: row.get("kind")?,
        actor: row.get("actor")?,
        proposal: row.get("proposal")?,
        data: row.get("data")?,
    })
}

fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_unix_micros)
}

fn persona_of(row: &Row<'_>) -> rusqlite::Result<PersonaId> {
    let text: String = row.get("persona")?;
    PersonaId::parse(&text)
        .map_err(|fault| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(fault)))
}
