//! What `alerts.toml` means: rules and routes, with a fault for everything that has no meaning.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;

use super::kind::{AlertKind, Severity};
use super::rules::Rules;
use super::sinks::{SinkKind, trust};
use crate::config::located::{ByteSize, Document, Found, Place, nearest};
use crate::config::{AlertsFile, Faults, MAX_ALERTS, RouteForm, located};
use crate::domain::{Host, RouteId, Secret};
use crate::events::EventKind;

/// Its name in the configuration folder.
pub const FILE: &str = "alerts.toml";
/// Routes. 32: each has tasks and a queue of its own.
const MAX_ROUTES: usize = 32;
/// Longest of the times.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Most denials and restarts that a rule waits for.
const MAX_COUNT: u64 = 1_000_000;
/// Shortest secret, in bytes: 128 bits.
const MIN_SECRET: usize = 16;
/// Longest secret file, in bytes.
const MAX_SECRET: u64 = 4 << 10;
/// What a secret in the form of Standard Webhooks begins with.
const SECRET_PREFIX: &str = "whsec_";
/// What can be sent whole: names of events begin with one of these, in this version or a later one.
const FAMILIES: [&str; 9] =
    ["alert.", "automation.", "cluster.", "egress.", "leases.", "persona.", "policy.", "runtime.", "service."];
/// The journal's socket (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// The facilities of RFC 5424 section 6.2.1 that a program may use, with their numbers.
const FACILITIES: [(&str, u8); 11] = [
    ("user", 1),
    ("daemon", 3),
    ("auth", 4),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// The file, understood.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What is raised when.
    pub rules: Rules,
    /// Where it is sent.
    pub routes: Vec<Arc<Route>>,
}

/// Where something is sent.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: RouteId,
    /// What it carries: types of events begin with one of these.
    pub events: Vec<String>,
    /// Alerts below this are not its.
    pub severity: Severity,
    /// Nor are those that were escalated less often.
    pub after_escalation: u8,
    /// How it is sent.
    pub sink: SinkSettings,
}

/// How something is sent.
#[derive(Debug)]
pub enum SinkSettings {
    /// By HTTP.
    Webhook(Webhook),
    /// By syslog.
    Syslog {
        /// Where to.
        address: SyslogAddress,
        /// Number of the facility.
        facility: u8,
    },
    /// To the journal.
    Journald {
        /// Its socket.
        socket: PathBuf,
    },
    /// To a file.
    File {
        /// Which.
        path: PathBuf,
        /// Size at which a new one is begun.
        max_bytes: u64,
    },
}

impl SinkSettings {
    /// Which sort it is.
    pub const fn kind(&self) -> SinkKind {
        match self {
            Self::Webhook(_) => SinkKind::Webhook,
            Self::Syslog { .. } => SinkKind::Syslog,
            Self::Journald { .. } => SinkKind::Journald,
            Self::File { .. } => SinkKind::Jsonl,
        }
    }
}

/// A webhook.
#[derive(Debug)]
pub struct Webhook {
    /// Where to.
    pub host: Host,
    /// On which port.
    pub port: u16,
    /// As `Host` shows both.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// By TLS, with this trust; in the clear on this machine only.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What signatures are made with.
    pub secret: Secret<Vec<u8>>,
    /// Bytes that may wait on the disk.
    pub spool: u64,
}

/// Where syslog listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// One datagram per message (RFC 5426).
    Udp(Host, u16),
    /// Octet counting (RFC 6587 section 3.4.1).
    Tcp(Host, u16),
    /// One datagram per message, to a socket of this machine.
    Unix(PathBuf),
}

/// Where files are that are named without a folder.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'f> {
    /// Secrets and roots.
    pub config: &'f Path,
    /// What is written.
    pub state: &'f Path,
}

/// Reads the file of the configuration folder. Without one there are the rules' defaults and no routes.
///
/// # Errors
/// Every fault of it.
pub fn read(folders: Folders<'_>) -> Result<Settings, Faults> {
    let path = folders.config.join(FILE);
    if matches!(path.symlink_metadata(), Err(missing) if missing.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Settings::default());
    }
    let text = located::read_file(&path, MAX_ALERTS).map_err(|fault| Faults(vec![fault]))?;
    understand(&path, &text, folders)
}

