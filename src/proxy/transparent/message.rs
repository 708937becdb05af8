//! DNS queries as a runtime's resolver sends them, and the small answers that they get (RFC 1035).
//!
//! Read strictly: one question, no compression, nothing behind the end. What cannot be read is answered
//! with a bare header or not at all, and no answer is longer than its query by more than an address.

use std::net::IpAddr;

/// Longest query that is read: the payload that EDNS servers agree on (DNS flag day 2020).
pub const MAX_QUERY: usize = 1232;
/// How long a client may keep an answer, in seconds. Short, for a policy can change; not zero, for a page has
/// many connections.
pub const TTL: u32 = 30;

const HEADER: usize = 12;
/// RFC 1035 section 3.1.
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
const CLASS_IN: u16 = 1;
const TYPE_OPT: u16 = 41;
/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// A whole zone, or changes to one: never given.
    Transfer,
    /// Anything else: there is none. HTTPS and SVCB (RFC 9460) are here, so that no ECH key is learnt.
    Other(u16),
}

/// RFC 1035 section 4.1.1, RFC 6891 section 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The answer stands; it may be empty.
    NoError,
    /// The query cannot be read.
    FormErr,
    /// No answer now.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// Not a kind of message that is answered here.
    NotImp,
    /// Not a question that is answered here.
    Refused,
    /// A version of EDNS that is not known.
    BadVers,
}

impl Code {
    /// The low four bits, and the eight above them that only EDNS carries.
    const fn parts(self) -> (u8, u8) {
        match self {
            Self::NoError => (0, 0),
            Self::FormErr => (1, 0),
            Self::ServFail => (2, 0),
            Self::NxDomain => (3, 0),
            Self::NotImp => (4, 0),
            Self::Refused => (5, 0),
            Self::BadVers => (0, 1),
        }
    }
}

/// Why a message is no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// No header, or an answer: silence, so that two responders never talk to each other.
    Ignore,
    /// A header and nothing that can be answered: this is the whole answer.
    Answer([u8; HEADER]),
}

/// One question that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    id: [u8; 2],
    recursion_desired: bool,
    checking_disabled: bool,
    question: &'a [u8],
    edns: Option<Edns>,
    /// What is asked for.
    pub kind: Kind,
    /// Whether the class is `IN`, the only one there is.
    pub internet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edns {
    version: u8,
    /// RFC 3225: to be copied.
    dnssec: bool,
}

