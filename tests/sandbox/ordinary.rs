//! The same suite as an ordinary user, when it runs as root.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::support::is_root;

/// A user id that no account of a development machine has.
const NOBODYS: u32 = 64_242;

#[test]
fn everything_holds_for_an_ordinary_user_too() {
    if !is_root() {
        println!("SKIP: this is the ordinary user's run");
        return;
    }
    let program = std::env::current_exe().expect("own path");
    let mut reachable = Command::new("test");
    let reachable = reachable.args(["-x"]).args([&program]).arg("-a").arg("-x").arg(env!("CARGO_BIN_EXE_arw-cli"));
    if !reachable.uid(NOBODYS).gid(NOBODYS).status().is_ok_and(|status| status.success()) {
        println!("SKIP: the build folder is closed to other users");
        return;
    }
    let output = Command::new(program)
        .args(["--test-threads=2", "--skip", "ordinary::"])
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .uid(NOBODYS)
        .gid(NOBODYS)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(" 0 failed"), "{said}");
}
