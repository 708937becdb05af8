//! `[runtimes.health]`: how a runtime is looked after.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::HealthForm;
use crate::config::located::{Document, Found};

use super::Defaults;
use super::read_runtime::{length_of_time, plain_text};

/// Between two probes: below, the probes are the load.
const SHORTEST: Duration = Duration::from_millis(100);
/// A runtime that is looked at less often is not looked after.
const LONGEST: Duration = Duration::from_secs(3_600);
/// For one probe, where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(3);
/// To become ready, where nothing else is said: models are loaded in that time.
const GRACE: Duration = Duration::from_secs(60);
/// The longest time to become ready.
const MAX_GRACE: Duration = Duration::from_secs(24 * 3_600);
/// Failed probes in a row until a restart, where nothing else is said.
const THRESHOLD: u64 = 3;
/// A runtime that fails more often than that is not going to be well.
const MAX_THRESHOLD: u64 = 1_000;

/// How a runtime is looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What shows that it is ready, and for the first three kinds that it is well.
    pub probe: Probe,
    /// Between two probes.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// To become ready.
    pub grace: Duration,
    /// Failed probes in a row until it is restarted; at least 1.
    pub failure_threshold: u32,
}

/// What shows that a runtime is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A GET inside that is answered with 2xx or 3xx.
    Http {
        /// Where, inside: a loopback address.
        address: SocketAddr,
        /// Path and query.
        path: String,
    },
    /// A port inside that accepts.
    Tcp {
        /// Where, inside: a loopback address.
        address: SocketAddr,
    },
    /// A command inside that ends with 0.
    Exec {
        /// The command and its arguments.
        argv: Vec<String>,
    },
    /// A line of its output that holds this text; ready, once.
    Log {
        /// The text, not a pattern.
        text: String,
    },
    /// `READY=1` of `sd_notify(3)`; ready, once.
    Notify,
}

pub(super) fn read(document: &Document, form: &HealthForm, defaults: &Defaults) -> Option<Health> {
    let probe = probe(document, form);
    let once = matches!(probe, Some(Probe::Log { .. } | Probe::Notify));
    let threshold = form.failure_threshold.as_ref();
    for place in [
        form.interval.as_ref().map(|found| &found.place),
        form.timeout.as_ref().map(|found| &found.place),
        threshold.map(|found| &found.place),
    ] {
        if let Some(place) = place.filter(|_| once) {
            let hint = "leave the key out; a watchdog shows that it stays well";
            document.fault_with_hint(place, "`log` and `notify` tell readiness once: nothing is probed again", hint);
        }
    }
    let interval = form.interval.as_ref();
    let interval =
        interval.map_or(defaults.health_interval, |found| length_of_time(document, found, SHORTEST, LONGEST));
    let timeout = match &form.timeout {
        Some(found) => {
            let timeout = length_of_time(document, found, SHORTEST, LONGEST);
            if timeout > interval {
                document.fault(&found.place, "a probe that outlasts the interval would overlap the next one");
            }
            timeout
        }
        None => TIMEOUT.min(interval),
    };
    let grace = form.grace.as_ref();
    let grace = grace.map_or(GRACE, |found| length_of_time(document, found, Duration::from_secs(1), MAX_GRACE));
    if let Some(found) = threshold.filter(|found| !(1..=MAX_THRESHOLD).contains(&found.value)) {
        document.fault(&found.place, format!("a threshold is between 1 and {MAX_THRESHOLD}"));
    }
    let threshold = threshold.map_or(THRESHOLD, |found| found.value);
    let failure_threshold = u32::try_from(threshold).unwrap_or(u32::MAX).max(1);
    Some(Health { probe: probe?, interval, timeout, grace, failure_threshold })
}

fn probe(document: &Document, form: &HealthForm) -> Option<Probe> {
    let mut probes = Vec::new();
    if let Some(found) = &form.http {
        probes.push(http(document, found));
    }
    if let Some(found) = &form.tcp {
        probes.push(loopback(document, found, &found.value).map(|address| Probe::Tcp { address }));
    }
    if let Some(argv) = &form.exec {
        let argv: Option<Vec<String>> = argv.iter().map(|found| plain_text(document, found, 4_096)).collect();
        probes.push(argv.map(|argv| Probe::Exec { argv }));
    }
    if let Some(found) = &form.log {
        probes.push(plain_text(document, found, 256).map(|text| Probe::Log { text }));
    }
    match &form.notify {
        Some(Found { value: true, .. }) => probes.push(Some(Probe::Notify)),
        Some(found) => document.fault_with_hint(&found.place, "`false` says nothing", "leave the key out"),
        None => {}
    }
    if probes.len() != 1 && form.notify.as_ref().is_none_or(|found| found.value) {
        let hint = "one of `http`, `tcp`, `exec`, `log` and `notify`";
        document.fault_with_hint(&form.place, format!("{} probes are declared", probes.len()), hint);
        return None;
    }
    probes.pop().flatten()
}

fn http(document: &Document, found: &Found<String>) -> Option<Probe> {
    let text = plain_text(document, found, 2_048)?;
    let form = "write `http://127.0.0.1:8080/health`";
    let Some(rest) = text.strip_prefix("http://") else {
        document.fault_with_hint(&found.place, "a probe is plain http, inside", form);
        return None;
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        document.fault_with_hint(&found.place, "a path is printable ASCII without a fragment", form);
        return None;
    }
    Some(Probe::Http { address: loopback(document, found, authority)?, path: path.to_owned() })
}

/// An address inside. Another than loopback is not there, and a name would have to be looked up.
fn loopback(document: &Document, found: &Found<String>, text: &str) -> Option<SocketAddr> {
    let address = match text.strip_prefix("localhost:").map(str::parse) {
        Some(Ok(port)) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        Some(Err(_)) => None,
        None => text.parse::<SocketAddr>().ok(),
    };
    let address = address.filter(|address| address.ip().is_loopback() && address.port() != 0);
    if address.is_none() {
        document.fault_with_hint(&found.place, "not a loopback address with a port", "write `127.0.0.1:8080`");
    }
    address
}
