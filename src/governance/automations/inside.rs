//! What runtimes ask from inside: their own usage, and nothing of anybody else's.
//!
//! The gateway's desk says which runtime asks; what a request says of itself is compared with that and never believed.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

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
}

impl<'p> Door<'p> {
    /// Exactly these paths; everything else of this host is not there.
    fn of(path: &'p str) -> Option<Self> {
        if path == "/usage" {
            return Some(Self::Usage(None));
        }
        let id = path.strip_prefix("/automations/")?.strip_suffix("/usage")?;
        (!id.is_empty() && !id.contains(['/', '?', '%', '#'])).then_some(Self::Usage(Some(id)))
    }
}

/// Serves the desk until `stop`.
pub async fn serve(mut inquiries: mpsc::Receiver<Inquiry>, automations: Automations, stop: CancellationToken) {
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
        let automations = automations.clone();
        // Bounded by its place, and done within the bounds of what it asks; an answer that nobody waits for is dropped.
        tokio::spawn(async move {
            let reply = answer(&automations, &inquiry).await;
            inquiry.answer(reply);
            drop(place);
        });
    }
}

async fn answer(automations: &Automations, inquiry: &Inquiry) -> Reply {
    let Some(Door::Usage(named)) = Door::of(&inquiry.path) else {
        return Reply::problem(404, "not_found", "a runtime reaches `/usage` here, and nothing else");
    };
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
    fn nothing_but_usage_is_there() {
        for (path, door) in [
            ("/usage", Some(Door::Usage(None))),
            ("/automations/nightly/usage", Some(Door::Usage(Some("nightly")))),
            ("/automations/../usage", Some(Door::Usage(Some("..")))),
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
