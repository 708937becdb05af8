//! The file, the news of runs, and what a status says; each as a table.

use std::path::Path;
use std::time::Duration;

use super::observe::{Known, News};
use super::registry::{Registry, read};
use super::status::{Facts, House, ImpactCode, view};
use super::usage::{UsageFault, UsageReport};
use crate::config::{AutomationsFile, Faults, RuntimesFile};
use crate::domain::{AutomationId, DenialCode, Money, PersonaId, RuntimeId, Timestamp};
use crate::proxy::Latched;
use crate::sandbox::ProfileName;
use crate::sandbox::preset::PresetName;
use crate::store::DisabledRow;
use crate::supervisor::{
    Accelerator, Budget, BudgetKind, BudgetView, Cause, Death, DeathRecord, Defaults, Denied, HealthReason, Manifest,
    Restarts, RuntimeState, RuntimeView, Used, Window, read as read_manifest,
};

fn runtime(id: &str, more: &str) -> String {
    format!("[[runtimes]]\nid = \"{id}\"\npersona = \"agent\"\n{more}\n[runtimes.process]\ncommand = \"/bin/true\"\n")
}

fn manifest(text: &str) -> Manifest {
    let file = RuntimesFile::parse(Path::new("runtimes.toml"), text).expect("TOML");
    read_manifest(file, &Defaults::default()).expect("sound")
}

fn registry(text: &str, runtimes: &str) -> Result<(Registry, Manifest), Faults> {
    let file = AutomationsFile::parse(Path::new("automations.toml"), text);
    let file = file.map_err(|document| Faults(document.into_faults()))?;
    read(file, manifest(runtimes))
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_micros(1_700_000_000_000_000).plus(Duration::from_secs(seconds))
}

#[test]
fn every_runtime_belongs_to_one_automation_and_either_name_finds_it() {
    let runtimes = [runtime("ocr", ""), runtime("web", "schedule = \"0 3 * * *\"")].concat();
    let text = "[[automations]]\nid = \"nightly\"\nruntime = \"ocr\"\npersona = \"agent\"\nschedule = \"30 3 * * 1-5\"\n\
                timezone = \"Europe/Berlin\"\n[automations.budget]\nwindow = \"24h\"\ntokens = 1000\nspend = \"25.00 USD\"\n";
    let (registry, manifest) = registry(text, &runtimes).expect("sound");
    let ids: Vec<&str> = registry.all().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["nightly", "web"]);
    for name in ["nightly", "ocr"] {
        assert_eq!(registry.find(name).map(|one| one.id.as_str()), Some("nightly"), "{name}");
    }
    assert!(registry.find("nobody").is_none() && registry.find("../x").is_none());
    let spec = manifest.runtime(&RuntimeId::parse("ocr").expect("id")).expect("declared");
    assert_eq!(spec.automation.as_str(), "nightly");
    assert_eq!(spec.schedule.as_ref().map(ToString::to_string).as_deref(), Some("30 3 * * 1-5 Europe/Berlin"));
    assert_eq!(spec.budget.window, Window::Every(Duration::from_secs(86_400)));
    assert_eq!((spec.budget.tokens, spec.budget.spend.map(Money::millionths)), (Some(1_000), Some(25_000_000)));
    assert!(registry.find("nightly").is_some_and(|one| one.declared));
    assert!(registry.find("web").is_some_and(|one| !one.declared && one.schedule.is_some()));
}

#[test]
fn the_shipped_registry_is_read_over_the_shipped_manifest() {
    let (runtimes, text) = (
        include_str!("../../../configs/runtime/runtimes.toml"),
        include_str!("../../../configs/runtime/automations.toml"),
    );
    let (shipped, _) = registry(text, runtimes).expect("the shipped file is good");
    let brief = shipped.find("nightly-report").expect("named by its runtime");
    assert_eq!((brief.id.as_str(), brief.budget.tokens), ("morning-brief", Some(2_000_000)));
    assert_eq!(shipped.all().len(), 4);
}