impl<'a> Query<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// [`Unread`] says what to send back, if anything.
    pub fn parse(message: &'a [u8]) -> Result<Self, Unread> {
        let Some((header, rest)) = message.split_first_chunk::<HEADER>() else { return Err(Unread::Ignore) };
        let [id0, id1, high, low, counts @ ..] = *header;
        if high & 0x80 != 0 {
            return Err(Unread::Ignore);
        }
        let failed =
            |code: Code| Unread::Answer([id0, id1, 0x80 | (high & 0x79), code.parts().0, 0, 0, 0, 0, 0, 0, 0, 0]);
        if high & 0x78 != 0 {
            return Err(failed(Code::NotImp));
        }
        let whole = message.len() <= MAX_QUERY && high & 0x02 == 0;
        // One question, no answers, no authorities, at most one additional record.
        let (additional, single) = (counts[7], counts[..7] == [0, 1, 0, 0, 0, 0, 0]);
        if !whole || !single || additional > 1 {
            return Err(failed(Code::FormErr));
        }
        let name = name_length(rest).ok_or_else(|| failed(Code::FormErr))?;
        let (question, behind) = rest.split_at_checked(name + 4).ok_or_else(|| failed(Code::FormErr))?;
        let number = |at: usize| u16::from_be_bytes([question[at], question[at + 1]]);
        let edns = match additional {
            0 if behind.is_empty() => None,
            1 => Some(edns(behind).ok_or_else(|| failed(Code::FormErr))?),
            _ => return Err(failed(Code::FormErr)),
        };
        Ok(Self {
            id: [id0, id1],
            recursion_desired: high & 0x01 != 0,
            checking_disabled: low & 0x10 != 0,
            question,
            edns,
            kind: Kind::of(number(name)),
            internet: number(name + 2) == CLASS_IN,
        })
    }

    /// The name with dots between its labels, as far as it is one that a host can have: letters, digits, hyphens
    /// and underscores. Bytes beyond ASCII are none of these: they would become another name.
    pub fn host(&self) -> Option<Vec<u8>> {
        let mut name = Vec::with_capacity(MAX_NAME);
        let mut rest = &self.question[..self.question.len() - 4];
        while let Some((&length, behind)) = rest.split_first() {
            if length == 0 {
                break;
            }
            let (label, behind) = behind.split_at(usize::from(length));
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return None;
            }
            if !name.is_empty() {
                name.push(b'.');
            }
            name.extend_from_slice(label);
            rest = behind;
        }
        (!name.is_empty()).then_some(name)
    }

    /// Whether the client speaks a version of EDNS that is not known (RFC 6891 section 6.1.3).
    pub fn unknown_edns(&self) -> bool {
        self.edns.is_some_and(|edns| edns.version != 0)
    }

    /// The answer: `code`, and the address if there is one.
    pub fn answer(&self, code: Code, address: Option<IpAddr>) -> Vec<u8> {
        let (low, high) = code.parts();
        let mut out = Vec::with_capacity(HEADER + self.question.len() + 40);
        out.extend_from_slice(&self.id);
        out.push(0x80 | u8::from(self.recursion_desired));
        out.push(0x80 | (u8::from(self.checking_disabled) << 4) | low);
        out.extend_from_slice(&[0, 1, 0, u8::from(address.is_some()), 0, 0, 0, u8::from(self.edns.is_some())]);
        out.extend_from_slice(self.question);
        if let Some(address) = address {
            // The name is where the question has it (RFC 1035 section 4.1.4).
            out.extend_from_slice(&[0xc0, 0x0c]);
            out.extend_from_slice(&match address {
                IpAddr::V4(_) => [0, 1, 0, 1],
                IpAddr::V6(_) => [0, 28, 0, 1],
            });
            out.extend_from_slice(&TTL.to_be_bytes());
            match address {
                IpAddr::V4(address) => {
                    out.extend_from_slice(&[0, 4]);
                    out.extend_from_slice(&address.octets());
                }
                IpAddr::V6(address) => {
                    out.extend_from_slice(&[0, 16]);
                    out.extend_from_slice(&address.octets());
                }
            }
        }
        if let Some(edns) = self.edns {
            let [size_high, size_low] = 1232_u16.to_be_bytes();
            let flags = if edns.dnssec { 0x80 } else { 0 };
            out.extend_from_slice(&[0, 0, 41, size_high, size_low, high, 0, flags, 0, 0, 0]);
        }
        out
    }
}

impl Kind {
    const fn of(number: u16) -> Self {
        match number {
            1 => Self::A,
            28 => Self::Aaaa,
            12 => Self::Ptr,
            251 | 252 => Self::Transfer,
            other => Self::Other(other),
        }
    }
}

