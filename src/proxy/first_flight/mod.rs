//! The first bytes that a client sends into a tunnel: is it TLS, and which server does it ask for?
//!
//! Owns a pure parser of the TLS record layer and the ClientHello (RFC 8446 section 4.1.2, RFC 5246,
//! RFC 6066 section 3). It decides nothing: the gate compares what is found here with what was granted.
//!
//! ```text
//!  bytes ── record.rs ──▶ one handshake message ── hello.rs ──▶ ClientHello
//!             │  │                                    │
//!             │  └ NeedMore                           └ Malformed
//!             └ NotTls, Malformed
//! ```
//!
//! - A verdict other than [`Verdict::NeedMore`] is final: more bytes give the same one. So the caller
//!   may look after every read, and forward nothing before the verdict.
//! - What one TLS server might accept and another reading might miss is `Malformed`, never `NotTls`:
//!   SSLv2 hellos, alerts before the hello, records of odd versions. Else a rule that lets other
//!   protocols through would let a hidden server name through.
//! - It does not decrypt, and does not tell a real Encrypted Client Hello from the decoy that browsers
//!   send (GREASE, RFC 9849 section 6.2): on the wire they cannot be told apart. `ech` says that the
//!   extension was there, and the rule decides. With a real one, `sni` is the public name of the outer hello.

mod hello;
mod reader;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::domain::HostName;

pub use hello::Alpn;
pub use record::{MAX_FLIGHT, MAX_HELLO};

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They are the start of a hello; read on, up to [`MAX_FLIGHT`] bytes in all.
    NeedMore,
    /// No TLS server would take this as the start of a session.
    NotTls,
    /// It begins like TLS but is not a hello that every server reads alike. The text is for the log:
    /// one clause, without bytes of the client.
    Malformed(&'static str),
    /// A complete ClientHello.
    Hello(ClientHello),
}

/// What the gate needs to know of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name; `None` without the extension.
    pub sni: Option<HostName>,
    /// Highest version offered.
    pub version: TlsVersion,
    /// Whether an `encrypted_client_hello` extension (or a draft of it, or ESNI) was there, real or decoy.
    pub ech: bool,
    /// Protocols offered inside.
    pub alpn: Alpn,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// SSL 3.0 (RFC 6101).
    Ssl3,
    /// TLS 1.0 (RFC 2246).
    Tls10,
    /// TLS 1.1 (RFC 4346).
    Tls11,
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl TlsVersion {
    /// As the ledger shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ssl3 => "ssl3",
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }

    const fn from_wire(version: u16) -> Option<Self> {
        match version {
            0x0300 => Some(Self::Ssl3),
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Looks at `bytes`, everything that the client sent so far.
///
/// Costs one step per record until the hello is complete, and allocates for the server name, and once
/// more only when the hello is spread over several records.
pub fn inspect(bytes: &[u8]) -> Verdict {
    match record::hello_message(bytes) {
        Ok(message) => match hello::parse(&message) {
            Ok(hello) => Verdict::Hello(hello),
            Err(fault) => Verdict::Malformed(fault),
        },
        Err(record::Stop::NeedMore) => Verdict::NeedMore,
        Err(record::Stop::NotTls) => Verdict::NotTls,
        Err(record::Stop::Malformed(fault)) => Verdict::Malformed(fault),
    }
}
