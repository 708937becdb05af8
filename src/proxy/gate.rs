//! The one gate. Every surface brings an [`EgressIntent`] here, and nothing is dialled without what
//! comes out: a [`DialPermit`] whose addresses were vetted, and the ledger's [`Receipt`].
//!
//! ```text
//! intent ─ decide ─ Grant ─ resolve + vet ─ admit ─ ledger ─▶ Cleared { permit, receipt, flow }
//!            │                    │            │       │
//!            └────────────────────┴────────────┴───────┴────▶ Refusal, with its own record
//! ```
//!
//! The order matters: no query for a name that is not allowed, no use spent for a name that does not
//! resolve, no record of a grant that was not made, no dial without a record.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::flow::{Flow, FlowGuard, FlowStart, FlowTable};
use super::identify::Proof;
use super::latch::{Latch, Latched};
use super::metrics::{Held, Metrics};
use super::own::OwnListeners;
use super::refusal::Refusal;
use super::resolver::Resolver;
use super::runtime::Runtime;
use crate::config::Limits;
use crate::domain::{
    ClientAddr, Clock, CloseReason, Denial, DenialCode, EgressIntent, Host, Identity, Labels, LeaseId, PersonaId,
    Scheme, Surface, Target,
};
use crate::events::{EventBus, FirstSeen};
use crate::ledger::{Kind, Ledger, Outcome, Receipt, Record, Via};
use crate::policy::{Decision, Grant, GrantedBy, LeaseSet, Mode, Snapshot, TlsAnswer, TlsDemand, Usage};

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// What every connection needs: the handles of the floors below, and the gateway's own tables.
#[derive(Debug)]
pub struct Gateway {
    /// The policy in force; swapped whole.
    pub policy: Arc<ArcSwap<Snapshot>>,
    /// What rules with budgets have spent.
    pub usage: Usage,
    /// The record.
    pub ledger: Ledger,
    /// Name resolution.
    pub resolver: Resolver,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub limits: Limits,
    /// Whether query strings are recorded.
    pub record_query: bool,
    /// Whether a client's `traceparent` is its correlation id, where it sends no other: somebody exports traces.
    pub trace_parents: bool,
    /// What is open.
    pub flows: Arc<FlowTable>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The daemon's own listeners.
    pub own: OwnListeners,
    /// What each persona reached before.
    pub first_seen: Mutex<FirstSeen>,
    /// Who is told of what is new.
    pub events: EventBus,
    /// Set when the daemon drains: no new request, kept-alive connections end.
    pub draining: CancellationToken,
    /// The kill switch.
    pub latch: Latch,
    /// What runtimes may ask of this host.
    pub desk: Desk,
}

/// Vetted addresses, in the order to try them. Made here only, and used up by the dial.
#[derive(Debug)]
pub(super) struct DialPermit {
    addresses: Vec<SocketAddr>,
}

impl DialPermit {
    /// Where the dial may go. Never empty.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// A request that may leave.
#[derive(Debug)]
pub(super) struct Cleared {
    /// Where to.
    pub permit: DialPermit,
    /// The proof that the ledger has it.
    pub receipt: Receipt,
    /// Its entry in the table of open flows.
    pub flow: FlowGuard,
    /// What the first flight of a tunnel must be.
    pub tls: TlsDemand,
    /// The persona's count of open tunnels.
    pub held: Held,
}

/// What is known about a request that gets no further than this.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// From where.
    pub client: ClientAddr,
    /// How its identity was proved, if it was.
    pub identity: Identity,
    /// Whose it is, if that is known.
    pub persona: Option<&'a PersonaId>,
    /// Where to, if that was readable.
    pub target: Option<&'a Target>,
    /// How it came.
    pub surface: Option<Surface>,
    /// Visible HTTP only.
    pub method: Option<&'a str>,
    /// Visible HTTP only.
    pub path: Option<&'a str>,
    /// What its client says about it.
    pub labels: Option<&'a Labels>,
    /// The runtime that it came from.
    pub(super) runtime: Option<&'a Runtime>,
}

