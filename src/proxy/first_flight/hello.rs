//! The body of a ClientHello (RFC 8446 section 4.1.2).

use crate::domain::{Host, HostName};

use super::reader::Reader;
use super::{ClientHello, TlsVersion};

/// Most extensions of one hello. Browsers send about twenty; each is compared with all before it.
const MAX_EXTENSIONS: usize = 64;

/// Room for offered protocols, in bytes with their length bytes: `h2`, `http/1.1` and half a dozen more.
const MAX_ALPN: usize = 64;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// Allowed only inside an encrypted hello (RFC 9849 section 5.1).
const ECH_OUTER_EXTENSIONS: u16 = 0xfd00;

type Fault = &'static str;

/// The protocols that a client offers inside TLS (RFC 7301), as many as fit in 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Alpn {
    /// Names with a length byte before each, as on the wire.
    bytes: [u8; MAX_ALPN],
    len: usize,
    complete: bool,
}

impl Alpn {
    const NONE: Self = Self { bytes: [0; MAX_ALPN], len: 0, complete: true };

    /// The names, in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut reader = Reader::new(&self.bytes[..self.len]);
        std::iter::from_fn(move || reader.vec8("").ok())
    }

    /// Whether `protocol` is among the names that were kept.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.iter().any(|name| name == protocol)
    }

    /// Whether every offered name was kept. A rule that forbids a protocol must not trust a cut list.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Keeps `name` unless it, or one before it, did not fit.
    fn push(&mut self, name: &[u8]) {
        let end = self.len + 1 + name.len();
        let Ok(name_len) = u8::try_from(name.len()) else { return };
        if !self.complete || end > MAX_ALPN {
            self.complete = false;
            return;
        }
        self.bytes[self.len] = name_len;
        self.bytes[self.len + 1..end].copy_from_slice(name);
        self.len = end;
    }
}

impl std::fmt::Debug for Alpn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

/// Reads a ClientHello without its handshake header.
pub(super) fn parse(message: &[u8]) -> Result<ClientHello, Fault> {
    let mut reader = Reader::new(message);
    let legacy_version = reader.u16("a hello without a version")?;
    if legacy_version >> 8 != 3 {
        return Err("a hello of an unknown TLS version");
    }
    reader.take(32, "a hello without its random bytes")?;
    if reader.vec8("a session id that is cut")?.len() > 32 {
        return Err("a session id longer than 32 bytes");
    }
    let ciphers = reader.vec16("a list of cipher suites that is cut")?;
    if ciphers.is_empty() || !ciphers.len().is_multiple_of(2) {
        return Err("a list of cipher suites that is empty or odd");
    }
    if !reader.vec8("a list of compression methods that is cut")?.contains(&0) {
        return Err("a list of compression methods without the null method");
    }
    let mut hello = ClientHello {
        sni: None,
        // A hello without `supported_versions` never leads to more than TLS 1.2 (RFC 8446 section 4.2.1).
        version: TlsVersion::from_wire(legacy_version.min(0x0303)).ok_or("a hello of an unknown TLS version")?,
        ech: false,
        alpn: Alpn::NONE,
    };
    // Before RFC 3546 a hello ended here.
    if !reader.is_empty() {
        let extensions = reader.vec16("a list of extensions that is cut")?;
        reader.end("bytes behind the extensions")?;
        parse_extensions(extensions, &mut hello)?;
    }
    Ok(hello)
}

fn parse_extensions(extensions: &[u8], hello: &mut ClientHello) -> Result<(), Fault> {
    let mut reader = Reader::new(extensions);
    let mut seen = [0; MAX_EXTENSIONS];
    let mut count = 0;
    while !reader.is_empty() {
        let kind = reader.u16("an extension that is cut")?;
        let body = reader.vec16("an extension that is cut")?;
        if seen[..count].contains(&kind) {
            return Err("an extension that is there twice");
        }
        *seen.get_mut(count).ok_or("too many extensions")? = kind;
        count += 1;
        match kind {
            SERVER_NAME => hello.sni = Some(parse_server_name(body)?),
            ALPN => hello.alpn = parse_alpn(body)?,
            SUPPORTED_VERSIONS => hello.version = parse_versions(body)?,
            ECH_OUTER_EXTENSIONS => return Err("an extension that belongs into an encrypted hello"),
            _ if is_ech(kind) => hello.ech = true,
            _ => {}
        }
    }
    Ok(())
}

/// RFC 9849, the drafts -08 and later that were deployed, and the older encrypted server name.
const fn is_ech(kind: u16) -> bool {
    matches!(kind, 0xfe08..=0xfe0d | 0xff02 | 0xff03 | 0xffce)
}

/// RFC 6066 section 3. The RFC leaves room for a list; servers differ in which name they take.
fn parse_server_name(body: &[u8]) -> Result<HostName, Fault> {
    let mut outer = Reader::new(body);
    let mut list = Reader::new(outer.vec16("a list of server names that is cut")?);
    outer.end("bytes behind the list of server names")?;
    if list.u8("an empty list of server names")? != 0 {
        return Err("a server name of an unknown type");
    }
    let name = list.vec16("a server name that is cut")?;
    list.end("more than one server name")?;
    if name.last() == Some(&b'.') {
        return Err("a server name with a trailing dot");
    }
    if !name.is_ascii() {
        return Err("a server name that is not ASCII");
    }
    match Host::parse(name) {
        Ok(Host::Name(name)) => Ok(name),
        Ok(Host::Addr(_)) => Err("an address as the server name"),
        Err(_) => Err("a server name that is not a host name"),
    }
}

/// RFC 7301 section 3.1.
fn parse_alpn(body: &[u8]) -> Result<Alpn, Fault> {
    let mut outer = Reader::new(body);
    let mut list = Reader::new(outer.vec16("a list of protocols that is cut")?);
    outer.end("bytes behind the list of protocols")?;
    if list.is_empty() {
        return Err("an empty list of protocols");
    }
    let mut alpn = Alpn::NONE;
    while !list.is_empty() {
        let name = list.vec8("a protocol name that is cut")?;
        if name.is_empty() {
            return Err("an empty protocol name");
        }
        alpn.push(name);
    }
    Ok(alpn)
}

/// RFC 8446 section 4.2.1. Unknown values are skipped: decoys (RFC 8701) and drafts.
fn parse_versions(body: &[u8]) -> Result<TlsVersion, Fault> {
    let mut outer = Reader::new(body);
    let list = Reader::new(outer.vec8("a list of versions that is cut")?).rest();
    outer.end("bytes behind the list of versions")?;
    if !list.len().is_multiple_of(2) {
        return Err("a list of versions of odd length");
    }
    list.chunks_exact(2)
        .filter_map(|pair| TlsVersion::from_wire(u16::from_be_bytes([pair[0], pair[1]])))
        .max()
        .ok_or("a list of versions without a known one")
}
