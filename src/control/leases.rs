//! Leases: given, shown, taken back.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::Caller;
use super::egress::bounded;
use super::extract::{JsonBody, Strict};
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, Form, MAX_LEASES, Param, Place, Route, query};
use super::state::App;
use crate::domain::{ClientAddr, LeaseId, PersonaId};
use crate::governance::audit::Actor;
use crate::governance::authority::{Action, Capability, Resource};
use crate::governance::leases::{Lease, LeaseFault, LeaseRequest};
use crate::governance::reason::reason;

/// What the record says where nobody gave a reason.
const NO_REASON: &str = "no reason given";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    capability: String,
    subject: PersonaId,
    ttl_secs: u64,
    justification: String,
    max_uses: Option<u64>,
    max_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    ended: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeQuery {
    reason: Option<String>,
}

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: Method::GET,
            path: "/state/leases",
            access: Access::Admin,
            about: "Leases in force, with what was used of them.",
            params: const { &[query("ended", Form::Integer(0, MAX_LEASES), "Also so many that have ended, newest first.")] },
            body: None,
            answer: Answer::Json("Leases"),
            problems: &[ProblemCode::BadQuery, ProblemCode::StateUnavailable, ProblemCode::NotReady],
            handler: || get(list),
        },
        Route {
            method: Method::POST,
            path: "/leases",
            access: Access::Admin,
            about: "Gives a lease: 201, or 200 where one for the same was in force and ends later now.",
            params: &[],
            body: Some("LeaseRequest"),
            answer: Answer::Json("Lease"),
            problems: &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::NoSuchPersona,
                ProblemCode::LeaseCapability,
                ProblemCode::LeaseTime,
                ProblemCode::LeaseBound,
                ProblemCode::LeaseUseless,
                ProblemCode::LeaseEnded,
                ProblemCode::ReasonRequired,
                ProblemCode::TooManyLeases,
                ProblemCode::ShutdownLatched,
                ProblemCode::StateUnavailable,
                ProblemCode::NotReady,
            ],
            handler: || post(grant),
        },
        Route {
            method: Method::DELETE,
            path: "/leases/{id}",
            access: Access::Admin,
            about: "Takes a lease back and cuts what it let through.",
            params: const {
                &[
                    Param { name: "id", place: Place::Path, form: Form::Text, about: "Id of the lease." },
                    query("reason", Form::Text, "Why, for the audit."),
                ]
            },
            body: None,
            answer: Answer::Json("LeaseRevoked"),
            problems: &[
                ProblemCode::BadQuery,
                ProblemCode::NoSuchLease,
                ProblemCode::ReasonRequired,
                ProblemCode::NotReady,
            ],
            handler: || delete(revoke),
        },
    ]
}

/// JSON Schemas of the bodies and answers here.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let text = || json!({ "type": "string" });
    let count = || json!({ "type": "integer", "minimum": 1 });
    let lease = json!({
        "type": "object",
        "properties": {
            "id": text(), "capability": text(), "subject": text(), "issuer": text(), "justification": text(),
            "created_at": text(), "expires_at": text(), "max_uses": count(), "max_bytes": count(),
            "uses": { "type": "integer" }, "bytes": { "type": "integer" },
            "ended_at": text(), "end": { "enum": ["expired", "revoked", "kill_switch"] },
        },
        "required": ["id", "capability", "subject", "issuer", "justification", "created_at", "expires_at"],
    });
    let wanted = json!({
        "type": "object",
        "properties": {
            "capability": text(), "subject": text(), "ttl_secs": count(), "justification": text(),
            "max_uses": count(), "max_bytes": count(),
        },
        "required": ["capability", "subject", "ttl_secs", "justification"],
        "additionalProperties": false,
    });
    let list = json!({
        "type": "object",
        "properties": { "leases": { "type": "array", "items": lease }, "ended": { "type": "array", "items": lease } },
        "required": ["leases", "ended"],
    });
    let revoked = json!({
        "type": "object",
        "properties": { "lease": lease, "cut": { "type": "integer" }, "persisted": { "type": "boolean" } },
        "required": ["lease", "cut", "persisted"],
    });
    [("Lease", lease), ("LeaseRequest", wanted), ("Leases", list), ("LeaseRevoked", revoked)]
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

