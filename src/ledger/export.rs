//! Handing lines on: CSV for a spreadsheet, JSON lines for a script, OCSF for a SIEM.
//!
//! Without [`Export::raw`] every name is a pseudonym ([`PseudonymKey::anonymise`]).

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::LedgerError;
use super::line::Line;
use super::pseudonym::PseudonymKey;
use super::query::{Filter, Reader};
use super::record::{Kind, Outcome};

/// In what form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// RFC 4180, with a header line.
    Csv,
    /// One JSON object per line; raw ones are the exact lines, which proofs are about.
    Jsonl,
    /// One OCSF 1.3 Network Activity event (class 4001) per line; notes are left out.
    Ocsf,
}

/// What to hand on, and how.
#[derive(Debug, Clone)]
pub struct Export {
    /// Which lines.
    pub filter: Filter,
    /// In what form.
    pub format: Format,
    /// With the real names.
    pub raw: bool,
}

/// The columns of the CSV, in order; the names are those of the line's fields.
const COLUMNS: &[&str] = &[
    "seq",
    "time",
    "kind",
    "persona",
    "runtime",
    "run",
    "client",
    "identity",
    "scheme",
    "host",
    "port",
    "method",
    "path",
    "address",
    "decision",
    "code",
    "via",
    "rule",
    "lease",
    "opened",
    "bytes_up",
    "bytes_down",
    "duration_ms",
    "close_reason",
    "status",
    "labels.corr",
    "labels.project",
    "tls.sni",
    "tls.version",
    "tls.ech",
    "detail",
];

impl Export {
    /// Writes the matching lines to `out`; how many.
    ///
    /// # Errors
    /// When the ledger cannot be read, `out` cannot be written, or the pseudonym key is missing.
    pub fn write(&self, reader: &Reader, out: &mut dyn Write) -> Result<u64, LedgerError> {
        let pseudonyms = if self.raw { None } else { Some(PseudonymKey::load(reader.dir())?) };
        let shown = |line: Line| match &pseudonyms {
            Some(key) => key.anonymise(line),
            None => line,
        };
        let mut count = 0;
        match self.format {
            Format::Csv => {
                let mut table = csv::Writer::from_writer(out);
                table.write_record(COLUMNS).map_err(csv_error)?;
                reader.select(&self.filter, |_, line| {
                    table.write_record(csv_row(&shown(line))).map_err(csv_error)?;
                    count += 1;
                    Ok(ControlFlow::Continue(()))
                })?;
                table.flush().map_err(output_error)?;
            }
            Format::Jsonl => reader.select(&self.filter, |raw, line| {
                if self.raw {
                    out.write_all(raw.bytes).and_then(|()| out.write_all(b"\n")).map_err(output_error)?;
                } else {
                    write_json(out, &shown(line))?;
                }
                count += 1;
                Ok(ControlFlow::Continue(()))
            })?,
            Format::Ocsf => reader.select(&self.filter, |_, line| {
                if let Some(event) = ocsf_event(&shown(line)) {
                    write_json(out, &event)?;
                    count += 1;
                }
                Ok(ControlFlow::Continue(()))
            })?,
        }
        Ok(count)
    }
}

fn output_error(source: io::Error) -> LedgerError {
    LedgerError::io("write", Path::new("the export"), source)
}

fn csv_error(error: csv::Error) -> LedgerError {
    output_error(io::Error::other(error))
}

fn write_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), LedgerError> {
    let mut text = serde_json::to_vec(value).map_err(|error| output_error(io::Error::other(error)))?;
    text.push(b'\n');
    out.write_all(&text).map_err(output_error)
}

/// The fields of a line in the order of [`COLUMNS`], read from its JSON form so that both have one source.
fn csv_row(line: &Line) -> Vec<String> {
    let fields = serde_json::to_value(line).unwrap_or_default();
    let cell = |column: &&str| {
        let value = column.split('.').try_fold(&fields, |value, key| value.get(key));
        match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => harmless_cell(text),
            Some(other) => other.to_string(),
        }
    };
    COLUMNS.iter().map(cell).collect()
}

/// Spreadsheets run a cell that starts like a formula; an apostrophe makes it text.
fn harmless_cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