/// What the routes name outside of the two folders, or inside.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Secrets and roots.
    pub read: Vec<PathBuf>,
    /// Files that alerts are written to.
    pub written: Vec<PathBuf>,
    /// Sockets of this machine.
    pub sockets: Vec<PathBuf>,
}

/// The paths that the routes name, before anything of them is judged: what is faulty is told by [`read()`].
pub fn named(folders: Folders<'_>) -> Named {
    let path = folders.config.join(FILE);
    let text = located::read_file(&path, MAX_ALERTS);
    let Some(file) = text.ok().and_then(|text| AlertsFile::parse(&path, &text).ok()) else { return Named::default() };
    let mut named = Named { sockets: vec![PathBuf::from(JOURNAL)], ..Named::default() };
    for route in &file.routes {
        let files = [&route.secret_file, &route.ca_file].into_iter().flatten();
        named.read.extend(files.map(|found| folders.config.join(&found.value)));
        named.written.extend(route.path.iter().map(|found| folders.state.join(&found.value)));
        let sockets = route.address.iter().map(|found| found.value.strip_prefix("unix:").unwrap_or(&found.value));
        named.sockets.extend(sockets.filter(|path| path.starts_with('/')).map(PathBuf::from));
    }
    named
}

/// What `text`, the contents of `path`, means.
///
/// # Errors
/// Every fault of it.
pub fn understand(path: &Path, text: &str, folders: Folders<'_>) -> Result<Settings, Faults> {
    let file = AlertsFile::parse(path, text).map_err(|document| Faults(document.into_faults()))?;
    let rules = rules(&file);
    let document = &file.document;
    if file.routes.len() > MAX_ROUTES {
        document.fault(&file.routes[MAX_ROUTES].place, format!("there are at most {MAX_ROUTES} routes"));
    }
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut routes = Vec::new();
    for form in &file.routes {
        if let Some(name) = &form.name
            && let Some(line) = names.insert(name.value.clone(), form.place.line)
        {
            document.fault(&name.place, format!("the name is already used on line {line}"));
        }
        routes.extend(route(document, form, folders).map(Arc::new));
    }
    let faults = file.document.into_faults();
    if faults.is_empty() { Ok(Settings { rules, routes }) } else { Err(Faults(faults)) }
}

fn rules(file: &AlertsFile) -> Rules {
    let document = &file.document;
    let mut rules = Rules::default();
    for (name, found) in &file.severities {
        let known: Vec<&str> = AlertKind::ALL.iter().map(|kind| kind.code()).collect();
        let Some(kind) = AlertKind::from_code(name) else {
            unknown(document, &found.place, name, "kind of alert", &known);
            continue;
        };
        if found.value == "off" {
            rules.severities.insert(kind, None);
        } else if let Some(severity) = severity(document, found, &["off"]) {
            rules.severities.insert(kind, Some(severity));
        }
    }
    for (name, found) in &file.respond {
        let known: Vec<&str> = Severity::ALL.iter().map(|severity| severity.code()).collect();
        match Severity::from_code(name) {
            Some(severity) => drop(rules.respond.insert(severity, time(document, found, Duration::from_secs(1)))),
            None => unknown(document, &found.place, name, "severity", &known),
        }
    }
    if let Some(found) = &file.clear_after {
        rules.clear_after = time(document, found, Duration::ZERO);
    }
    if let Some(found) = &file.denial_window {
        rules.denial_window = time(document, found, Duration::from_secs(1));
    }
    for (found, rule) in [(&file.denials, &mut rules.denials), (&file.restarts, &mut rules.restarts)] {
        let Some(found) = found else { continue };
        if !(1..=MAX_COUNT).contains(&found.value) {
            document.fault(&found.place, format!("a number from 1 to {MAX_COUNT}"));
        }
        *rule = found.value;
    }
    if let Some(found) = &file.disk_free {
        rules.disk_free = found.value.0;
    }
    rules
}

fn time(document: &Document, found: &Found<Duration>, least: Duration) -> Duration {
    if found.value < least || found.value > LONGEST {
        document.fault(&found.place, format!("a time from {} s to 7d", least.as_secs()));
    }
    found.value
}

