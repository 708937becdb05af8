//! What the engine learns: moments as they come, and how things are at each look.

use serde_json::Value;

use crate::domain::{LeaseId, PersonaId, RouteId, RuntimeId, Timestamp};
use crate::events::{Event, EventKind};

/// Longest text that is taken from an event, in bytes: a host name.
const MAX_TEXT: usize = 255;

/// Which events make a [`Signal`]; some of their names have no publisher in every build.
pub(super) const PREFIXES: [&str; 5] =
    ["persona.feedback", "automation.", "egress.new_domain", "egress.protocol_change", "runtime."];

/// Who gives signs of life.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watched {
    /// The persona.
    pub persona: PersonaId,
    /// One automation of it; any of them otherwise.
    pub automation: Option<String>,
}

/// Marks of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Seven tenths.
    Warning,
    /// Nine tenths.
    Escalated,
    /// All.
    Exhausted,
}

impl Mark {
    /// The mark that `ratio` has passed.
    pub(super) fn of(ratio: f64) -> Option<Self> {
        match ratio {
            ratio if ratio >= 1.0 => Some(Self::Exhausted),
            ratio if ratio >= 0.9 => Some(Self::Escalated),
            ratio if ratio >= 0.7 => Some(Self::Warning),
            _ => None,
        }
    }
}

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// A sign of life.
    Beat(Watched),
    /// A budget passed a mark.
    Budget {
        /// Of which automation or runtime.
        automation: String,
        /// Of whom.
        persona: Option<PersonaId>,
        /// Of what.
        budget: String,
        /// Which mark.
        mark: Mark,
    },
    /// A persona reached a host for the first time.
    NewDomain {
        /// Who.
        persona: PersonaId,
        /// Which host.
        host: String,
        /// Whether an operator listed what the persona may reach.
        listed: bool,
    },
    /// A persona reached a known host by a new scheme.
    ProtocolChange {
        /// Who.
        persona: PersonaId,
        /// Which host and scheme.
        target: String,
    },
    /// The kill switch was used: nobody gives signs of life.
    Shut,
    /// It was released.
    Rearmed,
    /// Something changed that only a look tells.
    Look,
}

impl Signal {
    /// What `event` means; nothing when it means nothing here. `listed` tells whether a persona is bound to a list.
    pub(super) fn of(event: &Event, listed: impl FnOnce(&PersonaId) -> bool) -> Option<Self> {
        let text = |name: &str| event.data.get(name).and_then(Value::as_str).map(bounded);
        let subject = || event.subject.as_deref().map(bounded);
        let persona = |text: Option<String>| text.and_then(|text| PersonaId::parse(&text).ok());
        let mark = match event.kind {
            EventKind::AutomationBudgetWarning => Some(Mark::Warning),
            EventKind::AutomationBudgetEscalated => Some(Mark::Escalated),
            EventKind::AutomationBudgetExhausted => Some(Mark::Exhausted),
            _ => None,
        };
        if let Some(mark) = mark {
            let automation = text("automation").or_else(|| text("runtime")).or_else(subject)?;
            return Some(Self::Budget { automation, persona: persona(text("persona")), budget: text("kind")?, mark });
        }
        match event.kind.code() {
            "persona.feedback" => {
                let persona = persona(text("persona").or_else(subject))?;
                Some(Self::Beat(Watched { persona, automation: None }))
            }
            "automation.run.started" | "automation.run.heartbeat" | "automation.run.resumed" => {
                let automation = text("automation").or_else(subject);
                Some(Self::Beat(Watched { persona: persona(text("persona"))?, automation }))
            }
            "automation.shutdown" => Some(Self::Shut),
            "automation.rearmed" => Some(Self::Rearmed),
            "egress.new_domain" => {
                let persona = persona(subject())?;
                let listed = listed(&persona);
                Some(Self::NewDomain { persona, host: text("host")?, listed })
            }
            "egress.protocol_change" => {
                let target = format!("{} by {}", text("host")?, text("scheme")?);
                Some(Self::ProtocolChange { persona: persona(subject())?, target })
            }
            "runtime.state.changed" | "runtime.health" => Some(Self::Look),
            _ => None,
        }
    }
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

/// How things are. What is `None` is not known now, and then nothing of it is over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// Who should give signs of life, and how often.
    pub cadences: Vec<(Watched, std::time::Duration)>,
    /// Denials of each persona since the daemon came up; without a persona those of nobody.
    pub denials: Vec<(Option<PersonaId>, u64)>,
    /// The runtimes.
    pub runtimes: Option<Vec<RuntimeLook>>,
    /// Why the ledger cannot be written, and why its head could not be kept.
    pub ledger: Option<(Option<String>, Option<String>)>,
    /// Free bytes of each disk.
    pub disks: Option<Vec<(&'static str, u64)>>,
    /// Leases that are near their end.
    pub leases: Option<Vec<LeaseLook>>,
    /// Why the state cannot be written.
    pub store: Option<String>,
    /// What each route has lost since the daemon came up.
    pub lost: Vec<(RouteId, u64)>,
}

/// One runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLook {
    /// Which.
    pub id: RuntimeId,
    /// Whose.
    pub persona: PersonaId,
    /// What it is run for.
    pub automation: String,
    /// Code of its state.
    pub state: &'static str,
    /// Code of how it is, unless it is well.
    pub unwell: Option<&'static str>,
    /// Restarts in its window.
    pub restarts: u64,
    /// Spent of each metered budget.
    pub budgets: Vec<(&'static str, f64)>,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseLook {
    /// Which.
    pub id: LeaseId,
    /// Whose.
    pub persona: PersonaId,
    /// What it permits.
    pub capability: String,
    /// Until when.
    pub expires_at: Timestamp,
}
