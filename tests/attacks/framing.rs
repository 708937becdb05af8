//! Heads that two readers could read differently: request smuggling and its relatives.

use crate::ground::{AGENT, Ground, Row, credentials, row};

/// The agent's request to the origin with `fields` in place of the usual `Host`.
fn with_hosts(ground: &Ground, fields: &str) -> Vec<u8> {
    let (authority, credentials) = (ground.authority(), credentials(AGENT));
    format!("GET http://{authority}/ HTTP/1.1\r\n{fields}{credentials}\r\n").into_bytes()
}

#[test]
fn a_host_field_is_there_once_and_names_the_target() {
    let ground = Ground::new();
    let authority = ground.authority();
    let port = ground.origin.port();
    let cases = [
        ("no Host", String::new()),
        ("two Hosts alike", format!("Host: {authority}\r\nHost: {authority}\r\n")),
        ("two Hosts unlike", format!("Host: {authority}\r\nHost: denied.test\r\n")),
        ("two Hosts, other case", format!("Host: {authority}\r\nhOST: denied.test\r\n")),
        ("another Host", "Host: denied.test\r\n".to_owned()),
        ("another port", "Host: origin.test:1\r\n".to_owned()),
        ("no port where the target has one", "Host: origin.test\r\n".to_owned()),
        ("an empty Host", "Host:\r\n".to_owned()),
        ("userinfo in Host", format!("Host: origin.test:{port}@denied.test\r\n")),
        ("a list in Host", format!("Host: {authority}, denied.test\r\n")),
        ("a space behind the name", format!("Host : {authority}\r\n")),
        ("a space before the name", format!(" Host: {authority}\r\n")),
        ("Host with a NUL", format!("Host: {authority}\0.denied.test\r\n")),
        ("Host with a path", format!("Host: {authority}/x\r\n")),
    ];
    let rows: Vec<Row> =
        cases.iter().map(|(name, fields)| row(*name, with_hosts(&ground, fields), 400, "malformed")).collect();
    ground.refuse_all(&rows);
}

