//! What kinds of value a key takes, and how each is read, bounded and shown.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::located::ByteSize;
use crate::config::{Collector, Confine, Durability};
use crate::domain::{HostName, TokenHash};

use super::draft::Draft;
use super::raw::{Raw, Value, echo};
use super::units::{SIZE_FORM, TIME_FORM, parse_time, show_size, show_time};

/// Where in the draft a key's value lives.
pub(super) type Field<T> = fn(&mut Draft) -> &mut T;

/// A kind of value with its place and its bounds (both ends included).
pub(super) enum Kind {
    Bool(Field<bool>),
    Count {
        field: Field<usize>,
        min: usize,
        max: usize,
    },
    Days {
        field: Field<u32>,
        min: u32,
        max: u32,
        reason: &'static str,
    },
    /// Bytes held in memory.
    Size {
        field: Field<usize>,
        min: usize,
        max: usize,
    },
    /// Bytes on a disk.
    DiskSize {
        field: Field<u64>,
        min: u64,
        max: u64,
    },
    Time {
        field: Field<Duration>,
        min: Duration,
        max: Duration,
    },
    /// `ip:port` to listen on; port 0 lets the kernel choose.
    Listener(Field<SocketAddr>),
    /// The same, `""` for none.
    MaybeListener(Field<Option<SocketAddr>>),
    /// One `ip:port` or a list of them.
    Listeners(Field<Vec<SocketAddr>>),
    /// A list of `ip` or `ip:port` of name servers.
    NameServers(Field<Vec<SocketAddr>>),
    /// A table of names with an address or a list of addresses.
    Hosts(Field<BTreeMap<String, Vec<IpAddr>>>),
    Path(Field<PathBuf>),
    /// A path, `""` for none.
    MaybePath(Field<Option<PathBuf>>),
    /// 64 hexadecimal digits, `""` for none. Never repeated in a message.
    TokenHash(Field<Option<String>>),
    /// `http://host:port` or `https://host`, `""` for none.
    Collector(Field<Option<Collector>>),
    Durability(Field<Durability>),
    Confine(Field<Confine>),
    Text {
        field: Field<String>,
        form: &'static str,
        check: fn(&str) -> Result<(), String>,
    },
}

/// What is wrong with a value: where in it, and what to write instead.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) offset: usize,
    /// Continues the key: `[1]`, `.example`.
    pub(super) below: String,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Wrong {
    fn new(raw: &Raw, message: impl Into<String>, hint: impl Into<String>) -> Vec<Self> {
        vec![Self { offset: raw.offset, below: String::new(), message: message.into(), hint: hint.into() }]
    }
}

type Read<T> = Result<T, Vec<Wrong>>;

impl Kind {
    /// Reads `raw` into the draft.
    pub(super) fn set(&self, draft: &mut Draft, raw: &Raw) -> Read<()> {
        match self {
            Self::Bool(field) => *field(draft) = boolean(raw)?,
            Self::Count { field, min, max } => *field(draft) = count(raw, *min, *max)?,
            Self::Days { field, min, max, reason } => *field(draft) = days(raw, *min, *max, reason)?,
            Self::Size { field, min, max } => *field(draft) = size(raw, *min, *max)?,
            Self::DiskSize { field, min, max } => *field(draft) = size(raw, *min, *max)?,
            Self::Time { field, min, max } => *field(draft) = time(raw, *min, *max)?,
            Self::Listener(field) => *field(draft) = listener(raw)?,
            Self::MaybeListener(field) => *field(draft) = unless_empty(raw, listener)?,
            Self::Listeners(field) => *field(draft) = one_or_many(raw, listener)?,
            Self::NameServers(field) => *field(draft) = one_or_many(raw, name_server)?,
            Self::Hosts(field) => *field(draft) = hosts(raw)?,
            Self::Path(field) => *field(draft) = path(raw)?,
            Self::MaybePath(field) => *field(draft) = unless_empty(raw, path)?,
            Self::TokenHash(field) => *field(draft) = unless_empty(raw, token_hash)?,
            Self::Collector(field) => *field(draft) = unless_empty(raw, collector)?,
            Self::Durability(field) => *field(draft) = durability(raw)?,
            Self::Confine(field) => *field(draft) = confine(raw)?,
            Self::Text { field, form, check } => {
                let value = text(raw, form)?;
                check(value).map_err(|message| Wrong::new(raw, message, *form))?;
                value.clone_into(field(draft));
            }
        }
        Ok(())
    }

