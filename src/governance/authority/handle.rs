//! The policy in force, asked by everything that changes something or shows what not everybody should see.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use super::policy::{Policy, Summary};
use super::question::{Question, Ruling};
use super::words::{Action, OVERFLOW_UID, Principal, Resource};
use crate::domain::{Clock, DenialCode, PersonaId, Timestamp};
use crate::events::{EventBus, EventKind};

/// Denials that are told one by one before the pace holds. 20: a script that lacks a grant shows all that it lacks.
const BURST: u32 = 20;
/// Pace of denials that are told after that. One a second: what asks without end does not crowd out what else happens.
const PACE: Duration = Duration::from_secs(1);
/// Denials that are remembered for `GET /state/policy`. 64: a screen.
const RECENT: usize = 64;

/// Who may do what. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: ArcSwap<Policy>,
    allowed: AtomicU64,
    asked: Counts,
    simulated: Counts,
    told: Mutex<Told>,
    changed: watch::Sender<()>,
    events: EventBus,
    clock: Arc<dyn Clock>,
}

/// Denials by action.
#[derive(Debug)]
struct Counts([AtomicU64; Action::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

#[derive(Debug)]
struct Told {
    /// When every try of the burst is back, in microseconds (GCRA, ITU-T I.371).
    whole_at: i64,
    /// Denials that were not told since the last that was.
    silent: u64,
    recent: VecDeque<Denied>,
}

/// A denial as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denied {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub principal: Principal,
    /// What.
    pub action: Action,
    /// On what.
    pub resource: Resource,
    /// Whether it was the simulator that was asked.
    pub simulated: bool,
    /// Why.
    #[serde(flatten)]
    pub ruling: Ruling,
}

/// How many denials there were of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Denials {
    /// Of what.
    pub action: Action,
    /// To somebody who wanted to do it.
    pub asked: u64,
    /// By the simulator.
    pub simulated: u64,
}

/// The policy and what it decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The policy in force.
    #[serde(flatten)]
    pub policy: Summary,
    /// What was asked and allowed since the start.
    pub allowed: u64,
    /// What was denied since the start; actions without a denial are left out.
    pub denials: Vec<Denials>,
    /// The latest denials, oldest first.
    pub recent: Vec<Denied>,
}

/// Proof that the policy permits something. There is no other way to one than [`Authority::ask`].
#[derive(Debug)]
#[must_use = "what it permits is to be done with it"]
pub struct Permit {
    action: Action,
}

impl Permit {
    /// What is permitted.
    pub const fn action(&self) -> Action {
        self.action
    }
}

/// The policy does not permit it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy does not let `{principal}` do `{action}` on `{resource}`")]
pub struct Refusal {
    /// Who.
    pub principal: Principal,
    /// What.
    pub action: Action,
    /// On what.
    pub resource: Resource,
    /// Why.
    pub ruling: Ruling,
}

impl Authority {
    /// With this policy in force.
    pub fn new(policy: Policy, events: EventBus, clock: Arc<dyn Clock>) -> Self {
        let told = Told { whole_at: 0, silent: 0, recent: VecDeque::with_capacity(RECENT) };
        Self(Arc::new(Inner {
            policy: ArcSwap::from_pointee(policy),
            allowed: AtomicU64::new(0),
            asked: Counts::default(),
            simulated: Counts::default(),
            told: Mutex::new(told),
            changed: watch::Sender::new(()),
            events,
            clock,
        }))
    }

    /// May it be done? A denial is counted and told.
    ///
    /// # Errors
    /// The policy does not permit it.
    pub fn ask(&self, question: Question) -> Result<Permit, Refusal> {
        let ruling = self.0.policy.load().decide(&question);
        if ruling.allowed {
            self.0.allowed.fetch_add(1, Ordering::Relaxed);
            return Ok(Permit { action: question.action });
        }
        self.tell(&question, &ruling, false);
        let Question { principal, action, resource, .. } = question;
        Err(Refusal { principal, action, resource, ruling })
    }

    /// What would be answered. A denial is counted and told apart: repeated ones show a policy that drifted from what it
    /// is meant to permit.
    pub fn simulate(&self, question: &Question) -> Ruling {
        let ruling = self.0.policy.load().decide(question);
        if !ruling.allowed {
            self.tell(question, &ruling, true);
        }
        ruling
    }

    /// Tells that the simulator denied what would leave: the other half of the same drift.
    pub fn simulated_egress(&self, persona: &PersonaId, target: &str, code: DenialCode) {
        let silent = {
            let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
            if !told.spend(self.0.clock.now()) {
                told.silent += 1;
                return;
            }
            std::mem::take(&mut told.silent)
        };
        let data = json!({"outcome": "deny", "code": code, "host": target, "simulated": true, "untold": silent});
        self.0.events.publish(EventKind::PolicyDecision, Some(persona.as_str()), data);
    }

    /// Puts another policy in force, whole, from the next question on.
    pub fn replace(&self, policy: Policy) {
        self.0.policy.store(Arc::new(policy));
        self.0.changed.send_replace(());
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.0.policy.load_full()
    }

    /// Notices that another policy is in force.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Whether a grant names this user of the host.
    pub fn names(&self, uid: u32) -> bool {
        uid != OVERFLOW_UID && self.0.policy.load().uids().any(|named| named == uid)
    }

