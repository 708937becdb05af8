//! Request and response heads, read strictly (RFC 9112).
//!
//! `httparse` does the tokenising. What it tolerates and a forward proxy must not (bare line feeds,
//! folded fields, leading garbage, two ways to say how long a body is) is refused here, before a head
//! means anything. A head that passes has one reading only.

use std::ops::Range;

use bytes::Bytes;

use crate::domain::{Host, Method, Target, normalise_path};

/// Most fields of one head. Browsers send about 20, gateways in chains 50.
pub const MAX_FIELDS: usize = 128;

/// Most options in `Connection`. Real messages have one or two.
pub const MAX_OPTIONS: usize = 32;

/// HTTP version of a message, by its minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked framing, closes by default.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// More bytes than the bound without an end.
    #[error("the head is larger than the gateway accepts")]
    TooLarge,
    /// More fields than [`MAX_FIELDS`].
    #[error("the head has too many fields")]
    TooManyFields,
    /// Not HTTP/1.x, an HTTP/2 preface among them.
    #[error("only HTTP/1.1 and HTTP/1.0 are spoken here")]
    Version,
    /// A line feed without carriage return, a lone carriage return, or a NUL.
    #[error("the head has a bare CR, a bare LF or a NUL")]
    BareControl,
    /// A field continued on the next line (RFC 9112 section 5.2).
    #[error("the head has a folded field")]
    Folded,
    /// Anything else that does not parse.
    #[error("the head is not valid HTTP")]
    Syntax,
    /// The request target is not of a form that its method takes.
    #[error("the request target is not valid")]
    BadTarget,
    /// `https://` in absolute form: TLS needs `CONNECT`.
    #[error("absolute-form works for http:// only; use CONNECT for other schemes")]
    BadScheme,
    /// The path has dot segments or escapes that servers read differently.
    #[error("the path is ambiguous: dot segments, bad escapes or an encoded slash")]
    AmbiguousPath,
    /// Not exactly one `Host`, or one that is unlike the target.
    #[error("the Host field is missing, repeated or unlike the target")]
    BadHost,
    /// Both lengths, several lengths, a length that is no number, or an unknown transfer coding.
    #[error("the length of the body is ambiguous")]
    BadFraming,
    /// `Connection` names a field that the message needs, or more than [`MAX_OPTIONS`].
    #[error("the Connection field names too many fields, or one that must not be removed")]
    BadConnection,
    /// More than one `Proxy-Authorization`.
    #[error("the credentials are repeated")]
    RepeatedCredentials,
}

impl HeadFault {
    /// The HTTP status that answers it.
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyFields => 431,
            Self::Version => 505,
            _ => 400,
        }
    }
}

/// How the end of a body is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// The fields of one head, in order and in the case they came in.
#[derive(Debug, Clone)]
pub struct Fields {
    raw: Bytes,
    spans: Vec<(Range<u32>, Range<u32>)>,
}

impl Fields {
    /// Name and value of each field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|(name, value)| {
            let name = &self.raw[name.start as usize..name.end as usize];
            let value = &self.raw[value.start as usize..value.end as usize];
            (name, value)
        })
    }

    /// The values of every field called `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The value of the only field called `name`; `None` when there is none.
    fn only(&self, name: &str, fault: HeadFault) -> Result<Option<&[u8]>, HeadFault> {
        let mut values = self.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
        let first = values.next().map(|(_, value)| value);
        if values.next().is_some() { Err(fault) } else { Ok(first) }
    }

    /// The comma-separated members of every field called `name` (RFC 9110 section 5.6.1).
    pub fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }
}

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget {
    /// `CONNECT host:port`.
    Tunnel(Target),
    /// `GET http://host/path`.
    Forward {
        /// Host and port, 80 when the URI has none.
        target: Target,
        /// Path in normal form, for rules and records.
        path: String,
        /// Path and query exactly as written (`/` for an empty path), for the upstream.
        wire: String,
    },
    /// `GET /path`: the client takes the gateway for a web server.
    Origin {
        /// Path and query exactly as written.
        wire: String,
    },
}

