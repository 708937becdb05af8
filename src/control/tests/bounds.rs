//! What a client may cost.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::router::MAX_BODY;
use super::super::serve::Bounds;
use super::fixture::{Fixture, TOKEN, exchange, read_answer};

/// Long enough for a busy machine to answer, short enough to wait for.
const SOON: Duration = Duration::from_millis(300);

/// No test waits longer than this for what must happen.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

#[tokio::test]
async fn a_head_that_drips_is_cut_and_so_is_an_idle_connection() {
    let bounds = Bounds { head_time: SOON, ..Bounds::default() };
    let fixture = Fixture::start_with(bounds, Some(TOKEN));
    let mut silent = fixture.tcp_stream().await;
    let mut dripping = fixture.tcp_stream().await;
    dripping.write_all(b"GET /healthz HTTP/1.1\r\nHost: local").await.expect("written");
    let mut idle = fixture.unix_stream().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    let mut rest = Vec::new();
    within(silent.read_to_end(&mut rest)).await.expect("closed");
    assert!(rest.is_empty(), "nothing was asked");
    let answer = within(read_answer(dripping)).await;
    assert!(answer.status == 0 || answer.status == 408, "{answer:?}");
    assert_eq!(within(read_answer(idle)).await.status, 200, "answered once, then closed");
}

#[tokio::test]
async fn a_head_longer_than_the_bound_is_refused() {
    let fixture = Fixture::start();
    let long = format!("X-Padding: {}", "a".repeat(64 << 10));
    assert_eq!(within(fixture.ask("GET", "/healthz", &[&long])).await.status, 431);
    let many: Vec<String> = (0..100).map(|index| format!("X-{index}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(within(fixture.ask("GET", "/healthz", &many)).await.status, 431);
}

#[tokio::test]
async fn a_body_longer_than_the_bound_is_refused_declared_or_not() {
    let fixture = Fixture::start();
    let declared = format!("Content-Length: {}", MAX_BODY + 1);
    let answer =
        within(fixture.ask_admin("POST", "/egress/preview", &["Content-Type: application/json", &declared])).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));

    let head = format!(
        "POST /egress/preview HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         X-ARW-Admin: {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("{:x}\r\n{}\r\n", MAX_BODY, " ".repeat(MAX_BODY));
    let request = [head.as_bytes(), chunk.as_bytes(), chunk.as_bytes(), b"0\r\n\r\n"].concat();
    let answer = within(exchange(fixture.tcp_stream().await, &request)).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
}

#[tokio::test]
async fn a_body_that_drips_is_answered_within_the_time_of_a_request() {
    let bounds = Bounds { request_time: SOON, ..Bounds::default() };
    let fixture = Fixture::start_with(bounds, Some(TOKEN));
    let answer = within(fixture.ask_admin(
        "POST",
        "/egress/preview",
        &["Content-Type: application/json", "Content-Length: 100"],
    ))
    .await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "timed_out"));
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let fixture = Fixture::start();
    for (kind, body, code) in [
        ("text/plain", "{}", "not_json"),
        ("application/x-www-form-urlencoded", "{}", "not_json"),
        ("application/json", "{", "bad_request"),
        ("application/json; charset=utf-8", "[]", "bad_request"),
    ] {
        let head = format!(
            "POST /egress/preview HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             X-ARW-Admin: {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = within(exchange(fixture.tcp_stream().await, head.as_bytes())).await;
        assert_eq!(answer.code(), code, "{kind} {body}");
    }
}

#[tokio::test]
async fn connections_on_tcp_are_bounded_and_do_not_lock_the_unix_socket() {
    let bounds = Bounds { tcp_connections: 2, head_time: Duration::from_secs(10), ..Bounds::default() };
    let fixture = Fixture::start_with(bounds, Some(TOKEN));
    let first = fixture.tcp_stream().await;
    let _second = fixture.tcp_stream().await;
    let mut third = fixture.tcp_stream().await;
    third.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("written");
    within(fixture.unix().fetch_bytes("/healthz")).await.expect("the Unix socket answers");
    let mut byte = [0];
    let early = tokio::time::timeout(SOON, third.read(&mut byte)).await;
    assert!(early.is_err(), "the third waits for a slot");
    drop(first);
    assert_eq!(within(read_answer(third)).await.body.chars().next(), Some('{'), "a free slot serves it");
}

#[tokio::test]
async fn shutdown_ends_connections_and_removes_the_socket() {
    let fixture = Fixture::start();
    let mut idle = fixture.unix_stream().await;
    within(fixture.unix().fetch_bytes("/healthz")).await.expect("answers");
    fixture.shutdown.cancel();
    within(fixture.running.finished()).await;
    let mut rest = Vec::new();
    within(idle.read_to_end(&mut rest)).await.expect("closed");
    assert!(!fixture.config.control.unix_socket.exists());
}
