//! The policy of the API itself, and the simulator of both policies.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Method;
use axum::routing::{get, post};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::extract::JsonBody;
use super::preview;
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, Route};
use super::state::App;
use super::wire::PreviewRequest;
use crate::domain::{ClientAddr, PersonaId, Scheme};
use crate::governance::authority::{self, Capability, Principal, Question, Resource};
use crate::ledger::Outcome;

/// `POST /policy/simulate`: who may do what (`principal`, `action`, `resource`, `leases`), or what may leave (`persona`
/// and a `url`, or `host`, `port`, `scheme`; `method`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulateRequest {
    /// Who would ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<authority::Action>,
    /// About what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Resource>,
    /// What would be leased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<Capability>,
    /// As whom something would leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persona: Option<PersonaId>,
    /// Where to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Instead of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// With `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// With `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Plain HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// What is simulated.
enum Simulated {
    Authority(Question),
    Egress(PreviewRequest),
}

impl SimulateRequest {
    fn read(self) -> Result<Simulated, &'static str> {
        let Self { principal, action, resource, leases, persona, url, host, port, scheme, method } = self;
        let egress = persona.is_some()
            || url.is_some()
            || host.is_some()
            || port.is_some()
            || scheme.is_some()
            || method.is_some();
        let authority = principal.is_some() || action.is_some() || resource.is_some() || !leases.is_empty();
        match (authority, egress) {
            (true, true) => Err("ask who may do what, or what may leave, not both"),
            (true, false) => match (principal, action, resource) {
                (Some(principal), Some(action), Some(resource)) => {
                    Ok(Simulated::Authority(Question { principal, action, resource, leases }))
                }
                _ => Err("name `principal`, `action` and `resource`"),
            },
            (false, _) => {
                let persona = persona.ok_or("name `principal`, `action` and `resource`, or `persona` and `url`")?;
                Ok(Simulated::Egress(PreviewRequest { persona, url, host, port, scheme, method }))
            }
        }
    }
}

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: Method::GET,
            path: "/state/policy",
            access: Access::Admin,
            about: "Who may do what here: the policy's file, and what it denied.",
            params: &[],
            body: None,
            answer: Answer::Json("PolicyState"),
            problems: &[],
            handler: || get(state),
        },
        Route {
            method: Method::POST,
            path: "/policy/simulate",
            access: Access::Admin,
            about: "What the policies would decide: who may do what, or what may leave. Nothing is done or recorded in the \
                    ledger; denials are counted.",
            params: &[],
            body: Some("SimulateRequest"),
            answer: Answer::Json("Simulation"),
            problems: &[ProblemCode::BadRequest, ProblemCode::NotJson, ProblemCode::NoSuchPersona],
            handler: || post(simulate),
        },
    ]
}

/// JSON Schemas of the bodies and answers here.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let text = || json!({ "type": "string" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let actions: Vec<&str> = authority::Action::ALL.iter().map(|action| action.code()).collect();
    let action = || json!({ "type": "string", "enum": actions });
    let request = json!({
        "type": "object",
        "properties": {
            "principal": text(), "action": action(), "resource": text(),
            "leases": { "type": "array", "items": text() },
            "persona": text(), "url": text(), "host": text(),
            "port": { "type": "integer", "minimum": 1, "maximum": 65_535 },
            "scheme": { "type": "string", "enum": ["https", "http", "tcp"] }, "method": text(),
        },
        "oneOf": [{ "required": ["principal", "action", "resource"] }, { "required": ["persona"] }],
        "additionalProperties": false,
    });
    let answer = json!({
        "type": "object",
        "properties": {
            "decision": { "type": "string", "enum": ["allow", "deny", "would_deny"] },
            "code": text(), "rule": text(), "lease": text(), "detail": text(),
            "notes": { "type": "array", "items": text() },
        },
        "required": ["decision"],
    });
    let denied = json!({
        "type": "object",
        "properties": {
            "at": text(), "principal": text(), "action": action(), "resource": text(),
            "simulated": { "type": "boolean" }, "allowed": { "const": false }, "code": text(), "rule": text(),
        },
        "required": ["at", "principal", "action", "resource", "simulated", "code"],
    });
    let denials = json!({
        "type": "object",
        "properties": { "action": action(), "asked": count(), "simulated": count() },
        "required": ["action", "asked", "simulated"],
    });
    let state = json!({
        "type": "object",
        "properties": {
            "source": { "type": "string", "enum": ["none", "json", "cedar"] }, "file": text(), "digest": text(),
            "grants": count(), "denials": { "type": "array", "items": denials }, "forbids": count(),
            "allowed": count(), "recent": { "type": "array", "items": denied },
        },
        "required": ["source", "digest", "grants", "forbids", "allowed", "denials", "recent"],
    });
    [("SimulateRequest", request), ("Simulation", answer), ("PolicyState", state)]
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

pub(super) async fn state(State(app): State<Arc<App>>) -> Json<authority::Status> {
    Json(app.state.governance.authority.status())
}

pub(super) async fn simulate(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    JsonBody(request): JsonBody<SimulateRequest>,
) -> Result<Json<Value>, Problem> {
    let bad = |detail: String| Problem::new(ProblemCode::BadRequest, detail);
    match request.read().map_err(|detail| bad(detail.to_owned()))? {
        Simulated::Authority(question) => {
            let ruling = app.state.governance.authority.simulate(&question);
            let mut answer = json!({ "decision": if ruling.allowed { "allow" } else { "deny" }, "code": ruling.code });
            for (name, value) in [("rule", ruling.rule), ("lease", ruling.lease)] {
                if let Some(value) = value {
                    answer[name] = value.into();
                }
            }
            Ok(Json(answer))
        }
        Simulated::Egress(request) => {
            let question = preview::question(&request).map_err(bad)?;
            let snapshot = app.state.policy.load();
            if snapshot.persona(&request.persona).is_none() {
                let detail = format!("there is no persona `{}`", request.persona);
                return Err(Problem::new(ProblemCode::NoSuchPersona, detail));
            }
            let now = app.state.clock.now();
            let (intent, mut verdict) = snapshot.verdict(&question, request.persona, peer, now);
            let latched = app.state.gateway.as_ref().and_then(|gateway| gateway.denial_while_latched());
            let notes = preview::under_the_latch(&mut verdict, latched);
            let outcome = preview::outcome(&verdict);
            let mut answer = json!({ "decision": outcome });
            if let Some(note) = &notes {
                answer["notes"] = json!([note]);
            }
            if let Some(denial) = &verdict.denial {
                (answer["code"], answer["detail"]) = (json!(denial.code), json!(denial.detail));
                // What the kill switch denies says nothing of the policy.
                if outcome == Outcome::Deny && notes.is_none() {
                    let target = intent.target.host.to_string();
                    app.state.governance.authority.simulated_egress(&intent.persona, &target, denial.code);
                }
            }
            let rule = verdict.grant.as_ref().and_then(|grant| grant.rule().cloned());
            if let Some(rule) = rule.or_else(|| verdict.denial.as_ref().and_then(|denial| denial.rule.clone())) {
                answer["rule"] = json!(rule);
            }
            if let Some(lease) = preview::lease(&verdict) {
                answer["lease"] = json!(lease);
            }
            Ok(Json(answer))
        }
    }
}
