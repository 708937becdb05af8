//! `incident …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{moment, persona};
use crate::domain::{PersonaId, Timestamp};

/// `incident …`.
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// Gather everything that is known of a persona since a moment into one archive
    #[command(
        after_help = "Run it as root or as the daemon's user: it reads the ledger's files. The archive is raw, since a proof \
                            is one of exact bytes; it has mode 0600. What could not be had is named in `incident.json`."
    )]
    Export(ExportArgs),
    /// Check an archive against itself: sums, proofs, timeline. Needs no daemon
    Verify {
        /// The archive
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// A log's public key (`ledger.pub`) that you have from elsewhere, once for each log: the archive's must be among them
        #[arg(long = "key", value_name = "FILE", value_hint = ValueHint::FilePath)]
        keys: Vec<PathBuf>,
    },
}

/// `incident export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The persona
    #[arg(long, value_parser = persona)]
    pub persona: PersonaId,
    /// From this moment on: RFC 3339, a day, or an age such as `90m`, `24h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Timestamp,
    /// Before this moment; now without it
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Timestamp>,
    /// At most so many lines of each log, the newest of them
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// The file, which must not be there yet; without it `incident-PERSONA-TIME.tar` in this folder
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
}
