//! Personas in force, and reading them again.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::problem::{Problem, ProblemCode};
use super::state::{App, Command};
use super::wire::{PersonaView, Personas, ReloadReport, TokenView};
use crate::domain::ClientAddr;
use crate::governance::audit::{Actor, AuditAction, Deed};
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

pub(super) async fn reload(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
) -> Result<Json<ReloadReport>, Problem> {
    let gone = || Problem::new(ProblemCode::NotReady, "the daemon does not take commands now");
    let (reply, answer) = oneshot::channel();
    app.state.commands.send(Command::Reload(reply)).await.map_err(|_| gone())?;
    match answer.await.map_err(|_| gone())? {
        Ok(report) => {
            let deed = Deed { after: Some(json!(report)), ..Deed::new(Actor::of(peer), AuditAction::PolicyReloaded) };
            if let Err(fault) = app.state.governance.audit.record(deed).await {
                // The files are in force whoever asked for it: a watch or a signal would have had the same effect.
                tracing::error!(%fault, "a reload could not be recorded in the audit log");
            }
            Ok(Json(report))
        }
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