/// A request head that has one reading.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Method, case kept.
    pub method: Method,
    /// Where to.
    pub target: RequestTarget,
    /// The client's version.
    pub version: Version,
    /// Fields as received.
    pub fields: Fields,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the client wants the connection kept.
    pub keep_alive: bool,
    /// The token that an `Upgrade` asks for, unless it is one that we refuse to pass on.
    pub upgrade: Option<String>,
}

/// A response head that has one reading.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// Reason phrase as received.
    pub reason: String,
    /// The upstream's version.
    pub version: Version,
    /// Fields as received.
    pub fields: Fields,
    /// How its body ends, for the request that it answers.
    pub framing: Framing,
    /// Whether the upstream keeps the connection.
    pub keep_alive: bool,
}

/// Length of the head at the front of `buf`, its empty line included.
///
/// `scanned` remembers how far earlier calls looked, so that a dripping client costs linear time.
///
/// # Errors
/// [`HeadFault::TooLarge`] once `max` bytes hold no end.
pub fn head_length(buf: &[u8], scanned: &mut usize, max: usize) -> Result<Option<usize>, HeadFault> {
    let from = scanned.saturating_sub(3);
    let found = memchr::memmem::find(&buf[from.min(buf.len())..], b"\r\n\r\n").map(|at| from + at + 4);
    *scanned = buf.len();
    match found {
        Some(length) if length <= max => Ok(Some(length)),
        None if buf.len() < max => {
            // Bytes that cannot be the start of HTTP end the wait at once: TLS and HTTP/2 prefaces, garbage.
            if buf.first().is_some_and(|byte| !byte.is_ascii_graphic() && *byte != b'\r') {
                return Err(HeadFault::Syntax);
            }
            // A head of bare line feeds would otherwise wait for the time limit.
            let bare = memchr::memmem::find(&buf[from.min(buf.len())..], b"\n\n").is_some();
            if bare { Err(HeadFault::BareControl) } else { Ok(None) }
        }
        _ => Err(HeadFault::TooLarge),
    }
}

/// Refuses line ends other than CRLF, NUL, and folded fields in a whole head.
fn check_lines(head: &[u8]) -> Result<(), HeadFault> {
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, head) {
        match head[at] {
            b'\n' if at > 0 && head[at - 1] == b'\r' => {
                if matches!(head.get(at + 1), Some(b' ' | b'\t')) {
                    return Err(HeadFault::Folded);
                }
            }
            b'\r' if head.get(at + 1) == Some(&b'\n') => {}
            _ => return Err(HeadFault::BareControl),
        }
    }
    Ok(())
}

fn syntax(error: httparse::Error) -> HeadFault {
    match error {
        httparse::Error::TooManyHeaders => HeadFault::TooManyFields,
        httparse::Error::Version => HeadFault::Version,
        _ => HeadFault::Syntax,
    }
}

