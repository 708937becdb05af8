//! The forward proxy: one gate, and everything that leads to it and away from it.
//!
//! ```text
//! listener ─▶ worker ─▶ connection ─▶ head ─▶ identify ─▶ gate ─▶ dial ─▶ tunnel ─▶ relay
//!  sockets    accepts    one client    strict   persona     │               first_flight
//!                                      HTTP                 │        └──▶ exchange ─▶ pool
//!                                                           ├ policy: Grant
//!                                                           ├ resolver: vetted addresses
//!                                                           └ ledger: Receipt
//! ```
//!
//! Programs that know of no proxy come through [`transparent`], and meet the others at `identify` or the gate.
//!
//! It refuses to: dial without a vetted address and a ledger record; look up a name that is not allowed;
//! pass on a message that two readers could read differently; intercept TLS.

pub mod body;
mod client;
mod connection;
mod copy;
mod desk;
mod dial;
mod exchange;
pub mod first_flight;
mod flow;
mod gate;
mod handle;
pub mod head;
mod identify;
mod latch;
mod listener;
mod metrics;
mod own;
mod pool;
mod pulse;
mod refusal;
mod relay;
pub mod resolver;
mod runtime;
pub mod tls;
pub mod transparent;
mod tunnel;
mod worker;

pub use desk::{Desk, Inquiry, Reply};
pub use flow::{FlowTable, TunnelView};
pub use gate::Gateway;
pub use handle::{Handle, PersonaStatus, Status};
pub use latch::{Latch, Latched};
pub use listener::{Inherited, ListenFault, Running, RuntimeDoors, start};
pub use metrics::{Metrics, PersonaStats};
pub use own::OwnListeners;
pub use pulse::Pulses;
pub use refusal::lease_hint;
pub use resolver::Resolver;
pub use runtime::{EgressBudget, EgressLimits, EgressSpent, EgressUse, RuntimeGuard, RuntimeSockets};
pub use transparent::SyntheticNets;
