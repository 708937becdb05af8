//! `alerts.toml` as it is written: shape-checked and located, not yet understood.
//!
//! What the words mean (kinds of alerts, severities, sinks) is decided by `governance`, which reports its faults with the
//! places kept here.

use std::path::Path;
use std::time::Duration;

use super::located::{ByteSize, Document, Found, Place, Section};

/// Largest `alerts.toml`: a hundred routes with comments fit.
pub const MAX_ALERTS: u64 = 256 << 10;

/// `alerts.toml`.
#[derive(Debug)]
pub struct AlertsFile {
    /// Reports what is found wrong later, beside what was found wrong in the shape.
    pub document: Document,
    /// `clear_after`.
    pub clear_after: Option<Found<Duration>>,
    /// `[severities]`, by kind of alert.
    pub severities: Vec<(String, Found<String>)>,
    /// `[respond]`: response targets, by severity.
    pub respond: Vec<(String, Found<Duration>)>,
    /// `[policy_denials] count`.
    pub denials: Option<Found<u64>>,
    /// `[policy_denials] window`.
    pub denial_window: Option<Found<Duration>>,
    /// `[runtime_restarts] count`.
    pub restarts: Option<Found<u64>>,
    /// `[disk_low] free`.
    pub disk_free: Option<Found<ByteSize>>,
    /// `[[routes]]`, in file order.
    pub routes: Vec<RouteForm>,
}

/// One `[[routes]]`.
#[derive(Debug, Clone)]
pub struct RouteForm {
    /// Where it starts.
    pub place: Place,
    /// `name`.
    pub name: Option<Found<String>>,
    /// `sink`.
    pub sink: Option<Found<String>>,
    /// `events`.
    pub events: Option<Vec<Found<String>>>,
    /// `severity`.
    pub severity: Option<Found<String>>,
    /// `after_escalation`.
    pub after_escalation: Option<Found<u64>>,
    /// `url`, of a webhook.
    pub url: Option<Found<String>>,
    /// `secret_file`, of a webhook.
    pub secret_file: Option<Found<String>>,
    /// `ca_file`, of a webhook.
    pub ca_file: Option<Found<String>>,
    /// `spool`, of a webhook.
    pub spool: Option<Found<ByteSize>>,
    /// `address`, of syslog and journald.
    pub address: Option<Found<String>>,
    /// `facility`, of syslog.
    pub facility: Option<Found<String>>,
    /// `path`, of a file.
    pub path: Option<Found<String>>,
    /// `max_bytes`, of a file.
    pub max_bytes: Option<Found<ByteSize>>,
}

impl AlertsFile {
    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// The document with its faults when the text is not TOML. Faults of the shape wait in `document`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let document = Document::new(path, text);
        let Some(mut root) = document.root(text) else { return Err(document) };
        let clear_after = root.take("clear_after");
        let severities = root.entries("severities");
        let respond = root.entries("respond");
        let (denials, denial_window) = root.section("policy_denials").map(take_denials).unwrap_or_default();
        let restarts = root.section("runtime_restarts").and_then(|section| take_one(section, "count"));
        let disk_free = root.section("disk_low").and_then(|section| take_one(section, "free"));
        let routes = root.sections("routes").into_iter().map(RouteForm::take).collect();
        root.end();
        Ok(Self { document, clear_after, severities, respond, denials, denial_window, restarts, disk_free, routes })
    }
}

fn take_denials(mut section: Section<'_, '_>) -> (Option<Found<u64>>, Option<Found<Duration>>) {
    let taken = (section.take("count"), section.take("window"));
    section.end();
    taken
}

fn take_one<T: super::located::Value>(mut section: Section<'_, '_>, key: &'static str) -> Option<Found<T>> {
    let taken = section.take(key);
    section.end();
    taken
}

impl RouteForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        section.refuse(
            "secret",
            "this file does not hold secrets",
            "put it into a file of its own, for the daemon's user alone, and name that as `secret_file`",
        );
        let form = Self {
            place: section.place().clone(),
            name: section.require("name"),
            sink: section.require("sink"),
            events: section.filled_list("events"),
            severity: section.take("severity"),
            after_escalation: section.take("after_escalation"),
            url: section.take("url"),
            secret_file: section.take("secret_file"),
            ca_file: section.take("ca_file"),
            spool: section.take("spool"),
            address: section.take("address"),
            facility: section.take("facility"),
            path: section.take("path"),
            max_bytes: section.take("max_bytes"),
        };
        section.end();
        form
    }

    /// The place of `key` of this route, whether it is there or not.
    pub fn at(&self, key: &str) -> Place {
        Place { key: format!("{}.{key}", self.place.key), line: self.place.line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_shape_is_reported_with_its_line() {
        let text = r#"
clear_afte = "30s"
[severities]
new_domain = 3
[respond]
critical = "soon"
[policy_denials]
counts = 5
[[routes]]
sink = "webhook"
secret = "hunter2"
events = []
"#;
        let file = AlertsFile::parse(Path::new("alerts.toml"), text).expect("TOML");
        let faults: Vec<String> = file.document.into_faults().iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "alerts.toml:2: clear_afte: unknown key `clear_afte` (hint: did you mean `clear_after`?)",
                "alerts.toml:4: severities.new_domain: expected a text in quotes, found a whole number",
                "alerts.toml:6: respond.critical: not a time: write one number and one of `ms`, `s`, `m`, `h`, `d`, such \
                 as \"10s\"",
                "alerts.toml:8: policy_denials.counts: unknown key `counts` (hint: did you mean `count`?)",
                "alerts.toml:9: routes[0].name: the key is missing",
                "alerts.toml:11: routes[0].secret: this file does not hold secrets (hint: put it into a file of its own, \
                 for the daemon's user alone, and name that as `secret_file`)",
                "alerts.toml:12: routes[0].events: the list is empty (hint: name what is meant, or leave the key out)",
            ]
        );
        assert!(!faults.join("\n").contains("hunter2"));
    }
}
