//! Whether the daemon lives, whether it is ready, what it counts, and what it can be asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::egress::blocking;
use super::openapi;
use super::problem::{Problem, ProblemCode};
use super::state::App;
use super::wire::{Health, Readiness};

pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Readiness>, Problem> {
    let reasons = app.unready().await?;
    if reasons.is_empty() {
        return Ok(Json(Readiness { ready: true }));
    }
    let mut problem = Problem::new(ProblemCode::NotReady, "nothing may leave now");
    problem.reasons = reasons.into_iter().map(str::to_owned).collect();
    Err(problem)
}

impl App {
    /// Why nothing may leave: closed words, because everybody may read them.
    async fn unready(&self) -> Result<Vec<&'static str>, Problem> {
        let mut reasons = Vec::new();
        let ledger = self.state.ledger.clone();
        if !blocking(move || ledger.status()).await?.available {
            reasons.push("ledger_unavailable");
        }
        let draining = self.state.gateway.as_ref().is_some_and(|gateway| gateway.status().draining);
        if draining || self.shutdown.is_cancelled() {
            reasons.push("draining");
        }
        Ok(reasons)
    }
}

pub(super) async fn openapi() -> Json<Value> {
    Json(openapi::document())
}
