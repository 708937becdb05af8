//! The daemon: egress proxy, ledger and control API in one process.

use std::process::ExitCode;

use arw::config::{Environment, Overrides};
use arw::ui::args::ServerArguments;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A launcher or a self-test of a sandbox is this same program, executed again.
    arw::sandbox::stage::intercept(std::env::args_os());
    let arguments = ServerArguments::parse();
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
