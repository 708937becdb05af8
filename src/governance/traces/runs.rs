//! Events of runtimes as spans. Pure.
//!
//! ```text
//!  starting ──────── ready ───────────────────────── stopping ── stopped
//!  └─ runtime launch ─┘ (child)
//!  └─ runtime run: events for states, health and death ──────────────┘   told once the end is written down
//! ```

use std::collections::BTreeMap;

use serde_json::Value;

use super::id::Ids;
use super::span::{self, Kind, Span};
use crate::domain::Timestamp;
use crate::events::{Event, EventKind};

/// What is listened to.
pub(super) const HEARD: [&str; 2] = ["runtime.", "automation.run."];
/// Runs that are remembered. 1024: many times the runtimes of a host; beyond it one is forgotten, and its span says less.
const MAX_RUNS: usize = 1_024;

/// What is known of runs that are not over.
#[derive(Debug)]
pub(super) struct Runs {
    ids: Ids,
    runs: BTreeMap<(String, u64), Known>,
}

#[derive(Debug, Default)]
struct Known {
    launched: Option<Timestamp>,
    /// Whether how the launch went was told.
    told: bool,
    events: Vec<span::Event>,
    left_out: u32,
}

impl Runs {
    pub(super) const fn new(ids: Ids) -> Self {
        Self { ids, runs: BTreeMap::new() }
    }

    /// Takes the next event; the span that it ends.
    pub(super) fn take(&mut self, event: &Event) -> Option<Span> {
        let runtime = event.data["runtime"].as_str()?;
        match event.kind {
            EventKind::RuntimeStateChanged => self.changed(runtime, event),
            EventKind::RuntimeHealth => {
                let run = event.data["run"].as_u64()?;
                let mut told = span::Event::new(event.time, "arw.runtime.health");
                told.attributes.text("arw.runtime.health", event.data["reason"].as_str());
                self.known(runtime, run).note(told);
                None
            }
            EventKind::AutomationRunStopped => {
                let run = event.data["run"].as_u64()?;
                let known = self.runs.remove(&(runtime.to_owned(), run)).unwrap_or_default();
                Some(self.ended(runtime, run, known, event))
            }
            _ => None,
        }
    }

    fn changed(&mut self, runtime: &str, event: &Event) -> Option<Span> {
        let to = event.data["to"].as_str()?;
        // A runtime without a process has no run any more; what is left to tell is about the newest.
        let run = match event.data["run"].as_u64() {
            Some(run) => run,
            None => *self.runs.keys().rev().find(|(known, _)| known == runtime).map(|(_, run)| run)?,
        };
        let known = self.known(runtime, run);
        let mut told = span::Event::new(event.time, "arw.runtime.state");
        told.attributes.text("arw.runtime.state", Some(to));
        known.note(told);
        if to == "starting" {
            known.launched = Some(event.time);
            return None;
        }
        let began = known.launched.filter(|_| !known.told)?;
        known.told = true;
        let mut span = Span::new(self.ids.launch(runtime, run), "runtime launch", Kind::Internal, began, event.time);
        put(&mut span, runtime, run, event);
        span.attributes.text("arw.runtime.state", Some(to));
        // One that never came to be has no run that could be told.
        match to {
            "ready" | "degraded" | "frozen" => span.below(self.ids.run(runtime, run)),
            _ => span.failed("not_ready"),
        }
        Some(span)
    }

    fn ended(&self, runtime: &str, run: u64, known: Known, event: &Event) -> Span {
        let at = time(&event.data["at"]).unwrap_or(event.time);
        let began = time(&event.data["began"]).or(known.launched).unwrap_or(at);
        // Asked for comes before executed.
        let began = known.launched.map_or(began, |launched| launched.min(began));
        let mut span = Span::new(self.ids.run(runtime, run), "runtime run", Kind::Internal, began, at);
        put(&mut span, runtime, run, event);
        span.attributes.text("arw.automation", event.data["automation"].as_str());
        let cause = event.data["cause"].as_str();
        span.attributes.text("arw.runtime.cause", cause);
        span.dropped_events(known.left_out);
        known.events.into_iter().for_each(|event| span.event(event));
        let mut death = span::Event::new(at, "arw.runtime.death");
        death.attributes.text("arw.runtime.cause", cause);
        let code = event.data["code"].as_u64();
        death.attributes.number("process.exit.code", code);
        death.attributes.number("arw.runtime.signal", event.data["signal"].as_u64());
        span.event(death);
        match (cause, code) {
            (Some("exit"), Some(0)) | (Some("operator" | "budget"), _) | (None, _) => {}
            (Some(cause), _) => span.failed(cause),
        }
        span
    }

    fn known(&mut self, runtime: &str, run: u64) -> &mut Known {
        let key = (runtime.to_owned(), run);
        if self.runs.len() >= MAX_RUNS && !self.runs.contains_key(&key) {
            self.runs.pop_first();
        }
        self.runs.entry(key).or_default()
    }
}

