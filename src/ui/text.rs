//! Numbers and foreign text, made fit for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use crate::domain::Timestamp;

/// `text` with every character escaped that could move the cursor, colour the screen, hide or
/// reorder other text: control characters (C0, DEL, C1), line separators, bidirectional controls
/// (Unicode Technical Report 36) and invisible ones. Escapes read `\u{1b}`.
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
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
