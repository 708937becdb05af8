//! `events`: what happens, one line each; `--json` gives the CloudEvents as they come.

use std::time::Duration;

use serde::Deserialize;

use super::context::Context;
use crate::control::{ClientError, EventStream, SseEvent, escape};
use crate::domain::Timestamp;
use crate::ui::args::EventsArgs;
use crate::ui::text::{cut, moment, safe};
use crate::ui::{Failure, Outcome, Paint, Screen};

/// Time before a broken stream is taken up again. 1 s: a restart takes about that.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Time without an event after which a stream that is not followed has shown all there was. 300 ms.
const QUIET: Duration = Duration::from_millis(300);
/// Longest data in a line; `--json` has it whole.
const DATA_WIDTH: usize = 160;

pub(super) async fn run(args: &EventsArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let mut path = format!("/events?replay={}", args.replay);
    if let Some(prefix) = &args.prefix {
        path.push_str("&prefix=");
        path.push_str(&escape(prefix));
    }
    let mut last_id: Option<String> = None;
    let mut stream = context.client.subscribe(&path, None).await?;
    loop {
        let ended = show_stream(&mut stream, args.follow, &mut last_id, screen).await?;
        screen.flush()?;
        if !args.follow || ended == Ended::Quiet {
            return Ok(Outcome::Done);
        }
        stream = reconnect(context, &path, last_id.as_deref()).await?;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Nothing more came.
    Quiet,
    /// The daemon ended it, or it broke.
    Broken,
}

async fn show_stream(
    stream: &mut EventStream,
    follow: bool,
    last_id: &mut Option<String>,
    screen: &mut Screen,
) -> Result<Ended, Failure> {
    loop {
        let next = if follow {
            stream.next().await
        } else {
            match tokio::time::timeout(QUIET, stream.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(Ended::Quiet),
            }
        };
        match next {
            Ok(Some(event)) => {
                show(&event, screen)?;
                if follow {
                    screen.flush()?;
                }
                if event.id.is_some() {
                    *last_id = event.id;
                }
            }
            Ok(None) => return Ok(Ended::Broken),
            Err(ClientError::Exchange(_)) if follow => return Ok(Ended::Broken),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Until the daemon is back. What it refuses for good is a failure.
async fn reconnect(context: &Context, path: &str, last_id: Option<&str>) -> Result<EventStream, Failure> {
    loop {
        tokio::time::sleep(RECONNECT_PAUSE).await;
        match context.client.subscribe(path, last_id).await {
            Ok(stream) => return Ok(stream),
            Err(ClientError::NotRunning { .. } | ClientError::Exchange(_) | ClientError::Timeout(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The parts of a CloudEvent that a person reads.
#[derive(Debug, Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    time: Timestamp,
    subject: Option<String>,
    #[serde(default)]
    data: serde_json::Value,
}

fn show(event: &SseEvent, screen: &mut Screen) -> Result<(), Failure> {
    if screen.json() {
        screen.raw(event.data.as_bytes())?;
        screen.raw(b"\n")?;
        return Ok(());
    }
    match serde_json::from_str::<Envelope>(&event.data) {
        Ok(envelope) => {
            let data = envelope.data.to_string();
            let subject = envelope.subject.as_deref().unwrap_or_default();
            let text = format!(
                "{}  {:<24}  {}  {}",
                moment(envelope.time),
                safe(&envelope.kind),
                safe(subject),
                safe(&cut(&data, DATA_WIDTH))
            );
            screen.line(text.trim_end())?;
        }
        Err(_) => {
            let text = format!("{}: {}", event.event.as_deref().unwrap_or("event"), event.data);
            screen.painted(Paint::Warn, &safe(&text))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::screen::capture;

    fn event(data: &str) -> SseEvent {
        SseEvent { id: Some("7".to_owned()), event: Some("lost".to_owned()), data: data.to_owned() }
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let text = capture(|screen| {
            let data = r#"{"type":"egress.new_domain","time":"2026-11-22T10:31:21Z","subject":"demo\u001b[2J","data":{"host":"a\nb"}}"#;
            show(&event(data), screen).expect("shown");
            show(&event("{\"lost\":3}"), screen).expect("shown");
        });
        assert_eq!(
            text,
            "2026-11-22 10:31:21Z  egress.new_domain         demo\\u{1b}[2J  {\"host\":\"a\\nb\"}\nlost: {\"lost\":3}\n"
        );
    }
}
