//! Wiring: makes the parts, hands each its handles, and ends them in order.
//!
//! ```text
//! settings ─ state folder ─ confined ─ ledger ─ policy ─ gateway ─ governance ─ control ─ READY=1
//!                                                ▲                                 │
//!                          SIGHUP, file change ──┴── reload ◀──────────────────────┘ commands
//! SIGUSR2 ─ kill switch          SIGTERM ─ drain ─ cut ─ last checkpoint ─ end
//! ```
//!
//! Nothing here decides anything; what fails at the start is said in one line and ends the daemon.

mod confine;
mod demo;
mod foreground;
mod governance;
mod inherit;
mod log;
mod news;
mod reload;
mod runtimes;
mod service;
mod start;
mod watch;

pub use foreground::{Ready, check_sandbox, run_command};
pub use start::{check, run};
