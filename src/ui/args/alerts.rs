//! `alerts …`.

use clap::Subcommand;

use super::remark;
use crate::domain::{AlertId, IdFault, RouteId};

/// `alerts …`.
#[derive(Debug, Subcommand)]
pub enum AlertsCommand {
    /// Show the active alerts, the worst first, and how each route does
    List {
        /// Also those that are over, newest first
        #[arg(long)]
        cleared: bool,
    },
    /// Say that you have seen an alert, and what you do about it
    #[command(
        after_help = "Nobody is waited for any more. An alert that tells of a moment is over then; one that tells of \
                            something that lasts stays active until that is over."
    )]
    Ack {
        /// Its id
        #[arg(value_parser = alert)]
        id: AlertId,
        /// What you do about it; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        note: String,
    },
    /// Send a trial by a route, and show whether its sink took it
    Test {
        /// Its name, as in alerts.toml
        #[arg(value_parser = route)]
        route: RouteId,
    },
}

fn alert(text: &str) -> Result<AlertId, IdFault> {
    AlertId::parse(text)
}

fn route(text: &str) -> Result<RouteId, IdFault> {
    RouteId::parse(text)
}
