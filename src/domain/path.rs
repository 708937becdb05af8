//! The path of a visible HTTP request in the one form that rules are matched against.
//!
//! Owns RFC 3986 section 6.2.2 normalisation (case, percent-escapes, dot segments). Refuses what servers
//! are known to read in different ways, because a path that the gateway and the server read differently
//! is a way around a rule: encoded slashes and backslashes, dot segments with parameters, `//..`, overlong
//! UTF-8.

use std::borrow::Cow;

/// Longest path in bytes, as written and in normal form. Servers commonly stop at 8 KiB for the whole request line.
const MAX_PATH: usize = 8 * 1024;

/// Why a path cannot be matched against rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// More than 8 KiB.
    #[error("the path has more than 8192 bytes")]
    TooLong,
    /// Does not start with a slash.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// Space, `?`, `#`, or a byte outside printable ASCII, unescaped.
    #[error("the path has a character that must be escaped")]
    BadCharacter,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits")]
    BadEscape,
    /// An escaped control character, NUL among them.
    #[error("the path has an escaped control character")]
    Control,
    /// `%2f`: a slash to some servers, part of a segment to others.
    #[error("the path has an escaped slash")]
    EncodedSlash,
    /// `\` or `%5c`: a slash to some servers.
    #[error("the path has a backslash")]
    Backslash,
    /// Escapes that decode to something else than UTF-8, as overlong forms of a dot or a slash do.
    #[error("the escapes of the path are not valid UTF-8")]
    NotUtf8,
    /// `..` after an empty segment, or a dot segment with parameters (`/..;x/`).
    #[error("the path has dot segments that servers read in different ways")]
    AmbiguousDots,
}

/// The normal form of `raw`, the path of a URI without query and fragment.
///
/// Escapes of unreserved characters are decoded, all others written in upper case; printable characters
/// that RFC 3986 does not allow in a path (`"<>[]^{|}` and the back-tick) are escaped; dot segments are
/// removed, also escaped ones; empty segments stay. The empty path is `/`. Normalising twice changes
/// nothing. A rule that denies should also look at [`decoded_path`].
///
/// # Errors
/// [`PathFault`] for what servers read in different ways, and for more than 8 KiB.
pub fn normalise_path(raw: &str) -> Result<String, PathFault> {
    if raw.is_empty() {
        return Ok("/".to_owned());
    }
    if raw.len() > MAX_PATH {
        return Err(PathFault::TooLong);
    }
    if !raw.starts_with('/') {
        return Err(PathFault::NotAbsolute);
    }
    let normal = remove_dot_segments(&normalise_escapes(raw.as_bytes())?)?;
    if normal.len() > MAX_PATH { Err(PathFault::TooLong) } else { Ok(normal) }
}

/// A normalised path with the escapes of reserved ASCII characters decoded too: `/v1/a%3Adelete` and
/// `/v1/a:delete` are one here.
///
/// They are two resources by RFC 3986 and one to most servers. So an allowing rule matches the normal
/// form, and a denying rule either form. The result is for matching only, and not a path to send.
pub fn decoded_path(normal: &str) -> Cow<'_, str> {
    if !normal.contains('%') {
        return Cow::Borrowed(normal);
    }
    let mut decoded = String::with_capacity(normal.len());
    let mut rest = normal;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        decoded.push_str(before);
        match escape.as_bytes() {
            [_, high, low, ..] => match unhex(*high, *low) {
                Some(byte) if byte.is_ascii_graphic() => {
                    decoded.push(char::from(byte));
                    rest = &escape[3..];
                }
                _ => {
                    decoded.push('%');
                    rest = &escape[1..];
                }
            },
            _ => {
                decoded.push('%');
                rest = &escape[1..];
            }
        }
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

