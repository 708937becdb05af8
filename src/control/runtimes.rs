//! The supervised runtimes: what they do, what they said, and what an operator wants of them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::egress::{blocking, bounded};
use super::extract::Strict;
use super::problem::{Problem, ProblemCode};
use super::routes::{MAX_DEATHS, MAX_LOG_LINES};
use super::state::{App, MAX_STREAMS};
use crate::domain::{ClientAddr, RuntimeId, Timestamp};
use crate::governance::audit::{Actor, AuditAction, Deed};
use crate::sandbox::log::{Batch, Line, LogReader, Place};
use crate::supervisor::{Action, Confinement, RequestFault, RuntimeState, RuntimeView, Supervisor};

/// Death records without `limit`.
const DEFAULT_DEATHS: u64 = 20;
/// Log lines without `tail`. 100: a screen or three.
const DEFAULT_TAIL: u64 = 100;
/// Bytes of text in one answer: a log of control characters grows when they are shown.
const MAX_LOG_BYTES: usize = 4 << 20;
/// Bytes of a line besides its text.
const LINE_OVERHEAD: usize = 96;
/// How often a followed log is looked at; only while somebody follows.
const LOOK: Duration = Duration::from_millis(200);
/// Time without a line after which a comment is sent, as for events.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// One line of a log, cleaned for a person.
#[derive(Debug, Serialize)]
struct Shown {
    at: Timestamp,
    stream: &'static str,
    text: String,
    continues: bool,
}

impl Shown {
    fn of(line: &Line) -> Self {
        Self { at: line.at, stream: line.stream.code(), text: line.shown(), continues: line.continues }
    }
}

/// JSON Schemas of the answers here; docs/runtimes.md says what the fields mean.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let list = || json!({ "type": "array", "items": { "type": "object" } });
    let one = |name: &str, of: Value| json!({ "type": "object", "properties": { name: of }, "required": [name] });
    let all = [
        ("Runtime", json!({ "type": "object", "description": "One runtime." })),
        ("Runtimes", one("runtimes", list())),
        ("RuntimeMatrix", one("runtimes", json!({ "type": "object" }))),
        (
            "Confinement",
            json!({ "type": "object", "description": "What was measured, and what became of the limits." }),
        ),
        ("Deaths", one("deaths", list())),
        ("RuntimeLog", one("lines", list())),
    ];
    let all = all.into_iter().map(|(name, schema)| (name.to_owned(), schema));
    all.chain([super::exec::schema()]).collect()
}

pub(super) fn supervisor(app: &App) -> Result<Supervisor, Problem> {
    app.state.supervisor.clone().ok_or_else(|| {
        Problem::new(ProblemCode::Unavailable, "nothing is supervised here")
            .hint("set `runtimes.enable` and `proxy.enable`")
    })
}

pub(super) fn known(id: &str) -> Result<RuntimeId, Problem> {
    RuntimeId::parse(id).map_err(|_| unknown())
}

fn unknown() -> Problem {
    Problem::new(ProblemCode::UnknownRuntime, "there is no such runtime")
}

pub(super) fn refused(fault: &RequestFault) -> Problem {
    let code = match fault {
        RequestFault::Unknown => ProblemCode::UnknownRuntime,
        RequestFault::Refused { .. } => ProblemCode::NotInThisState,
        RequestFault::Shut => ProblemCode::ShutdownLatched,
        RequestFault::Disabled => ProblemCode::AutomationDisabled,
        RequestFault::BudgetExhausted { .. } => ProblemCode::BudgetExhausted,
        RequestFault::Blocked { .. } => ProblemCode::DependencyFailed,
        RequestFault::Unavailable(_) => ProblemCode::Unavailable,
        RequestFault::Gone => ProblemCode::NotReady,
    };
    let problem = Problem::new(code, fault.to_string());
    match fault {
        RequestFault::Refused { state: RuntimeState::Quarantined, .. } => {
            problem.hint("`arw-cli runtime restore` gives its restart budget back and starts it")
        }
        RequestFault::Disabled => problem.hint("`arw-cli automation status` says who disabled it and why"),
        RequestFault::BudgetExhausted { .. } => {
            problem.hint("raise the budget in the manifest or in automations.toml, and reload")
        }
        _ => problem,
    }
}

pub(super) async fn all(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let supervisor = supervisor(&app)?;
    let (shut, runtimes) = blocking(move || (supervisor.is_shut(), supervisor.measured())).await?;
    Ok(Json(json!({ "shut": shut, "runtimes": runtimes })))
}

pub(super) async fn matrix(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let supervisor = supervisor(&app)?;
    let rows: serde_json::Map<String, Value> =
        supervisor.runtimes().iter().map(|view| (view.id.to_string(), row(view))).collect();
    Ok(Json(json!({ "runtimes": rows })))
}

