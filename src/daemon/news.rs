//! Tells what the ledger holds to whoever listens to it line by line.
//!
//! The ledger comes first and the news follow it: nothing on the way of a request publishes its lines, and
//! nothing is told that is not recorded. While nobody listens nothing is read back; who comes asks first
//! ([`Command::CatchUp`](crate::control::Command)), and gets the latest lines as if he had been there.

use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::PersonaId;
use crate::events::{EventBus, EventKind};
use crate::ledger::{Follower, Kind, Ledger, Line, Outcome};

/// Lines read at once; a burst is told in several turns.
const BATCH: usize = 512;
/// Least time between two looks: a busy ledger is read in batches, not line by line.
const PACE: Duration = Duration::from_millis(100);
/// Lines that a new listener finds: as many as a replay may ask for.
const REPLAY: u64 = 1024;

/// What is told here. Who listens to other events costs no reading.
const TOLD: [EventKind; 3] = [EventKind::EgressLedgerAppended, EventKind::PolicyDecision, EventKind::EgressPreview];

/// Somebody who waits until the events are level with the ledger.
pub(super) type Asker = oneshot::Sender<()>;

/// The news, before they begin.
pub(super) struct News {
    ledger: Ledger,
    events: EventBus,
    follower: Follower,
}

impl News {
    /// News from here on, and from the latest lines for who asks.
    pub(super) fn new(ledger: Ledger, events: EventBus, ledger_dir: &std::path::Path) -> Self {
        let follower = Follower::new(ledger_dir, ledger.status().last_seq.saturating_sub(REPLAY) + 1);
        Self { ledger, events, follower }
    }

    /// Publishes until `stop`, whenever somebody listens.
    pub(super) async fn run(mut self, mut askers: mpsc::Receiver<Asker>, stop: CancellationToken) {
        // Held only while somebody listens: without it an append tells nobody, which is cheaper.
        let mut appended = None;
        loop {
            let listening = self.events.is_heard(&TOLD);
            if !listening {
                appended = None;
            } else if appended.is_none() {
                appended = Some(self.ledger.watch());
            }
            let asker = tokio::select! {
                () = stop.cancelled() => return,
                asker = askers.recv() => match asker {
                    Some(asker) => Some(asker),
                    None => return,
                },
                changed = change(&mut appended) => {
                    if !changed {
                        return;
                    }
                    tokio::time::sleep(PACE).await;
                    None
                }
            };
            self.skip_what_is_old();
            if !self.tell_new_lines().await {
                return;
            }
            if let Some(asker) = asker {
                // The asker may have gone.
                let _ = asker.send(());
            }
        }
    }

    fn skip_what_is_old(&mut self) {
        let oldest = self.ledger.status().last_seq.saturating_sub(REPLAY) + 1;
        if self.follower.next_seq() < oldest {
            self.follower = self.follower.from(oldest);
        }
    }

    /// Publishes what was appended; `false` when the executor is going.
    async fn tell_new_lines(&mut self) -> bool {
        loop {
            let mut next = self.follower.clone();
            let polled = tokio::task::spawn_blocking(move || next.poll(BATCH).map(|lines| (next, lines))).await;
            let lines = match polled {
                Ok(Ok((moved, lines))) => {
                    self.follower = moved;
                    lines
                }
                Ok(Err(fault)) => {
                    tracing::warn!(error = %fault, "the ledger could not be read back for the event stream");
                    return true;
                }
                Err(_) => return false,
            };
            if lines.is_empty() {
                return true;
            }
            lines.iter().for_each(|line| self.tell(line));
        }
    }

    fn tell(&self, line: &Line) {
        let subject = line.persona.as_ref().map(PersonaId::as_str);
        self.events.publish(EventKind::EgressLedgerAppended, subject, json!(line));
        if line.kind == Kind::Deny || line.decision == Some(Outcome::WouldDeny) {
            let data = json!({"decision": line.seq, "outcome": line.decision, "code": line.code, "host": line.host});
            self.events.publish(EventKind::PolicyDecision, subject, data);
        }
        if line.kind == Kind::Preview {
            self.events.publish(EventKind::EgressPreview, subject, json!(line));
        }
    }
}

/// Ends with `true` when a line was appended, with `false` when the ledger is gone; never without a watch.
async fn change(appended: &mut Option<watch::Receiver<u64>>) -> bool {
    match appended {
        Some(appended) => appended.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}
