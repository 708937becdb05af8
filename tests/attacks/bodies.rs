//! Request bodies whose end two readers could see in different places.

use crate::ground::Ground;
use crate::support::{Client, readable};

/// A chunked request whose body is `body`, sent whole.
fn post(ground: &Ground, path: &str, body: &[u8]) -> Client {
    let mut client = ground.client();
    let head = ground.request("POST", path, "Transfer-Encoding: chunked\r\n", "");
    client.send([head.as_slice(), body].concat());
    client
}

#[test]
fn a_broken_chunk_ends_the_request_and_nothing_of_it_completes() {
    let ground = Ground::new();
    let smuggled = format!("GET http://{}/smuggled HTTP/1.1\r\n\r\n", ground.authority());
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(4000));
    let long_trailers = format!("0\r\n{}\r\n", format!("X-T: {}\r\n", "x".repeat(900)).repeat(40));
    let endless_extension = format!("5;{}", "x".repeat(8000));
    let rows: &[(&str, &str)] = &[
        ("a size with a letter", "5g\r\nhello\r\n0\r\n\r\n"),
        ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a negative size", "-1\r\nhello\r\n0\r\n\r\n"),
        ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("only an extension", ";x\r\nhello\r\n0\r\n\r\n"),
        ("a size that wraps 64 bit", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size that wraps 32 bit on top of garbage", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("two sizes", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("an underscore", "5_0\r\nhello\r\n0\r\n\r\n"),
        ("a bare LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("a bare CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("a bare LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("nothing behind the data", "5\r\nhello0\r\n\r\n"),
        ("two bytes of garbage behind the data", "5\r\nhelloXX0\r\n\r\n"),
        ("a CR and garbage behind the data", "5\r\nhello\rX0\r\n\r\n"),
        ("a bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("a bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a NUL in an extension", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("an extension of 4 KB", &long_extension),
        ("an extension without end", &endless_extension),
        ("a trailer without colon", "0\r\nX-T\r\n\r\n"),
        ("a folded trailer", "0\r\nX-T: 1\r\n 2\r\n\r\n"),
        ("a trailer without name", "0\r\n: 1\r\n\r\n"),
        ("a trailer with a NUL", "0\r\nX-T: \0\r\n\r\n"),
        ("a space before a trailer's colon", "0\r\nX-T : 1\r\n\r\n"),
        ("trailers of 36 KB", &long_trailers),
        ("a request in place of trailers", &format!("0\r\n{smuggled}")),
        ("a bare LF for the last line", "0\r\n\n"),
    ];
    let mut faults = Vec::new();
    for (index, (name, body)) in rows.iter().enumerate() {
        let path = format!("/row-{index}");
        let ended = ground.origin.connections();
        let mut client = post(&ground, &path, format!("{body}{smuggled}").as_bytes());
        match client.try_answer_to("POST") {
            Ok(answer) if answer.status == 400 && answer.code() == "malformed" => {
                let close = ground.daemon.wait_for_close(answer.decision());
                if close["close_reason"] != "protocol_error" {
                    faults.push(format!("{name}: closed as {close}"));
                }
            }
            Ok(answer) => faults.push(format!("{name}: {}{}", answer.head, answer.text())),
            Err(fault) => faults.push(format!("{name}: {}", fault.readable())),
        }
        ground.origin.wait_for_ended(ended + 1);
    }
    let raw = ground.origin.raw_bytes();
    let text = String::from_utf8_lossy(&raw);
    for bad in ["\r\n0\r\n", "smuggled"] {
        if text.contains(bad) {
            faults.push(format!("the origin got {bad:?}: {}", readable(&raw)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn chunks_are_coded_anew_without_extensions() {
    let ground = Ground::new();
    let mut client = post(&ground, "/x", b"5;a=\"b\r\nhello\r\n00001 ; x\r\n!\r\n0;last\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let seen = ground.origin.seen_at("/x");
    assert_eq!(seen.body, b"hello!");
    let raw = String::from_utf8(ground.origin.raw_bytes()).unwrap();
    assert!(!raw.contains(';'), "{raw}");
}

#[test]
fn trailers_cannot_frame_route_or_identify() {
    let ground = Ground::new();
    let trailers = "X-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: denied.test\r\n\
                    Authorization: Bearer x\r\nProxy-Authorization: Basic x\r\nConnection: close\r\nX-ARW-Corr: 1\r\n\
                    Upgrade: h2c\r\nTE: gzip\r\nTrailer: x\r\n";
    let mut client = post(&ground, "/x", format!("0\r\n{trailers}\r\n").as_bytes());
    assert_eq!(client.answer().status, 200);
    assert_eq!(ground.origin.seen_at("/x").trailers, ["X-Sum: 1"]);
}

#[test]
fn a_body_that_ends_too_early_never_completes() {
    let ground = Ground::new();
    for (index, (fields, body)) in [
        ("Content-Length: 10\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked\r\n", "a\r\nhello"),
    ]
    .iter()
    .enumerate()
    {
        let mut client = ground.client();
        client.send(ground.request("POST", &format!("/early-{index}"), fields, body));
        client.half_close();
        assert!(client.try_answer_to("POST").is_err(), "{fields}: an answer to half a request");
        ground.origin.wait_for_ended(index + 1);
        let seen = ground.origin.seen();
        assert!(seen.last().unwrap().body.is_empty(), "{fields}: the origin took it for whole");
    }
}

#[test]
fn bytes_behind_a_body_are_the_next_request_and_no_part_of_it() {
    let ground = Ground::new();
    let mut client = ground.client();
    let first = ground.request("POST", "/first", "Content-Length: 5\r\n", "hello");
    let second = ground.request("POST", "/second", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n");
    let third = ground.request("GET", "/third", "", "");
    client.send([first, second, third].concat());
    for path in ["/first", "/second", "/third"] {
        let answer = client.answer();
        assert!(answer.text().contains(path), "{}{}", answer.head, answer.text());
    }
    assert_eq!(ground.origin.seen_at("/first").body, b"hello");
    assert_eq!(ground.origin.seen_at("/second").body, b"abc");
    let opens = ground.daemon.ledger_lines().iter().filter(|line| line["kind"] == "open").count();
    assert_eq!(opens, 3);
}
