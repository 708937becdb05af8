//! The GPUs of this host: what there is, who has it, and what a runtime may see of it.
//!
//! ```text
//!   libnvidia-ml.so.1 ──► Gpus::open ──► Inventory ──► Holdings::assign ──► Assignment
//!   (or none: Unavailable)    │          adapters       exclusive              │
//!                             │                                                ├─► environment
//!                             ├─► Reading ──► VramBudget ──► warn, stop        └─► device nodes
//!                             │      └──────► released: may the next one start?
//!                             └─► watch ────► Xids ────────► Health
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `adapter` | identities and modes, checked when read |
//! | `reading` | memory, utilisation, temperature, power and processes at one moment |
//! | `health` | closed reasons with stable codes; Xid classes |
//! | `open`, `absent`, `nvml`, `probe`, `watch` | the two drivers behind one trait: NVML, and none |
//! | `assign`, `holdings` | who gets which GPU |
//! | `access` | environment and device nodes of an assignment |
//! | `budget` | the VRAM budget of a runtime |
//! | `release` | whether the memory was given back |
//! | `metrics` | the series |
//!
//! It refuses to guess: what could not be read is absent, never zero. It starts no thread, kills nothing
//! and opens no device node; those are the work of the supervisor and the sandbox. Every call into the
//! library may block for as long as the kernel's driver does, so one thread of their own makes them.

mod absent;
mod access;
mod adapter;
mod assign;
mod budget;
mod health;
mod holdings;
mod metrics;
mod nvml;
mod open;
mod probe;
mod reading;
mod release;
mod watch;

pub use absent::{Unavailable, UnavailableReason};
pub use access::{DeviceNode, Majors, Need, NodeFault, Scope, environment, nodes, without_gpus};
pub use adapter::{
    Adapter, AdapterFault, ComputeMode, CudaVersion, GpuUuid, IdentityFault, Inventory, MAX_ADAPTERS, MigMode, Minor,
    PciAddress, Versions, lost,
};
pub use assign::{AssignFault, AssignedGpu, Assignment, Request, RequestFault, Unfit, assign};
pub use budget::{Notice, Phase, Vram, VramBudget};
pub use health::{Health, HealthReason, Severity, Xid, XidClass, Xids};
pub use holdings::Holdings;
pub use metrics::encode;
pub use open::Gpus;
pub use reading::{Memory, ProcessUsage, Reading};
pub use release::{Baseline, RELEASE_SLACK, RELEASE_TIMEOUT, Release, released};
pub use watch::{GpuEvent, Occurrence, WatchFault};
