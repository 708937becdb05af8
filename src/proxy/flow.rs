//! Open flows: what is being relayed right now, and how to end it.
//!
//! Each tunnel and exchange has one [`Flow`] in the [`FlowTable`]. A reload, an expiry, a spent budget,
//! the idle sweep and the kill switch all end a flow in the same way: they set its cut reason and wake it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::identify::Proof;
use super::runtime::{Pace, Turn};
use crate::domain::{CloseReason, EgressIntent, LeaseId, PersonaId, RuleId, Scheme, Timestamp};
use crate::policy::{Meter, Mode, TlsDemand};

/// Seconds since the table was made; enough for 136 years.
type Tick = u32;

/// One open tunnel or exchange.
#[derive(Debug)]
pub struct Flow {
    /// Sequence number of its `open` record.
    pub seq: u64,
    /// What was asked for; a reload decides it anew.
    pub intent: EgressIntent,
    /// What its identity rests on; a reload looks at it anew.
    pub(super) proof: Proof,
    /// What was granted.
    pub scheme: Scheme,
    /// The rule that granted it.
    pub rule: Option<RuleId>,
    /// The lease under which it was granted.
    pub lease: Option<LeaseId>,
    /// The generation of the policy that granted it.
    pub generation: u64,
    /// Whether what its first bytes lack ends it.
    pub mode: Mode,
    /// Bytes that its rule permitted when it was granted.
    pub max_bytes: Option<u64>,
    /// What a policy must let through for it to go on, once its first bytes were seen.
    pub needs: OnceLock<TlsDemand>,
    /// When it was granted.
    pub started: Instant,
    /// The vetted address that answered, once one did.
    pub address: OnceLock<IpAddr>,
    /// How long it may move nothing.
    idle_time: Duration,
    /// When its rule ends, in microseconds since the epoch; `i64::MAX` for never.
    expires_at: AtomicI64,
    meter: Meter,
    up: AtomicU64,
    down: AtomicU64,
    last_active: AtomicU32,
    /// Index into [`CloseReason::ALL`] plus one; zero while nobody cut it.
    cut: AtomicU8,
    waker: Mutex<Option<Waker>>,
    epoch: Instant,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the upstream.
    Up,
    /// From the upstream to the client.
    Down,
}

impl Flow {
    /// Takes `bytes` of the byte budgets of rule and runtime before they are passed on. When they do not fit the flow
    /// is cut, and they must not pass.
    #[must_use]
    fn spend(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let runtime = self.proof.runtime();
        let held = runtime.is_none_or(|runtime| runtime.allowance.spend(bytes));
        let fits = held && self.meter.add(bytes);
        if !fits {
            if let (Some(runtime), true) = (runtime, held) {
                runtime.allowance.refund(bytes);
            }
            self.cut(CloseReason::BudgetExhausted);
        }
        fits
    }

    /// Takes up to `wanted` bytes of the budgets. Zero when one is spent, and the flow is cut then.
    pub fn reserve(&self, wanted: usize) -> usize {
        let runtime = self.proof.runtime();
        let held = runtime.map_or(wanted as u64, |runtime| runtime.allowance.reserve(wanted as u64));
        let got = self.meter.reserve(held);
        if let Some(runtime) = runtime.filter(|_| got < held) {
            runtime.allowance.refund(held - got);
        }
        let got = usize::try_from(got).unwrap_or(usize::MAX);
        if got == 0 && wanted > 0 {
            self.cut(CloseReason::BudgetExhausted);
        }
        got
    }

    /// Counts `bytes` that were passed on.
    pub fn count(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = tick(self.epoch);
        // It may be later already: the other direction waits for its turn.
        if self.last_active.load(Ordering::Relaxed) < now {
            self.last_active.store(now, Ordering::Relaxed);
        }
    }

    /// Passes `bytes` on to `to`: takes them from the budget first, waits for their turn where there is a rate, and
    /// counts what was written as it is, so that a write that is cut in the middle is counted as far as it came.
    ///
    /// # Errors
    /// What the write failed with; `QuotaExceeded` when the budget does not hold them, and the flow is cut then.
    pub async fn pass<W: AsyncWrite + Unpin>(&self, direction: Direction, to: &mut W, bytes: &[u8]) -> io::Result<()> {
        if !self.spend(bytes.len()) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let mut later = bytes;
        while !later.is_empty() {
            let mut rest = match self.quantum() {
                None => later,
                Some(quantum) => {
                    let turn = &later[..later.len().min(quantum)];
                    let mut booked = Turn::book(self, turn.len());
                    std::future::poll_fn(|context| booked.poll(context, self)).await;
                    turn
                }
            };
            later = &later[rest.len()..];
            while !rest.is_empty() {
                let count = to.write(rest).await?;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.count(direction, count);
                rest = &rest[count..];
            }
        }
        to.flush().await
    }