fn spans(raw: &[u8], headers: &[httparse::Header<'_>]) -> Vec<(Range<u32>, Range<u32>)> {
    let base = raw.as_ptr() as usize;
    let span = |part: &[u8]| {
        // An empty value may point anywhere; a span of no bytes at 0 says the same.
        let start = if part.is_empty() { 0 } else { part.as_ptr() as usize - base };
        let start = u32::try_from(start).expect("a head is at most 1 MiB");
        start..start + u32::try_from(part.len()).expect("a head is at most 1 MiB")
    };
    headers.iter().map(|field| (span(field.name.as_bytes()), span(field.value))).collect()
}

impl RequestHead {
    /// Parses one whole head as [`head_length`] measured it.
    ///
    /// # Errors
    /// [`HeadFault`] says what is wrong; nothing is repaired.
    pub fn parse(head: Bytes) -> Result<Self, HeadFault> {
        // RFC 9112 section 2.2: one empty line before the request line is ignored, no more.
        let head = if head.starts_with(b"\r\n") { head.slice(2..) } else { head };
        if head.starts_with(b"PRI * HTTP/2") {
            return Err(HeadFault::Version);
        }
        check_lines(&head)?;
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut storage);
        if !request.parse(&head).map_err(syntax)?.is_complete() || head.starts_with(b"\r\n") {
            return Err(HeadFault::Syntax);
        }
        let method = Method::parse(request.method.unwrap_or("")).map_err(|_| HeadFault::Syntax)?;
        let version = if request.version == Some(1) { Version::Http11 } else { Version::Http10 };
        let target = parse_target(&method, request.path.unwrap_or(""))?;
        let fields = Fields { spans: spans(&head, request.headers), raw: head };
        fields.only("proxy-authorization", HeadFault::RepeatedCredentials)?;
        check_host(&fields, &target, version)?;
        check_connection(&fields)?;
        let framing = request_framing(&fields, version)?;
        if matches!(target, RequestTarget::Tunnel(_)) && !matches!(framing, Framing::Empty) {
            return Err(HeadFault::BadFraming);
        }
        let keep_alive = keeps_alive(&fields, version, true);
        let upgrade = upgrade_token(&fields, version);
        Ok(Self { method, target, version, fields, framing, keep_alive, upgrade })
    }
}

/// CONNECT takes authority-form with a port; everything else absolute-form, or is for a web server.
fn parse_target(method: &Method, raw: &str) -> Result<RequestTarget, HeadFault> {
    if !raw.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(HeadFault::BadTarget);
    }
    if method.as_str() == "CONNECT" {
        return Target::parse(raw.as_bytes(), None).map(RequestTarget::Tunnel).map_err(|_| HeadFault::BadTarget);
    }
    if raw.starts_with('/') || raw == "*" {
        return Ok(RequestTarget::Origin { wire: raw.to_owned() });
    }
    let (scheme, rest) = raw.split_once("://").ok_or(HeadFault::BadTarget)?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(HeadFault::BadScheme);
    }
    if raw.contains('#') || raw.contains('\\') {
        return Err(HeadFault::BadTarget);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let target = Target::parse(authority.as_bytes(), Some(80)).map_err(|_| HeadFault::BadTarget)?;
    if method.as_str() == "OPTIONS" && tail.is_empty() {
        // RFC 9112 section 3.2.4: the server as a whole.
        return Ok(RequestTarget::Forward { target, path: "*".to_owned(), wire: "*".to_owned() });
    }
    let raw_path = tail.split('?').next().unwrap_or("");
    let path = normalise_path(raw_path).map_err(|_| HeadFault::AmbiguousPath)?;
    // RFC 9110 section 7.7 forbids to change the path on its way, so what rules see and what the server
    // sees must be the same thing: dot segments are refused rather than removed.
    let slashes = |text: &str| text.bytes().filter(|byte| *byte == b'/').count();
    if !raw_path.is_empty() && (slashes(raw_path) != slashes(&path) || ends_in_dots(raw_path)) {
        return Err(HeadFault::AmbiguousPath);
    }
    let wire = if tail.starts_with('/') { tail.to_owned() } else { format!("/{tail}") };
    Ok(RequestTarget::Forward { target, path, wire })
}

/// A last segment `.` or `..` keeps the number of slashes when it is removed.
fn ends_in_dots(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or("").to_ascii_lowercase().replace("%2e", ".");
    last == "." || last == ".."
}

fn check_host(fields: &Fields, target: &RequestTarget, version: Version) -> Result<(), HeadFault> {
    let host = fields.only("host", HeadFault::BadHost)?;
    let Some(host) = host else {
        return if version == Version::Http11 { Err(HeadFault::BadHost) } else { Ok(()) };
    };
    let agrees = match target {
        // Of a tunnel the target alone counts (RFC 9112 section 3.2.3), and the field goes nowhere: Node's own
        // example names the proxy there.
        RequestTarget::Origin { .. } | RequestTarget::Tunnel(_) => true,
        RequestTarget::Forward { target, .. } => host_of(host, 80).is_some_and(|named| named == *target),
    };
    if agrees { Ok(()) } else { Err(HeadFault::BadHost) }
}

