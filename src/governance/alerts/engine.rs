//! Signals and looks in, alerts out. Pure: no clock, no I/O, no randomness of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::alert::{Acknowledgement, Alert, Clearing, MAX_SAMPLES};
use super::kind::{AlertKind, Cleared, Severity, Step};
use super::rules::Rules;
use super::signal::{LeaseLook, Look, Mark, RuntimeLook, Signal, Watched};
use super::window::Window;
use crate::domain::{AlertId, PersonaId, RouteId, Timestamp};

/// Alerts at once. 512: more than anybody reads.
pub const MAX_ACTIVE: usize = 512;
/// Of these, what only critical ones get: a flood of small ones hides no great one.
const RESERVED: usize = 128;
/// How often an alert that nobody acknowledges is escalated.
pub const MAX_ESCALATION: u8 = 3;
/// After so long an alert that tells of moments is past, seen or not.
const PAST: Duration = Duration::from_secs(24 * 3_600);
/// A gap is more than so many times the cadence: the handbook's number.
const GAP: u32 = 2;

/// One thing that happened to an alert, and the alert since.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What happened.
    pub step: Step,
    /// The alert.
    pub alert: Alert,
}

/// The active alerts, and what must be remembered to raise the next one.
pub struct Engine {
    rules: Rules,
    mint: Box<dyn FnMut() -> AlertId + Send + Sync>,
    active: BTreeMap<String, Held>,
    denials: BTreeMap<Option<PersonaId>, Window>,
    /// The last sign of life; without one there was none for too long already when the daemon came up.
    beats: BTreeMap<Watched, Option<Timestamp>>,
    lost: BTreeMap<RouteId, u64>,
    shut: bool,
    dropped: u64,
}

#[derive(Debug)]
struct Held {
    alert: Alert,
    /// Since when what it is about is over.
    over_since: Option<Timestamp>,
    /// Whether it changed in a way that nobody is told of.
    touched: bool,
}

