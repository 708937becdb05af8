//! What a proxy changes in a message, and nothing else (RFC 9110 section 7.6).

use super::super::head::{Fields, Framing, RequestHead, ResponseHead, Version};
use super::authority;
use crate::domain::Target;

/// Fields of the connection, not of the message (RFC 9110 section 7.6.1), besides those that
/// `Connection` names.
const HOP_BY_HOP: [&[u8]; 8] = [
    b"connection",
    b"proxy-connection",
    b"keep-alive",
    b"te",
    b"transfer-encoding",
    b"upgrade",
    b"proxy-authenticate",
    b"proxy-authorization",
];
/// The gateway's own fields: labels and credentials on the way up, decision ids on the way down.
const OWN_PREFIX: &[u8] = b"x-arw-";
/// Our name in `Via`.
const VIA: &str = "arw";

/// Decides which fields of one message go on.
struct Sieve<'a> {
    /// What `Connection` names.
    named: Vec<&'a [u8]>,
}

impl<'a> Sieve<'a> {
    fn of(fields: &'a Fields) -> Self {
        Self { named: fields.members("connection").chain(fields.members("proxy-connection")).collect() }
    }

    fn passes(&self, name: &[u8]) -> bool {
        let own = name.len() >= OWN_PREFIX.len() && name[..OWN_PREFIX.len()].eq_ignore_ascii_case(OWN_PREFIX);
        !own && !HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop))
            && !self.named.iter().any(|named| name.eq_ignore_ascii_case(named))
    }
}

fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn push_via(out: &mut Vec<u8>, version: Version) {
    let minor = if version == Version::Http10 { "1.0 " } else { "1.1 " };
    push_field(out, b"Via", format!("{minor}{VIA}").as_bytes());
}

/// The request as the upstream gets it.
pub(super) fn request(head: &RequestHead, target: &Target, wire_path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(wire_path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_field(&mut out, b"Host", authority(target).as_bytes());
    let sieve = Sieve::of(&head.fields);
    for (name, value) in head.fields.iter() {
        let http10_expects = head.version == Version::Http10 && name.eq_ignore_ascii_case(b"expect");
        if !name.eq_ignore_ascii_case(b"host") && sieve.passes(name) && !http10_expects {
            push_field(&mut out, name, value);
        }
    }
    if head.framing == Framing::Chunked {
        push_field(&mut out, b"Transfer-Encoding", b"chunked");
    }
    let trailers = head.version == Version::Http11
        && head.fields.members("te").any(|member| member.eq_ignore_ascii_case(b"trailers"));
    match (&head.upgrade, trailers) {
        (Some(token), _) => {
            push_field(&mut out, b"Connection", b"upgrade");
            push_field(&mut out, b"Upgrade", token.as_bytes());
        }
        (None, true) => {
            push_field(&mut out, b"Connection", b"TE");
            push_field(&mut out, b"TE", b"trailers");
        }
        (None, false) => {}
    }
    push_via(&mut out, head.version);
    out.extend_from_slice(b"\r\n");
    out
}

/// How the answer goes to this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Whether its body is sent in chunks.
    pub(super) chunked: bool,
    /// Whether the client's connection can be kept after it.
    pub(super) keep_alive: bool,
}

/// Chooses the framing towards the client.
pub(super) fn plan(request: &RequestHead, response: &ResponseHead) -> Plan {
    let chunked = response.framing == Framing::Chunked && request.version == Version::Http11;
    let ends_with_close = response.framing == Framing::UntilClose
        || (response.framing == Framing::Chunked && request.version == Version::Http10);
    Plan { chunked, keep_alive: !ends_with_close && request.keep_alive }
}

fn status_line(response: &ResponseHead) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", response.status, response.reason).as_bytes());
    out
}

/// The final answer's head as the client gets it.
pub(super) fn answer(response: &ResponseHead, plan: Plan) -> Vec<u8> {
    let mut out = status_line(response);
    let sieve = Sieve::of(&response.fields);
    for (name, value) in response.fields.iter() {
        let passes = if name.eq_ignore_ascii_case(b"content-length") {
            // RFC 9110 section 8.6: a 204 has no length. Otherwise the client needs it, also when the upstream
            // calls it an option of the connection: without it the body would seem to last until the close.
            response.status != 204
        } else {
            sieve.passes(name)
        };
        if passes {
            push_field(&mut out, name, value);
        }
    }
    if plan.chunked {
        push_field(&mut out, b"Transfer-Encoding", b"chunked");
    }
    if !plan.keep_alive {
        push_field(&mut out, b"Connection", b"close");
    }
    push_via(&mut out, response.version);
    out.extend_from_slice(b"\r\n");
    out
}

/// An interim answer (1xx other than 101).
pub(super) fn interim(response: &ResponseHead) -> Vec<u8> {
    let mut out = status_line(response);
    let sieve = Sieve::of(&response.fields);
    for (name, value) in response.fields.iter() {
        let framing = name.eq_ignore_ascii_case(b"content-length");
        if sieve.passes(name) && !framing {
            push_field(&mut out, name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// `101 Switching Protocols`, with the upgrade that both agreed on.
pub(super) fn switching(response: &ResponseHead) -> Vec<u8> {
    let mut out = status_line(response);
    let sieve = Sieve::of(&response.fields);
    for (name, value) in response.fields.iter() {
        if sieve.passes(name) && !name.eq_ignore_ascii_case(b"content-length") {
            push_field(&mut out, name, value);
        }
    }
    push_field(&mut out, b"Connection", b"upgrade");
    for token in response.fields.members("upgrade").take(1) {
        push_field(&mut out, b"Upgrade", token);
    }
    push_via(&mut out, response.version);
    out.extend_from_slice(b"\r\n");
    out
}
