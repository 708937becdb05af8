//! Personas beyond their traffic: reviewed, changed by proposals, heard.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::Caller;
use super::egress::bounded;
use super::extract::{JsonBody, Strict};
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, Form, MAX_HISTORY, MAX_SEQ, Param, Place, Route, query};
use super::state::App;
use super::wire::{Arming, NotArmed};
use crate::domain::{ClientAddr, PersonaId};
use crate::governance::audit::Actor;
use crate::governance::authority::{Action, Resource};
use crate::governance::personas::{Applied, PersonaFault, PersonaState, Proposal, ProposalState, ReviewView, Standing};

/// Lines of a history, or proposals, without `limit`. 50: a screen.
const DEFAULT_HISTORY: u64 = 50;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReviewWanted {
    reviewer: String,
    notice: String,
    justification: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProposalWanted {
    patch: Value,
    justification: String,
    base: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approval {
    note: String,
    #[serde(default)]
    widening: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    note: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OptIn {
    granted: bool,
    justification: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    limit: Option<u64>,
    before: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProposalsQuery {
    limit: Option<u64>,
    state: Option<String>,
}

const PERSONA: Param = Param { name: "id", place: Place::Path, form: Form::Text, about: "Id of the persona." };
const PROPOSAL: Param =
    Param { name: "proposal", place: Place::Path, form: Form::Integer(1, MAX_SEQ), about: "Number of the proposal." };
const LINE: Param =
    Param { name: "seq", place: Place::Path, form: Form::Integer(1, MAX_SEQ), about: "Number of the line." };
const STATES: Form = Form::OneOf(&["submitted", "applying", "approved", "rejected", "failed"]);

/// Problems of every route that changes something here.
macro_rules! changing {
    ($($more:ident),*) => {
        &[
            ProblemCode::NoSuchPersona,
            ProblemCode::NotJson,
            ProblemCode::StateUnavailable,
            ProblemCode::NotReady,
            $(ProblemCode::$more,)*
        ]
    };
}

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    let mut routes = shown_routes();
    routes.extend(proposal_routes());
    routes.extend(people_routes());
    routes
}

fn shown_routes() -> Vec<Route> {
    let shown = |path, about, params, answer, problems, handler| Route {
        method: Method::GET,
        path,
        access: Access::Admin,
        about,
        params,
        body: None,
        answer: Answer::Json(answer),
        problems,
        handler,
    };
    const READ: &[ProblemCode] = &[
        ProblemCode::NoSuchPersona,
        ProblemCode::BadQuery,
        ProblemCode::PolicyFaults,
        ProblemCode::StateUnavailable,
        ProblemCode::NotReady,
    ];
    const LIMIT: Param = query("limit", Form::Integer(1, MAX_HISTORY), "At most so many; 50 without it.");
    vec![
        shown(
            "/state/persona/{id}",
            "A persona as it stands: armed or not, its review, its file as patches see it, its feedback.",
            const { &[PERSONA] },
            "PersonaState",
            READ,
            || get(state),
        ),
        shown(
            "/state/persona/{id}/history",
            "What happened to a persona, newest first.",
            const { &[PERSONA, LIMIT, query("before", Form::Integer(0, MAX_SEQ), "Only lines before this one.")] },
            "PersonaHistory",
            READ,
            || get(history),
        ),
        shown(
            "/state/persona/{id}/proposals",
            "Proposals for a persona, newest first.",
            const { &[PERSONA, LIMIT, query("state", STATES, "Only in this state.")] },
            "PersonaProposals",
            READ,
            || get(proposals),
        ),
    ]
}

/// A route that takes a body.
fn posted(
    (path, about): (&'static str, &'static str),
    params: &'static [Param],
    (body, answer): (&'static str, &'static str),
    problems: &'static [ProblemCode],
    handler: fn() -> MethodRouter<Arc<App>>,
) -> Route {
    let answer = Answer::Json(answer);
    Route {
        method: Method::POST,
        path,
        access: Access::Admin,
        about,
        params,
        body: Some(body),
        answer,
        problems,
        handler,
    }
}

fn proposal_routes() -> Vec<Route> {
    vec![
        posted(
            ("/persona/{id}/proposals", "Keeps a JSON Patch (RFC 6902) for somebody to decide on; 201."),
            const { &[PERSONA] },
            ("PersonaProposalRequest", "PersonaProposal"),
            changing!(
                PersonaNotArmed,
                PersonaWithoutFile,
                StaleBase,
                PatchRefused,
                PolicyFaults,
                ReasonRequired,
                TooManyRecords
            ),
            || post(propose),
        ),
        posted(
            ("/persona/{id}/proposals/{proposal}/approve", "Approves a proposal and puts its file in force."),
            const { &[PERSONA, PROPOSAL] },
            ("PersonaApproval", "PersonaApplied"),
            changing!(
                NoSuchProposal,
                ProposalDecided,
                ProposalFailed,
                PersonaNotArmed,
                PersonaWithoutFile,
                StaleBase,
                PatchRefused,
                PolicyFaults,
                Widening,
                ReasonRequired,
                ShutdownLatched
            ),
            || post(approve),
        ),
        posted(
            ("/persona/{id}/proposals/{proposal}/reject", "Rejects a proposal."),
            const { &[PERSONA, PROPOSAL] },
            ("PersonaNote", "PersonaProposal"),
            changing!(NoSuchProposal, ProposalDecided, ReasonRequired),
            || post(reject),
        ),
        posted(
            ("/persona/{id}/history/{seq}/note", "Adds a note to a line of a persona's history."),
            const { &[PERSONA, LINE] },
            ("PersonaNote", "Done"),
            changing!(NoSuchEntry, ReasonRequired, TooManyRecords),
            || post(annotate),
        ),
    ]
}

fn people_routes() -> Vec<Route> {
    vec![
        posted(
            ("/persona/{id}/review", "Records who reviewed the persona as it is in force, and what people were told."),
            const { &[PERSONA] },
            ("PersonaReviewRequest", "PersonaReview"),
            changing!(NoticeRequired, ReasonRequired),
            || post(review),
        ),
        posted(
            (
                "/persona/{id}/feedback/consent",
                "Records that people agreed that the persona sends feedback, or took it back.",
            ),
            const { &[PERSONA] },
            ("PersonaOptIn", "Done"),
            changing!(PersonaNotArmed, NotOptedIn, ReasonRequired),
            || post(opt),
        ),
        posted(
            ("/persona/{id}/feedback", "Takes what a persona reports of itself."),
            const { &[PERSONA] },
            ("PersonaFeedback", "PersonaHeard"),
            changing!(PersonaNotArmed, NotOptedIn, TooFast),
            || post(feedback),
        ),
    ]
}

/// JSON Schemas of the bodies and answers here; docs/personas.md says what the fields mean.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let text = || json!({ "type": "string" });
    let whole = || json!({ "type": "integer" });
    let truth = || json!({ "type": "boolean" });
    let closed = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let open = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required });
    let list = |of: Value| json!({ "type": "array", "items": of });
    let proposal = open(
        json!({
            "id": whole(), "persona": text(), "state": { "enum": ["submitted", "applying", "approved", "rejected", "failed"] },
            "patch": list(json!({ "type": "object" })), "base": text(), "widens": list(json!({ "type": "object" })),
            "justification": text(), "submitted_by": text(), "submitted_at": text(), "decided_by": text(),
            "decided_at": text(), "note": text(), "result": text(),
        }),
        &["id", "persona", "state", "patch", "base", "widens", "justification", "submitted_by", "submitted_at"],
    );
    let line = open(
        json!({
            "seq": whole(), "persona": text(), "at": text(), "kind": text(), "actor": text(), "proposal": whole(),
            "data": { "type": "object" }, "notes": list(json!({ "type": "object" })),
        }),
        &["seq", "persona", "at", "kind", "actor", "data", "notes"],
    );
    let review = open(
        json!({
            "at": text(), "reviewer": text(), "recorded_by": text(), "justification": text(), "file_digest": text(),
            "fits": truth(), "notice": text(), "notice_digest": text(), "proposal": whole(),
        }),
        &["at", "reviewer", "recorded_by", "justification", "file_digest", "fits", "notice", "notice_digest"],
    );
    let all = [
        (
            "PersonaState",
            open(
                json!({
                    "id": text(), "standing": text(), "in_force": text(), "heartbeat_secs": {}, "review": {}, "file": {},
                    "feedback": { "type": "object" }, "open_proposals": whole(),
                }),
                &["id", "standing", "in_force", "feedback", "open_proposals"],
            ),
        ),
        ("PersonaHistory", open(json!({ "lines": list(line), "next": {} }), &["lines", "next"])),
        ("PersonaProposals", open(json!({ "proposals": list(proposal.clone()) }), &["proposals"])),
        (
            "PersonaApplied",
            open(json!({ "proposal": proposal.clone(), "in_force": truth() }), &["proposal", "in_force"]),
        ),
        ("PersonaProposal", proposal),
        ("PersonaReview", review),
        (
            "PersonaReviewRequest",
            closed(
                json!({ "reviewer": text(), "notice": text(), "justification": text() }),
                &["reviewer", "notice", "justification"],
            ),
        ),
        (
            "PersonaProposalRequest",
            closed(
                json!({ "patch": list(json!({ "type": "object" })), "justification": text(), "base": text() }),
                &["patch", "justification"],
            ),
        ),
        ("PersonaApproval", closed(json!({ "note": text(), "widening": truth() }), &["note"])),
        ("PersonaNote", closed(json!({ "note": text() }), &["note"])),
        ("PersonaOptIn", closed(json!({ "granted": truth(), "justification": text() }), &["granted", "justification"])),
        ("PersonaFeedback", json!({ "type": "object", "description": "What the persona reports; at most 4 KiB." })),
        ("PersonaHeard", open(json!({ "at": text() }), &["at"])),
        ("Done", open(json!({ "done": truth() }), &["done"])),
    ];
    all.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn refused(fault: PersonaFault) -> Problem {
    let code = match &fault {
        PersonaFault::UnknownPersona(_) => ProblemCode::NoSuchPersona,
        PersonaFault::NotArmed(..) => ProblemCode::PersonaNotArmed,
        PersonaFault::Text(_) => ProblemCode::ReasonRequired,
        PersonaFault::Notice => ProblemCode::NoticeRequired,
        PersonaFault::Patch(_) | PersonaFault::Document(_) | PersonaFault::Unchanged => ProblemCode::PatchRefused,
        PersonaFault::Faults(_) => ProblemCode::PolicyFaults,
        PersonaFault::NoFile(_) => ProblemCode::PersonaWithoutFile,
        PersonaFault::StaleBase(_) | PersonaFault::NotInForce(_) => ProblemCode::StaleBase,
        PersonaFault::Widens(_) => ProblemCode::Widening,
        PersonaFault::TooManyOpen(_) | PersonaFault::TooManyNotes => ProblemCode::TooManyRecords,
        PersonaFault::UnknownProposal(_) => ProblemCode::NoSuchProposal,
        PersonaFault::Decided(..) => ProblemCode::ProposalDecided,
        PersonaFault::UnknownLine(_) => ProblemCode::NoSuchEntry,
        PersonaFault::NotOptedIn(_) => ProblemCode::NotOptedIn,
        PersonaFault::NoReview(_) => ProblemCode::PersonaNotArmed,
        PersonaFault::TooFast(..) => ProblemCode::TooFast,
        PersonaFault::Feedback => ProblemCode::BadRequest,
        PersonaFault::Latched => ProblemCode::ShutdownLatched,
        PersonaFault::Place(..) => ProblemCode::ProposalFailed,
        PersonaFault::Store(fault) => {
            tracing::error!(%fault, "a change of a persona could not be kept");
            ProblemCode::StateUnavailable
        }
        PersonaFault::Unkept(..) => ProblemCode::StateUnavailable,
        PersonaFault::Gone => ProblemCode::NotReady,
    };
    let mut problem = match &fault {
        PersonaFault::Faults(faults) => {
            Problem::new(code, format!("a reload would refuse it: {} faults", faults.0.len()))
        }
        other => Problem::new(code, other.to_string()),
    };
    match fault {
        PersonaFault::NotArmed(persona, standing) => problem.hint = standing.hint(persona.as_str()),
        PersonaFault::Faults(faults) => problem.faults = faults.0,
        PersonaFault::Widens(_) => {
            problem =
                problem.hint("look at the patch, and approve with `widening` (`--accept-widening`) if that is meant");
        }
        PersonaFault::StaleBase(_) => problem = problem.hint("reject it, and propose again for the file as it is"),
        PersonaFault::NotOptedIn(persona) => {
            let hint = format!("`arw-cli persona feedback opt-in {persona} --justification …`, once people agreed");
            problem = problem.hint(hint);
        }
        PersonaFault::TooFast(_, wait) => problem.retry_after = Some(wait.as_secs().max(1)),
        PersonaFault::Latched => problem = problem.hint("`arw-cli automation rearm --reason …` releases it"),
        _ => {}
    }
    problem
}

fn known(id: &str) -> Result<PersonaId, Problem> {
    PersonaId::parse(id).map_err(|_| Problem::new(ProblemCode::NoSuchPersona, "there is no such persona"))
}

/// A number in a path.
fn number(text: &str, code: ProblemCode) -> Result<i64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse::<u64>().ok()).flatten().filter(|number| *number <= MAX_SEQ);
    number.and_then(|number| i64::try_from(number).ok()).ok_or_else(|| Problem::new(code, "there is no such number"))
}

