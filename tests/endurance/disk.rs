//! The disk full under load, and free again: nothing leaves unrecorded, and service resumes by itself.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::crash::witness;
use super::load::{Load, Origin, setup};
use super::support::{Daemon, wait_for};
use super::{executor, skip, turn, verify};

/// Room for some tens of thousands of lines.
const DISK: &str = "size=24m,mode=0700";
/// Tunnels and refusals to see in each phase before the next one.
const ENOUGH: usize = 200;
/// How often the disk fills up.
const ROUNDS: usize = 3;

#[test]
fn a_full_disk_lets_nothing_out_and_service_resumes_by_itself() {
    let _turn = turn();
    // In a thread of its own: a mount namespace belongs to a thread, and ends with it.
    std::thread::spawn(on_a_small_disk).join().unwrap();
}

fn on_a_small_disk() {
    let home = Arc::new(TempDir::new().unwrap());
    let state = home.path().join("state");
    std::fs::create_dir(&state).unwrap();
    if let Err(reason) = mount_small_disk(&state) {
        skip("mount namespace", &reason);
        return;
    }
    trial(Arc::clone(&home), &state);
    let _ = Command::new("umount").arg("-l").arg(&state).status();
}

fn mount_small_disk(at: &Path) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|fault| fault.to_string())?;
    let mount = |arguments: &[&str]| {
        let output = Command::new("mount").args(arguments).output().map_err(|fault| fault.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
    };
    mount(&["--make-rprivate", "/"])?;
    mount(&["-t", "tmpfs", "-o", DISK, "tmpfs", at.to_str().expect("a path of text")])
}

fn trial(home: Arc<TempDir>, state: &Path) {
    let executor = executor();
    let (echo, web) = (Origin::echo(&executor), Origin::web(&executor));
    let gateway = Daemon::start(setup().in_home(home));
    let load = Load::start(&executor, gateway.proxy, &echo, &web);
    let tally = Arc::clone(&load.tally);
    let more = |what: &str, count: &dyn Fn() -> usize| {
        let before = count();
        wait_for(what, || (count() >= before + ENOUGH).then_some(()));
    };
    more("tunnels", &|| tally.opened());
    for round in 0..ROUNDS {
        let filler = state.join("filler");
        fill(&filler);
        more("refusals", &|| tally.unavailable());
        // Whoever got a receipt before the disk was full has dialled by now; from here on nobody does.
        let (reached, refused) = (echo.accepted() + web.said().len(), tally.unavailable());
        more("refusals", &|| tally.unavailable());
        let late = echo.accepted() + web.said().len() - reached;
        println!("round {round}: {} refusals while full, {late} late arrivals", tally.unavailable() - refused);
        std::fs::remove_file(&filler).unwrap();
        more("tunnels after the disk was freed", &|| tally.opened());
    }
    load.stop(&executor);
    assert_eq!(*tally.surprises.lock().unwrap(), [""; 0]);
    assert_eq!(*tally.broken.lock().unwrap(), [""; 0], "everyone was answered");
    witness(&gateway.ledger_lines(), &tally, &echo, &web);
    verify(&gateway);
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
}