fn severity(document: &Document, found: &Found<String>, more: &[&str]) -> Option<Severity> {
    let severity = Severity::from_code(&found.value);
    if severity.is_none() {
        let known: Vec<&str> =
            Severity::ALL.iter().map(|severity| severity.code()).chain(more.iter().copied()).collect();
        unknown(document, &found.place, &found.value, "severity", &known);
    }
    severity
}

fn unknown(document: &Document, place: &Place, given: &str, what: &str, known: &[&str]) {
    let hint = match nearest(given, known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("one of: {}", known.join(", ")),
    };
    let shown: String = given.chars().take(64).collect();
    document.fault_with_hint(place, format!("`{shown}` is not a {what}"), hint);
}

fn route(document: &Document, form: &RouteForm, folders: Folders<'_>) -> Option<Route> {
    let name = form.name.as_ref().and_then(|found| match RouteId::parse(&found.value) {
        Ok(name) => Some(name),
        Err(fault) => {
            document.fault(&found.place, fault.to_string());
            None
        }
    });
    let events = match &form.events {
        Some(found) => found.iter().filter_map(|found| prefix(document, found)).collect(),
        None => vec!["alert.".to_owned()],
    };
    let least = form.severity.as_ref().map_or(Some(Severity::Info), |found| severity(document, found, &[]));
    let after_escalation = form.after_escalation.as_ref().map_or(Some(0), |found| {
        let most = super::engine::MAX_ESCALATION;
        let times = u8::try_from(found.value).ok().filter(|times| *times <= most);
        if times.is_none() {
            document.fault(&found.place, format!("a number from 0 to {most}"));
        }
        times
    });
    let sink = sink(document, form, folders);
    Some(Route { name: name?, events, severity: least?, after_escalation: after_escalation?, sink: sink? })
}

/// `persona.`, `persona.*` or a whole name.
fn prefix(document: &Document, found: &Found<String>) -> Option<String> {
    let prefix = found.value.strip_suffix('*').unwrap_or(&found.value);
    let family = FAMILIES.iter().any(|family| prefix.starts_with(family));
    let kind = EventKind::ALL.iter().any(|kind| kind.code() == prefix);
    // A whole family, one event, or those of a family that begin alike.
    if kind || (family && (prefix.ends_with('.') || found.value.ends_with('*'))) {
        return Some(prefix.to_owned());
    }
    let families: Vec<String> = FAMILIES.iter().map(|family| format!("{family}*")).collect();
    let known: Vec<&str> =
        EventKind::ALL.iter().map(|kind| kind.code()).chain(families.iter().map(String::as_str)).collect();
    let hint = match nearest(&found.value, &known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("one of {}, or the name of one event", families.join(", ")),
    };
    document.fault_with_hint(&found.place, "no event is called so or begins so", hint);
    None
}

fn sink(document: &Document, form: &RouteForm, folders: Folders<'_>) -> Option<SinkSettings> {
    let found = form.sink.as_ref()?;
    let Some(kind) = SinkKind::from_code(&found.value) else {
        let known: Vec<&str> = SinkKind::ALL.iter().map(|kind| kind.code()).collect();
        unknown(document, &found.place, &found.value, "sink", &known);
        return None;
    };
    only_its_keys(document, form, kind);
    match kind {
        SinkKind::Webhook => webhook(document, form, folders).map(SinkSettings::Webhook),
        SinkKind::Syslog => {
            let address = syslog_address(document, required(document, form, &form.address, "address")?);
            let facility = form.facility.as_ref().map_or(Some(3), |found| facility(document, found));
            Some(SinkSettings::Syslog { address: address?, facility: facility? })
        }
        SinkKind::Journald => {
            let socket = match &form.address {
                None => PathBuf::from(JOURNAL),
                Some(found) => unix_path(document, found, found.value.strip_prefix("unix:").unwrap_or(&found.value))?,
            };
            Some(SinkSettings::Journald { socket })
        }
        SinkKind::Jsonl => {
            let found = required(document, form, &form.path, "path")?;
            let max_bytes = size(document, form.max_bytes.as_ref(), 64 << 20, 64 << 10);
            Some(SinkSettings::File { path: file(document, found, folders.state)?, max_bytes: max_bytes? })
        }
    }
}

