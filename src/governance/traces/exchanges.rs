//! Lines of the ledger as spans. Pure.
//!
//! | lines | span |
//! |---|---|
//! | `open`, then `close` | `CLIENT`: it left |
//! | `deny` | `SERVER`, without a length: the gateway answered it itself |
//!
//! A `close` says nearly all; what only the `open` says is remembered until then.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use serde_json::Value;

use super::id::{Ids, Place};
use super::span::{Event, Kind, Span};
use crate::domain::{CloseReason, Scheme, Timestamp, TraceParent};
use crate::ledger::{self, Line};

/// Open lines that are remembered: twice as many as there are connections by default. Beyond it the oldest is forgotten,
/// and its span says less.
const MAX_OPEN: usize = 16_384;
/// Methods that the semantic conventions know; others are `_OTHER`, so that a client cannot make up names.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// What is known of exchanges that are not over.
#[derive(Debug)]
pub(super) struct Exchanges {
    ids: Ids,
    open: BTreeMap<u64, Box<Line>>,
}

impl Exchanges {
    pub(super) const fn new(ids: Ids) -> Self {
        Self { ids, open: BTreeMap::new() }
    }

    /// Takes the next line; the span that it ends.
    pub(super) fn take(&mut self, line: Line) -> Option<Span> {
        match line.kind {
            ledger::Kind::Open => {
                self.open.insert(line.seq, Box::new(line));
                if self.open.len() > MAX_OPEN {
                    self.open.pop_first();
                }
                None
            }
            ledger::Kind::Close => {
                let seq = line.opened?;
                let opened = self.open.remove(&seq);
                Some(self.passed(seq, opened.as_deref(), &line))
            }
            ledger::Kind::Deny => Some(self.denied(&line)),
            ledger::Kind::Preview | ledger::Kind::Note | ledger::Kind::Audit => None,
        }
    }

    fn passed(&self, seq: u64, opened: Option<&Line>, close: &Line) -> Span {
        let length = i64::try_from(close.duration_ms.unwrap_or(0)).unwrap_or(0).saturating_mul(1_000);
        let from_length = Timestamp::from_unix_micros(close.time.unix_micros().saturating_sub(length));
        let start = opened.map_or(from_length, |opened| opened.time);
        let about = opened.unwrap_or(close);
        let mut span = self.begin(self.ids.decision(seq), about, Kind::Client, start, close.time);
        if let Some(answered) = close.address.as_ref().or(about.address.as_ref()) {
            put_address(&mut span, answered, "network.peer.address", "network.peer.port");
            let kind = answered.parse().map(|addr: SocketAddr| if addr.is_ipv4() { "ipv4" } else { "ipv6" });
            span.attributes.text("network.type", kind.ok());
        }
        span.attributes.number("http.response.status_code", close.status.map(u64::from));
        let sni = close.tls.as_ref().and_then(|tls| tls.sni.as_deref());
        span.attributes.text("tls.client.server_name", sni);
        // What the first bytes showed may differ from what was granted.
        put_decision(&mut span, if close.code.is_some() && close.decision.is_some() { close } else { about });
        span.attributes.number("arw.bytes.up", close.bytes_up);
        span.attributes.number("arw.bytes.down", close.bytes_down);
        span.attributes.text("arw.close_reason", close.close_reason.map(CloseReason::code));
        span.attributes.number("arw.ledger.seq", Some(seq));
        span.attributes.number("arw.ledger.close_seq", Some(close.seq));
        if let Some(opened) = opened {
            span.event(Event::new(opened.time, "arw.ledger.open"));
        }
        span.event(Event::new(close.time, "arw.ledger.close"));
        match (close.close_reason, close.status) {
            (Some(reason), _) if !is_usual(reason) => span.failed(reason.code()),
            (_, Some(status @ 400..)) => span.failed(&status.to_string()),
            _ => {}
        }
        span
    }

