//! Whether a persona is armed. Pure.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::domain::codes;
use crate::store::ReviewRow;

codes! {
    /// How a persona stands with what `personas.enable` arms.
    Standing {
        /// `personas.enable` is off.
        Off => "personas_off",
        /// Nobody recorded a review of it.
        NotReviewed => "persona_not_reviewed",
        /// It is not what was reviewed any more.
        ReviewStale => "persona_review_stale",
        /// Proposals and feedback are taken.
        Armed => "persona_armed",
    }
}

/// How a persona stands whose digest in force is `in_force`.
pub(super) fn standing(enabled: bool, in_force: &str, review: Option<&ReviewRow>) -> Standing {
    match (enabled, review) {
        (false, _) => Standing::Off,
        (true, None) => Standing::NotReviewed,
        (true, Some(review)) if review.file_digest != in_force => Standing::ReviewStale,
        (true, Some(_)) => Standing::Armed,
    }
}

impl Standing {
    /// What an operator does about it, for the persona `id`.
    pub fn hint(self, id: &str) -> Option<String> {
        match self {
            Self::Off => Some("set ARW_PERSONA_ENABLE=1 once personas are reviewed and people were told".to_owned()),
            Self::NotReviewed | Self::ReviewStale => {
                Some(format!("`arw-cli persona review record {id} --reviewer … --notice FILE --justification …`"))
            }
            Self::Armed => None,
        }
    }
}

/// SHA-256 of `bytes` in hexadecimal.
pub(super) fn digest(bytes: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(bytes))
}

/// `bytes` in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Longest notice, in bytes: some ten pages.
pub(super) const MAX_NOTICE: usize = 16 << 10;

/// A notice as it is kept; `None` when it is blank, too long, or has control characters beside line ends and tabs.
pub(super) fn notice(text: &str) -> Option<String> {
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    let text = text.replace("\r\n", "\n");
    let text = text.trim();
    let sound = !text.is_empty() && text.len() <= MAX_NOTICE && !text.contains(odd);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PersonaId, Timestamp};

    #[test]
    fn only_a_review_of_exactly_what_is_in_force_arms() {
        let review = |file: &str| ReviewRow {
            persona: PersonaId::parse("demo").expect("id"),
            at: Timestamp::from_unix_micros(0),
            reviewer: "works council".to_owned(),
            recorded_by: "uid:0".to_owned(),
            justification: "meeting".to_owned(),
            file_digest: file.to_owned(),
            notice: "told".to_owned(),
            notice_digest: digest("told"),
            proposal: None,
        };
        for (enabled, reviewed, expected) in [
            (false, None, Standing::Off),
            (false, Some("a"), Standing::Off),
            (true, None, Standing::NotReviewed),
            (true, Some("a"), Standing::Armed),
            (true, Some("b"), Standing::ReviewStale),
            (true, Some(""), Standing::ReviewStale),
        ] {
            let review = reviewed.map(review);
            assert_eq!(standing(enabled, "a", review.as_ref()), expected, "{enabled} {reviewed:?}");
            assert_eq!(expected.hint("demo").is_none(), expected == Standing::Armed);
        }
    }

    #[test]
    fn a_notice_is_a_readable_text() {
        assert_eq!(notice(" Told.\r\n\tAll of it. \n"), Some("Told.\n\tAll of it.".to_owned()));
        assert!(notice(&"x".repeat(MAX_NOTICE)).is_some());
        for bad in ["", " \n", "a\0b", "\u{1b}[2J", &"x".repeat(MAX_NOTICE + 1)] {
            assert_eq!(notice(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