    /// How often each action was denied: to those who asked, and by the simulator.
    pub fn denials(&self) -> impl Iterator<Item = Denials> {
        Action::ALL.iter().map(|action| {
            let count = |counts: &Counts| counts.0[action.index()].load(Ordering::Relaxed);
            Denials { action: *action, asked: count(&self.0.asked), simulated: count(&self.0.simulated) }
        })
    }

    /// What was allowed since the start.
    pub fn allowed(&self) -> u64 {
        self.0.allowed.load(Ordering::Relaxed)
    }

    /// The policy and what it decided.
    pub fn status(&self) -> Status {
        let recent = {
            let told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.recent.iter().cloned().collect()
        };
        let denials = self.denials().filter(|denials| denials.asked + denials.simulated > 0).collect();
        Status { policy: self.0.policy.load().summary(), allowed: self.allowed(), denials, recent }
    }

    fn tell(&self, question: &Question, ruling: &Ruling, simulated: bool) {
        let Question { principal, action, resource, .. } = question;
        let counts = if simulated { &self.0.simulated } else { &self.0.asked };
        counts.0[action.index()].fetch_add(1, Ordering::Relaxed);
        let at = self.0.clock.now();
        let silent = {
            let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.recent.len() == RECENT {
                told.recent.pop_front();
            }
            told.recent.push_back(Denied {
                at,
                principal: principal.clone(),
                action: *action,
                resource: resource.clone(),
                simulated,
                ruling: ruling.clone(),
            });
            match told.spend(at) {
                true => std::mem::take(&mut told.silent),
                false => {
                    told.silent += 1;
                    return;
                }
            }
        };
        tracing::info!(%principal, %action, %resource, code = ruling.code.code(), simulated, "the policy denies");
        let persona = match (principal, resource) {
            (Principal::Persona(id), _) | (_, Resource::Persona(id)) => Some(id.as_str()),
            _ => None,
        };
        let data = json!({
            "outcome": "deny",
            "code": ruling.code,
            "principal": principal,
            "action": action,
            "resource": resource,
            "rule": ruling.rule,
            "simulated": simulated,
            "untold": silent,
        });
        self.0.events.publish(EventKind::PolicyDecision, persona, data);
    }
}

impl Told {
    /// Whether one more may be told at `now`.
    fn spend(&mut self, now: Timestamp) -> bool {
        let pace = i64::try_from(PACE.as_micros()).unwrap_or(i64::MAX);
        let now = now.unix_micros();
        // A clock that was set back does not silence what comes.
        let whole_at = self.whole_at.clamp(now, now.saturating_add(pace.saturating_mul(i64::from(BURST))));
        let there = whole_at - now <= pace * i64::from(BURST - 1);
        if there {
            self.whole_at = whole_at + pace;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::question::Why;
    use super::*;
    use crate::domain::ManualClock;

    const READ_ONLY: &str = r#"{"version":1,"grants":[
        {"id":"stop","principals":["token"],"actions":["automation:shutdown"],"resources":["daemon"]},
        {"id":"look","principals":["uid:1000"],"actions":["state:read"],"resources":["daemon"]}]}"#;

    fn authority(clock: &Arc<ManualClock>) -> Authority {
        let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
        let policy = Policy::parse(Path::new("policy.json"), READ_ONLY).expect("sound");
        Authority::new(policy, EventBus::new("test", Arc::clone(&clock)), clock)
    }

    fn wanted() -> Question {
        Question::new(Principal::Uid(1000), Action::PolicyReload, Resource::Daemon)
    }

    #[test]
    fn a_flood_of_denials_is_counted_whole_and_told_in_part() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_micros(1_000_000_000)));
        let authority = authority(&clock);
        for _ in 0..1_000 {
            let refusal = authority.ask(wanted()).expect_err("not granted");
            assert_eq!(refusal.ruling.code, Why::NotGranted);
        }
        assert_eq!(authority.0.events.stats().published, u64::from(BURST));
        clock.advance(PACE * 2);
        for _ in 0..10 {
            let _ = authority.ask(wanted());
        }
        assert_eq!(authority.0.events.stats().published, u64::from(BURST) + 2);
        let status = authority.status();
        assert_eq!(status.denials, [Denials { action: Action::PolicyReload, asked: 1_010, simulated: 0 }]);
        assert_eq!(status.recent.len(), RECENT);
        assert_eq!(status.allowed, 0);
    }

    #[test]
    fn the_simulator_is_counted_apart() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_micros(0)));
        let authority = authority(&clock);
        assert!(!authority.simulate(&wanted()).allowed);
        assert_eq!(authority.status().denials, [Denials { action: Action::PolicyReload, asked: 0, simulated: 1 }]);
        let look = Question::new(Principal::Uid(1000), Action::StateRead, Resource::Daemon);
        assert_eq!(authority.ask(look).expect("granted").action(), Action::StateRead);
    }

    #[test]
    fn another_policy_holds_from_the_next_question_on() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_micros(0)));
        let authority = authority(&clock);
        let mut changes = authority.changes();
        assert!(authority.ask(wanted()).is_err());
        assert!(authority.names(1000) && !authority.names(0));
        authority.replace(Policy::open());
        assert!(changes.has_changed().expect("alive"));
        changes.mark_unchanged();
        let _permit = authority.ask(wanted()).expect("open");
        assert!(!authority.names(1000), "nobody is named where no file is");
    }
}