#[test]
fn a_faulty_registry_says_all_its_faults_with_their_lines() {
    let runtimes = [runtime("ocr", "schedule = \"0 3 * * *\""), runtime("web", ""), runtime("db", "")].concat();
    for (text, line, message) in [
        ("[[automations]]\nid = \"a\"\nruntime = \"orc\"\n", 3, "unknown runtime `orc`"),
        ("[[automations]]\nid = \"a\"\n", 1, "the key is missing"),
        ("[[automations]]\nid = \"A\"\nruntime = \"web\"\n", 2, "an id is made of"),
        ("[[automations]]\nid = \"a\"\nruntime = \"web\"\npersona = \"other\"\n", 4, "leaves as `agent`"),
        ("[[automations]]\nid = \"a\"\nruntime = \"ocr\"\nschedule = \"0 4 * * *\"\n", 4, "a schedule of its own"),
        ("[[automations]]\nid = \"a\"\nruntime = \"web\"\nschedule = \"never\"\n", 4, ""),
        ("[[automations]]\nid = \"a\"\nruntime = \"web\"\ntimezone = \"UTC\"\n", 4, "without a schedule"),
        ("[[automations]]\nid = \"db\"\nruntime = \"web\"\n", 1, "`db` is the name of another runtime"),
        ("[[automations]]\nid = \"a\"\nruntime = \"web\"\nbudgets = 1\n", 4, "unknown key `budgets`"),
        ("[[automations]]\nid = \"a\"\nruntime = \"web\"\n[automations.budget]\nspend = 25.0\n", 5, "a text in quotes"),
        (
            "[[automations]]\nid = \"a\"\nruntime = \"web\"\n[automations.budget]\nspend = \"-1 USD\"\n",
            5,
            "a decimal number",
        ),
        (
            "[[automations]]\nid = \"a\"\nruntime = \"web\"\n[automations.budget]\nwindow = \"1s\"\n",
            5,
            "a time between 60",
        ),
        ("[[automations]]\nid = \"a\"\nruntime = \"web\"\n[automations.budget]\nwindow = \"day\"\n", 5, "not a time"),
        ("[[automations]]\nid = \"a\"\nruntime = \"web\"\n[automations.budget]\ntokens = 0\n", 5, "at least 1"),
        ("automations = 1\n", 1, "a list of tables"),
        ("[[automations]\n", 1, "not TOML"),
    ] {
        let faults = registry(text, &runtimes).expect_err(text);
        assert!(
            faults.0.iter().any(|fault| fault.line == Some(line) && fault.message.contains(message)),
            "{text}: {faults}"
        );
    }
    let twice = "[[automations]]\nid = \"a\"\nruntime = \"web\"\n[[automations]]\nid = \"a\"\nruntime = \"web\"\n";
    let faults = registry(twice, &runtimes).expect_err("two of them");
    assert_eq!(faults.0.len(), 2, "{faults}");
}

fn seen(state: RuntimeState, run: Option<u64>, last_death: Option<u64>) -> RuntimeView {
    RuntimeView {
        id: RuntimeId::parse("ocr").expect("id"),
        automation: AutomationId::parse("nightly").expect("id"),
        name: "ocr".to_owned(),
        persona: PersonaId::parse("agent").expect("id"),
        profile: ProfileName::Standard,
        preset: PresetName::Eco,
        claim: None,
        accelerator: Accelerator::None,
        tags: Vec::new(),
        auto_start: false,
        state,
        since: at(0),
        health: HealthReason::Well,
        detail: None,
        run,
        pid: None,
        started_at: run.map(at),
        restarts: Restarts { used: 0, max: 3, window_secs: 600, total: 0 },
        schedule: None,
        next_start: None,
        waits_for: Vec::new(),
        publish: Vec::new(),
        last_death: last_death.map(death),
        egress: None,
        denied: Vec::new(),
        heartbeat_at: None,
        window: None,
        budget: Vec::new(),
        gpus: Vec::new(),
        usage: None,
        throttled_by_host: None,
    }
}

fn death(run: u64) -> DeathRecord {
    let death = Death { run, cause: Cause::Exit { code: 0 }, began: at(run), ended: at(run + 1) };
    DeathRecord::new(RuntimeId::parse("ocr").expect("id"), death, &[], 0, Used::default())
}

fn look(known: &mut Known, view: &RuntimeView, deaths: &[u64]) -> Vec<News> {
    let deaths: Vec<DeathRecord> = deaths.iter().copied().map(death).collect();
    known.look(view, &deaths, None)
}

