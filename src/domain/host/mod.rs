//! Host names and addresses as a client may write them, parsed once and strictly.
//!
//! Owns the normal form that rules are matched against. Refuses every spelling that two programs could
//! read in two ways: numbers that some resolvers take as an address, zones, characters that IDNA would
//! map to ASCII, Punycode that does not round-trip.

mod name;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Names below this mean the gateway itself. `internal` is reserved for private use and is never delegated (ICANN, 2024).
const GATEWAY_DOMAIN: &str = "arw.internal";
/// Where a runtime reaches the desk of the gateway that it runs behind.
pub const GATEWAY_HOST: &str = "gateway.arw.internal";

/// A DNS name in one form: lower case, A-labels (IDNA 2008 / UTS 46), no trailing dot, at most 253
/// bytes, labels of 1 to 63 letters, digits, hyphens and underscores. Never an address in disguise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// The host part of a target: a name or a literal address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A DNS name.
    Name(HostName),
    /// A literal address. IPv4-mapped IPv6 literals stay IPv6 here; the address class sees through.
    Addr(IpAddr),
}

/// Why a text is not a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// Longer than 253 bytes, or a label longer than 63.
    #[error("the host name is too long")]
    TooLong,
    /// An empty label, as in `a..b` or `.a`.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A byte that no host has: control, space, `%`, `@`, `/`, `\`, `?`, `#`, …
    #[error("the host has a character that is not allowed")]
    BadCharacter,
    /// A label starts or ends with a hyphen.
    #[error("a label of the host name starts or ends with a hyphen")]
    BadHyphen,
    /// The name is not valid IDNA, or its punycode does not round-trip.
    #[error("the host name is not valid IDNA")]
    BadIdna,
    /// A number that some resolvers take as an IPv4 address: `0x7f.1`, `2130706433`, `127.1`, `010.0.0.1`.
    #[error("the host is a number in a form other than four decimal octets")]
    NumericForm,
    /// Brackets without an IPv6 address in them, or an IPv6 address without brackets where they must be.
    #[error("the brackets of the address are wrong")]
    BadBrackets,
    /// An IPv6 zone (`fe80::1%eth0`).
    #[error("an address with a zone is not accepted")]
    Zone,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where to.
    pub host: Host,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

/// Why a text is not a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// The host part.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// Userinfo (`user@host`).
    #[error("the target has userinfo before the host")]
    Userinfo,
    /// No port, and none to assume.
    #[error("the target has no port")]
    PortMissing,
    /// Not 1 to 65535 in plain decimal without sign, space or leading zero.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
}

impl HostName {
    /// Whether it is one of the names that mean the gateway itself ([`GATEWAY_HOST`] and whatever else ends like it): nothing
    /// outside has such a name, so nobody is asked for its address and nothing is dialled for it.
    pub fn is_gateways(&self) -> bool {
        let name = self.as_str();
        name.strip_suffix(GATEWAY_DOMAIN).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Parses a name, never an address: `Host::parse` for either.
    ///
    /// # Errors
    /// [`HostFault`], `NumericForm` for anything that is or looks like an address.
    pub fn parse(raw: &[u8]) -> Result<Self, HostFault> {
        match Host::parse(raw)? {
            Host::Name(name) => Ok(name),
            Host::Addr(_) => Err(HostFault::NumericForm),
        }
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl Host {
    /// Parses the host part of an authority (RFC 3986 section 3.2.2, strict): a name, four decimal
    /// octets, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// [`HostFault`] says why; nothing is ever guessed or repaired except case, IDNA and one trailing dot.
    pub fn parse(raw: &[u8]) -> Result<Self, HostFault> {
        if raw.is_empty() {
            return Err(HostFault::Empty);
        }
        if let Some(inner) = raw.strip_prefix(b"[") {
            return parse_bracketed(inner.strip_suffix(b"]").ok_or(HostFault::BadBrackets)?);
        }
        if raw.contains(&b'[') || raw.contains(&b']') || looks_like_v6(raw) {
            return Err(HostFault::BadBrackets);
        }
        if raw[0].is_ascii_digit()
            && let Some(addr) = parse_v4(raw)
        {
            return Ok(Self::Addr(IpAddr::V4(addr)));
        }
        name::normalise(raw).map(|name| Self::Name(HostName(name)))
    }
}

/// Exactly four decimal octets without leading zeros: the one form that no program reads otherwise.
fn parse_v4(raw: &[u8]) -> Option<Ipv4Addr> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

fn parse_bracketed(inner: &[u8]) -> Result<Host, HostFault> {
    if inner.contains(&b'%') {
        return Err(HostFault::Zone);
    }
    let text = std::str::from_utf8(inner).map_err(|_| HostFault::BadBrackets)?;
    let addr = text.parse::<Ipv6Addr>().map_err(|_| HostFault::BadBrackets)?;
    Ok(Host::Addr(IpAddr::V6(addr)))
}

/// Two colons or more: no name has them, so the writer forgot the brackets.
fn looks_like_v6(raw: &[u8]) -> bool {
    raw.iter().filter(|byte| **byte == b':').nth(1).is_some()
}

impl Target {
    /// Parses `host:port` (authority-form, RFC 9112 section 3.2.3). `default_port` stands in for a
    /// missing port; without it a port is required.
    ///
    /// # Errors
    /// [`TargetFault`] says which part is wrong.
    pub fn parse(raw: &[u8], default_port: Option<u16>) -> Result<Self, TargetFault> {
        if raw.contains(&b'@') {
            return Err(TargetFault::Userinfo);
        }
        if raw.first().is_some_and(|first| *first != b'[') && looks_like_v6(raw) {
            return Err(HostFault::BadBrackets.into());
        }
        let split = match raw.iter().rposition(|byte| *byte == b':') {
            Some(colon) if !raw[colon..].contains(&b']') => Some(colon),
            _ => None,
        };
        let (host, port) = match split {
            Some(colon) => (&raw[..colon], parse_port(&raw[colon + 1..])?),
            None => (raw, default_port.ok_or(TargetFault::PortMissing)?),
        };
        Ok(Self { host: Host::parse(host)?, port })
    }
}

fn parse_port(raw: &[u8]) -> Result<u16, TargetFault> {
    let plain = !raw.is_empty() && raw.len() <= 5 && raw[0] != b'0' && raw.iter().all(u8::is_ascii_digit);
    if !plain {
        return Err(TargetFault::BadPort);
    }
    let value = raw.iter().fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    u16::try_from(value).map_err(|_| TargetFault::BadPort)
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostName({})", self.0)
    }
}

/// As in a URI: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Addr(IpAddr::V4(addr)) => addr.fmt(f),
            Self::Addr(IpAddr::V6(addr)) => write!(f, "[{addr}]"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({self})")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
