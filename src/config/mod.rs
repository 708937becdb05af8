//! Raw forms: what files and the environment say, before it means anything.
//!
//! Every fault of a file is reported together, each with file, line, key and hint ([`Fault`]).
//!
//! ```text
//! command line ─┐
//! environment ──┼─ load ─ merge ─ check ─→ ServerConfig + warnings     or every fault at once
//! file ─────────┤
//! defaults ─────┘
//! ```
//!
//! The process environment is read in [`Environment::capture`] and nowhere else. What is unknown or out
//! of bounds is refused; nothing is clamped or repaired.

mod checks;
mod env;
mod fault;
mod load;
pub mod located;
mod persona;
mod runtimes;
mod server;
mod server_file;

pub use env::Environment;
pub use fault::{Fault, Faults};
pub use load::{Loaded, Overrides, load};
pub use persona::{MAX_PERSONA_FILE, PersonaFile, PortForm, RuleForm, TlsForm, TokenForm};
pub use runtimes::{
    BudgetForm, GpuForm, HealthForm, LimitsForm, MAX_MANIFEST, ProcessForm, RestartForm, RuntimeForm, RuntimesFile,
};
pub use server::{
    ControlConfig, DefaultPersona, DnsConfig, Durability, LedgerConfig, Limits, LogConfig, ProxyConfig,
    RuntimesConfig, ServerConfig, TlsListenerConfig,
};
pub use server_file::reference;
