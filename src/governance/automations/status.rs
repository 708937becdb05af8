//! Which automations are impacted, and why: everything that an operator wants to know at once. Pure.

use serde::Serialize;

use super::registry::Automation;
use crate::domain::{AutomationId, DenialCode, PersonaId, RuntimeId, Timestamp, codes};
use crate::proxy::Latched;
use crate::store::DisabledRow;
use crate::supervisor::{BudgetKind, BudgetView, Denied, HealthReason, Reported, RuntimeState, RuntimeView};

codes! {
    /// Why an automation does not do its work as it should.
    ImpactCode {
        /// The kill switch is latched.
        KillSwitch => "kill_switch",
        /// An operator disabled it.
        Disabled => "disabled",
        /// A budget is spent.
        BudgetExhausted => "budget_exhausted",
        /// A budget is spent to nine tenths.
        BudgetEscalated => "budget_escalated",
        /// Its runtime was given up.
        Quarantined => "quarantined",
        /// Its runtime cannot be launched as it is declared.
        LaunchRefused => "launch_refused",
        /// It failed, and waits for its next start.
        Failing => "failing",
        /// It fails its probes.
        Degraded => "degraded",
        /// It is held still.
        Paused => "paused",
        /// What it reads is not consented to.
        ConsentMissing => "consent_missing",
        /// A lease that it lived on has ended, or it needs one.
        LeaseEnded => "lease_ended",
        /// Requests to leave were denied in the last minutes.
        Denials => "denials",
        /// It waits for others.
        Waiting => "waiting",
        /// No schedule starts anything.
        SchedulesHalted => "schedules_halted",
        /// Its runtime is not looked after here.
        NotSupervised => "not_supervised",
    }
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Impact {
    /// Which.
    pub code: ImpactCode,
    /// What is particular to it, in a sentence.
    pub detail: String,
}

/// Who disabled one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disabled {
    /// Since when.
    pub since: Timestamp,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl From<&DisabledRow> for Disabled {
    fn from(row: &DisabledRow) -> Self {
        Self { since: row.at, by: row.by.clone(), reason: row.why.clone() }
    }
}

/// One automation at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct AutomationView {
    /// Its name.
    pub id: AutomationId,
    /// Its runtime.
    pub runtime: RuntimeId,
    /// Who its traffic leaves as.
    pub persona: PersonaId,
    /// Whether a file names it; otherwise it is there because its runtime is.
    pub declared: bool,
    /// Whether it may run.
    pub enabled: bool,
    /// Who disabled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
    /// The state of its runtime; none where nothing is supervised.
    pub state: Option<RuntimeState>,
    /// The run that may live.
    pub run: Option<u64>,
    /// When that began.
    pub started_at: Option<Timestamp>,
    /// Its last sign of life: a beat of its watchdog, a status, a report.
    pub last_heartbeat: Option<Timestamp>,
    /// When the clock starts it, as declared.
    pub schedule: Option<String>,
    /// When it starts next by itself.
    pub next_start: Option<Timestamp>,
    /// The window that its budgets count in.
    pub window: Option<String>,
    /// What is spent of each budget; `used` is null where it is not metered.
    pub budgets: Vec<BudgetView>,
    /// What it reported of itself in the window.
    pub reported: Reported,
    /// What was denied to it in the last minutes.
    pub denied: Vec<Denied>,
    /// Why it does not do its work as it should; empty when it does.
    pub impacted: Vec<Impact>,
}

/// All automations at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Why and since when the kill switch is latched.
    pub latched: Option<Latched>,
    /// Whether no schedule starts anything.
    pub schedules_halted: bool,
    /// Those that are impacted.
    pub impacted: Vec<AutomationId>,
    /// All, in the order of their names.
    pub automations: Vec<AutomationView>,
}

/// What holds for all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct House {
    pub(super) latched: Option<Latched>,
    pub(super) schedules_halted: bool,
}

/// What is known of one.
#[derive(Debug, Default)]
pub(super) struct Facts<'f> {
    pub(super) view: Option<&'f RuntimeView>,
    pub(super) disabled: Option<&'f DisabledRow>,
    pub(super) reported_at: Option<Timestamp>,
    pub(super) reported: Reported,
    /// What it reads without consent.
    pub(super) consent: Option<String>,
}

/// One automation as others see it.
pub(super) fn view(automation: &Automation, facts: &Facts<'_>, house: &House) -> AutomationView {
    let runtime = facts.view;
    let heartbeat = runtime.and_then(|view| view.heartbeat_at).max(facts.reported_at);
    AutomationView {
        id: automation.id.clone(),
        runtime: automation.runtime.clone(),
        persona: automation.persona.clone(),
        declared: automation.declared,
        enabled: facts.disabled.is_none(),
        disabled: facts.disabled.map(Disabled::from),
        state: runtime.map(|view| view.state),
        run: runtime.and_then(|view| view.run),
        started_at: runtime.and_then(|view| view.started_at),
        last_heartbeat: heartbeat,
        schedule: automation.schedule.as_ref().map(ToString::to_string),
        next_start: runtime.and_then(|view| view.next_start),
        window: runtime.and_then(|view| view.window.clone()),
        budgets: runtime.map(|view| view.budget.clone()).unwrap_or_default(),
        reported: facts.reported,
        denied: runtime.map(|view| view.denied.clone()).unwrap_or_default(),
        impacted: impacts(automation, facts, house),
    }
}

