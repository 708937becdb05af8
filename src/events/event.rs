//! One event and its CloudEvents envelope.

use std::fmt::{self, Write as _};
use std::sync::{Arc, OnceLock};

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::domain::{Timestamp, is_deceptive};

/// Largest data of one event, as it weighs in memory. Events tell; they do not carry payloads, and a
/// subscriber's queue is bounded in bytes by it.
const MAX_DATA_BYTES: usize = 16 << 10;

/// Longest subject in bytes: a host name with its persona fits twice.
const MAX_SUBJECT_BYTES: usize = 512;

/// How much keeping events of a kind may crowd out others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Made by traffic, so a client of the proxy can make as many as it likes.
    Busy,
    /// Made by operators and by the daemon's own life.
    Quiet,
}

macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident => $code:literal, $lane:ident;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            /// Every kind, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name, which is the `type` of the envelope.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The kind whose name is `code`.
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            pub(super) const fn lane(self) -> Lane {
                match self { $(Self::$variant => Lane::$lane,)+ }
            }
        }
    };
}

kinds! {
    /// What can happen. A name never changes once released.
    EventKind {
        /// A record reached the ledger.
        EgressLedgerAppended => "egress.ledger.appended", Busy;
        /// A persona reached a host for the first time.
        EgressNewDomain => "egress.new_domain", Busy;
        /// A persona reached a known host by a scheme it had not used there.
        EgressProtocolChange => "egress.protocol_change", Busy;
        /// A request was judged without leaving.
        EgressPreview => "egress.preview", Busy;
        /// The policy snapshot was swapped, or a reload failed.
        PolicyReloaded => "policy.reloaded", Quiet;
        /// A decision was made.
        PolicyDecision => "policy.decision", Busy;
        /// The daemon started.
        ServiceStart => "service.start", Quiet;
        /// The daemon's health changed.
        ServiceHealth => "service.health", Quiet;
        /// The daemon is about to stop.
        ServiceStop => "service.stop", Quiet;
        /// A runtime's state changed.
        RuntimeStateChanged => "runtime.state.changed", Quiet;
        /// A runtime's health changed, or the host gave it less or more.
        RuntimeHealth => "runtime.health", Quiet;
        /// An operator asked for a runtime that had been given up.
        RuntimeRestoreRequested => "runtime.restore.requested", Quiet;
        /// The restored runtime is ready.
        RuntimeRestoreCompleted => "runtime.restore.completed", Quiet;
        /// A budget is spent to seven tenths.
        AutomationBudgetWarning => "automation.budget.warning", Quiet;
        /// A budget is spent to nine tenths.
        AutomationBudgetEscalated => "automation.budget.escalated", Quiet;
        /// A budget is spent.
        AutomationBudgetExhausted => "automation.budget.exhausted", Quiet;
        /// A run of an automation began.
        AutomationRunStarted => "automation.run.started", Quiet;
        /// A run gave a sign of life.
        AutomationRunHeartbeat => "automation.run.heartbeat", Busy;
        /// A run is held still.
        AutomationRunPaused => "automation.run.paused", Quiet;
        /// A run goes on.
        AutomationRunResumed => "automation.run.resumed", Quiet;
        /// A run ended.
        AutomationRunStopped => "automation.run.stopped", Quiet;
        /// An automation was disabled.
        AutomationDisabled => "automation.disabled", Quiet;
        /// An automation was enabled.
        AutomationEnabled => "automation.enabled", Quiet;
        /// The kill switch was used.
        AutomationShutdown => "automation.shutdown", Quiet;
        /// The kill switch was released.
        AutomationRearmed => "automation.rearmed", Quiet;
        /// A lease was given.
        LeasesCreated => "leases.created", Quiet;
        /// A lease ends later or earlier than it did.
        LeasesRenewed => "leases.renewed", Quiet;
        /// A lease ran out of time.
        LeasesExpired => "leases.expired", Quiet;
        /// A lease was taken back.
        LeasesRevoked => "leases.revoked", Quiet;
        /// A persona reported of itself.
        PersonaFeedback => "persona.feedback", Busy;
        /// A persona's file, standing or opt-in changed.
        PersonaUpdated => "persona.updated", Quiet;
        /// A change of a persona was proposed.
        PersonaProposalSubmitted => "persona.proposal.submitted", Quiet;
        /// A proposal was approved.
        PersonaProposalApproved => "persona.proposal.approved", Quiet;
        /// A proposal was rejected, or approved and could not be put in place.
        PersonaProposalRejected => "persona.proposal.rejected", Quiet;
        /// An alert was raised.
        AlertRaised => "alert.raised", Quiet;
        /// An alert was cleared.
        AlertCleared => "alert.cleared", Quiet;
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u64);

/// [`Kinds`] has one bit per kind.
const _: () = assert!(EventKind::ALL.len() <= 64, "Kinds needs a wider set");

impl Kinds {
    /// The kinds whose name starts with one of `prefixes`; all kinds when there is none.
    pub(super) fn with_prefix(prefixes: &[String]) -> Self {
        let wanted = |kind: &EventKind| prefixes.iter().any(|prefix| kind.code().starts_with(prefix.as_str()));
        let wanted = |kind: &EventKind| prefixes.is_empty() || wanted(kind);
        Self(EventKind::ALL.iter().filter(|kind| wanted(kind)).fold(0, |set, kind| set | Self::bit(*kind)))
    }

    pub(super) const fn contains(self, kind: EventKind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// Whether some kind of the set is kept in `lane`.
    pub(super) fn touches(self, lane: Lane) -> bool {
        EventKind::ALL.iter().any(|kind| self.contains(*kind) && kind.lane() == lane)
    }

    const fn bit(kind: EventKind) -> u64 {
        1 << kind as u32
    }
}

/// Something that happened. Shared between all who listen; its JSON is made once, when first asked for.
#[derive(Debug)]
pub struct Event {
    /// Number in the order of publication; greater than that of every event before it, also of those
    /// before a restart (see [`super::EventBus::new`]).
    pub id: u64,
    /// What happened.
    pub kind: EventKind,
    /// What it happened to: a persona, a host, a file; at most 512 bytes.
    pub subject: Option<String>,
    /// When.
    pub time: Timestamp,
    /// The rest, by kind; at most about 16 KiB.
    pub data: Value,
    pub(super) source: Arc<str>,
    /// What it weighs in memory, in bytes, approximately.
    pub(super) weight: usize,
    json: OnceLock<Box<str>>,
}

impl Event {
    /// An event that has no number and no time yet. Too large a subject is cut, too large data is
    /// replaced by a note of its size.
    pub(super) fn new(source: Arc<str>, kind: EventKind, subject: Option<&str>, data: Value) -> Self {
        let size = weigh(&data);
        let data = if size > MAX_DATA_BYTES { json!({ "oversize": size }) } else { data };
        let subject = subject.map(|subject| subject[..subject.floor_char_boundary(MAX_SUBJECT_BYTES)].to_owned());
        // The JSON text, once made, is about as large as the value.
        let weight = size_of::<Self>() + subject.as_ref().map_or(0, String::len) + 2 * size.min(MAX_DATA_BYTES);
        let time = Timestamp::from_unix_micros(0);
        Self { id: 0, kind, subject, time, data, source, weight, json: OnceLock::new() }
    }

    /// The structured-mode JSON envelope (CloudEvents 1.0, JSON event format), on one line.
    pub fn json(&self) -> &str {
        // Values with text keys always have a JSON form; an empty object tells less than it should, and
        // stops nobody.
        self.json.get_or_init(|| {
            let text = serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned());
            plain(text).into_boxed_str()
        })
    }
}

/// The same JSON without a character that could touch the terminal or the log of whoever reads it as text: each is
/// written as `\uXXXX`. They stand in strings only, since outside of those JSON has none but blanks, which ours has not.
fn plain(json: String) -> String {
    if !json.contains(is_deceptive) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        if is_deceptive(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// The CloudEvents envelope.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", "1.0")?;
        // The specification wants a text.
        map.serialize_entry("id", &self.id.to_string())?;
        map.serialize_entry("source", &*self.source)?;
        map.serialize_entry("type", self.kind.code())?;
        if let Some(subject) = self.subject.as_ref().filter(|subject| !subject.is_empty()) {
            map.serialize_entry("subject", subject)?;
        }
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("datacontenttype", "application/json")?;
        map.serialize_entry("data", &self.data)?;
        map.end()
    }
}

/// What a value weighs in memory, approximately, and without making its text.
fn weigh(value: &Value) -> usize {
    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weigh).sum(),
        // A key, and a share of the map's nodes.
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + 32 + weigh(value)).sum(),
    };
    size_of::<Value>() + inner
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::from_code(&code).ok_or_else(|| serde::de::Error::custom(format!("unknown event `{code}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: Option<&str>, data: Value) -> Event {
        Event::new(Arc::from("/test"), EventKind::EgressNewDomain, subject, data)
    }

    #[test]
    fn every_kind_reads_back_and_is_a_dotted_name() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_code(kind.code()), Some(*kind));
            assert!(kind.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'.'));
            assert!(Kinds::with_prefix(&[kind.code().to_owned()]).contains(*kind));
        }
    }

    #[test]
    fn a_prefix_picks_its_kinds_and_none_picks_all() {
        let all = Kinds::with_prefix(&[]);
        assert!(EventKind::ALL.iter().all(|kind| all.contains(*kind)));
        let some = Kinds::with_prefix(&["alert.".to_owned(), "policy.re".to_owned()]);
        let picked: Vec<&str> =
            EventKind::ALL.iter().filter(|kind| some.contains(**kind)).map(|kind| kind.code()).collect();
        assert_eq!(picked, ["policy.reloaded", "alert.raised", "alert.cleared"]);
        assert!(some.touches(Lane::Quiet) && !some.touches(Lane::Busy));
    }

    #[test]
    fn the_envelope_is_a_cloudevent() {
        let mut event = event(Some("demo"), json!({ "host": "api.example.com" }));
        event.id = 7;
        event.time = Timestamp::parse("2026-11-22T10:31:21Z").expect("time");
        assert_eq!(
            event.json(),
            r#"{"specversion":"1.0","id":"7","source":"/test","type":"egress.new_domain","subject":"demo","time":"2026-11-22T10:31:21.000000Z","datacontenttype":"application/json","data":{"host":"api.example.com"}}"#
        );
        let bare = serde_json::from_str::<Value>(super::tests::event(None, Value::Null).json()).expect("JSON");
        assert!(bare.get("subject").is_none(), "the specification forbids an empty subject");
    }

    /// Syslog, the journal, files and event streams are read in terminals too: U+009B is an escape sequence there.
    #[test]
    fn what_a_runtime_says_cannot_touch_the_terminal_of_whoever_reads_it() {
        let said = "a\u{9b}31mb\u{7f}c\u{1b}]0;x\u{7}\u{202e}txt\u{2066}\u{e0041}\u{85}\u{feff} \"\\ ünï 🦀";
        let event = event(Some(said), json!({ "text": said, said: [said] }));
        let json = event.json();
        assert!(!json.contains(is_deceptive), "{json:?}");
        assert!(json.contains("\\u009b31m") && json.contains("\\udb40\\udc41") && json.contains("ünï 🦀"), "{json}");
        let read: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!((&read["subject"], &read["data"]), (&json!(said), &json!({ "text": said, said: [said] })));
    }

    #[test]
    fn an_event_stays_on_one_line_and_within_its_bounds() {
        let event = event(Some(&"é\n".repeat(1_000)), json!({ "text": "x\r\n\u{2028}".repeat(100_000) }));
        assert!(event.weight < MAX_DATA_BYTES * 3);
        assert!(event.subject.as_ref().is_some_and(|subject| subject.len() <= MAX_SUBJECT_BYTES));
        assert!(!event.json().contains(['\n', '\r']), "a line end would forge a field of the event stream");
        assert!(!event.json().contains(is_deceptive));
        assert!(event.data["oversize"].as_u64().is_some_and(|size| size > 100_000));
    }
}