/// A key of another sink is a misunderstanding, and says so.
fn only_its_keys(document: &Document, form: &RouteForm, kind: SinkKind) {
    let keys: [(&str, Option<&Place>, &[SinkKind]); 8] = [
        ("url", form.url.as_ref().map(|found| &found.place), &[SinkKind::Webhook]),
        ("secret_file", form.secret_file.as_ref().map(|found| &found.place), &[SinkKind::Webhook]),
        ("ca_file", form.ca_file.as_ref().map(|found| &found.place), &[SinkKind::Webhook]),
        ("spool", form.spool.as_ref().map(|found| &found.place), &[SinkKind::Webhook]),
        ("address", form.address.as_ref().map(|found| &found.place), &[SinkKind::Syslog, SinkKind::Journald]),
        ("facility", form.facility.as_ref().map(|found| &found.place), &[SinkKind::Syslog]),
        ("path", form.path.as_ref().map(|found| &found.place), &[SinkKind::Jsonl]),
        ("max_bytes", form.max_bytes.as_ref().map(|found| &found.place), &[SinkKind::Jsonl]),
    ];
    for (key, place, owners) in keys {
        if let Some(place) = place.filter(|_| !owners.contains(&kind)) {
            document.fault(place, format!("`{key}` does not belong to the sink `{kind}`"));
        }
    }
}

fn required<'f>(
    document: &Document,
    form: &RouteForm,
    found: &'f Option<Found<String>>,
    key: &str,
) -> Option<&'f Found<String>> {
    if found.is_none() {
        document.fault(&form.at(key), "the key is missing");
    }
    found.as_ref()
}

fn size(document: &Document, found: Option<&Found<ByteSize>>, default: u64, least: u64) -> Option<u64> {
    let Some(found) = found else { return Some(default) };
    if (least..=1 << 30).contains(&found.value.0) {
        return Some(found.value.0);
    }
    document.fault(&found.place, format!("a size from {} KiB to 1 GiB", least >> 10));
    None
}

fn webhook(document: &Document, form: &RouteForm, folders: Folders<'_>) -> Option<Webhook> {
    let url = required(document, form, &form.url, "url").and_then(|found| {
        let parsed = endpoint(&found.value);
        parsed.map_err(|(message, hint)| document.fault_with_hint(&found.place, message, hint)).ok()
    });
    let secret = required(document, form, &form.secret_file, "secret_file").and_then(|found| {
        let path = file(document, found, folders.config)?;
        secret(&path).map_err(|(message, hint)| document.fault_with_hint(&found.place, message, hint)).ok()
    });
    let spool = size(document, form.spool.as_ref(), 16 << 20, 64 << 10);
    let Endpoint { tls, host, port, authority, path } = url?;
    let tls = match (tls, &form.ca_file) {
        (true, found) => {
            let place = found.as_ref().map_or_else(|| form.at("ca_file"), |found| found.place.clone());
            let path = found.as_ref().map(|found| file(document, found, folders.config));
            let path = match path {
                Some(None) => return None,
                Some(Some(path)) => Some(path),
                None => None,
            };
            Some(trust(path.as_deref()).map_err(|message| document.fault(&place, message)).ok()?)
        }
        (false, Some(found)) => {
            document.fault(&found.place, "a webhook without TLS has no roots");
            return None;
        }
        (false, None) => None,
    };
    Some(Webhook { host, port, authority, path, tls, secret: secret?, spool: spool? })
}

struct Endpoint {
    tls: bool,
    host: Host,
    port: u16,
    authority: String,
    path: String,
}

