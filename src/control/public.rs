//! Whether the daemon lives, whether it is ready, what it counts, and what it can be asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::Value;

use super::openapi;
use super::problem::{Problem, ProblemCode};
use super::state::App;
use super::wire::{Health, Readiness};

/// Content type of the OpenMetrics text format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Readiness>, Problem> {
    let reasons = app.unready();
    if reasons.is_empty() {
        return Ok(Json(Readiness { ready: true }));
    }
    let mut problem = Problem::new(ProblemCode::NotReady, "nothing may leave now");
    problem.reasons = reasons.into_iter().map(str::to_owned).collect();
    Err(problem)
}

impl App {
    /// Why nothing may leave: closed words, because everybody may read them.
    fn unready(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        let ledger = &self.state.config.ledger;
        if ledger.enable && self.state.ledger.fault().is_some() {
            reasons.push("ledger_unavailable");
        }
        let draining = self.state.gateway.as_ref().is_some_and(|gateway| gateway.status().draining);
        if draining || self.shutdown.is_cancelled() {
            reasons.push("draining");
        }
        reasons
    }
}

pub(super) async fn openapi() -> Json<Value> {
    Json(openapi::document())
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut text = String::with_capacity(8 << 10);
    app.state.metrics.encode(&mut text);
    app.encode_own(&mut text);
    text.push_str("# EOF\n");
    ([(header::CONTENT_TYPE, OPENMETRICS)], text)
}
