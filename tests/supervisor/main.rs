//! Supervised runtimes: the real daemon, real sandboxes, real programs inside.
//!
//! As root and as an ordinary user. What a host does not have (a controller, user namespaces) is a `SKIP` with its reason.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod automations;
mod budgets;
mod crowd;
mod ends;
mod exec;
mod gpu;
mod health;
mod metrics;
mod network;
mod reload;
mod stage;
mod switch;
mod usage;

/// Whether sandboxes can be made here at all; says why not.
fn can_launch() -> bool {
    let tried = std::process::Command::new(env!("CARGO_BIN_EXE_arw-cli"))
        .args(["sandbox", "check", "--profile", "compat"])
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tried.stderr);
    if said.contains("user namespace") || said.contains("CAP_SYS_ADMIN") {
        println!("SKIP: no sandbox can be made here: {said}");
        return false;
    }
    true
}
