//! The automations over HTTP: which are impacted and why, who may run, what was used.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::Method;
use axum::routing::{get, post};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::egress::bounded;
use super::extract::{JsonBody, Strict};
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, Form, MAX_RUNS, Param, Place, Route, query};
use super::state::App;
use crate::domain::ClientAddr;
use crate::governance::audit::Actor;
use crate::governance::automations::{AutomationFault, Status, Switched, Usage, UsageFault, UsageReport, Whose};
use crate::supervisor::BudgetKind;

/// Runs without `limit`.
const DEFAULT_RUNS: u64 = 20;

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    const AUTOMATION: Param =
        Param { name: "id", place: Place::Path, form: Form::Text, about: "Id of the automation, or of its runtime." };
    let about = |method, path, about, params, body, answer, problems, handler| Route {
        method,
        path,
        access: Access::Admin,
        about,
        params,
        body,
        answer,
        problems,
        handler,
    };
    vec![
        about(
            Method::GET,
            "/state/automation/status",
            "Every automation: what it does, what it has spent, and why it is impacted if it is.",
            &[],
            None,
            Answer::Json("AutomationStatus"),
            &[ProblemCode::NotReady],
            || get(status),
        ),
        about(
            Method::GET,
            "/automations/{id}/runs",
            "Its latest runs, newest first.",
            const { &[AUTOMATION, query("limit", Form::Integer(1, MAX_RUNS), "At most so many; 20 without it.")] },
            None,
            Answer::Json("AutomationRuns"),
            &[
                ProblemCode::BadQuery,
                ProblemCode::UnknownAutomation,
                ProblemCode::StateUnavailable,
                ProblemCode::NotReady,
            ],
            || get(runs),
        ),
        about(
            Method::GET,
            "/automations/{id}/usage",
            "What it has spent of its budgets in the present window.",
            const { &[AUTOMATION] },
            None,
            Answer::Json("Usage"),
            &[ProblemCode::UnknownAutomation, ProblemCode::NotReady],
            || get(usage),
        ),
        about(
            Method::POST,
            "/automations/{id}/usage",
            "Reports tokens and money that it used; kept when answered, and a repeated `report_id` counts once.",
            const { &[AUTOMATION] },
            Some("UsageReport"),
            Answer::Json("Usage"),
            &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::UnknownAutomation,
                ProblemCode::Unavailable,
                ProblemCode::CurrencyMismatch,
                ProblemCode::ReportConflict,
                ProblemCode::StateUnavailable,
                ProblemCode::NotReady,
            ],
            || post(report),
        ),
        about(
            Method::POST,
            "/automations/{id}/{action}",
            "Disables it (kept, then its runtime is told to end, and nobody starts it) or enables it again.",
            const {
                &[
                    AUTOMATION,
                    Param {
                        name: "action",
                        place: Place::Path,
                        form: Form::OneOf(&["enable", "disable"]),
                        about: "What is wanted.",
                    },
                ]
            },
            Some("AutomationReason"),
            Answer::Json("AutomationSwitched"),
            &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::ReasonRequired,
                ProblemCode::UnknownAutomation,
                ProblemCode::StateUnavailable,
                ProblemCode::NotReady,
            ],
            || post(switch),
        ),
    ]
}

/// JSON Schemas of the bodies and answers here; docs/automations.md says what the fields mean.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let text = || json!({ "type": "string" });
    let maybe = |of: &str| json!({ "type": [of, "null"] });
    let kinds: Vec<&str> = BudgetKind::ALL.iter().map(|kind| kind.code()).collect();
    let money = json!({
        "type": "object",
        "properties": {
            "amount": { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,6})?$" },
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$" },
        },
        "required": ["amount", "currency"], "additionalProperties": false,
    });
    let budgets = json!({ "type": "array", "items": {
        "type": "object",
        "description": "Times in microseconds, money in millionths. `used` and `ratio` are null where nothing is metered.",
        "properties": {
            "kind": { "enum": kinds }, "used": maybe("integer"), "limit": { "type": "integer" },
            "ratio": maybe("number"), "currency": text(),
        },
        "required": ["kind", "used", "limit", "ratio"],
    }});
    let impact =
        json!({ "type": "object", "properties": { "code": text(), "detail": text() }, "required": ["code", "detail"] });
    let automation = json!({
        "type": "object",
        "properties": {
            "id": text(), "runtime": text(), "persona": text(), "declared": { "type": "boolean" },
            "enabled": { "type": "boolean" }, "disabled": { "type": "object" }, "state": maybe("string"),
            "run": maybe("integer"), "started_at": maybe("string"), "last_heartbeat": maybe("string"),
            "schedule": maybe("string"), "next_start": maybe("string"), "window": maybe("string"), "budgets": budgets,
            "reported": { "type": "object" }, "denied": { "type": "array", "items": { "type": "object" } },
            "impacted": { "type": "array", "items": impact },
        },
        "required": ["id", "runtime", "persona", "enabled", "impacted"],
    });
    let status = json!({
        "type": "object",
        "properties": {
            "latched": { "type": ["object", "null"] }, "schedules_halted": { "type": "boolean" },
            "impacted": { "type": "array", "items": text() },
            "automations": { "type": "array", "items": { "$ref": "#/components/schemas/Automation" } },
        },
        "required": ["latched", "schedules_halted", "impacted", "automations"],
    });
    let switched = json!({
        "type": "object",
        "properties": {
            "changed": { "type": "boolean" }, "automation": { "$ref": "#/components/schemas/Automation" },
        },
        "required": ["changed", "automation"],
    });
    let reason = json!({
        "type": "object", "properties": { "reason": text() }, "required": ["reason"], "additionalProperties": false,
    });
    let report = json!({
        "type": "object",
        "properties": {
            "report_id": { "type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$" },
            "tokens": { "type": "integer", "minimum": 0, "maximum": 1_000_000_000_000_u64 },
            "spend": money,
        },
        "required": ["report_id"], "additionalProperties": false,
    });
    let usage = json!({
        "type": "object",
        "properties": {
            "automation": text(), "window": maybe("string"), "reported": { "type": "object" }, "budgets": budgets,
            "repeated": { "type": "boolean" },
        },
        "required": ["automation", "window", "reported", "budgets"],
    });
    let runs = json!({
        "type": "object",
        "properties": { "runs": { "type": "array", "items": { "type": "object" } } },
        "required": ["runs"],
    });
    [
        ("Automation", automation),
        ("AutomationStatus", status),
        ("AutomationSwitched", switched),
        ("AutomationReason", reason),
        ("UsageReport", report),
        ("Usage", usage),
        ("AutomationRuns", runs),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect()
}

