//! One file per group of commands. Each asks the daemon or reads files, and shows the answer.

mod admin;
mod alerts;
mod automation;
mod bundles;
mod confinement;
mod consent;
mod context;
mod contributions;
mod events;
mod exec;
mod gate;
mod generate;
mod incident;
mod kill_switch;
mod ledger;
mod lines;
mod persona;
mod plan;
mod policy;
mod proposals;
mod recipes;
mod runtime;
mod signing;
mod status;

use super::args::{Cli, Command};
use super::{Failure, Outcome, Screen};
use crate::config::Environment;
use context::Context;

/// Does what the command line says.
///
/// # Errors
/// The failure to show, with the exit status.
pub async fn run(cli: Cli, env: &Environment, screen: &mut Screen) -> Result<Outcome, Failure> {
    let context = Context::new(&cli.global, env)?;
    let outcome = match cli.command {
        Command::Status => status::status(&context, screen).await,
        Command::Health => status::health(&context, screen).await,
        Command::Confinement => confinement::run(&context, screen).await,
        Command::Ledger(command) => ledger::run(command, &context, screen).await,
        Command::Egress(command) => gate::run(command, &context, screen).await,
        Command::Persona(command) => persona::run(command, &context, screen).await,
        Command::Policy(command) => policy::run(command, &context, screen).await,
        Command::Consent(command) => consent::run(&command, &context, screen),
        Command::Recipes(command) => recipes::run(command, &context, screen).await,
        Command::Runtime(command) => runtime::run(command, &context, screen).await,
        Command::Admin(command) => admin::run(command, &context, screen).await,
        Command::Alerts(command) => alerts::run(command, &context, screen).await,
        Command::Automation(command) => automation::run(command, &context, screen).await,
        Command::Incident(command) => incident::run(command, &context, screen).await,
        // The program itself runs these: they stand on the floor of the daemon.
        Command::Run(_) | Command::Sandbox(_) => Err(Failure::new("this command needs the program itself")),
        Command::Reload { reason } => policy::reload(&context, screen, reason.as_deref()).await,
        Command::Events(args) => events::run(&args, &context, screen).await,
        Command::Completions { shell } => generate::completions(shell, screen),
        Command::Man { dir } => generate::man(dir.as_deref(), screen),
    }?;
    screen.flush()?;
    Ok(outcome)
}