#[test]
fn each_run_is_told_once_whatever_is_seen_of_it() {
    use RuntimeState::{Frozen, Ready, Stopped};
    let started = |run| News::Started { run, at: at(run) };
    let stopped = |run| News::Stopped { run, began: at(run), at: at(run + 1), cause: Cause::Exit { code: 0 } };
    let mut known = Known::default();
    assert_eq!(look(&mut known, &seen(Ready, Some(1), None), &[]), [started(1)]);
    assert_eq!(look(&mut known, &seen(Ready, Some(1), None), &[]), []);
    assert_eq!(look(&mut known, &seen(Frozen, Some(1), None), &[]), [News::Paused { run: 1 }]);
    assert_eq!(look(&mut known, &seen(Ready, Some(1), None), &[]), [News::Resumed { run: 1 }]);
    assert_eq!(look(&mut known, &seen(Stopped, None, Some(1)), &[1]), [stopped(1)]);
    assert_eq!(look(&mut known, &seen(Stopped, None, Some(1)), &[1]), []);
    // Three runs between two looks, and a fourth that lives.
    let view = seen(Ready, Some(9), Some(5));
    assert!(known.missed(&view));
    let news = look(&mut known, &view, &[1, 3, 4, 5]);
    assert_eq!(news, [started(3), stopped(3), started(4), stopped(4), started(5), stopped(5), started(9)]);
    // A daemon that comes back knows what it told; the open run ended meanwhile, and another one too.
    let mut known = Known::kept(9, false);
    let view = seen(Stopped, None, Some(12));
    assert!(known.missed(&view));
    assert_eq!(look(&mut known, &view, &[5, 9, 12]), [stopped(9), started(12), stopped(12)]);
    assert!(!known.missed(&view));
    assert_eq!(look(&mut Known::kept(12, true), &view, &[12]), []);
    // What is asked for and not launched is no run yet.
    let mut asked = seen(RuntimeState::Starting, Some(13), Some(12));
    asked.started_at = None;
    assert_eq!(look(&mut Known::kept(12, true), &asked, &[12]), []);
}

#[test]
fn heartbeats_are_told_once_in_five_seconds_and_only_of_the_run_that_lives() {
    let mut known = Known::kept(1, false);
    let mut view = seen(RuntimeState::Ready, Some(1), None);
    let mut told = |heartbeat: Option<u64>, reported: Option<u64>| {
        view.heartbeat_at = heartbeat.map(at);
        known.look(&view, &[], reported.map(at)).len()
    };
    assert_eq!(told(None, None), 0);
    assert_eq!(told(Some(0), None), 0, "before the run began");
    assert_eq!(told(Some(10), None), 1);
    assert_eq!(told(Some(14), None), 0);
    assert_eq!(told(Some(14), Some(15)), 1, "a report is a sign of life");
    assert_eq!(told(Some(19), Some(15)), 0);
    assert_eq!(told(Some(20), None), 1);
    assert_eq!(told(Some(3), None), 1, "the clock was set back");
}

#[test]
fn a_status_names_every_reason_and_nothing_else() {
    let runtimes = runtime("ocr", "schedule = \"0 3 * * *\"\nconsent = [\"camera:frames\"]");
    let (registry, _) = registry("", &runtimes).expect("sound");
    let automation = registry.find("ocr").expect("there");
    let codes = |facts: &Facts<'_>, house: &House| -> Vec<ImpactCode> {
        view(automation, facts, house).impacted.iter().map(|impact| impact.code).collect()
    };
    let calm = House::default();
    let ready = seen(RuntimeState::Ready, Some(1), None);
    assert_eq!(codes(&Facts { view: Some(&ready), ..Facts::default() }, &calm), []);
    assert_eq!(codes(&Facts::default(), &calm), [ImpactCode::NotSupervised]);

    for (state, code) in [
        (RuntimeState::Quarantined, Some(ImpactCode::Quarantined)),
        (RuntimeState::Error, Some(ImpactCode::LaunchRefused)),
        (RuntimeState::Backoff, Some(ImpactCode::Failing)),
        (RuntimeState::Degraded, Some(ImpactCode::Degraded)),
        (RuntimeState::Frozen, Some(ImpactCode::Paused)),
        (RuntimeState::Stopped, None),
        (RuntimeState::Starting, None),
        (RuntimeState::Stopping, None),
    ] {
        let seen = seen(state, None, None);
        assert_eq!(codes(&Facts { view: Some(&seen), ..Facts::default() }, &calm), Vec::from_iter(code), "{state}");
    }

    let row = DisabledRow {
        automation: automation.id.clone(),
        runtime: automation.runtime.clone(),
        at: at(1),
        by: "unix:uid=0".to_owned(),
        why: "incident 7".to_owned(),
    };
    let mut bad = seen(RuntimeState::Stopped, None, None);
    let budget = |kind, used, limit| BudgetView { kind, used, limit, ratio: None, currency: None };
    bad.budget = vec![
        budget(BudgetKind::Tokens, Some(100), 100),
        budget(BudgetKind::Requests, Some(90), 100),
        budget(BudgetKind::Egress, Some(89), 100),
        budget(BudgetKind::GpuTime, None, 100),
    ];
    bad.denied = vec![
        Denied { code: DenialCode::NotAllowlisted, count: 4 },
        Denied { code: DenialCode::LeaseExpired, count: 2 },
    ];
    bad.waits_for = vec!["db:ready".to_owned()];
    let latched = Latched { reason: "incident 7".to_owned(), since: at(0) };
    let house = House { latched: Some(latched), schedules_halted: true };
    let consent = Some("`camera:frames` is not consented to".to_owned());
    let facts = Facts { view: Some(&bad), disabled: Some(&row), consent, ..Facts::default() };
    assert_eq!(
        codes(&facts, &house),
        [
            ImpactCode::KillSwitch,
            ImpactCode::Disabled,
            ImpactCode::ConsentMissing,
            ImpactCode::BudgetExhausted,
            ImpactCode::BudgetEscalated,
            ImpactCode::Waiting,
            ImpactCode::LeaseEnded,
            ImpactCode::Denials,
        ]
    );
    let shown = view(automation, &facts, &house);
    assert!(!shown.enabled);
    let json = serde_json::to_value(&shown).expect("JSON");
    assert_eq!(json["disabled"]["reason"], "incident 7");
    assert_eq!(json["budgets"][3]["used"], serde_json::Value::Null, "nothing that is not metered is zero");
    let halted = House { latched: None, schedules_halted: true };
    let view = seen(RuntimeState::Ready, Some(1), None);
    assert_eq!(codes(&Facts { view: Some(&view), ..Facts::default() }, &halted), [ImpactCode::SchedulesHalted]);
}

