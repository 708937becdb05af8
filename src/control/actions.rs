//! The kill switch over HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::Caller;
use super::extract::JsonBody;
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, Route};
use super::state::App;
use crate::domain::ClientAddr;
use crate::governance::audit::Actor;
use crate::governance::authority::{Action, Resource};
use crate::governance::switch::{Position, SwitchFault};

/// How long an answer waits for the last step; below what every answer may take, and above the usual grace.
const PATIENCE: Duration = Duration::from_secs(15);

/// What may be asked for: the pre-approved actions.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ActionRequest {
    /// The kill switch.
    AutomationShutdown { reason: String, grace_secs: Option<u64> },
    /// Its release.
    AutomationRearm { reason: String },
}

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: Method::POST,
            path: "/actions",
            access: Access::Admin,
            about: "The kill switch: `automation_shutdown` cuts, revokes, ends and halts everything; `automation_rearm` \
                    releases it. 202 while runtimes are still within their grace.",
            params: &[],
            body: Some("ActionRequest"),
            answer: Answer::Json("Position"),
            problems: &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::ReasonRequired,
                ProblemCode::NotLatched,
                ProblemCode::ShutdownRunning,
                ProblemCode::StateUnavailable,
            ],
            handler: || post(act),
        },
        Route {
            method: Method::GET,
            path: "/state/automation/shutdown",
            access: Access::Admin,
            about: "Whether the kill switch is latched, and what its last use did.",
            params: &[],
            body: None,
            answer: Answer::Json("Position"),
            problems: &[],
            handler: || get(position),
        },
    ]
}

/// JSON Schemas of the bodies and answers here.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let text = || json!({ "type": "string" });
    let step = json!({
        "type": "object",
        "properties": {
            "step": { "enum": ["latch", "cut", "leases", "runtimes", "schedules"] },
            "count": { "type": "integer" }, "took_ms": { "type": "integer" }, "done_ms": { "type": "integer" },
            "left": { "type": "array", "items": text() }, "fault": text(),
        },
        "required": ["step", "count", "took_ms", "done_ms"],
    });
    let shutdown = json!({
        "type": "object",
        "properties": {
            "id": text(), "reason": text(), "by": text(), "since": text(),
            "already_latched": { "type": "boolean" }, "done": { "type": "boolean" },
            "steps": { "type": "array", "items": step },
        },
        "required": ["id", "reason", "by", "since", "already_latched", "done", "steps"],
    });
    let position = json!({
        "type": "object",
        "properties": { "latched": { "type": "boolean" }, "shutdown": shutdown },
        "required": ["latched"],
    });
    let action = |kind: &str, more: Value| {
        let mut properties = json!({ "kind": { "const": kind }, "reason": text() });
        properties
            .as_object_mut()
            .into_iter()
            .for_each(|all| all.extend(more.as_object().cloned().unwrap_or_default()));
        json!({
            "type": "object", "properties": properties, "required": ["kind", "reason"],
            "additionalProperties": false,
        })
    };
    let grace = json!({ "grace_secs": { "type": "integer", "minimum": 0, "maximum": 300 } });
    let request = json!({ "oneOf": [action("automation_shutdown", grace), action("automation_rearm", json!({}))] });
    [("ActionRequest", request), ("Position", position)]
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

fn refused(fault: &SwitchFault) -> Problem {
    let code = match fault {
        SwitchFault::Reason => ProblemCode::ReasonRequired,
        SwitchFault::Grace => ProblemCode::BadRequest,
        SwitchFault::NotLatched => ProblemCode::NotLatched,
        SwitchFault::Running => ProblemCode::ShutdownRunning,
        SwitchFault::Store(_) => ProblemCode::StateUnavailable,
    };
    Problem::new(code, fault.to_string())
}

pub(super) async fn act(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<ActionRequest>,
) -> Result<(StatusCode, Json<Position>), Problem> {
    let (switch, by) = (&app.state.governance.switch, Actor::of(peer));
    let action = match request {
        ActionRequest::AutomationShutdown { .. } => Action::AutomationShutdown,
        ActionRequest::AutomationRearm { .. } => Action::AutomationRearm,
    };
    drop(app.permit(&caller, action, Resource::Daemon).await?);
    match request {
        ActionRequest::AutomationShutdown { reason, grace_secs } => {
            let grace = grace_secs.map(Duration::from_secs);
            let mut report = switch.shut_down(&reason, by, grace).map_err(|fault| refused(&fault))?;
            let through = report.wait_for(|report| report.as_ref().is_some_and(|report| report.done));
            // Either way the steps go on, and `GET /state/automation/shutdown` has them.
            let through = matches!(tokio::time::timeout(PATIENCE, through).await, Ok(Ok(_)));
            let shutdown = report.borrow().clone();
            let status = if through { StatusCode::OK } else { StatusCode::ACCEPTED };
            Ok((status, Json(Position { latched: true, shutdown })))
        }
        ActionRequest::AutomationRearm { reason } => {
            switch.rearm(&reason, by).await.map_err(|fault| refused(&fault))?;
            Ok((StatusCode::OK, Json(switch.position())))
        }
    }
}

pub(super) async fn position(State(app): State<Arc<App>>) -> Json<Position> {
    Json(app.state.governance.switch.position())
}
