use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::domain::{ManualClock, Timestamp};

use super::super::Delivery;
use super::*;

/// First number of the test buses.
const FIRST: u64 = 1_000;

fn bus() -> EventBus {
    EventBus::new("/test", Arc::new(ManualClock::new(Timestamp::from_unix_micros(1_000))))
}

fn prefix(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

/// What is there now: numbers, and `Lost` as its count under `Err`.
fn drain(subscription: &mut Subscription) -> Vec<Result<u64, u64>> {
    let mut seen = Vec::new();
    while let Some(delivery) = subscription.try_next() {
        seen.push(match delivery {
            Delivery::Event(event) => Ok(event.id),
            Delivery::Lost(count) => Err(count),
        });
    }
    seen
}

#[test]
fn numbers_grow_by_one_and_start_above_those_of_an_earlier_life() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_unix_micros(1_000)));
    let bus = EventBus::new("/test", Arc::clone(&clock) as Arc<dyn Clock>);
    assert_eq!(bus.stats().last_id, None);
    assert_eq!(bus.publish(EventKind::ServiceStart, None, json!({})), FIRST);
    assert_eq!(bus.clone().publish(EventKind::ServiceStop, None, json!({})), FIRST + 1);
    clock.advance(Duration::from_secs(1));
    let later = EventBus::new("/test", clock);
    assert!(later.publish(EventKind::ServiceStart, None, json!({})) > FIRST + 1);
}

#[test]
fn replay_gives_the_last_events_of_the_wanted_kinds_and_then_the_new_ones() {
    let bus = bus();
    for _ in 0..3 {
        bus.publish(EventKind::PolicyDecision, None, json!({}));
        bus.publish(EventKind::AlertRaised, None, json!({}));
    }
    let mut all = bus.subscribe(None, 3, &[]);
    let mut alerts = bus.subscribe(None, 2, &prefix("alert."));
    let mut fresh = bus.subscribe(None, 0, &[]);
    bus.publish(EventKind::AlertCleared, None, json!({}));
    assert_eq!(drain(&mut all), [Ok(1_003), Ok(1_004), Ok(1_005), Ok(1_006)]);
    assert_eq!(drain(&mut alerts), [Ok(1_003), Ok(1_005), Ok(1_006)]);
    assert_eq!(drain(&mut fresh), [Ok(1_006)]);
}

#[test]
fn after_resumes_behind_the_last_seen_event() {
    let bus = bus();
    for _ in 0..5 {
        bus.publish(EventKind::ServiceHealth, None, json!({}));
    }
    let seen = |after| drain(&mut bus.subscribe(Some(after), 1, &[]));
    assert_eq!(seen(1_002), [Ok(1_003), Ok(1_004)], "`replay` does not shorten it");
    assert_eq!(seen(1_004), []);
    assert_eq!(seen(0).len(), 5, "from an earlier life");
    assert_eq!(seen(1_005).len(), 5, "from the future: rather twice than never");
    assert_eq!(seen(u64::MAX).len(), 5);
}

#[test]
fn after_tells_how_many_are_no_longer_kept() {
    let bus = bus();
    let count = LANE_EVENTS as u64 + 10;
    for _ in 0..count {
        bus.publish(EventKind::PolicyDecision, None, json!({}));
    }
    let seen = drain(&mut bus.subscribe(Some(FIRST + 3), 0, &[]));
    assert_eq!(seen[..2], [Err(6), Ok(FIRST + 10)]);
    assert_eq!(seen.len(), LANE_EVENTS + 1);
    let seen = drain(&mut bus.subscribe(Some(0), 0, &[]));
    assert_eq!(seen[0], Err(10), "those of this life");
    let seen = drain(&mut bus.subscribe(Some(FIRST + 9), 0, &[]));
    assert_eq!(seen[0], Ok(FIRST + 10), "nothing missing");
    assert_eq!(drain(&mut bus.subscribe(Some(0), 0, &prefix("alert."))), [], "no alert is missing");
}

#[test]
fn a_flood_of_traffic_pushes_no_alert_out_of_the_replay() {
    let bus = bus();
    bus.publish(EventKind::AlertRaised, Some("demo"), json!({}));
    for _ in 0..LANE_EVENTS * 2 {
        bus.publish(EventKind::EgressLedgerAppended, None, json!({}));
    }
    assert_eq!(drain(&mut bus.subscribe(Some(0), 0, &prefix("alert."))), [Ok(FIRST)]);
    let stats = bus.stats();
    assert_eq!(stats.kept, LANE_EVENTS + 1);
    assert!(stats.kept_bytes <= 2 * LANE_BYTES);
}

#[test]
fn what_is_kept_is_bounded_in_bytes_too() {
    let bus = bus();
    for _ in 0..1_000 {
        bus.publish(EventKind::EgressPreview, None, json!("x".repeat(12 << 10)));
    }
    let stats = bus.stats();
    assert!(stats.kept_bytes <= LANE_BYTES && stats.kept > 50, "{stats:?}");
}

