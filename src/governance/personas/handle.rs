//! The personas as the control plane steers them, and what it sees of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::candidate::Files;
use super::document::{of_toml, without_proofs};
use super::fault::PersonaFault;
use super::keeper::MAX_NOTES;
use super::review::{Standing, digest, hex, standing};
use super::view::{Applied, FeedbackView, FileView, HistoryLine, PersonaState, Proposal, ProposalState, ReviewView};
use crate::domain::{Clock, PersonaId, Timestamp};
use crate::governance::audit::{Actor, Audit, AuditAction, Deed};
use crate::governance::reason::reason;
use crate::policy::Persona;
use crate::proxy::Gateway;
use crate::store::{Annotated, NoteRow, OptInRow, ReviewRow, Store};

/// What the keeper is asked for.
pub(super) enum Ask {
    Review {
        persona: PersonaId,
        reviewer: String,
        notice: String,
        justification: String,
        by: Actor,
        answer: Answer<ReviewView>,
    },
    Propose {
        persona: PersonaId,
        patch: Value,
        base: Option<String>,
        justification: String,
        by: Actor,
        answer: Answer<Proposal>,
    },
    Approve {
        persona: PersonaId,
        id: i64,
        note: String,
        widening: bool,
        by: Actor,
        answer: Answer<Applied>,
    },
    Reject {
        persona: PersonaId,
        id: i64,
        note: String,
        by: Actor,
        answer: Answer<Proposal>,
    },
    Opt {
        persona: PersonaId,
        granted: bool,
        justification: String,
        by: Actor,
        answer: Answer<()>,
    },
    Feedback {
        persona: PersonaId,
        body: Value,
        by: Actor,
        answer: Answer<Timestamp>,
    },
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, PersonaFault>>;

/// What was last recorded of reviews and opt-ins; swapped by the keeper alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Recorded {
    pub(super) reviews: BTreeMap<PersonaId, ReviewRow>,
    pub(super) opt_ins: BTreeMap<PersonaId, OptInRow>,
}

/// The personas, as the control plane steers them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Personas {
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) shared: Arc<Shared>,
}

/// What the handle and the keeper both look at.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) enabled: bool,
    pub(super) store: Store,
    pub(super) audit: Audit,
    pub(super) gateway: Arc<Gateway>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) files: Files,
    pub(super) recorded: ArcSwap<Recorded>,
}

impl Personas {
    /// Records that `reviewer` reviewed the persona as it is in force, and what people were told.
    ///
    /// # Errors
    /// Why not.
    pub async fn review(
        &self,
        persona: PersonaId,
        (reviewer, notice, justification): (String, String, String),
        by: Actor,
    ) -> Result<ReviewView, PersonaFault> {
        self.ask(|answer| Ask::Review { persona, reviewer, notice, justification, by, answer }).await
    }

    /// Keeps a change for somebody to decide on. With `base`, only if that is the digest of the persona's file.
    ///
    /// # Errors
    /// Why not.
    pub async fn propose(
        &self,
        persona: PersonaId,
        patch: Value,
        base: Option<String>,
        justification: String,
        by: Actor,
    ) -> Result<Proposal, PersonaFault> {
        self.ask(|answer| Ask::Propose { persona, patch, base, justification, by, answer }).await
    }

    /// Approves a proposal and puts its file in force. One that opens something needs `widening`.
    ///
    /// # Errors
    /// Why not. After [`PersonaFault::Place`] the proposal has failed.
    pub async fn approve(
        &self,
        persona: PersonaId,
        id: i64,
        note: String,
        widening: bool,
        by: Actor,
    ) -> Result<Applied, PersonaFault> {
        self.ask(|answer| Ask::Approve { persona, id, note, widening, by, answer }).await
    }

    /// Rejects a proposal.
    ///
    /// # Errors
    /// Why not.
    pub async fn reject(&self, persona: PersonaId, id: i64, note: String, by: Actor) -> Result<Proposal, PersonaFault> {
        self.ask(|answer| Ask::Reject { persona, id, note, by, answer }).await
    }

    /// Records that people agreed that the persona sends feedback, under the notice of its review; or that they took it back.
    ///
    /// # Errors
    /// Why not.
    pub async fn opt(
        &self,
        persona: PersonaId,
        granted: bool,
        justification: String,
        by: Actor,
    ) -> Result<(), PersonaFault> {
        self.ask(|answer| Ask::Opt { persona, granted, justification, by, answer }).await
    }

    /// Takes what a persona reports of itself; tells when it was heard.
    ///
    /// # Errors
    /// Why not.
    pub async fn feedback(&self, persona: PersonaId, body: Value, by: Actor) -> Result<Timestamp, PersonaFault> {
        self.ask(|answer| Ask::Feedback { persona, body, by, answer }).await
    }

    /// Adds a note to the line `seq` of a history.
    ///
    /// # Errors
    /// Why not.
    pub async fn annotate(&self, persona: PersonaId, seq: i64, note: &str, by: Actor) -> Result<(), PersonaFault> {
        let Shared { store, audit, clock, .. } = &*self.shared;
        let text = reason(note).ok_or(PersonaFault::Text("note"))?;
        let entry = audit.entry(Deed {
            persona: Some(persona.clone()),
            why: Some(text.clone()),
            after: Some(json!({ "line": seq })),
            ..Deed::new(by.clone(), AuditAction::PersonaHistoryAnnotated)
        });
        let note = NoteRow { at: clock.now(), actor: by.as_str().to_owned(), text };
        match store.personas().annotate(persona, seq, note, MAX_NOTES, entry).await? {
            Annotated::Added => audit.committed(),
            Annotated::NoSuchLine => return Err(PersonaFault::UnknownLine(seq)),
            Annotated::Full => return Err(PersonaFault::TooManyNotes),
        }
        Ok(())
    }

