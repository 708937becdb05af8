//! A report of what an automation used, and what must hold before it counts. Pure.

use serde::Deserialize;

use crate::domain::{Currency, Money};
use crate::store::StoreFault;
use crate::supervisor::Budget;

/// Most tokens of one report: a thousand million are months of work of a model.
const MOST_TOKENS: u64 = 1_000_000_000_000;
/// Longest name of a report, in bytes: a UUID with a prefix fits.
const MAX_REPORT_ID: usize = 64;

/// `POST /automations/{id}/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageReport {
    /// Its name: a repeated report counts once.
    pub report_id: String,
    /// Tokens used since the report before.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Money spent since the report before.
    #[serde(default)]
    pub spend: Option<Money>,
}

/// Why a report does not count.
#[derive(Debug, thiserror::Error)]
pub enum UsageFault {
    /// There is no such automation.
    #[error("there is no such automation")]
    Unknown,
    /// Nothing of it ran yet, so there is no window to count in.
    #[error("it never ran: there is nothing to report of")]
    NeverRan,
    /// The name of the report.
    #[error("`report_id` is 1 to {MAX_REPORT_ID} characters of `A-Z a-z 0-9 . _ : -`")]
    ReportId,
    /// It says nothing.
    #[error("a report has `tokens`, `spend` or both")]
    Empty,
    /// More than anybody uses.
    #[error("`tokens` is at most {MOST_TOKENS} in one report")]
    TooManyTokens,
    /// Another currency than the budget's, or than what was reported before.
    #[error("what it spends is counted in {expected}, and the report is in {found}")]
    Currency {
        /// In force.
        expected: Currency,
        /// As reported.
        found: Currency,
    },
    /// A report of that name said something else.
    #[error("a report of that `report_id` came before and said something else")]
    Differs,
    /// The sum.
    #[error("the sum is more than can be counted exactly")]
    TooMuch,
    /// Reports come faster than they are taken.
    #[error("reports come faster than they are taken")]
    TooFast,
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Gone,
}

impl UsageFault {
    /// The stable code, as the control API and the desk of the gateway show it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_automation",
            Self::NeverRan => "unavailable",
            Self::ReportId | Self::Empty | Self::TooManyTokens | Self::TooMuch => "bad_request",
            Self::Currency { .. } => "currency_mismatch",
            Self::Differs => "report_conflict",
            Self::Store(_) => "state_unavailable",
            Self::TooFast | Self::Gone => "not_ready",
        }
    }

    /// The HTTP status of that code.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Unknown => 404,
            Self::ReportId | Self::Empty | Self::TooManyTokens | Self::TooMuch => 400,
            Self::NeverRan | Self::Currency { .. } | Self::Differs => 409,
            Self::Store(_) | Self::TooFast | Self::Gone => 503,
        }
    }
}

impl UsageReport {
    /// Checks it against the budgets that it counts for.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(super) fn examine(&self, budget: &Budget) -> Result<(), UsageFault> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
        if self.report_id.is_empty() || self.report_id.len() > MAX_REPORT_ID || !self.report_id.bytes().all(letter) {
            return Err(UsageFault::ReportId);
        }
        if self.tokens.is_none() && self.spend.is_none() {
            return Err(UsageFault::Empty);
        }
        if self.tokens.is_some_and(|tokens| tokens > MOST_TOKENS) {
            return Err(UsageFault::TooManyTokens);
        }
        let (limit, spend) = (budget.spend.map(Money::currency), self.spend.map(Money::currency));
        match (limit, spend) {
            (Some(expected), Some(found)) if expected != found => Err(UsageFault::Currency { expected, found }),
            _ => Ok(()),
        }
    }
}
