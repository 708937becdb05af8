//! The engine by tables of what is learned and what follows, and by properties that hold whatever is learned.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::alert::MAX_SAMPLES;
use super::engine::{Change, Engine, MAX_ACTIVE, MAX_ESCALATION};
use super::kind::{AlertKind, Cleared, Severity, Step};
use super::rules::Rules;
use super::signal::{LeaseLook, Look, Mark, RuntimeLook, Signal, Watched};
use super::{Alert, NoSuchAlert};
use crate::domain::{AlertId, Clock, LeaseId, ManualClock, PersonaId, RouteId, RuntimeId, Timestamp};
use crate::events::{Delivery, EventBus, EventKind};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_unix_micros(secs * 1_000_000)
}

fn persona(name: &str) -> PersonaId {
    PersonaId::parse(name).expect("an id")
}

fn mint() -> Box<dyn FnMut() -> AlertId + Send + Sync> {
    let mut next = 0_u64;
    Box::new(move || {
        next += 1;
        AlertId::parse(&format!("alert-{next}")).expect("an id")
    })
}

/// Nothing held back, so that a clearing is seen at the look that finds it.
fn prompt() -> Rules {
    Rules { clear_after: Duration::ZERO, ..Rules::default() }
}

fn engine() -> Engine {
    Engine::new(prompt(), Vec::new(), mint())
}

/// What happened, in short.
fn told(changes: &[Change]) -> Vec<(Step, AlertKind)> {
    changes.iter().map(|change| (change.step, change.alert.code)).collect()
}

fn new_domain(host: &str) -> Signal {
    Signal::NewDomain { persona: persona("demo"), host: host.to_owned(), listed: false }
}

