//! Proposals: submitted, decided, put in force, and gone on with after a crash.

use serde_json::{Value, json};

use super::candidate::Candidate;
use super::fault::PersonaFault;
use super::handle::blocking;
use super::keeper::{Keeper, MAX_OPEN};
use super::patch::{Patch, shown};
use super::place;
use super::review::digest;
use super::view::{Applied, HistoryKind, Proposal, ProposalState, json_of};
use crate::domain::PersonaId;
use crate::events::EventKind;
use crate::governance::audit::{Actor, AuditAction};
use crate::governance::reason::reason;
use crate::store::{ProposalDecision, ProposalEnd, ProposalRow, ReviewRow};

/// Half-done proposals that are looked for at once: approvals come one by one, so there is one at the most.
const MOST_APPLYING: u32 = 64;

/// A proposal whose approval is kept, on the way into force.
struct Approved {
    row: ProposalRow,
    by: Actor,
    /// Whether an earlier attempt began it.
    resumed: bool,
}

impl Keeper {
    pub(super) async fn propose(
        &mut self,
        persona: PersonaId,
        patch: Value,
        base: Option<String>,
        justification: &str,
        by: Actor,
    ) -> Result<Proposal, PersonaFault> {
        self.shared.armed(&persona)?;
        let justification = reason(justification).ok_or(PersonaFault::Text("justification"))?;
        let patch = Patch::read(patch)?;
        let state = ProposalState::Submitted.code();
        if self.shared.store.personas().count(persona.clone(), state).await? >= MAX_OPEN {
            return Err(PersonaFault::TooManyOpen(persona));
        }
        let candidate = self.candidate(&persona, base, &patch).await?;
        let kept = patch.kept();
        let mut row = ProposalRow {
            id: 0,
            persona: persona.clone(),
            state: state.to_owned(),
            patch: kept.to_string(),
            base: candidate.base,
            widens: json!(candidate.widens).to_string(),
            justification: justification.clone(),
            submitted_by: by.as_str().to_owned(),
            submitted_at: self.shared.clock.now(),
            decided: None,
            result: None,
            text: None,
        };
        let mut data = json!({ "base": row.base, "widens": candidate.widens, "operations": patch.steps() });
        let entry = self.deed(&persona, &by, AuditAction::PersonaProposalSubmitted, &justification, data.clone());
        data["justification"] = json!(justification);
        data["patch"] = shown(&kept);
        let line = self.line(&persona, HistoryKind::ProposalSubmitted, &by, None, &data);
        row.id = self.shared.store.personas().submit(row.clone(), line, entry).await?;
        self.shared.audit.committed();
        tracing::info!(%persona, proposal = row.id, %by, "a change of a persona was proposed");
        let told = json!({
            "proposal": row.id, "by": by.as_str(), "widens": candidate.widens, "justification": justification,
        });
        self.tell(EventKind::PersonaProposalSubmitted, &persona, told);
        Ok(row.into())
    }

    pub(super) async fn approve(
        &mut self,
        persona: &PersonaId,
        id: i64,
        note: &str,
        widening: bool,
        by: Actor,
    ) -> Result<Applied, PersonaFault> {
        let note = reason(note).ok_or(PersonaFault::Text("note"))?;
        let mut row = self.undecided(persona, id).await?;
        self.shared.armed(persona)?;
        let patch = Patch::read(json_of(&row.patch))?;
        let candidate = self.candidate(persona, Some(row.base.clone()), &patch).await?;
        let Candidate { text, digest, widens, .. } = candidate;
        if !widens.is_empty() && self.shared.gateway.latched().is_some() {
            return Err(PersonaFault::Latched);
        }
        if !widens.is_empty() && !widening {
            return Err(PersonaFault::Widens(widens));
        }
        let mut data = json!({ "proposal": id, "base": row.base, "result": digest, "widens": widens });
        let entry = self.deed(persona, &by, AuditAction::PersonaProposalApproved, &note, data.clone());
        data["note"] = json!(note);
        data["patch"] = shown(&json_of(&row.patch));
        let line = self.line(persona, HistoryKind::ProposalApproved, &by, Some(id), &data);
        row.state = ProposalState::Applying.code().to_owned();
        row.decided = Some((by.as_str().to_owned(), line.at, note.clone()));
        (row.result, row.text) = (Some(digest.clone()), Some(text.clone()));
        let decision = ProposalDecision {
            id,
            state: ProposalState::Applying.code(),
            by: by.as_str().to_owned(),
            at: line.at,
            note: note.clone(),
            file: Some((digest, text)),
        };
        let from = ProposalState::Submitted.code();
        if !self.shared.store.personas().decide(from, decision, line, entry).await? {
            return Err(PersonaFault::UnknownProposal(id));
        }
        self.shared.audit.committed();
        tracing::info!(%persona, proposal = id, %by, "a proposal was approved");
        let told = json!({ "proposal": id, "by": by.as_str(), "note": note, "widens": widens });
        self.tell(EventKind::PersonaProposalApproved, persona, told);
        self.apply(Approved { row, by, resumed: false }).await
    }

