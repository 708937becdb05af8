//! The task that reviews, changes and hears personas, one thing after the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::candidate::Files;
use super::fault::PersonaFault;
use super::handle::{Ask, Personas, Recorded, Shared, opted_in};
use super::review::{Standing, digest, hex, notice};
use super::view::{HistoryKind, ProposalState, ReviewView};
use crate::config::{Faults, ServerConfig};
use crate::domain::{Clock, PersonaId, Timestamp};
use crate::events::{EventBus, EventKind, Subscription};
use crate::governance::audit::{Actor, Audit, AuditAction, Deed};
use crate::governance::reason::reason;
use crate::governance::unkept::Unkept;
use crate::proxy::Gateway;
use crate::store::{Entry, HistoryRow, Narrowing, OptInRow, Reserve, Reserved, ReviewRow, Store, StoreFault};

/// Requests that may wait. 64: operators one by one, and a heartbeat per persona.
const QUEUE: usize = 64;
/// Proposals of one persona that nobody decided yet. 64: more is not looked at by anybody.
pub(super) const MAX_OPEN: u64 = 64;
/// Notes on one line of a history. 64: a conversation.
pub(super) const MAX_NOTES: usize = 64;
/// Largest feedback, in bytes of JSON: a state of mind, not a transcript.
pub(super) const MAX_FEEDBACK: usize = 4 << 10;
/// How much feedback a persona may send at once, as the time that it takes to pay it off,
const BURST: Duration = Duration::from_secs(10);
/// and how much one costs.
const PAUSE: Duration = Duration::from_secs(1);
/// How often old lines are let go.
const TIDY: Duration = Duration::from_secs(24 * 3_600);
/// Pause before what could not be kept is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Asks the daemon to read its files again.
#[derive(Debug)]
pub struct Reload {
    /// On whose behalf.
    pub by: Actor,
    /// Why.
    pub why: String,
    /// Told when what the files say is in force.
    pub done: oneshot::Sender<Result<(), Faults>>,
}

/// What the keeper needs of the daemon.
#[derive(Debug)]
pub struct Premises {
    /// Where reviews, proposals and histories are kept.
    pub store: Store,
    /// Where what was done is recorded.
    pub audit: Audit,
    /// What is in force.
    pub gateway: Arc<Gateway>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub events: EventBus,
    /// Who puts changed files in force.
    pub reloads: mpsc::Sender<Reload>,
}

/// The owner; [`Keeper::run`] is its task.
#[derive(Debug)]
pub struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) events: EventBus,
    pub(super) reloads: mpsc::Sender<Reload>,
    asks: mpsc::Receiver<Ask>,
    changes: Subscription,
    retention: Duration,
    /// What was last known to be in force.
    pub(super) known: BTreeMap<PersonaId, String>,
    /// What was last said of each persona's standing.
    said: BTreeMap<PersonaId, Standing>,
    /// Until when what a persona sent is paid off.
    paid: HashMap<PersonaId, Timestamp>,
    /// Opt-ins that were taken back.
    unkept: Unkept<OptInRow, (HistoryRow, Entry)>,
}

