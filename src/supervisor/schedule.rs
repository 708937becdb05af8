//! When a runtime is started by the clock.

use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::domain::Timestamp;

/// Longest expression, in bytes: lists of every minute and hour fit.
const MAX_EXPRESSION: usize = 256;

/// A cron expression of five fields (minute, hour, day of month, month, day of week) in a time zone.
///
/// As in Vixie cron, when both days are given either will do. Where clocks are put forward, a fixed time that is
/// skipped runs right after the gap; where they are put back, it runs once.
#[derive(Debug, Clone)]
pub struct Schedule {
    expression: String,
    cron: Box<Cron>,
    zone: Tz,
}

/// Why there is no [`Schedule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleFault {
    /// Longer than any expression needs to be.
    #[error("a schedule has at most 256 characters")]
    TooLong,
    /// Not a cron expression.
    #[error("not a cron expression: {0}")]
    Expression(String),
    /// It names no moment, such as the 30th of February.
    #[error("there is no such day")]
    Never,
    /// Not a time zone of the IANA database.
    #[error("`{0}` is no time zone")]
    Zone(String),
}

impl Schedule {
    /// Reads an expression and the name of a time zone of the IANA database (`Europe/Berlin`, `UTC`).
    ///
    /// # Errors
    /// [`ScheduleFault`] says what is wrong.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, ScheduleFault> {
        if expression.len() > MAX_EXPRESSION {
            return Err(ScheduleFault::TooLong);
        }
        let zone: Tz = zone.parse().map_err(|_| ScheduleFault::Zone(zone.chars().take(64).collect()))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| ScheduleFault::Expression(error.to_string()))?;
        let schedule = Self { expression: expression.to_owned(), cron: Box::new(cron), zone };
        // 2000 was a leap year that starts a cycle: what happens at all happens after it.
        schedule.next_after(Timestamp::from_unix_micros(946_684_800_000_000)).ok_or(ScheduleFault::Never)?;
        Ok(schedule)
    }

    /// The first moment after `after`; `None` when there is none.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = DateTime::<Utc>::from_timestamp(after.unix_secs(), 0)?.with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        let next = Timestamp::from_unix_micros(next.timestamp_micros());
        // The search is foreign code: a moment that is not later would spin the caller.
        (next.unix_secs() > after.timestamp()).then_some(next)
    }

    /// The name of the time zone.
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.expression, self.zone.name())
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression && self.zone == other.zone
    }
}

impl Eq for Schedule {}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, zone: &str, after: &str) -> String {
        let schedule = Schedule::parse(expression, zone).expect(expression);
        let after = Timestamp::parse(after).expect(after);
        schedule.next_after(after).expect("a moment").to_string().replace(".000000Z", "Z")
    }

    #[test]
    fn the_next_moment_is_the_zones() {
        for (expression, zone, after, expected) in [
            ("0 3 * * *", "UTC", "2026-11-22T03:00:00Z", "2026-11-23T03:00:00Z"),
            ("0 3 * * *", "UTC", "2026-11-22T02:59:59.999999Z", "2026-11-22T03:00:00Z"),
            ("0 3 * * *", "Europe/Berlin", "2026-11-22T00:00:00Z", "2026-11-22T02:00:00Z"),
            ("0 3 * * *", "Europe/Berlin", "2026-07-22T00:00:00Z", "2026-07-22T01:00:00Z"),
            ("*/15 9-17 * * 1-5", "America/New_York", "2026-11-20T23:00:00Z", "2026-11-23T14:00:00Z"),
            ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 1 * 1", "UTC", "2026-11-22T12:00:00Z", "2026-11-23T00:00:00Z"),
        ] {
            assert_eq!(next(expression, zone, after), expected, "{expression} {zone} after {after}");
        }
    }

    #[test]
    fn a_time_that_the_clocks_skip_runs_after_the_gap_and_a_repeated_one_once() {
        // Berlin: 02:00 to 03:00 is skipped on 2026-03-29, and comes twice on 2026-10-25.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn moments_only_go_forward_through_changes_of_the_clocks() {
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"] {
            for expression in ["30 2 * * *", "*/7 1-3 * * *", "0 * * * *", "59 23 31 12 *"] {
                let schedule = Schedule::parse(expression, zone).expect(expression);
                let mut at = Timestamp::parse("2026-03-01T00:00:00Z").expect("time");
                for _ in 0..300 {
                    let next = schedule.next_after(at).expect("a moment");
                    assert!(next > at, "{expression} {zone}: {next} after {at}");
                    at = next;
                }
            }
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for bad in ["", "* * * *", "60 * * * *", "* * * * * *", "0 0 * * 9", "a b c d e", "1-0 * * * *", "*/0 * * * *"]
        {
            assert!(matches!(Schedule::parse(bad, "UTC"), Err(ScheduleFault::Expression(_))), "{bad}");
        }
        assert_eq!(Schedule::parse("0 0 30 2 *", "UTC"), Err(ScheduleFault::Never));
        assert_eq!(Schedule::parse("* * * * *", "Europe/Atlantis"), Err(ScheduleFault::Zone("Europe/Atlantis".into())));
        assert_eq!(Schedule::parse(&"0,".repeat(1_000), "UTC"), Err(ScheduleFault::TooLong));
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let schedule = Schedule::parse("* * * * *", "Europe/Berlin").expect("schedule");
        for micros in [i64::MIN, -1, 0, i64::MAX] {
            let at = Timestamp::from_unix_micros(micros);
            assert!(schedule.next_after(at).is_none_or(|next| next > at));
        }
    }
}
