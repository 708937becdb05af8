//! Counting within a sliding time, in little memory.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::Timestamp;

/// Parts of the window. 10: it is right to a tenth.
const PARTS: u32 = 10;

/// What a counter rose by within a time.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The counter's last value.
    total: u64,
    /// When each part began, and what it has; at most [`PARTS`] and one.
    parts: VecDeque<(Timestamp, u64)>,
}

impl Window {
    /// Notes that the counter is at `total`, and gives what it rose by within `length`.
    pub(super) fn rise(&mut self, total: u64, now: Timestamp, length: Duration) -> u64 {
        let rose = total.saturating_sub(self.total);
        self.total = total;
        // A clock that was set back leaves parts of the future: they count until they would have been over.
        self.parts.retain(|(began, _)| now.since(*began) < length);
        match self.parts.back_mut() {
            Some((began, count)) if now.since(*began) < length / PARTS => *count += rose,
            _ if rose > 0 => self.parts.push_back((now, rose)),
            _ => {}
        }
        while self.parts.len() > PARTS as usize + 1 {
            self.parts.pop_front();
        }
        self.parts.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut window = Window::default();
        let length = Duration::from_secs(100);
        let at = |secs: i64| Timestamp::from_unix_micros(secs * 1_000_000);
        assert_eq!(window.rise(3, at(0), length), 3);
        assert_eq!(window.rise(3, at(5), length), 3);
        assert_eq!(window.rise(5, at(50), length), 5);
        assert_eq!(window.rise(5, at(100), length), 2, "the first three are over");
        assert_eq!(window.rise(5, at(150), length), 0);
        assert_eq!(window.rise(9, at(151), length), 4, "a counter, not a reading");
        for secs in 152..10_000 {
            window.rise(secs as u64, at(secs), length);
            assert!(window.parts.len() <= PARTS as usize + 1);
        }
    }
}