/// Reads `https://host[:port]/path?query`; `http` is for this machine. The fault does not repeat the URL: it may hold a
/// secret.
fn endpoint(text: &str) -> Result<Endpoint, (&'static str, &'static str)> {
    const FORM: &str = "write `https://host/path`";
    let uri: Uri = text.parse().map_err(|_| ("not a URL", FORM))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(("neither `https` nor `http`", FORM)),
    };
    let authority = uri.authority().ok_or(("the URL has no host", FORM))?;
    if authority.as_str().contains('@') {
        return Err(("a URL with a user or a password is refused", "receivers check the signature instead"));
    }
    let host = Host::parse(authority.host().as_bytes()).map_err(|_| ("the URL's host is not one", FORM))?;
    let local = match &host {
        Host::Addr(address) => address.to_canonical().is_loopback(),
        Host::Name(name) => name.as_str() == "localhost",
    };
    if !tls && !local {
        return Err(("`http` is for this machine only: alerts tell of hosts and personas", "use `https`"));
    }
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") if tls => 443,
        Some("") => 80,
        // A port that is no number is none to the parser of URLs.
        rest => rest
            .and_then(|rest| rest.strip_prefix(':')?.parse().ok())
            .filter(|port| *port != 0)
            .ok_or(("the URL's port is not one", FORM))?,
    };
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Endpoint { tls, host, port, authority: authority.as_str().to_owned(), path })
}

/// What a secret file holds: a secret as Standard Webhooks writes it, or the text itself.
fn secret(path: &Path) -> Result<Secret<Vec<u8>>, (String, &'static str)> {
    const MAKE: &str = "head -c 32 /dev/urandom | base64 > FILE && chmod 600 FILE";
    let unreadable = |error: std::io::Error| (format!("`{}` cannot be read: {error}", path.display()), MAKE);
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let own = nix::unistd::geteuid().as_raw();
    if !metadata.is_file() {
        return Err((format!("`{}` is not a file", path.display()), MAKE));
    }
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err((
            format!("`{}` belongs to uid {}", path.display(), metadata.uid()),
            "chown it to the daemon's user",
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err((format!("`{}` can be read or written by others", path.display()), "chmod 600 it"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = bytes.trim_ascii();
    let key = match text.strip_prefix(SECRET_PREFIX.as_bytes()) {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| ("the secret is not base64".to_owned(), MAKE))?,
        None => text.to_vec(),
    };
    if key.len() < MIN_SECRET || bytes.len() as u64 > MAX_SECRET {
        return Err((format!("a secret has {MIN_SECRET} to {MAX_SECRET} bytes"), MAKE));
    }
    Ok(Secret::new(key))
}

fn syslog_address(document: &Document, found: &Found<String>) -> Option<SyslogAddress> {
    let text = found.value.as_str();
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(document, found, path).map(SyslogAddress::Unix);
    }
    let form = || {
        let hint = "write `udp://host:514`, `tcp://host:601` or `unix:/dev/log`";
        document.fault_with_hint(&found.place, "not an address of a syslog receiver", hint);
    };
    let (udp, rest) = match (text.strip_prefix("udp://"), text.strip_prefix("tcp://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        (None, None) => {
            form();
            return None;
        }
    };
    let parsed = rest.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
        Some((Host::parse(host.as_bytes()).ok()?, port))
    });
    match parsed {
        Some((host, port)) if udp => Some(SyslogAddress::Udp(host, port)),
        Some((host, port)) => Some(SyslogAddress::Tcp(host, port)),
        None => {
            form();
            None
        }
    }
}

fn facility(document: &Document, found: &Found<String>) -> Option<u8> {
    let number = FACILITIES.iter().find(|(name, _)| *name == found.value).map(|(_, number)| *number);
    if number.is_none() {
        let known: Vec<&str> = FACILITIES.iter().map(|(name, _)| *name).collect();
        unknown(document, &found.place, &found.value, "facility", &known);
    }
    number
}

/// The path of a socket: unix(7) bounds its length.
fn unix_path(document: &Document, found: &Found<String>, path: &str) -> Option<PathBuf> {
    if path.starts_with('/') && path.len() <= 107 && !path.contains('\0') {
        return Some(PathBuf::from(path));
    }
    document.fault_with_hint(&found.place, "not the path of a socket", "write `unix:/dev/log`");
    None
}

/// A path, below `folder` when it does not begin at the root.
fn file(document: &Document, found: &Found<String>, folder: &Path) -> Option<PathBuf> {
    let path = Path::new(&found.value);
    let climbs = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
    if found.value.is_empty() || found.value.contains('\0') || climbs || path.file_name().is_none() {
        document.fault(&found.place, "not the path of a file, or one with `..`");
        return None;
    }
    Some(folder.join(path))
}

#[cfg(test)]
mod tests;
