//! `consent …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{bundle, remark};
use crate::domain::BundleId;

/// `consent …`.
#[derive(Debug, Subcommand)]
pub enum ConsentCommand {
    /// Check what bundles say about consent, without the daemon
    #[command(
        after_help = "The handbook's `scripts/validate_runtime_consent.py` is this command: it prints `Consent metadata \
                      validation passed` and ends with 0, or one line per fault and ends with 1."
    )]
    Validate {
        /// The files [default: runtime/bundles*.json of the configuration folder]
        #[arg(value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Show the bundles, their scopes, and whether people agreed
    List,
    /// Record that people agreed to what a bundle's consent says now
    Acknowledge(SayArgs),
    /// Record that they took it back; launches that need it are refused from then on
    Withdraw(SayArgs),
    /// Show who agreed and who took it back, and when
    History,
}

/// What a person says about one bundle.
#[derive(Debug, Clone, Args)]
pub struct SayArgs {
    /// The bundle
    #[arg(value_parser = bundle)]
    pub bundle: BundleId,
    /// Why, and on whose behalf
    #[arg(long, value_name = "TEXT", value_parser = remark)]
    pub note: String,
    /// Who says it [default: the user that runs this]
    #[arg(long, value_name = "NAME", value_parser = remark)]
    pub by: Option<String>,
}