    pub(super) async fn reject(
        &mut self,
        persona: &PersonaId,
        id: i64,
        note: &str,
        by: Actor,
    ) -> Result<Proposal, PersonaFault> {
        let note = reason(note).ok_or(PersonaFault::Text("note"))?;
        let mut row = self.undecided(persona, id).await?;
        let data = json!({ "proposal": id, "base": row.base });
        let entry = self.deed(persona, &by, AuditAction::PersonaProposalRejected, &note, data);
        let line = self.line(persona, HistoryKind::ProposalRejected, &by, Some(id), &json!({ "note": note }));
        let state = ProposalState::Rejected.code();
        row.state = state.to_owned();
        row.decided = Some((by.as_str().to_owned(), line.at, note.clone()));
        let decision =
            ProposalDecision { id, state, by: by.as_str().to_owned(), at: line.at, note: note.clone(), file: None };
        let from = ProposalState::Submitted.code();
        if !self.shared.store.personas().decide(from, decision, line, entry).await? {
            return Err(PersonaFault::UnknownProposal(id));
        }
        self.shared.audit.committed();
        tracing::info!(%persona, proposal = id, %by, "a proposal was rejected");
        let told = json!({ "proposal": id, "by": by.as_str(), "note": note, "state": state });
        self.tell(EventKind::PersonaProposalRejected, persona, told);
        Ok(row.into())
    }

    /// Goes on with what an earlier attempt left half done: its approval is kept, so is the file that it makes.
    pub(super) async fn resume(&mut self) {
        let applying = Some(ProposalState::Applying.code());
        let rows = match self.shared.store.personas().proposals(None, applying, MOST_APPLYING).await {
            Ok(rows) => rows,
            Err(fault) => {
                tracing::error!(%fault, "half-done proposals cannot be looked for");
                return;
            }
        };
        for row in rows.into_iter().rev() {
            let (persona, proposal) = (row.persona.clone(), row.id);
            tracing::warn!(%persona, proposal, "a proposal was approved and not yet in force: going on with it");
            let by = Actor::recorded(row.decided.as_ref().map_or("daemon", |(by, _, _)| by));
            if let Err(fault) = self.apply(Approved { row, by, resumed: true }).await {
                tracing::error!(%persona, proposal, %fault, "a proposal could not be gone on with");
            }
        }
    }

    /// Puts an approved proposal's file in place and in force, from wherever it was left off.
    async fn apply(&mut self, approved: Approved) -> Result<Applied, PersonaFault> {
        let Approved { mut row, by, resumed } = approved;
        let (persona, id) = (row.persona.clone(), row.id);
        let (Some(wanted), Some(text)) = (row.result.clone(), row.text.take()) else {
            return self.fail(row, &by, "the state does not have its file".to_owned()).await;
        };
        let (files, own, base, result) = (self.shared.files.clone(), persona.clone(), row.base.clone(), wanted.clone());
        let placed = blocking(move || {
            let expected = files.in_force_with(&own, &text).map_err(|fault| fault.to_string())?;
            match files.text(&own).map_err(|faults| faults.to_string())?.map(digest) {
                // Renamed before the last daemon ended.
                Some(found) if found == result => Ok(expected),
                Some(found) if found == base => match place::replace(&files.path(&own), &text) {
                    Ok(()) => Ok(expected),
                    Err(fault) => Err(fault.to_string()),
                },
                Some(_) => Err("the file was changed by other hands meanwhile".to_owned()),
                None => Err("the file is gone".to_owned()),
            }
        })
        .await?;
        let expected = match placed {
            Ok(expected) => expected,
            Err(why) => return self.fail(row, &by, why).await,
        };
        let taken = self.reload(&by, format!("proposal {id} of {persona}")).await?;
        let in_force = taken && self.shared.in_force(&persona).is_ok_and(|found| found == expected);
        let review = self.carried(&row, &by, &expected);
        let state = ProposalState::Approved.code();
        let why = row.decided.as_ref().map_or("", |(_, _, note)| note.as_str());
        let mut data = json!({ "base": row.base, "result": wanted, "in_force": in_force, "resumed": resumed });
        let entry = self.deed(&persona, &by, AuditAction::PersonaProposalApplied, why, with(&data, "proposal", id));
        data["patch"] = shown(&json_of(&row.patch));
        let line = self.line(&persona, HistoryKind::ProposalApplied, &by, Some(id), &data);
        let known = in_force.then(|| expected.clone());
        let end = ProposalEnd { id, state, review: review.clone(), known };
        self.shared.store.personas().finish(end, line, entry).await?;
        self.shared.audit.committed();
        row.state = state.to_owned();
        self.shared.record(|recorded| recorded.reviews.extend(review.map(|review| (persona.clone(), review))));
        if in_force {
            self.known.insert(persona.clone(), expected);
        }
        tracing::info!(%persona, proposal = id, in_force, resumed, "a proposal was applied");
        let told = json!({
            "proposal": id, "by": by.as_str(), "in_force": in_force, "resumed": resumed, "result": wanted,
        });
        self.tell(EventKind::PersonaUpdated, &persona, told);
        self.say_standings();
        Ok(Applied { proposal: row.into(), in_force })
    }