fn limit(asked: Option<u64>) -> Result<u32, Problem> {
    let limit = bounded("limit", asked.unwrap_or(DEFAULT_HISTORY), 1, MAX_HISTORY)?;
    Ok(u32::try_from(limit).unwrap_or(u32::MAX))
}

/// Who is not armed although that is wanted.
pub(super) fn arming(app: &App) -> Arming {
    let personas = &app.state.governance.personas;
    let not_armed = |(persona, standing): (PersonaId, Standing)| match standing {
        Standing::NotReviewed | Standing::ReviewStale => Some(NotArmed { persona, code: standing.code().to_owned() }),
        Standing::Off | Standing::Armed => None,
    };
    Arming { enabled: personas.enabled(), not_armed: personas.standings().into_iter().filter_map(not_armed).collect() }
}

pub(super) async fn state(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<PersonaState>, Problem> {
    let persona = known(&id)?;
    let mut state = app.state.governance.personas.state(&persona).await.map_err(refused)?;
    // That it reports is the persona's state; what it reports is its telemetry.
    if state.feedback.last.is_some()
        && !app.may_also(&caller, Action::TelemetryRead, Resource::Persona(persona)).await?
    {
        state.feedback.last = None;
        state.feedback.withheld = true;
    }
    Ok(Json(state))
}

pub(super) async fn history(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Strict(query): Strict<HistoryQuery>,
) -> Result<Json<Value>, Problem> {
    let limit = limit(query.limit)?;
    let before = match query.before {
        Some(before) => Some(bounded("before", before, 0, MAX_SEQ)?),
        None => None,
    };
    let before = before.and_then(|before| i64::try_from(before).ok());
    let lines = app.state.governance.personas.history(&known(&id)?, before, limit).await.map_err(refused)?;
    let full = u32::try_from(lines.len()).is_ok_and(|count| count == limit);
    let next = lines.last().map(|line| line.seq).filter(|_| full);
    Ok(Json(json!({ "lines": lines, "next": next })))
}

pub(super) async fn annotate(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path((id, seq)): Path<(String, String)>,
    JsonBody(wanted): JsonBody<Note>,
) -> Result<Json<Value>, Problem> {
    let (persona, seq) = (known(&id)?, number(&seq, ProblemCode::NoSuchEntry)?);
    app.state.governance.personas.annotate(persona, seq, &wanted.note, Actor::of(peer)).await.map_err(refused)?;
    Ok(Json(json!({ "done": true })))
}

pub(super) async fn review(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    JsonBody(wanted): JsonBody<ReviewWanted>,
) -> Result<Json<ReviewView>, Problem> {
    let said = (wanted.reviewer, wanted.notice, wanted.justification);
    app.state.governance.personas.review(known(&id)?, said, Actor::of(peer)).await.map(Json).map_err(refused)
}

pub(super) async fn proposals(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Strict(query): Strict<ProposalsQuery>,
) -> Result<Json<Value>, Problem> {
    let state = match query.state.as_deref() {
        None => None,
        Some(code) => Some(ProposalState::from_code(code).ok_or_else(|| {
            let states: Vec<&str> = ProposalState::ALL.iter().map(|state| state.code()).collect();
            Problem::new(ProblemCode::BadQuery, format!("`state` is one of {}", states.join(", ")))
        })?),
    };
    let (persona, limit) = (known(&id)?, limit(query.limit)?);
    let proposals = app.state.governance.personas.proposals(&persona, state, limit).await.map_err(refused)?;
    Ok(Json(json!({ "proposals": proposals })))
}

pub(super) async fn propose(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    JsonBody(wanted): JsonBody<ProposalWanted>,
) -> Result<(StatusCode, Json<Proposal>), Problem> {
    let ProposalWanted { patch, justification, base } = wanted;
    let personas = &app.state.governance.personas;
    let kept = personas.propose(known(&id)?, patch, base, justification, Actor::of(peer)).await.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(kept)))
}