fn runtime(state: &'static str, unwell: Option<&'static str>, restarts: u64, budgets: &[(&'static str, f64)]) -> Look {
    let id = RuntimeId::parse("nightly").expect("an id");
    let automation = "nightly".to_owned();
    let runtime =
        RuntimeLook { id, automation, persona: persona("demo"), state, unwell, restarts, budgets: budgets.to_vec() };
    Look { runtimes: Some(vec![runtime]), ..Look::default() }
}

fn cadence(seconds: u64) -> Look {
    let watched = Watched { persona: persona("demo"), automation: None };
    Look { cadences: vec![(watched, Duration::from_secs(seconds))], ..Look::default() }
}

fn beat(automation: Option<&str>) -> Signal {
    Signal::Beat(Watched { persona: persona("demo"), automation: automation.map(str::to_owned) })
}

#[test]
fn each_condition_is_raised_once_and_cleared_when_it_is_over() {
    use AlertKind as K;
    let lease = |near: bool| {
        let lease = LeaseLook {
            id: LeaseId::parse("lease-1").expect("an id"),
            persona: persona("demo"),
            capability: "egress:proxy".to_owned(),
            expires_at: at(99),
        };
        Look { leases: Some(if near { vec![lease] } else { Vec::new() }), ..Look::default() }
    };
    let ledger = |one: Option<&str>, other: Option<&str>| Look {
        ledger: Some((one.map(str::to_owned), other.map(str::to_owned))),
        ..Look::default()
    };
    let disk = |free: u64| Look { disks: Some(vec![("state folder", free)]), ..Look::default() };
    let store = |fault: Option<&str>| Look { store: fault.map(str::to_owned), ..Look::default() };
    let well = || runtime("ready", None, 0, &[]);
    let table: Vec<(K, Severity, Look, Look)> = vec![
        (K::RuntimeQuarantined, Severity::Critical, runtime("quarantined", Some("restarts_exhausted"), 3, &[]), well()),
        (K::RuntimeError, Severity::Critical, runtime("error", Some("launch_refused"), 0, &[]), well()),
        (K::RuntimeHealth, Severity::Warning, runtime("degraded", Some("probe_failed"), 0, &[]), well()),
        (K::RuntimeRestarts, Severity::Warning, runtime("ready", None, 2, &[]), runtime("ready", None, 1, &[])),
        (
            K::BudgetWarning,
            Severity::Warning,
            runtime("ready", None, 0, &[("egress", 0.7)]),
            runtime("ready", None, 0, &[("egress", 0.69)]),
        ),
        (K::BudgetEscalated, Severity::Critical, runtime("ready", None, 0, &[("egress", 0.9)]), well()),
        (K::BudgetExhausted, Severity::Critical, runtime("ready", None, 0, &[("egress", 1.0)]), well()),
        (K::LedgerUnavailable, Severity::Critical, ledger(Some("disk full"), None), ledger(None, None)),
        (K::CheckpointFailed, Severity::Warning, ledger(None, Some("no key")), ledger(None, None)),
        (K::DiskLow, Severity::Warning, disk((512 << 20) - 1), disk(512 << 20)),
        (K::StoreUnavailable, Severity::Critical, store(Some("full")), store(None)),
        (K::LeaseNearExpiry, Severity::Warning, lease(true), lease(false)),
    ];
    for (kind, severity, there, over) in table {
        let mut engine = engine();
        assert_eq!(engine.look(&over, at(0)), [], "{kind}: nothing is wrong");
        let raised = engine.look(&there, at(1));
        assert_eq!(told(&raised), [(Step::Raised, kind)]);
        assert_eq!((raised[0].alert.severity, raised[0].alert.lasting), (severity, true), "{kind}");
        assert_eq!(engine.look(&there, at(2)), [], "{kind}: once");
        assert_eq!(
            engine.look(&Look { store: there.store.clone(), ..Look::default() }, at(3)),
            [],
            "{kind}: not known, so not over"
        );
        let cleared = engine.look(&over, at(4));
        assert_eq!(told(&cleared), [(Step::Cleared, kind)]);
        assert_eq!(cleared[0].alert.cleared.map(|clearing| clearing.why), Some(Cleared::Over));
        assert_eq!(cleared[0].alert.id, raised[0].alert.id);
        assert_eq!(engine.active().len(), 0);
    }
}

#[test]
fn what_comes_back_within_the_hold_is_the_same_alert() {
    let mut engine =
        Engine::new(Rules { clear_after: Duration::from_secs(30), ..Rules::default() }, Vec::new(), mint());
    let (sick, well) = (runtime("degraded", Some("probe_failed"), 0, &[]), runtime("ready", None, 0, &[]));
    assert_eq!(engine.look(&sick, at(0)).len(), 1);
    for round in 0..20 {
        assert_eq!(engine.look(&well, at(round * 40 + 10)), []);
        assert_eq!(engine.look(&sick, at(round * 40 + 39)), [], "29 s are not 30");
    }
    assert_eq!(engine.active()[0].count, 21, "counted all the same");
    assert_eq!(engine.look(&well, at(1_000)), []);
    assert_eq!(told(&engine.look(&well, at(1_030))), [(Step::Cleared, AlertKind::RuntimeHealth)]);
}

#[test]
fn a_silence_of_more_than_twice_the_cadence_is_a_gap_until_the_next_sign_of_life() {
    let mut engine = engine();
    let look = cadence(60);
    assert_eq!(engine.look(&look, at(0)), [], "it has its time from the start on");
    assert_eq!(engine.look(&look, at(120)), [], "twice is not more than twice");
    engine.note(beat(None), at(120));
    assert_eq!(engine.look(&look, at(240)), []);
    assert_eq!(told(&engine.look(&look, at(241))), [(Step::Raised, AlertKind::HeartbeatGap)]);
    assert_eq!(engine.look(&look, at(300)), []);
    engine.note(beat(Some("any run of it")), at(301));
    assert_eq!(told(&engine.look(&look, at(301))), [(Step::Cleared, AlertKind::HeartbeatGap)]);
    assert_eq!(engine.look(&Look::default(), at(9_999)), [], "no cadence, no gap");
}

#[test]
fn one_silent_automation_is_not_covered_by_another_that_beats() {
    let watched = |name: &str| Watched { persona: persona("demo"), automation: Some(name.to_owned()) };
    let minute = Duration::from_secs(60);
    let look = Look { cadences: vec![(watched("a"), minute), (watched("b"), minute)], ..Look::default() };
    let mut engine = engine();
    engine.look(&look, at(0));
    engine.note(beat(Some("a")), at(100));
    let raised = engine.look(&look, at(121));
    assert_eq!(raised.len(), 1);
    assert_eq!(raised[0].alert.subject.as_deref(), Some("b"));
}

#[test]
fn nobody_is_expected_to_beat_while_the_kill_switch_is_latched() {
    let mut engine = engine();
    let look = cadence(60);
    engine.look(&look, at(0));
    engine.note(Signal::Shut, at(1));
    assert_eq!(engine.look(&look, at(1_000)), []);
    engine.note(Signal::Rearmed, at(1_000));
    assert_eq!(engine.look(&look, at(1_120)), [], "the time begins anew");
    assert_eq!(engine.look(&look, at(1_121)).len(), 1);
}

#[test]
fn denials_are_counted_for_each_persona_within_the_window() {
    let mut engine = engine();
    let look = |demo: u64, nobody: u64| Look {
        denials: vec![(Some(persona("demo")), demo), (None, nobody)],
        ..Look::default()
    };
    assert_eq!(engine.look(&look(19, 0), at(0)), []);
    let raised = engine.look(&look(20, 0), at(599));
    assert_eq!(told(&raised), [(Step::Raised, AlertKind::PolicyDenials)]);
    assert_eq!(raised[0].alert.persona, Some(persona("demo")));
    assert_eq!(
        told(&engine.look(&look(20, 0), at(601))),
        [(Step::Cleared, AlertKind::PolicyDenials)],
        "the first are over"
    );
    assert_eq!(engine.look(&look(39, 19), at(602)).len(), 1, "demo again, and nobody not yet");
    let raised = engine.look(&look(39, 20), at(603));
    assert_eq!(raised[0].alert.persona, None);
}

#[test]
fn a_budget_goes_through_its_marks_as_one_alert_that_gets_worse() {
    let mut engine = engine();
    let mut ids = Vec::new();
    let mut go = |ratio: f64, now: i64| {
        let changes = engine.look(&runtime("ready", None, 0, &[("egress", ratio)]), at(now));
        ids.extend(changes.iter().map(|change| change.alert.id.clone()));
        if now == 2 {
            engine.acknowledge(&changes[0].alert.id, "unix:uid=0", "on it", at(now)).expect("active");
        }
        changes
    };
    assert_eq!(go(0.69, 0), []);
    assert_eq!(told(&go(0.75, 2)), [(Step::Raised, AlertKind::BudgetWarning)]);
    let worse = go(0.93, 3);
    assert_eq!(told(&worse), [(Step::Worsened, AlertKind::BudgetEscalated)]);
    assert_eq!(worse[0].alert.acknowledged, None, "to be acknowledged anew");
    assert_eq!(worse[0].alert.respond_by, Some(at(3 + 300)));
    assert_eq!(go(0.8, 4), [], "not better before it is over");
    assert_eq!(told(&go(1.0, 5)), [(Step::Worsened, AlertKind::BudgetExhausted)]);
    assert_eq!(told(&go(0.1, 6)), [(Step::Cleared, AlertKind::BudgetExhausted)]);
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
}

#[test]
fn a_budget_that_only_events_tell_of_is_over_once_it_is_acknowledged() {
    let mut engine = engine();
    let signal =
        |mark| Signal::Budget { automation: "crawl".to_owned(), persona: None, budget: "tokens".to_owned(), mark };
    let raised = engine.note(signal(Mark::Warning), at(0)).expect("raised");
    assert_eq!(engine.note(signal(Mark::Warning), at(1)), None, "a restart tells it again");
    assert_eq!(engine.look(&runtime("ready", None, 0, &[]), at(2)), [], "no look can say that it is over");
    assert_eq!(engine.note(signal(Mark::Exhausted), at(3)).map(|change| change.step), Some(Step::Worsened));
    let changes = engine.acknowledge(&raised.alert.id, "unix:uid=0", "raised the cap", at(4)).expect("active");
    assert_eq!(
        told(&changes),
        [(Step::Acknowledged, AlertKind::BudgetExhausted), (Step::Cleared, AlertKind::BudgetExhausted)]
    );
}

#[test]
fn a_flood_of_hosts_is_one_alert_with_a_few_samples() {
    let mut engine = engine();
    let raised = engine.note(new_domain("h0.example"), at(0)).expect("raised");
    assert_eq!(raised.alert.severity, Severity::Warning);
    for number in 1..100_000 {
        assert_eq!(engine.note(new_domain(&format!("h{number}.example")), at(number)), None);
    }
    let alert = engine.active()[0].clone();
    assert_eq!((alert.count, alert.samples.len()), (100_000, MAX_SAMPLES));
    assert_eq!(alert.samples[0], "h0.example");
    assert_eq!(engine.touched().len(), 1);
    assert_eq!(engine.touched().len(), 0, "told once");
}

#[test]
fn what_an_operator_listed_is_worth_knowing_and_no_more() {
    let mut engine = engine();
    let listed = Signal::NewDomain { persona: persona("demo"), host: "a.example".to_owned(), listed: true };
    let raised = engine.note(listed.clone(), at(0)).expect("raised");
    assert_eq!((raised.alert.severity, raised.alert.respond_by), (Severity::Info, None));
    let worse = engine.note(new_domain("b.example"), at(1)).expect("another posture");
    assert_eq!((worse.step, worse.alert.severity), (Step::Worsened, Severity::Warning));
    assert_eq!(engine.note(listed, at(2)), None, "it does not get better by more");
    assert_eq!(engine.active()[0].severity, Severity::Warning);
}

#[test]
fn a_moment_is_over_when_somebody_has_seen_it_or_after_a_day() {
    let mut engine = engine();
    let raised = engine.note(new_domain("a.example"), at(0)).expect("raised");
    let changes = engine.acknowledge(&raised.alert.id, "unix:uid=0", "a partner", at(1)).expect("active");
    assert_eq!(told(&changes), [(Step::Acknowledged, AlertKind::NewDomain), (Step::Cleared, AlertKind::NewDomain)]);
    let alert = &changes[1].alert;
    assert_eq!(alert.acknowledged.as_ref().map(|ack| ack.note.as_str()), Some("a partner"));
    assert_eq!(engine.acknowledge(&alert.id, "unix:uid=0", "again", at(2)), Err(NoSuchAlert(alert.id.clone())));

    let again = engine.note(new_domain("b.example"), at(10)).expect("news again");
    assert_ne!(again.alert.id, raised.alert.id);
    engine.note(new_domain("c.example"), at(1_000));
    let day = 24 * 3_600;
    let late = |changes: Vec<Change>| told(&changes).iter().any(|(step, _)| *step == Step::Cleared);
    assert!(!late(engine.look(&Look::default(), at(1_000 + day - 1))), "a day since the last one");
    assert!(late(engine.look(&Look::default(), at(1_000 + day))));
}

#[test]
fn who_does_not_respond_in_time_is_asked_again_three_times() {
    let mut engine = engine();
    let sick = runtime("quarantined", None, 3, &[]);
    let raised = engine.look(&sick, at(0));
    assert_eq!(raised[0].alert.respond_by, Some(at(300)));
    assert_eq!(engine.look(&sick, at(299)), []);
    for (number, now) in [(1, 300), (2, 600), (3, 900)] {
        let changes = engine.look(&sick, at(now));
        assert_eq!(told(&changes), [(Step::Escalated, AlertKind::RuntimeQuarantined)], "{now}");
        assert_eq!(changes[0].alert.escalation, number);
    }
    assert_eq!(engine.look(&sick, at(9_000)), [], "not for ever");

    let mut engine = self::engine();
    let id = engine.look(&sick, at(0))[0].alert.id.clone();
    let changes = engine.acknowledge(&id, "unix:uid=0", "restoring it", at(200)).expect("active");
    assert_eq!(told(&changes), [(Step::Acknowledged, AlertKind::RuntimeQuarantined)]);
    assert_eq!(engine.look(&sick, at(9_000)), [], "somebody is on it");
    assert_eq!(
        told(&engine.look(&runtime("ready", None, 0, &[]), at(9_001))),
        [(Step::Cleared, AlertKind::RuntimeQuarantined)]
    );
}

#[test]
fn many_late_alerts_after_a_pause_are_escalated_once_each() {
    let mut engine = engine();
    engine.note(new_domain("a.example"), at(0)).expect("raised");
    let changes = engine.look(&Look::default(), at(80_000));
    assert_eq!(changes.len(), 1, "a daemon that slept does not make up for it");
    assert_eq!(changes[0].alert.respond_by, Some(at(80_000 + 900)));
}

#[test]
fn small_alerts_leave_room_for_great_ones_and_what_has_none_is_counted() {
    let mut engine = engine();
    for number in 0..2 * MAX_ACTIVE {
        let persona = persona(&format!("p{number}"));
        engine.note(Signal::NewDomain { persona, host: "a.example".to_owned(), listed: false }, at(0));
    }
    let small = engine.active().len();
    assert!(small < MAX_ACTIVE);
    assert_eq!(engine.dropped(), (2 * MAX_ACTIVE - small) as u64);
    let look = Look { ledger: Some((Some("disk full".to_owned()), None)), ..Look::default() };
    assert_eq!(told(&engine.look(&look, at(1))), [(Step::Raised, AlertKind::LedgerUnavailable)]);
    assert_eq!(engine.active()[0].code, AlertKind::LedgerUnavailable, "the worst first");
}

#[test]
fn a_kind_that_is_off_is_not_raised_and_what_was_is_over() {
    let mut engine = engine();
    let sick = runtime("degraded", Some("probe_failed"), 0, &[]);
    engine.look(&sick, at(0));
    let mut rules = prompt();
    rules.severities.insert(AlertKind::RuntimeHealth, None);
    let changes = engine.set_rules(rules, at(1));
    assert_eq!(changes[0].alert.cleared.map(|clearing| clearing.why), Some(Cleared::Off));
    assert_eq!(engine.look(&sick, at(2)), []);
}

#[test]
fn a_restart_neither_forgets_nor_raises_twice() {
    let mut engine = engine();
    engine.look(&cadence(60), at(0));
    let mut changes = engine.look(&cadence(60), at(121));
    changes.extend(engine.note(new_domain("a.example"), at(122)));
    changes
        .extend(engine.look(&Look { runtimes: runtime("quarantined", None, 3, &[]).runtimes, ..cadence(60) }, at(123)));
    assert_eq!(changes.len(), 3);
    // As it is kept and read back.
    let kept: Vec<Alert> = engine
        .active()
        .iter()
        .map(|alert| serde_json::from_str(&serde_json::to_string(alert).expect("JSON")).expect("read back"))
        .collect();
    let mut next = Engine::new(prompt(), kept.clone(), mint());
    let look = Look { runtimes: runtime("quarantined", None, 3, &[]).runtimes, ..cadence(60) };
    assert_eq!(next.look(&look, at(130)), [], "silent, quarantined and new: as before");
    assert_eq!(next.note(new_domain("b.example"), at(131)), None);
    assert_eq!(next.active().len(), 3);
    next.note(beat(None), at(132));
    assert_eq!(told(&next.look(&look, at(132))), [(Step::Cleared, AlertKind::HeartbeatGap)]);
    let doubled = Engine::new(prompt(), [kept.clone(), kept].concat(), mint());
    assert_eq!(doubled.active().len(), 3, "one of a key");
}

#[test]
fn a_route_that_loses_is_told_of_once_until_it_stops() {
    let mut engine = engine();
    let look = |lost: u64| Look { lost: vec![(RouteId::parse("pager").expect("an id"), lost)], ..Look::default() };
    assert_eq!(engine.look(&look(0), at(0)), []);
    assert_eq!(told(&engine.look(&look(5), at(1))), [(Step::Raised, AlertKind::SinkLosing)]);
    assert_eq!(engine.look(&look(9), at(2)), []);
    assert_eq!(told(&engine.look(&look(9), at(3))), [(Step::Cleared, AlertKind::SinkLosing)]);
}

#[test]
fn events_mean_what_they_say_and_others_mean_nothing() {
    let clock = ManualClock::new(at(7));
    let bus = EventBus::new("/test", std::sync::Arc::new(clock) as std::sync::Arc<dyn Clock>);
    let mut heard = bus.subscribe(None, 0, &super::signal::PREFIXES.map(str::to_owned));
    let mut of = |kind: EventKind, subject: Option<&str>, data: serde_json::Value| {
        bus.publish(kind, subject, data);
        match heard.try_next() {
            Some(Delivery::Event(event)) => Signal::of(&event, |persona| persona.as_str() == "listed"),
            _ => None,
        }
    };
    let host = json!({ "host": "a.example", "scheme": "http" });
    assert_eq!(of(EventKind::EgressNewDomain, Some("demo"), host.clone()), Some(new_domain("a.example")));
    let listed = Signal::NewDomain { persona: persona("listed"), host: "a.example".to_owned(), listed: true };
    assert_eq!(of(EventKind::EgressNewDomain, Some("listed"), host.clone()), Some(listed));
    let change = Signal::ProtocolChange { persona: persona("demo"), target: "a.example by http".to_owned() };
    assert_eq!(of(EventKind::EgressProtocolChange, Some("demo"), host.clone()), Some(change));
    let budget = json!({ "runtime": "nightly", "kind": "egress", "ratio": 0.9 });
    let signal = Signal::Budget {
        automation: "nightly".to_owned(),
        persona: None,
        budget: "egress".to_owned(),
        mark: Mark::Escalated,
    };
    assert_eq!(of(EventKind::AutomationBudgetEscalated, Some("nightly"), budget), Some(signal));
    assert_eq!(of(EventKind::AutomationShutdown, None, json!({})), Some(Signal::Shut));
    assert_eq!(of(EventKind::AutomationRearmed, None, json!({})), Some(Signal::Rearmed));
    assert_eq!(of(EventKind::RuntimeStateChanged, Some("nightly"), json!({})), Some(Signal::Look));
    assert_eq!(of(EventKind::EgressNewDomain, Some("Not An Id"), host), None);
    assert_eq!(of(EventKind::EgressNewDomain, Some("demo"), json!({ "host": 5 })), None);
    assert_eq!(of(EventKind::AlertRaised, Some("demo"), json!({})), None, "its own are not heard");
    let long = of(EventKind::EgressNewDomain, Some("demo"), json!({ "host": "é".repeat(5_000) }));
    assert!(matches!(long, Some(Signal::NewDomain { host, .. }) if host.len() <= 255));
}

/// Everything that can happen, a few of each, so that keys meet.
fn happening() -> impl Strategy<Value = (i64, Happening)> {
    let happening = prop_oneof![
        (0..700_u32).prop_map(Happening::Domain),
        (0..4_u32, 0.0..1.2_f64).prop_map(|(number, ratio)| Happening::Budget(number, ratio)),
        (0..3_u32, prop::bool::ANY).prop_map(|(number, sick)| Happening::Runtime(number, sick)),
        (0..60_u64).prop_map(Happening::Denials),
        prop::bool::ANY.prop_map(Happening::Ledger),
        (0..20_usize).prop_map(Happening::Acknowledge),
        Just(Happening::Restart),
        Just(Happening::Nothing),
    ];
    (0..2_000_i64, happening)
}

#[derive(Debug, Clone)]
enum Happening {
    Domain(u32),
    Budget(u32, f64),
    Runtime(u32, bool),
    Denials(u64),
    Ledger(bool),
    Acknowledge(usize),
    Restart,
    Nothing,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_alerts_are_bounded_and_each_is_raised_before_it_is_anything_else(
        happenings in prop::collection::vec(happening(), 1..400),
    ) {
        let mut engine = Engine::new(Rules::default(), Vec::new(), mint());
        let mut now = 0;
        let mut open = std::collections::BTreeMap::<AlertId, String>::new();
        let mut denials = 0;
        let mut minted = 0_u64;
        for (pause, happening) in happenings {
            now += pause;
            let mut look = Look { denials: vec![(Some(persona("demo")), denials)], ..Look::default() };
            let mut changes = Vec::new();
            match happening {
                Happening::Domain(number) => {
                    let persona = persona(&format!("p{number}"));
                    changes.extend(engine.note(Signal::NewDomain { persona, host: "x".to_owned(), listed: number % 2 == 0 }, at(now)));
                }
                Happening::Budget(number, ratio) => {
                    if let Some(mark) = Mark::of(ratio) {
                        let signal = Signal::Budget { automation: format!("a{number}"), persona: None, budget: "tokens".to_owned(), mark };
                        changes.extend(engine.note(signal, at(now)));
                    }
                }
                Happening::Runtime(number, sick) => {
                    let id = RuntimeId::parse(&format!("r{number}")).expect("an id");
                    let (state, unwell) = if sick { ("degraded", Some("probe_failed")) } else { ("ready", None) };
                    look.runtimes = Some(vec![RuntimeLook { id, automation: format!("r{number}"), persona: persona("demo"), state, unwell, restarts: 0, budgets: Vec::new() }]);
                }
                Happening::Denials(count) => {
                    denials += count;
                    look.denials = vec![(Some(persona("demo")), denials)];
                }
                Happening::Ledger(broken) => look.ledger = Some((broken.then(|| "broken".to_owned()), None)),
                Happening::Acknowledge(index) => {
                    let id = engine.active().get(index).map(|alert| alert.id.clone());
                    if let Some(id) = id {
                        changes.extend(engine.acknowledge(&id, "unix:uid=0", "seen", at(now)).expect("active"));
                    }
                }
                Happening::Restart => {
                    let kept: Vec<Alert> = engine.active().into_iter().cloned().collect();
                    let mut next = minted;
                    minted += 100_000;
                    engine = Engine::new(Rules::default(), kept, Box::new(move || {
                        next += 1;
                        AlertId::parse(&format!("alert-r{next}")).expect("an id")
                    }));
                    denials = 0;
                    look.denials = Vec::new();
                }
                Happening::Nothing => {}
            }
            changes.extend(engine.look(&look, at(now)));
            for Change { step, alert } in &changes {
                prop_assert!(alert.samples.len() <= MAX_SAMPLES && alert.escalation <= MAX_ESCALATION);
                match step {
                    Step::Raised => prop_assert!(open.insert(alert.id.clone(), alert.key.clone()).is_none()),
                    Step::Cleared => prop_assert_eq!(open.remove(&alert.id), Some(alert.key.clone())),
                    Step::Escalated => {
                        prop_assert!(open.contains_key(&alert.id) && alert.acknowledged.is_none());
                    }
                    Step::Worsened | Step::Acknowledged => prop_assert!(open.contains_key(&alert.id)),
                }
            }
            let active = engine.active();
            prop_assert!(active.len() <= MAX_ACTIVE);
            let ids: std::collections::BTreeSet<&AlertId> = active.iter().map(|alert| &alert.id).collect();
            prop_assert_eq!(ids, open.keys().collect(), "active is what was raised and not cleared");
            let keys: std::collections::BTreeSet<&String> = active.iter().map(|alert| &alert.key).collect();
            prop_assert_eq!(keys.len(), active.len(), "one of a key");
        }
    }
}
