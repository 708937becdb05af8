//! Personas in force, and reading them again.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::extract::OptionalBody;
use super::problem::{Problem, ProblemCode};
use super::state::{App, Command, ReloadAsk};
use super::wire::{PersonaView, Personas, ReloadReport, TokenView};
use crate::domain::ClientAddr;
use crate::governance::audit::Actor;
use crate::governance::reason::{MAX_REASON, reason};
use crate::policy::PersonaSummary;
use crate::proxy::Status;

pub(super) async fn personas(State(app): State<Arc<App>>) -> Json<Personas> {
    let snapshot = app.state.policy.load_full();
    let status = app.state.gateway.as_ref().map(crate::proxy::Handle::status);
    let personas = snapshot.personas().map(|persona| view(persona.summary(), status.as_ref())).collect();
    Json(Personas { generation: snapshot.generation(), personas })
}

fn view(summary: PersonaSummary, status: Option<&Status>) -> PersonaView {
    let traffic = status.and_then(|status| status.personas.iter().find(|persona| persona.persona == summary.id));
    let (connections, tunnels) = traffic.map_or((0, 0), |traffic| (traffic.connections, traffic.tunnels));
    let tokens = summary.tokens.into_iter().map(|token| TokenView { name: token.name, expires_at: token.expires_at });
    PersonaView {
        posture: word(&summary.posture),
        mode: word(&summary.mode),
        id: summary.id,
        description: summary.description,
        tokens: tokens.collect(),
        uids: summary.uids,
        certificates: summary.certificates,
        allow_rules: summary.allow_rules as u64,
        deny_rules: summary.deny_rules as u64,
        connections: connections as u64,
        tunnels: tunnels as u64,
    }
}

/// The word that the file has for it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}

/// Why somebody wants a reload.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadWanted {
    reason: Option<String>,
}

fn unsaid() -> Problem {
    Problem::new(ProblemCode::ReasonRequired, format!("`reason` is one line of 1 to {MAX_REASON} bytes"))
}

pub(super) async fn reload(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    OptionalBody(wanted): OptionalBody<ReloadWanted>,
) -> Result<Json<ReloadReport>, Problem> {
    let gone = || Problem::new(ProblemCode::NotReady, "the daemon does not take commands now");
    let why = wanted.unwrap_or_default().reason.map(|text| reason(&text).ok_or_else(unsaid)).transpose()?;
    let (answer, answered) = oneshot::channel();
    let ask = ReloadAsk { by: Actor::of(peer), why, answer };
    app.state.commands.send(Command::Reload(ask)).await.map_err(|_| gone())?;
    match answered.await.map_err(|_| gone())? {
        Ok(report) => Ok(Json(report)),
        Err(faults) => {
            let detail = match faults.0.len() {
                1 => "the files have a fault; the policy in force stays".to_owned(),
                count => format!("the files have {count} faults; the policy in force stays"),
            };
            let mut problem = Problem::new(ProblemCode::PolicyFaults, detail).hint("correct the files and reload");
            problem.faults = faults.0;
            Err(problem)
        }
    }
}