    /// A persona as it stands.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn state(&self, id: &PersonaId) -> Result<PersonaState, PersonaFault> {
        let shared = &self.shared;
        let policy = shared.gateway.policy.load_full();
        let persona = policy.persona(id).ok_or_else(|| PersonaFault::UnknownPersona(id.clone()))?;
        let in_force = hex(persona.digest());
        let recorded = shared.recorded.load_full();
        let review = recorded.reviews.get(id);
        let standing = standing(shared.enabled, &in_force, review);
        let (files, own) = (shared.files.clone(), id.clone());
        let text = blocking(move || files.text(&own)).await??;
        let file = text.map(|text| FileView {
            digest: digest(&text),
            document: of_toml(&text).as_ref().map(without_proofs).unwrap_or_default(),
        });
        let mut feedback = shared.store.personas().feedback().await?;
        let open_proposals = shared.store.personas().count(id.clone(), ProposalState::Submitted.code()).await?;
        let opt_in = recorded.opt_ins.get(id);
        let taken = standing == Standing::Armed && opted_in(opt_in, review);
        Ok(PersonaState {
            id: id.clone(),
            standing,
            heartbeat_secs: persona.heartbeat().map(|time| time.as_secs()),
            review: review.map(|review| ReviewView::of(review, &in_force)),
            in_force,
            file,
            feedback: FeedbackView::of(taken, opt_in, feedback.remove(id)),
            open_proposals,
        })
    }

    /// The latest `limit` lines of a history before the line `before`, newest first. A persona that is gone keeps its own.
    ///
    /// # Errors
    /// Nobody of that name was ever known, or it cannot be read.
    pub async fn history(
        &self,
        persona: &PersonaId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<HistoryLine>, PersonaFault> {
        let lines = self.shared.store.personas().history(persona.clone(), before, limit).await?;
        if lines.is_empty() && before.is_none() && self.shared.gateway.policy.load().persona(persona).is_none() {
            return Err(PersonaFault::UnknownPersona(persona.clone()));
        }
        Ok(lines.into_iter().map(HistoryLine::from).collect())
    }

    /// The latest `limit` proposals for a persona, in one state or in any, newest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn proposals(
        &self,
        persona: &PersonaId,
        state: Option<ProposalState>,
        limit: u32,
    ) -> Result<Vec<Proposal>, PersonaFault> {
        let state = state.map(ProposalState::code);
        let rows = self.shared.store.personas().proposals(Some(persona.clone()), state, limit).await?;
        if rows.is_empty() && self.shared.gateway.policy.load().persona(persona).is_none() {
            return Err(PersonaFault::UnknownPersona(persona.clone()));
        }
        Ok(rows.into_iter().map(Proposal::from).collect())
    }

    /// Whether `personas.enable` is on.
    pub fn enabled(&self) -> bool {
        self.shared.enabled
    }

    /// How each persona in force stands, in the order of their ids.
    pub fn standings(&self) -> Vec<(PersonaId, Standing)> {
        self.shared.standings()
    }

    async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, PersonaFault> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| PersonaFault::Gone)?;
        answered.await.map_err(|_| PersonaFault::Gone)?
    }
}

impl Shared {
    pub(super) fn standings(&self) -> Vec<(PersonaId, Standing)> {
        let recorded = self.recorded.load();
        let policy = self.gateway.policy.load();
        let of = |persona: &Arc<Persona>| {
            let review = recorded.reviews.get(persona.id());
            (persona.id().clone(), standing(self.enabled, &hex(persona.digest()), review))
        };
        policy.personas().map(of).collect()
    }

    /// Digest of what is in force of a persona.
    pub(super) fn in_force(&self, persona: &PersonaId) -> Result<String, PersonaFault> {
        let policy = self.gateway.policy.load();
        let found = policy.persona(persona).ok_or_else(|| PersonaFault::UnknownPersona(persona.clone()))?;
        Ok(hex(found.digest()))
    }

    pub(super) fn armed(&self, persona: &PersonaId) -> Result<(), PersonaFault> {
        let in_force = self.in_force(persona)?;
        match standing(self.enabled, &in_force, self.recorded.load().reviews.get(persona)) {
            Standing::Armed => Ok(()),
            other => Err(PersonaFault::NotArmed(persona.clone(), other)),
        }
    }

    pub(super) fn record(&self, change: impl FnOnce(&mut Recorded)) {
        let mut recorded = Recorded::clone(&self.recorded.load());
        change(&mut recorded);
        self.recorded.store(Arc::new(recorded));
    }
}

/// Whether people agreed, to the notice that is in force.
pub(super) fn opted_in(opt_in: Option<&OptInRow>, review: Option<&ReviewRow>) -> bool {
    match (opt_in, review) {
        (Some(opt_in), Some(review)) => opt_in.granted && opt_in.notice_digest == review.notice_digest,
        _ => false,
    }
}

/// Work on files, off the executor.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PersonaFault> {
    // It ends only with the executor.
    tokio::task::spawn_blocking(work).await.map_err(|_| PersonaFault::Gone)
}