fn refused(fault: &LeaseFault) -> Problem {
    let code = match fault {
        LeaseFault::Capability(_) => ProblemCode::LeaseCapability,
        LeaseFault::UnknownPersona(_) => ProblemCode::NoSuchPersona,
        LeaseFault::PostureOff(_) => ProblemCode::LeaseUseless,
        LeaseFault::TooShort | LeaseFault::Personal(_) | LeaseFault::TooLong => ProblemCode::LeaseTime,
        LeaseFault::Justification => ProblemCode::ReasonRequired,
        LeaseFault::Bound(_) | LeaseFault::Uncounted(_) => ProblemCode::LeaseBound,
        LeaseFault::TooMany => ProblemCode::TooManyLeases,
        LeaseFault::Unknown(_) => ProblemCode::NoSuchLease,
        LeaseFault::Ended(_) => ProblemCode::LeaseEnded,
        LeaseFault::Latched => ProblemCode::ShutdownLatched,
        LeaseFault::Store(fault) => {
            tracing::error!(%fault, "a lease could not be kept");
            ProblemCode::StateUnavailable
        }
        LeaseFault::Gone => ProblemCode::NotReady,
    };
    let problem = Problem::new(code, fault.to_string());
    match fault {
        LeaseFault::Capability(fault) => problem.hint(fault.hint()),
        LeaseFault::Personal(_) => problem.hint("ask for less, such as `8h`, and renew it while it is needed"),
        LeaseFault::TooLong => problem.hint("write a rule into the persona's file"),
        LeaseFault::PostureOff(_) => problem.hint("set `posture = \"allowlist\"` in the persona's file"),
        LeaseFault::Latched => problem.hint("`arw-cli automation rearm --reason …` releases it"),
        _ => problem,
    }
}

fn known(id: &str) -> Result<LeaseId, Problem> {
    LeaseId::parse(id).map_err(|_| Problem::new(ProblemCode::NoSuchLease, "there is no such lease"))
}

fn view(app: &App, lease: &Lease) -> Value {
    let mut view = json!({
        "id": lease.id,
        "capability": lease.capability.to_string(),
        "subject": lease.subject,
        "issuer": lease.issuer.as_str(),
        "justification": lease.justification,
        "created_at": lease.created_at,
        "expires_at": lease.expires_at,
    });
    for (name, bound) in [("max_uses", lease.max_uses), ("max_bytes", lease.max_bytes)] {
        if let Some(bound) = bound {
            view[name] = bound.into();
        }
    }
    match lease.ended {
        Some((at, end)) => (view["ended_at"], view["end"]) = (json!(at), json!(end)),
        None => {
            if let Some((uses, bytes)) = app.state.governance.leases.used(lease) {
                (view["uses"], view["bytes"]) = (uses.into(), bytes.into());
            }
        }
    }
    view
}

pub(super) async fn grant(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Extension(caller): Extension<Caller>,
    JsonBody(wanted): JsonBody<Wanted>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    // One that is none is refused for that, below: nobody could be permitted to give it.
    if let Ok(capability) = Capability::parse(&wanted.capability) {
        drop(app.permit(&caller, Action::LeaseGrant, Resource::Capability(capability)).await?);
    }
    let request = LeaseRequest {
        capability: wanted.capability,
        subject: wanted.subject,
        ttl: Duration::from_secs(wanted.ttl_secs),
        justification: wanted.justification,
        max_uses: wanted.max_uses,
        max_bytes: wanted.max_bytes,
    };
    let leases = &app.state.governance.leases;
    let given = leases.grant(request, Actor::of(peer)).await.map_err(|fault| refused(&fault))?;
    let status = if given.renewed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(view(&app, &given.lease))))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Strict(query): Strict<ListQuery>,
) -> Result<Json<Value>, Problem> {
    let ended = bounded("ended", query.ended.unwrap_or(0), 0, MAX_LEASES)?;
    let leases = &app.state.governance.leases;
    let in_force = leases.in_force().await.map_err(|fault| refused(&fault))?;
    let ended = match u32::try_from(ended).unwrap_or(u32::MAX) {
        0 => Vec::new(),
        limit => leases.ended(limit).await.map_err(|fault| refused(&fault))?,
    };
    let shown = |all: &[Lease]| all.iter().map(|lease| view(&app, lease)).collect::<Vec<_>>();
    Ok(Json(json!({ "leases": shown(&in_force), "ended": shown(&ended) })))
}

pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    Strict(query): Strict<RevokeQuery>,
) -> Result<Json<Value>, Problem> {
    let why = match query.reason.as_deref().map(reason) {
        None => NO_REASON.to_owned(),
        Some(Some(reason)) => reason,
        Some(None) => return Err(refused(&LeaseFault::Justification)),
    };
    let leases = &app.state.governance.leases;
    let ended = leases.revoke(known(&id)?, Actor::of(peer), why).await.map_err(|fault| refused(&fault))?;
    let lease = ended.leases.first().map(|lease| view(&app, lease));
    Ok(Json(json!({ "lease": lease, "cut": ended.cut, "persisted": ended.persisted })))
}
