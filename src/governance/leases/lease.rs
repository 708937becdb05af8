//! A lease, and what must hold before there is one. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::capability::{Capability, CapabilityFault, LONGEST, PERSONAL_BOUND};
use crate::domain::{LeaseId, PersonaId, Timestamp, codes};
use crate::governance::audit::Actor;
use crate::governance::reason::{MAX_REASON, reason};
use crate::policy::{EgressLease, Posture, Snapshot};
use crate::store::{LeaseRow, StoreFault};

/// Longest justification, in bytes.
pub const MAX_JUSTIFICATION: usize = MAX_REASON;
/// Leases in force at once. 1000: each is looked after by a person.
pub const MAX_IN_FORCE: usize = 1_000;
/// Largest number of uses or bytes: what JSON readers keep exact (2^53 - 1, RFC 8259 section 6).
const MAX_COUNT: u64 = (1 << 53) - 1;
/// How long before its end a lease is told of: this share of its time,
const NEAR_SHARE: u32 = 10;
/// and this at the most.
const NEAR_MOST: Duration = Duration::from_secs(15 * 60);

codes! {
    /// How a lease ended.
    LeaseEnd {
        /// Its time was over.
        Expired => "expired",
        /// Somebody took it back.
        Revoked => "revoked",
        /// The kill switch took back all.
        KillSwitch => "kill_switch",
    }
}

/// A time-boxed widening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// What it permits.
    pub capability: Capability,
    /// Whom.
    pub subject: PersonaId,
    /// Who gave it.
    pub issuer: Actor,
    /// Why.
    pub justification: String,
    /// When it was given.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How many grants, ever.
    pub max_uses: Option<u64>,
    /// How many bytes in both directions, ever.
    pub max_bytes: Option<u64>,
    /// When and how it ended, once it has.
    pub ended: Option<(Timestamp, LeaseEnd)>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// What to permit, as written.
    pub capability: String,
    /// Whom.
    pub subject: PersonaId,
    /// For how long.
    pub ttl: Duration,
    /// Why.
    pub justification: String,
    /// How many grants.
    pub max_uses: Option<u64>,
    /// How many bytes.
    pub max_bytes: Option<u64>,
}

