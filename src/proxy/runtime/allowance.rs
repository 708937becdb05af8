//! What a runtime may use of the gateway: connections at once, and budgets of bytes and requests.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::domain::{Denial, DenialCode, codes};

/// What one runtime may use. `None` is no limit of its own; the persona's and the server's still hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EgressLimits {
    /// Client connections open at once.
    pub connections: Option<usize>,
    /// Bytes in a second, both directions and all flows together. At least one.
    pub rate: Option<u64>,
    /// Bytes in all, both directions.
    pub bytes: Option<u64>,
    /// Grants in all.
    pub requests: Option<u64>,
}

/// What was spent of the budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSpent {
    /// Bytes, both directions.
    pub bytes: u64,
    /// Grants.
    pub requests: u64,
}

codes! {
    /// A budget that can be spent.
    EgressBudget {
        /// [`EgressLimits::bytes`].
        Bytes => "egress_bytes",
        /// [`EgressLimits::requests`].
        Requests => "egress_requests",
    }
}

/// Limits and counts. A limit that is not set is the largest number there is.
#[derive(Debug)]
pub(in crate::proxy) struct Allowance {
    max_connections: AtomicUsize,
    max_bytes: AtomicU64,
    max_requests: AtomicU64,
    connections: AtomicUsize,
    bytes: AtomicU64,
    requests: AtomicU64,
    /// Grants since the runtime was attended to, whatever was spent before.
    granted: AtomicU64,
    /// Told whenever a budget is found to be spent.
    spent: Notify,
}

impl Allowance {
    pub(super) fn new(limits: EgressLimits, spent: EgressSpent) -> Self {
        Self {
            max_connections: AtomicUsize::new(limits.connections.unwrap_or(usize::MAX)),
            max_bytes: AtomicU64::new(limits.bytes.unwrap_or(u64::MAX)),
            max_requests: AtomicU64::new(limits.requests.unwrap_or(u64::MAX)),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(spent.bytes),
            requests: AtomicU64::new(spent.requests),
            granted: AtomicU64::new(0),
            spent: Notify::new(),
        }
    }

    /// What is set, but for the rate, which is kept elsewhere.
    pub(super) fn limits(&self) -> EgressLimits {
        let set = |max: &AtomicU64| Some(max.load(Ordering::Relaxed)).filter(|max| *max != u64::MAX);
        let connections = self.max_connections.load(Ordering::Relaxed);
        EgressLimits {
            connections: Some(connections).filter(|max| *max != usize::MAX),
            rate: None,
            bytes: set(&self.max_bytes),
            requests: set(&self.max_requests),
        }
    }

