//! The task that has all leases: it keeps them, puts them in force, and ends them on time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::capability::Capability;
use super::lease::{Lease, LeaseEnd, LeaseFault, LeaseRequest, MAX_IN_FORCE, end_of, justified, useful};
use crate::domain::{Clock, LeaseId, Timestamp};
use crate::events::{EventBus, EventKind};
use crate::governance::audit::{Actor, Audit, AuditAction, Deed};
use crate::policy::{EgressLease, LeaseSet};
use crate::proxy::Gateway;
use crate::store::{Entry, Reserve, Reserved, Store, StoreFault, TakenBack};

/// Requests that may wait. 64: operators, one by one.
const QUEUE: usize = 64;
/// Longest time between two looks at the clock while there are leases: a clock that is set forward ends them by then.
const LOOK: Duration = Duration::from_millis(500);
/// How long a lapsed lease is still named in denials.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// How long an ended lease stays in the store: as long as the audit keeps its lines at the least.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

/// What the keeper needs of the daemon.
#[derive(Debug)]
pub struct Premises {
    /// Where leases are kept.
    pub store: Store,
    /// Where it is written that one was taken back while they cannot be kept there.
    pub reserve: Reserve<TakenBack>,
    /// Where what was done is recorded.
    pub audit: Audit,
    /// Where they are put in force.
    pub gateway: Arc<Gateway>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub events: EventBus,
}

/// A lease that was given, or one that was in force and ends later now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The lease.
    pub lease: Lease,
    /// Whether it was in force before.
    pub renewed: bool,
}

/// What came of taking leases back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Those that were in force.
    pub leases: Vec<Lease>,
    /// Open tunnels and exchanges that were cut.
    pub cut: usize,
    /// Whether it is on the disk; otherwise it is tried again until it is, and a restart before that brings them back.
    pub persisted: bool,
}

enum Ask {
    Grant(LeaseRequest, Actor, oneshot::Sender<Result<Given, LeaseFault>>),
    Renew(LeaseId, Duration, String, Actor, oneshot::Sender<Result<Lease, LeaseFault>>),
    Revoke(Option<LeaseId>, LeaseEnd, Actor, String, oneshot::Sender<Result<Ended, LeaseFault>>),
    List(oneshot::Sender<Vec<Lease>>),
}

/// The leases. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leases {
    asks: mpsc::Sender<Ask>,
    store: Store,
    gateway: Arc<Gateway>,
}

impl Leases {
    /// Gives a lease. It is kept, and in force, when this returns. Where one without bounds is in force for the same, and
    /// none is asked for, that one is renewed.
    ///
    /// # Errors
    /// Why not; nothing is in force then that was not before.
    pub async fn grant(&self, request: LeaseRequest, by: Actor) -> Result<Given, LeaseFault> {
        self.ask(|answer| Ask::Grant(request, by, answer)).await?
    }

    /// Lets a lease end `ttl` from now, for another reason. What was used of it stays used.
    ///
    /// # Errors
    /// Why not; it ends when it did then.
    pub async fn renew(
        &self,
        id: LeaseId,
        ttl: Duration,
        justification: String,
        by: Actor,
    ) -> Result<Lease, LeaseFault> {
        self.ask(|answer| Ask::Renew(id, ttl, justification, by, answer)).await?
    }

    /// Takes a lease back, with everything that it let through.
    ///
    /// # Errors
    /// There is no such lease in force.
    pub async fn revoke(&self, id: LeaseId, by: Actor, why: String) -> Result<Ended, LeaseFault> {
        self.ask(|answer| Ask::Revoke(Some(id), LeaseEnd::Revoked, by, why, answer)).await?
    }

