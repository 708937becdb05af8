//! proxy.

mod handle;

pub use handle::{Handle, Metrics, PersonaCounts, Status, Totals, TunnelView};
