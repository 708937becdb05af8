//! What was spent of the budgets of rules, and what leases were used for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;

use crate::domain::{Denial, DenialCode, LeaseId, PersonaId, RuleId, Timestamp};

use super::grant::Grant;
use super::rule::Budget;
use super::terms::{Mode, Rate};

/// The spent counters of every rule that has a budget, by persona and rule id, and of every lease that opens a host.
///
/// They outlive snapshots: after a reload the rule of the same id goes on where it was, also with another
/// budget. Counters stay when a rule goes, so that taking it out and back in refills nothing.
#[derive(Debug, Default)]
pub struct Usage {
    spent: RwLock<HashMap<(PersonaId, RuleId), Arc<Counter>>>,
    leases: RwLock<HashMap<LeaseId, Arc<Counter>>>,
}

#[derive(Debug, Default)]
struct Counter {
    uses: AtomicU64,
    bytes: AtomicU64,
    /// Theoretical arrival time of the rate's next request, in microseconds since the epoch (GCRA).
    arrival: AtomicI64,
}

/// What was spent of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// The persona.
    pub persona: PersonaId,
    /// The rule.
    pub rule: RuleId,
    /// Grants admitted.
    pub uses: u64,
    /// Bytes passed in both directions.
    pub bytes: u64,
}

/// Counts the bytes of one admitted grant against its rule's budget. All meters of a rule share one counter.
#[derive(Debug)]
pub struct Meter {
    counted: Option<(Arc<Counter>, u64)>,
    /// Boxed, since every open tunnel has a meter and hardly any has this.
    would_deny: Option<Box<Denial>>,
}

impl Usage {
    /// No rule has spent anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one use of the granting rule or lease, at the moment `now`. A rule without a budget costs nothing here. Of
    /// several leases that open the same it is the first that is not spent; `grant` names it from then on.
    ///
    /// Uses never exceed `max_uses`, however many threads ask. The rate is a bucket of `count` that refills
    /// evenly over its period. In report mode nothing is refused; [`Meter::would_deny`] tells.
    ///
    /// # Errors
    /// `budget_exhausted` when the uses or the bytes of a rule are spent, `lease_exhausted` when those of every lease
    /// are, `rate_limited` when the rate is.
    pub fn admit(&self, grant: &mut Grant, now: Timestamp) -> Result<Meter, Denial> {
        if !grant.leases.is_empty() {
            return self.admit_leased(grant, now);
        }
        let budget = grant.limits();
        let Some(rule) = grant.rule().filter(|_| !budget.is_none()) else { return Ok(Meter::FREE) };
        let counter = self.counter(grant.persona().id(), rule);
        match counter.admit(&budget, now) {
            Ok(()) => {
                let counted = match (budget.max_bytes, grant.persona().mode()) {
                    (Some(max), Mode::Enforce) => Some((counter, max)),
                    // Counted all the same, so that the report shows what it would have spent.
                    (Some(_), Mode::Report) => Some((counter, u64::MAX)),
                    (None, _) => None,
                };
                Ok(Meter { counted, would_deny: None })
            }
            Err(refusal) => {
                let denial = refusal.denial(&budget).by(rule.clone());
                match grant.persona().mode() {
                    Mode::Enforce => Err(denial),
                    Mode::Report => Ok(Meter { counted: None, would_deny: Some(Box::new(denial)) }),
                }
            }
        }
    }

    /// Takes one use of the first lease that has one.
    fn admit_leased(&self, grant: &mut Grant, now: Timestamp) -> Result<Meter, Denial> {
        let mut refused = None;
        for (place, lease) in grant.leases.iter().enumerate() {
            let (budget, counter) = (lease.budget(), self.lease_counter(&lease.id));
            match counter.admit(&budget, now) {
                Ok(()) => {
                    // Counted also without a bound: who gave the lease sees what it was used for.
                    let max = match grant.persona().mode() {
                        Mode::Enforce => budget.max_bytes.unwrap_or(u64::MAX),
                        Mode::Report => u64::MAX,
                    };
                    grant.leases.drain(..place);
                    return Ok(Meter { counted: Some((counter, max)), would_deny: None });
                }
                Err(refusal) => {
                    refused.get_or_insert_with(|| refusal.of_lease(&budget, &lease.id));
                }
            }
        }
        let denial = refused.expect("there was a lease");
        match grant.persona().mode() {
            Mode::Enforce => Err(denial),
            Mode::Report => Ok(Meter { counted: None, would_deny: Some(Box::new(denial)) }),
        }
    }

