//! `policy …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::persona;
use crate::domain::PersonaId;
use crate::governance::authority::{Action, Capability, Principal, Resource, WordFault};

/// `policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check persona files and the policy of the control API, without the daemon
    Check {
        /// A configuration folder, or one `policy.json` or Cedar bundle [default: what the daemon's settings name]
        #[arg(value_hint = ValueHint::AnyPath)]
        path: Option<PathBuf>,
    },
    /// Show who says who may do what, and what was denied
    Status,
    /// Ask what would be decided: who may do what, or what may leave; exit 1 when it is denied
    Simulate(SimulateArgs),
    /// Ask every question of a file, without the daemon; exit 1 when an answer differs
    Test {
        /// The cases, JSON or TOML
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The configuration folder, whose personas answer [default: the daemon's]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
        /// The policy that answers [default: the one that the daemon's settings name]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        policy: Option<PathBuf>,
    },
}

/// `policy simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// `https://host`, `http://host/path` or `tcp://host:port`, with --persona
    #[arg(requires = "persona", conflicts_with = "principal")]
    pub url: Option<String>,
    /// As which persona it would leave
    #[arg(long, value_parser = persona, requires = "url")]
    pub persona: Option<PersonaId>,
    /// Method, for plain HTTP [default: GET]
    #[arg(long, requires = "url")]
    pub method: Option<String>,
    /// Who: `token`, `uid:1000` or `persona:demo`
    #[arg(long, value_parser = principal, requires_all = ["action", "resource"], required_unless_present = "url")]
    pub principal: Option<Principal>,
    /// What: `runtime:manage` and the like
    #[arg(long, value_parser = action, requires = "principal")]
    pub action: Option<Action>,
    /// On what: `daemon`, `runtime:trainer` and the like
    #[arg(long, value_parser = resource, requires = "principal")]
    pub resource: Option<Resource>,
    /// While this is leased; may be repeated
    #[arg(long = "lease", value_name = "CAPABILITY", value_parser = lease, requires = "principal")]
    pub leases: Vec<Capability>,
    /// Ask this policy in the place of the daemon's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "principal")]
    pub file: Option<PathBuf>,
}

fn told(fault: WordFault) -> String {
    format!("{fault}; {}", fault.hint())
}

fn principal(text: &str) -> Result<Principal, String> {
    Principal::parse(text).map_err(told)
}

fn action(text: &str) -> Result<Action, String> {
    Action::from_code(text).ok_or_else(|| {
        let known: Vec<&str> = Action::ALL.iter().map(|action| action.code()).collect();
        format!("known actions are {}", known.join(", "))
    })
}

fn resource(text: &str) -> Result<Resource, String> {
    Resource::parse(text).map_err(told)
}

fn lease(text: &str) -> Result<Capability, String> {
    Capability::parse(text).map_err(told)
}
