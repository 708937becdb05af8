//! One `[[runtimes]]` by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::located::{Document, Found, Place, nearest};
use crate::config::{BudgetForm, GpuForm, LimitsForm, RuntimeForm, WindowForm};
use crate::domain::{IdFault, Money, PersonaId, RuntimeId};

use super::super::names::{Accelerator, Condition, RestartRule};
use super::super::publish::{Publish, PublishFault};
use super::super::schedule::{Schedule, ScheduleFault};
use super::super::spent::Window;
use super::super::window::{Backoff, MAX_RESTARTS};
use super::{
    Budget, Defaults, Dependency, Gpu, GpuChoice, Limits, Process, RuntimeSpec, health, own_automation, process,
};
use crate::sandbox::preset::PresetName;
use crate::sandbox::{Control, ProfileName};

/// Most items of a list of one runtime.
const MAX_ITEMS: usize = 128;
/// Longest tag and consent scope, in bytes: what a metric's label holds.
const MAX_WORD: usize = 64;
/// Longest name, in bytes.
const MAX_NAME: usize = 128;
/// Longest justification, in bytes: a paragraph.
const MAX_JUSTIFICATION: usize = 1_024;
/// Longest time without a beat: beyond, a watchdog watches nothing.
const MAX_WATCHDOG: u64 = 3_600;
/// First wait before a restart, where nothing else is said.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait before a restart, where nothing else is said.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Bounds of a wait: shorter ones are a busy loop, longer ones an outage.
const BACKOFF_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3_600));
/// Bounds of the window: below a minute, crashes that take long would never fill it.
const WINDOW_BOUNDS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(7 * 86_400));
/// Longest time that can be budgeted: ten years.
const MAX_BUDGET_TIME: Duration = Duration::from_secs(3_653 * 86_400);
/// How long a window of a budget may be: a shorter one would begin anew before its end is noticed.
const WINDOW_BUDGET: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(366 * 86_400));
/// Most GPUs of one runtime: more are not in one host.
const MAX_GPUS: u64 = 64;

/// A runtime, and where its parts stand that are compared with those of others.
#[derive(Debug)]
pub(super) struct Read {
    /// `None` when a part that it cannot be without is faulty.
    pub(super) spec: Option<RuntimeSpec>,
    pub(super) id: Option<RuntimeId>,
    pub(super) restart: RestartRule,
    pub(super) publish: Vec<Found<Publish>>,
    pub(super) depends_on: Vec<(Dependency, Place)>,
}

pub(super) fn read(document: &Document, form: &RuntimeForm, defaults: &Defaults) -> Read {
    let id = form.id.as_ref().and_then(|found| id_of(document, found, RuntimeId::parse));
    let persona = form.persona.as_ref().and_then(|found| id_of(document, found, PersonaId::parse));
    let depends_on = depends_on(document, form);
    let publish: Vec<Found<Publish>> = bounded(document, &form.publish)
        .iter()
        .filter_map(|found| match found.value.parse() {
            Ok(value) => Some(Found { value, place: found.place.clone() }),
            Err(fault) => {
                document.fault(&found.place, PublishFault::to_string(&fault));
                None
            }
        })
        .collect();
    let preset = choice(document, &form.preset, PresetName::ALL, PresetName::code).unwrap_or(defaults.preset);
    let accelerator =
        choice(document, &form.accelerator, Accelerator::ALL, Accelerator::code).unwrap_or(Accelerator::None);
    let profile = choice(document, &form.profile, ProfileName::ALL, ProfileName::code).unwrap_or(match accelerator {
        Accelerator::None => ProfileName::Standard,
        Accelerator::Gpu => ProfileName::Gpu,
    });
    let restart = choice(document, &form.restart.policy, RestartRule::ALL, RestartRule::code);
    let restart = restart.unwrap_or(RestartRule::OnFailure);
    let schedule = schedule(document, form, restart);
    let gpu = gpu(document, form, accelerator, preset);
    let justification = justification(document, form, preset);
    let (restart_max, restart_window, backoff) = restarts(document, form, defaults);
    let process = process::read(document, &form.process);
    // Read before it is known whether there is a whole: every fault is told at once.
    let name = form.name.as_ref().and_then(|found| plain_text(document, found, MAX_NAME));
    let (tags, consent) = (words(document, &form.tags), words(document, &form.consent));
    let require = require(document, form);
    let health = form.health.as_ref().and_then(|form| health::read(document, form, defaults));
    let watchdog = form.watchdog.as_ref().and_then(|found| number(document, found, 1, MAX_WATCHDOG));
    let (budget, limits) = (budget(document, &form.budget, defaults), limits(document, &form.limits));
    let whole = id.clone().zip(persona).zip(process);
    let spec = |((id, persona), process): ((RuntimeId, PersonaId), Process)| RuntimeSpec {
        automation: own_automation(&id),
        name: name.unwrap_or_else(|| id.to_string()),
        profile,
        preset,
        justification,
        accelerator,
        auto_start: form.auto_start.as_ref().is_some_and(|found| found.value),
        schedule,
        depends_on: depends_on.iter().map(|(dependency, _)| dependency.clone()).collect(),
        tags,
        consent,
        publish: publish.iter().map(|found| found.value).collect(),
        require,
        health,
        watchdog: watchdog.map(Duration::from_secs),
        restart,
        restart_max,
        restart_window,
        backoff,
        budget,
        limits,
        gpu,
        id,
        persona,
        process,
    };
    Read { spec: whole.map(spec), id, restart, publish, depends_on }
}

