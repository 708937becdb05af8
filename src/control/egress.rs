//! The gateway and its record, read only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::extract::Strict;
use super::problem::{Problem, ProblemCode};
use super::routes::{DEFAULT_LINES, MAX_LINES, MAX_TUNNELS};
use super::state::App;
use super::wire::{EgressPage, EgressStatus, LedgerStatus, PolicyStatus, Tunnel, Tunnels};
use crate::domain::{PersonaId, RuntimeId};
use crate::ledger::{self, Filter, Ledger, LedgerError, Outcome};

/// Tunnels without `limit`. 1000: a table that a person can still scroll through.
const DEFAULT_TUNNELS: u64 = 1_000;

pub(super) async fn status(State(app): State<Arc<App>>) -> Result<Json<EgressStatus>, Problem> {
    // The status counts the segment files.
    let ledger = app.state.ledger.clone();
    let ledger = blocking(move || ledger.status()).await?;
    let policy = app.state.policy.load();
    let authority = app.state.governance.authority.policy().summary();
    Ok(Json(EgressStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: app.state.gateway.as_ref().map(|gateway| gateway.status().into()),
        ledger: ledger.into(),
        policy: PolicyStatus {
            generation: policy.generation(),
            personas: policy.personas().len() as u64,
            authority: authority.source.code().to_owned(),
            grants: authority.grants as u64,
        },
        arming: super::personas::arming(&app),
    }))
}

impl From<ledger::LedgerStatus> for LedgerStatus {
    fn from(status: ledger::LedgerStatus) -> Self {
        Self {
            enabled: status.enabled,
            available: status.available,
            cause: status.cause.map(|cause| cause.code().to_owned()),
            detail: status.cause_detail,
            since: status.since,
            dir: status.dir,
            origin: status.origin,
            public_key: status.public_key,
            durability: status.durability.to_owned(),
            last_seq: status.last_seq,
            unsynced_lines: status.unsynced_lines,
            signed_size: status.signed_size,
            signed_at: status.signed_at,
            checkpoint_error: status.checkpoint_error,
            segments: status.segments,
            bytes: status.bytes,
            refused_total: status.refused_total,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelsQuery {
    limit: Option<u64>,
}

pub(super) async fn tunnels(
    State(app): State<Arc<App>>,
    Strict(query): Strict<TunnelsQuery>,
) -> Result<Json<Tunnels>, Problem> {
    let limit = bounded("limit", query.limit.unwrap_or(DEFAULT_TUNNELS), 1, MAX_TUNNELS)?;
    let tunnels = app.state.gateway.as_ref().map(|gateway| gateway.tunnels(limit)).unwrap_or_default();
    Ok(Json(Tunnels { tunnels: tunnels.into_iter().map(Tunnel::from).collect() }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinesQuery {
    limit: Option<u64>,
    persona: Option<PersonaId>,
    runtime: Option<RuntimeId>,
    host: Option<String>,
    decision: Option<Outcome>,
    after: Option<u64>,
}

pub(super) async fn lines(
    State(app): State<Arc<App>>,
    Strict(query): Strict<LinesQuery>,
) -> Result<Json<EgressPage>, Problem> {
    let limit = bounded("limit", query.limit.unwrap_or(DEFAULT_LINES), 1, MAX_LINES)?;
    let turn = app.reading().await?;
    let ledger = app.state.ledger.clone();
    // The turn goes along: a client that gives up does not make room for the next search.
    let page = move || {
        let _turn = turn;
        page(&ledger, query, limit)
    };
    blocking(page)
        .await?
        .map_err(|error| match error {
            SearchFault::Ledger(error) => ledger_problem(&error),
            SearchFault::TooLong => Problem::new(ProblemCode::TimedOut, "the search takes too long")
                .hint("narrow it, or run `arw-cli ledger query` on the host"),
        })
        .map(Json)
}

/// Lines searched between two looks at the clock. 100 000: a tenth of a second or so.
const STRIDE: u64 = 100_000;
/// Time for a search. 10 s: half of what a request may take.
const SEARCH_TIME: Duration = Duration::from_secs(10);

enum SearchFault {
    Ledger(LedgerError),
    TooLong,
}

impl From<LedgerError> for SearchFault {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// With `after`, forwards from there; else backwards from the end. In strides, so that a search for
/// what is not there ends.
fn page(ledger: &Ledger, query: LinesQuery, limit: usize) -> Result<EgressPage, SearchFault> {
    let end = *ledger.watch().borrow();
    let reader = ledger.reader()?;
    let mut filter = Filter {
        persona: query.persona,
        runtime: query.runtime,
        host: query.host,
        decision: query.decision,
        ..Filter::default()
    };
    let deadline = Instant::now() + SEARCH_TIME;
    let within = |filter: &mut Filter, from: u64, to: u64| {
        (filter.from_seq, filter.to_seq) = (Some(from), Some(to));
        if Instant::now() < deadline { Ok(()) } else { Err(SearchFault::TooLong) }
    };
    let mut lines = Vec::new();
    match query.after {
        Some(after) => {
            let mut from = after.saturating_add(1);
            while from <= end && lines.len() < limit {
                let to = from.saturating_add(STRIDE - 1).min(end);
                within(&mut filter, from, to)?;
                lines.extend(reader.query(&filter, limit - lines.len())?);
                from = to + 1;
            }
            let full = lines.len() == limit;
            let last_seq = if full { lines.last().map_or(after, |line| line.seq) } else { end.max(after) };
            Ok(EgressPage { lines, last_seq })
        }
        None => {
            let mut to = end;
            while to > 0 && lines.len() < limit {
                let from = to.saturating_sub(STRIDE - 1).max(1);
                within(&mut filter, from, to)?;
                let mut older = reader.latest(&filter, limit - lines.len())?;
                older.append(&mut lines);
                lines = older;
                to = from - 1;
            }
            Ok(EgressPage { lines, last_seq: end })
        }
    }
}

/// `value`, if it lies within its bounds.
pub(super) fn bounded(name: &str, value: u64, from: u64, to: u64) -> Result<usize, Problem> {
    if (from..=to).contains(&value) {
        return Ok(usize::try_from(value).unwrap_or(usize::MAX));
    }
    Err(Problem::new(ProblemCode::BadQuery, format!("`{name}` is a number from {from} to {to}")))
}

/// Runs what touches the disk off the executor's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a task of the control API failed");
        Problem::new(ProblemCode::Internal, "the daemon failed; its log says how")
    })
}

/// What the ledger could not do, in words that are safe to show; the log has the rest.
pub(super) fn ledger_problem(error: &ledger::LedgerError) -> Problem {
    tracing::warn!(%error, "the control API could not use the ledger");
    Problem::new(ProblemCode::LedgerUnavailable, "the ledger cannot be read or written now")
        .hint("see `arw-cli status` and the daemon's log")
}
