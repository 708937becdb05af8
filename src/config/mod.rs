//! Raw forms: what files and the environment say, before it means anything.
//!
//! Every fault of a file is reported together, each with file, line, key and hint ([`Fault`]).

mod fault;
pub mod located;
mod persona;
mod server;

pub use fault::{Fault, Faults};
pub use persona::{MAX_PERSONA_FILE, PersonaFile, PortForm, RuleForm, TlsForm, TokenForm};
pub use server::{
    ControlConfig, DnsConfig, Durability, LedgerConfig, Limits, LogConfig, ProxyConfig, ServerConfig, TlsListenerConfig,
};