#[test]
fn the_length_of_a_body_is_said_once_and_plainly() {
    let ground = Ground::new();
    let next = format!("GET http://{}/smuggled HTTP/1.1\r\n", ground.authority());
    let cases = [
        ("CL and TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("TE and CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("CL 0 and TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ("two CL alike", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("two CL unlike", "Content-Length: 0\r\nContent-Length: 44\r\n"),
        ("two CL, other case", "content-length: 0\r\nCONTENT-LENGTH: 44\r\n"),
        ("a list of lengths", "Content-Length: 5, 5\r\n"),
        ("a sign", "Content-Length: +5\r\n"),
        ("a negative length", "Content-Length: -1\r\n"),
        ("hexadecimal", "Content-Length: 0x5\r\n"),
        ("letters behind", "Content-Length: 5a\r\n"),
        ("a space within", "Content-Length: 5 5\r\n"),
        ("no length", "Content-Length:\r\n"),
        ("an exponent", "Content-Length: 1e1\r\n"),
        ("a fraction", "Content-Length: 5.0\r\n"),
        ("beyond 64 bit", "Content-Length: 18446744073709551621\r\n"),
        ("quoted", "Content-Length: \"5\"\r\n"),
        ("Arabic digits", "Content-Length: ٥\r\n"),
        ("space before the colon", "Content-Length : 5\r\n"),
        ("TE twice in one", "Transfer-Encoding: chunked, chunked\r\n"),
        ("TE twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("TE twice unlike", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n"),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n"),
        ("xchunked", "Transfer-Encoding: xchunked\r\n"),
        ("a parameter", "Transfer-Encoding: chunked;q=1\r\n"),
        ("quoted chunked", "Transfer-Encoding: \"chunked\"\r\n"),
        ("a comma behind", "Transfer-Encoding: chunked,\r\n"),
        ("a comma before", "Transfer-Encoding: ,chunked\r\n"),
        ("a vertical tab", "Transfer-Encoding: \x0bchunked\r\n"),
        ("a no-break space", "Transfer-Encoding: chunked\u{a0}\r\n"),
        ("TE, space before the colon", "Transfer-Encoding : chunked\r\n"),
        ("TE, tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("TE with a NUL", "Transfer-Encoding: chunked\0\r\n"),
        ("TE folded", "Transfer-Encoding:\r\n chunked\r\n"),
        ("TE empty", "Transfer-Encoding:\r\n"),
        ("TE hidden behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n"),
        ("TE hidden behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n"),
    ];
    let rows: Vec<Row> = cases
        .iter()
        .map(|(name, fields)| {
            row(*name, ground.request("POST", "/", fields, &format!("0\r\n\r\n{next}")), 400, "malformed")
        })
        .collect();
    ground.refuse_all(&rows);
}

#[test]
fn chunks_need_http_1_1() {
    let ground = Ground::new();
    let bytes = String::from_utf8(ground.request("POST", "/", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n")).unwrap();
    ground.refuse_all(&[row("1.0 with chunks", bytes.replacen("HTTP/1.1", "HTTP/1.0", 1), 400, "malformed")]);
}

#[test]
fn lines_and_fields_have_one_form() {
    let ground = Ground::new();
    let cases: &[(&str, &[u8])] = &[
        ("a folded field", b"X-A: one\r\n two\r\n"),
        ("a field folded by a tab", b"X-A: one\r\n\ttwo\r\n"),
        ("a bare LF between fields", b"X-A: one\nX-B: two\r\n"),
        ("a bare CR in a value", b"X-A: one\rtwo\r\n"),
        ("two CR", b"X-A: one\r\r\n"),
        ("a NUL in a value", b"X-A: o\0ne\r\n"),
        ("a NUL in a name", b"X\0A: one\r\n"),
        ("a field without colon", b"X-A\r\n"),
        ("a field without name", b": one\r\n"),
        ("a name that is no token", b"X(A): one\r\n"),
        ("a name outside ASCII", "X-Ä: one\r\n".as_bytes()),
        ("a space in a name", b"X A: one\r\n"),
        ("a control in a value", b"X-A: o\x01ne\r\n"),
        ("a DEL in a value", b"X-A: o\x7fne\r\n"),
    ];
    let rows: Vec<Row> = cases
        .iter()
        .map(|(name, fields)| {
            let plain = ground.request("GET", "/", "", "");
            let end = plain.len() - 2;
            row(*name, [&plain[..end], fields, b"\r\n"].concat(), 400, "malformed")
        })
        .collect();
    ground.refuse_all(&rows);
}

#[test]
fn a_head_of_bare_line_feeds_is_refused_at_once() {
    let ground = Ground::new();
    let bytes = String::from_utf8(ground.request("GET", "/", "", "")).unwrap().replace("\r\n", "\n");
    ground.refuse_all(&[row("LF only", bytes, 400, "malformed")]);
}

#[test]
fn a_request_line_has_one_form() {
    let ground = Ground::new();
    let authority = ground.authority();
    let rest = format!("\r\nHost: {authority}\r\n{}\r\n", credentials(AGENT));
    let cases: Vec<(&str, String, u16)> = vec![
        ("two spaces behind the method", format!("GET  http://{authority}/ HTTP/1.1"), 400),
        ("two spaces behind the target", format!("GET http://{authority}/  HTTP/1.1"), 505),
        ("tabs", format!("GET\thttp://{authority}/\tHTTP/1.1"), 400),
        ("a space behind the version", format!("GET http://{authority}/ HTTP/1.1 "), 400),
        ("no version", format!("GET http://{authority}/"), 400),
        ("HTTP/2.0", format!("GET http://{authority}/ HTTP/2.0"), 505),
        ("HTTP/1.2", format!("GET http://{authority}/ HTTP/1.2"), 505),
        ("HTTP/1.10", format!("GET http://{authority}/ HTTP/1.10"), 400),
        ("HTTP/01.1", format!("GET http://{authority}/ HTTP/01.1"), 505),
        ("http/1.1", format!("GET http://{authority}/ http/1.1"), 505),
        ("no method", format!(" http://{authority}/ HTTP/1.1"), 400),
        ("a method that is no token", format!("G(T http://{authority}/ HTTP/1.1"), 400),
        ("a NUL in the method", format!("GE\0T http://{authority}/ HTTP/1.1"), 400),
        ("a leading NUL", format!("\0GET http://{authority}/ HTTP/1.1"), 400),
        ("two empty lines before", format!("\r\n\r\nGET http://{authority}/ HTTP/1.1"), 400),
        ("origin-form", "GET /x HTTP/1.1".to_owned(), 400),
        ("asterisk-form", "OPTIONS * HTTP/1.1".to_owned(), 400),
        ("authority-form with GET", format!("GET {authority} HTTP/1.1"), 400),
        ("a network path", format!("GET //{authority}/ HTTP/1.1"), 400),
        ("https", format!("GET https://{authority}/ HTTP/1.1"), 400),
        ("ftp", format!("GET ftp://{authority}/ HTTP/1.1"), 400),
        ("file", "GET file:///etc/passwd HTTP/1.1".to_owned(), 400),
        ("one slash", format!("GET http:/{authority}/ HTTP/1.1"), 400),
        ("no slash", format!("GET http:{authority}/ HTTP/1.1"), 400),
        ("three slashes", format!("GET http:///{authority}/ HTTP/1.1"), 400),
        ("a backslash", format!("GET http://{authority}\\@denied.test/ HTTP/1.1"), 400),
        ("a fragment", format!("GET http://{authority}/#@denied.test HTTP/1.1"), 400),
        ("a CRLF in the target", format!("GET http://{authority}/\r\nX-Evil: y HTTP/1.1"), 400),
        ("a bare CR in the target", format!("GET http://{authority}/\rX HTTP/1.1"), 400),
        ("UTF-8 in the path", format!("GET http://{authority}/ä HTTP/1.1"), 400),
        ("CONNECT with a URL", format!("CONNECT http://{authority}/ HTTP/1.1"), 400),
        ("CONNECT with a path", format!("CONNECT {authority}/x HTTP/1.1"), 400),
        ("CONNECT with origin-form", "CONNECT /x HTTP/1.1".to_owned(), 400),
        ("CONNECT with a query", format!("CONNECT {authority}?x HTTP/1.1"), 400),
        ("an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM".to_owned(), 505),
        ("a TLS hello", "\x16\x03\x01\x00\x05hello".to_owned(), 400),
        ("a SOCKS4 greeting", "\x04\x01\0\x50\x7f\0\0\x01\0".to_owned(), 400),
        ("a SOCKS5 greeting", "\x05\x01\0".to_owned(), 400),
    ];
    let rows: Vec<Row> =
        cases.iter().map(|(name, line, status)| row(*name, format!("{line}{rest}"), *status, "malformed")).collect();
    ground.refuse_all(&rows);
}

#[test]
fn a_connect_has_no_body_and_no_second_host() {
    let ground = Ground::new();
    let (authority, credentials) = (ground.authority(), credentials(AGENT));
    let head = |fields: &str| format!("CONNECT {authority} HTTP/1.1\r\n{credentials}{fields}\r\n");
    let host = format!("Host: {authority}\r\n");
    let cases = [
        ("CONNECT with a length", format!("{host}Content-Length: 5\r\n")),
        ("CONNECT with chunks", format!("{host}Transfer-Encoding: chunked\r\n")),
        ("CONNECT with two Hosts", format!("{host}{host}")),
        ("CONNECT without Host", String::new()),
    ];
    let rows: Vec<Row> = cases.iter().map(|(name, fields)| row(*name, head(fields), 400, "malformed")).collect();
    ground.refuse_all(&rows);
}

#[test]
fn the_host_field_of_a_connect_opens_nothing() {
    // Clients put many things there, so it is not compared (RFC 9112 section 3.2.3): the target alone counts.
    let ground = Ground::new();
    let (authority, credentials) = (ground.authority(), credentials(AGENT));
    let connect = |target: &str, host: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n");
    ground.refuse_all(&[
        row("an allowed Host, a denied target", connect("denied.test:443", &authority), 403, "not_allowlisted"),
        row("an allowed Host, a special target", connect("127.0.0.1:443", &authority), 403, "special_address"),
        row("a denied Host, another target", connect(&authority, "denied.test"), 403, "scheme_not_allowed"),
    ]);
}

#[test]
fn connection_cannot_strip_what_frames_or_routes_the_message() {
    let ground = Ground::new();
    let mut rows: Vec<Row> =
        ["Content-Length", "content-LENGTH", "Transfer-Encoding", "Host", "Via", "Expect", "Proxy-Authorization"]
            .iter()
            .flat_map(|name| {
                ["Connection", "Proxy-Connection"].map(|field| {
                    let fields = format!("{field}: close, {name}\r\nContent-Length: 5\r\n");
                    row(format!("{field}: {name}"), ground.request("POST", "/", &fields, "hello"), 400, "malformed")
                })
            })
            .collect();
    let fields = "Connection: close\r\nConnection: ,content-length,\r\nContent-Length: 5\r\n";
    rows.push(row("in a second Connection", ground.request("POST", "/", fields, "hello"), 400, "malformed"));
    ground.refuse_all(&rows);
}

#[test]
fn credentials_come_once() {
    let ground = Ground::new();
    let twice = ground.request("GET", "/", &credentials("nobody"), "");
    ground.refuse_all(&[row("two credentials", twice, 400, "malformed")]);
}

#[test]
fn credentials_that_lead_nowhere_are_not_an_identity() {
    let ground = Ground::new();
    let authority = ground.authority();
    let head = |line: &str| format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n{line}\r\n");
    let encoded = |text: &str| crate::support::basic(text.split_once(':').unwrap().0, text.split_once(':').unwrap().1);
    let token = crate::support::daemon::token_of(AGENT);
    let upper = token.to_uppercase();
    let cases = [
        ("no credentials", String::new(), "no_identity"),
        ("a persona named by a label", "X-ARW-Persona: agent\r\n".to_owned(), "no_identity"),
        (
            "credentials for the site",
            format!("Authorization: {}\r\n", encoded(&format!("agent:{token}"))),
            "no_identity",
        ),
        ("a wrong token", format!("Proxy-Authorization: {}\r\n", encoded("agent:wrong")), "unknown_persona"),
        (
            "another case of the token",
            format!("Proxy-Authorization: {}\r\n", encoded(&format!("agent:{upper}"))),
            "unknown_persona",
        ),
        ("no token", format!("Proxy-Authorization: {}\r\n", encoded("agent:")), "unknown_persona"),
        (
            "the token's hash",
            format!(
                "Proxy-Authorization: {}\r\n",
                encoded(&format!("agent:{}", arw::domain::TokenHash::of(token.as_bytes()).to_hex()))
            ),
            "unknown_persona",
        ),
        (
            "the token of another persona",
            format!("Proxy-Authorization: {}\r\n", encoded(&format!("roamer:{token}"))),
            "unknown_persona",
        ),
        (
            "a token with more behind it",
            format!("Proxy-Authorization: {}\r\n", encoded(&format!("agent:{token}x"))),
            "unknown_persona",
        ),
        (
            "a token with a NUL behind it",
            format!("Proxy-Authorization: {}\r\n", encoded(&format!("agent:{token}\0"))),
            "unknown_persona",
        ),
        ("not base64", "Proxy-Authorization: Basic ####\r\n".to_owned(), "unknown_persona"),
        ("no colon", "Proxy-Authorization: Basic YWdlbnQ=\r\n".to_owned(), "unknown_persona"),
        ("another scheme", "Proxy-Authorization: Negotiate YWdlbnQ=\r\n".to_owned(), "unknown_persona"),
        ("an empty bearer", "Proxy-Authorization: Bearer \r\n".to_owned(), "unknown_persona"),
        ("an empty field", "Proxy-Authorization:\r\n".to_owned(), "unknown_persona"),
    ];
    let rows: Vec<Row> = cases.iter().map(|(name, line, code)| row(*name, head(line), 407, code)).collect();
    ground.refuse_all(&rows);
}