/// Reads what is kept.
///
/// # Errors
/// When the store cannot be read, or the reserve not be made.
pub async fn start(config: &ServerConfig, premises: Premises) -> Result<(Personas, Keeper), StoreFault> {
    let Premises { store, audit, gateway, clock, events, reloads } = premises;
    let reviews = store.personas().reviews().await?.into_iter().map(|row| (row.persona.clone(), row)).collect();
    let opt_ins: BTreeMap<_, _> =
        store.personas().opt_ins().await?.into_iter().map(|row| (row.persona.clone(), row)).collect();
    let reserve = Reserve::new(&config.state_dir, Narrowing::OptIns);
    let told = {
        let reserve = reserve.clone();
        tokio::task::spawn_blocking(move || reserve.prepare()).await.map_err(|_| StoreFault::Closed)??
    };
    let unkept = Unkept::new(reserve, told != Reserved::Acts(Vec::new()));
    let known = store.personas().known().await?;
    let (sender, asks) = mpsc::channel(QUEUE);
    // Before anybody can reload: no change goes unnoticed.
    let changes = events.subscribe(None, 0, &[EventKind::PolicyReloaded.code().to_owned()]);
    let shared = Arc::new(Shared {
        enabled: config.personas.enable,
        files: Files::of(config),
        recorded: ArcSwap::from_pointee(Recorded { reviews, opt_ins }),
        store,
        audit,
        gateway,
        clock,
    });
    let mut keeper = Keeper {
        shared: Arc::clone(&shared),
        events,
        reloads,
        asks,
        changes,
        retention: Duration::from_secs(u64::from(config.ledger.retention_days) * 24 * 3_600),
        known,
        said: BTreeMap::new(),
        paid: HashMap::new(),
        unkept,
    };
    keeper.recall(told);
    Ok((Personas { asks: sender, shared }, keeper))
}