pub(super) async fn approve(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path((id, proposal)): Path<(String, String)>,
    JsonBody(wanted): JsonBody<Approval>,
) -> Result<Json<Applied>, Problem> {
    let (persona, proposal) = (known(&id)?, number(&proposal, ProblemCode::NoSuchProposal)?);
    let personas = &app.state.governance.personas;
    let applied = personas.approve(persona, proposal, wanted.note, wanted.widening, Actor::of(peer)).await;
    applied.map(Json).map_err(refused)
}

pub(super) async fn reject(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path((id, proposal)): Path<(String, String)>,
    JsonBody(wanted): JsonBody<Note>,
) -> Result<Json<Proposal>, Problem> {
    let (persona, proposal) = (known(&id)?, number(&proposal, ProblemCode::NoSuchProposal)?);
    let rejected = app.state.governance.personas.reject(persona, proposal, wanted.note, Actor::of(peer)).await;
    rejected.map(Json).map_err(refused)
}

pub(super) async fn opt(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    JsonBody(wanted): JsonBody<OptIn>,
) -> Result<Json<Value>, Problem> {
    let personas = &app.state.governance.personas;
    personas.opt(known(&id)?, wanted.granted, wanted.justification, Actor::of(peer)).await.map_err(refused)?;
    Ok(Json(json!({ "done": true })))
}

pub(super) async fn feedback(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<Value>,
) -> Result<Json<Value>, Problem> {
    let at = app.state.governance.personas.feedback(known(&id)?, body, Actor::of(peer)).await.map_err(refused)?;
    Ok(Json(json!({ "at": at })))
}
