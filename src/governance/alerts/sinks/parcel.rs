//! One event on its way out.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::super::kind::{AlertKind, Severity};
use crate::events::{Event, EventKind};

/// An event as sinks need it. Its text was made once and is sent as it is, however often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Parcel {
    /// Id of the event: the same at every attempt, over restarts too.
    pub(super) id: String,
    /// Its type.
    pub(super) kind: String,
    /// When, in RFC 3339.
    pub(super) time: String,
    /// How bad it is, of an alert that was raised.
    pub(super) severity: Option<Severity>,
    /// One line for a person.
    pub(super) summary: String,
    /// Whether it tells of an alert.
    pub(super) alert: bool,
    /// Whether it tells that a route loses things: when that is lost, it is no news.
    pub(super) of_loss: bool,
    /// The CloudEvent.
    pub(super) body: Arc<str>,
}

#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    subject: Option<String>,
    data: Option<Value>,
}

impl Parcel {
    pub(in super::super) fn of(event: &Event) -> Self {
        let kind = event.kind.code();
        Self::new(
            event.id.to_string(),
            kind,
            event.time.to_string(),
            event.subject.as_deref(),
            &event.data,
            event.json().into(),
        )
    }

    /// From the text of an event, as it was spooled.
    pub(super) fn parse(body: &str) -> Option<Self> {
        let Envelope { id, kind, time, subject, data } = serde_json::from_str(body).ok()?;
        Some(Self::new(id, &kind, time, subject.as_deref(), &data.unwrap_or_default(), body.into()))
    }

    fn new(id: String, kind: &str, time: String, subject: Option<&str>, data: &Value, body: Arc<str>) -> Self {
        let text = |name: &str| data.get(name).and_then(Value::as_str);
        let raised = kind == EventKind::AlertRaised.code();
        let alert = raised || kind == EventKind::AlertCleared.code();
        let severity = text("severity").and_then(Severity::from_code).filter(|_| raised);
        let summary = match (text("summary"), subject) {
            (Some(summary), _) => format!("{kind}: {summary}"),
            (None, Some(subject)) => format!("{kind}: {subject}"),
            (None, None) => kind.to_owned(),
        };
        let of_loss = alert && text("code") == Some(AlertKind::SinkLosing.code());
        Self { id, kind: kind.to_owned(), time, severity, summary, alert, of_loss, body }
    }
}
