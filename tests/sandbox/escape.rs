//! The self-test: everything holds, and every attempt succeeds once its control is taken away.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use arw::sandbox::check::{Attempt, Attempted, Outcome, Trap, run as check};
use arw::sandbox::{Control, Profile, ProfileName};

use crate::support::{is_root, plan, run, user};

const PROGRAM: &str = env!("CARGO_BIN_EXE_arw-cli");

/// Which controls stand before each attempt under the standard profile. An ordinary user's sandbox never has the
/// privileges that some of them need, so there only the first list can be shown to fail.
const GUARDS: [(Attempt, &[Control]); 14] = [
    (Attempt::DirectTcp, &[Control::NetworkNamespace]),
    (Attempt::DirectUdp, &[Control::NetworkNamespace]),
    (Attempt::FastOpen, &[Control::NetworkNamespace, Control::Seccomp]),
    (Attempt::MultipathTcp, &[Control::NetworkNamespace, Control::Seccomp]),
    (Attempt::IoUring, &[Control::Seccomp]),
    (Attempt::HostFileRead, &[Control::Root, Control::LandlockFiles]),
    (Attempt::HostFileWrite, &[Control::Root, Control::LandlockFiles]),
    (Attempt::HostProcess, &[Control::PidNamespace, Control::Root, Control::LandlockFiles]),
    (Attempt::AbstractSocket, &[Control::NetworkNamespace, Control::LandlockScopes]),
    (Attempt::Capability, &[Control::Capabilities]),
    (Attempt::UserNamespace, &[Control::Seccomp]),
    (Attempt::UserFaults, &[Control::Seccomp]),
    (Attempt::TerminalInput, &[Control::Seccomp]),
    (Attempt::Trace, &[Control::Seccomp]),
];
const GUARDS_OF_ROOT: [(Attempt, &[Control]); 4] = [
    (Attempt::Mount, &[Control::Seccomp, Control::Identity, Control::Capabilities]),
    (Attempt::RawSocket, &[Control::Seccomp, Control::Identity, Control::Capabilities]),
    (Attempt::PacketSocket, &[Control::Seccomp, Control::Identity, Control::Capabilities]),
    (Attempt::NetlinkWrite, &[Control::Identity, Control::Capabilities]),
];

fn read(said: &str) -> Vec<Attempted> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {said}"));
    said.lines().map(line).collect()
}

fn outcome(tried: &[Attempted], attempt: Attempt) -> &Outcome {
    &tried.iter().find(|tried| tried.attempt == attempt).expect("every attempt is made").outcome
}

/// The standard profile's self-test with some controls left out.
fn attempts_without(without: &[Control]) -> Vec<Attempted> {
    let trap = Trap::set().expect("trap");
    let mut plan = plan(ProfileName::Standard, &[]);
    trap.arm(&mut plan, Path::new(PROGRAM)).expect("program");
    plan.without = without.to_vec();
    plan.require = Vec::new();
    let folder = crate::support::folder_of_program();
    if without.contains(&Control::Root) {
        // The host's own root: the program is found by its path, and its folder may be closed to others.
        plan.workdir = "/".into();
        plan.env.retain(|(name, _)| name.as_bytes() != b"PATH");
        plan.argv[0] = "arw-check".into();
        plan.env.push(("PATH".into(), folder.path().display().to_string().into()));
    }
    if without.contains(&Control::NetworkNamespace) {
        plan.network.listeners.clear();
    }
    read(&run(&plan).said)
}

#[test]
fn nothing_escapes_from_any_profile() {
    for profile in ProfileName::ALL.iter().copied() {
        let checked = check(Path::new(PROGRAM), Profile::embedded(profile), user()).expect("self-test");
        for tried in &checked.attempts {
            println!("{profile:?} {tried}");
            assert!(!matches!(tried.outcome, Outcome::Escaped(_)), "{profile:?}: {tried}\n{}", checked.report);
        }
        assert!(checked.held());
    }
}

#[test]
fn each_attempt_succeeds_once_its_controls_are_taken_away() {
    let whole = attempts_without(&[]);
    let of_root: &[(Attempt, &[Control])] = if is_root() { &GUARDS_OF_ROOT } else { &[] };
    for (attempt, controls) in GUARDS.iter().chain(of_root) {
        assert!(matches!(outcome(&whole, *attempt), Outcome::Held(_)), "{:?}", outcome(&whole, *attempt));
        let open = attempts_without(controls);
        assert!(
            matches!(outcome(&open, *attempt), Outcome::Escaped(_)),
            "{attempt} without {controls:?}: {:?}",
            outcome(&open, *attempt)
        );
    }
}

/// The walls behind the wall: with the network namespace gone, the second one still stops what it is for.
#[test]
fn the_second_wall_holds_without_the_first() {
    let open = attempts_without(&[Control::NetworkNamespace]);
    for attempt in [Attempt::FastOpen, Attempt::MultipathTcp, Attempt::AbstractSocket, Attempt::IoUring] {
        assert!(matches!(outcome(&open, attempt), Outcome::Held(_)), "{:?}", outcome(&open, attempt));
    }
    let open = attempts_without(&[Control::Root]);
    for attempt in [Attempt::HostFileRead, Attempt::HostFileWrite] {
        assert!(matches!(outcome(&open, attempt), Outcome::Held(_)), "{:?}", outcome(&open, attempt));
    }
}

/// A self-test that finds nothing anywhere would be worth nothing.
#[test]
fn without_any_sandbox_the_trap_is_reached() {
    let trap = Trap::set().expect("trap");
    let output =
        Command::new(PROGRAM).arg0("arw-check").arg(trap.argument()).stdin(Stdio::null()).output().expect("runs");
    let tried = read(&String::from_utf8(output.stdout).expect("text"));
    for attempt in [
        Attempt::DirectTcp,
        Attempt::DirectUdp,
        Attempt::HostFileRead,
        Attempt::HostFileWrite,
        Attempt::HostProcess,
        Attempt::AbstractSocket,
        Attempt::LeakedDescriptor,
    ] {
        assert!(matches!(outcome(&tried, attempt), Outcome::Escaped(_)), "{:?}", outcome(&tried, attempt));
    }
}