impl Gateway {
    /// Decides, resolves, vets, admits and records `intent`.
    ///
    /// # Errors
    /// A [`Refusal`], recorded already, unless it is the ledger that failed.
    pub(super) async fn authorize(&self, intent: EgressIntent, proof: Proof) -> Result<Cleared, Refusal> {
        let now = self.clock.now();
        let runtime = proof.runtime();
        let refuse = |denial| self.refuse(&intent, runtime, denial);
        let pass = self.latch.pass().map_err(refuse)?;
        if self.draining.is_cancelled() {
            return Err(refuse(Denial::new(DenialCode::Overloaded, "the gateway is shutting down")));
        }
        runtime.map_or(Ok(()), Runtime::may_ask).map_err(refuse)?;
        let snapshot = self.policy.load_full();
        let mut grant = match snapshot.decide(&intent, now) {
            Decision::Allow(grant) => grant,
            Decision::Deny(denial) => return Err(refuse(denial)),
        };
        let stats = self.metrics.persona(&intent.persona);
        let limit = snapshot
            .persona(&intent.persona)
            .and_then(|persona| persona.limits().tunnels)
            .unwrap_or(self.limits.tunnels_per_persona);
        let Some(held) = Held::take(&stats, |stats| &stats.tunnels, limit) else {
            let detail = format!("persona `{}` has {limit} tunnels open, its bound", intent.persona);
            return Err(refuse(Denial::new(DenialCode::Overloaded, detail)));
        };
        let addresses = match self.vetted(&intent, &grant).await {
            Ok(addresses) => addresses,
            Err(denial) => return Err(refuse(denial)),
        };
        if !self.latch.stands(pass) {
            return Err(refuse(Latch::denial()));
        }
        // Looking up a name takes time, and a rule may have ended meanwhile.
        let now = self.clock.now();
        if let Some(end) = grant.expires_at().filter(|end| *end <= now) {
            let mut denial = Denial::new(DenialCode::LeaseExpired, format!("what granted it expired at {end}"));
            (denial.rule, denial.lease) = (grant.rule().cloned(), grant.lease().cloned());
            return Err(refuse(denial));
        }
        runtime.map_or(Ok(()), Runtime::admit).map_err(refuse)?;
        let meter = match self.usage.admit(&mut grant, now) {
            Ok(meter) => meter,
            Err(denial) => {
                runtime.inspect(|runtime| runtime.allowance.hand_back_request());
                return Err(refuse(denial));
            }
        };
        let receipt = {
            let host = intent.target.host.to_string();
            let would_deny = grant
                .would_deny()
                .cloned()
                .or_else(|| addresses.iter().find_map(|target| grant.would_deny_address(target.ip())))
                .or_else(|| meter.would_deny().cloned());
            let mut record = opening(&intent, &grant, &host, addresses[0], would_deny.as_ref());
            runtime.inspect(|runtime| runtime.sign(&mut record));
            let counter = if would_deny.is_some() { &stats.would_deny } else { &stats.allowed };
            self.ledger.record(&record).await.inspect(|_| {
                counter.fetch_add(1, Ordering::Relaxed);
            })
        };
        let receipt = receipt.map_err(|_| {
            if meter.would_deny().is_none() {
                self.usage.hand_back(&grant);
            }
            if let Some(runtime) = runtime {
                runtime.allowance.hand_back_request();
                runtime.denied(DenialCode::LedgerUnavailable, now);
            }
            self.ledger_failed(&About::of(&intent, runtime))
        })?;
        self.tell_first(&intent, grant.scheme(), receipt.seq());
        let idle_time = self.idle_time(intent.surface);
        let flow = self.flows.enter(FlowStart {
            seq: receipt.seq(),
            scheme: grant.scheme(),
            rule: grant.rule().cloned(),
            lease: grant.lease().cloned(),
            generation: snapshot.generation(),
            mode: grant.persona().mode(),
            expires_at: grant.expires_at(),
            max_bytes: byte_budget(&grant),
            meter,
            idle_time,
            intent,
            proof,
        });
        self.recheck(&flow);
        // Latching cuts what is in the table. What was cleared before and entered after is cut here.
        if !self.latch.stands(pass) {
            flow.cut(CloseReason::KillSwitch);
        }
        Ok(Cleared { permit: DialPermit { addresses }, receipt, flow, tls: grant.tls(), held })
    }

