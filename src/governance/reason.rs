//! Why somebody did something, as it goes into a record.

/// Longest reason, in bytes: a paragraph, and its record stays whole.
pub const MAX_REASON: usize = 512;

/// A reason as it is kept: one line, not blank, at most [`MAX_REASON`] bytes. `None` when it is not that.
pub fn reason(text: &str) -> Option<String> {
    let text = text.trim();
    let sound = !text.is_empty() && text.len() <= MAX_REASON && !text.contains(char::is_control);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(reason("  incident 7 "), Some("incident 7".to_owned()));
        assert_eq!(reason(&"x".repeat(MAX_REASON)).map(|text| text.len()), Some(MAX_REASON));
        for bad in ["", " \t", "two\nlines", "a\u{1b}[2J", &"x".repeat(MAX_REASON + 1)] {
            assert_eq!(reason(bad), None, "{bad:?}");
        }
    }
}
