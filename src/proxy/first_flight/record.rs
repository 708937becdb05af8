//! The record layer (RFC 8446 section 5.1): from the client's bytes to one handshake message.

use std::borrow::Cow;

/// Longest ClientHello, in bytes with its handshake header. With post-quantum key shares and many
/// tickets real ones stay below 16 KiB.
pub const MAX_HELLO: usize = 64 * 1024;

/// Most records that one hello may be cut into: one record per byte of the common hello of about 2 KiB
/// is still read, and looking again after every byte stays cheap.
const MAX_RECORDS: usize = 4096;

/// Most bytes of a client that must be kept to reach a verdict.
pub const MAX_FLIGHT: usize = MAX_HELLO + MAX_RECORDS * HEADER;

const HEADER: usize = 5;
/// RFC 8446 section 5.1: 2^14 bytes of plaintext.
const MAX_FRAGMENT: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEADER: usize = 4;

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    NeedMore,
    NotTls,
    Malformed(&'static str),
}

/// The ClientHello message without its four-byte header, once all of it is there. Borrowed when it came
/// in one record.
pub(super) fn hello_message(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Stop> {
    let records = Records { rest: bytes, count: 0 };
    let mut head = Head::default();
    let mut payload = 0;
    for fragment in records {
        let fragment = fragment?;
        head.push(fragment.present)?;
        payload += fragment.len;
        let Some(message) = head.message_len()? else { continue };
        if payload > message {
            return Err(Stop::Malformed("bytes behind the hello in its record"));
        }
        if payload == message && fragment.is_complete() {
            return Ok(collect(bytes, fragment.number, message));
        }
    }
    Err(Stop::NeedMore)
}

/// The payloads of the first `count` records, which are complete and hold `message` bytes.
fn collect(bytes: &[u8], count: usize, message: usize) -> Cow<'_, [u8]> {
    if count == 1 {
        return Cow::Borrowed(&bytes[HEADER + MESSAGE_HEADER..HEADER + message]);
    }
    let mut whole = Vec::with_capacity(message);
    for fragment in (Records { rest: bytes, count: 0 }).flatten().take(count) {
        whole.extend_from_slice(fragment.present);
    }
    whole.drain(..MESSAGE_HEADER);
    Cow::Owned(whole)
}

/// One record's payload, or as much of it as arrived.
struct Fragment<'a> {
    /// Counted from 1.
    number: usize,
    /// As its header says.
    len: usize,
    present: &'a [u8],
}

impl Fragment<'_> {
    const fn is_complete(&self) -> bool {
        self.present.len() == self.len
    }
}

/// Walks over handshake records, checking each header as far as it is there. Ends behind the last byte;
/// nothing follows a fault or an incomplete record.
struct Records<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Fragment<'a>, Stop>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        self.count += 1;
        let checked = if self.count == 1 { check_first(self.rest) } else { check_later(self.rest, self.count) };
        let len = match checked.and_then(|()| fragment_len(self.rest)) {
            Ok(len) => len,
            Err(stop) => {
                self.rest = &[];
                return Some(Err(stop));
            }
        };
        let payload = &self.rest[HEADER..];
        let present = &payload[..len.min(payload.len())];
        self.rest = &payload[present.len()..];
        Some(Ok(Fragment { number: self.count, len, present }))
    }
}

/// The first record also decides whether this is TLS at all.
fn check_first(bytes: &[u8]) -> Result<(), Stop> {
    match *bytes {
        // RFC 5246 appendix E.2: two bytes of length with the high bit set, then type and version. Some
        // servers still take it.
        [0x80..=0xff] | [0x80..=0xff, _] => Err(Stop::NeedMore),
        [0x80..=0xff, _, CLIENT_HELLO] => Err(Stop::NeedMore),
        [0x80..=0xff, _, CLIENT_HELLO, 0] => Err(Stop::NeedMore),
        [0x80..=0xff, _, CLIENT_HELLO, 0, 2, ..] | [0x80..=0xff, _, CLIENT_HELLO, 3, ..] => {
            Err(Stop::Malformed("an SSLv2 hello"))
        }
        // Other record types: some servers skip a warning alert in front of the hello.
        [20..=24] => Err(Stop::NeedMore),
        [HANDSHAKE, 3] => Err(Stop::NeedMore),
        [HANDSHAKE, 3, minor, ..] => check_minor(minor),
        [20..=24, 3, ..] => Err(Stop::Malformed("a TLS record that is not a handshake comes first")),
        _ => Err(Stop::NotTls),
    }
}

fn check_later(bytes: &[u8], number: usize) -> Result<(), Stop> {
    if number > MAX_RECORDS {
        return Err(Stop::Malformed("a hello in too many records"));
    }
    match *bytes {
        [HANDSHAKE] | [HANDSHAKE, 3] => Err(Stop::NeedMore),
        [HANDSHAKE, 3, minor, ..] => check_minor(minor),
        [HANDSHAKE, ..] => Err(Stop::Malformed("a record of another protocol inside the hello")),
        _ => Err(Stop::Malformed("a record of another type inside the hello")),
    }
}

/// Versions up to TLS 1.3. Servers that ignore the version of a first record would take more.
fn check_minor(minor: u8) -> Result<(), Stop> {
    if minor <= 4 { Ok(()) } else { Err(Stop::Malformed("a record of an unknown TLS version")) }
}

fn fragment_len(bytes: &[u8]) -> Result<usize, Stop> {
    match *bytes {
        [_, _, _, high, ..] if usize::from(high) << 8 > MAX_FRAGMENT => {
            Err(Stop::Malformed("a record longer than 16384 bytes"))
        }
        [_, _, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            0 => Err(Stop::Malformed("an empty record")),
            len if len > MAX_FRAGMENT => Err(Stop::Malformed("a record longer than 16384 bytes")),
            len => Ok(len),
        },
        _ => Err(Stop::NeedMore),
    }
}

/// The handshake header, which may itself be cut.
#[derive(Default)]
struct Head {
    bytes: [u8; MESSAGE_HEADER],
    have: usize,
}

impl Head {
    fn push(&mut self, payload: &[u8]) -> Result<(), Stop> {
        let taken = payload.len().min(MESSAGE_HEADER - self.have);
        self.bytes[self.have..self.have + taken].copy_from_slice(&payload[..taken]);
        self.have += taken;
        if self.have > 0 && self.bytes[0] != CLIENT_HELLO {
            return Err(Stop::Malformed("a handshake message that is not a client hello"));
        }
        Ok(())
    }

    /// The length of the message with this header, once the header is there.
    fn message_len(&self) -> Result<Option<usize>, Stop> {
        if self.have < MESSAGE_HEADER {
            return Ok(None);
        }
        let [_, high, middle, low] = self.bytes;
        let len = MESSAGE_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
        if len > MAX_HELLO { Err(Stop::Malformed("a hello longer than 65536 bytes")) } else { Ok(Some(len)) }
    }
}