    /// What holds its bytes to a rate, which is its runtime's.
    pub(super) fn pace(&self) -> Option<&Pace> {
        self.proof.runtime().map(|runtime| &runtime.pace)
    }

    /// Most bytes to pass in one turn; `None` while there is no rate.
    pub(super) fn quantum(&self) -> Option<usize> {
        self.pace()?.quantum()
    }

    /// Takes it for active until `moment`: it waits for its turn, and is not idle.
    pub(super) fn busy_until(&self, moment: Instant) {
        let then = Tick::try_from(moment.saturating_duration_since(self.epoch).as_secs()).unwrap_or(Tick::MAX);
        self.last_active.fetch_max(then, Ordering::Relaxed);
    }

    /// Has its task look at it again.
    pub(super) fn nudge(&self) {
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Whether what granted it is over at `now`.
    pub(super) fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.load(Ordering::Relaxed) <= now.unix_micros()
    }

    /// Sets when the rule or lease ends: a reload or a renewal may bring that moment nearer, or further off.
    pub fn expire_at(&self, end: Option<Timestamp>) {
        self.expires_at.store(end.map_or(i64::MAX, Timestamp::unix_micros), Ordering::Relaxed);
    }

    /// Bytes passed on so far: up, down.
    pub fn bytes(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }

    /// Ends the flow; the first reason stays.
    pub fn cut(&self, reason: CloseReason) {
        let index = CloseReason::ALL.iter().position(|known| *known == reason).unwrap_or(0);
        let mark = u8::try_from(index + 1).unwrap_or(u8::MAX);
        if self.cut.compare_exchange(0, mark, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Why it was cut, if it was.
    pub fn cut_reason(&self) -> Option<CloseReason> {
        let mark = self.cut.load(Ordering::Acquire);
        (mark > 0).then(|| CloseReason::ALL[usize::from(mark - 1)])
    }

    /// Ready with the reason once the flow is cut.
    pub fn poll_cut(&self, context: &Context<'_>) -> Poll<CloseReason> {
        if let Some(reason) = self.cut_reason() {
            return Poll::Ready(reason);
        }
        {
            let mut slot = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            if !slot.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *slot = Some(context.waker().clone());
            }
        }
        // A cut between the first look and the registration would have woken nobody.
        self.cut_reason().map_or(Poll::Pending, Poll::Ready)
    }

    /// Resolves once the flow is cut.
    pub async fn cut_off(&self) -> CloseReason {
        std::future::poll_fn(|context| self.poll_cut(context)).await
    }
}

fn tick(epoch: Instant) -> Tick {
    Tick::try_from(epoch.elapsed().as_secs()).unwrap_or(Tick::MAX)
}

/// One flow as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct TunnelView {
    /// Sequence number of its `open` record, and its name in every answer.
    pub decision: u64,
    /// Whose traffic.
    pub persona: PersonaId,
    /// From where.
    pub client: String,
    /// `https`, `http` or `tcp`.
    pub scheme: Scheme,
    /// Host and port.
    pub target: String,
    /// The rule that granted it.
    pub rule: Option<RuleId>,
    /// The lease under which it was granted.
    pub lease: Option<LeaseId>,
    /// Bytes from the client.
    pub bytes_up: u64,
    /// Bytes to the client.
    pub bytes_down: u64,
    /// Age in milliseconds.
    pub age_ms: u64,
}

/// Every open flow of the gateway.
#[derive(Debug)]
pub struct FlowTable {
    flows: Mutex<HashMap<u64, Arc<Flow>>>,
    epoch: Instant,
}