/// An OCSF 1.3 Network Activity event; none for a note, which is no network activity.
fn ocsf_event(line: &Line) -> Option<Value> {
    let (activity, activity_name) = match line.kind {
        Kind::Open => (1, "Open"),
        Kind::Close => (2, "Close"),
        Kind::Deny => (5, "Refuse"),
        Kind::Preview => (99, "Preview"),
        Kind::Note | Kind::Audit => return None,
    };
    let denied = matches!(line.decision, Some(Outcome::Deny)) || line.kind == Kind::Deny;
    let mut event = json!({
        "class_uid": 4001,
        "class_name": "Network Activity",
        "category_uid": 4,
        "category_name": "Network Activity",
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": 400_100 + activity,
        "time": line.time.unix_micros().div_euclid(1_000),
        "severity_id": if denied { 2 } else { 1 },
        "status_id": if denied { 2 } else { 1 },
        "action_id": if denied { 2 } else { 1 },
        "disposition_id": if denied { 2 } else { 1 },
        "metadata": {
            "version": "1.3.0",
            // `actor` is of the second, the disposition of the first.
            "profiles": ["security_control", "host"],
            "product": { "name": "Guardrail Gateway", "vendor_name": "ARW", "version": env!("CARGO_PKG_VERSION") },
            "uid": line.seq.to_string(),
            "sequence": line.seq,
        },
        "dst_endpoint": endpoint(line),
        "unmapped": unmapped(line),
    });
    let fields = event.as_object_mut()?;
    if let Some(client) = &line.client {
        fields.insert("src_endpoint".to_owned(), address_of(client));
    }
    if let Some(persona) = &line.persona {
        fields.insert("actor".to_owned(), json!({ "user": { "name": persona, "uid": persona } }));
    }
    if let Some(code) = line.code {
        fields.insert("status_code".to_owned(), json!(code));
    }
    if let Some(detail) = &line.detail {
        fields.insert("status_detail".to_owned(), json!(detail));
    }
    if line.bytes_up.is_some() || line.bytes_down.is_some() {
        let (up, down) = (line.bytes_up.unwrap_or(0), line.bytes_down.unwrap_or(0));
        let traffic = json!({ "bytes_out": up, "bytes_in": down, "bytes": up.saturating_add(down) });
        fields.insert("traffic".to_owned(), traffic);
    }
    if let Some(duration) = line.duration_ms {
        fields.insert("duration".to_owned(), json!(duration));
    }
    if let Some(rule) = &line.rule {
        fields.insert("firewall_rule".to_owned(), json!({ "uid": rule, "name": rule }));
    }
    if let Some(tls) = &line.tls {
        let mut seen = Map::new();
        seen.extend(tls.sni.as_ref().map(|sni| ("sni".to_owned(), json!(sni))));
        seen.insert("version".to_owned(), json!(tls.version.as_deref().unwrap_or("unknown")));
        fields.insert("tls".to_owned(), Value::Object(seen));
    }
    Some(event)
}

fn endpoint(line: &Line) -> Value {
    let mut endpoint = line.address.as_deref().map_or_else(|| json!({}), address_of);
    if let Some(fields) = endpoint.as_object_mut() {
        fields.extend(line.host.as_ref().map(|host| ("hostname".to_owned(), json!(host))));
        fields.extend(line.port.map(|port| ("port".to_owned(), json!(port))));
        // An endpoint is called something; nobody knows where a malformed request wanted to go.
        if !["ip", "name", "hostname"].iter().any(|name| fields.contains_key(*name)) {
            fields.insert("name".to_owned(), json!("unknown"));
        }
    }
    endpoint
}

/// `ip` and `port` where it is an address; a name otherwise (a Unix peer, a pseudonym).
fn address_of(text: &str) -> Value {
    match text.parse::<std::net::SocketAddr>() {
        Ok(addr) => json!({ "ip": addr.ip().to_string(), "port": addr.port() }),
        Err(_) => json!({ "name": text }),
    }
}

/// What OCSF has no place for.
fn unmapped(line: &Line) -> Value {
    let fields = serde_json::to_value(line).unwrap_or_default();
    let kept = [
        "kind",
        "runtime",
        "run",
        "identity",
        "scheme",
        "method",
        "path",
        "decision",
        "via",
        "lease",
        "opened",
        "close_reason",
        "status",
        "labels",
    ];
    let kept = kept.iter().filter_map(|key| Some(((*key).to_owned(), fields.get(key)?.clone())));
    Value::Object(kept.collect())
}
