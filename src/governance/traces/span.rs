//! The JSON form of OTLP's trace messages (`opentelemetry/proto/trace/v1/trace.proto`; OTLP specification, "JSON Protobuf
//! Encoding"): ids in hexadecimal, enumerations as numbers, 64-bit numbers as texts, names in camel case.

use serde::{Serialize, Serializer};

use super::id::{Place, SpanId, TraceId};
use crate::domain::Timestamp;

/// Longest text of an attribute, in bytes: a host name fits. The rest is cut at a character.
pub(super) const MAX_TEXT: usize = 256;
/// Most events of a span. The trouble of a long run is in its newest ones, so the oldest give way.
pub(super) const MAX_EVENTS: usize = 64;
/// The specification whose names the attributes have.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`.
const REMOTE_KNOWN: u32 = 0x100;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const REMOTE: u32 = 0x200;
/// The W3C flag `sampled`: every span here is.
const SAMPLED: u32 = 1;

/// `SpanKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing but this daemon has to do with it.
    Internal = 1,
    /// The gateway answered it itself.
    Server = 2,
    /// It left for another server.
    Client = 3,
}

/// One span.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Span {
    trace_id: TraceId,
    span_id: SpanId,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<SpanId>,
    flags: u32,
    name: String,
    #[serde(serialize_with = "as_number")]
    kind: Kind,
    #[serde(serialize_with = "as_nanos")]
    start_time_unix_nano: Timestamp,
    #[serde(serialize_with = "as_nanos")]
    end_time_unix_nano: Timestamp,
    pub(super) attributes: Attributes,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Event>,
    #[serde(skip_serializing_if = "is_zero")]
    dropped_events_count: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<Link>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

/// Something that happened within a span.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    #[serde(serialize_with = "as_nanos")]
    pub(super) time_unix_nano: Timestamp,
    pub(super) name: &'static str,
    pub(super) attributes: Attributes,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    trace_id: TraceId,
    span_id: SpanId,
}

/// `Status` with `STATUS_CODE_ERROR`; without one it is unset.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Status {
    code: u8,
}

/// Keys and values, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Attributes(Vec<KeyValue>);

#[derive(Debug, Clone, PartialEq, Serialize)]
struct KeyValue {
    key: &'static str,
    value: AnyValue,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue {
    StringValue(String),
    #[serde(serialize_with = "as_text")]
    IntValue(u64),
}

impl Attributes {
    /// Adds a text, cut at [`MAX_TEXT`].
    pub(super) fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value.map(|value| &value[..value.floor_char_boundary(MAX_TEXT)]) {
            self.0.push(KeyValue { key, value: AnyValue::StringValue(value.to_owned()) });
        }
    }

    /// Adds a number.
    pub(super) fn number(&mut self, key: &'static str, value: Option<u64>) {
        // OTLP's numbers have a sign.
        if let Some(value) = value.map(|value| value.min(i64::MAX.unsigned_abs())) {
            self.0.push(KeyValue { key, value: AnyValue::IntValue(value) });
        }
    }
}

impl Span {
    /// A span that is the first of its trace, from `start` to `end`; one that seems to end before it started has no length.
    pub(super) fn new(place: Place, name: impl Into<String>, kind: Kind, start: Timestamp, end: Timestamp) -> Self {
        Self {
            trace_id: place.trace,
            span_id: place.span,
            parent_span_id: None,
            flags: REMOTE_KNOWN | SAMPLED,
            name: name.into(),
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: end.max(start),
            attributes: Attributes::default(),
            events: Vec::new(),
            dropped_events_count: 0,
            links: Vec::new(),
            status: None,
        }
    }

    /// Puts it below a span of ours.
    pub(super) fn below(&mut self, parent: Place) {
        (self.trace_id, self.parent_span_id) = (parent.trace, Some(parent.span));
    }

    /// Puts it below a span of somebody else's.
    pub(super) fn below_remote(&mut self, parent: Place) {
        self.below(parent);
        self.flags |= REMOTE;
    }

    /// Adds an event; of too many the oldest is left out.
    pub(super) fn event(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.remove(0);
            self.dropped_events_count += 1;
        }
        self.events.push(event);
    }

    /// Says how many events were left out before.
    pub(super) const fn dropped_events(&mut self, count: u32) {
        self.dropped_events_count = self.dropped_events_count.saturating_add(count);
    }

    /// Points at a span that it has to do with.
    pub(super) fn link(&mut self, to: Place) {
        self.links.push(Link { trace_id: to.trace, span_id: to.span });
    }

    /// Says that what it is about failed, and by what, a word of a closed set.
    pub(super) fn failed(&mut self, by: &str) {
        self.status = Some(Status { code: 2 });
        self.attributes.text("error.type", Some(by));
    }

    /// Its JSON.
    pub(super) fn json(&self) -> Box<str> {
        // Values with text keys always have a JSON form.
        serde_json::to_string(self).unwrap_or_default().into_boxed_str()
    }
}

impl Event {
    /// An event without attributes.
    pub(super) fn new(time: Timestamp, name: &'static str) -> Self {
        Self { time_unix_nano: time, name, attributes: Attributes::default() }
    }
}

