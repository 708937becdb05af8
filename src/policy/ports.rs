//! Which ports a rule names.

use std::fmt;

/// A set of TCP ports as sorted ranges that neither touch nor overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortSet(Box<[(u16, u16)]>);

/// Why something is not a port or a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortFault {
    /// Outside 1 to 65535, or not a number.
    #[error("a port is a number from 1 to 65535, or two of them as in \"8000-8010\"")]
    NotAPort,
    /// The second port is below the first.
    #[error("the range ends before it starts")]
    Backwards,
}

impl PortSet {
    /// Every port.
    pub(super) fn all() -> Self {
        Self(Box::new([(1, u16::MAX)]))
    }

    /// What an allow rule means when it names no ports: 80 and 443.
    pub(super) fn web() -> Self {
        Self(Box::new([(80, 80), (443, 443)]))
    }

    /// The union of `ranges`, each with its first and last port.
    pub(super) fn of(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into())
    }

    /// Whether `port` is in the set.
    pub(super) fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= port);
        after > 0 && port <= self.0[after - 1].1
    }

    /// Whether `outer` has every port of this set.
    pub(super) fn within(&self, outer: &Self) -> bool {
        // Ranges of a set do not touch, so one of ours lies in one of theirs or not at all.
        self.0.iter().all(|(first, last)| outer.0.iter().any(|(from, to)| from <= first && last <= to))
    }

    /// Whether it is every port.
    pub(super) fn is_all(&self) -> bool {
        *self.0 == [(1, u16::MAX)]
    }

    /// Each range as it would be written in `ports`.
    pub(super) fn texts(&self) -> Vec<String> {
        let text =
            |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
        self.0.iter().map(text).collect()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(", "))
    }
}

/// Reads a number as a port.
pub(super) fn port(number: u64) -> Result<(u16, u16), PortFault> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok((port, port)),
        _ => Err(PortFault::NotAPort),
    }
}

/// Reads `443` or `8000-8010`.
pub(super) fn range(text: &str) -> Result<(u16, u16), PortFault> {
    let plain = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten().ok_or(PortFault::NotAPort)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(plain(first)?)?.0, port(plain(last)?)?.0);
    if last < first { Err(PortFault::Backwards) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(range("443"), Ok((443, 443)));
        assert_eq!(range("8000-8010"), Ok((8000, 8010)));
        assert_eq!(range("1 - 65535"), Ok((1, 65535)));
        for bad in ["", "-", "0", "65536", "0-5", "1-65536", "1-2-3", "+1", "a", "1-", "-1", "4294967739"] {
            assert_eq!(range(bad), Err(PortFault::NotAPort), "{bad}");
        }
        assert_eq!(range("9-8"), Err(PortFault::Backwards));
        assert_eq!(port(0), Err(PortFault::NotAPort));
        assert_eq!(port(65_536 + 443), Err(PortFault::NotAPort));
    }

    proptest::proptest! {
        #[test]
        fn the_merged_set_is_the_union_of_its_ranges(ranges in proptest::collection::vec((1_u16.., 0_u16..300), 0..8), probe in 1_u16..) {
            let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first.saturating_add(more))).collect();
            let naive = ranges.iter().any(|(first, last)| (*first..=*last).contains(&probe));
            let edges: Vec<_> = ranges.iter().flat_map(|(first, last)| [*first, *last]).collect();
            let set = PortSet::of(ranges);
            proptest::prop_assert_eq!(set.contains(probe), naive);
            proptest::prop_assert!(edges.iter().all(|edge| set.contains(*edge)));
        }
    }
}
