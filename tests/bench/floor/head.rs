//! The two requests that the floor knows.

/// What a client asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Ask {
    /// A tunnel to `127.0.0.1:port`.
    Connect { port: u16 },
    /// A plain request to `127.0.0.1:port`, in origin form.
    Forward { port: u16, request: Vec<u8> },
    /// Any other host.
    Elsewhere,
}

/// Reads one whole head; none when it is not one.
pub(super) fn parse(head: &[u8]) -> Option<Ask> {
    let line_end = memchr::memchr(b'\r', head)?;
    if !head.ends_with(b"\r\n\r\n") {
        return None;
    }
    let line = std::str::from_utf8(&head[..line_end]).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    if method == "CONNECT" {
        let (host, port) = target.rsplit_once(':')?;
        return Some(if host == "127.0.0.1" { Ask::Connect { port: port.parse().ok()? } } else { Ask::Elsewhere });
    }
    let (authority, path) = target.strip_prefix("http://")?.split_once('/')?;
    let (host, port) = authority.split_once(':')?;
    if host != "127.0.0.1" {
        return Some(Ask::Elsewhere);
    }
    let mut request = Vec::with_capacity(head.len());
    request.extend_from_slice(method.as_bytes());
    request.extend_from_slice(b" /");
    request.extend_from_slice(path.as_bytes());
    request.extend_from_slice(b" HTTP/1.1");
    request.extend_from_slice(&head[line_end..]);
    Some(Ask::Forward { port: port.parse().ok()?, request })
}

/// Bytes of head and body together, from an answer whose head is whole and has a length.
pub(super) fn answer_bytes(answer: &[u8]) -> Option<usize> {
    let head_bytes = memchr::memmem::find(answer, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..head_bytes]).ok()?;
    let length = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    })?;
    head_bytes.checked_add(length)
}