#[test]
fn a_slow_subscriber_loses_its_oldest_events_is_told_and_holds_nobody_up() {
    let bus = bus();
    let mut slow = bus.subscribe(None, 0, &prefix("egress."));
    let mut other = bus.subscribe(None, 0, &prefix("alert."));
    for _ in 0..10_000 {
        bus.publish(EventKind::EgressLedgerAppended, None, json!({}));
    }
    bus.publish(EventKind::AlertRaised, None, json!({}));
    let seen = drain(&mut slow);
    let Some(Err(lost)) = seen.first() else { panic!("{:?}", seen.first()) };
    assert_eq!(*lost + seen.len() as u64 - 1, 10_000, "every event was delivered or counted");
    assert_eq!(seen.last(), Some(&Ok(FIRST + 9_999)), "the newest are kept");
    assert!(seen[1..].windows(2).all(|pair| pair[1] == pair[0].map(|id| id + 1)));
    assert_eq!(drain(&mut other), [Ok(FIRST + 10_000)], "what others lose is not its loss");
    assert_eq!(bus.stats().lost, *lost);
}

#[test]
fn a_dropped_subscription_is_forgotten() {
    let bus = bus();
    let subscription = bus.subscribe(None, 0, &[]);
    assert_eq!(bus.stats().subscribers, 1);
    drop(subscription);
    assert_eq!(bus.stats().subscribers, 0);
}

#[tokio::test]
async fn next_wakes_for_an_event_and_survives_being_cancelled() {
    let bus = bus();
    let mut subscription = bus.subscribe(None, 0, &[]);
    {
        let waiting = subscription.next();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        bus.publish(EventKind::ServiceStart, None, json!({}));
        // Dropped here with the wake-up already on its way.
    }
    let Delivery::Event(event) = subscription.next().await else { panic!("nothing was lost") };
    assert_eq!(event.id, FIRST);
    let publisher = bus.clone();
    let task = tokio::spawn(async move { publisher.publish(EventKind::ServiceStop, None, json!({})) });
    let Delivery::Event(event) = subscription.next().await else { panic!("nothing was lost") };
    assert_eq!(task.await.expect("publisher"), event.id);
}

/// Subscribers come and go while four threads publish: across the border of replay and live events no
/// event is missed, doubled or out of order, unless it is counted as lost.
#[test]
fn replay_and_live_events_meet_without_a_gap_under_concurrent_publishing() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 5_000;
    let bus = bus();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|thread| {
                let bus = bus.clone();
                scope.spawn(move || {
                    for n in 0..EACH {
                        let kind = EventKind::ALL[usize::try_from((n + thread) % 11).expect("small")];
                        bus.publish(kind, None, json!({}));
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (bus, done) = (bus.clone(), &done);
                scope.spawn(move || {
                    // Resumes again and again from where it was, as a client with a bad line would.
                    let mut after = FIRST - 1;
                    let mut rounds = 0_u32;
                    while !done.load(Ordering::SeqCst) || after < FIRST + PUBLISHERS * EACH - 1 {
                        after = follow(&mut bus.subscribe(Some(after), 0, &[]), after);
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for publisher in publishers {
            publisher.join().expect("publisher");
        }
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().expect("reader") > 1);
        }
    });
    assert_eq!(bus.stats().published, PUBLISHERS * EACH);
}

/// Takes some deliveries that continue `after`, checks that each number is accounted for, and returns
/// the number reached.
fn follow(subscription: &mut Subscription, after: u64) -> u64 {
    const TAKEN: usize = 200;
    let (mut last, mut events, mut lost) = (after, 0, 0);
    for _ in 0..TAKEN {
        match subscription.try_next() {
            None => {
                assert_eq!(last - after, events + lost, "all that happened was delivered or counted");
                return last;
            }
            Some(Delivery::Lost(count)) => lost += count,
            Some(Delivery::Event(event)) => {
                assert!(event.id > last, "doubled or out of order");
                assert!(lost > 0 || event.id == last + 1, "missed");
                (last, events) = (event.id, events + 1);
            }
        }
    }
    assert!(last - after <= events + lost, "missed");
    last
}

/// The same for a reader that keeps up: nothing may be lost on it.
#[test]
fn a_subscriber_that_keeps_up_sees_every_event_once_from_replay_to_live() {
    let bus = bus();
    for _ in 0..100 {
        bus.publish(EventKind::PolicyDecision, None, json!({}));
    }
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for _ in 0..900 {
                bus.publish(EventKind::AlertRaised, None, json!({}));
            }
        });
        let mut subscription = bus.subscribe(Some(FIRST + 49), 0, &[]);
        let executor = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("executor");
        for expected in FIRST + 50..FIRST + 1_000 {
            // An event that was missed would never come: the deadline makes that a failure.
            let next = async { tokio::time::timeout(Duration::from_secs(20), subscription.next()).await };
            match executor.block_on(next).expect("the next event comes") {
                Delivery::Event(event) => assert_eq!(event.id, expected),
                Delivery::Lost(count) => panic!("{count} lost before {expected}"),
            }
        }
        publisher.join().expect("publisher");
        assert!(subscription.try_next().is_none());
    });
}

#[test]
fn everybody_sees_one_order_whoever_published() {
    let bus = bus();
    let mut left = bus.subscribe(None, 0, &[]);
    let mut right = bus.subscribe(None, 0, &[]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    bus.publish(EventKind::PolicyReloaded, None, json!({}));
                }
            });
        }
    });
    let seen = drain(&mut left);
    assert_eq!(seen, drain(&mut right));
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 800);
    assert!(seen.is_sorted());
}
