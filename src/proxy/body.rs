//! Message bodies: where they end, and nothing beyond (RFC 9112 section 7).
//!
//! A chunked body is decoded and coded anew, never copied: chunk extensions end here, and both sides
//! agree about every boundary because we drew it.

use bytes::{Buf, BytesMut};

use super::head::Framing;

/// Most bytes of one chunk-size line, its extensions included. Real ones have under 20.
const MAX_CHUNK_LINE: usize = 1024;
/// Most bytes of chunk-size lines without data between them; stops a body of empty extensions.
const MAX_TRAILERS: usize = 16 << 10;
/// Trailer fields that would change framing, routing or authentication (RFC 9110 section 6.5.1).
const FORBIDDEN_TRAILERS: [&str; 12] = [
    "transfer-encoding",
    "content-length",
    "host",
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "authorization",
    "proxy-authorization",
    "proxy-authenticate",
];
/// The gateway's own fields, which no other side may write: labels upwards, decision ids downwards.
const OWN_PREFIX: &[u8] = b"x-arw-";

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// A chunk size that is no plain hexadecimal number below 2^60, or its line is too long.
    #[error("a chunk size is not valid")]
    ChunkSize,
    /// Chunk data not followed by CRLF, or a bare CR or LF in a chunk line.
    #[error("a chunk does not end where it says")]
    ChunkEnd,
    /// Trailers too long or not fields.
    #[error("the trailers are not valid")]
    Trailers,
}

/// What the front of the buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// This many bytes at the front are payload: take them, then call again.
    Data(usize),
    /// More bytes are needed.
    NeedMore,
    /// The body is complete; [`BodyReader::trailers`] has what came behind it.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Plain(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    TrailerLines,
}

/// Finds the payload and the end of one body in a growing buffer.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    trailers: Vec<u8>,
}

impl BodyReader {
    /// A reader for a body that ends as `framing` says.
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Plain(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, trailers: Vec::new() }
    }

    /// Trailer lines, each with CRLF, forbidden ones left out; without the final empty line.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Whether the end of the stream is the end of this body.
    pub fn ends_with_stream(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// Eats framing at the front of `buf` and says what follows. After `Data(n)` the caller takes
    /// exactly `n` bytes off the front.
    ///
    /// # Errors
    /// [`BodyFault`]; the connection cannot be used any more then.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Step, BodyFault> {
        loop {
            match self.state {
                State::Done => return Ok(Step::End),
                State::UntilClose if buf.is_empty() => return Ok(Step::NeedMore),
                State::UntilClose => return Ok(Step::Data(buf.len())),
                State::Plain(left) | State::ChunkData(left) => {
                    if buf.is_empty() {
                        return Ok(Step::NeedMore);
                    }
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                    let left = left - taken as u64;
                    self.state = match (self.state, left) {
                        (State::Plain(_), 0) => State::Done,
                        (State::Plain(_), _) => State::Plain(left),
                        (_, 0) => State::ChunkEnd,
                        _ => State::ChunkData(left),
                    };
                    return Ok(Step::Data(taken));
                }
                State::ChunkSize => match take_line(buf, MAX_CHUNK_LINE, BodyFault::ChunkSize)? {
                    None => return Ok(Step::NeedMore),
                    Some(line) => {
                        self.state = match chunk_size(&line)? {
                            0 => State::TrailerLines,
                            size => State::ChunkData(size),
                        }
                    }
                },
                State::ChunkEnd => {
                    if buf.len() < 2 {
                        return match buf.first() {
                            None | Some(b'\r') => Ok(Step::NeedMore),
                            Some(_) => Err(BodyFault::ChunkEnd),
                        };
                    }
                    if !buf.starts_with(b"\r\n") {
                        return Err(BodyFault::ChunkEnd);
                    }
                    buf.advance(2);
                    self.state = State::ChunkSize;
                }
                State::TrailerLines => match take_line(buf, MAX_TRAILERS, BodyFault::Trailers)? {
                    None => return Ok(Step::NeedMore),
                    Some(line) if line.is_empty() => self.state = State::Done,
                    Some(line) => self.keep_trailer(&line)?,
                },
            }
        }
    }

    fn keep_trailer(&mut self, line: &[u8]) -> Result<(), BodyFault> {
        let colon = memchr::memchr(b':', line).ok_or(BodyFault::Trailers)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let visible = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        if name.is_empty() || !name.iter().all(token) || !value.iter().all(visible) {
            return Err(BodyFault::Trailers);
        }
        if self.trailers.len() + line.len() > MAX_TRAILERS {
            return Err(BodyFault::Trailers);
        }
        let own = name.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX));
        if !own && !FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes())) {
            self.trailers.extend_from_slice(line);
            self.trailers.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

/// One line off the front of `buf` without its CRLF; `None` while it is incomplete.
fn take_line(buf: &mut BytesMut, max: usize, too_long: BodyFault) -> Result<Option<BytesMut>, BodyFault> {
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return if buf.len() >= max { Err(too_long) } else { Ok(None) };
    };
    if end >= max {
        return Err(too_long);
    }
    let mut line = buf.split_to(end + 1);
    if !line.ends_with(b"\r\n") {
        return Err(BodyFault::ChunkEnd);
    }
    line.truncate(end - 1);
    if line.contains(&b'\r') || line.contains(&0) {
        return Err(BodyFault::ChunkEnd);
    }
    Ok(Some(line))
}

