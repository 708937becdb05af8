//! What kind of place an address is.
//!
//! Owns the complete table of addresses that are not simply "the internet". Knows nothing of rules: a
//! policy may open a special address by an explicit `cidrs`, and must then match denied IPv4 ranges
//! against [`embedded_v4s`] too, since most IPv6 forms of an IPv4 address reach the same machine.

mod embedded;
mod registry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

pub use embedded::{embedded_v4, embedded_v4s};

/// The range that synthetic answers of a runtime's name server are taken from (RFC 2544, benchmarking).
///
/// Such an address stands for a name inside one network namespace and for nothing outside it, so it
/// classifies as special like the rest of its registry entry.
pub const SYNTHETIC_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);

/// The class of an address. Only [`AddressClass::Public`] may be dialled without a rule that opens
/// the address by `cidrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Globally reachable unicast.
    Public,
    /// Anything else: the short name of its kind, as the ledger and denials show it.
    Special(&'static str),
}

impl AddressClass {
    /// Whether the address may be dialled without an explicit `cidrs`.
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Public)
    }

    /// Whether a cloud's metadata service answers here: it hands out the machine's credentials.
    pub fn is_metadata(self) -> bool {
        self == Self::Special(registry::METADATA)
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Special(kind) => f.write_str(kind),
        }
    }
}

/// Classifies `addr` against the IANA special-purpose registries (RFC 6890 and its updates), cloud
/// metadata services, and every standard way to embed an IPv4 address in an IPv6 one.
///
/// An IPv6 address that carries an IPv4 address is never public. It is named after what it carries
/// (`loopback` for `::ffff:127.0.0.1`), or after the form when that is public (`nat64`).
/// A NAT64 prefix of the site's own choosing (RFC 6052 section 2.2) looks like any other address.
pub fn classify(addr: IpAddr) -> AddressClass {
    match addr {
        IpAddr::V4(v4) => named(registry::v4_kind(v4)),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v6(addr: Ipv6Addr) -> AddressClass {
    let own = registry::v6_kind(addr);
    if own == Some(registry::METADATA) {
        return named(own);
    }
    match embedded_v4(addr) {
        None => named(own),
        Some(inner) => named(registry::v4_kind(inner).or(own).or(Some(registry::ISATAP))),
    }
}

const fn named(kind: Option<&'static str>) -> AddressClass {
    match kind {
        None => AddressClass::Public,
        Some(kind) => AddressClass::Special(kind),
    }
}
