//! Event streams.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::serve::Bounds;
use super::super::state::MAX_STREAMS;
use super::fixture::{Fixture, TOKEN};
use crate::control::ClientError;
use crate::events::EventKind;

/// No test waits longer than this for what must happen.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

#[tokio::test]
async fn past_events_come_first_and_a_client_that_comes_back_misses_nothing() {
    let fixture = Fixture::start();
    let client = fixture.unix();
    let publish = |number: u64| fixture.state.events.publish(EventKind::PolicyReloaded, None, json!({ "n": number }));
    let ids: Vec<u64> = (0..3).map(publish).collect();

    let mut stream = client.subscribe("/events?prefix=policy.&replay=2", None).await.expect("open");
    for id in &ids[1..] {
        let event = within(stream.next()).await.expect("whole").expect("an event");
        assert_eq!(event.id.as_deref(), Some(id.to_string().as_str()));
        assert_eq!(event.event.as_deref(), Some("policy.reloaded"));
        let envelope: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
        assert_eq!(
            (envelope["specversion"].as_str(), envelope["type"].as_str()),
            (Some("1.0"), Some("policy.reloaded"))
        );
    }
    let live = publish(3);
    let event = within(stream.next()).await.expect("whole").expect("an event");
    assert_eq!(event.id, Some(live.to_string()), "what is new follows");
    drop(stream);

    let missed = publish(4);
    let last = live.to_string();
    // The header beats the address: that one still says what the first connection wanted.
    let mut again = client.subscribe("/events?prefix=policy.&replay=2&after=0", Some(&last)).await.expect("open");
    let event = within(again.next()).await.expect("whole").expect("an event");
    assert_eq!(event.id, Some(missed.to_string()));
}

#[tokio::test]
async fn a_prefix_selects_and_one_that_selects_nothing_is_refused() {
    let fixture = Fixture::start();
    let client = fixture.unix();
    let mut stream = client.subscribe("/events?prefix=service.", None).await.expect("open");
    fixture.state.events.publish(EventKind::PolicyReloaded, None, json!({}));
    fixture.state.events.publish(EventKind::ServiceStart, None, json!({}));
    let event = within(stream.next()).await.expect("whole").expect("an event");
    assert_eq!(event.event.as_deref(), Some("service.start"));
    for bad in ["prefix=nope", "replay=1001", "replay=-1", "after=x", "other=1"] {
        let answer = client.subscribe(&format!("/events?{bad}"), None).await;
        let Err(ClientError::Refused(problem)) = answer else { panic!("{bad} was answered") };
        assert_eq!(problem.code, "bad_query", "{bad}");
    }
    let answer = client.subscribe("/events", Some("not-a-number")).await;
    assert!(matches!(answer, Err(ClientError::Refused(problem)) if problem.code == "bad_query"));
}

#[tokio::test]
async fn streams_are_bounded_and_a_closed_one_makes_room() {
    let fixture = Fixture::start();
    let client = fixture.unix();
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        streams.push(client.subscribe("/events", None).await.expect("open"));
    }
    let answer = client.subscribe("/events", None).await;
    assert!(matches!(answer, Err(ClientError::Refused(problem)) if problem.code == "too_many_streams"));
    drop(streams.pop());
    // The daemon finds the closed connection when it reads it; until then it may still refuse.
    within(async {
        while client.subscribe("/events", None).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_does_not_read_stops_nobody_and_is_cut() {
    let bounds = Bounds { write_stall: Duration::from_millis(200), ..Bounds::default() };
    let fixture = Fixture::start_with(bounds, Some(TOKEN));
    let mut deaf = fixture.unix_stream().await;
    deaf.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    let mut stream = fixture.unix().subscribe("/events?prefix=service.", None).await.expect("open");
    let mut head = [0; 12];
    within(deaf.read_exact(&mut head)).await.expect("the stream began");
    // More than the sockets and the queue of a listener hold.
    let filler = "x".repeat(1_000);
    for _ in 0..20_000 {
        fixture.state.events.publish(EventKind::EgressLedgerAppended, None, json!({ "filler": filler }));
    }
    fixture.state.events.publish(EventKind::ServiceStop, None, json!({}));
    let event = within(stream.next()).await.expect("whole").expect("an event");
    assert_eq!(event.event.as_deref(), Some("service.stop"), "the other listener is served");
    // Cut means that the stream ends although the daemon goes on: the deaf client reads on to its end.
    within(async {
        while fixture.state.events.is_heard(&[EventKind::EgressLedgerAppended]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn shutdown_ends_the_streams() {
    let fixture = Fixture::start();
    let mut stream = fixture.unix().subscribe("/events?prefix=service.", None).await.expect("open");
    fixture.shutdown.cancel();
    assert_eq!(within(stream.next()).await.expect("a clean end"), None);
    within(fixture.running.finished()).await;
}
