//! How the daemon itself is confined, measured when it is asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::egress::blocking;
use super::problem::Problem;
use super::routes::{Access, Answer, Route};
use super::state::App;
use crate::config::Confine;
use crate::sandbox::Finding;
use crate::sandbox::confine::WALLS;

/// `GET /state/confinement`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonConfinement {
    /// `confine` of the settings: `auto`, `require` or `off`.
    pub mode: String,
    /// What was found of each wall; empty when it is off.
    pub controls: Vec<Finding>,
    /// Capabilities that are held.
    pub capabilities: Vec<String>,
}

pub(super) const fn word(confine: Confine) -> &'static str {
    match confine {
        Confine::Auto => "auto",
        Confine::Require => "require",
        Confine::Off => "off",
    }
}

async fn confinement(State(app): State<Arc<App>>) -> Result<Json<DaemonConfinement>, Problem> {
    let mode = word(app.state.config.confine).to_owned();
    let Some(walls) = app.state.walls.clone() else {
        return Ok(Json(DaemonConfinement { mode, controls: Vec::new(), capabilities: Vec::new() }));
    };
    let measured = blocking(move || {
        let held = walls.held().into_iter().map(|capability| capability.code().to_owned()).collect();
        (walls.measure().findings, held)
    });
    let (controls, capabilities) = measured.await?;
    Ok(Json(DaemonConfinement { mode, controls, capabilities }))
}

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: Method::GET,
        path: "/state/confinement",
        access: Access::Admin,
        about: "How the daemon itself is confined, measured now.",
        params: &[],
        body: None,
        answer: Answer::Json("DaemonConfinement"),
        problems: &[],
        handler: || get(confinement),
    }]
}

pub(super) fn schemas() -> [(String, Value); 1] {
    let walls: Vec<&str> = WALLS.iter().map(|control| control.code()).collect();
    let finding = json!({
        "type": "object",
        "properties": {
            "control": { "type": "string", "enum": walls },
            "state": { "type": "string", "enum": ["enforced", "partial", "unavailable"] },
            "why": { "type": "string" },
        },
        "required": ["control", "state"],
    });
    let answer = json!({
        "type": "object",
        "properties": {
            "mode": { "type": "string", "enum": ["auto", "require", "off"] },
            "controls": { "type": "array", "items": finding },
            "capabilities": { "type": "array", "items": { "type": "string" } },
        },
        "required": ["mode", "controls", "capabilities"],
    });
    [("DaemonConfinement".to_owned(), answer)]
}
