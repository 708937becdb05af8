//! `runtime bundles …`.

use std::path::PathBuf;

use clap::{Subcommand, ValueHint};

use super::recipes::SignArgs;
use super::{NO_REASON, bundle, remark};
use crate::domain::BundleId;
use crate::governance::signed::{Version, VersionFault};

/// `runtime bundles …`.
#[derive(Debug, Subcommand)]
pub enum BundlesCommand {
    /// Show the bundles of the catalogues and those that were imported
    List,
    /// Import a bundle whose signature is trusted: a folder with bundle.json
    Import {
        /// The folder
        #[arg(value_hint = ValueHint::DirPath)]
        path: PathBuf,
        /// Take a version that is older than what was imported
        #[arg(long)]
        allow_older: bool,
    },
    /// Put an earlier revision in force again; five are kept
    Rollback {
        /// The bundle
        #[arg(value_parser = bundle)]
        id: BundleId,
        /// To this version [default: the one before the one in force]
        #[arg(long, value_name = "VERSION", value_parser = version)]
        to: Option<Version>,
        /// Why
        #[arg(long, value_name = "TEXT", value_parser = remark, default_value = NO_REASON)]
        note: String,
    },
    /// Check every catalogue and every imported bundle; a line per fault
    Audit {
        /// What is not signed is a fault, whatever the settings say
        #[arg(long)]
        require_signed: bool,
    },
    /// Signatures of bundles and catalogues
    #[command(subcommand)]
    Manifest(ManifestCommand),
}

/// `runtime bundles manifest …`.
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Sign a bundle's folder or a catalogue
    Sign(SignArgs),
    /// Check the signature of a bundle's folder or of a catalogue
    Verify {
        /// The folder or the file
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
    },
}

fn version(text: &str) -> Result<Version, VersionFault> {
    Version::parse(text)
}
