//! What happened, in the order of its time.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::{Timestamp, codes};
use crate::ledger::{Kind, Line};

codes! {
    /// Where an entry comes from.
    Source {
        /// The egress ledger.
        Egress => "egress",
        /// The audit log.
        Audit => "audit",
        /// The event bus.
        Event => "event",
        /// A runtime's death records.
        Death => "death",
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// Where it is told.
    pub source: String,
    /// Its number there: the line of a log, the id of an event, the run of a death.
    pub number: String,
    /// In words.
    pub what: String,
}

impl Entry {
    fn new(time: Timestamp, source: Source, number: impl ToString, what: String) -> Self {
        Self { time, source: source.code().to_owned(), number: number.to_string(), what }
    }
}

/// A line of a log.
pub fn of_line(source: Source, line: &Line) -> Entry {
    if let Some(audit) = &line.audit {
        let subjects = [line.persona.as_ref().map(ToString::to_string), line.runtime.clone(), line.lease.clone()];
        let words: Vec<String> = [Some(audit.actor.clone()), Some(audit.action.clone())]
            .into_iter()
            .chain(subjects)
            .chain([line.detail.clone()])
            .flatten()
            .collect();
        return Entry::new(audit.at, source, line.seq, words.join(" "));
    }
    let target = match (&line.host, line.port) {
        (Some(host), Some(port)) => Some(format!("{host}:{port}")),
        (host, _) => host.clone(),
    };
    let word = match line.kind {
        Kind::Open => "open",
        Kind::Deny => "deny",
        Kind::Close => "close",
        Kind::Preview => "preview",
        Kind::Note => "note",
        Kind::Audit => "audit",
    };
    let opened = line.opened.map(|opened| format!("of line {opened}"));
    let words: Vec<String> = [
        Some(word.to_owned()),
        line.persona.as_ref().map(ToString::to_string),
        line.runtime.clone(),
        target,
        line.code.map(|code| code.code().to_owned()),
        line.close_reason.map(|reason| reason.code().to_owned()),
        opened,
        line.lease.clone(),
    ]
    .into_iter()
    .flatten()
    .collect();
    Entry::new(line.time, source, line.seq, words.join(" "))
}

/// An event as the control API gives it; none when it is no event.
pub fn of_event(event: &Value) -> Option<Entry> {
    let time = Timestamp::parse(event["time"].as_str()?).ok()?;
    let subject = event["subject"].as_str().map(|subject| format!(" {subject}")).unwrap_or_default();
    let what = format!("{}{subject} {}", event["type"].as_str()?, event["data"]);
    Some(Entry::new(time, Source::Event, event["id"].as_str()?, what))
}

/// A death record of `runtime` as the control API gives it; none when it is none.
pub fn of_death(runtime: &str, death: &Value) -> Option<Entry> {
    let time = Timestamp::parse(death["ended"].as_str()?).ok()?;
    Some(Entry::new(time, Source::Death, &death["run"], format!("{runtime} ended: {}", death["cause"].as_str()?)))
}

/// In the order of their time; what happened at the same moment stays in the order it came in.
pub fn ordered(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| entry.time);
    entries
}
