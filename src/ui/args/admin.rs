//! `admin …` and `automation …`: what only an administrator does.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};

use super::{moment, persona, remark};
use crate::domain::{IdFault, LeaseId, PersonaId, Timestamp};

/// `admin …`.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// What a persona may do for a while
    #[command(subcommand)]
    Persona(AdminPersonaCommand),
    /// Leases: time-boxed widenings
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Record in the audit that a person did what no program can see
    Attest {
        /// What was done, such as `stakeholders were told`
        #[arg(value_parser = remark)]
        subject: String,
        /// By whom, where, with what result
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        note: String,
    },
    /// Show what administrators did
    Audit {
        /// At most so many entries, the newest
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
    },
}

/// `admin persona …`.
#[derive(Debug, Subcommand)]
pub enum AdminPersonaCommand {
    /// Give a persona a lease, or renew the one that it has for the same
    #[command(
        after_help = "A lease opens exactly what its capability names, ends by itself, and takes what it let through \
                            with it. A `persona:manage` or `telemetry:persona:*` lease lasts less than 24 hours."
    )]
    Grant(GrantArgs),
}

/// `admin persona grant`.
#[derive(Debug, Clone, Args)]
pub struct GrantArgs {
    /// The persona
    #[arg(value_parser = persona)]
    pub persona: PersonaId,
    /// `egress:host:<host>[:port]`, `egress:proxy`, `persona:manage`, `runtime:manage` or `telemetry:persona:*`
    #[arg(long, value_name = "CAPABILITY")]
    pub capability: String,
    /// For how long from now: `30m`, `8h`, `2d`
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub ttl: Duration,
    /// Why; it is kept
    #[arg(long, value_name = "TEXT", value_parser = remark)]
    pub justification: String,
    /// Ends after so many grants
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_uses: Option<u64>,
    /// Ends after so many bytes in both directions
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_bytes: Option<u64>,
}

/// `admin lease …`.
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// Show the leases in force
    List {
        /// Also the last so many that have ended
        #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1_000))]
        ended: u16,
    },
    /// Take a lease back, with everything that it let through
    Revoke {
        /// Its id
        #[arg(value_parser = lease)]
        id: LeaseId,
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        reason: Option<String>,
    },
}

/// `automation …`.
#[derive(Debug, Subcommand)]
pub enum AutomationCommand {
    /// Every automation: state, budgets, and what impacts it
    List,
    /// Which are impacted and why; or one in full
    Status {
        /// An automation, or its runtime
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
    /// The latest runs of one
    Runs {
        /// The automation, or its runtime
        id: String,
        /// At most so many, the newest
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
    },
    /// Write what each run contributed, as CSV for accounting; amounts that nobody reported stay blank
    Contributions {
        /// Only runs that began from this moment on: RFC 3339, a day, or an age such as `30d`
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<Timestamp>,
        /// Write to a file, which must not be there yet
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        out: Option<PathBuf>,
    },
    /// Let it run again; starts nothing by itself
    Enable {
        /// The automation, or its runtime
        id: String,
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        reason: String,
    },
    /// End it and halt its schedule; nobody starts it until it is enabled, over restarts too
    Disable {
        /// The automation, or its runtime
        id: String,
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        reason: Option<String>,
    },
    /// The kill switch: cut everything that is open, revoke every lease, end every runtime, halt every schedule
    #[command(
        after_help = "Works without a daemon too: the latch is written to the state folder, a running daemon obeys it \
                            within a second, and one that starts comes up latched. `automation rearm` releases it."
    )]
    Shutdown {
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        reason: String,
        /// Time that runtimes have to end by themselves, at most 300 s; `0s` kills at once [default: as each says]
        #[arg(long, value_name = "TIME", value_parser = time)]
        grace: Option<Duration>,
    },
    /// Release the kill switch; runtimes stay ended and no lease comes back, schedules go on with their next time
    Rearm {
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        reason: String,
    },
}

fn lease(text: &str) -> Result<LeaseId, IdFault> {
    LeaseId::parse(text)
}

fn time(text: &str) -> Result<Duration, String> {
    crate::config::parse_time(text).ok_or_else(|| "a time is written like `90s`, `30m`, `8h` or `2d`".to_owned())
}