/// Why a lease was not given, renewed or taken back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFault {
    /// The capability.
    #[error(transparent)]
    Capability(#[from] CapabilityFault),
    /// There is no such persona.
    #[error("there is no persona `{0}`")]
    UnknownPersona(PersonaId),
    /// The persona's posture is `off`.
    #[error("the posture of `{0}` is off: a lease would open nothing")]
    PostureOff(PersonaId),
    /// No time at all.
    #[error("a lease lasts at least a second")]
    TooShort,
    /// A persona or telemetry lease of a day or more.
    #[error("a lease for `{0}` lasts less than 24 hours")]
    Personal(Capability),
    /// Any lease beyond the bound.
    #[error("a lease lasts at most 30 days: what is needed for longer is a rule")]
    TooLong,
    /// No reason, or no readable one.
    #[error("a justification is one line of 1 to {MAX_JUSTIFICATION} bytes")]
    Justification,
    /// A bound of zero, or one that nobody could count.
    #[error("`{0}` is a number from 1 to {MAX_COUNT}")]
    Bound(&'static str),
    /// A bound for something that is not counted.
    #[error("uses and bytes are counted for `egress:host:` only, so `{0}` cannot have a bound")]
    Uncounted(Capability),
    /// As many as there may be.
    #[error("{MAX_IN_FORCE} leases are in force, the most there may be")]
    TooMany,
    /// There is no such lease.
    #[error("there is no lease `{0}`")]
    Unknown(LeaseId),
    /// It has ended.
    #[error("the lease `{0}` has ended")]
    Ended(LeaseId),
    /// The kill switch is latched.
    #[error("the kill switch is latched: nothing is leased until it is released")]
    Latched,
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Gone,
}

impl LeaseRequest {
    /// The lease `id` that this asks for, given by `issuer` at `now` under `policy`.
    ///
    /// # Errors
    /// The first thing that is wrong with it. Nothing is clamped.
    pub(super) fn examine(
        self,
        id: LeaseId,
        issuer: Actor,
        policy: &Snapshot,
        now: Timestamp,
    ) -> Result<Lease, LeaseFault> {
        let capability = Capability::parse(&self.capability)?;
        let justification = justified(&self.justification)?;
        let expires_at = end_of(&capability, self.ttl, now)?;
        for (name, bound) in [("max_uses", self.max_uses), ("max_bytes", self.max_bytes)] {
            match bound {
                Some(_) if !capability.is_counted() => return Err(LeaseFault::Uncounted(capability)),
                Some(bound) if bound == 0 || bound > MAX_COUNT => return Err(LeaseFault::Bound(name)),
                Some(_) | None => {}
            }
        }
        useful(&capability, &self.subject, policy)?;
        Ok(Lease {
            id,
            capability,
            subject: self.subject,
            issuer,
            justification,
            created_at: now,
            expires_at,
            max_uses: self.max_uses,
            max_bytes: self.max_bytes,
            ended: None,
        })
    }
}

/// Whether a lease of `subject` for `capability` would permit anything under `policy`.
///
/// # Errors
/// There is no such persona, or nothing leaves as it.
pub(super) fn useful(capability: &Capability, subject: &PersonaId, policy: &Snapshot) -> Result<(), LeaseFault> {
    match policy.persona(subject) {
        None => Err(LeaseFault::UnknownPersona(subject.clone())),
        Some(persona) if capability.opening().is_some() && persona.posture() == Posture::Off => {
            Err(LeaseFault::PostureOff(subject.clone()))
        }
        Some(_) => Ok(()),
    }
}

/// A reason as it is kept.
///
/// # Errors
/// When it is blank, too long, or more than a line.
pub(super) fn justified(text: &str) -> Result<String, LeaseFault> {
    reason(text).ok_or(LeaseFault::Justification)
}

/// When a lease for `capability` of `ttl` ends.
///
/// # Errors
/// When that is longer than it may be.
pub(super) fn end_of(capability: &Capability, ttl: Duration, now: Timestamp) -> Result<Timestamp, LeaseFault> {
    if ttl < Duration::from_secs(1) {
        return Err(LeaseFault::TooShort);
    }
    if capability.is_personal() && ttl >= PERSONAL_BOUND {
        return Err(LeaseFault::Personal(capability.clone()));
    }
    if ttl > LONGEST {
        return Err(LeaseFault::TooLong);
    }
    Ok(now.plus(ttl))
}

impl Lease {
    /// Whether its time is over at `now`.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// From when on an alert tells that it will end.
    pub(super) fn near_end(&self) -> Timestamp {
        let near = (self.expires_at.since(self.created_at) / NEAR_SHARE).min(NEAR_MOST);
        let micros = i64::try_from(near.as_micros()).unwrap_or(0);
        Timestamp::from_unix_micros(self.expires_at.unix_micros().saturating_sub(micros))
    }

    /// As policy looks at it; none when it opens nothing there.
    pub(super) fn egress(&self) -> Option<EgressLease> {
        Some(EgressLease {
            id: self.id.clone(),
            persona: self.subject.clone(),
            opens: self.capability.opening()?,
            expires_at: self.expires_at,
            max_uses: self.max_uses,
            max_bytes: self.max_bytes,
        })
    }

    /// As audit entries and events show it.
    pub(super) fn told(&self) -> Value {
        let mut told = json!({
            "capability": self.capability.to_string(),
            "issuer": self.issuer.as_str(),
            "expires_at": self.expires_at,
        });
        for (name, bound) in [("max_uses", self.max_uses), ("max_bytes", self.max_bytes)] {
            if let Some(bound) = bound {
                told[name] = bound.into();
            }
        }
        if let Some((at, end)) = self.ended {
            told["ended_at"] = json!(at);
            told["end"] = json!(end);
        }
        told
    }

    pub(super) fn row(&self) -> LeaseRow {
        LeaseRow {
            id: self.id.clone(),
            capability: self.capability.to_string(),
            subject: self.subject.clone(),
            issuer: self.issuer.as_str().to_owned(),
            justification: self.justification.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            max_uses: self.max_uses,
            max_bytes: self.max_bytes,
            ended: self.ended.map(|(at, end)| (at, end.code().to_owned())),
        }
    }

    /// From what was kept.
    ///
    /// # Errors
    /// When this version does not know the capability or the end: it is not guessed at.
    pub(super) fn of_row(row: LeaseRow) -> Result<Self, String> {
        let capability = Capability::parse(&row.capability).map_err(|fault| fault.to_string())?;
        let ended = row.ended.map(|(at, end)| match LeaseEnd::from_code(&end) {
            Some(end) => Ok((at, end)),
            None => Err(format!("`{end}` is not how a lease ends")),
        });
        Ok(Self {
            id: row.id,
            capability,
            subject: row.subject,
            issuer: Actor::recorded(&row.issuer),
            justification: row.justification,
            created_at: row.created_at,
            expires_at: row.expires_at,
            max_uses: row.max_uses,
            max_bytes: row.max_bytes,
            ended: ended.transpose()?,
        })
    }
}
