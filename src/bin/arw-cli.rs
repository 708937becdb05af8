//! The client: parses the command line, runs the command, and turns its end into an exit status.

use std::io::Write;
use std::process::ExitCode;

use arw::config::{Environment, Overrides};
use arw::daemon::Ready;
use arw::ui::args::{Cli, Command, SandboxCommand};
use arw::ui::{Failure, Outcome, Screen, commands};
use clap::Parser;

fn main() -> ExitCode {
    // A launcher or a self-test of a sandbox is this same program, executed again.
    arw::sandbox::stage::intercept(std::env::args_os());
    // Ahead of all that takes time: a command is waited for.
    let is_run = std::env::args_os().nth(1).is_some_and(|word| word == "run");
    let ready = is_run.then(Ready::make);
    let cli = Cli::parse();
    let env = Environment::capture();
    let json = cli.global.json;
    let sandboxed = match &cli.command {
        Command::Run(arguments) => {
            let overrides = Overrides { state_dir: cli.global.state_dir.clone(), ..Overrides::default() };
            let ready = ready.unwrap_or_else(Ready::make);
            Some(arw::daemon::run_command(ready, arguments, overrides, &env).map(ExitCode::from))
        }
        Command::Sandbox(SandboxCommand::Check { profile }) => {
            Some(arw::daemon::check_sandbox(*profile).map(|held| ExitCode::from(u8::from(!held))))
        }
        _ => None,
    };
    if let Some(outcome) = sandboxed {
        return outcome.unwrap_or_else(|fault| {
            report(&Failure::new("the sandbox did not run").why(format!("{fault:#}")), json);
            ExitCode::from(1)
        });
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start").why(error))
        .and_then(|executor| {
            let mut screen = Screen::stdout(json, &env);
            executor.block_on(commands::run(cli, &env, &mut screen))
        });
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Ok(Outcome::Passed(code)) => ExitCode::from(code),
        Err(failure) => {
            report(&failure, json);
            ExitCode::from(failure.exit)
        }
    }
}

/// One line on standard error. Nobody is left to tell when even that is closed.
fn report(failure: &Failure, json: bool) {
    if failure.silent {
        return;
    }
    let mut err = std::io::stderr().lock();
    let _ = if json {
        serde_json::to_writer(&mut err, &serde_json::json!({ "error": failure }))
            .map_err(Into::into)
            .and_then(|()| err.write_all(b"\n"))
    } else {
        writeln!(err, "arw-cli: {failure}")
    };
}
