//! What must hold for long, under load and across crashes: no tunnel without its record, no byte changed, no
//! descriptor lost, no request let through while the policy changes.
//!
//! Each trial has the machine to itself; together they take under three minutes on two cores.
//! `ARW_TRIAL_MIB` sets the size of the large transfer (default 1024).
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod disk;
mod idle;
mod load;
mod reload;
mod soak;
mod transfer;

use std::sync::{Mutex, MutexGuard, PoisonError};

use support::Daemon;
use tokio::runtime::Runtime;

/// What even a CI machine may refuse us.
const MAY_BE_MISSING_IN_CI: &[&str] = &["descriptor limit", "mount namespace", "descriptors of the daemon"];

/// Says why something was not tried. In CI only what is on the list may be missing.
#[track_caller]
fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci || MAY_BE_MISSING_IN_CI.contains(&name), "`{name}` has to be there in CI: {reason}");
}

/// The machine for one trial, one after the other: load that fights other load proves little.
fn turn() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A trial that failed leaves nothing behind that the next one would stumble over.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn executor() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Demands that the ledger is whole: to the library, and to the operator's command.
#[track_caller]
fn verify(gateway: &Daemon) {
    let report = arw::ledger::verify(&gateway.state_dir().join("ledger"), &mut |_| {}).unwrap();
    assert!(report.is_sound(), "{report:#?}");
    let said = gateway.cli(&["ledger", "verify"]);
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
}
