//! Tells what the ledger holds to whoever listens.
//!
//! The ledger comes first and the news follow it: nothing on the way of a request publishes events, and
//! nothing is told that is not recorded. When the ledger runs ahead of this task, the news are late, never lost.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::domain::{Host, PersonaId, Scheme};
use crate::events::{EventBus, EventKind, FirstSeen};
use crate::ledger::{Filter, Follower, Kind, Ledger, Line, Outcome};

/// Lines read at once; a burst is told in several turns.
const BATCH: usize = 512;
/// Least time between two looks: a busy ledger is read in batches, not line by line.
const PACE: Duration = Duration::from_millis(100);
/// Lines from which the hosts that are known already are learned at the start.
const HISTORY: usize = 50_000;

/// Publishes ledger lines, and what is new about them, until `stop`.
pub(super) async fn publish(ledger: Ledger, events: EventBus, stop: CancellationToken) {
    let Ok(reader) = ledger.reader() else { return };
    let mut follower = Follower::new(reader.dir(), ledger.status().last_seq + 1);
    let mut appended = ledger.watch();
    let learned = tokio::task::spawn_blocking(move || {
        let opened = Filter { kind: Some(Kind::Open), ..Filter::default() };
        FirstSeen::restore(reader.latest(&opened, HISTORY).unwrap_or_default().iter().filter_map(seen))
    });
    let Ok(mut first_seen) = learned.await else { return };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = appended.changed() => if changed.is_err() { return },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PACE) => {}
        }
        loop {
            let mut next = follower.clone();
            let polled = tokio::task::spawn_blocking(move || next.poll(BATCH).map(|lines| (next, lines))).await;
            let lines = match polled {
                Ok(Ok((moved, lines))) => {
                    follower = moved;
                    lines
                }
                Ok(Err(fault)) => {
                    tracing::warn!(error = %fault, "the ledger could not be read back for the event stream");
                    break;
                }
                Err(_) => return,
            };
            if lines.is_empty() {
                break;
            }
            lines.iter().for_each(|line| tell(&events, &mut first_seen, line));
        }
    }
}

/// Who reached what, of an `open` line.
fn seen(line: &Line) -> Option<(PersonaId, Host, Scheme)> {
    let host = line.host.as_ref().and_then(|host| Host::parse(host.as_bytes()).ok())?;
    Some((line.persona.clone()?, host, line.scheme?))
}

fn tell(events: &EventBus, first_seen: &mut FirstSeen, line: &Line) {
    let subject = line.persona.as_ref().map(PersonaId::as_str);
    events.publish(EventKind::EgressLedgerAppended, subject, json!(line));
    if line.kind == Kind::Deny || line.decision == Some(Outcome::WouldDeny) {
        let data = json!({"decision": line.seq, "outcome": line.decision, "code": line.code, "host": line.host});
        events.publish(EventKind::PolicyDecision, subject, data);
    }
    if line.kind == Kind::Preview {
        events.publish(EventKind::EgressPreview, subject, json!(line));
    }
    if line.kind != Kind::Open {
        return;
    }
    if let Some((persona, host, scheme)) = seen(line) {
        for kind in first_seen.observe(&persona, &host, scheme) {
            let data = json!({"persona": persona, "host": host.to_string(), "scheme": scheme, "decision": line.seq});
            events.publish(kind, subject, data);
        }
    }
}