/// Something that is, or that happened.
struct Finding {
    kind: AlertKind,
    key: String,
    severity: Severity,
    persona: Option<PersonaId>,
    subject: Option<String>,
    summary: String,
    sample: Option<String>,
    facts: Value,
    lasting: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("active", &self.active.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that goes on with `active`; `mint` gives names that nobody else has.
    pub fn new(rules: Rules, active: Vec<Alert>, mint: Box<dyn FnMut() -> AlertId + Send + Sync>) -> Self {
        let mut engine = Self {
            rules,
            mint,
            active: BTreeMap::new(),
            denials: BTreeMap::new(),
            beats: BTreeMap::new(),
            lost: BTreeMap::new(),
            shut: false,
            dropped: 0,
        };
        for alert in active {
            if let (AlertKind::HeartbeatGap, Some(persona)) = (alert.code, &alert.persona) {
                let watched = Watched { persona: persona.clone(), automation: alert.subject.clone() };
                engine.beats.insert(watched, None);
            }
            let held = Held { alert, over_since: None, touched: false };
            engine.active.entry(held.alert.key.clone()).or_insert(held);
        }
        engine
    }

    /// Those that are not over, the worst first, then the oldest.
    pub fn active(&self) -> Vec<&Alert> {
        let mut all: Vec<&Alert> = self.active.values().map(|held| &held.alert).collect();
        all.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.raised_at));
        all
    }

    /// Alerts for which there was no room.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes other rules; what they switch off is over.
    pub fn set_rules(&mut self, rules: Rules, now: Timestamp) -> Vec<Change> {
        self.rules = rules;
        let off = |held: &Held| self.rules.severity(held.alert.code).is_none();
        let off: Vec<String> = self.active.iter().filter(|(_, held)| off(held)).map(|(key, _)| key.clone()).collect();
        off.iter().filter_map(|key| self.clear(key, Cleared::Off, now)).collect()
    }

    /// Takes note of a moment.
    pub fn note(&mut self, signal: Signal, now: Timestamp) -> Option<Change> {
        let finding = match signal {
            Signal::Beat(watched) => {
                self.beat(watched, now);
                return None;
            }
            Signal::Shut => {
                self.shut = true;
                return None;
            }
            Signal::Rearmed => {
                self.shut = false;
                self.beats.values_mut().for_each(|last| *last = Some(now));
                return None;
            }
            Signal::Look => return None,
            Signal::Budget { automation, persona, budget, mark } => {
                self.budget(&automation, persona, &budget, mark, false)?
            }
            Signal::NewDomain { persona, host, listed } => self.new_domain(persona, host, listed)?,
            Signal::ProtocolChange { persona, target } => self.protocol_change(persona, target)?,
        };
        self.find(finding, now)
    }

    /// Compares how things are with what is known: raises, escalates and clears.
    pub fn look(&mut self, look: &Look, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        let found = self.findings(look, now);
        let keys: BTreeSet<String> = found.iter().map(|finding| finding.key.clone()).collect();
        changes.extend(found.into_iter().filter_map(|finding| self.find(finding, now)));
        let mut ended = Vec::new();
        for (key, held) in &mut self.active {
            if keys.contains(key) {
                continue;
            }
            if !held.alert.lasting {
                if now.since(held.alert.last_at) >= PAST {
                    ended.push((key.clone(), Cleared::Past));
                }
                continue;
            }
            if unknown(held.alert.code, look) {
                continue;
            }
            let since = *held.over_since.get_or_insert(now);
            if now.since(since) >= self.rules.clear_after {
                ended.push((key.clone(), Cleared::Over));
            }
        }
        changes.extend(ended.iter().filter_map(|(key, why)| self.clear(key, *why, now)));
        changes.extend(self.escalate(now));
        changes
    }

    /// Notes that somebody has seen the alert `id`. One that tells of moments is over then.
    ///
    /// # Errors
    /// There is no such active alert.
    pub fn acknowledge(
        &mut self,
        id: &AlertId,
        by: &str,
        note: &str,
        now: Timestamp,
    ) -> Result<Vec<Change>, NoSuchAlert> {
        let held = self.active.values_mut().find(|held| held.alert.id == *id);
        let held = held.ok_or_else(|| NoSuchAlert(id.clone()))?;
        held.alert.acknowledged = Some(Acknowledgement { at: now, by: by.to_owned(), note: note.to_owned() });
        held.alert.respond_by = None;
        let (alert, key) = (held.alert.clone(), held.alert.key.clone());
        let mut changes = vec![Change { step: Step::Acknowledged, alert }];
        if !changes[0].alert.lasting {
            changes.extend(self.clear(&key, Cleared::Acknowledged, now));
        }
        Ok(changes)
    }

    /// Takes back what was changed of an alert, and whether it is over.
    pub fn put_back(&mut self, alert: Alert) {
        self.active.insert(alert.key.clone(), Held { alert, over_since: None, touched: false });
    }

    /// Alerts that changed since this was asked last, in ways that nobody is told of.
    pub fn touched(&mut self) -> Vec<Alert> {
        let take = |held: &mut Held| std::mem::take(&mut held.touched).then(|| held.alert.clone());
        self.active.values_mut().filter_map(take).collect()
    }

    fn beat(&mut self, watched: Watched, now: Timestamp) {
        // Only those that are watched are remembered: whoever beats otherwise takes no memory.
        let persona = Watched { persona: watched.persona.clone(), automation: None };
        for who in [watched, persona] {
            if let Some(last) = self.beats.get_mut(&who) {
                *last = Some(now);
            }
        }
    }

    /// Raises what is found, or takes note that it is still there.
    fn find(&mut self, finding: Finding, now: Timestamp) -> Option<Change> {
        let Finding { kind, key, severity, persona, subject, summary, sample, facts, lasting } = finding;
        let facts = match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        };
        let respond_by = self.rules.respond_by(severity, now);
        let Some(held) = self.active.get_mut(&key) else {
            let room = if severity == Severity::Critical { MAX_ACTIVE } else { MAX_ACTIVE - RESERVED };
            if self.active.len() >= room {
                self.dropped += 1;
                return None;
            }
            let alert = Alert {
                id: (self.mint)(),
                code: kind,
                key: key.clone(),
                severity,
                persona,
                subject,
                summary,
                samples: sample.into_iter().collect(),
                facts,
                lasting,
                count: 1,
                raised_at: now,
                last_at: now,
                respond_by,
                escalation: 0,
                acknowledged: None,
                cleared: None,
            };
            self.active.insert(key, Held { alert: alert.clone(), over_since: None, touched: false });
            return Some(Change { step: Step::Raised, alert });
        };
        let alert = &mut held.alert;
        let back = held.over_since.take().is_some();
        alert.lasting |= lasting;
        if !lasting || back {
            alert.count = alert.count.saturating_add(1);
            alert.last_at = now;
            held.touched = true;
        }
        if let Some(sample) =
            sample.filter(|sample| alert.samples.len() < MAX_SAMPLES && !alert.samples.contains(sample))
        {
            alert.samples.push(sample);
            held.touched = true;
        }
        if severity <= alert.severity && kind <= alert.code {
            return None;
        }
        alert.code = kind;
        alert.severity = alert.severity.max(severity);
        alert.summary = summary;
        alert.facts = facts;
        alert.last_at = now;
        alert.respond_by = self.rules.respond_by(alert.severity, now);
        alert.escalation = 0;
        alert.acknowledged = None;
        held.touched = false;
        Some(Change { step: Step::Worsened, alert: alert.clone() })
    }

    fn clear(&mut self, key: &str, why: Cleared, now: Timestamp) -> Option<Change> {
        let mut alert = self.active.remove(key)?.alert;
        alert.respond_by = None;
        alert.cleared = Some(Clearing { at: now, why });
        Some(Change { step: Step::Cleared, alert })
    }

    fn escalate(&mut self, now: Timestamp) -> Vec<Change> {
        let rules = &self.rules;
        let late = |held: &&mut Held| {
            let alert = &held.alert;
            // What may be over is not pressed for.
            let pressing = held.over_since.is_none() && alert.escalation < MAX_ESCALATION;
            pressing && alert.respond_by.is_some_and(|by| by <= now)
        };
        let escalated = self.active.values_mut().filter(late).map(|held| {
            held.alert.escalation += 1;
            held.alert.respond_by = rules.respond_by(held.alert.severity, now);
            held.touched = false;
            Change { step: Step::Escalated, alert: held.alert.clone() }
        });
        escalated.collect()
    }
}

