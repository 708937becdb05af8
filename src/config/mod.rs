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

mod alerts;
mod authority;
mod automations;
mod bundles;
mod checks;
mod collector;
mod env;
mod fault;
mod json;
mod load;
pub mod located;
mod persona;
mod recipe;
mod runtimes;
mod server;
mod server_file;
mod signers;

pub use alerts::{AlertsFile, MAX_ALERTS, RouteForm};
pub use authority::{AuthorityFile, GrantForm, MAX_AUTHORITY};
pub use automations::{AutomationForm, AutomationsFile};
pub use bundles::{ArtifactForm, BundleForm, BundlesFile, ConsentForm, MAX_BUNDLES};
pub use collector::{Collector, CollectorFault};
pub use env::Environment;
pub use fault::{Fault, Faults};
pub use load::{Loaded, Overrides, load};
pub use persona::{MAX_PERSONA_FILE, PersonaFile, PortForm, RuleForm, TlsForm, TokenForm};
pub use recipe::{MAX_RECIPE, RecipeFile};
pub use runtimes::{
    BudgetForm, GpuForm, HealthForm, LimitsForm, MAX_MANIFEST, ProcessForm, RestartForm, RuntimeForm, RuntimesFile,
    WindowForm,
};
pub use server::{
    Confine, ControlConfig, DefaultPersona, DnsConfig, Durability, LedgerConfig, Limits, LogConfig, PersonasConfig,
    ProxyConfig, RuntimesConfig, ServerConfig, TelemetryConfig, TlsListenerConfig,
};
pub use server_file::reference;
pub use server_file::units::parse_time;
pub use signers::{MAX_SIGNERS, RevokedForm, SignerForm, SignersFile};