impl Keeper {
    /// Serves until `stop`. What an earlier daemon left half done comes first.
    pub async fn run(mut self, stop: CancellationToken) {
        self.resume().await;
        self.notice_files().await;
        // What it could not do it said; it is tried again.
        let _ = self.settle().await;
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY), if self.unkept.first().is_some() => drop(self.settle().await),
                _ = tidy.tick() => self.tidy().await,
                // Also when some were lost: what is in force now is looked at, not what was said of it.
                _ = self.changes.next() => self.notice_files().await,
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
            }
        }
    }

    async fn answer(&mut self, ask: Ask) {
        // Whoever asked may have gone; what was done is done.
        match ask {
            Ask::Review { persona, reviewer, notice, justification, by, answer } => {
                drop(answer.send(self.review(persona, (&reviewer, &notice, &justification), by).await));
            }
            Ask::Propose { persona, patch, base, justification, by, answer } => {
                drop(answer.send(self.propose(persona, patch, base, &justification, by).await));
            }
            Ask::Approve { persona, id, note, widening, by, answer } => {
                drop(answer.send(self.approve(&persona, id, &note, widening, by).await));
            }
            Ask::Reject { persona, id, note, by, answer } => {
                drop(answer.send(self.reject(&persona, id, &note, by).await));
            }
            Ask::Opt { persona, granted, justification, by, answer } => {
                drop(answer.send(self.opt(persona, granted, &justification, by).await));
            }
            Ask::Feedback { persona, body, by, answer } => {
                drop(answer.send(self.feedback(persona, body, by).await));
            }
        }
    }

    async fn review(
        &mut self,
        persona: PersonaId,
        (reviewer, told, justification): (&str, &str, &str),
        by: Actor,
    ) -> Result<ReviewView, PersonaFault> {
        let in_force = self.shared.in_force(&persona)?;
        let notice = notice(told).ok_or(PersonaFault::Notice)?;
        let row = ReviewRow {
            at: self.shared.clock.now(),
            reviewer: reason(reviewer).ok_or(PersonaFault::Text("reviewer"))?,
            recorded_by: by.as_str().to_owned(),
            justification: reason(justification).ok_or(PersonaFault::Text("justification"))?,
            file_digest: in_force.clone(),
            notice_digest: digest(&notice),
            notice,
            proposal: None,
            persona: persona.clone(),
        };
        let data = json!({
            "reviewer": row.reviewer, "file_digest": row.file_digest, "notice_digest": row.notice_digest,
            "justification": row.justification,
        });
        let recorded = self.shared.recorded.load_full();
        let before = recorded.reviews.get(&persona);
        let entry = self.shared.audit.entry(Deed {
            persona: Some(persona.clone()),
            why: Some(row.justification.clone()),
            before: before.map(|review| json!({ "file_digest": review.file_digest, "at": review.at })),
            after: Some(json!({
                "reviewer": row.reviewer, "file_digest": row.file_digest, "notice_digest": row.notice_digest,
            })),
            ..Deed::new(by.clone(), AuditAction::PersonaReviewRecorded)
        });
        let line = self.line(&persona, HistoryKind::ReviewRecorded, &by, None, &data);
        self.shared.store.personas().add_review(row.clone(), line, entry).await?;
        self.shared.audit.committed();
        tracing::info!(%persona, reviewer = row.reviewer, %by, "a review of a persona was recorded");
        let view = ReviewView::of(&row, &in_force);
        self.shared.record(|recorded| drop(recorded.reviews.insert(persona, row)));
        self.say_standings();
        Ok(view)
    }

    async fn opt(
        &mut self,
        persona: PersonaId,
        granted: bool,
        justification: &str,
        by: Actor,
    ) -> Result<(), PersonaFault> {
        let justification = reason(justification).ok_or(PersonaFault::Text("justification"))?;
        let recorded = self.shared.recorded.load_full();
        let notice_digest = if granted {
            let in_force = self.shared.in_force(&persona)?;
            let review = recorded.reviews.get(&persona).filter(|review| review.file_digest == in_force);
            review.ok_or_else(|| PersonaFault::NoReview(persona.clone()))?.notice_digest.clone()
        } else {
            // Taken back is taken back, whatever stands otherwise, if there was anything.
            let before = recorded.opt_ins.get(&persona).ok_or_else(|| PersonaFault::NotOptedIn(persona.clone()))?;
            before.notice_digest.clone()
        };
        let row = OptInRow {
            granted,
            notice_digest,
            at: self.shared.clock.now(),
            actor: by.as_str().to_owned(),
            justification,
            persona: persona.clone(),
        };
        let (line, entry) = self.opting(&row);
        let mut unkept = None;
        if granted {
            // What the reserve still tells of would take it back again.
            self.settle().await?;
            self.shared.store.personas().opt(row.clone(), line, entry).await?;
            self.shared.audit.committed();
        } else {
            // It does not wait for a disk.
            self.unkept.push(row.clone(), (line, entry));
            unkept = self.settle().await.err().filter(|_| !self.unkept.is_kept());
        }
        tracing::info!(%persona, granted, %by, "what a persona's feedback is taken for was decided");
        self.shared.record(|recorded| drop(recorded.opt_ins.insert(persona.clone(), row)));
        self.tell(EventKind::PersonaUpdated, &persona, json!({ "feedback": granted, "by": by.as_str() }));
        unkept.map_or(Ok(()), |fault| Err(PersonaFault::Unkept(persona, fault)))
    }

    /// The line of the history and the audit entry of what `row` tells.
    fn opting(&self, row: &OptInRow) -> (HistoryRow, Entry) {
        let (action, kind) = match row.granted {
            true => (AuditAction::PersonaFeedbackOptIn, HistoryKind::FeedbackOptIn),
            false => (AuditAction::PersonaFeedbackOptOut, HistoryKind::FeedbackOptOut),
        };
        let by = Actor::recorded(&row.actor);
        let recorded = self.shared.recorded.load();
        let entry = self.shared.audit.entry(Deed {
            persona: Some(row.persona.clone()),
            why: Some(row.justification.clone()),
            before: recorded
                .opt_ins
                .get(&row.persona)
                .map(|row| json!({ "granted": row.granted, "notice_digest": row.notice_digest })),
            after: Some(json!({ "granted": row.granted, "notice_digest": row.notice_digest })),
            ..Deed::new(by.clone(), action)
        });
        let data = json!({ "notice_digest": row.notice_digest, "justification": row.justification });
        (self.line(&row.persona, kind, &by, None, &data), entry)
    }

    /// Takes back what an earlier daemon took back and could not keep. A reserve that cannot be read may tell of anybody.
    fn recall(&mut self, told: Reserved<OptInRow>) {
        let opt_ins = self.shared.recorded.load_full();
        let rows = match told {
            Reserved::Acts(rows) => rows,
            Reserved::Damaged(detail) => {
                tracing::error!(detail, "which opt-ins were taken back is not known, so each is");
                let all = opt_ins.opt_ins.values().map(|row| OptInRow {
                    granted: false,
                    at: self.shared.clock.now(),
                    actor: Actor::daemon().as_str().to_owned(),
                    justification: detail.clone(),
                    ..row.clone()
                });
                all.collect()
            }
        };
        for row in rows {
            if !opt_ins.opt_ins.get(&row.persona).is_some_and(|kept| kept.granted) {
                continue;
            }
            let persona = row.persona.clone();
            tracing::warn!(%persona, by = row.actor, "an opt-in was taken back before the last end of the daemon, and stays so");
            let besides = self.opting(&row);
            self.unkept.push(row.clone(), besides);
            self.shared.record(|recorded| drop(recorded.opt_ins.insert(persona, row)));
        }
    }

    /// Brings what was taken back into the state, or at least into the reserve.
    async fn settle(&mut self) -> Result<(), StoreFault> {
        let brought = self.bring().await;
        self.unkept.settle(brought).await
    }

    async fn bring(&mut self) -> Result<(), StoreFault> {
        while let Some((row, (line, entry))) = self.unkept.first() {
            self.shared.store.personas().opt(row, line, entry).await?;
            self.shared.audit.committed();
            self.unkept.shift();
        }
        Ok(())
    }

    async fn feedback(&mut self, persona: PersonaId, body: Value, by: Actor) -> Result<Timestamp, PersonaFault> {
        self.shared.armed(&persona)?;
        let recorded = self.shared.recorded.load_full();
        if !opted_in(recorded.opt_ins.get(&persona), recorded.reviews.get(&persona)) {
            return Err(PersonaFault::NotOptedIn(persona));
        }
        let text = body.to_string();
        if !body.is_object() || text.len() > MAX_FEEDBACK {
            return Err(PersonaFault::Feedback);
        }
        let now = self.shared.clock.now();
        let paid =
            paid(self.paid.get(&persona).copied(), now).map_err(|wait| PersonaFault::TooFast(persona.clone(), wait))?;
        self.shared.store.personas().heard(persona.clone(), now, by.as_str().to_owned(), text).await?;
        self.paid.insert(persona.clone(), paid);
        self.tell(EventKind::PersonaFeedback, &persona, json!({ "by": by.as_str(), "feedback": body }));
        Ok(now)
    }

    /// Compares what is in force with what was last known, and writes down what other hands changed.
    pub(super) async fn notice_files(&mut self) {
        let policy = self.shared.gateway.policy.load_full();
        let by = Actor::daemon();
        let mut changes = Vec::new();
        for persona in policy.personas() {
            let (id, found) = (persona.id(), hex(persona.digest()));
            let before = self.known.get(id);
            if before == Some(&found) {
                continue;
            }
            let kind = if before.is_some() { HistoryKind::FileChanged } else { HistoryKind::FileAdded };
            let line = self.line(id, kind, &by, None, &json!({ "before": before, "after": found }));
            changes.push((Some(found), line));
        }
        for (id, before) in self.known.iter().filter(|(id, _)| policy.persona(id).is_none()) {
            let line = self.line(id, HistoryKind::FileRemoved, &by, None, &json!({ "before": before }));
            changes.push((None, line));
        }
        if !changes.is_empty() {
            if let Err(fault) = self.shared.store.personas().know(changes.clone()).await {
                // The next reload tries again: what is known stays what it was.
                tracing::error!(%fault, "changes of personas could not be written into their histories");
                return;
            }
            for (digest, line) in changes {
                self.tell(EventKind::PersonaUpdated, &line.persona, json!({ "change": line.kind, "in_force": digest }));
                match digest {
                    Some(digest) => drop(self.known.insert(line.persona, digest)),
                    None => drop(self.known.remove(&line.persona)),
                }
            }
        }
        self.say_standings();
    }

    /// Says in the log and as events how personas stand, where that is not what was said last.
    pub(super) fn say_standings(&mut self) {
        let standings: BTreeMap<PersonaId, Standing> = self.shared.standings().into_iter().collect();
        for (persona, standing) in &standings {
            if self.said.get(persona) == Some(standing) {
                continue;
            }
            match standing {
                // The default, which needs no word.
                Standing::Off => continue,
                Standing::Armed => tracing::info!(%persona, code = %standing, "a persona is armed"),
                Standing::NotReviewed | Standing::ReviewStale => {
                    let hint = standing.hint(persona.as_str());
                    tracing::warn!(%persona, code = %standing, hint, "a persona is not armed: neither proposals nor feedback are taken");
                }
            }
            self.tell(EventKind::PersonaUpdated, persona, json!({ "standing": standing }));
        }
        self.said = standings;
    }

    async fn tidy(&mut self) {
        const ENDED: &[&str] =
            &[ProposalState::Approved.code(), ProposalState::Rejected.code(), ProposalState::Failed.code()];
        let kept = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        let then = Timestamp::from_unix_micros(self.shared.clock.now().unix_micros().saturating_sub(kept));
        if let Err(fault) = self.shared.store.personas().forget_before(then, ENDED).await {
            tracing::warn!(%fault, "old lines of personas' histories stay in the state");
        }
    }

    /// Has the daemon read its files; whether it took them.
    pub(super) async fn reload(&self, by: &Actor, why: String) -> Result<bool, PersonaFault> {
        let (done, outcome) = oneshot::channel();
        self.reloads.send(Reload { by: by.clone(), why, done }).await.map_err(|_| PersonaFault::Gone)?;
        Ok(outcome.await.map_err(|_| PersonaFault::Gone)?.is_ok())
    }

    pub(super) fn deed(&self, persona: &PersonaId, by: &Actor, action: AuditAction, why: &str, after: Value) -> Entry {
        self.shared.audit.entry(Deed {
            persona: Some(persona.clone()),
            why: Some(why.to_owned()),
            after: Some(after),
            ..Deed::new(by.clone(), action)
        })
    }

    pub(super) fn line(
        &self,
        persona: &PersonaId,
        kind: HistoryKind,
        by: &Actor,
        proposal: Option<i64>,
        data: &Value,
    ) -> HistoryRow {
        HistoryRow {
            seq: 0,
            persona: persona.clone(),
            at: self.shared.clock.now(),
            kind: kind.code().to_owned(),
            actor: by.as_str().to_owned(),
            proposal,
            data: data.to_string(),
        }
    }

    pub(super) fn tell(&self, kind: EventKind, persona: &PersonaId, mut data: Value) {
        data["persona"] = json!(persona);
        self.events.publish(kind, Some(persona.as_str()), data);
    }
}

/// Until when everything is paid off once one more is sent at `now`; the wait where that is too much.
fn paid(until: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Duration> {
    // Never further ahead than it can get: a clock that was set back does not silence a persona.
    let until = until.map_or(now, |until| until.max(now).min(now.plus(BURST)));
    let paid = until.plus(PAUSE);
    match paid.since(now).checked_sub(BURST) {
        Some(over) if !over.is_zero() => Err(over),
        _ => Ok(paid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_comes_in_small_bursts_and_once_a_second_after_that() {
        let at = |millis: i64| Timestamp::from_unix_micros(millis * 1_000);
        let mut until = None;
        for _ in 0..10 {
            until = Some(paid(until, at(0)).expect("within the burst"));
        }
        assert_eq!(paid(until, at(0)), Err(Duration::from_secs(1)));
        assert_eq!(paid(until, at(400)), Err(Duration::from_millis(600)));
        let until = paid(until, at(1_000)).expect("one was paid off");
        assert!(paid(Some(until), at(1_000)).is_err());
        // A clock that was set back by a day: a second later it goes on.
        assert!(paid(Some(at(86_400_000)), at(0)).is_err());
        assert!(paid(Some(at(86_400_000)).map(|_| at(10_000)), at(1_000)).is_ok());
    }
}
