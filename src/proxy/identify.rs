//! Which persona a request belongs to.
//!
//! What the kernel or TLS attested about the connection comes first and cannot be overridden by a header.
//! Each request is identified anew, so a token that a reload revoked is worthless from then on.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::head::Fields;
use super::runtime::Runtime;
use crate::domain::{ClientAddr, Denial, DenialCode, Identity, PersonaId, Timestamp, TokenHash};
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
#[derive(Debug, Clone)]
pub(super) enum Evidence {
    /// None: the request must bring credentials.
    None,
    /// The peer's user id, from `SO_PEERCRED`.
    Uid(u32),
    /// URIs of the verified client certificate.
    Certificate(Arc<[String]>),
    /// The listening socket lies in this persona's own network namespace.
    Namespace(PersonaId),
    /// It lies in this runtime's.
    Runtime(Arc<Runtime>),
}

impl Evidence {
    /// The runtime that the connection came from, if it came from one.
    pub(super) fn runtime(&self) -> Option<&Arc<Runtime>> {
        match self {
            Self::Runtime(runtime) => Some(runtime),
            Self::None | Self::Uid(_) | Self::Certificate(_) | Self::Namespace(_) => None,
        }
    }
}

/// Whose a request is, and what that rests on.
#[derive(Debug)]
pub(super) struct Identified<'a> {
    /// The persona.
    pub persona: &'a Arc<Persona>,
    /// How it was proved.
    pub identity: Identity,
    /// What to look at again after a reload.
    pub proof: Proof,
}

/// What an open flow's identity rests on: a token that is revoked ends what it opened.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    /// This token. Boxed, since every open tunnel has a proof.
    Token(Box<TokenHash>),
    /// The peer's user id.
    Uid(u32),
    /// One of the URIs of the client's certificate.
    Certificate(Arc<[String]>),
    /// The network namespace, which is the persona's as long as there is such a persona.
    Namespace,
    /// The same, and it is this runtime's.
    Runtime(Arc<Runtime>),
}

impl Proof {
    /// The runtime that the request came from, if it came from one.
    pub(super) fn runtime(&self) -> Option<&Runtime> {
        match self {
            Self::Runtime(runtime) => Some(runtime),
            Self::Token(_) | Self::Uid(_) | Self::Certificate(_) | Self::Namespace => None,
        }
    }

    /// Whether it still proves `persona`.
    pub(super) fn stands(&self, snapshot: &Snapshot, persona: &PersonaId, now: Timestamp) -> bool {
        let found = match self {
            Self::Token(hash) => snapshot.by_bearer(hash, now),
            Self::Uid(uid) => snapshot.by_uid(*uid),
            Self::Certificate(uris) => uris.iter().find_map(|uri| snapshot.by_certificate(uri)),
            Self::Namespace | Self::Runtime(_) => snapshot.persona(persona),
        };
        found.is_some_and(|found| found.id() == persona)
    }
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
) -> Result<Identified<'a>, Denial> {
    match &peer.evidence {
        Evidence::Namespace(id) => return inside(snapshot, id, Proof::Namespace),
        Evidence::Runtime(runtime) => {
            return inside(snapshot, &runtime.persona, Proof::Runtime(Arc::clone(runtime)));
        }
        Evidence::Uid(uid) => {
            if let Some(persona) = snapshot.by_uid(*uid) {
                return Ok(Identified { persona, identity: Identity::Peercred, proof: Proof::Uid(*uid) });
            }
        }
        Evidence::Certificate(uris) => {
            if let Some(persona) = uris.iter().find_map(|uri| snapshot.by_certificate(uri)) {
                let proof = Proof::Certificate(Arc::clone(uris));
                return Ok(Identified { persona, identity: Identity::Mtls, proof });
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

/// Whoever speaks from a namespace of `id`'s.
fn inside<'a>(snapshot: &'a Snapshot, id: &PersonaId, proof: Proof) -> Result<Identified<'a>, Denial> {
    snapshot
        .persona(id)
        .map(|persona| Identified { persona, identity: Identity::Netns, proof })
        .ok_or_else(|| Denial::new(DenialCode::UnknownPersona, format!("persona `{id}` is not configured")))
}

/// Basic (RFC 7617) or Bearer (RFC 6750).
fn present<'a>(snapshot: &'a Snapshot, credentials: &[u8], now: Timestamp) -> Option<Identified<'a>> {
    let space = memchr::memchr(b' ', credentials)?;
    let (scheme, rest) = (&credentials[..space], credentials[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = STANDARD.decode(rest).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        let hash = TokenHash::of(&decoded[colon + 1..]);
        let persona = snapshot.by_basic(&decoded[..colon], &hash, now)?;
        Some(Identified { persona, identity: Identity::Basic, proof: Proof::Token(Box::new(hash)) })
    } else if scheme.eq_ignore_ascii_case(b"bearer") {
        let hash = TokenHash::of(rest);
        let persona = snapshot.by_bearer(&hash, now)?;
        Some(Identified { persona, identity: Identity::Bearer, proof: Proof::Token(Box::new(hash)) })
    } else {
        None
    }
}