/// One runtime in a few words, as dashboards colour it.
fn row(view: &RuntimeView) -> Value {
    let severity = match view.state {
        RuntimeState::Ready | RuntimeState::Stopped => "ok",
        RuntimeState::Starting | RuntimeState::Stopping | RuntimeState::Frozen => "info",
        RuntimeState::Degraded | RuntimeState::Backoff => "warning",
        RuntimeState::Quarantined | RuntimeState::Error => "critical",
    };
    json!({
        "status": { "code": view.state, "label": view.name, "severity": severity, "detail": view.detail },
        "health": view.health,
        "since": view.since,
        "restart_budget": {
            "window_seconds": view.restarts.window_secs,
            "max_restarts": view.restarts.max,
            "used": view.restarts.used,
            "remaining": view.restarts.max.saturating_sub(view.restarts.used),
        },
    })
}

pub(super) async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<RuntimeView>, Problem> {
    let (supervisor, id) = (supervisor(&app)?, known(&id)?);
    blocking(move || supervisor.measured_one(&id)).await?.map(Json).ok_or_else(unknown)
}

pub(super) async fn report(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Confinement>, Problem> {
    let (supervisor, id) = (supervisor(&app)?, known(&id)?);
    supervisor.runtime(&id).ok_or_else(unknown)?;
    supervisor.report(&id).map(Json).ok_or_else(|| {
        Problem::new(ProblemCode::Unavailable, "it was not launched yet, so nothing was measured").hint("start it")
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeathsQuery {
    limit: Option<u64>,
}

pub(super) async fn deaths(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Strict(query): Strict<DeathsQuery>,
) -> Result<Json<Value>, Problem> {
    let (supervisor, id) = (supervisor(&app)?, known(&id)?);
    let limit = bounded("limit", query.limit.unwrap_or(DEFAULT_DEATHS), 1, MAX_DEATHS)?;
    supervisor.runtime(&id).ok_or_else(unknown)?;
    let read = blocking(move || supervisor.deaths(&id, limit)).await?;
    read.map(|deaths| Json(json!({ "deaths": deaths }))).map_err(|fault| unreadable(&fault))
}

pub(super) async fn act(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path((id, action)): Path<(String, String)>,
) -> Result<Json<RuntimeView>, Problem> {
    let (supervisor, id) = (supervisor(&app)?, known(&id)?);
    let action = Action::from_code(&action).ok_or_else(|| {
        let names: Vec<&str> = Action::ALL.iter().map(|action| action.code()).collect();
        Problem::new(ProblemCode::BadRequest, format!("an action is one of {}", names.join(", ")))
    })?;
    tracing::info!(runtime = %id, %action, "an operator asks");
    let view = supervisor.runtime(&id).ok_or_else(unknown)?;
    let deed = Deed {
        runtime: Some(id.clone()),
        persona: Some(view.persona),
        before: Some(json!({ "state": view.state, "run": view.run })),
        after: Some(json!({ "asked": action })),
        ..Deed::new(Actor::of(peer), AuditAction::RuntimeRequested)
    };
    // At the same time: a launch does not wait for the disk, and is not acknowledged before it is recorded.
    let (asked, recorded) = tokio::join!(supervisor.request(&id, action), app.state.governance.audit.record(deed));
    let view = asked.map_err(|fault| refused(&fault))?;
    if let Err(fault) = recorded {
        tracing::error!(%fault, runtime = %id, %action, "what an operator asks cannot be recorded");
        // What narrows stays; everything else is taken back.
        if !matches!(action, Action::Stop | Action::Freeze) {
            let _ = supervisor.request(&id, Action::Stop).await;
            return Err(Problem::new(ProblemCode::StateUnavailable, fault.to_string()));
        }
    }
    Ok(Json(view))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    tail: Option<u64>,
    follow: Option<u64>,
}

pub(super) async fn logs(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Strict(query): Strict<LogQuery>,
) -> Result<Response, Problem> {
    let (supervisor, id) = (supervisor(&app)?, known(&id)?);
    let tail = bounded("tail", query.tail.unwrap_or(DEFAULT_TAIL), 0, MAX_LOG_LINES)?;
    let follow = bounded("follow", query.follow.unwrap_or(0), 0, 1)? == 1;
    let reader = Arc::new(LogReader::new(supervisor.log_files(&id).ok_or_else(unknown)?));
    let last = read(&reader, move |reader| reader.last(tail)).await?;
    if !follow {
        return Ok(Json(json!({ "lines": newest(&last.lines) })).into_response());
    }
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        Problem::new(ProblemCode::TooManyStreams, format!("{MAX_STREAMS} streams are open, the most there may be"))
    })?;
    let place = last.next;
    let follow = Follow { reader, place, first: Some(last), shutdown: app.shutdown.clone(), _permit: permit };
    let body = Body::from_stream(unfold(follow, |mut follow| async move {
        let frame = follow.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(frame), follow))
    }));
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

/// The newest lines that fit the bound of an answer, oldest first.
fn newest(lines: &[Line]) -> Vec<Shown> {
    let mut room = MAX_LOG_BYTES;
    let mut shown: Vec<Shown> = lines
        .iter()
        .rev()
        .map(Shown::of)
        .take_while(|line| {
            room = room.saturating_sub(line.text.len() + LINE_OVERHEAD);
            room > 0
        })
        .collect();
    shown.reverse();
    shown
}

async fn read(
    reader: &Arc<LogReader>,
    work: impl FnOnce(&LogReader) -> std::io::Result<Batch> + Send + 'static,
) -> Result<Batch, Problem> {
    let reader = Arc::clone(reader);
    match blocking(move || work(&reader)).await? {
        Ok(batch) => Ok(batch),
        // Nothing was ever launched.
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => {
            Ok(Batch { lines: Vec::new(), next: Place::START, missed: false, more: false })
        }
        Err(fault) => Err(unreadable(&fault)),
    }
}

fn unreadable(fault: &std::io::Error) -> Problem {
    tracing::error!(%fault, "a file of a runtime cannot be read");
    Problem::new(ProblemCode::Internal, "a file of the runtime cannot be read; the daemon's log says more")
}

/// A followed log. It holds one batch: who reads slowly is behind, and what was overwritten meanwhile is told as missed.
struct Follow {
    reader: Arc<LogReader>,
    place: Place,
    first: Option<Batch>,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Follow {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            // Also when there is nothing: the client knows then that it listens.
            return Some(frames(&first));
        }
        let mut quiet = Duration::ZERO;
        loop {
            let place = self.place;
            let batch = read(&self.reader, move |reader| reader.since(place)).await.ok()?;
            self.place = batch.next;
            if !batch.lines.is_empty() || batch.missed {
                return Some(frames(&batch));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => quiet += LOOK,
                () = self.shutdown.cancelled() => return None,
            }
            if quiet >= HEARTBEAT {
                return Some(Bytes::from_static(b": still here\n\n"));
            }
        }
    }
}

