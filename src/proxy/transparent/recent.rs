//! Which denials were recorded a moment ago, so that a resolver that asks again does not fill the ledger.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::{DenialCode, Timestamp};

/// Same denials within this time are one record. Resolvers ask for A and AAAA at once.
const WINDOW: Duration = Duration::from_secs(1);
/// Denials of different names within [`WINDOW`] that are recorded for one runtime. A program that asks for more is
/// not looking for a host; it is told to try later, and nothing is decided.
const MOST: usize = 128;

/// What was recorded within the last second.
#[derive(Debug, Default)]
pub(super) struct Recent {
    seen: HashMap<(Box<[u8]>, DenialCode), Timestamp>,
}

/// What to do with a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Record it.
    New,
    /// It was recorded a moment ago.
    Repeated,
    /// Too many of them: decide nothing.
    Flood,
}

impl Recent {
    /// Weighs the denial of `name` with `code` at `now`.
    pub(super) fn weigh(&mut self, name: &[u8], code: DenialCode, now: Timestamp) -> Weight {
        // A clock that was set back makes everything old.
        let fresh = |at: Timestamp| at <= now && now.since(at) < WINDOW;
        let key = (Box::from(name), code);
        if self.seen.get(&key).is_some_and(|at| fresh(*at)) {
            return Weight::Repeated;
        }
        if self.seen.len() >= MOST {
            self.seen.retain(|_, at| fresh(*at));
        }
        if self.seen.len() >= MOST {
            return Weight::Flood;
        }
        self.seen.insert(key, now);
        Weight::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: DenialCode = DenialCode::NotAllowlisted;

    #[test]
    fn a_denial_is_new_once_a_second() {
        let mut recent = Recent::default();
        let start = Timestamp::from_unix_micros(1_000_000_000);
        assert_eq!(recent.weigh(b"a", CODE, start), Weight::New);
        assert_eq!(recent.weigh(b"a", CODE, start.plus(Duration::from_millis(999))), Weight::Repeated);
        assert_eq!(recent.weigh(b"b", CODE, start), Weight::New);
        assert_eq!(recent.weigh(b"a", DenialCode::PostureOff, start), Weight::New);
        assert_eq!(recent.weigh(b"a", CODE, start.plus(WINDOW)), Weight::New);
        assert_eq!(recent.weigh(b"a", CODE, Timestamp::from_unix_micros(1)), Weight::New);
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_passes() {
        let mut recent = Recent::default();
        let start = Timestamp::from_unix_micros(1_000_000_000);
        for number in 0..MOST {
            assert_eq!(recent.weigh(&number.to_be_bytes(), CODE, start), Weight::New);
        }
        assert_eq!(recent.weigh(b"more", CODE, start), Weight::Flood);
        assert_eq!(recent.weigh(&0_usize.to_be_bytes(), CODE, start), Weight::Repeated);
        assert_eq!(recent.weigh(b"more", CODE, start.plus(WINDOW)), Weight::New);
    }
}