fn normalise_escapes(raw: &[u8]) -> Result<String, PathFault> {
    let mut normal = String::with_capacity(raw.len() + 16);
    let mut decoded = Vec::new();
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let escaped = *byte == b'%';
        let byte = if escaped {
            let [high, low, after @ ..] = tail else { return Err(PathFault::BadEscape) };
            rest = after;
            unhex(*high, *low).ok_or(PathFault::BadEscape)?
        } else {
            *byte
        };
        match byte {
            b'\\' => return Err(PathFault::Backslash),
            b'/' if escaped => return Err(PathFault::EncodedSlash),
            0..=0x1f | 0x7f if escaped => return Err(PathFault::Control),
            0..=b' ' | 0x7f.. | b'?' | b'#' if !escaped => return Err(PathFault::BadCharacter),
            _ => {}
        }
        if is_unreserved(byte) || !escaped && is_path_byte(byte) {
            normal.push(char::from(byte));
        } else {
            push_escape(&mut normal, byte);
        }
        if escaped || !decoded.is_empty() {
            decoded.push(byte);
        }
    }
    // From the first escape on, so that a path without one costs nothing.
    if std::str::from_utf8(&decoded).is_err() {
        return Err(PathFault::NotUtf8);
    }
    Ok(normal)
}

/// RFC 3986 section 5.2.4, except that what later stages of a server might resolve otherwise is refused.
fn remove_dot_segments(path: &str) -> Result<String, PathFault> {
    if !path.contains("/.") {
        return Ok(path.to_owned());
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                // A server that merges slashes first would go up one segment further.
                if segments.pop() == Some("") {
                    return Err(PathFault::AmbiguousDots);
                }
            }
            _ if has_dots_with_parameters(segment) => return Err(PathFault::AmbiguousDots),
            _ => segments.push(segment),
        }
    }
    if ends_open {
        segments.push("");
    }
    let mut normal = String::with_capacity(path.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    Ok(normal)
}

/// `.;x` and `..;x`: servlet containers drop the parameter and then resolve the dots.
fn has_dots_with_parameters(segment: &str) -> bool {
    let after = segment.strip_prefix("..").or_else(|| segment.strip_prefix('.'));
    after.is_some_and(|after| after.starts_with(';') || after.starts_with("%3B"))
}

fn push_escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 0xf)]));
}

