//! Checked names for the things that operators declare.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest id, in bytes: fits a file name, a metric label and a ledger column.
const MAX_ID: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdFault {
    /// The text is empty.
    #[error("an id is not empty")]
    Empty,
    /// The text has more than 64 bytes.
    #[error("an id has at most 64 characters")]
    TooLong,
    /// The text starts with something else than a lower-case letter or a digit.
    #[error("an id starts with a lower-case letter or a digit")]
    BadStart,
    /// The text has a byte outside `a-z 0-9 . _ -`.
    #[error("an id is made of `a-z`, `0-9`, `.`, `_` and `-`; found `{0}`")]
    BadCharacter(char),
}

fn check(text: &str) -> Result<(), IdFault> {
    let first = text.bytes().next().ok_or(IdFault::Empty)?;
    if text.len() > MAX_ID {
        return Err(IdFault::TooLong);
    }
    if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
        return Err(IdFault::BadCharacter(bad));
    }
    if first.is_ascii_lowercase() || first.is_ascii_digit() { Ok(()) } else { Err(IdFault::BadStart) }
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// One to 64 characters of `a-z 0-9 . _ -`, the first a letter or a digit. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// [`IdFault`] says which rule of the form it breaks.
            pub fn parse(text: &str) -> Result<Self, IdFault> {
                check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The id as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// The name of a persona: the identity that traffic leaves as.
    PersonaId
}
id! {
    /// The name of a rule inside one persona's file.
    RuleId
}
id! {
    /// The name of a runtime: a supervised workload.
    RuntimeId
}
id! {
    /// The name of a bundle: what a runtime is made of.
    BundleId
}
id! {
    /// The name of a lease: a time-boxed widening of what a persona may do.
    LeaseId
}
id! {
    /// The name of an alert.
    AlertId
}
id! {
    /// The name of a route: where alerts and events are sent.
    RouteId
}

id! {
    /// The name of an automation: what a runtime is run for, on whose budget.
    AutomationId
}

/// One run of a runtime: from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    /// Which runtime.
    pub runtime: RuntimeId,
    /// Which of its runs, counted from its first.
    pub number: u64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.runtime, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_when_made() {
        for good in ["demo", "a", "0x", "team-a.research_2"] {
            assert!(PersonaId::parse(good).is_ok(), "{good}");
        }
        for (bad, fault) in [
            ("", IdFault::Empty),
            ("-demo", IdFault::BadStart),
            ("Demo", IdFault::BadCharacter('D')),
            ("a b", IdFault::BadCharacter(' ')),
            ("a/b", IdFault::BadCharacter('/')),
            ("a\0", IdFault::BadCharacter('\0')),
        ] {
            assert_eq!(PersonaId::parse(bad), Err(fault), "{bad:?}");
        }
        assert_eq!(PersonaId::parse(&"a".repeat(65)), Err(IdFault::TooLong));
    }
}
