//! Takes what waits to the sink, one after the other, as often as it needs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::queue::{Queue, Stats, Taken};
use super::{Sink, SinkFault};
use crate::domain::RouteId;

/// Pause after the first failure.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause: what comes back is found within it.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a sink may ask us to stay away.
const LONGEST_ASKED: Duration = Duration::from_secs(600);
/// Time for what waits in memory when the daemon ends.
const LAST: Duration = Duration::from_secs(2);

/// Delivers until `stop`.
pub(super) async fn run(name: RouteId, queue: Arc<Queue>, mut sink: Sink, stats: Arc<Stats>, stop: CancellationToken) {
    let mut pause = FIRST;
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            taken = queue.take() => taken,
        };
        let fault = tokio::select! {
            biased;
            () = stop.cancelled() => {
                queue.give_back(taken);
                break;
            }
            outcome = sink.deliver(&taken.parcel) => outcome.err(),
        };
        let wait = match fault {
            None => {
                delivered(&queue, &stats, taken).await;
                pause = FIRST;
                continue;
            }
            Some(SinkFault::Never(fault)) => {
                tracing::error!(route = %name, event = %taken.parcel.id, fault, "a sink refuses an event, and it is lost");
                stats.failures.fetch_add(1, Ordering::Relaxed);
                stats.say(Some(fault));
                stats.lose(&taken.parcel);
                queue.done(taken).await;
                continue;
            }
            Some(SinkFault::Later(fault)) => {
                failed(&name, &stats, fault);
                jittered(pause)
            }
            Some(SinkFault::After(fault, wait)) => {
                failed(&name, &stats, fault);
                wait.clamp(FIRST, LONGEST_ASKED)
            }
        };
        queue.give_back(taken);
        pause = (pause * 2).min(LONGEST);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    if !queue.is_on_disk() {
        let _ = tokio::time::timeout(LAST, last(&queue, &mut sink, &stats)).await;
    }
}

/// What is in memory is gone when the daemon is: one try each.
async fn last(queue: &Arc<Queue>, sink: &mut Sink, stats: &Stats) {
    while let Some(taken) = queue.take_now() {
        match sink.deliver(&taken.parcel).await {
            Ok(()) => delivered(queue, stats, taken).await,
            Err(_) => return queue.give_back(taken),
        }
    }
}

async fn delivered(queue: &Arc<Queue>, stats: &Stats, taken: Taken) {
    queue.done(taken).await;
    stats.sent.fetch_add(1, Ordering::Relaxed);
    stats.say(None);
}

fn failed(name: &RouteId, stats: &Stats, fault: String) {
    stats.failures.fetch_add(1, Ordering::Relaxed);
    // One line when it begins, not one per attempt.
    if stats.said().is_none() {
        tracing::warn!(route = %name, fault, "a sink does not take what it should; it is tried again");
    }
    stats.say(Some(fault));
}

/// Between three and five quarters of `pause`: many daemons do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0_u8; 1];
    // Without randomness there is no jitter.
    let _ = getrandom::fill(&mut random);
    pause * 3 / 4 + pause / 2 * u32::from(random[0]) / 255
}