/// There is no such active alert.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no active alert `{0}`")]
pub struct NoSuchAlert(pub AlertId);

/// Whether the look says nothing about alerts of this kind.
const fn unknown(kind: AlertKind, look: &Look) -> bool {
    match kind {
        AlertKind::RuntimeRestarts
        | AlertKind::RuntimeQuarantined
        | AlertKind::RuntimeError
        | AlertKind::RuntimeHealth
        | AlertKind::BudgetWarning
        | AlertKind::BudgetEscalated
        | AlertKind::BudgetExhausted => look.runtimes.is_none(),
        AlertKind::LedgerUnavailable | AlertKind::CheckpointFailed => look.ledger.is_none(),
        AlertKind::DiskLow => look.disks.is_none(),
        AlertKind::LeaseNearExpiry => look.leases.is_none(),
        AlertKind::HeartbeatGap
        | AlertKind::PolicyDenials
        | AlertKind::NewDomain
        | AlertKind::ProtocolChange
        | AlertKind::StoreUnavailable
        | AlertKind::SinkLosing => false,
    }
}

/// What each rule finds.
impl Engine {
    fn findings(&mut self, look: &Look, now: Timestamp) -> Vec<Finding> {
        let mut found = self.gaps(look, now);
        found.extend(self.denied(look, now));
        found.extend(self.losing(look));
        for runtime in look.runtimes.iter().flatten() {
            found.extend(self.runtime(runtime));
        }
        for lease in look.leases.iter().flatten() {
            found.extend(self.lease(lease));
        }
        if let Some((unavailable, checkpoint)) = &look.ledger {
            let ledger = "the ledger cannot be written, and nothing leaves";
            found.extend(self.host(AlertKind::LedgerUnavailable, ledger, unavailable.as_deref()));
            let head = "the ledger's tree head could not be signed or kept";
            found.extend(self.host(AlertKind::CheckpointFailed, head, checkpoint.as_deref()));
        }
        found.extend(self.host(AlertKind::StoreUnavailable, "the state cannot be written", look.store.as_deref()));
        for (disk, free) in look.disks.iter().flatten().filter(|(_, free)| *free < self.rules.disk_free) {
            found.extend(self.disk(disk, *free));
        }
        found
    }