    pub(super) fn set_limits(&self, limits: EgressLimits) {
        self.max_connections.store(limits.connections.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.max_bytes.store(limits.bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.max_requests.store(limits.requests.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.tell();
    }

    pub(super) fn set_spent(&self, spent: EgressSpent) {
        self.bytes.store(spent.bytes, Ordering::Relaxed);
        self.requests.store(spent.requests, Ordering::Relaxed);
        self.tell();
    }

    pub(super) fn spent(&self) -> EgressSpent {
        EgressSpent { bytes: self.bytes.load(Ordering::Relaxed), requests: self.requests.load(Ordering::Relaxed) }
    }

    pub(super) fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// A budget of which nothing is left.
    pub(super) fn spent_budget(&self) -> Option<EgressBudget> {
        let spent = |count: &AtomicU64, max: &AtomicU64| {
            let max = max.load(Ordering::Relaxed);
            max != u64::MAX && count.load(Ordering::Relaxed) >= max
        };
        if spent(&self.bytes, &self.max_bytes) {
            Some(EgressBudget::Bytes)
        } else if spent(&self.requests, &self.max_requests) {
            Some(EgressBudget::Requests)
        } else {
            None
        }
    }

    fn tell(&self) {
        if self.spent_budget().is_some() {
            self.spent.notify_waiters();
        }
    }

    /// Resolves once a budget is spent.
    pub(super) async fn budget_spent(&self) -> EgressBudget {
        loop {
            let told = self.spent.notified();
            tokio::pin!(told);
            // From here on nothing is missed.
            told.as_mut().enable();
            if let Some(budget) = self.spent_budget() {
                return budget;
            }
            told.await;
        }
    }

    pub(super) fn take_connection(&self) -> Result<(), Denial> {
        let max = self.max_connections.load(Ordering::Relaxed);
        if self.connections.fetch_add(1, Ordering::AcqRel) >= max {
            self.leave_connection();
            let detail = format!("has {max} connections open, its bound (`egress.connections`)");
            return Err(Denial::new(DenialCode::Overloaded, detail));
        }
        Ok(())
    }

    pub(super) fn leave_connection(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn left(&self) -> Result<(), Denial> {
        self.spent_budget().map_or(Ok(()), |budget| Err(self.denial(budget)))
    }

    pub(super) fn take_request(&self) -> Result<(), Denial> {
        self.left()?;
        let max = self.max_requests.load(Ordering::Relaxed);
        let take = |spent: u64| (spent < max).then(|| spent.saturating_add(1));
        let before = self.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_err(|_| self.denial(EgressBudget::Requests))?;
        self.granted.fetch_add(1, Ordering::Relaxed);
        if max != u64::MAX {
            self.tell();
        }
        Ok(())
    }

    /// Hands back the request that was taken last, when nothing left after all.
    pub(in crate::proxy) fn hand_back_request(&self) {
        let back = |count: u64| Some(count.saturating_sub(1));
        // The closure never declines.
        let _ = self.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
        let _ = self.granted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    fn denial(&self, budget: EgressBudget) -> Denial {
        let detail = match budget {
            EgressBudget::Bytes => {
                format!("has spent all {} bytes of its budget", self.max_bytes.load(Ordering::Relaxed))
            }
            EgressBudget::Requests => {
                format!("has spent all {} requests of its budget", self.max_requests.load(Ordering::Relaxed))
            }
        };
        Denial::new(DenialCode::BudgetExhausted, detail)
    }

    /// Takes as much of `wanted` bytes as is left. One addition when there is no budget.
    pub(in crate::proxy) fn reserve(&self, wanted: u64) -> u64 {
        let max = self.max_bytes.load(Ordering::Relaxed);
        if max == u64::MAX {
            self.bytes.fetch_add(wanted, Ordering::Relaxed);
            return wanted;
        }
        let mut got = 0;
        let take = |spent: u64| {
            got = wanted.min(max.saturating_sub(spent));
            Some(spent.saturating_add(got))
        };
        // The closure never declines.
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        self.tell();
        got
    }

    /// Takes `bytes`, all of them or none. When they do not fit the budget counts as spent.
    pub(in crate::proxy) fn spend(&self, bytes: u64) -> bool {
        // What is left is too little for this, and is not kept for something smaller.
        self.reserve(bytes) == bytes
    }

    /// Hands back bytes that did not pass after all.
    pub(in crate::proxy) fn refund(&self, bytes: u64) {
        let back = |spent: u64| Some(spent.saturating_sub(bytes));
        // The closure never declines.
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowance(bytes: Option<u64>, requests: Option<u64>) -> Allowance {
        let limits = EgressLimits { bytes, requests, ..EgressLimits::default() };
        Allowance::new(limits, EgressSpent { bytes: 10, requests: 1 })
    }

    #[test]
    fn what_was_spent_before_counts() {
        let allowance = allowance(Some(25), Some(2));
        assert_eq!((allowance.reserve(10), allowance.reserve(10), allowance.reserve(10)), (10, 5, 0));
        assert_eq!(allowance.spent_budget(), Some(EgressBudget::Bytes));
        assert_eq!(allowance.take_request().map_err(|denial| denial.code), Err(DenialCode::BudgetExhausted));
        allowance.set_spent(EgressSpent { bytes: 0, requests: 1 });
        assert!(allowance.take_request().is_ok());
        assert_eq!(allowance.spent_budget(), Some(EgressBudget::Requests));
        assert!(allowance.take_request().is_err());
        allowance.hand_back_request();
        assert!(allowance.take_request().is_ok());
        assert_eq!((allowance.granted(), allowance.spent().requests), (1, 2));
    }

    #[test]
    fn a_budget_that_is_set_later_knows_what_passed_before() {
        let allowance = allowance(None, None);
        assert!(allowance.spend(1_000));
        allowance.set_limits(EgressLimits { bytes: Some(1_011), ..EgressLimits::default() });
        assert!(allowance.spend(1) && !allowance.spend(1));
    }

    #[test]
    fn all_or_none_leaves_nothing_for_something_smaller() {
        let allowance = allowance(Some(20), None);
        assert!(!allowance.spend(11));
        assert_eq!(allowance.reserve(1), 0);
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_of_a_budget_is_told() {
        let allowance = std::sync::Arc::new(allowance(Some(20), None));
        let waiting = tokio::spawn({
            let allowance = std::sync::Arc::clone(&allowance);
            async move { allowance.budget_spent().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        allowance.reserve(10);
        assert_eq!(waiting.await.expect("joins"), EgressBudget::Bytes);
        assert_eq!(allowance.budget_spent().await, EgressBudget::Bytes, "and whoever asks later");
    }
}
