//! The one way from bytes to the normal form of a DNS name.
//!
//! A name that a proxy client writes is a claim that rules are matched against, so what two programs
//! could read in two ways is refused, not mapped. The only changes ever made are: ASCII upper case to
//! lower, one trailing dot off, and a U-label to its A-label when nothing but its case was mapped.

use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use super::HostFault;

/// Longest name in bytes without the trailing dot (RFC 1035 section 2.3.4: 255 octets on the wire).
const MAX_NAME: usize = 253;

/// Longest label in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// Longest UTF-8 form worth converting: no name of 253 bytes in A-labels has a longer one, since
/// Punycode spends at least one byte on a character, which is at most four bytes of UTF-8.
const MAX_UTF8: usize = MAX_NAME * 4;

/// The normal form of `raw`, which is not an IPv4 address and has no brackets.
pub(super) fn normalise(raw: &[u8]) -> Result<Arc<str>, HostFault> {
    let raw = raw.strip_suffix(b".").unwrap_or(raw);
    if !raw.is_ascii() {
        return from_unicode(raw);
    }
    if raw.len() > MAX_NAME {
        return Err(HostFault::TooLong);
    }
    if !raw.iter().any(u8::is_ascii_uppercase) {
        return from_ascii(raw);
    }
    let mut lower = [0; MAX_NAME];
    let lower = &mut lower[..raw.len()];
    lower.copy_from_slice(raw);
    lower.make_ascii_lowercase();
    from_ascii(lower)
}

/// The road of nearly every name: one scan, one allocation.
fn from_ascii(name: &[u8]) -> Result<Arc<str>, HostFault> {
    let punycode = check(name)?;
    let text = std::str::from_utf8(name).map_err(|_| HostFault::BadCharacter)?;
    if punycode {
        to_unicode(text)?;
    }
    Ok(Arc::from(text))
}

fn from_unicode(raw: &[u8]) -> Result<Arc<str>, HostFault> {
    if raw.len() > MAX_UTF8 {
        return Err(HostFault::TooLong);
    }
    let text = std::str::from_utf8(raw).map_err(|_| HostFault::BadCharacter)?;
    let folded = fold(text)?;
    let ascii = Uts46::new()
        .to_ascii(folded.as_bytes(), AsciiDenyList::EMPTY, Hyphens::CheckFirstLast, DnsLength::Ignore)
        .map_err(|_| HostFault::BadIdna)?;
    check(ascii.as_bytes())?;
    let unicode = to_unicode(&ascii)?;
    // Whatever UTS 46 mapped beyond case (full-width and circled letters, ligatures, other full stops,
    // soft hyphens, decomposed accents) shows as a difference here: another program may read the
    // client's text otherwise, so it is refused.
    let mut labels = ascii.split('.').zip(unicode.split('.'));
    for written in folded.split('.') {
        match labels.next() {
            Some((a_label, u_label)) if written == a_label || written == u_label => {}
            _ => return Err(HostFault::BadCharacter),
        }
    }
    if labels.next().is_some() {
        return Err(HostFault::BadCharacter);
    }
    Ok(Arc::from(&*ascii))
}

/// Lower case, character by character. A character outside ASCII never becomes ASCII: the Kelvin sign
/// is no `k`.
fn fold(text: &str) -> Result<String, HostFault> {
    let mut folded = String::with_capacity(text.len());
    for written in text.chars() {
        if written.is_ascii() {
            let lower = written.to_ascii_lowercase();
            if !matches!(lower, 'a'..='z' | '0'..='9' | '-' | '_' | '.') {
                return Err(HostFault::BadCharacter);
            }
            folded.push(lower);
        } else {
            for lower in written.to_lowercase() {
                if lower.is_ascii() {
                    return Err(HostFault::BadCharacter);
                }
                folded.push(lower);
            }
        }
    }
    Ok(folded)
}

/// The U-label form of a checked ASCII name. Refuses A-labels that are not valid IDNA or that are not
/// what their U-label encodes to, so that one name has one spelling.
fn to_unicode(ascii: &str) -> Result<String, HostFault> {
    let uts46 = Uts46::new();
    let (unicode, valid) = uts46.to_unicode(ascii.as_bytes(), AsciiDenyList::EMPTY, Hyphens::CheckFirstLast);
    valid.map_err(|_| HostFault::BadIdna)?;
    let back = uts46
        .to_ascii(unicode.as_bytes(), AsciiDenyList::EMPTY, Hyphens::CheckFirstLast, DnsLength::Ignore)
        .map_err(|_| HostFault::BadIdna)?;
    if back == ascii { Ok(unicode.into_owned()) } else { Err(HostFault::BadIdna) }
}

/// Checks a lower-case ASCII name label by label; says whether a label claims to be Punycode.
fn check(name: &[u8]) -> Result<bool, HostFault> {
    if name.len() > MAX_NAME {
        return Err(HostFault::TooLong);
    }
    let mut punycode = false;
    let mut numeric = false;
    for label in name.split(|byte| *byte == b'.') {
        let (Some(first), Some(last)) = (label.first(), label.last()) else {
            return Err(HostFault::EmptyLabel);
        };
        if !label.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
            return Err(HostFault::BadCharacter);
        }
        if label.len() > MAX_LABEL {
            return Err(HostFault::TooLong);
        }
        if *first == b'-' || *last == b'-' {
            return Err(HostFault::BadHyphen);
        }
        punycode |= label.starts_with(b"xn--");
        numeric = is_number(label);
    }
    // The "ends in a number" rule of the WHATWG URL standard: no such name exists, and `inet_aton` reads
    // most of them as an address.
    if numeric { Err(HostFault::NumericForm) } else { Ok(punycode) }
}

fn is_number(label: &[u8]) -> bool {
    match label.strip_prefix(b"0x") {
        Some(digits) => digits.iter().all(u8::is_ascii_hexdigit),
        None => label.iter().all(u8::is_ascii_digit),
    }
}
