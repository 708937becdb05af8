//! Times and sizes as operators write them: one number, one unit, no guessing.

use std::time::Duration;

/// Units of time, largest first, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of size, largest first, in bytes.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// What a time looks like, for hints.
pub(in crate::config) const TIME_FORM: &str = "write one number and one of `ms`, `s`, `m`, `h`, `d`, such as \"10s\"";

/// What a size looks like, for hints.
pub(super) const SIZE_FORM: &str = "write bytes, or one number and one of `KiB`, `MiB`, `GiB`, such as \"64KiB\"";

/// Reads a time as operators write it: `500ms`, `10s`, `5m`, `1h`, `30d`. No sign, space or fraction; `None` for anything
/// else and for what does not fit.
pub fn parse_time(text: &str) -> Option<Duration> {
    scaled(text, &TIME_UNITS).map(Duration::from_millis)
}

/// Writes a time in the largest unit that keeps it whole.
pub(super) fn show_time(time: Duration) -> String {
    show(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS, "0s")
}

/// Writes a size in the largest unit that keeps it whole.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS, "0B")
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    plain(number)?.checked_mul(*factor)
}

/// Digits only: `u64::from_str` alone would take a `+`.
fn plain(number: &str) -> Option<u64> {
    if number.bytes().all(|byte| byte.is_ascii_digit()) { number.parse().ok() } else { None }
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return zero.to_owned();
    }
    let whole = units.iter().find(|(_, factor)| value.is_multiple_of(*factor));
    whole.map_or_else(|| value.to_string(), |(unit, factor)| format!("{}{unit}", value / factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::located::ByteSize;

    #[test]
    fn times_and_sizes_round_trip() {
        for text in ["500ms", "10s", "5m", "1h", "30d", "0s", "61s"] {
            assert_eq!(show_time(parse_time(text).expect(text)), text);
        }
        for (text, bytes) in [("64KiB", 64 << 10), ("16MiB", 16 << 20), ("1GiB", 1 << 30), ("7B", 7), ("0B", 0)] {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)));
            assert_eq!(show_size(bytes), text);
        }
    }

    #[test]
    fn what_is_not_one_number_and_one_unit_of_time_is_refused() {
        for bad in ["", "s", "10", "+10s", "-1s", "1.5h", "10 s", "1h30m", "10S", "١s", "18446744073709551615d"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