    fn gaps(&mut self, look: &Look, now: Timestamp) -> Vec<Finding> {
        let watched: BTreeSet<&Watched> = look.cadences.iter().map(|(watched, _)| watched).collect();
        self.beats.retain(|who, _| watched.contains(who));
        let mut found = Vec::new();
        for (who, cadence) in &look.cadences {
            let last = *self.beats.entry(who.clone()).or_insert(Some(now));
            let silent = last.is_none_or(|last| now.since(last) > *cadence * GAP);
            let Some(severity) = self.rules.severity(AlertKind::HeartbeatGap).filter(|_| silent && !self.shut) else {
                continue;
            };
            let name = match &who.automation {
                Some(automation) => format!("the automation `{automation}` of `{}`", who.persona),
                None => format!("`{}`", who.persona),
            };
            let seconds = cadence.as_secs_f64();
            found.push(Finding {
                kind: AlertKind::HeartbeatGap,
                key: key(AlertKind::HeartbeatGap, &[who.persona.as_str(), who.automation.as_deref().unwrap_or("")]),
                severity,
                persona: Some(who.persona.clone()),
                subject: who.automation.clone(),
                summary: format!("{name} gave no sign of life for more than {GAP} times its cadence of {seconds} s"),
                sample: None,
                facts: json!({ "cadence_seconds": seconds }),
                lasting: true,
            });
        }
        found
    }

    fn denied(&mut self, look: &Look, now: Timestamp) -> Vec<Finding> {
        let (most, window) = (self.rules.denials, self.rules.denial_window);
        let known: BTreeSet<&Option<PersonaId>> = look.denials.iter().map(|(persona, _)| persona).collect();
        self.denials.retain(|persona, _| known.contains(persona));
        let mut found = Vec::new();
        for (persona, total) in &look.denials {
            let count = self.denials.entry(persona.clone()).or_default().rise(*total, now, window);
            let Some(severity) = self.rules.severity(AlertKind::PolicyDenials).filter(|_| count >= most) else {
                continue;
            };
            let who = persona.as_ref().map_or_else(|| "clients without an identity".to_owned(), |id| format!("`{id}`"));
            found.push(Finding {
                kind: AlertKind::PolicyDenials,
                key: key(AlertKind::PolicyDenials, &[persona.as_ref().map_or("", PersonaId::as_str)]),
                severity,
                persona: persona.clone(),
                subject: None,
                summary: format!("{who} had {most} denials or more within {} s", window.as_secs()),
                sample: None,
                facts: json!({ "denials": count, "window_seconds": window.as_secs() }),
                lasting: true,
            });
        }
        found
    }

    fn losing(&mut self, look: &Look) -> Vec<Finding> {
        let known: BTreeSet<&RouteId> = look.lost.iter().map(|(route, _)| route).collect();
        self.lost.retain(|route, _| known.contains(route));
        let mut found = Vec::new();
        for (route, lost) in &look.lost {
            let before = self.lost.insert(route.clone(), *lost).unwrap_or(0);
            let Some(severity) = self.rules.severity(AlertKind::SinkLosing).filter(|_| *lost > before) else {
                continue;
            };
            found.push(Finding {
                kind: AlertKind::SinkLosing,
                key: key(AlertKind::SinkLosing, &[route.as_str()]),
                severity,
                persona: None,
                subject: Some(route.to_string()),
                summary: format!("the route `{route}` loses what it should carry"),
                sample: None,
                facts: json!({ "lost": lost }),
                lasting: true,
            });
        }
        found
    }

    fn runtime(&self, runtime: &RuntimeLook) -> Vec<Finding> {
        let RuntimeLook { id, automation, persona, state, unwell, restarts, budgets } = runtime;
        let mut found = Vec::new();
        let mut tell = |kind: AlertKind, summary: String, facts: Value| {
            let Some(severity) = self.rules.severity(kind) else { return };
            found.push(Finding {
                kind,
                key: key(kind, &[id.as_str()]),
                severity,
                persona: Some(persona.clone()),
                subject: Some(id.to_string()),
                summary,
                sample: unwell.map(str::to_owned),
                facts,
                lasting: true,
            });
        };
        match *state {
            "quarantined" => tell(
                AlertKind::RuntimeQuarantined,
                format!(
                    "the runtime `{id}` failed too often and was given up: `arw-cli runtime restore {id}` starts it"
                ),
                json!({ "reason": unwell }),
            ),
            "error" => tell(
                AlertKind::RuntimeError,
                format!("the runtime `{id}` cannot be launched as it is declared"),
                json!({ "reason": unwell }),
            ),
            _ => {
                if let Some(reason) = unwell {
                    tell(
                        AlertKind::RuntimeHealth,
                        format!("the runtime `{id}` is not well: {reason}"),
                        json!({ "reason": reason }),
                    );
                }
                if *restarts >= self.rules.restarts {
                    let summary = format!("the runtime `{id}` was restarted {} times or more", self.rules.restarts);
                    tell(AlertKind::RuntimeRestarts, summary, json!({ "restarts": restarts }));
                }
            }
        }
        for (budget, ratio) in budgets {
            let Some(mark) = Mark::of(*ratio) else { continue };
            found.extend(self.budget(automation, Some(persona.clone()), budget, mark, true));
        }
        found
    }

