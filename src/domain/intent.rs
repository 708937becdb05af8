//! The one normalised form of every request to leave.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Labels, PersonaId, Target};

/// How the client proved which persona it is, weakest to strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Nothing was proved; only denials carry it.
    None,
    /// `Proxy-Authorization: Basic persona:token` (RFC 7617).
    Basic,
    /// `Proxy-Authorization: Bearer token` (RFC 6750).
    Bearer,
    /// A TLS client certificate's URI.
    Mtls,
    /// Peer credentials of a Unix socket (`SO_PEERCRED`).
    Peercred,
    /// The listening socket inside a runtime's own network namespace.
    Netns,
}

/// What the client wants to speak to the target, as rules and records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// TLS in a tunnel; the first flight is checked against the host.
    Https,
    /// Plain HTTP that the gateway relays itself.
    Http,
    /// Anything in a tunnel, unread.
    Tcp,
}

impl Scheme {
    /// As written in rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the request arrived, which bounds the schemes that it can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `CONNECT` or a transparent connection: an opaque stream, granted as `https` or as `tcp`.
    Tunnel,
    /// Absolute-form plain HTTP: method and path are visible.
    Forward,
}

/// Where a client connected from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A Unix socket peer by its credentials at connect time (`SO_PEERCRED`).
    Unix {
        /// User id.
        uid: u32,
        /// Process id.
        pid: i32,
    },
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix { uid, pid } => write!(f, "unix:uid={uid},pid={pid}"),
        }
    }
}

/// An HTTP method: a token (RFC 9110 section 5.6.2) of at most 32 bytes, case kept.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Method(Arc<str>);

/// The text is not a method token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the method is not a token of at most 32 characters")]
pub struct MethodFault;

impl Method {
    /// Checks `text`.
    ///
    /// # Errors
    /// When it is empty, too long, or has a byte that no token has.
    pub fn parse(text: &str) -> Result<Self, MethodFault> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || text.len() > 32 || !text.bytes().all(token) {
            return Err(MethodFault);
        }
        Ok(Self(Arc::from(text)))
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method({})", self.0)
    }
}

/// A request to leave: who, where to, and what is visible of it.
///
/// Every surface ends here, and there is one gate behind it.
#[derive(Debug, Clone)]
pub struct EgressIntent {
    /// The persona whose traffic this is.
    pub persona: PersonaId,
    /// How that was proved.
    pub identity: Identity,
    /// From where.
    pub client: ClientAddr,
    /// How it arrived.
    pub surface: Surface,
    /// Where to.
    pub target: Target,
    /// Visible HTTP only.
    pub method: Option<Method>,
    /// Visible HTTP only: the path in normal form (RFC 3986 section 6.2.2: dot segments removed,
    /// unreserved escapes decoded), without the query.
    pub path: Option<String>,
    /// What the ledger shows in place of `path`: with the query, where the operator asked for queries.
    pub recorded_path: Option<String>,
    /// The client's own book-keeping.
    pub labels: Labels,
}

impl EgressIntent {
    /// The path as the ledger shows it.
    pub fn shown_path(&self) -> Option<&str> {
        self.recorded_path.as_deref().or(self.path.as_deref())
    }
}
