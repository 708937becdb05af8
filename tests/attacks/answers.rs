//! Upstreams that mean harm: answers that frame themselves in two ways, that never end, or that speak for
//! the gateway.

use crate::ground::{Ground, ROAMER};
use crate::support::{Client, End, Fault, Script, readable};

/// One worker, so that a connection that should not be kept would surely be used again.
fn ground() -> Ground {
    let ground = Ground::with(|setup| setup.set("proxy.workers", 1).set("limits.head_bytes", "8KiB"));
    ground.origin.on("/clean", Script::ok("clean"));
    ground
}

/// The next answer on this connection, or on a fresh one, is the one that was asked for.
fn stays_clean(ground: &Ground, client: &mut Client) -> Result<(), String> {
    let bytes = ground.request("GET", "/clean", "", "");
    let answer = match client.try_send(&bytes).map(|()| client.try_answer_to("GET")) {
        Ok(Ok(answer)) => answer,
        _ => {
            *client = ground.client();
            client.send(&bytes);
            client.try_answer_to("GET").map_err(|fault| fault.readable())?
        }
    };
    if answer.status == 200 && answer.body == b"clean" && client.rest().is_empty() {
        Ok(())
    } else {
        Err(format!("the next answer is {}{}", answer.head, readable(&answer.body)))
    }
}