fn impacts(automation: &Automation, facts: &Facts<'_>, house: &House) -> Vec<Impact> {
    let mut found = Vec::new();
    let mut add = |code, detail: String| found.push(Impact { code, detail });
    if let Some(latched) = &house.latched {
        add(ImpactCode::KillSwitch, format!("latched since {}: {}", latched.since, latched.reason));
    }
    if let Some(row) = facts.disabled {
        add(ImpactCode::Disabled, format!("since {} by {}: {}", row.at, row.by, row.why));
    }
    if house.schedules_halted && house.latched.is_none() && automation.schedule.is_some() {
        add(ImpactCode::SchedulesHalted, "no schedule starts anything".to_owned());
    }
    if let Some(missing) = &facts.consent {
        add(ImpactCode::ConsentMissing, missing.clone());
    }
    let Some(view) = facts.view else {
        add(ImpactCode::NotSupervised, format!("the runtime `{}` is not looked after", automation.runtime));
        return found;
    };
    for row in &view.budget {
        if row.is_spent() {
            add(ImpactCode::BudgetExhausted, spent(row));
        } else if row.has_reached(90) {
            add(ImpactCode::BudgetEscalated, spent(row));
        }
    }
    let detail = || view.detail.clone().unwrap_or_else(|| format!("health: {}", view.health));
    match view.state {
        RuntimeState::Quarantined => {
            add(ImpactCode::Quarantined, "`arw-cli runtime restore` starts it again".to_owned())
        }
        RuntimeState::Error if facts.consent.is_none() => add(ImpactCode::LaunchRefused, detail()),
        RuntimeState::Backoff => add(ImpactCode::Failing, detail()),
        RuntimeState::Degraded => add(ImpactCode::Degraded, detail()),
        RuntimeState::Frozen => add(ImpactCode::Paused, "`arw-cli runtime thaw` lets it go on".to_owned()),
        RuntimeState::Stopped if is_failure(view.health) => add(ImpactCode::Failing, detail()),
        RuntimeState::Error
        | RuntimeState::Starting
        | RuntimeState::Ready
        | RuntimeState::Stopping
        | RuntimeState::Stopped => {}
    }
    if !view.waits_for.is_empty() && view.run.is_none() {
        add(ImpactCode::Waiting, format!("for {}", view.waits_for.join(", ")));
    }
    let count = |wanted: fn(DenialCode) -> bool| {
        let of: Vec<&Denied> = view.denied.iter().filter(|denied| wanted(denied.code)).collect();
        let codes: Vec<&str> = of.iter().map(|denied| denied.code.code()).collect();
        (of.iter().map(|denied| denied.count).sum::<u64>(), codes.join(", "))
    };
    let (leases, codes) = count(is_of_lease);
    if leases > 0 {
        add(ImpactCode::LeaseEnded, format!("{leases} denials in the last minutes: {codes}"));
    }
    let (others, codes) = count(|code| !is_of_lease(code));
    if others > 0 {
        add(ImpactCode::Denials, format!("{others} denials in the last minutes: {codes}"));
    }
    found
}

const fn is_of_lease(code: DenialCode) -> bool {
    matches!(code, DenialCode::LeaseExpired | DenialCode::LeaseExhausted | DenialCode::LeaseRequired)
}

/// Whether it stopped for a reason that somebody should look at. A spent budget has its own.
const fn is_failure(health: HealthReason) -> bool {
    !matches!(health, HealthReason::Well | HealthReason::BudgetExhausted)
}

fn spent(row: &BudgetView) -> String {
    let percent = row.ratio.map_or(0, |ratio| (ratio * 100.0) as u64);
    let (used, limit) = (row.used.unwrap_or(0), row.limit);
    match row.kind {
        BudgetKind::WallTime | BudgetKind::CpuTime | BudgetKind::GpuTime => {
            format!("`{}`: {percent} % of {} s", row.kind, limit / 1_000_000)
        }
        BudgetKind::Egress | BudgetKind::GpuMemory => format!("`{}`: {percent} % of {limit} bytes", row.kind),
        BudgetKind::Requests | BudgetKind::Tokens => format!("`{}`: {used} of {limit}", row.kind),
        BudgetKind::Spend => {
            let money = row.currency.and_then(|currency| crate::domain::Money::from_millionths(limit, currency));
            format!("`{}`: {percent} % of {}", row.kind, money.map(|money| money.to_string()).unwrap_or_default())
        }
    }
}
