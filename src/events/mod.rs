//! What happened, told to whoever listens.
//!
//! ```text
//! publisher ── publish ─→ EventBus ─┬─→ busy lane  (ring)  ┐ replay
//!   never waits                     ├─→ quiet lane (ring)  ┘
//!                                   └─→ queue per subscriber ─→ next(): Event | Lost(n)
//! ```
//!
//! The bus owns the order: every event has one number, and a subscriber sees the kept ones and the new
//! ones of its kinds without a gap and without a double, or is told how many it lost. It refuses to
//! wait: a slow listener loses its oldest events, and no listener and no flood of one kind makes a
//! publisher stop or a rare event disappear from the replay.
//!
//! It is no record. What has to be proved later stands in the ledger.

mod bus;
mod event;
mod first_seen;
mod store;
mod subscription;

pub use bus::{BusStats, EventBus};
pub use event::{Event, EventKind};
pub use first_seen::FirstSeen;
pub use subscription::{Delivery, Subscription};
