//! Alerts: what a person should know, until they know it or it is over.
//!
//! ```text
//! events ─ signal ─┐             raised, worsened, escalated, cleared
//! looks ───────────┼─ engine ──────────────────────────────┬─→ store (kept first)
//! rules, clock ────┘ (pure)                                ├─→ bus: alert.raised, alert.cleared (SSE)
//! acknowledgements ─────────↑                              └─→ routes: webhook, syslog, journald, file
//!
//!        found            nobody acknowledges in time
//!  ─────────────> active ──────────────────────────────> active, escalated (three times at the most)
//!                  │  │ └─ acknowledged ──> a moment: cleared; a condition: active, nobody is waited for
//!                  │  └─── it gets worse ──> told anew, to be acknowledged anew
//!                  └────── it is over, and stays over for `clear_after` ──> cleared
//! ```
//!
//! | file | what |
//! |---|---|
//! | `kind`, `alert` | the closed set of what can be raised; one alert |
//! | `signal`, `window`, `rules`, `engine` | what is learned, and what follows from it; pure |
//! | `settings` | `alerts.toml`, understood |
//! | `keeper` | the task that has the engine, keeps what it says, and tells it |
//! | `sinks` | how it leaves |
//!
//! There is one alert of a key at a time, so what happens again and again is told once. Everything is bounded: alerts,
//! samples of an alert, what is remembered of each persona, what waits for a sink.
//!
//! It refuses to wait for a sink, to forget an active alert over a restart or to raise it twice, and to send anything to an
//! address that an operator did not write.

mod alert;
mod engine;
mod keeper;
mod kind;
mod rules;
mod settings;
mod signal;
pub(in crate::governance) mod sinks;
mod window;

#[cfg(test)]
mod tests;

pub use alert::{Acknowledgement, Alert, Clearing};
pub use engine::{Change, Engine, MAX_ACTIVE, MAX_ESCALATION, NoSuchAlert};
pub use keeper::{Alerts, AlertsFault, Board, Keeper, Premises, Trial, listen, start};
pub use kind::{AlertKind, Cleared, Severity, Step};
pub use rules::Rules;
pub use settings::{
    FILE, Folders, Named, Route, Settings, SinkSettings, SyslogAddress, Webhook, named, read, understand,
};
pub use signal::{LeaseLook, Look, Mark, RuntimeLook, Signal, Watched};
pub use sinks::{Outlets, RouteStatus, SinkKind};
