use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use crate::domain::RuleId;

use super::*;

fn with_budget(budget: &str) -> Snapshot {
    demo(&format!("[[allow]]\nid = \"r\"\nhosts = [\"a.example.com\"]\n{budget}\n"))
}

fn grant(snapshot: &Snapshot) -> Grant {
    granted(snapshot, "tunnel a.example.com:443")
}

fn answer(usage: &Usage, snapshot: &Snapshot, moment: Timestamp) -> String {
    match usage.admit(&mut grant(snapshot), moment) {
        Ok(_) => "ok".to_owned(),
        Err(denial) => shown_denial(&denial),
    }
}

fn ids() -> (PersonaId, RuleId) {
    (PersonaId::parse("demo").expect("id"), RuleId::parse("r").expect("id"))
}

#[test]
fn a_rule_without_a_budget_is_never_counted() {
    let (usage, snapshot) = (Usage::new(), with_budget(""));
    for _ in 0..3 {
        let meter = usage.admit(&mut grant(&snapshot), now()).expect("free");
        assert!(meter.add(u64::MAX) && meter.add(u64::MAX));
        assert_eq!((meter.remaining(), meter.reserve(7)), (None, 7));
    }
    assert_eq!(usage.spent(), []);
}

#[test]
fn uses_end_and_a_reload_refills_nothing() {
    let usage = Usage::new();
    let two = with_budget("max_uses = 2");
    assert_eq!(answer(&usage, &two, now()), "ok");
    assert_eq!(answer(&usage, &with_budget("max_uses = 2"), now()), "ok");
    assert_eq!(answer(&usage, &two, now()), "budget_exhausted r");
    assert_eq!(answer(&usage, &with_budget("max_uses = 3"), now()), "ok", "a larger budget goes on");
    assert_eq!(answer(&usage, &with_budget("max_uses = 3"), now()), "budget_exhausted r");
    let (persona, rule) = ids();
    assert_eq!(usage.spent(), [Spent { persona, rule, uses: 3, bytes: 0 }]);
}

#[test]
fn bytes_are_shared_by_all_meters_and_end_exactly() {
    let (usage, snapshot) = (Usage::new(), with_budget("max_bytes = 100"));
    let one = usage.admit(&mut grant(&snapshot), now()).expect("fresh");
    let two = usage.admit(&mut grant(&snapshot), now()).expect("fresh");
    assert!(one.add(60) && two.add(30));
    assert_eq!(one.remaining(), Some(10));
    assert!(one.add(10));
    assert!(!two.add(1));
    assert!(two.add(0), "nothing is always affordable");
    assert_eq!(answer(&usage, &snapshot, now()), "budget_exhausted r");
}

#[test]
fn a_chunk_that_does_not_fit_spends_the_rest() {
    let (usage, snapshot) = (Usage::new(), with_budget("max_bytes = 100"));
    let meter = usage.admit(&mut grant(&snapshot), now()).expect("fresh");
    assert!(!meter.add(101));
    assert_eq!(meter.remaining(), Some(0));
    assert_eq!(answer(&usage, &snapshot, now()), "budget_exhausted r");
}

#[test]
fn a_reservation_is_cut_to_what_is_left_and_can_be_refunded() {
    let (usage, snapshot) = (Usage::new(), with_budget("max_bytes = 100"));
    let meter = usage.admit(&mut grant(&snapshot), now()).expect("fresh");
    assert_eq!(meter.reserve(64), 64);
    assert_eq!(meter.reserve(64), 36);
    assert_eq!(meter.reserve(64), 0);
    meter.refund(20);
    assert_eq!(meter.remaining(), Some(20));
    assert_eq!(meter.reserve(64), 20);
}

#[test]
fn what_an_earlier_process_spent_counts() {
    let (usage, snapshot) = (Usage::new(), with_budget("max_uses = 5\nmax_bytes = 100"));
    let (persona, rule) = ids();
    usage.restore(&persona, &rule, 4, 90);
    let meter = usage.admit(&mut grant(&snapshot), now()).expect("the fifth");
    assert_eq!(meter.remaining(), Some(10));
    assert_eq!(answer(&usage, &snapshot, now()), "budget_exhausted r");
    usage.restore(&persona, &rule, u64::MAX, u64::MAX);
    assert_eq!(meter.remaining(), Some(0), "restoring never wraps");
}