fn unhex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `/`, and `pchar` beyond the unreserved characters (RFC 3986 section 3.3).
const fn is_path_byte(byte: u8) -> bool {
    matches!(byte, b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_come_out_in_one_form() {
        for (raw, normal) in [
            ("", "/"),
            ("/", "/"),
            ("//", "//"),
            ("/a//b", "/a//b"),
            ("/a/b/", "/a/b/"),
            ("/%7euser/%41", "/~user/A"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/%3a%40", "/%3A%40"),
            ("/a:b@c;d=e,f!$&'()*+", "/a:b@c;d=e,f!$&'()*+"),
            ("/%20a%25", "/%20a%25"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a|b\"c<d>{e}[f]^`", "/a%7Cb%22c%3Cd%3E%7Be%7D%5Bf%5D%5E%60"),
            ("/a%7cb", "/a%7Cb"),
            // Dot segments.
            ("/.", "/"),
            ("/..", "/"),
            ("/./", "/"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public/%2E./admin", "/admin"),
            ("/public/.%2e/admin", "/admin"),
            ("/public/%2e/admin", "/public/admin"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/a/..b/.c", "/a/..b/.c"),
            ("/.//a", "//a"),
        ] {
            assert_eq!(normalise_path(raw).as_deref(), Ok(normal), "{raw:?}");
        }
    }

    #[test]
    fn what_servers_read_in_two_ways_is_refused() {
        use PathFault::*;
        for (raw, fault) in [
            ("a", NotAbsolute),
            ("*", NotAbsolute),
            ("%2fa", NotAbsolute),
            ("\\a", NotAbsolute),
            ("/a b", BadCharacter),
            ("/a\tb", BadCharacter),
            ("/a\0", BadCharacter),
            ("/a\r\nHost: x", BadCharacter),
            ("/a\x7f", BadCharacter),
            ("/é", BadCharacter),
            ("/／", BadCharacter),
            ("/a?b", BadCharacter),
            ("/a#b", BadCharacter),
            ("/%", BadEscape),
            ("/%2", BadEscape),
            ("/%zz", BadEscape),
            ("/%2g", BadEscape),
            ("/%+1", BadEscape),
            ("/%u002e", BadEscape),
            ("/%%32%65", BadEscape),
            ("/a%", BadEscape),
            ("/%00", Control),
            ("/a%00.png", Control),
            ("/%0d%0aHost:x", Control),
            ("/%09", Control),
            ("/%7f", Control),
            ("/a%2fb", EncodedSlash),
            ("/a%2Fb", EncodedSlash),
            ("/..%2fadmin", EncodedSlash),
            ("/a\\b", Backslash),
            ("/a%5cb", Backslash),
            ("/..%5Cadmin", Backslash),
            ("/%c0%ae%c0%ae/admin", NotUtf8),
            ("/%c0%af", NotUtf8),
            ("/%e0%80%ae", NotUtf8),
            ("/%ff", NotUtf8),
            ("/%c3", NotUtf8),
            ("/%c3a%a9", NotUtf8),
            ("/%ed%a0%80", NotUtf8),
            ("/public/..;/admin", AmbiguousDots),
            ("/public/..;x=1/admin", AmbiguousDots),
            ("/public/%2e%2e;/admin", AmbiguousDots),
            ("/public/..%3b/admin", AmbiguousDots),
            ("/public/.;/admin", AmbiguousDots),
            ("/public//../admin", AmbiguousDots),
            ("/public//./../admin", AmbiguousDots),
            ("//..", AmbiguousDots),
        ] {
            assert_eq!(normalise_path(raw), Err(fault), "{raw:?}");
        }
    }

    #[test]
    fn the_bound_is_eight_kibibytes_before_and_after() {
        assert!(normalise_path(&format!("/{}", "a".repeat(MAX_PATH - 1))).is_ok());
        assert_eq!(normalise_path(&format!("/{}", "a".repeat(MAX_PATH))), Err(PathFault::TooLong));
        assert_eq!(normalise_path(&"/..".repeat(MAX_PATH)), Err(PathFault::TooLong));
        assert_eq!(normalise_path(&format!("/{}", "|".repeat(MAX_PATH / 2))), Err(PathFault::TooLong));
    }

    #[test]
    fn a_decoded_path_unites_the_spellings_of_reserved_characters() {
        for (normal, decoded) in [
            ("/a", "/a"),
            ("/v1/a%3Adelete", "/v1/a:delete"),
            ("/v1/a:delete", "/v1/a:delete"),
            ("/%40scope%2Bx%2C", "/@scope+x,"),
            ("/%C3%A9%20", "/%C3%A9%20"),
            ("/%253A", "/%3A"),
            ("/%", "/%"),
            ("/%é", "/%é"),
            ("/%2", "/%2"),
        ] {
            assert_eq!(decoded_path(normal), decoded, "{normal}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(
            raw in "/(\\.|\\.\\.|%2e|%2E|/|;|%3b|a|B|%41|%7e|%c3%a9|%25|2e|\\||%7c|:|%3A|~|\\{|%[0-9a-fA-F]{2}){0,12}"
        ) {
            if let Ok(normal) = normalise_path(&raw) {
                prop_assert_eq!(normalise_path(&normal), Ok(normal.clone()));
                let dots = normal.split('/').any(|segment| segment == "." || segment == "..");
                prop_assert!(!dots && normal.starts_with('/'), "{}", normal);
            }
        }

        #[test]
        fn any_text_is_refused_or_has_one_normal_form(raw in "/?\\PC{0,30}") {
            if let Ok(normal) = normalise_path(&raw) {
                prop_assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(normalise_path(&normal), Ok(normal.clone()));
            }
        }
    }
}
