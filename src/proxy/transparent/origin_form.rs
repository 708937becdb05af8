//! Requests as a web server gets them (RFC 9112 section 3.2.1), read as those of a proxy: one parser, one reading.

use bytes::{BufMut, Bytes, BytesMut};

use crate::domain::Target;
use crate::proxy::head::{HeadFault, RequestHead, RequestTarget};

/// Parses a whole head whose connection goes to `target`. Absolute-form is read too, for the same target.
///
/// # Errors
/// [`HeadFault`]: as [`RequestHead::parse`], and `BadHost` for any other target than `target`.
pub(in crate::proxy) fn parse(head: &Bytes, target: &Target) -> Result<RequestHead, HeadFault> {
    let parsed = RequestHead::parse(with_authority(head, target))?;
    match &parsed.target {
        RequestTarget::Forward { target: named, .. } if named == target => Ok(parsed),
        RequestTarget::Forward { .. } => Err(HeadFault::BadHost),
        // `CONNECT` to what is no proxy, as far as the client knows.
        RequestTarget::Tunnel(_) | RequestTarget::Origin { .. } => Err(HeadFault::BadTarget),
    }
}

/// The head in absolute-form: the authority is put before a path, and in place of `*`.
fn with_authority(head: &Bytes, target: &Target) -> Bytes {
    // The parser passes over one empty line.
    let start = if head.starts_with(b"\r\n") { 2 } else { 0 };
    let Some(space) = memchr::memchr(b' ', &head[start..]) else { return head.clone() };
    let at = start + space + 1;
    let rest = match &head[at..] {
        rest if rest.starts_with(b"/") => rest,
        rest if rest.starts_with(b"* ") && head[start..].starts_with(b"OPTIONS ") => &rest[1..],
        _ => return head.clone(),
    };
    let authority = format!("http://{target}");
    let mut whole = BytesMut::with_capacity(head.len() + authority.len());
    whole.put_slice(&head[..at]);
    whole.put_slice(authority.as_bytes());
    whole.put_slice(rest);
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<(String, String), HeadFault> {
        let target = Target::parse(b"a.test:8080", None).expect("a target");
        let parsed = parse(&Bytes::from(head.to_owned()), &target)?;
        match parsed.target {
            RequestTarget::Forward { path, wire, target: named } => {
                assert_eq!(named, target);
                Ok((path, wire))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_for_a_server_goes_to_the_target_of_its_connection() {
        for (line, path, wire) in [
            ("GET / HTTP/1.1", "/", "/"),
            ("GET /a?b=http://c.test/ HTTP/1.1", "/a", "/a?b=http://c.test/"),
            ("GET //b.test/ HTTP/1.1", "//b.test/", "//b.test/"),
            ("OPTIONS * HTTP/1.1", "*", "*"),
            ("GET http://a.test:8080/x HTTP/1.1", "/x", "/x"),
            ("\r\nGET /y HTTP/1.1", "/y", "/y"),
        ] {
            let head = format!("{line}\r\nHost: a.test:8080\r\n\r\n");
            assert_eq!(read(&head), Ok((path.to_owned(), wire.to_owned())), "{line}");
        }
        assert!(read("GET / HTTP/1.0\r\n\r\n").is_ok(), "HTTP/1.0 has no Host");
    }

    #[test]
    fn no_other_host_is_reached_through_it() {
        for (head, fault) in [
            ("GET / HTTP/1.1\r\nHost: b.test:8080\r\n\r\n", HeadFault::BadHost),
            ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", HeadFault::BadHost),
            ("GET / HTTP/1.1\r\n\r\n", HeadFault::BadHost),
            ("GET / HTTP/1.1\r\nHost: a.test:8080\r\nHost: b.test\r\n\r\n", HeadFault::BadHost),
            ("GET http://b.test:8080/ HTTP/1.1\r\nHost: b.test:8080\r\n\r\n", HeadFault::BadHost),
            ("GET http://b.test:8080/ HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", HeadFault::BadHost),
            ("CONNECT a.test:8080 HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", HeadFault::BadTarget),
            ("CONNECT /x HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", HeadFault::BadTarget),
            ("GET @b.test/ HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", HeadFault::BadTarget),
            ("GET /.. HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", HeadFault::AmbiguousPath),
            ("GET * HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", HeadFault::BadTarget),
            ("OPTIONS * HTTP/1.1\r\nHost: b.test:8080\r\n\r\n", HeadFault::BadHost),
        ] {
            assert_eq!(read(head).err(), Some(fault), "{head}");
        }
    }
}