fn id_of<T>(document: &Document, found: &Found<String>, parse: fn(&str) -> Result<T, IdFault>) -> Option<T> {
    parse(&found.value).map_err(|fault| document.fault(&found.place, fault.to_string())).ok()
}

/// One of a closed set of names.
fn choice<T: Copy>(
    document: &Document,
    found: &Option<Found<String>>,
    all: &[T],
    code: fn(T) -> &'static str,
) -> Option<T> {
    let found = found.as_ref()?;
    let chosen = all.iter().copied().find(|name| code(*name) == found.value);
    if chosen.is_none() {
        let names: Vec<&str> = all.iter().map(|name| code(*name)).collect();
        let hint = match nearest(&found.value, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one of {}", names.join(", ")),
        };
        document.fault_with_hint(&found.place, format!("unknown name `{}`", shown(&found.value)), hint);
    }
    chosen
}

/// What is repeated of a value, bounded and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn depends_on(document: &Document, form: &RuntimeForm) -> Vec<(Dependency, Place)> {
    let own = form.id.as_ref().map(|found| found.value.as_str());
    let mut seen = BTreeSet::new();
    let mut read = Vec::new();
    for found in bounded(document, &form.depends_on) {
        let (on, condition) = match found.value.split_once(':') {
            None => (found.value.as_str(), Some(Condition::Ready)),
            Some((on, condition)) => (on, Condition::from_code(condition)),
        };
        let Some(condition) = condition else {
            document.fault(&found.place, "a condition is `started`, `ready` or `completed`");
            continue;
        };
        let on = match RuntimeId::parse(on) {
            Ok(on) => on,
            Err(fault) => {
                document.fault(&found.place, fault.to_string());
                continue;
            }
        };
        if own == Some(on.as_str()) {
            document.fault(&found.place, "it waits for itself");
        } else if !seen.insert(on.clone()) {
            document.fault(&found.place, format!("`{on}` is named twice"));
        } else {
            read.push((Dependency { on, condition }, found.place.clone()));
        }
    }
    read
}

fn schedule(document: &Document, form: &RuntimeForm, restart: RestartRule) -> Option<Schedule> {
    schedule_of(document, form.schedule.as_ref(), form.timezone.as_ref(), restart)
}

/// What a `schedule` and its `timezone` mean for a runtime that is restarted by `restart`.
pub fn schedule_of(
    document: &Document,
    schedule: Option<&Found<String>>,
    timezone: Option<&Found<String>>,
    restart: RestartRule,
) -> Option<Schedule> {
    let Some(found) = schedule else {
        if let Some(zone) = timezone {
            document.fault_with_hint(&zone.place, "a time zone without a schedule", "give `schedule` too");
        }
        return None;
    };
    if restart == RestartRule::Always {
        let message = "what is always started again needs no schedule";
        document.fault_with_hint(&found.place, message, "use the restart policy `on-failure` or `no`");
    }
    let zone = timezone.map_or("UTC", |zone| zone.value.as_str());
    match Schedule::parse(&found.value, zone) {
        Ok(schedule) => Some(schedule),
        Err(fault @ ScheduleFault::Zone(_)) => {
            let place = timezone.map_or(&found.place, |zone| &zone.place);
            document.fault_with_hint(place, fault.to_string(), "write `UTC`, or one such as `Europe/Berlin`");
            None
        }
        Err(fault) => {
            let hint = "minute hour day month weekday, such as `30 3 * * 1-5`";
            document.fault_with_hint(&found.place, fault.to_string(), hint);
            None
        }
    }
}