    /// The review of what the proposal makes. Its base was reviewed when it was approved, and approving it was the review of
    /// the change; the notice is the one that people got.
    fn carried(&self, row: &ProposalRow, by: &Actor, expected: &str) -> Option<ReviewRow> {
        let recorded = self.shared.recorded.load();
        let (reviewer, at, justification) = row.decided.clone()?;
        let before = recorded.reviews.get(&row.persona)?.clone();
        Some(ReviewRow {
            at,
            reviewer,
            recorded_by: by.as_str().to_owned(),
            justification,
            file_digest: expected.to_owned(),
            proposal: Some(row.id),
            ..before
        })
    }

    /// Ends a proposal that was approved and cannot be put in place.
    async fn fail(&mut self, row: ProposalRow, by: &Actor, why: String) -> Result<Applied, PersonaFault> {
        let (persona, state) = (&row.persona, ProposalState::Failed.code());
        tracing::error!(%persona, proposal = row.id, why, "an approved proposal could not be put in place");
        let data = json!({ "proposal": row.id, "base": row.base, "why": why });
        let entry = self.deed(persona, by, AuditAction::PersonaProposalFailed, &why, data);
        let line = self.line(persona, HistoryKind::ProposalFailed, by, Some(row.id), &json!({ "why": why }));
        let end = ProposalEnd { id: row.id, state, review: None, known: None };
        self.shared.store.personas().finish(end, line, entry).await?;
        self.shared.audit.committed();
        self.tell(
            EventKind::PersonaProposalRejected,
            persona,
            json!({ "proposal": row.id, "state": state, "why": why }),
        );
        Err(PersonaFault::Place(row.persona, why))
    }

    /// A proposal of `persona` that waits for a decision.
    async fn undecided(&self, persona: &PersonaId, id: i64) -> Result<ProposalRow, PersonaFault> {
        let found = self.shared.store.personas().proposal(id).await?.filter(|row| row.persona == *persona);
        let row = found.ok_or(PersonaFault::UnknownProposal(id))?;
        match ProposalState::from_code(&row.state) {
            Some(ProposalState::Submitted) => Ok(row),
            _ => Err(PersonaFault::Decided(id, row.state)),
        }
    }

    /// What `patch` makes of the file, which must be what is in force: what nobody reviewed is not built upon.
    async fn candidate(
        &self,
        persona: &PersonaId,
        base: Option<String>,
        patch: &Patch,
    ) -> Result<Candidate, PersonaFault> {
        let (files, own, patch) = (self.shared.files.clone(), persona.clone(), patch.clone());
        let candidate = blocking(move || files.candidate(&own, base.as_deref(), &patch)).await??;
        match self.shared.in_force(persona)? == candidate.in_force {
            true => Ok(candidate),
            false => Err(PersonaFault::NotInForce(persona.clone())),
        }
    }
}

/// `data` with one more entry.
fn with(data: &Value, key: &str, value: i64) -> Value {
    let mut data = data.clone();
    data[key] = json!(value);
    data
}