    /// Counts one more client connection of `persona`, which may have `limit` (or the server's own bound).
    ///
    /// # Errors
    /// `overloaded`, not recorded yet.
    pub(super) fn count_connection(&self, persona: &PersonaId, limit: Option<usize>) -> Result<Held, Denial> {
        let limit = limit.unwrap_or(self.limits.connections_per_persona);
        let stats = self.metrics.persona(persona);
        Held::take(&stats, |stats| &stats.connections, limit).ok_or_else(|| {
            Denial::new(DenialCode::Overloaded, format!("persona `{persona}` has {limit} connections open, its bound"))
        })
    }

    /// Tells of a host or a scheme that the persona uses for the first time.
    fn tell_first(&self, intent: &EgressIntent, scheme: Scheme, decision: u64) {
        let host = &intent.target.host;
        let news =
            self.first_seen.lock().unwrap_or_else(PoisonError::into_inner).observe(&intent.persona, host, scheme);
        for kind in news {
            let data = json!({"host": host.to_string(), "scheme": scheme, "decision": decision});
            self.events.publish(kind, Some(intent.persona.as_str()), data);
        }
    }

    const fn idle_time(&self, surface: Surface) -> Duration {
        match surface {
            Surface::Tunnel => self.limits.idle_time,
            Surface::Forward => self.limits.exchange_idle_time,
        }
    }

    /// The target's addresses that the grant covers, in the order to try them.
    async fn vetted(&self, intent: &EgressIntent, grant: &Grant) -> Result<Vec<SocketAddr>, Denial> {
        let port = intent.target.port;
        let mut last = None;
        let mut vet = |addr: IpAddr| -> Option<SocketAddr> {
            let target = SocketAddr::new(addr, port);
            let verdict = grant.vet(addr).and_then(|()| {
                if self.own.contains(target) {
                    Err(Denial::new(DenialCode::SpecialAddress, format!("{target} is the gateway itself")))
                } else {
                    Ok(())
                }
            });
            match verdict {
                Ok(()) => Some(target),
                Err(denial) => {
                    last = Some(denial);
                    None
                }
            }
        };
        let vetted: Vec<SocketAddr> = match &intent.target.host {
            Host::Addr(addr) => vet(*addr).into_iter().collect(),
            Host::Name(name) => {
                let answer =
                    self.resolver.resolve(name).await.map_err(|error| {
                        Denial::new(DenialCode::DnsFailed, format!("`{name}` has no address: {error}"))
                    })?;
                answer.addresses.iter().filter_map(|addr| vet(*addr)).take(MAX_ADDRESSES).collect()
            }
        };
        if vetted.is_empty() {
            return Err(last.unwrap_or_else(|| {
                Denial::new(DenialCode::DnsFailed, format!("{} has no address", intent.target.host))
            }));
        }
        Ok(vetted)
    }

    /// Decides a flow anew if there was a reload or another lease since its grant, and ends it if it would not be granted
    /// any more. For whoever has just added to what is known of the flow: the reload judged it without that.
    pub fn recheck(&self, flow: &Flow) {
        let snapshot = self.policy.load();
        if snapshot.generation() != flow.generation
            && let Err(reason) = self.still_granted(&snapshot, flow)
        {
            flow.cut(reason);
        }
    }

    /// Decides every open flow anew, after a reload or a change of leases. Returns how many were ended.
    pub fn recheck_all(&self) -> usize {
        let snapshot = self.policy.load_full();
        self.flows.cut_where(|flow| self.still_granted(&snapshot, flow).err())
    }

    /// Puts other leases in force and ends what was granted under one that is among them no more. Returns how many
    /// flows were ended.
    pub fn put_leases(&self, leases: &Arc<LeaseSet>) -> usize {
        // A reload may come between: both are kept.
        self.policy.rcu(|old| Snapshot::clone(old).with_leases(Arc::clone(leases)).after(old));
        self.recheck_all()
    }

    /// Puts other personas in force, with the leases as they are. Returns how many flows were ended.
    pub fn put_personas(&self, fresh: &Snapshot) -> usize {
        self.policy.rcu(|old| fresh.clone().with_leases(Arc::clone(old.leases())).after(old));
        self.recheck_all()
    }