fn justification(document: &Document, form: &RuntimeForm, preset: PresetName) -> Option<String> {
    let found = form.justification.as_ref().and_then(|found| plain_text(document, found, MAX_JUSTIFICATION));
    if preset != PresetName::Eco && form.justification.is_none() {
        let place = form.preset.as_ref().map_or_else(|| form.place.clone(), |found| found.place.clone());
        let hint = "say in `justification` why, or use `eco`";
        document.fault_with_hint(&place, format!("the preset `{preset}` needs a justification"), hint);
    }
    found
}

fn require(document: &Document, form: &RuntimeForm) -> Vec<Control> {
    let items = bounded(document, &form.require).iter().cloned().map(Some);
    items.filter_map(|found| choice(document, &found, Control::ALL, Control::code)).collect()
}

fn restarts(document: &Document, form: &RuntimeForm, defaults: &Defaults) -> (usize, Duration, Backoff) {
    let form = &form.restart;
    let time = |found: &Option<Found<Duration>>, default, (least, most)| {
        found.as_ref().map_or(default, |found| length_of_time(document, found, least, most))
    };
    let most = u64::try_from(MAX_RESTARTS).expect("a small number");
    let max = match &form.max {
        Some(found) => {
            if found.value == 0 {
                let hint = "for no restart at all use `policy = \"no\"`";
                document.fault_with_hint(&found.place, "a number between 1 and 1000 is expected", hint);
            }
            if found.value > 0 { number(document, found, 1, most) } else { None }.unwrap_or(1)
        }
        None => defaults.restart_max.clamp(1, most),
    };
    let base = time(&form.backoff, BACKOFF, BACKOFF_BOUNDS);
    let max_wait = time(&form.backoff_max, BACKOFF_MAX.max(base), BACKOFF_BOUNDS);
    if let Some(found) = form.backoff_max.as_ref().filter(|_| max_wait < base) {
        document.fault(&found.place, "the longest wait is shorter than the first");
    }
    let window = time(&form.window, defaults.restart_window, WINDOW_BOUNDS);
    (usize::try_from(max).unwrap_or(1), window, Backoff { base, max: max_wait })
}

fn budget(document: &Document, form: &BudgetForm, defaults: &Defaults) -> Budget {
    narrow_budget(document, form, Budget { wall_time: defaults.wall_time, ..Budget::default() })
}

/// What `form` says, and `rest` where it says nothing.
pub fn narrow_budget(document: &Document, form: &BudgetForm, rest: Budget) -> Budget {
    let time = |found: &Option<Found<Duration>>| {
        let found = found.as_ref()?;
        Some(length_of_time(document, found, Duration::from_secs(1), MAX_BUDGET_TIME))
    };
    let some = |found: &Option<Found<u64>>| number(document, found.as_ref()?, 1, u64::MAX);
    let spend = form.spend.as_ref().and_then(|found| match Money::parse_with_currency(&found.value) {
        Ok(money) => Some(money),
        Err(fault) => {
            document.fault_with_hint(&found.place, fault.to_string(), "spend = \"25.00 USD\"");
            None
        }
    });
    let window = form.window.as_ref().map(|found| match found.value {
        WindowForm::Run => Window::Run,
        WindowForm::Every(time) => {
            if time.subsec_nanos() != 0 {
                document.fault(&found.place, "a window has whole seconds");
            }
            let found = Found { value: time, place: found.place.clone() };
            Window::Every(length_of_time(document, &found, WINDOW_BUDGET.0, WINDOW_BUDGET.1))
        }
    });
    Budget {
        wall_time: time(&form.wall_time).or(rest.wall_time),
        cpu_time: time(&form.cpu_time).or(rest.cpu_time),
        gpu_time: time(&form.gpu_time).or(rest.gpu_time),
        egress: form.egress.as_ref().map(|found| found.value.0).or(rest.egress),
        requests: some(&form.requests).or(rest.requests),
        tokens: some(&form.tokens).or(rest.tokens),
        spend: spend.or(rest.spend),
        window: window.unwrap_or(rest.window),
    }
}