    /// Those in force that will soon end, in the order of their ids.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn near_end(&self, now: Timestamp) -> Result<Vec<Lease>, LeaseFault> {
        let mut leases = self.in_force().await?;
        leases.retain(|lease| lease.near_end() <= now);
        Ok(leases)
    }

    /// Takes every lease back.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn revoke_all(&self, by: Actor, why: String) -> Result<Ended, LeaseFault> {
        self.ask(|answer| Ask::Revoke(None, LeaseEnd::KillSwitch, by, why, answer)).await?
    }

    /// Those in force, in the order of their ids.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn in_force(&self) -> Result<Vec<Lease>, LeaseFault> {
        self.ask(Ask::List).await
    }

    /// What a lease was used for so far: grants, and bytes in both directions. `None` where that is not counted.
    pub fn used(&self, lease: &Lease) -> Option<(u64, u64)> {
        lease.capability.is_counted().then(|| self.gateway.usage.of_lease(&lease.id))
    }

    /// The latest `limit` that have ended, newest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn ended(&self, limit: u32) -> Result<Vec<Lease>, LeaseFault> {
        let rows = self.store.leases().ended(limit).await?;
        Ok(rows.into_iter().filter_map(|row| Lease::of_row(row).ok()).collect())
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, LeaseFault> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| LeaseFault::Gone)?;
        answered.await.map_err(|_| LeaseFault::Gone)
    }
}

/// The owner; [`Keeper::run`] is its task.
#[derive(Debug)]
pub struct Keeper {
    premises: Premises,
    asks: mpsc::Receiver<Ask>,
    in_force: BTreeMap<LeaseId, Lease>,
    /// Ended for want of time, not long ago: denials name them.
    lapsed: Vec<EgressLease>,
    /// Ends that are not in the state yet.
    unsaved: Vec<Unsaved>,
    /// How many of them, from the first on, the reserve tells of; `None` when nobody knows what it says.
    reserved: Option<usize>,
}

/// An end that is not in the state yet.
#[derive(Debug, Clone)]
struct Unsaved {
    taken: TakenBack,
    end: LeaseEnd,
    entry: Entry,
}

/// Reads what is kept and puts it in force, without what was taken back while that could not be kept. Call it before
/// anything can be dialled.
///
/// # Errors
/// When the store cannot be read, or the reserve not be made.
pub async fn start(premises: Premises) -> Result<(Leases, Keeper), StoreFault> {
    let now = premises.clock.now();
    let rows = premises.store.leases().in_force().await?;
    let (sender, asks) = mpsc::channel(QUEUE);
    let leases = Leases { asks: sender, store: premises.store.clone(), gateway: Arc::clone(&premises.gateway) };
    let then = Timestamp::from_unix_micros(now.unix_micros() - i64::try_from(KEPT.as_micros()).unwrap_or(0));
    if let Err(fault) = premises.store.leases().forget_before(then).await {
        tracing::warn!(%fault, "old leases stay in the state");
    }
    let reserve = premises.reserve.clone();
    let found = tokio::task::spawn_blocking(move || reserve.prepare()).await.map_err(|_| StoreFault::Closed)??;
    let mut keeper = Keeper {
        premises,
        asks,
        in_force: BTreeMap::new(),
        lapsed: Vec::new(),
        unsaved: Vec::new(),
        reserved: Some(0),
    };
    for row in rows {
        let id = row.id.clone();
        match Lease::of_row(row) {
            Ok(lease) => drop(keeper.in_force.insert(id, lease)),
            // It opens nothing; a version that knows it will.
            Err(fault) => tracing::error!(lease = %id, fault, "a lease is not understood, and not in force"),
        }
    }
    keeper.recall(found).await;
    keeper.premises.gateway.usage.keep_leases(|id| keeper.in_force.contains_key(id));
    if !keeper.in_force.is_empty() {
        keeper.put_in_force();
    }
    Ok((leases, keeper))
}

