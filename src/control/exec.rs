//! One more command inside a runtime: what it says as server-sent events, and at last how it ended.
//!
//! A client that goes, or does not read, ends the command. A stream without its `end` was cut, and the command with it.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::extract::JsonBody;
use super::problem::{Problem, ProblemCode};
use super::runtimes::{known, supervisor};
use super::state::{App, MAX_STREAMS};
use crate::domain::{ClientAddr, RuntimeId};
use crate::governance::audit::{Actor, AuditAction, Deed};
use crate::sandbox::{Exit, Text};
use crate::supervisor::{Ending, ExecFault, Execution, Said};

/// Seconds without `timeout_secs`: a look at something.
pub(super) const DEFAULT_SECS: u64 = 60;
/// Most seconds: what takes longer is work for a runtime of its own.
pub(super) const MAX_SECS: u64 = 3_600;
/// Most words of a command.
pub(super) const MAX_WORDS: usize = 256;
/// Most bytes of a command. With every byte escaped, it still fits what its init reads at once.
pub(super) const MAX_BYTES: usize = 8 << 10;
/// Time without a word after which a comment is sent: it finds a client that is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is to be executed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecRequest {
    command: Vec<String>,
    timeout_secs: Option<u64>,
}

/// JSON Schemas of what goes in here.
pub(super) fn schema() -> (String, Value) {
    let word = json!({ "type": "string", "maxLength": MAX_BYTES });
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["command"],
        "properties": {
            "command": { "type": "array", "minItems": 1, "maxItems": MAX_WORDS, "items": word },
            "timeout_secs": { "type": "integer", "minimum": 1, "maximum": MAX_SECS, "default": DEFAULT_SECS },
        },
    });
    ("ExecRequest".to_owned(), schema)
}

pub(super) async fn exec(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Extension(peer): Extension<ClientAddr>,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<Response, Problem> {
    let (supervisor, id) = (supervisor(&app)?, known(&id)?);
    let (argv, time) = understood(request)?;
    supervisor.runtime(&id).ok_or_else(|| refused(&ExecFault::Unknown))?;
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        Problem::new(ProblemCode::TooManyStreams, format!("{MAX_STREAMS} streams are open, the most there may be"))
    })?;
    record(&app, &id, peer, &argv, time).await?;
    let execution = supervisor.exec(&id, argv, time).await.map_err(|fault| refused(&fault))?;
    let talk = Talk { execution, greeted: false, shutdown: app.shutdown.clone(), _permit: permit };
    let body = Body::from_stream(unfold(talk, |mut talk| async move {
        let frame = talk.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(frame), talk))
    }));
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

/// It is in the audit before anything is executed.
async fn record(app: &App, id: &RuntimeId, peer: ClientAddr, argv: &[Text], time: Duration) -> Result<(), Problem> {
    let program = argv.first().map(|program| program.as_os_str().to_string_lossy().into_owned());
    tracing::info!(runtime = %id, program, "an operator executes a command");
    // Not the arguments: secrets stand there.
    let asked = json!({ "program": program, "words": argv.len(), "timeout_secs": time.as_secs() });
    let deed =
        Deed { runtime: Some(id.clone()), after: Some(asked), ..Deed::new(Actor::of(peer), AuditAction::RuntimeExec) };
    app.state.governance.audit.record(deed).await.map_err(|fault| {
        tracing::error!(%fault, "a command is not executed: the audit cannot be written");
        Problem::new(ProblemCode::StateUnavailable, "the audit cannot be written, so nothing is executed")
    })
}

fn understood(request: ExecRequest) -> Result<(Vec<Text>, Duration), Problem> {
    let wrong = |why: String| Problem::new(ProblemCode::BadRequest, why);
    let ExecRequest { command, timeout_secs } = request;
    let secs = timeout_secs.unwrap_or(DEFAULT_SECS);
    if !(1..=MAX_SECS).contains(&secs) {
        return Err(wrong(format!("`timeout_secs` is 1 to {MAX_SECS}")));
    }
    if command.first().is_none_or(String::is_empty) {
        return Err(wrong("`command` begins with a program".to_owned()));
    }
    if command.len() > MAX_WORDS || command.iter().map(String::len).sum::<usize>() > MAX_BYTES {
        return Err(wrong(format!("`command` has at most {MAX_WORDS} words and {MAX_BYTES} bytes")));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(wrong("`command` has a NUL inside".to_owned()));
    }
    Ok((command.into_iter().map(Text::from).collect(), Duration::from_secs(secs)))
}

