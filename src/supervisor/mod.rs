//! The lives of runtimes: what was declared, what is alive, what happens next.
//!
//! ```text
//! runtimes.toml ── read ──> Manifest ── diff(old, new) ──> what a reload changes
//!                              │
//!        Schedule.next_after ──┤ when
//!        order::plan ──────────┤ in which order
//!                              v
//!            event ──> life::step(Life, Event, Policy, now) ──> (Life, effects)
//! ```
//!
//! ```text
//!            start                 up              probe fails
//! stopped ──────────> starting ──────────> ready <────────────> degraded
//!    ^                 │    ^               │  ^ freeze, thaw     │
//!    │                 │    │               │  └──> frozen        │
//!    │                 v    │ timer         v                     v
//!    ├────────────── stopping <────────── every end: TERM, grace, kill all
//!    │                 │  │
//!    │                 │  └─ failed, budget left ──> backoff ──> starting
//!    │                 ├──── failed, budget spent ─> quarantined ── restore ──> starting
//!    └── rest <────────┴──── launch refused ───────> error
//! ```
//!
//! Owns the meaning of the manifest (`docs/runtimes.md`), the state machine, the restart window, the order of
//! starts, and the form of a death record. All of it is pure: no clock, no random source and no process of its
//! own. Whoever owns the processes feeds it events and does what the effects say.
//!
//! Refuses: to launch while a process of the runtime may live, to restart more often than the window allows, to
//! let anything but `restore` end a quarantine, and to take silence for failure.

mod bars;
mod crew;
mod death;
mod exec;
mod gpus;
mod keeper;
pub mod launch;
pub mod life;
mod manifest;
mod names;
pub mod order;
mod publish;
mod records;
mod request;
mod schedule;
mod shared;
mod spent;
mod view;
mod window;

pub use bars::Bars;
pub use crew::{Premises, ShutdownReport, StartFault, Supervisor, start};
pub use death::{Cause, Death, DeathRecord, ExitCause, MAX_LAST_LINES, MAX_LINE_BYTES, Used};
pub use exec::{Ending, ExecFault, Execution, Said};
pub use gpus::Sample as GpuSample;
pub use launch::Confinement;
pub use life::{HealthReason, State as RuntimeState};
pub use manifest::{
    Budget, Change, Defaults, Dependency, Gpu, GpuChoice, Health, Limits, MAX_RUNTIMES, Manifest, Probe, Process,
    RuntimeSpec, diff, narrow_budget, read, schedule_of,
};
pub use names::{Accelerator, Condition, RestartRule};
pub use publish::{Publish, PublishFault};
pub use records::{RecordFault, left_behind};
pub use request::{Action, RequestFault};
pub use schedule::{Schedule, ScheduleFault};
pub use shared::Permit;
pub use spent::{BudgetKind, Reported, Reports, Window, WindowId};
pub use view::{BudgetView, Denied, EgressView, GpuView, Restarts, RuntimeView, UsageView, Waited};
pub use window::{Backoff, RestartWindow};