fn refused(fault: &AutomationFault) -> Problem {
    match fault {
        AutomationFault::Unknown(_) => {
            Problem::new(ProblemCode::UnknownAutomation, fault.to_string()).hint("`arw-cli automation list` shows them")
        }
        AutomationFault::Reason => Problem::new(ProblemCode::ReasonRequired, fault.to_string()),
        AutomationFault::Store(fault) => unkept(&fault.to_string()),
        AutomationFault::Unkept(..) => Problem::new(ProblemCode::StateUnavailable, fault.to_string())
            .hint("free the disk of the state folder before anything restarts the daemon, or use the kill switch"),
        AutomationFault::Gone => Problem::new(ProblemCode::NotReady, fault.to_string()),
    }
}

fn unkept(why: &str) -> Problem {
    tracing::error!(why, "the state of an automation could not be kept or read");
    Problem::new(ProblemCode::StateUnavailable, "the state could not be kept or read, and nothing was done")
        .hint("the daemon's log says why; the kill switch works without the state")
}

fn uncounted(fault: &UsageFault) -> Problem {
    if let UsageFault::Store(fault) = fault {
        return unkept(&fault.to_string());
    }
    // Both have one set of codes; a test holds that.
    let code = ProblemCode::from_code(fault.code()).unwrap_or(ProblemCode::Internal);
    Problem::new(code, fault.to_string())
}

pub(super) async fn status(State(app): State<Arc<App>>) -> Result<Json<Status>, Problem> {
    app.state.governance.automations.status().await.map(Json).map_err(|fault| refused(&fault))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    limit: Option<u64>,
}

pub(super) async fn runs(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Strict(query): Strict<RunsQuery>,
) -> Result<Json<Value>, Problem> {
    let limit = bounded("limit", query.limit.unwrap_or(DEFAULT_RUNS), 1, MAX_RUNS)?;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let runs = app.state.governance.automations.runs(&id, limit).await.map_err(|fault| refused(&fault))?;
    let runs: Vec<Value> = runs
        .into_iter()
        .map(|row| {
            let (ended_at, cause) = row.ended.unzip();
            json!({
                "automation": row.automation, "runtime": row.runtime, "run": row.run, "began_at": row.began_at,
                "ended_at": ended_at, "cause": cause,
            })
        })
        .collect();
    Ok(Json(json!({ "runs": runs })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    reason: String,
}

pub(super) async fn switch(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path((id, action)): Path<(String, String)>,
    JsonBody(Reason { reason }): JsonBody<Reason>,
) -> Result<Json<Switched>, Problem> {
    let (automations, by) = (&app.state.governance.automations, Actor::of(peer));
    let switched = match action.as_str() {
        "disable" => automations.disable(&id, &reason, by).await,
        "enable" => automations.enable(&id, &reason, by).await,
        _ => return Err(Problem::new(ProblemCode::BadRequest, "an action is `enable` or `disable`")),
    };
    switched.map(Json).map_err(|fault| refused(&fault))
}

pub(super) async fn usage(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Usage>, Problem> {
    app.state.governance.automations.usage(&Whose::Named(id)).await.map(Json).map_err(|fault| uncounted(&fault))
}

pub(super) async fn report(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    JsonBody(report): JsonBody<UsageReport>,
) -> Result<Json<Usage>, Problem> {
    let taken = app.state.governance.automations.report(Whose::Named(id), report, Some(Actor::of(peer))).await;
    taken.map(Json).map_err(|fault| uncounted(&fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Currency;

    #[test]
    fn what_a_report_is_refused_with_is_the_same_here_and_at_the_desk() {
        let eur = Currency::parse("EUR").expect("letters");
        for fault in [
            UsageFault::Unknown,
            UsageFault::NeverRan,
            UsageFault::ReportId,
            UsageFault::Empty,
            UsageFault::TooManyTokens,
            UsageFault::Currency { expected: eur, found: eur },
            UsageFault::Differs,
            UsageFault::TooMuch,
            UsageFault::TooFast,
            UsageFault::Gone,
        ] {
            let problem = uncounted(&fault);
            assert_eq!((problem.code.code(), problem.code.status()), (fault.code(), fault.status()), "{fault}");
        }
    }
}