fn host_of(raw: &[u8], default_port: u16) -> Option<Target> {
    Target::parse(raw, Some(default_port)).ok().or_else(|| {
        // `Host: ::1` without brackets is wrong, but `Host: [::1]` without a port is not.
        Host::parse(raw).ok().map(|host| Target { host, port: default_port })
    })
}

/// Every field of a message is compared with every option of its connection, so there are not many.
fn check_options(fields: &Fields) -> Result<(), HeadFault> {
    let options = fields.members("connection").chain(fields.members("proxy-connection"));
    if options.count() > MAX_OPTIONS { Err(HeadFault::BadConnection) } else { Ok(()) }
}

/// Removing these would change where the message goes or ends.
fn check_connection(fields: &Fields) -> Result<(), HeadFault> {
    check_options(fields)?;
    const NEEDED: [&[u8]; 6] =
        [b"content-length", b"transfer-encoding", b"host", b"via", b"expect", b"proxy-authorization"];
    let names_needed = ["connection", "proxy-connection"]
        .iter()
        .any(|name| fields.members(name).any(|member| NEEDED.iter().any(|n| member.eq_ignore_ascii_case(n))));
    if names_needed { Err(HeadFault::BadConnection) } else { Ok(()) }
}

fn content_length(fields: &Fields) -> Result<Option<u64>, HeadFault> {
    let Some(raw) = fields.only("content-length", HeadFault::BadFraming)? else { return Ok(None) };
    let digits = !raw.is_empty() && raw.len() <= 18 && raw.iter().all(u8::is_ascii_digit);
    if !digits {
        return Err(HeadFault::BadFraming);
    }
    Ok(Some(raw.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'))))
}

/// Whether the transfer coding is exactly `chunked`, once.
fn chunked(fields: &Fields) -> Result<bool, HeadFault> {
    match fields.only("transfer-encoding", HeadFault::BadFraming)? {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        Some(_) => Err(HeadFault::BadFraming),
    }
}

fn request_framing(fields: &Fields, version: Version) -> Result<Framing, HeadFault> {
    match (chunked(fields)?, content_length(fields)?) {
        (true, Some(_)) => Err(HeadFault::BadFraming),
        (true, None) if version == Version::Http10 => Err(HeadFault::BadFraming),
        (true, None) => Ok(Framing::Chunked),
        (false, None | Some(0)) => Ok(Framing::Empty),
        (false, Some(length)) => Ok(Framing::Length(length)),
    }
}

fn has_member(fields: &Fields, name: &str, member: &str) -> bool {
    fields.members(name).any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
}

fn keeps_alive(fields: &Fields, version: Version, from_client: bool) -> bool {
    let says = |member| {
        has_member(fields, "connection", member) || (from_client && has_member(fields, "proxy-connection", member))
    };
    match version {
        Version::Http11 => !says("close"),
        // RFC 9112 section 9.3: a proxy does not keep the connection of an HTTP/1.0 client, whose `keep-alive`
        // may come from a proxy in front of it that passes on what it does not know.
        Version::Http10 => !from_client && says("keep-alive") && !says("close"),
    }
}

/// The protocol to upgrade to. HTTP/2 in clear text would carry requests past the gate: not passed on.
fn upgrade_token(fields: &Fields, version: Version) -> Option<String> {
    if version == Version::Http10 || !has_member(fields, "connection", "upgrade") {
        return None;
    }
    let mut tokens = fields.members("upgrade");
    let token = std::str::from_utf8(tokens.next()?).ok()?;
    let lower = token.to_ascii_lowercase();
    let http = lower.starts_with("h2") || lower.starts_with("http");
    (tokens.next().is_none() && !http).then(|| token.to_owned())
}

impl ResponseHead {
    /// Parses one whole head as [`head_length`] measured it, the answer to a request with `method`.
    ///
    /// # Errors
    /// [`HeadFault`] says what is wrong; the exchange is answered with `502` then.
    pub fn parse(head: Bytes, method: &str) -> Result<Self, HeadFault> {
        check_lines(&head)?;
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut storage);
        if !response.parse(&head).map_err(syntax)?.is_complete() || !head.starts_with(b"HTTP/1.") {
            return Err(HeadFault::Syntax);
        }
        let status = response.code.unwrap_or(0);
        if status < 100 {
            return Err(HeadFault::Syntax);
        }
        let reason = response.reason.unwrap_or("").to_owned();
        let version = if response.version == Some(1) { Version::Http11 } else { Version::Http10 };
        let fields = Fields { spans: spans(&head, response.headers), raw: head };
        check_options(&fields)?;
        let length = content_length(&fields)?;
        let chunked = chunked(&fields)?;
        if chunked && (version == Version::Http10 || length.is_some()) {
            return Err(HeadFault::BadFraming);
        }
        let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let framing = match (bodiless, chunked, length) {
            (true, _, _) | (false, false, Some(0)) => Framing::Empty,
            (false, true, _) => Framing::Chunked,
            (false, false, Some(length)) => Framing::Length(length),
            (false, false, None) => Framing::UntilClose,
        };
        let keep_alive = keeps_alive(&fields, version, false) && framing != Framing::UntilClose;
        Ok(Self { status, reason, version, fields, framing, keep_alive })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &str, minor: u8) -> Result<RequestHead, HeadFault> {
        let head = format!("GET http://a.test/ HTTP/1.{minor}\r\nHost: a.test\r\n{fields}\r\n");
        RequestHead::parse(Bytes::from(head))
    }

    #[test]
    fn a_client_of_http_1_0_is_not_kept_whatever_it_asks_for() {
        let kept = |fields, minor| request(fields, minor).expect("valid").keep_alive;
        assert!(kept("", 1) && !kept("Connection: close\r\n", 1) && !kept("Proxy-Connection: close\r\n", 1));
        for fields in ["", "Connection: keep-alive\r\n", "Proxy-Connection: keep-alive\r\n"] {
            assert!(!kept(fields, 0), "{fields}");
        }
    }

    #[test]
    fn no_spelling_of_http_is_upgraded_to() {
        for (token, passed) in
            [("websocket", true), ("h2c", false), ("H2", false), ("http/2.0", false), ("HTTP/3", false)]
        {
            let head = request(&format!("Connection: upgrade\r\nUpgrade: {token}\r\n"), 1).expect("valid");
            assert_eq!(head.upgrade.is_some(), passed, "{token}");
        }
    }

    #[test]
    fn a_connection_has_few_options() {
        let list = |count| format!("Connection: {}\r\n", vec!["a"; count].join(","));
        assert!(request(&list(MAX_OPTIONS), 1).is_ok());
        for fields in [list(MAX_OPTIONS + 1), list(20).repeat(2), list(20) + "Proxy-" + &list(20)] {
            assert_eq!(request(&fields, 1).err(), Some(HeadFault::BadConnection), "{fields}");
        }
        let answer = format!("HTTP/1.1 200 OK\r\n{}\r\n", list(MAX_OPTIONS + 1));
        assert_eq!(ResponseHead::parse(Bytes::from(answer), "GET").err(), Some(HeadFault::BadConnection));
    }

    #[test]
    fn bare_line_feeds_are_found_wherever_the_reads_cut_them() {
        let head = b"GET http://a.test/ HTTP/1.1\nHost: a.test\n\nmore";
        let end = head.len() - b"more".len();
        for step in 1..head.len() {
            let (mut scanned, mut read) = (0, 0);
            let found = loop {
                read = (read + step).min(head.len());
                match head_length(&head[..read], &mut scanned, 1 << 16) {
                    Ok(None) if read < head.len() => {}
                    other => break other,
                }
            };
            assert_eq!(found, Err(HeadFault::BareControl), "{step}");
            assert!(read < end + step, "{step}");
        }
    }
}