/// `1*HEXDIG`, then nothing or an extension behind `;` (RFC 9112 section 7.1.1).
fn chunk_size(line: &[u8]) -> Result<u64, BodyFault> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    // Some servers pad the size with spaces in front of the end of the line.
    let digits = line[..end].trim_ascii_end();
    if digits.is_empty() || digits.len() > 15 {
        return Err(BodyFault::ChunkSize);
    }
    digits.iter().try_fold(0_u64, |size, byte| {
        char::from(*byte).to_digit(16).map(|digit| size << 4 | u64::from(digit)).ok_or(BodyFault::ChunkSize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(framing: Framing, input: &[u8], cut: usize) -> Result<(Vec<u8>, Vec<u8>, usize), BodyFault> {
        let mut reader = BodyReader::new(framing);
        let mut buf = BytesMut::new();
        let mut payload = Vec::new();
        let mut fed = 0;
        loop {
            match reader.step(&mut buf)? {
                Step::Data(count) => payload.extend_from_slice(&buf.split_to(count)),
                Step::End => return Ok((payload, reader.trailers().to_vec(), buf.len() + input.len() - fed)),
                Step::NeedMore if fed == input.len() => return Ok((payload, b"unfinished".to_vec(), 0)),
                Step::NeedMore => {
                    let next = (fed + cut).min(input.len());
                    buf.extend_from_slice(&input[fed..next]);
                    fed = next;
                }
            }
        }
    }

    #[test]
    fn chunks_decode_alike_however_they_are_cut() {
        let wire =
            b"4\r\nWiki\r\n6;a=\"b\"\r\npedia \r\nE \r\nin \r\n\r\nchunks.\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\nGET";
        for cut in 1..wire.len() {
            let (payload, trailers, rest) = decode(Framing::Chunked, wire, cut).expect("valid");
            assert_eq!(payload, b"Wikipedia in \r\n\r\nchunks.");
            assert_eq!(trailers, b"X-Sum: 1\r\n");
            assert_eq!(rest, 3, "the next request is not eaten");
        }
    }

    #[test]
    fn a_length_ends_exactly_there() {
        assert_eq!(decode(Framing::Length(3), b"abcdef", 2), Ok((b"abc".to_vec(), vec![], 3)));
        assert_eq!(decode(Framing::Empty, b"abc", 1), Ok((vec![], vec![], 3)));
    }

    #[test]
    fn chunk_tricks_are_refused() {
        for (wire, fault) in [
            (&b"\r\n"[..], BodyFault::ChunkSize),
            (b"+4\r\nWiki\r\n", BodyFault::ChunkSize),
            (b"0x4\r\nWiki\r\n", BodyFault::ChunkSize),
            (b"-1\r\n", BodyFault::ChunkSize),
            (b" 4\r\nWiki\r\n", BodyFault::ChunkSize),
            (b"4 4\r\nWiki\r\n", BodyFault::ChunkSize),
            (b"fffffffffffffffff\r\n", BodyFault::ChunkSize),
            (b"4\nWiki\r\n", BodyFault::ChunkEnd),
            (b"4\r\nWikiX\r\n", BodyFault::ChunkEnd),
            (b"4;a\rb\r\nWiki\r\n", BodyFault::ChunkEnd),
            (b"4;\0\r\nWiki\r\n", BodyFault::ChunkEnd),
            (b"0\r\nbad header\r\n\r\n", BodyFault::Trailers),
            (b"0\r\nbad header: x\r\n\r\n", BodyFault::Trailers),
            (b"0\r\n: x\r\n\r\n", BodyFault::Trailers),
        ] {
            assert_eq!(decode(Framing::Chunked, wire, 1), Err(fault), "{:?}", String::from_utf8_lossy(wire));
        }
        let long = [b"1;".as_slice(), &[b'a'; 2000], b"\r\n"].concat();
        assert_eq!(decode(Framing::Chunked, &long, 100), Err(BodyFault::ChunkSize));
    }
}