/// Everything around the spans of an `ExportTraceServiceRequest`.
#[derive(Debug)]
pub(super) struct Envelope {
    before: String,
    after: String,
}

impl Envelope {
    /// The envelope of what this resource did.
    pub(super) fn new(resource: &Attributes) -> Self {
        let resource = serde_json::to_string(resource).unwrap_or_default();
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let before = format!(
            "{{\"resourceSpans\":[{{\"resource\":{{\"attributes\":{resource}}},\"scopeSpans\":[{{\
             \"scope\":{{\"name\":\"{name}\",\"version\":\"{version}\"}},\"spans\":["
        );
        let after = format!("],\"schemaUrl\":\"{SCHEMA}\"}}],\"schemaUrl\":\"{SCHEMA}\"}}]}}");
        Self { before, after }
    }

    /// The request that carries `spans`.
    pub(super) fn around(&self, spans: &[Box<str>]) -> String {
        format!("{}{}{}", self.before, spans.join(","), self.after)
    }
}

// What serde hands to its helpers is a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn as_number<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(*kind as u8)
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn as_nanos<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let nanos = u64::try_from(time.unix_micros()).unwrap_or(0).saturating_mul(1_000);
    serializer.collect_str(&nanos)
}

#[cfg(test)]
mod tests {
    use super::super::id::Ids;
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_unix_micros(micros)
    }

    #[test]
    fn a_span_has_the_form_of_the_specification() {
        let ids = Ids::new("key");
        let mut span = Span::new(ids.decision(1), "GET", Kind::Client, at(5), at(1_000_007));
        span.attributes.text("server.address", Some("a.example"));
        span.attributes.number("server.port", Some(443));
        span.attributes.text("arw.rule", None);
        span.event(Event::new(at(6), "arw.ledger.open"));
        span.link(ids.run("web", 2));
        span.failed("502");
        let (place, run) = (ids.decision(1), ids.run("web", 2));
        assert_eq!(
            &*span.json(),
            format!(
                concat!(
                    r#"{{"traceId":"{}","spanId":"{}","flags":257,"name":"GET","kind":3,"#,
                    r#""startTimeUnixNano":"5000","endTimeUnixNano":"1000007000","attributes":["#,
                    r#"{{"key":"server.address","value":{{"stringValue":"a.example"}}}},"#,
                    r#"{{"key":"server.port","value":{{"intValue":"443"}}}},"#,
                    r#"{{"key":"error.type","value":{{"stringValue":"502"}}}}],"#,
                    r#""events":[{{"timeUnixNano":"6000","name":"arw.ledger.open","attributes":[]}}],"#,
                    r#""links":[{{"traceId":"{}","spanId":"{}"}}],"status":{{"code":2}}}}"#,
                ),
                place.trace, place.span, run.trace, run.span
            )
        );
    }

    #[test]
    fn a_parent_elsewhere_is_marked_as_remote() {
        let ids = Ids::new("key");
        let mut span = Span::new(ids.decision(1), "GET", Kind::Client, at(9), at(5));
        span.below_remote(ids.decision(2));
        let json: serde_json::Value = serde_json::from_str(&span.json()).expect("JSON");
        assert_eq!(json["traceId"], ids.decision(2).trace.to_string());
        assert_eq!(json["parentSpanId"], ids.decision(2).span.to_string());
        assert_eq!(json["flags"], 0x301);
        assert_eq!(json["endTimeUnixNano"], "9000", "never before its start");
    }

    #[test]
    fn texts_and_events_are_bounded() {
        let mut span = Span::new(Ids::new("key").decision(1), "GET", Kind::Client, at(0), at(0));
        span.attributes.text("server.address", Some(&"é".repeat(10_000)));
        span.attributes.number("arw.bytes.up", Some(u64::MAX));
        (0..1_000).for_each(|n| span.event(Event::new(at(n), "arw.runtime.health")));
        let json: serde_json::Value = serde_json::from_str(&span.json()).expect("JSON");
        assert_eq!(json["attributes"][0]["value"]["stringValue"].as_str().map(str::len), Some(MAX_TEXT));
        assert_eq!(json["attributes"][1]["value"]["intValue"], i64::MAX.to_string());
        assert_eq!(json["events"].as_array().map(Vec::len), Some(MAX_EVENTS));
        assert_eq!(json["events"][0]["timeUnixNano"], "936000");
        assert_eq!(json["droppedEventsCount"], 936);
    }

    #[test]
    fn the_envelope_is_one_request() {
        let mut resource = Attributes::default();
        resource.text("service.name", Some("arw-\"server"));
        let spans = [r#"{"a":1}"#, r#"{"b":2}"#].map(|text| text.to_owned().into_boxed_str());
        let json: serde_json::Value = serde_json::from_str(&Envelope::new(&resource).around(&spans)).expect("JSON");
        let only = &json["resourceSpans"][0];
        assert_eq!(only["resource"]["attributes"][0]["value"]["stringValue"], "arw-\"server");
        assert_eq!(only["scopeSpans"][0]["scope"]["name"], "arw");
        assert_eq!(only["scopeSpans"][0]["spans"], serde_json::json!([{"a": 1}, {"b": 2}]));
        assert_eq!(only["schemaUrl"], SCHEMA);
    }
}