/// Length of the name at the front of `bytes`, its last zero included. Pointers are none: a query has nothing
/// to point to.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = *bytes.get(at)?;
        if length > MAX_LABEL {
            return None;
        }
        at += 1 + usize::from(length);
        if at > MAX_NAME {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

/// The one additional record that a query may have (RFC 6891 section 6.1.2), with nothing behind it. Its options
/// are passed over.
fn edns(record: &[u8]) -> Option<Edns> {
    let ([root, type0, type1, _, _, _, version, flags, _, length0, length1], options) =
        record.split_first_chunk::<11>()?;
    let length = usize::from(u16::from_be_bytes([*length0, *length1]));
    let whole = *root == 0 && u16::from_be_bytes([*type0, *type1]) == TYPE_OPT && options.len() == length;
    whole.then_some(Edns { version: *version, dnssec: flags & 0x80 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16, class: u16) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            out.push(u8::try_from(label.len()).expect("short"));
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&class.to_be_bytes());
        out
    }

    fn with_edns(mut message: Vec<u8>, version: u8, options: &[u8]) -> Vec<u8> {
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, version, 0x80, 0, 0]);
        message.push(u8::try_from(options.len()).expect("short"));
        message.extend_from_slice(options);
        message
    }

    fn refused_with(message: &[u8]) -> Option<u8> {
        match Query::parse(message) {
            Err(Unread::Answer(header)) => {
                assert_eq!((&header[..2], header[2] & 0x80), (&message[..2], 0x80));
                assert_eq!(&header[4..], [0; 8], "no part of what could not be read is sent back");
                Some(header[3])
            }
            Err(Unread::Ignore) => None,
            Ok(query) => panic!("{query:?}"),
        }
    }

    #[test]
    fn an_address_query_is_read_and_answered() {
        let message = query("Www.Example.org", 1, 1);
        let read = Query::parse(&message).expect("a query");
        assert_eq!((read.kind, read.internet), (Kind::A, true));
        assert_eq!(read.host().as_deref(), Some(&b"Www.Example.org"[..]));
        let answer = read.answer(Code::NoError, Some("198.18.0.1".parse().expect("an address")));
        assert_eq!(&answer[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(&answer[12..message.len()], &message[12..], "the question in its own case");
        assert_eq!(&answer[message.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 198, 18, 0, 1]);
    }

    #[test]
    fn edns_is_answered_with_edns_and_a_strange_version_is_named() {
        let message = with_edns(query("a.test", 28, 1), 0, b"\x00\x0a\x00\x02xy");
        let read = Query::parse(&message).expect("a query");
        assert!(!read.unknown_edns());
        let answer = read.answer(Code::NxDomain, None);
        assert!(answer.ends_with(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]), "{answer:?}");
        assert_eq!(answer[3] & 0x0f, 3);
        let strange = with_edns(query("a.test", 28, 1), 1, b"");
        let read = Query::parse(&strange).expect("a query");
        assert!(read.unknown_edns());
        let answer = read.answer(Code::BadVers, None);
        assert_eq!((answer[3] & 0x0f, answer[answer.len() - 6]), (0, 1));
    }

    #[test]
    fn what_is_no_query_is_ignored_or_refused() {
        let good = query("a.test", 1, 1);
        let changed = |at: usize, byte: u8| {
            let mut message = good.clone();
            message[at] = byte;
            message
        };
        for (message, code) in [
            (Vec::new(), None),
            (good[..11].to_vec(), None),
            (changed(2, 0x81), None),
            (changed(2, 0x29), Some(4)),
            (changed(2, 0x03), Some(1)),
            (changed(5, 0), Some(1)),
            (changed(5, 2), Some(1)),
            (changed(4, 1), Some(1)),
            (changed(7, 1), Some(1)),
            (changed(9, 1), Some(1)),
            (changed(11, 1), Some(1)),
            (changed(11, 2), Some(1)),
            // A pointer to itself, an old extended label, a label beyond the end.
            (changed(12, 0xc0), Some(1)),
            (changed(12, 0x41), Some(1)),
            (changed(12, 60), Some(1)),
            (good[..good.len() - 1].to_vec(), Some(1)),
            ([&good[..], b"x"].concat(), Some(1)),
            ([&with_edns(good.clone(), 0, b"")[..], b"x"].concat(), Some(1)),
            (query(&vec!["a".repeat(63); 4].join("."), 1, 1), Some(1)),
        ] {
            assert_eq!(refused_with(&message), code, "{message:?}");
        }
    }

    #[test]
    fn a_label_is_never_more_than_one() {
        let mut message = query("a-b.test", 1, 1);
        message[14] = b'.';
        assert_eq!(Query::parse(&message).expect("a query").host(), None, "`a.b` in one label");
        for byte in [0, b' ', b'/', b'\\', 0xc3, b'*', b'\n'] {
            message[14] = byte;
            assert_eq!(Query::parse(&message).expect("a query").host(), None, "{byte}");
        }
        assert_eq!(Query::parse(&query("", 2, 1)).expect("the root").host(), None);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_is_much_longer_than_its_query(message in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            match Query::parse(&message) {
                Ok(query) => {
                    let answer = query.answer(Code::NoError, Some("::1".parse().expect("an address")));
                    proptest::prop_assert!(answer.len() <= message.len() + 28);
                }
                Err(Unread::Answer(header)) => proptest::prop_assert!(header.len() <= message.len()),
                Err(Unread::Ignore) => {}
            }
        }
    }
}