    /// The kind and its bounds in a few words, for the reference.
    pub(super) fn form(&self) -> String {
        match self {
            Self::Bool(_) => "`true` or `false`".to_owned(),
            Self::Count { min, max, .. } => format!("number, {min} to {max}"),
            Self::Days { min, max, .. } => format!("days, {min} to {max}"),
            Self::Size { min, max, .. } => format!("size, {} to {}", show_size(*min as u64), show_size(*max as u64)),
            Self::DiskSize { min, max, .. } => format!("size, {} to {}", show_size(*min), show_size(*max)),
            Self::Time { min, max, .. } => format!("time, {} to {}", show_time(*min), show_time(*max)),
            Self::Listener(_) => "`ip:port`".to_owned(),
            Self::MaybeListener(_) => "`ip:port`, or empty for none".to_owned(),
            Self::Listeners(_) => "`ip:port` or a list of them".to_owned(),
            Self::NameServers(_) => "list of `ip` or `ip:port`".to_owned(),
            Self::Hosts(_) => "table of names with an address or a list of addresses".to_owned(),
            Self::Path(_) => "path".to_owned(),
            Self::MaybePath(_) => "path, or empty for none".to_owned(),
            Self::TokenHash(_) => "64 hexadecimal digits, or empty for none".to_owned(),
            Self::Collector(_) => "`http://127.0.0.1:port` or `https://host`, or empty for none".to_owned(),
            Self::Durability(_) => "`batch` or `strict`".to_owned(),
            Self::Confine(_) => "`auto`, `require` or `off`".to_owned(),
            Self::Text { form, .. } => (*form).to_owned(),
        }
    }

    /// The value in `draft`, as TOML.
    pub(super) fn show(&self, draft: &mut Draft) -> String {
        fn list<T: ToString>(values: &[T]) -> String {
            let quoted: Vec<String> = values.iter().map(|value| format!("\"{}\"", value.to_string())).collect();
            format!("[{}]", quoted.join(", "))
        }
        fn maybe<T>(value: Option<&T>, show: impl Fn(&T) -> String) -> String {
            format!("\"{}\"", value.map(show).unwrap_or_default())
        }
        match self {
            Self::Bool(field) => field(draft).to_string(),
            Self::Count { field, .. } => field(draft).to_string(),
            Self::Days { field, .. } => field(draft).to_string(),
            Self::Size { field, .. } => format!("\"{}\"", show_size(*field(draft) as u64)),
            Self::DiskSize { field, .. } => format!("\"{}\"", show_size(*field(draft))),
            Self::Time { field, .. } => format!("\"{}\"", show_time(*field(draft))),
            Self::Listener(field) => format!("\"{}\"", field(draft)),
            Self::MaybeListener(field) => maybe(field(draft).as_ref(), SocketAddr::to_string),
            Self::Listeners(field) | Self::NameServers(field) => list(field(draft)),
            Self::Hosts(field) => {
                let hosts: Vec<String> =
                    field(draft).iter().map(|(name, addrs)| format!("\"{name}\" = {}", list(addrs))).collect();
                if hosts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", hosts.join(", ")) }
            }
            Self::Path(field) => format!("\"{}\"", field(draft).display()),
            Self::MaybePath(field) => maybe(field(draft).as_ref(), |path| path.display().to_string()),
            Self::TokenHash(field) => maybe(field(draft).as_ref(), String::clone),
            Self::Collector(field) => maybe(field(draft).as_ref(), Collector::to_string),
            Self::Durability(field) => match field(draft) {
                Durability::Batch => "\"batch\"".to_owned(),
                Durability::Strict => "\"strict\"".to_owned(),
            },
            Self::Confine(field) => match field(draft) {
                Confine::Auto => "\"auto\"".to_owned(),
                Confine::Require => "\"require\"".to_owned(),
                Confine::Off => "\"off\"".to_owned(),
            },
            Self::Text { field, .. } => format!("\"{}\"", field(draft)),
        }
    }
}

fn boolean(raw: &Raw) -> Read<bool> {
    match &raw.value {
        Value::Bool(value) => Ok(*value),
        _ => {
            Err(Wrong::new(raw, format!("{} is not a boolean", raw.shown()), "write `true` or `false`, without quotes"))
        }
    }
}

