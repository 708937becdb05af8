//! What goes upstream: exactly what a proxy must pass on, and nothing of what is between it and the client.

use crate::ground::{AGENT, Ground, credentials};

#[test]
fn the_origin_sees_no_field_that_is_not_for_it() {
    let ground = Ground::new();
    let authority = ground.authority();
    let rows: &[(&str, &str, &str)] = &[
        ("fields in their order and case", "ACCEPT: */*\r\nx-b: 1\r\nX-a:2\r\n", "ACCEPT: */*\r\nx-b: 1\r\nX-a: 2\r\n"),
        ("repeated fields", "Cookie: a\r\ncookie: b\r\n", "Cookie: a\r\ncookie: b\r\n"),
        ("credentials for the site", "Authorization: Bearer x\r\n", "Authorization: Bearer x\r\n"),
        ("a field named in Connection", "Connection: close, X-Secret\r\nX-Secret: 1\r\nX-B: 2\r\n", "X-B: 2\r\n"),
        ("a field named before Connection", "x-secret: 1\r\nConnection: X-Secret\r\n", ""),
        ("two Connection fields", "Connection: X-A\r\nconnection: x-b\r\nX-A: 1\r\nX-B: 2\r\n", ""),
        ("a field named in Proxy-Connection", "Proxy-Connection: keep-alive, X-P\r\nX-P: 1\r\n", ""),
        ("Keep-Alive", "Keep-Alive: timeout=5\r\n", ""),
        ("a transfer coding asked for", "TE: gzip\r\n", ""),
        ("trailers asked for", "TE: trailers\r\nConnection: TE\r\n", "Connection: TE\r\nTE: trailers\r\n"),
        ("trailers among codings", "TE: gzip, trailers\r\nConnection: TE\r\n", "Connection: TE\r\nTE: trailers\r\n"),
        ("an h2c upgrade", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""),
        ("an h2c upgrade in capitals", "Connection: upgrade\r\nUpgrade: H2C\r\n", ""),
        ("h2c among others", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", ""),
        ("an HTTP/2.0 upgrade", "Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n", ""),
        ("an Upgrade that Connection does not name", "Upgrade: websocket\r\n", ""),
        ("labels", "X-ARW-Corr: 1\r\nx-arw-project: p\r\nX-Arw-Whatever: z\r\n", ""),
        ("a challenge", "Proxy-Authenticate: Basic\r\n", ""),
        ("an earlier Via", "Via: 1.0 before\r\n", "Via: 1.0 before\r\n"),
        ("an empty value", "X-Empty:\r\n", "X-Empty: \r\n"),
    ];
    let mut faults = Vec::new();
    for (index, (name, fields, passed)) in rows.iter().enumerate() {
        let path = format!("/row-{index}");
        let mut client = ground.client();
        client.send(ground.request("GET", &path, fields, ""));
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{name}: {}{}", answer.head, answer.text());
        let wanted = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n{passed}Via: 1.1 arw\r\n\r\n");
        let seen = ground.origin.seen_at(&path).head;
        if seen != wanted {
            faults.push(format!("{name}: {seen:?}, not {wanted:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_credential_of_the_gateway_reaches_an_origin() {
    let ground = Ground::new();
    let mut client = ground.client();
    let token = crate::support::daemon::token_of(AGENT);
    let authority = ground.authority();
    for credentials in [credentials(AGENT), format!("proxy-AUTHORIZATION: {}\r\n", crate::support::bearer(&token))] {
        client.send(format!(
            "GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n{credentials}X-ARW-Corr: abc\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 200);
    }
    let raw = String::from_utf8(ground.origin.raw_bytes()).unwrap().to_ascii_lowercase();
    assert_eq!(ground.origin.seen().len(), 2);
    assert!(!raw.contains("proxy-authorization") && !raw.contains("x-arw") && !raw.contains(&token), "{raw}");
}

#[test]
fn no_secret_of_a_request_is_recorded() {
    let ground = Ground::new();
    let mut client = ground.client();
    client.send(ground.request(
        "GET",
        "/x?key=query-secret",
        "Authorization: Bearer site-secret\r\nCookie: id=cookie-secret\r\n",
        "",
    ));
    assert_eq!(client.answer().status, 200);
    client.send(ground.request("GET", "/y?key=query-secret", "Content-Length: 11\r\n", "body-secret"));
    assert_eq!(client.answer().status, 200);
    drop(client);
    ground
        .daemon
        .wait_for_ledger("the second close", |line| line["kind"] == "close" && line["opened"].as_u64() > Some(2));
    let all: Vec<String> = ground.daemon.ledger_lines().iter().map(ToString::to_string).collect();
    let (all, log) = (all.join("\n"), ground.daemon.log());
    let token = crate::support::daemon::token_of(AGENT);
    for secret in ["query-secret", "site-secret", "cookie-secret", "body-secret", token.as_str()] {
        assert!(!all.contains(secret), "{secret} in {all}");
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn labels_are_recorded_bounded_and_harmless() {
    let ground = Ground::new();
    let mut client = ground.client();
    let long = "x".repeat(4000);
    client.send(ground.request(
        "GET",
        "/",
        &format!("X-ARW-Corr: \"}}\\n{{\"seq\":1\r\nX-ARW-Project: {long}\r\n"),
        "",
    ));
    assert_eq!(client.answer().status, 200);
    // `ledger_lines` fails on a line that is no JSON of its own.
    let open = ground.daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    assert!(open.to_string().len() < 3000, "{open}");
    assert_ne!(open["seq"], 1_000_000);
}

#[test]
fn a_target_in_other_letters_is_passed_on_in_normal_form() {
    let ground = Ground::new();
    let port = ground.origin.port();
    let credentials = credentials(AGENT);
    for (index, (target, host)) in [
        ("HTTP://ORIGIN.TEST.", "origin.test"),
        ("http://Origin.Test", "origin.test."),
        ("hTTp://origin.test.", "ORIGIN.TEST."),
    ]
    .iter()
    .enumerate()
    {
        let mut client = ground.client();
        client.send(format!("GET {target}:{port}/{index} HTTP/1.1\r\nHost: {host}:{port}\r\n{credentials}\r\n"));
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{target}: {}{}", answer.head, answer.text());
        assert_eq!(ground.origin.seen_at(&format!("/{index}")).fields("host"), [format!("origin.test:{port}")]);
    }
    let opens: Vec<_> = ground.daemon.ledger_lines().into_iter().filter(|line| line["kind"] == "open").collect();
    assert!(opens.iter().all(|line| line["host"] == "origin.test"), "{opens:?}");
}