fn frames(batch: &Batch) -> Bytes {
    let mut text = String::from(": listening\n\n");
    if batch.missed {
        text.push_str("event: missed\ndata: {}\n\n");
    }
    for line in &batch.lines {
        // Texts and times always have a JSON form of one line.
        let json = serde_json::to_string(&Shown::of(line)).unwrap_or_default();
        text.push_str("event: line\ndata: ");
        text.push_str(&json);
        text.push_str("\n\n");
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::log::Stream;
    use crate::supervisor::Dependency;

    #[test]
    fn an_answer_is_bounded_and_keeps_the_newest_lines() {
        let line = |micros: i64| Line {
            at: Timestamp::from_unix_micros(micros),
            stream: Stream::Out,
            text: vec![0x1b; 16 << 10],
            continues: false,
        };
        let lines: Vec<Line> = (0..2_000).map(line).collect();
        let shown = newest(&lines);
        let bytes: usize = shown.iter().map(|line| line.text.len()).sum();
        assert!(bytes <= MAX_LOG_BYTES && !shown.is_empty());
        assert_eq!(shown.last().map(|line| line.at), lines.last().map(|line| line.at));
        assert!(!shown.iter().any(|line| line.text.contains('\x1b')));
    }

    #[test]
    fn every_refusal_has_its_own_code() {
        let on = Dependency { on: RuntimeId::parse("db").expect("id"), condition: crate::supervisor::Condition::Ready };
        for (fault, status, code) in [
            (RequestFault::Unknown, 404, "unknown_runtime"),
            (
                RequestFault::Refused { action: Action::Start, state: RuntimeState::Quarantined },
                409,
                "not_in_this_state",
            ),
            (RequestFault::Shut, 409, "shutdown_latched"),
            (RequestFault::Disabled, 409, "automation_disabled"),
            (
                RequestFault::BudgetExhausted { kind: crate::supervisor::BudgetKind::Tokens, until: None },
                409,
                "budget_exhausted",
            ),
            (RequestFault::Blocked { by: vec![on] }, 409, "dependency_failed"),
            (RequestFault::Unavailable("no".to_owned()), 409, "unavailable"),
            (RequestFault::Gone, 503, "not_ready"),
        ] {
            let problem = refused(&fault);
            assert_eq!((problem.code.status(), problem.code.code()), (status, code));
        }
    }
}
