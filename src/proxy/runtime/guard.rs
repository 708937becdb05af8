//! What the owner of a runtime holds while the gateway answers on its sockets.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{EgressBudget, EgressLimits, EgressSpent, EgressUse, Runtime, RuntimeSockets};
use crate::domain::{Clock, DenialCode};

/// While this is held, the proxy answers on the sockets of one runtime. Dropping it is [`RuntimeGuard::end`].
#[derive(Debug)]
pub struct RuntimeGuard {
    runtime: Arc<Runtime>,
    clock: Arc<dyn Clock>,
}

impl RuntimeGuard {
    /// The runtime of `sockets`, without its sockets; `over` is to end what accepts on those.
    pub(in crate::proxy) fn new(sockets: &RuntimeSockets, over: CancellationToken, clock: Arc<dyn Clock>) -> Self {
        let RuntimeSockets { persona, run, limits, spent, nets, .. } = sockets;
        let runtime = Runtime::new(persona.clone(), run.clone(), *nets, (*limits, *spent), over);
        Self { runtime: Arc::new(runtime), clock }
    }

    pub(in crate::proxy) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Stops accepting, cuts every open flow with `runtime_ended`, and closes connections that wait for a request.
    /// Says how many flows were open. May be called again.
    pub fn end(&self) -> usize {
        self.runtime.end()
    }

    /// What the runtime did since it was attended to, and does now.
    pub fn egress(&self) -> EgressUse {
        self.runtime.egress()
    }

    /// Denials of the last minute, to five seconds.
    pub fn denials_last_minute(&self) -> u64 {
        self.runtime.denials.last_minute(self.clock.now())
    }

    /// Denials of the last five minutes by their kind.
    pub fn denials_lately(&self) -> Vec<(DenialCode, u64)> {
        self.runtime.denials.lately(self.clock.now())
    }

    /// What it may use now.
    pub fn limits(&self) -> EgressLimits {
        self.runtime.limits()
    }

    /// Changes what it may use, for open flows too. Fewer connections end none that is open; a smaller budget ends
    /// flows at their next byte.
    pub fn set_limits(&self, limits: EgressLimits) {
        self.runtime.set_limits(limits);
    }

    /// What was spent of the budgets, before and since. Bytes count when they were read and are about to pass.
    pub fn spent(&self) -> EgressSpent {
        self.runtime.allowance.spent()
    }

    /// Sets what was spent: an operator's reset, or a new window of a budget.
    pub fn set_spent(&self, spent: EgressSpent) {
        self.runtime.allowance.set_spent(spent);
    }

    /// The budget of which nothing is left, if there is one.
    pub fn spent_budget(&self) -> Option<EgressBudget> {
        self.runtime.allowance.spent_budget()
    }

    /// Resolves once a budget is spent; at once while one is.
    pub async fn budget_spent(&self) -> EgressBudget {
        self.runtime.allowance.budget_spent().await
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        self.runtime.end();
    }
}