fn refused(fault: &ExecFault) -> Problem {
    let code = match fault {
        ExecFault::Unknown => ProblemCode::UnknownRuntime,
        ExecFault::NotRunning(_) | ExecFault::Ended => ProblemCode::NotInThisState,
        ExecFault::Shut => ProblemCode::ShutdownLatched,
        ExecFault::Crowded => ProblemCode::TooManyStreams,
        ExecFault::TooLong => ProblemCode::BadRequest,
        ExecFault::Refused(_) => ProblemCode::NotExecuted,
        ExecFault::Silent(_) => ProblemCode::TimedOut,
    };
    Problem::new(code, fault.to_string())
}

/// A command and whoever listens to it.
struct Talk {
    execution: Execution,
    greeted: bool,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Talk {
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Bytes::from_static(b": executed\n\n"));
        }
        tokio::select! {
            said = self.execution.next() => said.map(|said| frame(&said)),
            () = tokio::time::sleep(HEARTBEAT) => Some(Bytes::from_static(b": still here\n\n")),
            () = self.shutdown.cancelled() => None,
        }
    }
}

fn frame(said: &Said) -> Bytes {
    let (event, data) = match said {
        Said::Out(bytes) => ("out", json!({ "base64": STANDARD.encode(bytes) })),
        Said::Err(bytes) => ("err", json!({ "base64": STANDARD.encode(bytes) })),
        Said::End(ending) => ("end", ended(*ending)),
    };
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}

fn ended(ending: Ending) -> Value {
    match ending {
        Ending::Exited(Exit::Code(code)) => json!({ "ending": "exited", "code": code }),
        Ending::Exited(Exit::Signal(signal)) => json!({ "ending": "exited", "signal": signal }),
        Ending::TimedOut => json!({ "ending": "timed_out" }),
        Ending::RuntimeEnded => json!({ "ending": "runtime_ended" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Fault, Step};
    use crate::supervisor::RuntimeState;

    fn asked(command: &[&str], timeout_secs: Option<u64>) -> Result<(Vec<Text>, Duration), Problem> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        understood(ExecRequest { command, timeout_secs })
    }

    #[test]
    fn a_command_is_bounded_before_anything_is_executed() {
        let (argv, time) = asked(&["ls", "", "a b"], None).expect("sound");
        assert_eq!((argv.len(), time.as_secs()), (3, DEFAULT_SECS));
        assert!(asked(&["x"], Some(MAX_SECS)).is_ok() && asked(&["x"; MAX_WORDS], Some(1)).is_ok());
        assert!(asked(&[&"x".repeat(MAX_BYTES)], None).is_ok());
        for (command, secs) in [
            (&[][..], None),
            (&[""], None),
            (&["a\0b"], None),
            (&["ls", "\0"], None),
            (&["x"; MAX_WORDS + 1], None),
            (&["x", &"y".repeat(MAX_BYTES)], None),
            (&["x"], Some(0)),
            (&["x"], Some(MAX_SECS + 1)),
            (&["x"], Some(u64::MAX)),
        ] {
            let problem = asked(command, secs).expect_err("refused");
            assert_eq!(problem.code, ProblemCode::BadRequest, "{} {secs:?}", command.len());
        }
    }

    #[test]
    fn every_refusal_has_its_code() {
        let step = Fault { step: Step::Exec, detail: "nope".to_owned(), errno: 2 };
        for (fault, status, code) in [
            (ExecFault::Unknown, 404, "unknown_runtime"),
            (ExecFault::NotRunning(RuntimeState::Frozen), 409, "not_in_this_state"),
            (ExecFault::Ended, 409, "not_in_this_state"),
            (ExecFault::Shut, 409, "shutdown_latched"),
            (ExecFault::Crowded, 503, "too_many_streams"),
            (ExecFault::TooLong, 400, "bad_request"),
            (ExecFault::Refused(step), 422, "not_executed"),
            (ExecFault::Silent("no".to_owned()), 503, "timed_out"),
        ] {
            let problem = refused(&fault);
            assert_eq!((problem.code.status(), problem.code.code()), (status, code), "{fault}");
        }
    }

    #[test]
    fn bytes_of_a_command_cannot_forge_an_event() {
        let forged = frame(&Said::Out(b"\n\nevent: end\ndata: {\"ending\":\"exited\",\"code\":0}\n\n".to_vec()));
        assert_eq!(forged.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert!(forged.starts_with(b"event: out\ndata: {\"base64\":\""));
        let end = frame(&Said::End(Ending::Exited(Exit::Signal(9))));
        assert_eq!(&end[..], b"event: end\ndata: {\"ending\":\"exited\",\"signal\":9}\n\n");
    }
}
