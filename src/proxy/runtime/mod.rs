//! A runtime as a client of the gateway: what came in on its sockets, what it may still use, and its end.
//!
//! ```text
//! RuntimeSockets ─ attend ─▶ RuntimeGuard ─ end ─▶ no accept, every flow cut, every kept connection closed
//!                                │
//!                            Runtime ◀─ Proof::Runtime ─ each flow and each record of its traffic
//!                       allowance  pace  flows  denials
//! ```
//!
//! One [`Runtime`] is shared by its sockets, its connections and its flows. What it may use is a bound on resources,
//! not a rule: it holds in report mode too, and it grants nothing.

mod allowance;
mod denials;
mod guard;
mod pace;
mod sockets;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::allowance::Allowance;
pub use self::allowance::{EgressBudget, EgressLimits, EgressSpent};
use self::denials::Denials;
pub use self::guard::RuntimeGuard;
pub(super) use self::pace::{Pace, Turn};
pub use self::sockets::RuntimeSockets;
use super::desk::Pass;
use super::flow::Flow;
use super::transparent::{Inside, SyntheticNets};
use crate::domain::{CloseReason, Denial, DenialCode, PersonaId, Run, Timestamp};
use crate::ledger::Record;

/// One runtime, as all that comes from it shares it.
#[derive(Debug)]
pub(super) struct Runtime {
    /// Whose it is.
    pub persona: PersonaId,
    /// What its transparent sockets know.
    pub inside: Inside,
    /// What it may use and has used.
    pub allowance: Allowance,
    /// How fast its bytes may pass.
    pub pace: Pace,
    /// How often it may ask at the desk.
    pub desk: Pass,
    run: Option<(Run, Box<str>)>,
    flows: Mutex<Flows>,
    denials: Denials,
    /// Cancelled when nothing of it is accepted or kept any more, which a stop of the proxy does too.
    over: CancellationToken,
}

/// What is open, and the sums of what was.
#[derive(Debug, Default)]
struct Flows {
    ended: bool,
    open: HashMap<u64, Arc<Flow>>,
    bytes_up: u64,
    bytes_down: u64,
}

/// What a runtime did and does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EgressUse {
    /// Bytes that left, those of open flows included.
    pub bytes_up: u64,
    /// Bytes that came back.
    pub bytes_down: u64,
    /// Grants.
    pub requests: u64,
    /// Denials. A name that is asked for again and again is one a second.
    pub denials: u64,
    /// Tunnels and exchanges open now.
    pub open: usize,
}

/// One of the client connections that a runtime may have.
#[derive(Debug)]
pub(super) struct Place(Arc<Runtime>);

impl Runtime {
    fn new(
        persona: PersonaId,
        run: Option<Run>,
        nets: SyntheticNets,
        (limits, spent): (EgressLimits, EgressSpent),
        over: CancellationToken,
    ) -> Self {
        Self {
            persona,
            inside: Inside::new(nets),
            allowance: Allowance::new(limits, spent),
            pace: Pace::new(limits.rate),
            desk: Pass::default(),
            run: run.map(|run| {
                let number = run.number.to_string().into();
                (run, number)
            }),
            flows: Mutex::default(),
            denials: Denials::default(),
            over,
        }
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which run it is; `None` for a command that nobody supervises.
    pub(super) fn run(&self) -> Option<&Run> {
        self.run.as_ref().map(|(run, _)| run)
    }

    /// Says in `record` which run of which runtime it is about.
    pub(super) fn sign<'a>(&'a self, record: &mut Record<'a>) {
        if let Some((run, number)) = &self.run {
            record.runtime = Some(run.runtime.as_str());
            record.run = Some(number);
        }
    }

    /// Takes a place for one more client connection.
    ///
    /// # Errors
    /// `overloaded`, not recorded yet.
    pub(super) fn take_place(self: &Arc<Self>) -> Result<Place, Denial> {
        self.allowance.take_connection().map_err(|denial| self.named(denial))?;
        Ok(Place(Arc::clone(self)))
    }

    /// Whether a request may be looked at: a runtime without budget has no name looked up.
    ///
    /// # Errors
    /// `budget_exhausted`, not recorded yet.
    pub(super) fn may_ask(&self) -> Result<(), Denial> {
        self.allowance.left().map_err(|denial| self.named(denial))
    }

    /// Takes one request of the budget.
    ///
    /// # Errors
    /// `budget_exhausted`, not recorded yet.
    pub(super) fn admit(&self) -> Result<(), Denial> {
        self.allowance.take_request().map_err(|denial| self.named(denial))
    }

    /// Puts the runtime's name in front of the detail.
    fn named(&self, mut denial: Denial) -> Denial {
        let whose =
            self.run.as_ref().map_or_else(|| "the runtime".to_owned(), |(run, _)| format!("runtime `{}`", run.runtime));
        denial.detail = format!("{whose} {}", denial.detail);
        denial
    }

    /// Counts a denial.
    pub(super) fn denied(&self, code: DenialCode, now: Timestamp) {
        self.denials.count(code, now);
    }

    /// Adds a flow to what is open. One that comes after the end is cut at once.
    pub(super) fn enter(&self, flow: &Arc<Flow>) {
        let mut flows = self.flows();
        flows.open.insert(flow.seq, Arc::clone(flow));
        let ended = flows.ended;
        drop(flows);
        if ended {
            flow.cut(CloseReason::RuntimeEnded);
        }
    }

    /// Takes a flow out of what is open and adds its bytes to the sums, both in one step.
    pub(super) fn leave(&self, flow: &Flow) {
        let (up, down) = flow.bytes();
        let mut flows = self.flows();
        if flows.open.remove(&flow.seq).is_some() {
            flows.bytes_up += up;
            flows.bytes_down += down;
        }
    }

    fn limits(&self) -> EgressLimits {
        EgressLimits { rate: self.pace.rate(), ..self.allowance.limits() }
    }

    fn set_limits(&self, limits: EgressLimits) {
        self.allowance.set_limits(limits);
        if self.pace.set(limits.rate) {
            let open: Vec<Arc<Flow>> = self.flows().open.values().cloned().collect();
            for flow in open {
                flow.nudge();
            }
        }
    }

    fn egress(&self) -> EgressUse {
        let flows = self.flows();
        let (up, down) = flows.open.values().fold((flows.bytes_up, flows.bytes_down), |(up, down), flow| {
            let bytes = flow.bytes();
            (up + bytes.0, down + bytes.1)
        });
        EgressUse {
            bytes_up: up,
            bytes_down: down,
            requests: self.allowance.granted(),
            denials: self.denials.total(),
            open: flows.open.len(),
        }
    }

    /// Ends all of it. Whatever enters later is cut then: both happen under the lock.
    fn end(&self) -> usize {
        let open: Vec<Arc<Flow>> = {
            let mut flows = self.flows();
            flows.ended = true;
            flows.open.values().cloned().collect()
        };
        for flow in &open {
            flow.cut(CloseReason::RuntimeEnded);
        }
        // Behind the cuts, so that no flow ends for another reason.
        self.over.cancel();
        open.len()
    }

    /// Whether nothing more is accepted.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves once nothing more is accepted.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.allowance.leave_connection();
    }
}
