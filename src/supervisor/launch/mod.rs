//! What one launch needs beside the sandbox itself: cgroups, limits, the sockets' way to the gateway, and what may be
//! claimed afterwards. `arw-cli run` and the supervised runtimes launch by the same pieces.
//!
//! ```text
//! preset ─ limits ─┐
//! Group ───────────┼─ sandbox::Launcher ─▶ Launched ─┬─ listeners ─▶ RuntimeSockets ─▶ the gateway
//! profile ─ Plan ──┘                                └─ report + Applied + Claim ─▶ Confinement
//! ```

mod confinement;
pub mod group;
mod sockets;

pub use confinement::Confinement;
pub use group::Group;
pub use sockets::{egress_limits, sockets, transparent_ports};