fn limits(document: &Document, form: &LimitsForm) -> Limits {
    let small = |found: &Option<Found<u64>>, most: u64| {
        number(document, found.as_ref()?, 1, most).and_then(|value| u32::try_from(value).ok())
    };
    // The least memory that a program can be executed in.
    let memory = form.memory.as_ref().and_then(|found| {
        let bytes = Found { value: found.value.0, place: found.place.clone() };
        number(document, &bytes, 1 << 20, u64::MAX >> 1)
    });
    Limits {
        cpu_percent: small(&form.cpu_percent, 1_000_000),
        memory,
        swap: form.swap.as_ref().map(|found| found.value.0),
        // What `pid_max` can be at most on Linux.
        processes: small(&form.processes, 1 << 22),
        // What `nr_open` is by default.
        open_files: small(&form.open_files, 1 << 20),
        connections: small(&form.connections, 1 << 20),
    }
}

fn gpu(document: &Document, form: &RuntimeForm, accelerator: Accelerator, preset: PresetName) -> Option<Gpu> {
    if accelerator == Accelerator::None {
        if let Some(form) = &form.gpu {
            document.fault_with_hint(&form.place, "a GPU without `accelerator = \"gpu\"`", "give that key");
        }
        if let Some(found) = form.preset.as_ref().filter(|_| preset == PresetName::Gpu) {
            let hint = "give `accelerator = \"gpu\"`";
            document.fault_with_hint(&found.place, "the preset `gpu` feeds an accelerator, and there is none", hint);
        }
        return None;
    }
    let Some(GpuForm { place, count, uuids, memory }) = &form.gpu else {
        return Some(Gpu { choice: GpuChoice::Count(1), memory: None });
    };
    let choice = match (count, uuids) {
        (Some(_), Some(_)) => {
            document.fault(place, "`count` and `uuids` exclude each other");
            return None;
        }
        (None, Some(uuids)) => {
            let mut seen = BTreeSet::new();
            for found in uuids {
                let text = plain_text(document, found, MAX_WORD)?;
                if !text.starts_with("GPU-") && !text.starts_with("MIG-") {
                    document.fault(&found.place, "a GPU is named `GPU-…` or `MIG-…`, as its driver lists it");
                } else if !seen.insert(text) {
                    document.fault(&found.place, "it is named twice");
                }
            }
            GpuChoice::Uuids(bounded(document, uuids).iter().map(|found| found.value.clone()).collect())
        }
        (count, None) => {
            let count = count.as_ref().map_or(Some(1), |found| number(document, found, 1, MAX_GPUS))?;
            GpuChoice::Count(u32::try_from(count).expect("bounded"))
        }
    };
    Some(Gpu { choice, memory: memory.as_ref().map(|found| found.value.0) })
}

/// Tags and scopes: short words without spaces, each once.
fn words(document: &Document, list: &[Found<String>]) -> Vec<String> {
    let mut read: Vec<String> = Vec::new();
    for found in bounded(document, list) {
        let Some(word) = plain_text(document, found, MAX_WORD) else { continue };
        if word.contains(char::is_whitespace) {
            document.fault(&found.place, "a word without spaces is expected");
        } else if read.contains(&word) {
            document.fault(&found.place, format!("`{word}` is named twice"));
        } else {
            read.push(word);
        }
    }
    read
}

/// The list, and a fault when it is too long.
fn bounded<'l, T>(document: &Document, list: &'l [Found<T>]) -> &'l [Found<T>] {
    if let Some(found) = list.get(MAX_ITEMS) {
        document.fault(&found.place, format!("more than {MAX_ITEMS} items"));
    }
    &list[..list.len().min(MAX_ITEMS)]
}

/// A text that can stand in a line: not blank, bounded in bytes, without control characters.
pub(super) fn plain_text(document: &Document, found: &Found<String>, most: usize) -> Option<String> {
    document.plain_text(found, most)
}

fn number(document: &Document, found: &Found<u64>, least: u64, most: u64) -> Option<u64> {
    if (least..=most).contains(&found.value) {
        return Some(found.value);
    }
    let message = if most == u64::MAX {
        format!("a number of at least {least} is expected")
    } else {
        format!("a number between {least} and {most} is expected")
    };
    document.fault(&found.place, message);
    None
}

/// A time within bounds; a fault and the nearer bound otherwise.
pub(super) fn length_of_time(
    document: &Document,
    found: &Found<Duration>,
    least: Duration,
    most: Duration,
) -> Duration {
    if found.value < least || found.value > most {
        let bounds = format!("a time between {} and {} s is expected", least.as_secs_f64(), most.as_secs());
        document.fault(&found.place, bounds);
    }
    found.value.clamp(least, most)
}
