//! Alerts: shown, acknowledged, and the ways they leave tried.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::Method;
use axum::routing::{get, post};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::extract::JsonBody;
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, Form, Param, Place, Route};
use super::state::App;
use crate::domain::{AlertId, ClientAddr, RouteId};
use crate::governance::alerts::{Alert, AlertKind, AlertsFault, Board, Severity, SinkKind, Trial};
use crate::governance::audit::Actor;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledging {
    note: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trying {
    route: String,
}

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: Method::GET,
            path: "/state/alerts",
            access: Access::Admin,
            about: "Active alerts, the worst first, the latest that are over, and how each route does.",
            params: &[],
            body: None,
            answer: Answer::Json("Alerts"),
            problems: &[ProblemCode::StateUnavailable, ProblemCode::NotReady],
            handler: || get(board),
        },
        Route {
            method: Method::POST,
            path: "/alerts/{id}/ack",
            access: Access::Admin,
            about: "Notes that somebody has seen an alert: it is not escalated, and one that tells of a moment is over.",
            params: const { &[Param { name: "id", place: Place::Path, form: Form::Text, about: "Id of the alert." }] },
            body: Some("AlertNote"),
            answer: Answer::Json("Alert"),
            problems: &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::NoSuchAlert,
                ProblemCode::ReasonRequired,
                ProblemCode::StateUnavailable,
                ProblemCode::NotReady,
            ],
            handler: || post(acknowledge),
        },
        Route {
            method: Method::POST,
            path: "/alerts/test",
            access: Access::Admin,
            about: "Sends a trial by a route at once, and says whether its sink took it.",
            params: &[],
            body: Some("AlertTest"),
            answer: Answer::Json("AlertTrial"),
            problems: &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::NoSuchAlertRoute,
                ProblemCode::StateUnavailable,
            ],
            handler: || post(test),
        },
    ]
}

/// JSON Schemas of the bodies and answers here; docs/alerts.md says what the fields mean.
pub(super) fn schemas() -> Map<String, Value> {
    let text = || json!({ "type": "string" });
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let list = |of: &str| json!({ "type": "array", "items": { "$ref": format!("#/components/schemas/{of}") } });
    let codes = |all: Vec<&str>| json!({ "type": "string", "enum": all });
    let object = |properties: Value| {
        let required: Vec<String> = properties.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
        json!({ "type": "object", "properties": properties, "required": required })
    };
    let body = |name: &str| json!({ "type": "object", "properties": { name: text() }, "required": [name], "additionalProperties": false });
    let alert = object(json!({
        "id": text(), "code": codes(AlertKind::ALL.iter().map(|kind| kind.code()).collect()), "key": text(),
        "severity": codes(Severity::ALL.iter().map(|severity| severity.code()).collect()),
        "persona": maybe("string"), "subject": maybe("string"), "summary": text(),
        "samples": { "type": "array", "items": text() }, "facts": { "type": "object" },
        "lasting": { "type": "boolean" }, "count": count(), "raised_at": text(), "last_at": text(),
        "respond_by": maybe("string"), "escalation": count(), "acknowledged": maybe("object"),
        "cleared": maybe("object"),
    }));
    let route = object(json!({
        "name": text(), "sink": codes(SinkKind::ALL.iter().map(|kind| kind.code()).collect()),
        "events": { "type": "array", "items": text() }, "sent": count(), "failures": count(), "lost": count(),
        "waiting": count(), "fault": maybe("string"),
    }));
    let board = object(
        json!({ "active": list("Alert"), "cleared": list("Alert"), "routes": list("AlertRoute"), "dropped": count() }),
    );
    let trial = object(
        json!({ "route": text(), "event": text(), "delivered": { "type": "boolean" }, "detail": maybe("string") }),
    );
    let all = [
        ("Alert", alert),
        ("AlertRoute", route),
        ("Alerts", board),
        ("AlertNote", body("note")),
        ("AlertTest", body("route")),
        ("AlertTrial", trial),
    ];
    all.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn refused(fault: &AlertsFault) -> Problem {
    let code = match fault {
        AlertsFault::Unknown(_) => ProblemCode::NoSuchAlert,
        AlertsFault::UnknownRoute(_) => ProblemCode::NoSuchAlertRoute,
        AlertsFault::Note => ProblemCode::ReasonRequired,
        AlertsFault::Store(fault) => {
            tracing::error!(%fault, "alerts could not be kept or read");
            ProblemCode::StateUnavailable
        }
        AlertsFault::Gone => ProblemCode::NotReady,
    };
    Problem::new(code, fault.to_string())
}

pub(super) async fn board(State(app): State<Arc<App>>) -> Result<Json<Board>, Problem> {
    app.state.governance.alerts.board().await.map(Json).map_err(|fault| refused(&fault))
}

pub(super) async fn acknowledge(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    JsonBody(said): JsonBody<Acknowledging>,
) -> Result<Json<Alert>, Problem> {
    let id =
        AlertId::parse(&id).map_err(|_| Problem::new(ProblemCode::NoSuchAlert, "there is no such active alert"))?;
    let done = app.state.governance.alerts.acknowledge(id, Actor::of(peer), &said.note).await;
    done.map(Json).map_err(|fault| refused(&fault))
}

pub(super) async fn test(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    JsonBody(trying): JsonBody<Trying>,
) -> Result<Json<Trial>, Problem> {
    let route = RouteId::parse(&trying.route)
        .map_err(|_| Problem::new(ProblemCode::NoSuchAlertRoute, "there is no such route"))?;
    let tried = app.state.governance.alerts.test(route, Actor::of(peer)).await;
    tried.map(Json).map_err(|fault| refused(&fault))
}