    /// Hands back the use that [`Usage::admit`] took, when nothing left after all. The rate is not handed back.
    pub fn hand_back(&self, grant: &Grant) {
        let counter = match grant.leases.first() {
            Some(lease) => self.lease_counter(&lease.id),
            None => {
                let Some(rule) = grant.rule().filter(|_| !grant.limits().is_none()) else { return };
                self.counter(grant.persona().id(), rule)
            }
        };
        let back = |uses: u64| Some(uses.saturating_sub(1));
        // The closure never declines.
        let _ = counter.uses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    /// Adds what an earlier process spent; for start-up, once per rule, from the ledger.
    pub fn restore(&self, persona: &PersonaId, rule: &RuleId, uses: u64, bytes: u64) {
        let counter = self.counter(persona, rule);
        raise(&counter.uses, uses);
        raise(&counter.bytes, bytes);
    }

    /// The same for a lease.
    pub fn restore_lease(&self, lease: &LeaseId, uses: u64, bytes: u64) {
        let counter = self.lease_counter(lease);
        raise(&counter.uses, uses);
        raise(&counter.bytes, bytes);
    }

    /// What a lease was used for so far: grants, and bytes in both directions.
    pub fn of_lease(&self, lease: &LeaseId) -> (u64, u64) {
        let counters = self.leases.read().unwrap_or_else(PoisonError::into_inner);
        counters
            .get(lease)
            .map_or((0, 0), |counter| (counter.uses.load(Ordering::Relaxed), counter.bytes.load(Ordering::Relaxed)))
    }

    /// Forgets leases that have ended: their flows keep their counters, and nothing is granted under them any more.
    pub fn keep_leases(&self, keep: impl Fn(&LeaseId) -> bool) {
        self.leases.write().unwrap_or_else(PoisonError::into_inner).retain(|lease, _| keep(lease));
    }

    /// What was spent of each rule that was ever counted, in the order of their names.
    pub fn spent(&self) -> Vec<Spent> {
        let counters = self.spent.read().unwrap_or_else(PoisonError::into_inner);
        let mut spent: Vec<Spent> = counters
            .iter()
            .map(|((persona, rule), counter)| Spent {
                persona: persona.clone(),
                rule: rule.clone(),
                uses: counter.uses.load(Ordering::Relaxed),
                bytes: counter.bytes.load(Ordering::Relaxed),
            })
            .collect();
        spent.sort_by(|left, right| (&left.persona, &left.rule).cmp(&(&right.persona, &right.rule)));
        spent
    }

    fn counter(&self, persona: &PersonaId, rule: &RuleId) -> Arc<Counter> {
        let key = (persona.clone(), rule.clone());
        // A map of counters is whole after every step, so a panic elsewhere does not spoil it.
        if let Some(counter) = self.spent.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(counter);
        }
        Arc::clone(self.spent.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }

    fn lease_counter(&self, lease: &LeaseId) -> Arc<Counter> {
        if let Some(counter) = self.leases.read().unwrap_or_else(PoisonError::into_inner).get(lease) {
            return Arc::clone(counter);
        }
        Arc::clone(self.leases.write().unwrap_or_else(PoisonError::into_inner).entry(lease.clone()).or_default())
    }
}

enum Refusal {
    Uses,
    Bytes,
    Rate,
}

impl Refusal {
    fn denial(&self, budget: &Budget) -> Denial {
        let (code, detail) = match self {
            Self::Uses => (
                DenialCode::BudgetExhausted,
                format!("all {} uses of the rule are spent", budget.max_uses.unwrap_or(0)),
            ),
            Self::Bytes => (
                DenialCode::BudgetExhausted,
                format!("all {} bytes of the rule are spent", budget.max_bytes.unwrap_or(0)),
            ),
            Self::Rate => {
                let rate = budget.rate.map(|rate| rate.to_string()).unwrap_or_default();
                (DenialCode::RateLimited, format!("the rule permits {rate}"))
            }
        };
        Denial::new(code, detail)
    }

