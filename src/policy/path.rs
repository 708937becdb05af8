//! Which paths a rule names, and what a server may make of a path.
//!
//! [`normalise_path`] already refuses the worst spellings. What passes it can still be read in two ways
//! (escapes inside escapes, path parameters, empty segments), so an allow must hold for both.

use std::fmt;

use crate::domain::normalise_path;

/// One item of `paths`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathPattern {
    /// As written, without the star.
    text: Box<str>,
    /// What a lenient server may read `text` as.
    loose: Box<str>,
    prefix: bool,
}

/// Why a text is not a path pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathFault {
    #[error("a path starts with `/`")]
    NoSlash,
    #[error("`*` may only stand at the end of a path")]
    MisplacedStar,
    #[error("a path has no query and no fragment")]
    Query,
    #[error("a path has no control characters and no spaces; others than ASCII are percent-encoded")]
    BadCharacter,
    #[error("the path is not in its normal form, so that no request would match it")]
    NotNormal,
}

impl PathPattern {
    /// Reads `/exact` or `/prefix*`.
    pub(super) fn parse(text: &str) -> Result<Self, PathFault> {
        let stripped = text.strip_suffix('*');
        let path = stripped.unwrap_or(text);
        if !path.starts_with('/') {
            return Err(PathFault::NoSlash);
        }
        if path.contains('*') {
            return Err(PathFault::MisplacedStar);
        }
        if path.contains(['?', '#']) {
            return Err(PathFault::Query);
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PathFault::BadCharacter);
        }
        if normalise_path(path).as_deref() != Ok(path) {
            return Err(PathFault::NotNormal);
        }
        let loose = loosen(path).unwrap_or_else(|| path.to_owned());
        Ok(Self { text: path.into(), loose: loose.into(), prefix: stripped.is_some() })
    }

    /// Whether an allow rule with this pattern means `path`: by every reading of it.
    pub(super) fn surely_matches(&self, path: &VisiblePath<'_>) -> bool {
        let hits = |pattern: &str, path: &str| if self.prefix { path.starts_with(pattern) } else { path == pattern };
        hits(&self.text, path.text) && path.loose.as_deref().is_none_or(|loose| hits(&self.loose, loose))
    }

    /// Whether a deny rule with this pattern means `path`: by any reading of it, whatever the case, with
    /// or without a slash at the end.
    pub(super) fn may_match(&self, path: &VisiblePath<'_>) -> bool {
        let hits = |path: &str| {
            let (path, pattern) = (path.to_ascii_lowercase(), self.loose.to_ascii_lowercase());
            if self.prefix {
                path.starts_with(&pattern)
            } else {
                path.trim_end_matches('/') == pattern.trim_end_matches('/')
            }
        };
        hits(path.text) || path.loose.as_deref().is_some_and(hits)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.prefix { "*" } else { "" })
    }
}

/// A request's path: its normal form, and what a lenient server may read it as, where that differs.
#[derive(Debug)]
pub(super) struct VisiblePath<'p> {
    text: &'p str,
    loose: Option<String>,
}

impl<'p> VisiblePath<'p> {
    /// Looks at a path in normal form. Allocates only for a path with escapes, `\`, `;` or `//`.
    pub(super) fn of(text: &'p str) -> Self {
        Self { text, loose: loosen(text) }
    }
}

/// Escapes inside escapes that are undone: some servers decode twice, none decodes four times.
const DECODE_ROUNDS: usize = 3;

/// What servers are known to read a path as: escapes decoded (more than once), `\` taken for `/`, path
/// parameters (`;x`) dropped, empty segments dropped, and dot segments resolved after all that.
/// `/api/..%2fadmin` is `/admin` to them. `None` when nothing of that can apply.
fn loosen(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    if memchr::memchr3(b'%', b'\\', b';', bytes).is_none() && memchr::memmem::find(bytes, b"//").is_none() {
        return None;
    }
    let mut decoded = bytes.to_vec();
    for _ in 0..DECODE_ROUNDS {
        decoded = decode(&decoded);
    }
    let text = String::from_utf8_lossy(&decoded).replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in text.split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut loose = String::with_capacity(text.len());
    for segment in &kept {
        loose.push('/');
        loose.push_str(segment);
    }
    if ends_open || kept.is_empty() {
        loose.push('/');
    }
    Some(loose)
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match escape_at(bytes, at) {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    decoded
}

/// The byte that the escape at `at` stands for, if there is one.
fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    match bytes.get(at..at + 3)? {
        [b'%', high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).expect("pattern").surely_matches(&VisiblePath::of(path))
    }

    fn denies(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).expect("pattern").may_match(&VisiblePath::of(path))
    }

    #[test]
    fn an_allowed_path_is_allowed_by_every_reading() {
        for (pattern, path, allowed) in [
            ("/api/*", "/api/v1", true),
            ("/api/*", "/api/", true),
            ("/api/*", "/api", false),
            ("/api/*", "/apis", false),
            ("/api*", "/apis", true),
            ("/api", "/api", true),
            ("/api", "/api/", false),
            ("/API", "/api", false),
            ("/*", "/", true),
            ("/*", "/a%2Fb", true),
            ("/a%20b/*", "/a%20b/c", true),
            ("/proxy/*", "/proxy/https://x", true),
            ("/api/*", "/api/..%2Fadmin", false),
            ("/api/*", "/api/..%5Cadmin", false),
            ("/api/*", "/api/..\\admin", false),
            ("/api/*", "/api/%252e%252e/admin", false),
            ("/api/*", "/api/..;/admin", false),
            ("/api/*", "/api/..;x=1/admin", false),
            ("/api/*", "/api/a/..%2F..%2Fadmin", false),
        ] {
            assert_eq!(allows(pattern, path), allowed, "{pattern} {path}");
        }
    }

    #[test]
    fn a_denied_path_is_denied_by_any_reading() {
        for (pattern, path, denied) in [
            ("/admin/*", "/admin/x", true),
            ("/admin/*", "/Admin/x", true),
            ("/admin/*", "//admin/x", true),
            ("/admin/*", "/admin;v=1/x", true),
            ("/admin/*", "/%2561dmin/x", true),
            ("/admin/*", "/public/..%2Fadmin/x", true),
            ("/admin/*", "/admin%2Fx", true),
            ("/admin", "/admin/", true),
            ("/admin", "/admin", true),
            ("/admin", "/administrator", false),
            ("/admin/*", "/public/x", false),
        ] {
            assert_eq!(denies(pattern, path), denied, "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for (text, fault) in [
            ("api", PathFault::NoSlash),
            ("", PathFault::NoSlash),
            ("*", PathFault::NoSlash),
            ("/a*b", PathFault::MisplacedStar),
            ("/a**", PathFault::MisplacedStar),
            ("/a?b=c", PathFault::Query),
            ("/a b", PathFault::BadCharacter),
            ("/ü", PathFault::BadCharacter),
            ("/a/../b", PathFault::NotNormal),
            ("/./a", PathFault::NotNormal),
            ("/%61", PathFault::NotNormal),
            ("/%2f", PathFault::NotNormal),
            ("/%", PathFault::NotNormal),
            ("/%zz", PathFault::NotNormal),
        ] {
            assert_eq!(PathPattern::parse(text), Err(fault), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn loosening_never_leaves_a_dot_segment(path in "/[a%25fF2eE.;/\\\\]{0,24}") {
            if let Some(loose) = loosen(&path) {
                proptest::prop_assert!(loose.starts_with('/'));
                proptest::prop_assert!(!loose.split('/').any(|segment| segment == ".." || segment == "."), "{}", loose);
            }
        }
    }
}