/// What a new flow needs besides its intent.
#[derive(Debug)]
pub struct FlowStart {
    /// Sequence number of the `open` record.
    pub seq: u64,
    /// What was asked for.
    pub intent: EgressIntent,
    /// What was granted.
    pub scheme: Scheme,
    /// The rule that granted it.
    pub rule: Option<RuleId>,
    /// The lease under which it was granted.
    pub lease: Option<LeaseId>,
    /// The generation of the policy that granted it.
    pub generation: u64,
    /// The persona's mode.
    pub mode: Mode,
    /// When the rule ends.
    pub expires_at: Option<Timestamp>,
    /// Bytes that the rule permits.
    pub max_bytes: Option<u64>,
    /// The rule's byte budget.
    pub meter: Meter,
    /// How long it may move nothing.
    pub idle_time: Duration,
    /// What its identity rests on.
    pub(super) proof: Proof,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self { flows: Mutex::default(), epoch: Instant::now() }
    }
}

impl FlowTable {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a flow; the guard takes it out again.
    pub fn enter(self: &Arc<Self>, start: FlowStart) -> FlowGuard {
        let flow = Arc::new(Flow {
            seq: start.seq,
            intent: start.intent,
            proof: start.proof,
            scheme: start.scheme,
            rule: start.rule,
            lease: start.lease,
            generation: start.generation,
            mode: start.mode,
            max_bytes: start.max_bytes,
            needs: OnceLock::new(),
            expires_at: AtomicI64::new(i64::MAX),
            started: Instant::now(),
            address: OnceLock::new(),
            idle_time: start.idle_time,
            meter: start.meter,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            last_active: AtomicU32::new(tick(self.epoch)),
            cut: AtomicU8::new(0),
            waker: Mutex::new(None),
            epoch: self.epoch,
        });
        flow.expire_at(start.expires_at);
        self.lock().insert(flow.seq, Arc::clone(&flow));
        if let Some(runtime) = flow.proof.runtime() {
            runtime.enter(&flow);
        }
        FlowGuard { table: Arc::clone(self), flow }
    }

    /// How many flows are open.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Ends every flow for which `reason` has one. The table is copied first, so that `reason` may take
    /// its time without holding up new flows.
    pub fn cut_where(&self, reason: impl Fn(&Flow) -> Option<CloseReason>) -> usize {
        let flows: Vec<Arc<Flow>> = self.lock().values().cloned().collect();
        let mut count = 0;
        for flow in flows {
            if let Some(reason) = reason(&flow) {
                flow.cut(reason);
                count += 1;
            }
        }
        count
    }

    /// Ends flows that moved nothing for their idle time, and those whose rule ran out.
    pub fn sweep(&self, now: Timestamp) -> usize {
        let tick = tick(self.epoch);
        self.cut_where(|flow| {
            let idle = u64::from(tick.saturating_sub(flow.last_active.load(Ordering::Relaxed)));
            if flow.expired(now) {
                Some(CloseReason::Expired)
            } else if idle > flow.idle_time.as_secs() {
                Some(CloseReason::IdleTimeout)
            } else {
                None
            }
        })
    }

    /// The oldest `limit` flows.
    pub fn view(&self, limit: usize) -> Vec<TunnelView> {
        let mut flows: Vec<Arc<Flow>> = self.lock().values().cloned().collect();
        flows.sort_unstable_by_key(|flow| flow.seq);
        flows.truncate(limit);
        flows.iter().map(|flow| TunnelView::of(flow)).collect()
    }
}

impl TunnelView {
    fn of(flow: &Flow) -> Self {
        let (bytes_up, bytes_down) = flow.bytes();
        Self {
            decision: flow.seq,
            persona: flow.intent.persona.clone(),
            client: flow.intent.client.to_string(),
            scheme: flow.scheme,
            target: flow.intent.target.to_string(),
            rule: flow.rule.clone(),
            lease: flow.lease.clone(),
            bytes_up,
            bytes_down,
            age_ms: u64::try_from(flow.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Keeps a flow in the table for as long as it is relayed.
#[derive(Debug)]
pub struct FlowGuard {
    table: Arc<FlowTable>,
    flow: Arc<Flow>,
}

impl FlowGuard {
    /// The flow, to wait for its cut while the guard is in use.
    pub fn shared(&self) -> Arc<Flow> {
        Arc::clone(&self.flow)
    }
}

impl std::ops::Deref for FlowGuard {
    type Target = Flow;

    fn deref(&self) -> &Flow {
        &self.flow
    }
}

impl Drop for FlowGuard {
    fn drop(&mut self) {
        self.table.lock().remove(&self.flow.seq);
        if let Some(runtime) = self.flow.proof.runtime() {
            runtime.leave(&self.flow);
        }
    }
}