#[test]
fn an_answer_with_two_readings_is_not_passed_on() {
    let ground = ground();
    let long = "x".repeat(9000);
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    let next = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n{next}");
    let rows: Vec<(&str, String)> = vec![
        ("CL and TE", ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        ("TE and CL", ok("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n")),
        ("two CL unlike", ok("Content-Length: 5\r\nContent-Length: 9\r\n")),
        ("two CL alike", ok("Content-Length: 5\r\nContent-Length: 5\r\n")),
        ("a list of lengths", ok("Content-Length: 5, 9\r\n")),
        ("a signed length", ok("Content-Length: +5\r\n")),
        ("a negative length", ok("Content-Length: -5\r\n")),
        ("a length in hexadecimal", ok("Content-Length: 0x5\r\n")),
        ("an empty length", ok("Content-Length:\r\n")),
        ("a length beyond 64 bit", ok("Content-Length: 18446744073709551621\r\n")),
        ("gzip, chunked", ok("Transfer-Encoding: gzip, chunked\r\n")),
        ("chunked twice", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
        ("identity", ok("Transfer-Encoding: identity\r\n")),
        ("an unknown coding", ok("Transfer-Encoding: xchunked\r\n")),
        ("chunks in HTTP/1.0", ok("Transfer-Encoding: chunked\r\n").replacen("1.1", "1.0", 1)),
        ("a bare LF in a field", ok("X-A: one\nX-B: two\r\n")),
        ("a bare CR in a field", ok("X-A: one\rX-B: two\r\n")),
        ("a NUL in a field", ok("X-A: o\0ne\r\n")),
        ("a folded field", ok("X-A: one\r\n two\r\n")),
        ("a space before the colon", ok("Content-Length : 5\r\n")),
        ("a field without colon", ok("X-A\r\n")),
        ("a name that is no token", ok("X(A): 1\r\n")),
        ("a control in a field", ok("X-A: \x01\r\n")),
        ("a field without end", format!("HTTP/1.1 200 OK\r\nX-Long: {long}{long}")),
        ("a large head", ok(&format!("X-Long: {long}\r\n"))),
        ("many fields", ok(&many)),
        ("HTTP/0.9", "<html>hello</html>\r\n\r\n".to_owned()),
        ("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("ICY", "ICY 200 OK\r\n\r\n".to_owned()),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a status below 100", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("only line feeds", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello".to_owned()),
        ("an empty line first", format!("\r\n\r\n{}", ok("Content-Length: 5\r\n"))),
        (
            "an unasked upgrade",
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n{next}"),
        ),
        ("an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("an SSH banner", "SSH-2.0-x\r\n\r\n".to_owned()),
    ];
    let mut faults = Vec::new();
    for (index, (name, bytes)) in rows.iter().enumerate() {
        let path = format!("/row-{index}");
        ground.origin.on(&path, Script::raw(bytes.clone()));
        let mut client = ground.client();
        client.send(ground.request("GET", &path, "", ""));
        match client.try_answer_to("GET") {
            Ok(answer) if answer.status == 502 && answer.code() == "protocol_error" => {
                let close = ground.daemon.wait_for_close(answer.decision());
                if close["close_reason"] != "protocol_error" || close["status"] != 502 {
                    faults.push(format!("{name}: closed as {close}"));
                }
            }
            Ok(answer) => faults.push(format!("{name}: {}{}", answer.head, answer.text())),
            Err(fault) => faults.push(format!("{name}: {}", fault.readable())),
        }
        if let Err(fault) = stays_clean(&ground, &mut client) {
            faults.push(format!("{name}: {fault}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_cut_answer_is_never_taken_for_a_whole_one() {
    let ground = ground();
    let rows: Vec<(&str, Script)> = vec![
        ("a length not reached", Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_close()),
        ("a length not reached, by RST", Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_reset()),
        (
            "no last chunk",
            Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").then_close(),
        ),
        (
            "no end of the trailers",
            Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n").then_close(),
        ),
        (
            "the middle of a chunk",
            Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello").then_close(),
        ),
        (
            "a chunk size with a letter",
            Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5g\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "a chunk size that wraps",
            Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10000000000000000\r\n\r\n"),
        ),
        (
            "nothing behind a chunk",
            Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n"),
        ),
        (
            "a bare LF behind a chunk",
            Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n"),
        ),
        ("a body until the end, by RST", Script::raw("HTTP/1.1 200 OK\r\n\r\nhalf of it").then_reset()),
        ("interim answers without end", Script::raw("HTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n".repeat(100))),
        (
            "a broken answer behind an interim one",
            Script::raw("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
        ),
    ];
    let mut faults = Vec::new();
    for (index, (name, script)) in rows.into_iter().enumerate() {
        let path = format!("/row-{index}");
        ground.origin.on(&path, script);
        let mut client = ground.client();
        client.send(ground.request("GET", &path, "", ""));
        let outcome = loop {
            match client.try_answer_to("GET") {
                Ok(answer) if answer.status == 103 => {}
                other => break other,
            }
        };
        match outcome {
            // Whatever the framing, the client sees that it was cut.
            Err(Fault::Cut(End::Abort, _) | Fault::Nothing(End::Abort)) => {}
            Ok(answer) if answer.status == 502 => {}
            Ok(answer) => faults.push(format!("{name}: looks whole: {}{}", answer.head, answer.text())),
            Err(fault) => faults.push(format!("{name}: {}", fault.readable())),
        }
        if let Err(fault) = stays_clean(&ground, &mut client) {
            faults.push(format!("{name}: {fault}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_old_client_sees_a_cut_body_as_an_abort() {
    let ground = ground();
    ground
        .origin
        .on("/cut", Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").then_close());
    ground
        .origin
        .on("/whole", Script::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    let old = |path: &str| {
        String::from_utf8(ground.request("GET", path, "", "")).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1)
    };
    let mut client = ground.client();
    client.send(old("/whole"));
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.field("transfer-encoding")), ("hello", None));
    let mut client = ground.client();
    client.send(old("/cut"));
    assert!(matches!(client.try_answer_to("GET"), Err(Fault::Cut(End::Abort, _) | Fault::Nothing(End::Abort))));
}

#[test]
fn a_body_where_none_may_be_does_not_become_the_next_answer() {
    let ground = ground();
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let rows: Vec<(&str, &str, Script)> = vec![
        (
            "204 with a length",
            "GET",
            Script::raw(format!("HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{poison}", poison.len())),
        ),
        (
            "204 with chunks",
            "GET",
            Script::raw(format!("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{poison}")),
        ),
        ("204 with bytes behind it", "GET", Script::raw(format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"))),
        (
            "304 with a length",
            "GET",
            Script::raw(format!("HTTP/1.1 304 Not Modified\r\nContent-Length: {}\r\n\r\n{poison}", poison.len())),
        ),
        (
            "HEAD with a body",
            "HEAD",
            Script::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{poison}", poison.len())),
        ),
        (
            "bytes behind a body",
            "GET",
            Script::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello{poison}")),
        ),
        (
            "bytes behind the last chunk",
            "GET",
            Script::raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{poison}")),
        ),
        ("204, the body later", "GET", Script::raw("HTTP/1.1 204 No Content\r\n\r\n").then_wait().then_send(poison)),
        ("an answer that nobody asked for, later", "GET", Script::ok("hello").then_wait().then_send(poison)),
    ];
    let mut faults = Vec::new();
    for (index, (name, method, script)) in rows.into_iter().enumerate() {
        let path = format!("/row-{index}");
        ground.origin.on(&path, script);
        let mut client = ground.client();
        client.send(ground.request(method, &path, "", ""));
        let answer = client.answer_to(method);
        if !matches!(answer.status, 200 | 204 | 304) || answer.text().contains("poison") {
            faults.push(format!("{name}: {}{}", answer.head, answer.text()));
        }
        if answer.status == 204 && answer.field("content-length").is_some() {
            faults.push(format!("{name}: a 204 with a length"));
        }
        ground.origin.open_gate();
        // All of it is in the gateway's socket now, or its connection is gone.
        ground.origin.wait_for_performed(ground.origin.seen().len());
        for _ in 0..3 {
            if let Err(fault) = stays_clean(&ground, &mut client) {
                faults.push(format!("{name}: {fault}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_fields_of_an_answer_cannot_speak_for_the_gateway() {
    let ground = ground();
    let fields = "Connection: close, X-Secret\r\nX-Secret: 1\r\nProxy-Authenticate: Basic realm=\"phish\"\r\n\
                  X-ARW-Decision-Id: 1\r\nx-arw-anything: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                  Upgrade: h2c\r\nSet-Cookie: a=b\r\nX-Kept: 1\r\n";
    ground
        .origin
        .on("/", Script::raw(format!("HTTP/1.1 407 Give me your password\r\n{fields}Content-Length: 2\r\n\r\nhi")));
    let mut client = ground.client();
    client.send(ground.request("GET", "/", "", ""));
    let answer = client.answer();
    let names: Vec<&str> = answer.fields.iter().map(|(name, _)| name.as_str()).collect();
    for gone in [
        "x-secret",
        "proxy-authenticate",
        "x-arw-decision-id",
        "x-arw-anything",
        "keep-alive",
        "proxy-connection",
        "upgrade",
    ] {
        assert!(!names.contains(&gone), "{gone} in {}", answer.head);
    }
    assert_eq!(answer.field("set-cookie"), Some("a=b"));
    assert_eq!(answer.field("x-kept"), Some("1"));
    assert_eq!(answer.field("via"), Some("1.1 arw"));
}

#[test]
fn trailers_of_an_answer_cannot_frame_or_speak_for_the_gateway() {
    let ground = ground();
    let trailers =
        "X-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nX-ARW-Decision-Id: 1\r\n";
    ground.origin.on(
        "/",
        Script::raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n")),
    );
    let mut client = ground.client();
    client.send(ground.request("GET", "/", "", ""));
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.trailers.as_slice()), ("hi", ["X-Sum: 1".to_owned()].as_slice()));
}

#[test]
fn an_interim_answer_has_no_length_and_the_final_one_follows() {
    let ground = ground();
    ground.origin.on("/", Script::raw("HTTP/1.1 103 Early Hints\r\nContent-Length: 50\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
    let mut client = ground.client();
    client.send(ground.request("GET", "/", "", ""));
    let interim = client.answer();
    assert_eq!((interim.status, interim.field("content-length"), interim.field("link")), (103, None, Some("</x>")));
    assert_eq!(client.answer().text(), "hi");
    // A client of HTTP/1.0 gets none.
    let mut client = ground.client();
    client.send(String::from_utf8(ground.request("GET", "/", "", "")).unwrap().replacen("HTTP/1.1", "HTTP/1.0", 1));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn an_answer_before_the_end_of_the_request_ends_the_connection_behind_it() {
    let ground = ground();
    ground.origin.on("/early", Script::early("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").then_hold());
    let mut client = ground.client();
    let head = ground.request("POST", "/early", "Content-Length: 100000\r\n", "");
    client.send(&head);
    let answer = client.answer_to("POST");
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    // The rest of the body would be read as a request otherwise.
    let _ = client.try_send(ground.request("GET", "/smuggled", "", ""));
    assert!(client.read_to_end().0.is_empty());
    assert_eq!(ground.origin.seen().len(), 1);
}

#[test]
fn an_upstream_that_says_nothing_is_named() {
    let ground = ground();
    ground.origin.on("/close", Script::raw("").then_close());
    ground.origin.on("/reset", Script::raw("").then_reset());
    ground.origin.on("/half-head", Script::raw("HTTP/1.1 200 OK\r\nContent-Le").then_close());
    for (path, codes) in [
        ("/close", ["upstream_closed"; 2]),
        ("/reset", ["io_error", "upstream_closed"]),
        ("/half-head", ["protocol_error"; 2]),
    ] {
        let mut client = ground.client();
        client.send(ground.request("GET", path, "", ""));
        let answer = client.answer();
        assert_eq!(answer.status, 502, "{path}: {}", answer.head);
        assert!(codes.contains(&answer.code().as_str()), "{path}: {}", answer.text());
        assert!(answer.field("proxy-status").is_some());
    }
}

#[test]
fn one_persona_gets_no_connection_that_another_used() {
    let ground = ground();
    let rules = format!(
        "[[allow]]\nid = \"origin\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\"]\n",
        ground.origin.port()
    );
    ground.daemon.write_persona(ROAMER, &rules);
    ground.daemon.sighup();
    let mut client = ground.client();
    client.send(ground.request("GET", "/a", "", ""));
    assert_eq!(client.answer().status, 200);
    client.send(crate::ground::forward(ROAMER, ground.authority()));
    assert_eq!(client.answer().status, 200);
    let seen = ground.origin.seen();
    assert_ne!(seen[0].connection, seen[1].connection);
}