    /// Whether `snapshot` lets the flow go on as it is: for who opened it, to its address, with what its first bytes showed, under
    /// the byte budget that it has. A rule or lease that ends at another time now ends the flow then.
    fn still_granted(&self, snapshot: &Snapshot, flow: &Flow) -> Result<(), CloseReason> {
        let now = self.clock.now();
        if !flow.proof.stands(snapshot, &flow.intent.persona, now) {
            return Err(CloseReason::PolicyNarrowed);
        }
        // What was opened under a lease ends with it, whatever else may open the same by now.
        let lease = match &flow.lease {
            Some(id) => match snapshot.leases().in_force(&flow.intent.persona, id, now) {
                Some(lease) => Some(lease.expires_at),
                None if flow.expired(now) => return Err(CloseReason::Expired),
                None => return Err(CloseReason::LeaseRevoked),
            },
            None => None,
        };
        let grant = match snapshot.decide(&flow.intent, now) {
            Decision::Allow(grant) => grant,
            Decision::Deny(denial) if denial.code == DenialCode::LeaseRequired => {
                return Err(CloseReason::LeaseRevoked);
            }
            Decision::Deny(_) => return Err(CloseReason::PolicyNarrowed),
        };
        let narrower = byte_budget(&grant).is_some_and(|bytes| {
            // Another rule has another budget, and this flow's bytes are not taken from it.
            let same = (grant.rule(), grant.lease()) == (flow.rule.as_ref(), flow.lease.as_ref());
            !same || flow.max_bytes.is_none_or(|had| bytes < had)
        });
        let granted = !narrower
            && flow.address.get().is_none_or(|addr| grant.vet(*addr).is_ok())
            && flow.needs.get().is_none_or(|needs| meets(*needs, grant.tls()));
        if !granted {
            return Err(CloseReason::PolicyNarrowed);
        }
        // A rule that has come since would grant for longer; what the lease granted ends with the lease all the same.
        let by_policy = grant.expires_at().filter(|_| flow.lease.is_none() || grant.lease() == flow.lease.as_ref());
        flow.expire_at(lease.into_iter().chain(by_policy).min());
        Ok(())
    }

    /// Latches the kill switch: whatever asks from now on is denied, and what is open is cut. Says how many flows that
    /// were. Once latched it may be called again, which changes nothing more.
    pub fn latch(&self, reason: &str) -> usize {
        self.latch.set(reason, self.clock.now());
        self.flows.cut_where(|_| Some(CloseReason::KillSwitch))
    }

    /// Releases the kill switch. Whether it was latched.
    pub fn release(&self) -> bool {
        self.latch.release()
    }

    /// Why the kill switch is latched, if it is.
    pub fn latched(&self) -> Option<Latched> {
        self.latch.state()
    }

    /// Ends every open flow of `persona`. Says how many there were.
    pub fn cut_persona(&self, persona: &PersonaId, reason: CloseReason) -> usize {
        self.flows.cut_where(|flow| (flow.intent.persona == *persona).then_some(reason))
    }

    /// Records the denial of `intent` and makes the client's answer.
    pub(super) fn refuse(&self, intent: &EgressIntent, runtime: Option<&Runtime>, denial: Denial) -> Refusal {
        self.refuse_about(&About::of(intent, runtime), denial)
    }

    /// Records a denial about which only `about` is known.
    pub fn refuse_about(&self, about: &About<'_>, denial: Denial) -> Refusal {
        about.runtime.inspect(|runtime| runtime.denied(denial.code, self.clock.now()));
        match about.persona {
            Some(persona) => self.metrics.persona(persona).deny(denial.code),
            None => self.metrics.anonymous.deny(denial.code),
        }
        let host = about.target.map(|target| target.host.to_string());
        let mut record = about.record(host.as_deref());
        record.outcome = Some(Outcome::Deny);
        record.code = Some(denial.code);
        record.rule = denial.rule.as_ref();
        record.lease = denial.lease.as_ref().map(LeaseId::as_str);
        record.detail = Some(&denial.detail);
        match self.ledger.append(&record) {
            Ok(receipt) => {
                let mut refusal = Refusal::of(denial);
                refusal.decision = Some(receipt.seq());
                refusal.persona = about.persona.cloned();
                refusal.target = about.target.cloned();
                refusal
            }
            Err(_) => self.ledger_failed(about),
        }
    }

