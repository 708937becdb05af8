//! What administrators did, and what people say that they did.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::egress::{blocking, bounded, ledger_problem};
use super::extract::{JsonBody, Strict};
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, DEFAULT_LINES, Form, MAX_LINES, MAX_SEQ, Route, query};
use super::state::App;
use crate::domain::ClientAddr;
use crate::governance::audit::{Actor, AuditAction, Deed};
use crate::governance::reason::{MAX_REASON, reason};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    limit: Option<u64>,
    after: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attestation {
    subject: String,
    note: String,
}

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: Method::GET,
            path: "/state/audit",
            access: Access::Admin,
            about: "What administrators did, newest last.",
            params: const {
                &[
                    query("limit", Form::Integer(1, MAX_LINES), "At most so many entries; 100 without it."),
                    query(
                        "after",
                        Form::Integer(0, MAX_SEQ),
                        "Only behind this line of the log, the oldest of them first.",
                    ),
                ]
            },
            body: None,
            answer: Answer::Json("AuditPage"),
            problems: &[ProblemCode::BadQuery, ProblemCode::LedgerUnavailable],
            handler: || get(lines),
        },
        Route {
            method: Method::POST,
            path: "/attestations",
            access: Access::Admin,
            about: "Records in the audit that a person did what no program can see.",
            params: &[],
            body: Some("Attestation"),
            answer: Answer::Json("Attested"),
            problems: &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::ReasonRequired,
                ProblemCode::StateUnavailable,
            ],
            handler: || post(attest),
        },
    ]
}

/// JSON Schemas of the bodies and answers here.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let text = || json!({ "type": "string" });
    let both = || json!({ "subject": text(), "note": text() });
    let attestation = json!({
        "type": "object", "properties": both(), "required": ["subject", "note"], "additionalProperties": false,
    });
    let attested = json!({
        "type": "object",
        "properties": { "subject": text(), "note": text(), "by": text(), "at": text() },
        "required": ["subject", "note", "by", "at"],
    });
    let page = json!({
        "type": "object",
        "properties": { "entries": { "type": "array", "items": { "type": "object" } } },
        "required": ["entries"],
    });
    [("Attestation", attestation), ("Attested", attested), ("AuditPage", page)]
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

pub(super) async fn lines(
    State(app): State<Arc<App>>,
    Strict(query): Strict<AuditQuery>,
) -> Result<Json<Value>, Problem> {
    let limit = bounded("limit", query.limit.unwrap_or(DEFAULT_LINES), 1, MAX_LINES)?;
    let after = query.after.map(|after| bounded("after", after, 0, MAX_SEQ)).transpose()?;
    let turn = app.reading().await?;
    let audit = app.state.governance.audit.clone();
    let read = blocking(move || {
        let _turn = turn;
        audit.lines(after.map(|after| after as u64), limit)
    });
    let entries = read.await?.map_err(|fault| ledger_problem(&fault))?;
    Ok(Json(json!({ "entries": entries })))
}

pub(super) async fn attest(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    JsonBody(attestation): JsonBody<Attestation>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let line = |name: &str, text: &str| {
        reason(text).ok_or_else(|| {
            Problem::new(ProblemCode::ReasonRequired, format!("`{name}` is one line of 1 to {MAX_REASON} bytes"))
        })
    };
    let (subject, note) = (line("subject", &attestation.subject)?, line("note", &attestation.note)?);
    let by = Actor::of(peer);
    let deed = Deed {
        why: Some(note.clone()),
        after: Some(json!({ "subject": subject })),
        ..Deed::new(by.clone(), AuditAction::Attested)
    };
    let at = app.state.clock.now();
    app.state.governance.audit.record(deed).await.map_err(|fault| {
        tracing::error!(%fault, "an attestation could not be kept");
        Problem::new(ProblemCode::StateUnavailable, fault.to_string())
    })?;
    let attested = json!({ "subject": subject, "note": note, "by": by.as_str(), "at": at });
    Ok((StatusCode::CREATED, Json(attested)))
}
