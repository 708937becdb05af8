//! What an operator watches and ships: the series, the rules and dashboards over them, the exports, the example folders.
//! Foreign programs (Prometheus, promtool, amtool) are the real ones; where they are missing a test prints SKIP and why.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod collector;
mod documents;
mod examples;
mod exposition;
mod files;
mod ocsf;
mod otlp;
mod prometheus;
mod promql;
mod rules;
mod series;

use std::process::Command;

/// What even a CI machine may lack: as an ordinary user nothing is installed there.
const MAY_BE_MISSING_IN_CI: &[&str] = &["prometheus", "promtool", "amtool"];

/// The foreign program `name`, or a SKIP. In CI only what is on the list may be missing.
fn program(name: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci || MAY_BE_MISSING_IN_CI.contains(&name), "`{name}` has to be there in CI");
        println!("SKIP: {name} is not installed");
    }
    found.map(|path| {
        let mut command = Command::new(path);
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(std::process::Stdio::null());
        command
    })
}

/// Runs a foreign program that must end well; what it said.
#[track_caller]
fn well(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{said}");
    said
}
