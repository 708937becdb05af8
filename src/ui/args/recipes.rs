//! `recipes …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{NO_REASON, remark, runtime_id};
use crate::domain::RuntimeId;
use crate::governance::signed::Purpose;

/// `recipes …`.
#[derive(Debug, Subcommand)]
pub enum RecipesCommand {
    /// Show the installed recipes, and whether each is still what was signed
    List,
    /// Show what a recipe is, where it lies or as it is installed
    Inspect {
        /// A folder, a file, or the id of an installed recipe
        recipe: String,
    },
    /// Make a key to sign with
    Keygen(KeygenArgs),
    /// Sign a recipe; the signature goes beside the manifest
    Sign(SignArgs),
    /// Install a recipe whose signature is trusted
    Install {
        /// The recipe: a folder or a file
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// Refuse it unless a trusted signer signed exactly this
        #[arg(long)]
        verify: bool,
        /// Take a version that is older than what was installed
        #[arg(long)]
        allow_older: bool,
    },
    /// Put an installed recipe to work, and start it
    #[command(
        after_help = "The daemon launches it as a runtime of its id, as its persona. From then on its schedule counts too, \
                            until `recipes retire` or `automation disable`."
    )]
    Run {
        /// Its id
        #[arg(value_parser = runtime_id)]
        id: RuntimeId,
        /// Show what the run would be: spawn nothing and let nothing leave
        #[arg(long)]
        preview: bool,
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark, default_value = NO_REASON, conflicts_with = "preview")]
        reason: String,
    },
    /// Take a recipe out of use; its versions are kept
    Retire {
        /// Its id
        #[arg(value_parser = runtime_id)]
        id: RuntimeId,
        /// Why
        #[arg(long, value_name = "TEXT", value_parser = remark, default_value = NO_REASON)]
        note: String,
    },
}

/// `recipes keygen`.
#[derive(Debug, Clone, Args)]
pub struct KeygenArgs {
    /// The signer's name, such as `release-2026`
    #[arg(value_parser = runtime_id)]
    pub name: RuntimeId,
    /// The file for the private key, which must not be there yet; it gets mode 0600
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: PathBuf,
    /// What the signer is to be trusted for: recipe, bundle
    #[arg(long, value_name = "KINDS", value_delimiter = ',', default_value = "recipe,bundle", value_parser = purpose)]
    pub signs: Vec<Purpose>,
    /// For how many days from now
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_653))]
    pub days: u32,
    /// Add the public key to this file of trusted signers
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub trust: Option<PathBuf>,
}

/// `recipes sign` and `runtime bundles manifest sign`.
#[derive(Debug, Clone, Args)]
pub struct SignArgs {
    /// What to sign: a folder or a file
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// The private key: a file of `keygen`, or Ed25519 in PKCS#8 PEM; mode 0600
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: PathBuf,
    /// The signer's name, which a PEM file does not tell
    #[arg(long, value_name = "NAME", value_parser = runtime_id)]
    pub signer: Option<RuntimeId>,
}

fn purpose(text: &str) -> Result<Purpose, String> {
    Purpose::from_code(text).ok_or_else(|| "a signer signs `recipe` or `bundle`".to_owned())
}
