//! What runtimes ask from inside: their own usage, and to be heard as their own persona. Nothing of anybody else's.
//!
//! The gateway's desk says which runtime asks; what a request says of itself is compared with that and never believed.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::super::audit::Actor;
use super::super::personas::{PersonaFault, Personas};
use super::keeper::{Automations, Whose};
use super::usage::{UsageFault, UsageReport};
use crate::proxy::{Inquiry, Reply};

/// Inquiries that are answered at once: each waits for the disk for some milliseconds.
const AT_ONCE: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door<'p> {
    /// `/usage`, or `/automations/{id}/usage`: whose, as it is written.
    Usage(Option<&'p str>),
    /// `/feedback`, or `/persona/{id}/feedback`: of whom, as it is written.
    Feedback(Option<&'p str>),
}

impl<'p> Door<'p> {
    /// Exactly these paths; everything else of this host is not there.
    fn of(path: &'p str) -> Option<Self> {
        let named = |before: &str, after: &str| {
            let id = path.strip_prefix(before)?.strip_suffix(after)?;
            (!id.is_empty() && !id.contains(['/', '?', '%', '#'])).then_some(id)
        };
        match path {
            "/usage" => Some(Self::Usage(None)),
            "/feedback" => Some(Self::Feedback(None)),
            _ => named("/automations/", "/usage")
                .map(|id| Self::Usage(Some(id)))
                .or_else(|| named("/persona/", "/feedback").map(|id| Self::Feedback(Some(id)))),
        }
    }
}

/// Serves the desk until `stop`.
pub async fn serve(
    mut inquiries: mpsc::Receiver<Inquiry>,
    automations: Automations,
    personas: Personas,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let inquiry = tokio::select! {
            () = stop.cancelled() => return,
            inquiry = inquiries.recv() => match inquiry {
                Some(inquiry) => inquiry,
                None => return,
            },
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (automations, personas) = (automations.clone(), personas.clone());
        // Bounded by its place, and done within the bounds of what it asks; an answer that nobody waits for is dropped.
        tokio::spawn(async move {
            let reply = answer(&automations, &personas, &inquiry).await;
            inquiry.answer(reply);
            drop(place);
        });
    }
}

async fn answer(automations: &Automations, personas: &Personas, inquiry: &Inquiry) -> Reply {
    match Door::of(&inquiry.path) {
        Some(Door::Usage(named)) => usage(automations, named, inquiry).await,
        Some(Door::Feedback(named)) => feedback(personas, named, inquiry).await,
        None => Reply::problem(404, "not_found", "a runtime reaches `/usage` and `/feedback` here, and nothing else"),
    }
}

/// What a runtime reports of its persona. Whether anybody agreed to hear it, and how often, is the personas' to say.
async fn feedback(personas: &Personas, named: Option<&str>, inquiry: &Inquiry) -> Reply {
    if named.is_some_and(|named| named != inquiry.persona.as_str()) {
        return Reply::problem(403, "not_yours", "a runtime speaks for its own persona only");
    }
    if inquiry.method.as_str() != "POST" {
        return Reply::problem(405, "method_not_allowed", "`POST` sends feedback");
    }
    let body = match read::<Value>(inquiry) {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let fault = match personas.feedback(inquiry.persona.clone(), body, Actor::runtime(&inquiry.run)).await {
        Ok(at) => return Reply::json(&json!({ "at": at })),
        Err(fault) => fault,
    };
    let (status, code) = match &fault {
        PersonaFault::UnknownPersona(_) => (404, "no_such_persona"),
        PersonaFault::NotArmed(..) => (409, "persona_not_armed"),
        PersonaFault::NotOptedIn(_) => (409, "not_opted_in"),
        PersonaFault::TooFast(..) => (429, "too_fast"),
        PersonaFault::Feedback => (400, "bad_request"),
        PersonaFault::Store(fault) => {
            tracing::error!(runtime = %inquiry.run.runtime, %fault, "feedback could not be kept");
            return Reply::problem(503, "state_unavailable", "it could not be kept; send it again");
        }
        PersonaFault::Gone => (503, "not_ready"),
        // Nothing that is said of feedback.
        other => {
            tracing::error!(fault = %other, "feedback was refused for a reason of something else");
            return Reply::problem(500, "internal", "the daemon failed");
        }
    };
    Reply::problem(status, code, &fault.to_string())
}

async fn usage(automations: &Automations, named: Option<&str>, inquiry: &Inquiry) -> Reply {
    let whose = Whose::Own(inquiry.run.runtime.clone());
    if let Some(named) = named {
        let own = automations.usage(&whose).await.map(|usage| usage.automation);
        let own = own.is_ok_and(|own| own.as_str() == named || inquiry.run.runtime.as_str() == named);
        if !own {
            return Reply::problem(403, "not_yours", "a runtime sees and reports its own usage only");
        }
    }
    let usage = match inquiry.method.as_str() {
        "GET" | "HEAD" => automations.usage(&whose).await,
        "POST" => match read::<UsageReport>(inquiry) {
            Ok(report) => automations.report(whose, report, None).await,
            Err(reply) => return reply,
        },
        _ => return Reply::problem(405, "method_not_allowed", "`GET` reads usage and `POST` reports it"),
    };
    match usage {
        Ok(usage) => Reply::json(&usage),
        Err(UsageFault::Store(fault)) => {
            tracing::error!(runtime = %inquiry.run.runtime, %fault, "a report of usage could not be kept");
            Reply::problem(503, "state_unavailable", "the report could not be kept; send it again")
        }
        Err(fault) => Reply::problem(fault.status(), fault.code(), &fault.to_string()),
    }
}

fn read<T: DeserializeOwned>(inquiry: &Inquiry) -> Result<T, Reply> {
    if !inquiry.json {
        return Err(Reply::problem(415, "not_json", "the body must be declared as application/json"));
    }
    serde_json::from_slice(&inquiry.body)
        .map_err(|fault| Reply::problem(400, "bad_request", &format!("the body is not understood: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_usage_and_feedback_is_there() {
        for (path, door) in [
            ("/usage", Some(Door::Usage(None))),
            ("/automations/nightly/usage", Some(Door::Usage(Some("nightly")))),
            ("/automations/../usage", Some(Door::Usage(Some("..")))),
            ("/feedback", Some(Door::Feedback(None))),
            ("/persona/demo/feedback", Some(Door::Feedback(Some("demo")))),
            ("/persona/../feedback", Some(Door::Feedback(Some("..")))),
            ("/persona//feedback", None),
            ("/persona/demo/feedback/consent", None),
            ("/persona/demo/x/feedback", None),
            ("/persona/d%65mo/feedback", None),
            ("/feedback/", None),
            ("/feedback?x", None),
            ("/persona/demo/proposals", None),
            ("/state/persona/demo", None),
            ("/usage/", None),
            ("/usage?x", None),
            ("//usage", None),
            ("/USAGE", None),
            ("/automations//usage", None),
            ("/automations/a/b/usage", None),
            ("/automations/a%2fb/usage", None),
            ("/automations/nightly/usage?x=1", None),
            ("/automations/nightly/disable", None),
            ("/state/automation/status", None),
            ("/", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Door::of(path), door, "{path}");
        }
    }
}