#[test]
fn only_plain_numbers_are_reports() {
    let read = |text: &str| serde_json::from_str::<UsageReport>(text).ok();
    for bad in [
        r#"{}"#,
        r#"{"report_id": 7}"#,
        r#"{"report_id": "a", "tokens": -1}"#,
        r#"{"report_id": "a", "tokens": 1.5}"#,
        r#"{"report_id": "a", "tokens": 1e3}"#,
        r#"{"report_id": "a", "tokens": NaN}"#,
        r#"{"report_id": "a", "tokens": "7"}"#,
        r#"{"report_id": "a", "tokens": 18446744073709551616}"#,
        r#"{"report_id": "a", "tokens": 1, "tokens": 2}"#,
        r#"{"report_id": "a", "tokens": 1, "automation": "other"}"#,
        r#"{"report_id": "a", "spend": 1.25}"#,
        r#"{"report_id": "a", "spend": {"amount": "-1", "currency": "USD"}}"#,
        r#"{"report_id": "a", "spend": {"amount": "NaN", "currency": "USD"}}"#,
        r#"{"report_id": "a", "spend": {"amount": "1", "currency": "usd"}}"#,
    ] {
        assert_eq!(read(bad), None, "{bad}");
    }
    let usd = Money::parse_with_currency("10 USD").expect("money");
    let budget = Budget { spend: Some(usd), ..Budget::default() };
    for (text, sound) in [
        (r#"{"report_id": "a.b_c:d-1", "tokens": 0}"#, true),
        (r#"{"report_id": "a", "tokens": 1000000000000}"#, true),
        (r#"{"report_id": "a", "spend": {"amount": "0.000001", "currency": "USD"}}"#, true),
        (r#"{"report_id": "", "tokens": 1}"#, false),
        (r#"{"report_id": "a b", "tokens": 1}"#, false),
        (r#"{"report_id": "a/b", "tokens": 1}"#, false),
        (r#"{"report_id": "a"}"#, false),
        (r#"{"report_id": "a", "tokens": 1000000000001}"#, false),
    ] {
        assert_eq!(read(text).expect("read").examine(&budget).is_ok(), sound, "{text}");
    }
    let long = UsageReport { report_id: "x".repeat(65), tokens: Some(1), spend: None };
    assert!(matches!(long.examine(&budget), Err(UsageFault::ReportId)));
    let euro = read(r#"{"report_id": "a", "spend": {"amount": "1", "currency": "EUR"}}"#).expect("read");
    assert!(matches!(euro.examine(&budget), Err(UsageFault::Currency { .. })));
    assert!(euro.examine(&Budget::default()).is_ok(), "without a budget any currency will do");
}