impl Keeper {
    /// Serves until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.look().await;
            let idle = self.in_force.is_empty() && self.unsaved.is_empty() && self.lapsed.is_empty();
            let pause = self.pause();
            let ask = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause), if !idle => continue,
                ask = self.asks.recv() => ask,
            };
            match ask {
                Some(ask) => self.answer(ask).await,
                None => return,
            }
        }
    }

    /// Time until something is due.
    fn pause(&self) -> Duration {
        let now = self.premises.clock.now();
        self.in_force.values().map(|held| held.expires_at).min().map_or(LOOK, |due| due.since(now).min(LOOK))
    }

    async fn answer(&mut self, ask: Ask) {
        // Whoever asked may have gone; what was done is done.
        match ask {
            Ask::Grant(request, by, answer) => drop(answer.send(self.grant(request, by).await)),
            Ask::Renew(id, ttl, why, by, answer) => drop(answer.send(self.renew(&id, ttl, &why, by).await)),
            Ask::Revoke(id, end, by, why, answer) => drop(answer.send(self.revoke(id, end, &by, &why).await)),
            Ask::List(answer) => {
                drop(answer.send(self.in_force.values().cloned().collect()));
            }
        }
    }

    async fn grant(&mut self, request: LeaseRequest, by: Actor) -> Result<Given, LeaseFault> {
        if let Some(id) = self.same(&request)? {
            let lease = self.renew(&id, request.ttl, &request.justification, by).await?;
            return Ok(Given { lease, renewed: true });
        }
        let lease = self.give(request, by).await?;
        Ok(Given { lease, renewed: false })
    }

    /// The lease that renewing would serve `request`: for the same, without bounds, and ending earlier.
    fn same(&self, request: &LeaseRequest) -> Result<Option<LeaseId>, LeaseFault> {
        if request.max_uses.is_some() || request.max_bytes.is_some() {
            return Ok(None);
        }
        let capability = Capability::parse(&request.capability)?;
        let now = self.premises.clock.now();
        let serves = |lease: &Lease| {
            let unbounded = lease.max_uses.is_none() && lease.max_bytes.is_none();
            let same = lease.subject == request.subject && lease.capability == capability;
            same && unbounded && !lease.is_over(now) && lease.expires_at < now.plus(request.ttl)
        };
        Ok(self.in_force.values().find(|held| serves(held)).map(|held| held.id.clone()))
    }

    async fn give(&mut self, request: LeaseRequest, by: Actor) -> Result<Lease, LeaseFault> {
        if self.premises.gateway.latched().is_some() {
            return Err(LeaseFault::Latched);
        }
        // No more can end unkept than may be in force: the reserve has room for those.
        self.save().await?;
        let Premises { store, audit, gateway, clock, .. } = &self.premises;
        if self.in_force.len() >= MAX_IN_FORCE {
            return Err(LeaseFault::TooMany);
        }
        let lease = request.examine(fresh_id(), by, &gateway.policy.load(), clock.now())?;
        let entry = audit.entry(Deed {
            persona: Some(lease.subject.clone()),
            lease: Some(lease.id.clone()),
            why: Some(lease.justification.clone()),
            after: Some(lease.told()),
            ..Deed::new(lease.issuer.clone(), AuditAction::LeaseCreated)
        });
        store.leases().add(lease.row(), entry).await?;
        audit.committed();
        tracing::info!(lease = %lease.id, capability = %lease.capability, persona = %lease.subject, by = %lease.issuer, "a lease was given");
        self.in_force.insert(lease.id.clone(), lease.clone());
        self.put_in_force();
        self.tell(EventKind::LeasesCreated, &lease);
        Ok(lease)
    }

    async fn renew(&mut self, id: &LeaseId, ttl: Duration, why: &str, by: Actor) -> Result<Lease, LeaseFault> {
        let Premises { store, audit, gateway, clock, .. } = &self.premises;
        if gateway.latched().is_some() {
            return Err(LeaseFault::Latched);
        }
        let why = justified(why)?;
        let now = clock.now();
        let held = self.in_force.get_mut(id).ok_or_else(|| LeaseFault::Unknown(id.clone()))?;
        if held.is_over(now) {
            return Err(LeaseFault::Ended(id.clone()));
        }
        useful(&held.capability, &held.subject, &gateway.policy.load())?;
        let expires_at = end_of(&held.capability, ttl, now)?;
        let entry = audit.entry(Deed {
            persona: Some(held.subject.clone()),
            lease: Some(id.clone()),
            why: Some(why),
            before: Some(json!({ "expires_at": held.expires_at })),
            after: Some(json!({ "expires_at": expires_at })),
            ..Deed::new(by, AuditAction::LeaseRenewed)
        });
        store.leases().renew(id.clone(), expires_at, entry).await?;
        audit.committed();
        held.expires_at = expires_at;
        let lease = held.clone();
        tracing::info!(lease = %id, until = %expires_at, "a lease was renewed");
        self.put_in_force();
        self.tell(EventKind::LeasesRenewed, &lease);
        Ok(lease)
    }

    /// Takes back the lease `id`, or all.
    async fn revoke(&mut self, id: Option<LeaseId>, end: LeaseEnd, by: &Actor, why: &str) -> Result<Ended, LeaseFault> {
        let now = self.premises.clock.now();
        let taken: Vec<LeaseId> = match id {
            Some(id) if self.in_force.contains_key(&id) => vec![id],
            Some(id) => return Err(LeaseFault::Unknown(id)),
            None => self.in_force.keys().cloned().collect(),
        };
        let leases = self.take(&taken, now, end, by, Some(why));
        // First what is open, then the disk.
        let cut = self.put_in_force();
        for lease in &leases {
            tracing::info!(lease = %lease.id, %by, end = %end, "a lease was taken back");
            self.tell(EventKind::LeasesRevoked, lease);
        }
        let persisted = self.save().await.is_ok() || self.reserved == Some(self.unsaved.len());
        Ok(Ended { leases, cut, persisted })
    }

    /// Takes leases out of force and notes their ends.
    fn take(&mut self, ids: &[LeaseId], now: Timestamp, end: LeaseEnd, by: &Actor, why: Option<&str>) -> Vec<Lease> {
        let action = match end {
            LeaseEnd::Expired => AuditAction::LeaseExpired,
            LeaseEnd::Revoked | LeaseEnd::KillSwitch => AuditAction::LeaseRevoked,
        };
        let mut taken = Vec::new();
        for id in ids {
            let Some(mut held) = self.in_force.remove(id) else { continue };
            let before = held.told();
            let (uses, bytes) = self.premises.gateway.usage.of_lease(id);
            held.ended = Some((now, end));
            let mut after = json!({ "ended_at": now, "end": end });
            if held.capability.is_counted() {
                (after["uses"], after["bytes"]) = (uses.into(), bytes.into());
            }
            let entry = self.premises.audit.entry(Deed {
                persona: Some(held.subject.clone()),
                lease: Some(id.clone()),
                why: why.map(str::to_owned),
                before: Some(before),
                after: Some(after),
                ..Deed::new(by.clone(), action)
            });
            let (by, why) = (Some(by.as_str().to_owned()), why.map(str::to_owned));
            let told = TakenBack { id: id.clone(), at: now, end: end.code().to_owned(), by, why };
            self.unsaved.push(Unsaved { taken: told, end, entry });
            taken.push(held);
        }
        taken
    }

    /// Ends what is over, tells of what soon will be, and keeps what is not kept yet.
    async fn look(&mut self) {
        let now = self.premises.clock.now();
        let over: Vec<LeaseId> =
            self.in_force.iter().filter(|(_, held)| held.is_over(now)).map(|(id, _)| id.clone()).collect();
        let remembered = self.lapsed.len();
        self.lapsed.retain(|lease| lease.expires_at.plus(REMEMBERED) > now);
        if !over.is_empty() || self.lapsed.len() != remembered {
            let leases = self.take(&over, now, LeaseEnd::Expired, &Actor::daemon(), None);
            self.lapsed.extend(leases.iter().filter_map(Lease::egress));
            let cut = self.put_in_force();
            for lease in &leases {
                tracing::info!(lease = %lease.id, cut, "a lease expired");
                self.tell(EventKind::LeasesExpired, lease);
            }
        }
        // What it could not do it said; the next look tries again.
        let _ = self.save().await;
    }

    /// Takes out of force what an earlier daemon took back and could not keep. A reserve that cannot be read may name any
    /// of them.
    async fn recall(&mut self, found: Reserved<TakenBack>) {
        let taken = match found {
            Reserved::Acts(acts) if acts.is_empty() => return,
            Reserved::Acts(acts) => acts,
            Reserved::Damaged(detail) => {
                tracing::error!(detail, "what was taken back is not known, so every lease is");
                let all = |id: &LeaseId| TakenBack {
                    id: id.clone(),
                    at: self.premises.clock.now(),
                    end: LeaseEnd::Revoked.code().to_owned(),
                    by: None,
                    why: Some(detail.clone()),
                };
                self.in_force.keys().map(all).collect()
            }
        };
        self.reserved = None;
        for TakenBack { id, at, end, by, why } in taken {
            let by = by.map_or_else(Actor::daemon, |by| Actor::recorded(&by));
            let why = why.unwrap_or_else(|| "taken back while the state could not be written".to_owned());
            let end = LeaseEnd::from_code(&end).unwrap_or(LeaseEnd::Revoked);
            for lease in self.take(&[id], at, end, &by, Some(&why)) {
                tracing::warn!(lease = %lease.id, %by, why, "a lease was taken back before the last end of the daemon, and stays so");
                let kind = if end == LeaseEnd::Expired { EventKind::LeasesExpired } else { EventKind::LeasesRevoked };
                self.tell(kind, &lease);
            }
        }
        let _ = self.save().await;
    }

    /// Brings ends into the state, or at least into the reserve.
    async fn save(&mut self) -> Result<(), StoreFault> {
        if self.unsaved.is_empty() {
            if self.reserved != Some(0) {
                // What it tells of is in the state: a lease that has ended does not end twice.
                self.reserve().await;
            }
            return Ok(());
        }
        let ends = self.unsaved.iter().map(|one| (one.taken.id.clone(), one.taken.at, one.end.code())).collect();
        let entries = self.unsaved.iter().map(|one| one.entry.clone()).collect();
        match self.premises.store.leases().end(ends, entries).await {
            Ok(()) => {
                self.unsaved.clear();
                self.premises.audit.committed();
                if self.reserved != Some(0) {
                    self.reserve().await;
                }
                Ok(())
            }
            Err(fault) => {
                if self.reserved != Some(self.unsaved.len()) {
                    tracing::error!(%fault, code = fault.code(), "ends of leases are not in the state yet");
                    self.reserve().await;
                }
                Err(fault)
            }
        }
    }

    /// Writes into the reserve what is not in the state. Reasons go where there is no room for all of them.
    async fn reserve(&mut self) {
        let acts: Vec<TakenBack> = self.unsaved.iter().map(|one| one.taken.clone()).collect();
        let bare = acts.iter().map(|act| TakenBack { by: None, why: None, ..act.clone() }).collect();
        let reserve = &self.premises.reserve;
        let written = match reserve.keep(acts).await {
            Err(StoreFault::Full) => reserve.keep(bare).await,
            other => other,
        };
        self.reserved = match written {
            Ok(()) => Some(self.unsaved.len()),
            Err(fault) => {
                tracing::error!(%fault, "ends of leases are not on the disk: a restart would bring the leases back");
                None
            }
        };
    }

    /// Makes policy's snapshot what is in force. How many open flows that ended.
    fn put_in_force(&self) -> usize {
        let gateway = &self.premises.gateway;
        // Room is taken by leases in force first: a flood of short ones does not grow what is compiled.
        let room = MAX_IN_FORCE.saturating_sub(self.in_force.len());
        let lapsed = self.lapsed.iter().rev().take(room).cloned();
        let set = LeaseSet::of(self.in_force.values().filter_map(|held| held.egress()).chain(lapsed));
        let cut = gateway.put_leases(&Arc::new(set));
        gateway.usage.keep_leases(|id| self.in_force.contains_key(id));
        cut
    }

    fn tell(&self, kind: EventKind, lease: &Lease) {
        let mut data = lease.told();
        data["lease"] = json!(lease.id);
        data["persona"] = json!(lease.subject);
        data["justification"] = json!(lease.justification);
        self.premises.events.publish(kind, Some(lease.id.as_str()), data);
    }
}

/// A name that nobody else has: 64 random bits.
fn fresh_id() -> LeaseId {
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random).expect("the system has randomness");
    LeaseId::parse(&format!("lease-{:016x}", u64::from_be_bytes(random)))
        .expect("letters, a hyphen and digits are an id")
}