fn number(raw: &Raw) -> Read<u64> {
    match &raw.value {
        Value::Number(value) => Ok(*value),
        _ => Err(Wrong::new(raw, format!("{} is not a whole number from 0", raw.shown()), "write it without quotes")),
    }
}

fn count(raw: &Raw, min: usize, max: usize) -> Read<usize> {
    let value = number(raw)?;
    match usize::try_from(value) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(out_of_bounds(raw, &value, &min, &max)),
    }
}

fn days(raw: &Raw, min: u32, max: u32, reason: &str) -> Read<u32> {
    let value = number(raw)?;
    match u32::try_from(value) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(Wrong::new(raw, format!("`{value}` is not within {min} to {max} days"), reason)),
    }
}

fn out_of_bounds(
    raw: &Raw,
    value: &dyn std::fmt::Display,
    min: &dyn std::fmt::Display,
    max: &dyn std::fmt::Display,
) -> Vec<Wrong> {
    Wrong::new(raw, format!("`{value}` is not within {min} to {max}"), format!("write a value from {min} to {max}"))
}

fn size<T: Copy + TryFrom<u64> + TryInto<u64> + PartialOrd>(raw: &Raw, min: T, max: T) -> Read<T> {
    let bytes = match &raw.value {
        Value::Number(value) => Some(*value),
        Value::Text(text) => ByteSize::parse(text).map(|ByteSize(bytes)| bytes),
        _ => None,
    };
    let Some(bytes) = bytes else {
        return Err(Wrong::new(raw, format!("{} is not a size", raw.shown()), SIZE_FORM));
    };
    match T::try_from(bytes) {
        Ok(value) if value >= min && value <= max => Ok(value),
        _ => {
            let end = |end: T| show_size(end.try_into().unwrap_or(u64::MAX));
            Err(out_of_bounds(raw, &show_size(bytes), &end(min), &end(max)))
        }
    }
}

fn time(raw: &Raw, min: Duration, max: Duration) -> Read<Duration> {
    let value = match &raw.value {
        Value::Text(text) => parse_time(text),
        _ => None,
    };
    match value {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        Some(value) => Err(out_of_bounds(raw, &show_time(value), &show_time(min), &show_time(max))),
        None => Err(Wrong::new(raw, format!("{} is not a time", raw.shown()), TIME_FORM)),
    }
}

fn text<'raw>(raw: &'raw Raw, form: &str) -> Read<&'raw str> {
    match &raw.value {
        Value::Text(text) => Ok(text),
        _ => Err(Wrong::new(raw, format!("{} is not a text", raw.shown()), format!("write a text in quotes: {form}"))),
    }
}

/// `""` is how a file says "none": TOML has no null.
fn unless_empty<T>(raw: &Raw, read: fn(&Raw) -> Read<T>) -> Read<Option<T>> {
    match &raw.value {
        Value::Text(text) if text.is_empty() => Ok(None),
        _ => read(raw).map(Some),
    }
}

fn one_or_many<T>(raw: &Raw, read: fn(&Raw) -> Read<T>) -> Read<Vec<T>> {
    let Value::List(items) = &raw.value else {
        return read(raw).map(|value| vec![value]);
    };
    let mut values = Vec::with_capacity(items.len());
    let mut wrongs = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match read(item) {
            Ok(value) => values.push(value),
            Err(found) => wrongs.extend(found.into_iter().map(|wrong| Wrong { below: format!("[{index}]"), ..wrong })),
        }
    }
    if wrongs.is_empty() { Ok(values) } else { Err(wrongs) }
}

fn listener(raw: &Raw) -> Read<SocketAddr> {
    const FORM: &str = "an address and a port such as 127.0.0.1:9080 or [::1]:9080";
    let text = text(raw, FORM)?;
    let wrong = |message: String| Wrong::new(raw, message, format!("write {FORM}"));
    let addr: SocketAddr = text.parse().map_err(|_| wrong(format!("`{}` is not `ip:port`", echo(text))))?;
    if addr.ip().is_multicast() {
        return Err(wrong(format!("`{addr}` is a multicast address, nothing can listen there")));
    }
    Ok(addr)
}