    fn denied(&self, line: &Line) -> Span {
        let mut span = self.begin(self.ids.decision(line.seq), line, Kind::Server, line.time, line.time);
        let status = line.code.map(|code| u64::from(code.status()));
        // A tunnel that nobody asked for by HTTP got no status.
        span.attributes.number("http.response.status_code", status.filter(|_| line.method.is_some()));
        put_decision(&mut span, line);
        span.attributes.number("arw.ledger.seq", Some(line.seq));
        // The semantic conventions: what a server refuses for the client's sake is no error of the server's.
        if let Some(code) = line.code.filter(|code| code.status() >= 500) {
            span.failed(code.code());
        }
        span
    }

    /// A span with what every line says.
    fn begin(&self, place: Place, line: &Line, kind: Kind, start: Timestamp, end: Timestamp) -> Span {
        let method = line.method.as_deref().map(|method| METHODS.iter().find(|known| **known == method));
        let name = match (method, line.host.is_some(), line.port.is_some()) {
            (Some(Some(method)), _, _) => method,
            (Some(None), _, _) => "HTTP",
            (None, true, false) => "lookup",
            (None, true, true) => "tunnel",
            (None, false, _) => "request",
        };
        let mut span = Span::new(place, name, kind, start, end);
        if let Some(parent) =
            line.labels.as_ref().and_then(|labels| TraceParent::parse(labels.corr.as_ref()?.as_bytes()))
        {
            span.below_remote(parent.into());
        }
        if let (Some(runtime), Some(run)) = (&line.runtime, line.run.as_ref().and_then(|run| run.parse().ok())) {
            span.link(self.ids.run(runtime, run));
        }
        let attributes = &mut span.attributes;
        attributes.text("server.address", line.host.as_deref());
        attributes.number("server.port", line.port.map(u64::from));
        attributes.text("network.transport", line.port.map(|_| "tcp"));
        if let Some(method) = method {
            attributes.text("network.protocol.name", Some("http"));
            attributes.text("http.request.method", Some(method.copied().unwrap_or("_OTHER")));
            attributes.text("url.scheme", line.scheme.map(Scheme::as_str));
        }
        if let Some(client) = &line.client {
            put_address(&mut span, client, "client.address", "client.port");
        }
        let attributes = &mut span.attributes;
        attributes.text("arw.persona", line.persona.as_ref().map(|persona| persona.as_str()));
        attributes.text("arw.runtime", line.runtime.as_deref());
        attributes.text("arw.run", line.run.as_deref());
        attributes.text("arw.identity", word(line.identity).as_deref());
        attributes.text("arw.scheme", line.scheme.map(Scheme::as_str));
        attributes.text("arw.project", line.labels.as_ref().and_then(|labels| labels.project.as_deref()));
        span
    }
}

fn put_decision(span: &mut Span, line: &Line) {
    let attributes = &mut span.attributes;
    attributes.text("arw.decision", word(line.decision).as_deref());
    attributes.text("arw.code", line.code.map(|code| code.code()));
    attributes.text("arw.via", word(line.via).as_deref());
    attributes.text("arw.rule", line.rule.as_ref().map(|rule| rule.as_str()));
    attributes.text("arw.lease", line.lease.as_deref());
}

/// `address:port`, or what a Unix socket's peer is.
fn put_address(span: &mut Span, shown: &str, address: &'static str, port: &'static str) {
    match shown.parse::<SocketAddr>() {
        Ok(addr) => {
            span.attributes.text(address, Some(&addr.ip().to_string()));
            span.attributes.number(port, Some(u64::from(addr.port())));
        }
        Err(_) => span.attributes.text(address, Some(shown)),
    }
}

/// Whether it ended because one of the two sides was done.
const fn is_usual(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::Completed | CloseReason::ClientClosed | CloseReason::UpstreamClosed)
}