#[test]
fn the_rate_is_a_bucket_that_refills_evenly() {
    let (usage, snapshot) = (Usage::new(), with_budget("rate = \"3/s\""));
    let start = now();
    let ms = |ms: u64| start.plus(Duration::from_millis(ms));
    for (moment, expected) in [
        (0, "ok"),
        (0, "ok"),
        (0, "ok"),
        (0, "rate_limited r"),
        (333, "rate_limited r"),
        (334, "ok"),
        (334, "rate_limited r"),
        (5_000, "ok"),
        (5_000, "ok"),
        (5_000, "ok"),
        (5_000, "rate_limited r"),
    ] {
        assert_eq!(answer(&usage, &snapshot, ms(moment)), expected, "{moment} ms");
    }
}

#[test]
fn a_clock_set_back_does_not_lock_a_rate_for_the_length_of_the_step() {
    let (usage, snapshot) = (Usage::new(), with_budget("rate = \"1/s\""));
    assert_eq!(answer(&usage, &snapshot, now()), "ok");
    let back = at("2020-01-01T00:00:00Z");
    assert_eq!(answer(&usage, &snapshot, back), "rate_limited r");
    assert_eq!(answer(&usage, &snapshot, back.plus(Duration::from_secs(1))), "ok");
}

#[test]
fn a_refused_rate_takes_no_use() {
    let (usage, snapshot) = (Usage::new(), with_budget("rate = \"1/s\"\nmax_uses = 2"));
    assert_eq!(answer(&usage, &snapshot, now()), "ok");
    for _ in 0..5 {
        assert_eq!(answer(&usage, &snapshot, now()), "rate_limited r");
    }
    assert_eq!(answer(&usage, &snapshot, now().plus(Duration::from_secs(1))), "ok");
    assert_eq!(answer(&usage, &snapshot, now().plus(Duration::from_secs(9))), "budget_exhausted r");
}

#[test]
fn report_mode_counts_and_tells_but_never_stops() {
    let snapshot =
        demo("mode = \"report\"\n[[allow]]\nid = \"r\"\nhosts = [\"a.example.com\"]\nmax_uses = 1\nmax_bytes = 10\n");
    let usage = Usage::new();
    let meter = usage.admit(&mut grant(&snapshot), now()).expect("first");
    assert!(meter.add(1_000) && meter.would_deny().is_none() && meter.remaining().is_none());
    let meter = usage.admit(&mut grant(&snapshot), now()).expect("reported");
    assert_eq!(shown_denial(meter.would_deny().expect("told")), "budget_exhausted r");
    assert!(meter.add(1_000));
}

proptest! {
    // Threads are dear; the interleavings inside one case are what counts.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_budget_is_ever_exceeded_by_threads_that_race(
        max_uses in 1_u64..40,
        max_bytes in 1_u64..2_000,
        rate in 1_u32..40,
        chunks in prop::collection::vec(1_u64..200, 1..12),
    ) {
        let snapshot = with_budget(&format!("max_uses = {max_uses}\nmax_bytes = {max_bytes}\nrate = \"{rate}/h\""));
        let usage = Usage::new();
        let (uses, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..12 {
                        let Ok(meter) = usage.admit(&mut grant(&snapshot), now()) else { continue };
                        uses.fetch_add(1, Ordering::Relaxed);
                        for chunk in &chunks {
                            if meter.add(*chunk) {
                                bytes.fetch_add(*chunk, Ordering::Relaxed);
                            }
                            let got = meter.reserve(*chunk);
                            meter.refund(got / 2);
                            bytes.fetch_add(got - got / 2, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let (uses, bytes) = (uses.into_inner(), bytes.into_inner());
        prop_assert!(uses <= max_uses.min(u64::from(rate)), "{} uses", uses);
        prop_assert!(bytes <= max_bytes, "{} bytes", bytes);
        prop_assert!(uses > 0, "the first is always admitted");
    }
}
