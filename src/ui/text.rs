//! Numbers and foreign text, made fit for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use crate::domain::{Timestamp, is_deceptive};

/// `text` with every character escaped that could move the cursor, colour the screen, hide or
/// reorder other text: control characters (C0, DEL, C1), line separators, bidirectional controls
/// (Unicode Technical Report 36) and invisible ones. Escapes read `\u{1b}`.
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_deceptive) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_deceptive(character) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Makes a stream of bytes fit for a terminal, piece by piece: lines and tabs stay, everything else that [`safe`] escapes
/// is escaped, and what is no UTF-8 is shown as U+FFFD.
#[derive(Debug, Default)]
pub struct Cleaner {
    /// The beginning of a character, at most three bytes.
    begun: Vec<u8>,
}

impl Cleaner {
    /// The next piece. A character that it only begins comes with the piece after it.
    pub fn clean(&mut self, bytes: &[u8]) -> String {
        let mut bytes = [std::mem::take(&mut self.begun).as_slice(), bytes].concat();
        let begun = match std::str::from_utf8(&bytes) {
            // Only the end may be unfinished; anything else that is wrong has a length.
            Err(_) => (1..=3.min(bytes.len())).find(|back| is_beginning(&bytes[bytes.len() - back..])),
            Ok(_) => None,
        };
        if let Some(back) = begun {
            self.begun = bytes.split_off(bytes.len() - back);
        }
        let mut out = String::with_capacity(bytes.len());
        for piece in String::from_utf8_lossy(&bytes).split_inclusive(['\n', '\t']) {
            let kept = piece.strip_suffix(['\n', '\t']);
            out.push_str(&safe(kept.unwrap_or(piece)));
            out.push_str(&piece[kept.unwrap_or(piece).len()..]);
        }
        out
    }
}

/// Whether `bytes` are the beginning of one character, and not all of it.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|fault| fault.valid_up_to() == 0 && fault.error_len().is_none())
}

/// At most `width` characters of `text`, the last an ellipsis when something was cut.
pub fn cut(text: &str, width: usize) -> Cow<'_, str> {
    match text.char_indices().nth(width) {
        None => Cow::Borrowed(text),
        Some(_) if width == 0 => Cow::Borrowed(""),
        Some(_) => {
            let mut out: String = text.chars().take(width - 1).collect();
            out.push('…');
            Cow::Owned(out)
        }
    }
}

/// A byte count in binary units, three digits or so: `999 B`, `1.5 KiB`, `12.0 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10 / 1_024;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A span of time in its two largest units: `850 ms`, `12.3 s`, `4 m 5 s`, `3 h 2 m`, `9 d 1 h`.
pub fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    let secs = duration.as_secs();
    match secs {
        0 => format!("{millis} ms"),
        1..=59 => format!("{}.{} s", secs, duration.subsec_millis() / 100),
        60..=3_599 => format!("{} m {} s", secs / 60, secs % 60),
        3_600..=86_399 => format!("{} h {} m", secs / 3_600, secs / 60 % 60),
        _ => format!("{} d {} h", secs / 86_400, secs / 3_600 % 24),
    }
}

/// A moment in UTC to the second: `2026-11-22 10:31:21Z`.
pub fn moment(time: Timestamp) -> String {
    let full = time.to_string();
    format!("{} {}Z", full.get(..10).unwrap_or(&full), full.get(11..19).unwrap_or_default())
}

/// A count with thin grouping: `1 234 567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A count and what is counted: `1 line`, `2 lines`. For nouns that take an `s`.
pub fn amount(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_cannot_touch_the_terminal() {
        assert_eq!(safe("plain ünïcode"), "plain ünïcode");
        assert_eq!(safe("a\x1b[31mb\r\n"), "a\\u{1b}[31mb\\u{d}\\u{a}");
        assert_eq!(safe("\u{9b}2J\u{7f}\0"), "\\u{9b}2J\\u{7f}\\u{0}");
        assert_eq!(safe("a\u{202e}b\u{2066}\u{200b}\u{feff}"), "a\\u{202e}b\\u{2066}\\u{200b}\\u{feff}");
        assert_eq!(safe("\u{e0041}"), "\\u{e0041}");
    }

    #[test]
    fn a_stream_is_cleaned_whatever_its_pieces_are() {
        let bytes = "one\ttwo\nü\u{1f980}\u{202e}\x1b]52;c;eA==\x07\r\n".as_bytes();
        let bytes = [bytes, b"\xff\xe2\x82x\xc3"].concat();
        let whole = "one\ttwo\nü\u{1f980}\\u{202e}\\u{1b}]52;c;eA==\\u{7}\\u{d}\n\u{fffd}\u{fffd}x";
        for size in 1..=bytes.len() {
            let mut cleaner = Cleaner::default();
            let shown: String = bytes.chunks(size).map(|piece| cleaner.clean(piece)).collect();
            assert_eq!(shown, whole, "{size}");
            assert!(cleaner.begun.len() <= 3);
        }
    }

    #[test]
    fn sizes_are_in_binary_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (millis, text) in
            [(0, "0 ms"), (999, "999 ms"), (12_345, "12.3 s"), (245_000, "4 m 5 s"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn long_text_is_cut_at_characters() {
        assert_eq!(cut("äöüß", 4), "äöüß");
        assert_eq!(cut("äöüßx", 4), "äöü…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!([amount(0, "line"), amount(1, "line")], ["0 lines", "1 line"]);
    }
}
