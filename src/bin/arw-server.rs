//! The daemon: egress proxy, ledger and control API in one process.

use std::path::PathBuf;
use std::process::ExitCode;

use arw::config::{Environment, Overrides};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Guardrail Gateway: decides and records every outbound connection of this host's automations.
///
/// Without options it runs on embedded defaults and, while no persona is configured, shows itself with a
/// demonstration persona and origin. Settings come from a file and from ARW_* variables; docs/configuration.md
/// lists them.
#[derive(Debug, Parser)]
#[command(name = "arw-server", version)]
struct Arguments {
    /// Settings file; must exist.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder that holds `personas/`.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Folder for the ledger, keys and sockets.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Log filter, such as `info` or `arw=debug`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Check settings and personas, report every fault, and exit without starting anything.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    // A launcher or a self-test of a sandbox is this same program, executed again.
    arw::sandbox::stage::intercept(std::env::args_os());
    let arguments = Arguments::parse();
    let environment = Environment::capture();
    let overrides = Overrides {
        config_file: arguments.config,
        config_dir: arguments.config_dir,
        state_dir: arguments.state_dir,
        log_filter: arguments.log,
    };
    let loaded = match arw::config::load(&overrides, &environment) {
        Ok(loaded) => loaded,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = if arguments.check { arw::daemon::check(&loaded) } else { arw::daemon::run(loaded, &environment) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("arw-server: {fault:#}");
            ExitCode::FAILURE
        }
    }
}
