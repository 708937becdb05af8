//! The words of consent.

use std::fmt;
use std::sync::Arc;

use crate::domain::codes;

/// Longest scope, in bytes: what the manifest of a runtime takes.
const MAX_SCOPE: usize = 64;

codes! {
    /// A kind of data that a bundle takes in.
    Modality {
        /// Written text.
        Text => "text",
        /// Sound, speech among it.
        Audio => "audio",
        /// Still pictures, and the screen.
        Vision => "vision",
        /// Moving pictures.
        Video => "video",
    }
}

/// What may be done with which data: `text:read`. Matched exactly; there is no wildcard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

/// Why a text is no [`Scope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeFault {
    /// Not two words with a colon between them.
    #[error("a scope is written `subject:action`, such as `text:read`")]
    Form,
    /// A word has something else than lower-case letters, digits, `.`, `_` and `-`.
    #[error("a scope is made of `a-z`, `0-9`, `.`, `_`, `-` and one `:`; wildcards do not exist")]
    Character,
    /// Longer than any scope needs to be.
    #[error("a scope has at most 64 characters")]
    TooLong,
}

impl Scope {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`ScopeFault`] says which rule of the form it breaks.
    pub fn parse(text: &str) -> Result<Self, ScopeFault> {
        if text.len() > MAX_SCOPE {
            return Err(ScopeFault::TooLong);
        }
        let (subject, action) = text.split_once(':').ok_or(ScopeFault::Form)?;
        for word in [subject, action] {
            if !word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
                return Err(ScopeFault::Character);
            }
            if !word.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) {
                return Err(ScopeFault::Form);
            }
        }
        Ok(Self(Arc::from(text)))
    }

    /// The scope as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is about, when that is a modality by name.
    pub fn modality(&self) -> Option<Modality> {
        self.0.split_once(':').and_then(|(subject, _)| Modality::from_code(subject))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_two_plain_words() {
        for good in ["text:read", "mail.inbox:read", "a:b-c", "4k:x"] {
            assert_eq!(Scope::parse(good).map(|scope| scope.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "text", ":", "text:", ":read", "-a:b", "text:.x"] {
            assert_eq!(Scope::parse(bad), Err(ScopeFault::Form), "{bad}");
        }
        for bad in ["*:read", "text:*", "Text:read", "text:read write", "text:re\nad", "text:read:all", "té:x", "a\0:b"]
        {
            assert_eq!(Scope::parse(bad), Err(ScopeFault::Character), "{bad}");
        }
        assert_eq!(Scope::parse(&format!("a:{}", "b".repeat(63))), Err(ScopeFault::TooLong));
        assert_eq!(Scope::parse("audio:record").expect("good").modality(), Some(Modality::Audio));
        assert_eq!(Scope::parse("mail:read").expect("good").modality(), None);
    }
}
