//! Which persona a request belongs to.
//!
//! What the kernel or TLS attested about the connection comes first and cannot be overridden by a header.
//! Each request is identified anew, so a token that a reload revoked is worthless from then on.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::head::Fields;
use crate::domain::{ClientAddr, Denial, DenialCode, Identity, PersonaId, Timestamp};
use crate::policy::{Persona, Snapshot};

/// What is known about a connection before its first byte.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// From where.
    pub addr: ClientAddr,
    /// What was proved.
    pub evidence: Evidence,
}

/// Proof that came with the connection itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Evidence {
    /// None: the request must bring credentials.
    None,
    /// The peer's user id, from `SO_PEERCRED`.
    Uid(u32),
    /// URIs of the verified client certificate.
    Certificate(Arc<[String]>),
    /// The listening socket lies in this persona's own network namespace.
    Namespace(PersonaId),
}

/// Finds the persona.
///
/// # Errors
/// `no_identity` when nothing was proved or presented, `unknown_persona` when it leads nowhere.
pub(super) fn identify<'a>(
    snapshot: &'a Snapshot,
    peer: &Peer,
    fields: &Fields,
    now: Timestamp,
) -> Result<(&'a Arc<Persona>, Identity), Denial> {
    match &peer.evidence {
        Evidence::Namespace(id) => {
            return snapshot
                .persona(id)
                .map(|persona| (persona, Identity::Netns))
                .ok_or_else(|| Denial::new(DenialCode::UnknownPersona, format!("persona `{id}` is not configured")));
        }
        Evidence::Uid(uid) => {
            if let Some(persona) = snapshot.by_uid(*uid) {
                return Ok((persona, Identity::Peercred));
            }
        }
        Evidence::Certificate(uris) => {
            if let Some(persona) = uris.iter().find_map(|uri| snapshot.by_certificate(uri)) {
                return Ok((persona, Identity::Mtls));
            }
        }
        Evidence::None => {}
    }
    let Some(credentials) = fields.all("proxy-authorization").next() else {
        return Err(Denial::new(
            DenialCode::NoIdentity,
            "say who you are: put `persona:token@` into the proxy URL, or send Proxy-Authorization",
        ));
    };
    present(snapshot, credentials, now)
        .ok_or_else(|| Denial::new(DenialCode::UnknownPersona, "the credentials belong to no persona, or have expired"))
}

/// Basic (RFC 7617) or Bearer (RFC 6750).
fn present<'a>(snapshot: &'a Snapshot, credentials: &[u8], now: Timestamp) -> Option<(&'a Arc<Persona>, Identity)> {
    let space = memchr::memchr(b' ', credentials)?;
    let (scheme, rest) = (&credentials[..space], credentials[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = STANDARD.decode(rest).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        let persona = snapshot.by_basic(&decoded[..colon], &decoded[colon + 1..], now)?;
        Some((persona, Identity::Basic))
    } else if scheme.eq_ignore_ascii_case(b"bearer") {
        Some((snapshot.by_bearer(rest, now)?, Identity::Bearer))
    } else {
        None
    }
}