/// The word that the ledger has for a value of a closed set.
fn word<T: Serialize>(value: Option<T>) -> Option<String> {
    match serde_json::to_value(value?) {
        Ok(Value::String(word)) => Some(word),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn line(value: Json) -> Line {
        serde_json::from_value(value).expect("a line")
    }

    fn open(seq: u64) -> Json {
        json!({
            "seq": seq, "time": "2026-11-22T10:31:21.000000Z", "kind": "open", "persona": "agent", "runtime": "web", "run": "7",
            "client": "127.0.0.1:40000", "identity": "netns", "scheme": "http", "host": "a.example", "port": 80,
            "method": "GET", "path": "/secret-path?token=canary", "address": "192.0.2.7:80", "decision": "allow",
            "via": "policy", "rule": "all", "labels": {"project": "p"},
        })
    }

    fn close(seq: u64, opened: u64) -> Json {
        json!({
            "seq": seq, "time": "2026-11-22T10:31:23.500000Z", "kind": "close", "persona": "agent", "runtime": "web", "run": "7",
            "scheme": "http", "host": "a.example", "port": 80, "address": "[2001:db8::1]:80", "rule": "all", "opened": opened,
            "bytes_up": 3, "bytes_down": 5, "duration_ms": 2500, "close_reason": "completed", "status": 200,
        })
    }

    fn shown(span: &Span) -> Json {
        serde_json::from_str(&span.json()).expect("JSON")
    }

    fn attribute(span: &Json, key: &str) -> Json {
        let all = span["attributes"].as_array().expect("attributes");
        let mut found = all.iter().filter(|attribute| attribute["key"] == key);
        let value = found.next().map_or(Json::Null, |attribute| attribute["value"].clone());
        assert!(found.next().is_none(), "`{key}` stands twice: {span:#}");
        value.as_object().and_then(|value| value.values().next().cloned()).unwrap_or(Json::Null)
    }

    #[test]
    fn an_exchange_is_one_client_span_that_leads_to_both_lines_and_to_the_run() {
        let mut exchanges = Exchanges::new(Ids::new("key"));
        assert!(exchanges.take(line(open(4))).is_none());
        let span = exchanges.take(line(close(9, 4))).expect("it is over");
        assert!(exchanges.open.is_empty());
        let span = shown(&span);
        let place = Ids::new("key").decision(4);
        assert_eq!((&span["traceId"], &span["spanId"]), (&json!(place.trace), &json!(place.span)));
        assert_eq!((&span["kind"], &span["name"]), (&json!(3), &json!("GET")));
        assert_eq!(span["startTimeUnixNano"], "1795343481000000000");
        assert_eq!(span["endTimeUnixNano"], "1795343483500000000");
        assert_eq!(span["links"][0]["spanId"], json!(Ids::new("key").run("web", 7).span));
        assert!(span.get("status").is_none() && span.get("parentSpanId").is_none(), "{span:#}");
        for (key, value) in [
            ("server.address", json!("a.example")),
            ("server.port", json!("80")),
            ("network.transport", json!("tcp")),
            ("network.protocol.name", json!("http")),
            ("network.peer.address", json!("2001:db8::1")),
            ("network.peer.port", json!("80")),
            ("network.type", json!("ipv6")),
            ("client.address", json!("127.0.0.1")),
            ("client.port", json!("40000")),
            ("http.request.method", json!("GET")),
            ("http.response.status_code", json!("200")),
            ("url.scheme", json!("http")),
            ("arw.persona", json!("agent")),
            ("arw.runtime", json!("web")),
            ("arw.run", json!("7")),
            ("arw.identity", json!("netns")),
            ("arw.decision", json!("allow")),
            ("arw.via", json!("policy")),
            ("arw.rule", json!("all")),
            ("arw.project", json!("p")),
            ("arw.bytes.up", json!("3")),
            ("arw.bytes.down", json!("5")),
            ("arw.close_reason", json!("completed")),
            ("arw.ledger.seq", json!("4")),
            ("arw.ledger.close_seq", json!("9")),
        ] {
            assert_eq!(attribute(&span, key), value, "{key}");
        }
        assert!(!span.to_string().contains("canary") && !span.to_string().contains("secret-path"), "{span:#}");
    }

    #[test]
    fn a_close_whose_open_is_not_known_says_what_it_can() {
        let span = Exchanges::new(Ids::new("key")).take(line(close(9, 4))).expect("it is over");
        let span = shown(&span);
        assert_eq!(span["startTimeUnixNano"], "1795343481000000000");
        assert_eq!(attribute(&span, "server.address"), "a.example");
        assert_eq!((&span["name"], attribute(&span, "arw.ledger.seq")), (&json!("tunnel"), json!("4")));
    }

    #[test]
    fn what_went_wrong_is_an_error_and_what_was_refused_is_none() {
        let ended = |reason: &str, status: Option<u16>| {
            let mut text = close(2, 1);
            (text["close_reason"], text["status"]) = (json!(reason), json!(status));
            shown(&Exchanges::new(Ids::new("key")).take(line(text)).expect("over"))
        };
        for (reason, status, error) in [
            ("completed", Some(200), None),
            ("completed", Some(399), None),
            ("completed", Some(404), Some("404")),
            ("completed", Some(503), Some("503")),
            ("client_closed", None, None),
            ("upstream_closed", None, None),
            ("connect_failed", None, Some("connect_failed")),
            ("policy_narrowed", Some(200), Some("policy_narrowed")),
            ("unclean", None, Some("unclean")),
        ] {
            let span = ended(reason, status);
            assert_eq!(span["status"]["code"], json!(error.map(|_| 2)), "{reason}");
            assert_eq!(attribute(&span, "error.type"), json!(error), "{reason}");
        }
        let denied = |code: &str, method: Option<&str>| {
            let text = json!({
                "seq": 3, "time": "2026-11-22T10:31:21.000000Z", "kind": "deny", "persona": "agent", "host": "b.example", "port": 80,
                "method": method, "decision": "deny", "code": code, "detail": "canary",
            });
            shown(&Exchanges::new(Ids::new("key")).take(line(text)).expect("a span"))
        };
        let span = denied("not_allowlisted", Some("FROB"));
        assert_eq!((&span["kind"], &span["name"], &span["status"]), (&json!(2), &json!("HTTP"), &Json::Null));
        assert_eq!(span["startTimeUnixNano"], span["endTimeUnixNano"]);
        assert_eq!(attribute(&span, "http.request.method"), "_OTHER");
        assert_eq!(attribute(&span, "http.response.status_code"), "403");
        assert_eq!(
            (attribute(&span, "arw.decision"), attribute(&span, "arw.code")),
            (json!("deny"), json!("not_allowlisted"))
        );
        assert!(!span.to_string().contains("canary") && !span.to_string().contains("FROB"), "{span:#}");
        let span = denied("dns_failed", None);
        assert_eq!((&span["status"]["code"], attribute(&span, "error.type")), (&json!(2), json!("dns_failed")));
        assert_eq!(attribute(&span, "http.response.status_code"), Json::Null);
    }

    #[test]
    fn only_a_sound_traceparent_makes_a_child() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for (corr, below) in [(parent, true), (&parent[1..], false), ("00-x", false)] {
            let mut exchanges = Exchanges::new(Ids::new("key"));
            let mut text = open(1);
            text["labels"] = json!({ "corr": corr });
            exchanges.take(line(text));
            let span = shown(&exchanges.take(line(close(2, 1))).expect("over"));
            assert_eq!(span["parentSpanId"] == "00f067aa0ba902b7", below, "{corr}");
            assert_eq!(span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736", below, "{corr}");
            assert!(below || !span.to_string().contains(corr), "free text does not leave: {span:#}");
        }
    }

    #[test]
    fn notes_and_previews_are_no_spans_and_what_is_remembered_is_bounded() {
        let mut exchanges = Exchanges::new(Ids::new("key"));
        for kind in ["note", "preview"] {
            let text = json!({"seq": 1, "time": "2026-11-22T10:31:21.000000Z", "kind": kind});
            assert!(exchanges.take(line(text)).is_none(), "{kind}");
        }
        for seq in 0..=MAX_OPEN as u64 {
            exchanges.take(line(open(seq)));
        }
        assert_eq!((exchanges.open.len(), exchanges.open.contains_key(&0)), (MAX_OPEN, false));
    }
}