    fn of_lease(&self, budget: &Budget, lease: &LeaseId) -> Denial {
        let detail = match self {
            Self::Uses => format!("all {} uses of the lease `{lease}` are spent", budget.max_uses.unwrap_or(0)),
            Self::Bytes | Self::Rate => {
                format!("all {} bytes of the lease `{lease}` are spent", budget.max_bytes.unwrap_or(0))
            }
        };
        Denial::new(DenialCode::LeaseExhausted, detail).under(lease.clone())
    }
}

impl Counter {
    fn admit(&self, budget: &Budget, now: Timestamp) -> Result<(), Refusal> {
        if budget.max_bytes.is_some_and(|max| self.bytes.load(Ordering::Relaxed) >= max) {
            return Err(Refusal::Bytes);
        }
        let max_uses = budget.max_uses.unwrap_or(u64::MAX);
        // Before the rate, so that a spent rule does not also eat the rate; and once more behind it, for certain.
        if self.uses.load(Ordering::Relaxed) >= max_uses {
            return Err(Refusal::Uses);
        }
        if budget.rate.is_some_and(|rate| !self.admit_rate(rate, now)) {
            return Err(Refusal::Rate);
        }
        let take = |uses: u64| (uses < max_uses).then_some(uses + 1);
        self.uses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| Refusal::Uses)?;
        Ok(())
    }

    /// The generic cell rate algorithm (ITU-T I.371): a bucket in one number.
    fn admit_rate(&self, rate: Rate, now: Timestamp) -> bool {
        let period = i64::try_from(rate.period().as_micros()).expect("an hour of microseconds fits");
        // Rounded up: an uneven share never admits more.
        let share = (period + i64::from(rate.count()) - 1) / i64::from(rate.count());
        let full = share * i64::from(rate.count());
        let now = now.unix_micros();
        let mut admitted = false;
        let take = |arrival: i64| {
            // Never more than one period ahead, unless the clock was set back: then the rule must not stay
            // locked for the length of the step. The second period is slack for threads that read the clock
            // a little earlier.
            let arrival =
                if arrival > now.saturating_add(2 * full) { now.saturating_add(full) } else { arrival.max(now) };
            let next = arrival.saturating_add(share);
            admitted = next.saturating_sub(now) <= full;
            Some(if admitted { next } else { arrival })
        };
        // The closure never declines.
        let _ = self.arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        admitted
    }
}

impl Meter {
    /// Counts nothing: the rule has no `max_bytes`.
    const FREE: Self = Self { counted: None, would_deny: None };

    /// Takes `bytes` of the budget; call it before they are passed on. `false` means that they do not fit:
    /// they must not pass, and the budget now counts as spent. Never blocks.
    pub fn add(&self, bytes: u64) -> bool {
        let Some((counter, max)) = &self.counted else { return true };
        let take = |spent: u64| spent.checked_add(bytes).filter(|total| total <= max);
        let taken = counter.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if !taken {
            counter.bytes.fetch_max(*max, Ordering::Relaxed);
        }
        taken
    }

    /// Takes as much of `wanted` bytes as is left and returns that: for a relay that learns only afterwards how
    /// much it moved, and then hands the rest back with [`Meter::refund`]. Zero means that the budget is spent.
    pub fn reserve(&self, wanted: u64) -> u64 {
        let Some((counter, max)) = &self.counted else { return wanted };
        let mut taken = 0;
        let take = |spent: u64| {
            taken = wanted.min(max.saturating_sub(spent));
            (taken > 0).then_some(spent + taken)
        };
        match counter.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => taken,
            Err(_) => 0,
        }
    }

    /// Hands back what [`Meter::reserve`] gave and nobody used.
    pub fn refund(&self, unused: u64) {
        if let Some((counter, _)) = &self.counted {
            let back = |spent: u64| Some(spent.saturating_sub(unused));
            // The closure never declines.
            let _ = counter.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
        }
    }

    /// Bytes that are left of the rule; `None` when they are not bounded.
    pub fn remaining(&self) -> Option<u64> {
        let (counter, max) = self.counted.as_ref().filter(|(_, max)| *max < u64::MAX)?;
        Some(max.saturating_sub(counter.bytes.load(Ordering::Relaxed)))
    }

    /// In report mode: the denial that enforcement would have made.
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_deref()
    }
}

fn raise(counter: &AtomicU64, by: u64) {
    // The closure never declines.
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| Some(spent.saturating_add(by)));
}
