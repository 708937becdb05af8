//! `runtime exec`: one more command inside a runtime, as if it ran here.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::context::Context;
use crate::control::SseEvent;
use crate::ui::args::ExecArgs;
use crate::ui::text::Cleaner;
use crate::ui::{Failure, Outcome, Screen};

/// What `timeout(1)` ends with.
const TIMED_OUT: u8 = 124;
/// What a shell says of a command that SIGKILL ended.
const KILLED: u8 = 137;

pub(super) async fn run(args: &ExecArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let command = args.command.iter().map(word).collect::<Result<Vec<&str>, Failure>>()?;
    let request = json!({ "command": command, "timeout_secs": args.timeout });
    let path = format!("/orchestrator/runtimes/{}/exec", args.id);
    let mut stream = context.client.converse(&path, &request).await?;
    let mut out = Way::of(args.raw || !io::stdout().is_terminal());
    let mut err = Way::of(args.raw || !io::stderr().is_terminal());
    while let Some(SseEvent { event, data, .. }) = stream.next().await? {
        let event = event.unwrap_or_default();
        let data: Value = serde_json::from_str(&data).map_err(crate::control::ClientError::Answer)?;
        if screen.json() {
            screen.value(&json!({ "event": event, "data": data }), true)?;
            screen.flush()?;
        } else if event == "out" {
            screen.raw(&out.pass(bytes(&data)?))?;
            screen.flush()?;
        } else if event == "err" {
            io::stderr().lock().write_all(&err.pass(bytes(&data)?))?;
        }
        if event == "end" {
            return ending(&data, args);
        }
    }
    Err(Failure::new("the daemon ended the stream, and the command with it"))
}

/// A body of JSON has no place for other words.
fn word(word: &OsString) -> Result<&str, Failure> {
    word.to_str().ok_or_else(|| Failure::usage("a word of the command is not UTF-8"))
}

fn bytes(data: &Value) -> Result<Vec<u8>, Failure> {
    let decoded = STANDARD.decode(data["base64"].as_str().unwrap_or_default());
    decoded.map_err(|fault| Failure::new("the daemon's answer is not understood").why(fault))
}

/// How one of the streams is passed on.
enum Way {
    /// As it is: a program reads it.
    Raw,
    /// To a terminal, which it must not steer.
    Clean(Cleaner),
}

impl Way {
    fn of(raw: bool) -> Self {
        if raw { Self::Raw } else { Self::Clean(Cleaner::default()) }
    }

    fn pass(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Raw => bytes,
            Self::Clean(cleaner) => cleaner.clean(&bytes).into_bytes(),
        }
    }
}

fn ending(data: &Value, args: &ExecArgs) -> Result<Outcome, Failure> {
    let number = |key: &str| data[key].as_u64().and_then(|number| u8::try_from(number).ok());
    let failed = |exit: u8, what: String| Err(Failure { exit, ..Failure::new(what) });
    match data["ending"].as_str() {
        Some("exited") => {
            let code = number("code").or_else(|| number("signal").map(|signal| signal.saturating_add(128)));
            code.map(Outcome::Passed).ok_or_else(|| Failure::new("the daemon did not say how the command ended"))
        }
        Some("timed_out") => failed(TIMED_OUT, format!("the command was killed after {} s", args.timeout)),
        _ => failed(KILLED, format!("the command ended with {}", args.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RuntimeId;

    fn args() -> ExecArgs {
        let id = RuntimeId::parse("model").expect("id");
        ExecArgs { id, timeout: 5, raw: false, command: vec!["true".into()] }
    }

    #[test]
    fn the_end_of_the_command_is_the_end_of_the_client() {
        for (data, outcome) in [
            (json!({ "ending": "exited", "code": 0 }), Ok(0)),
            (json!({ "ending": "exited", "code": 255 }), Ok(255)),
            (json!({ "ending": "exited", "signal": 15 }), Ok(143)),
            (json!({ "ending": "timed_out" }), Err((124, "the command was killed after 5 s"))),
            (json!({ "ending": "runtime_ended" }), Err((137, "the command ended with model"))),
            (json!({ "ending": "exited" }), Err((1, "the daemon did not say how the command ended"))),
            (json!({ "ending": "exited", "code": 256 }), Err((1, "the daemon did not say how the command ended"))),
        ] {
            match (ending(&data, &args()), outcome) {
                (Ok(Outcome::Passed(code)), Ok(expected)) => assert_eq!(code, expected),
                (Err(failure), Err((exit, what))) => assert_eq!((failure.exit, failure.what.as_str()), (exit, what)),
                (got, _) => panic!("{data}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_program_gets_the_bytes_and_a_terminal_their_picture() {
        let bytes = b"a\x1b[2J\xff\n".to_vec();
        assert_eq!(Way::of(true).pass(bytes.clone()), bytes);
        assert_eq!(Way::of(false).pass(bytes), "a\\u{1b}[2J\u{fffd}\n".as_bytes());
    }
}