    fn budget(&self, id: &str, persona: Option<PersonaId>, budget: &str, mark: Mark, lasting: bool) -> Option<Finding> {
        let (kind, spent) = match mark {
            Mark::Warning => (AlertKind::BudgetWarning, "to 70 %"),
            Mark::Escalated => (AlertKind::BudgetEscalated, "to 90 %"),
            Mark::Exhausted => (AlertKind::BudgetExhausted, "in full, and it is stopped"),
        };
        Some(Finding {
            kind,
            // One alert goes through all marks.
            key: format!("budget/{id}/{budget}"),
            severity: self.rules.severity(kind)?,
            persona,
            subject: Some(id.to_owned()),
            summary: format!("the `{budget}` budget of `{id}` is spent {spent}"),
            sample: None,
            facts: json!({ "budget": budget }),
            lasting,
        })
    }

    fn new_domain(&self, persona: PersonaId, host: String, listed: bool) -> Option<Finding> {
        let severity = self.rules.severity(AlertKind::NewDomain)?;
        Some(Finding {
            kind: AlertKind::NewDomain,
            // One for all hosts: a flood of them makes one alert.
            key: key(AlertKind::NewDomain, &[persona.as_str()]),
            // What an operator listed is no anomaly: so allowlists keep this quiet.
            severity: if listed { Severity::Info.min(severity) } else { severity },
            subject: None,
            summary: format!("`{persona}` reached hosts for the first time"),
            sample: Some(host),
            persona: Some(persona),
            facts: Value::Null,
            lasting: false,
        })
    }

    fn protocol_change(&self, persona: PersonaId, target: String) -> Option<Finding> {
        Some(Finding {
            kind: AlertKind::ProtocolChange,
            key: key(AlertKind::ProtocolChange, &[persona.as_str()]),
            severity: self.rules.severity(AlertKind::ProtocolChange)?,
            subject: None,
            summary: format!("`{persona}` reached known hosts in new ways"),
            sample: Some(target),
            persona: Some(persona),
            facts: Value::Null,
            lasting: false,
        })
    }

    fn lease(&self, lease: &LeaseLook) -> Option<Finding> {
        let LeaseLook { id, persona, capability, expires_at } = lease;
        Some(Finding {
            kind: AlertKind::LeaseNearExpiry,
            key: key(AlertKind::LeaseNearExpiry, &[id.as_str()]),
            severity: self.rules.severity(AlertKind::LeaseNearExpiry)?,
            persona: Some(persona.clone()),
            subject: Some(id.to_string()),
            summary: format!("the lease `{id}` of `{persona}` for {capability} ends at {expires_at}"),
            sample: None,
            facts: json!({ "lease": id, "capability": capability, "expires_at": expires_at }),
            lasting: true,
        })
    }

    /// Something of the host as a whole, while there is a `detail` of it.
    fn host(&self, kind: AlertKind, summary: &str, detail: Option<&str>) -> Option<Finding> {
        let detail = detail?;
        Some(Finding {
            kind,
            key: key(kind, &[]),
            severity: self.rules.severity(kind)?,
            persona: None,
            subject: None,
            summary: summary.to_owned(),
            sample: Some(detail[..detail.floor_char_boundary(255)].to_owned()),
            facts: Value::Null,
            lasting: true,
        })
    }

    fn disk(&self, disk: &str, free: u64) -> Option<Finding> {
        Some(Finding {
            kind: AlertKind::DiskLow,
            key: key(AlertKind::DiskLow, &[disk]),
            severity: self.rules.severity(AlertKind::DiskLow)?,
            persona: None,
            subject: Some(disk.to_owned()),
            summary: format!("the disk of the {disk} is nearly full"),
            sample: None,
            facts: json!({ "free_bytes": free }),
            lasting: true,
        })
    }
}

fn key(kind: AlertKind, parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).fold(kind.code().to_owned(), |key, part| format!("{key}/{part}"))
}