fn name_server(raw: &Raw) -> Read<SocketAddr> {
    /// RFC 1035 section 4.2.
    const DNS_PORT: u16 = 53;
    const FORM: &str = "an address such as 9.9.9.9, or with a port 9.9.9.9:53 or [2620:fe::fe]:53";
    let text = text(raw, FORM)?;
    let parsed = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse());
    match parsed {
        Ok(addr) if addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast() => Ok(addr),
        _ => Err(Wrong::new(
            raw,
            format!("`{}` is not the address of a name server", echo(text)),
            format!("write {FORM}"),
        )),
    }
}

fn ip(raw: &Raw) -> Read<IpAddr> {
    const FORM: &str = "an address such as 192.0.2.7 or 2001:db8::7";
    let text = text(raw, FORM)?;
    text.parse().map_err(|_| {
        Wrong::new(raw, format!("`{}` is not an address", echo(text)), format!("write {FORM}, without port"))
    })
}

/// Names are normalised here, so that a look-up cannot miss one for its case or its trailing dot.
fn hosts(raw: &Raw) -> Read<BTreeMap<String, Vec<IpAddr>>> {
    const FORM: &str = "write names with addresses: \"db.internal\" = [\"10.0.0.7\"]";
    let Value::Table(entries) = &raw.value else {
        return Err(Wrong::new(raw, format!("{} is not a table", raw.shown()), FORM));
    };
    let mut hosts = BTreeMap::new();
    let mut wrongs = Vec::new();
    for entry in entries {
        let below = format!(".{}", echo(&entry.key));
        let mut wrong = |message: String, hint: &str| {
            wrongs.push(Wrong { offset: entry.offset, below: below.clone(), message, hint: hint.to_owned() });
        };
        match HostName::parse(entry.key.as_bytes()) {
            Err(fault) => wrong(format!("`{}`: {fault}", echo(&entry.key)), FORM),
            Ok(name) => match one_or_many(&entry.raw, ip) {
                Ok(addrs) if addrs.is_empty() => wrong("the name has no address".to_owned(), FORM),
                Ok(addrs) => {
                    if hosts.insert(name.as_str().to_owned(), addrs).is_some() {
                        wrong(format!("`{name}` stands here twice"), "put all its addresses in one list");
                    }
                }
                Err(found) => {
                    wrongs.extend(
                        found.into_iter().map(|inner| Wrong { below: format!("{below}{}", inner.below), ..inner }),
                    );
                }
            },
        }
    }
    if wrongs.is_empty() { Ok(hosts) } else { Err(wrongs) }
}

fn path(raw: &Raw) -> Read<PathBuf> {
    let text = text(raw, "a path")?;
    if text.is_empty() || text.contains('\0') {
        return Err(Wrong::new(raw, format!("`{}` is not a path", echo(text)), "write a path"));
    }
    Ok(PathBuf::from(text))
}

/// The wrong text is not repeated: it may be the token itself, put here by mistake.
fn token_hash(raw: &Raw) -> Read<String> {
    const HINT: &str = "write the SHA-256 of the token: printf %s \"$TOKEN\" | sha256sum";
    let hash = match &raw.value {
        Value::Text(text) => TokenHash::from_hex(text),
        _ => None,
    };
    hash.map(TokenHash::to_hex).ok_or_else(|| Wrong::new(raw, "this is not 64 hexadecimal digits", HINT))
}

/// The wrong text is not repeated: it may hold a password.
fn collector(raw: &Raw) -> Read<Collector> {
    const FORM: &str = "write \"http://127.0.0.1:4318\" or \"https://collector.example\"";
    let text = text(raw, "a URL")?;
    Collector::parse(text).map_err(|fault| Wrong::new(raw, fault.to_string(), FORM))
}

fn durability(raw: &Raw) -> Read<Durability> {
    match &raw.value {
        Value::Text(text) if text == "batch" => Ok(Durability::Batch),
        Value::Text(text) if text == "strict" => Ok(Durability::Strict),
        _ => Err(Wrong::new(raw, format!("{} is not a durability", raw.shown()), "write \"batch\" or \"strict\"")),
    }
}

fn confine(raw: &Raw) -> Read<Confine> {
    match &raw.value {
        Value::Text(text) if text == "auto" => Ok(Confine::Auto),
        Value::Text(text) if text == "require" => Ok(Confine::Require),
        Value::Text(text) if text == "off" => Ok(Confine::Off),
        _ => {
            Err(Wrong::new(raw, format!("{} says not how far", raw.shown()), "write \"auto\", \"require\" or \"off\""))
        }
    }
}