impl Known {
    fn note(&mut self, event: span::Event) {
        if self.events.len() == span::MAX_EVENTS {
            self.events.remove(0);
            self.left_out = self.left_out.saturating_add(1);
        }
        self.events.push(event);
    }
}

fn put(span: &mut Span, runtime: &str, run: u64, event: &Event) {
    span.attributes.text("arw.runtime", Some(runtime));
    span.attributes.text("arw.run", Some(&run.to_string()));
    span.attributes.text("arw.persona", event.data["persona"].as_str());
}

fn time(value: &Value) -> Option<Timestamp> {
    Timestamp::parse(value.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value as Json, json};

    use super::*;
    use crate::domain::ManualClock;
    use crate::events::EventBus;

    fn spans(told: &[(i64, EventKind, Json)]) -> Vec<Json> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_micros(0)));
        let bus = EventBus::new("/test", Arc::clone(&clock) as Arc<dyn crate::domain::Clock>);
        let mut runs = Runs::new(Ids::new("key"));
        let mut spans = Vec::new();
        for (at, kind, data) in told {
            clock.set(Timestamp::from_unix_micros(*at));
            let mut data = data.clone();
            (data["runtime"], data["persona"]) = (json!("web"), json!("agent"));
            let event = bus.tell(*kind, Some("web"), data);
            spans.extend(runs.take(&event).map(|span| serde_json::from_str(&span.json()).expect("JSON")));
        }
        spans
    }

    fn state(at: i64, to: &str, run: Option<u64>) -> (i64, EventKind, Json) {
        (at, EventKind::RuntimeStateChanged, json!({"from": "stopped", "to": to, "run": run}))
    }

    #[test]
    fn a_run_is_one_span_with_its_launch_below_it() {
        let at = Timestamp::from_unix_micros(40);
        let spans = spans(&[
            state(10, "starting", Some(3)),
            state(20, "ready", Some(3)),
            (25, EventKind::RuntimeHealth, json!({"reason": "probe_failed", "run": 3})),
            state(30, "stopping", Some(3)),
            state(35, "backoff", None),
            (
                50,
                EventKind::AutomationRunStopped,
                json!({"automation": "a", "run": 3, "at": at, "cause": "signal", "signal": 9}),
            ),
        ]);
        let [launch, run] = spans.as_slice() else { panic!("{spans:#?}") };
        let place = Ids::new("key").run("web", 3);
        assert_eq!((&launch["name"], &launch["kind"]), (&json!("runtime launch"), &json!(1)));
        assert_eq!((&launch["startTimeUnixNano"], &launch["endTimeUnixNano"]), (&json!("10000"), &json!("20000")));
        assert_eq!((&launch["traceId"], &launch["parentSpanId"]), (&json!(place.trace), &json!(place.span)));
        assert!(launch.get("status").is_none());
        assert_eq!((&run["traceId"], &run["spanId"]), (&json!(place.trace), &json!(place.span)));
        assert_eq!((&run["startTimeUnixNano"], &run["endTimeUnixNano"]), (&json!("10000"), &json!("40000")));
        assert_eq!(run["status"]["code"], 2);
        let names: Vec<&str> = run["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|event| event["name"].as_str().expect("a name"))
            .collect();
        let (state, health, death) = ("arw.runtime.state", "arw.runtime.health", "arw.runtime.death");
        assert_eq!(names, [state, state, health, state, state, death]);
        assert_eq!(run["events"][5]["attributes"][1]["value"]["intValue"], "9");
    }

    #[test]
    fn a_launch_that_fails_is_an_error_of_its_own() {
        let spans = spans(&[state(10, "starting", Some(1)), state(15, "backoff", None)]);
        let [launch] = spans.as_slice() else { panic!("{spans:#?}") };
        assert_eq!((&launch["status"]["code"], &launch["parentSpanId"]), (&json!(2), &Json::Null));
    }

    #[test]
    fn a_run_that_an_earlier_daemon_launched_has_the_same_ids() {
        let data = json!({
            "automation": "a", "run": 3, "cause": "exit", "code": 0,
            "began": Timestamp::from_unix_micros(5), "at": Timestamp::from_unix_micros(40),
        });
        let spans = spans(&[(50, EventKind::AutomationRunStopped, data)]);
        assert_eq!(spans[0]["spanId"], json!(Ids::new("key").run("web", 3).span));
        assert_eq!((&spans[0]["startTimeUnixNano"], &spans[0]["status"]), (&json!("5000"), &Json::Null));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut told: Vec<_> = (0..2_000).map(|run| state(1, "starting", Some(run))).collect();
        told.extend((0..200).map(|n| (n, EventKind::RuntimeHealth, json!({"reason": "well", "run": 1_999}))));
        told.push((9, EventKind::AutomationRunStopped, json!({"run": 1_999, "cause": "operator"})));
        let spans = spans(&told);
        assert_eq!(spans[0]["events"].as_array().map(Vec::len), Some(span::MAX_EVENTS));
        assert_eq!(spans[0]["droppedEventsCount"], 200 + 2 - span::MAX_EVENTS as u64);
    }
}