    /// The answer while nothing can be recorded: nothing leaves, and the client may try again.
    fn ledger_failed(&self, about: &About<'_>) -> Refusal {
        match about.persona {
            Some(persona) => self.metrics.persona(persona).deny(DenialCode::LedgerUnavailable),
            None => self.metrics.anonymous.deny(DenialCode::LedgerUnavailable),
        }
        let mut refusal = Refusal::of(Denial::new(
            DenialCode::LedgerUnavailable,
            "the egress ledger cannot be written, so nothing leaves; the operator was told",
        ));
        refusal.persona = about.persona.cloned();
        refusal.target = about.target.cloned();
        refusal
    }
}

/// Bytes that enforcement lets pass by the granting rule.
fn byte_budget(grant: &Grant) -> Option<u64> {
    (grant.persona().mode() == Mode::Enforce).then(|| grant.limits().max_bytes).flatten()
}

/// Whether `demand` lets through all that must be.
fn meets(needs: TlsDemand, demand: TlsDemand) -> bool {
    let meets = |need, answer| need == TlsAnswer::Deny || answer == TlsAnswer::Allow;
    meets(needs.missing_sni, demand.missing_sni) && meets(needs.ech, demand.ech) && meets(needs.not_tls, demand.not_tls)
}

impl<'a> About<'a> {
    /// All of an intent.
    pub(super) fn of(intent: &'a EgressIntent, runtime: Option<&'a Runtime>) -> Self {
        Self {
            runtime,
            client: intent.client,
            identity: intent.identity,
            persona: Some(&intent.persona),
            target: Some(&intent.target),
            surface: Some(intent.surface),
            method: intent.method.as_ref().map(crate::domain::Method::as_str),
            path: intent.shown_path(),
            labels: Some(&intent.labels),
        }
    }

    /// The beginnings of a denial's record.
    pub(super) fn record(&self, host: Option<&'a str>) -> Record<'a> {
        let mut record = Record::new(Kind::Deny);
        record.persona = self.persona;
        record.client = Some(self.client);
        record.identity = Some(self.identity);
        // What a refused tunnel would have carried is not known: ports are no proof.
        record.scheme = (self.surface == Some(Surface::Forward)).then_some(Scheme::Http);
        record.host = host;
        // A look-up has no port yet.
        record.port = self.target.map(|target| target.port).filter(|port| *port != 0);
        record.method = self.method;
        record.path = self.path;
        record.labels = self.labels;
        if let Some(runtime) = self.runtime {
            runtime.sign(&mut record);
        }
        record
    }
}

/// The record of a grant. `would_deny`: what enforcement would have said, in report mode.
fn opening<'a>(
    intent: &'a EgressIntent,
    grant: &'a Grant,
    host: &'a str,
    address: SocketAddr,
    would_deny: Option<&'a Denial>,
) -> Record<'a> {
    let mut record = Record::new(Kind::Open);
    record.persona = Some(&intent.persona);
    record.client = Some(intent.client);
    record.identity = Some(intent.identity);
    record.scheme = Some(grant.scheme());
    record.host = Some(host);
    record.port = Some(intent.target.port);
    record.method = intent.method.as_ref().map(crate::domain::Method::as_str);
    record.path = intent.shown_path();
    record.address = Some(address);
    record.via = match grant.via() {
        GrantedBy::Rule => Some(Via::Policy),
        GrantedBy::Lease => Some(Via::Lease),
        GrantedBy::Public => Some(Via::Public),
        // Nothing grants it: report mode lets it pass, and the outcome says so.
        GrantedBy::Report => None,
    };
    record.rule = grant.rule();
    record.lease = grant.lease().map(LeaseId::as_str);
    record.labels = (!intent.labels.is_empty()).then_some(&intent.labels);
    record.outcome = Some(if would_deny.is_some() { Outcome::WouldDeny } else { Outcome::Allow });
    record.code = would_deny.map(|denial| denial.code);
    record
}
