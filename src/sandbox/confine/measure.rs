//! What is in force around the threads of this process.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::sandbox::stage::missing_file_rights;
use crate::sandbox::{Control, Finding, Report, State, seccomp};

use super::files::InForce;
use super::{WALLS, Walls};

/// What `/proc/PID/task/TID/status` says of one thread (`proc_pid_status(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Thread {
    /// Permitted, effective, inheritable and ambient together.
    held: u64,
    bounding: u64,
    no_new_privs: bool,
    /// 2 is a filter.
    seccomp: u32,
}

/// One finding for each of [`WALLS`].
pub(super) fn report(walls: &Walls) -> Report {
    let threads = threads();
    let findings = WALLS.iter().map(|control| {
        let state = match (&threads, control) {
            (_, Control::LandlockFiles) => files(walls),
            (_, Control::LandlockScopes) => walls.scopes.clone(),
            (Err(fault), _) => State::Unavailable(format!("/proc cannot be read: {fault}")),
            (Ok(threads), Control::Seccomp) => seccomp(threads),
            (Ok(threads), Control::Capabilities) => capabilities(threads, walls.kept),
            (Ok(threads), _) => all(threads, |thread| thread.no_new_privs, "it is off"),
        };
        Finding { control: *control, state }
    });
    Report { findings: findings.collect() }
}

/// Every thread as it is now. One that ends meanwhile is left out.
fn threads() -> io::Result<Vec<Thread>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        match fs::read_to_string(entry?.path().join("status")) {
            Ok(text) => found.push(parse(&text).ok_or(io::ErrorKind::InvalidData)?),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            // ESRCH: it ended between the two calls.
            Err(fault) if fault.raw_os_error() == Some(libc::ESRCH) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(found)
}

fn parse(status: &str) -> Option<Thread> {
    let value = |name: &str| {
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next()
    };
    let set = |name: &str| u64::from_str_radix(value(name)?, 16).ok();
    Some(Thread {
        held: set("CapPrm")? | set("CapEff")? | set("CapInh")? | set("CapAmb")?,
        bounding: set("CapBnd")?,
        no_new_privs: value("NoNewPrivs")? == "1",
        seccomp: value("Seccomp")?.parse().ok()?,
    })
}

fn all(threads: &[Thread], holds: impl Fn(&Thread) -> bool, otherwise: &str) -> State {
    match threads.iter().filter(|thread| !holds(thread)).count() {
        0 => State::Enforced,
        open if open == threads.len() => State::Unavailable(otherwise.to_owned()),
        open => State::Unavailable(format!("{otherwise}, for {open} of {} threads", threads.len())),
    }
}

fn seccomp(threads: &[Thread]) -> State {
    match all(threads, |thread| thread.seccomp == 2, "no filter is installed") {
        State::Enforced if !seccomp::is_felt() => {
            State::Unavailable("a filtered call was tried and not refused".to_owned())
        }
        state => state,
    }
}

fn capabilities(threads: &[Thread], kept: u64) -> State {
    let state = all(threads, |thread| thread.held & !kept == 0, "more are held than are needed");
    match state {
        State::Enforced if threads.iter().any(|thread| thread.bounding & !kept != 0) => {
            State::Partial("the bounding set is whole: this user cannot narrow it; nothing can be executed".to_owned())
        }
        state => state,
    }
}

/// A folder that everybody may list, and that no rule of ours names.
const OUTSIDE: &str = "/";

fn files(walls: &Walls) -> State {
    let InForce::Abi(abi) = walls.files else {
        return State::Unavailable("the kernel has no Landlock, or only its first ABI".to_owned());
    };
    if fs::read_dir(OUTSIDE).is_ok() {
        return State::Unavailable("a folder without a rule can be listed".to_owned());
    }
    let missing: Vec<&str> = missing_file_rights(abi).collect();
    match missing.is_empty() {
        true => State::Enforced,
        false => State::Partial(format!("landlock ABI {abi} does not know: {}", missing.join(", "))),
    }
}

/// `stranger` listens outside: whether it can be connected to tells whether the scope is in force.
pub(super) fn scopes(files: InForce, stranger: Option<(OwnedFd, UnixAddr)>) -> State {
    match files {
        InForce::Abi(abi) if abi >= 6 => {}
        InForce::Abi(abi) => return State::Unavailable(format!("landlock ABI {abi} does not know scopes")),
        InForce::Absent => return State::Unavailable("the kernel has no Landlock, or only its first ABI".to_owned()),
    }
    let Some((_listener, address)) = stranger else {
        return State::Unavailable("it cannot be measured: no socket to try".to_owned());
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let tried =
        socket(AddressFamily::Unix, SockType::Stream, flags, None).and_then(|own| connect(own.as_raw_fd(), &address));
    match tried {
        Err(Errno::EPERM) => State::Partial("signals are not held back: runtimes are ended by them".to_owned()),
        other => State::Unavailable(format!("an abstract socket outside was tried: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
                          CapBnd:\t0000000000000020\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn a_thread_is_read_as_the_kernel_shows_it() {
        let thread = parse(STATUS).expect("a status");
        assert_eq!(thread, Thread { held: 0x20, bounding: 0x20, no_new_privs: true, seccomp: 2 });
        assert_eq!(parse(&STATUS.replace("CapAmb", "CapOther")), None);
    }

    #[test]
    fn one_thread_outside_is_enough_to_say_so() {
        let inside = parse(STATUS).expect("a status");
        let outside = Thread { seccomp: 0, no_new_privs: false, held: u64::MAX, bounding: u64::MAX };
        let threads = [inside.clone(), outside.clone()];
        let state = all(&threads, |thread| thread.no_new_privs, "it is off");
        assert_eq!(state, State::Unavailable("it is off, for 1 of 2 threads".to_owned()));
        assert!(matches!(seccomp(&threads), State::Unavailable(_)));
        assert!(matches!(capabilities(&threads, 0x20), State::Unavailable(_)));
        assert_eq!(capabilities(std::slice::from_ref(&inside), 0x20), State::Enforced);
        assert!(matches!(capabilities(std::slice::from_ref(&inside), 0), State::Unavailable(_)));
        let whole = Thread { bounding: u64::MAX, ..inside };
        assert!(matches!(capabilities(&[whole], 0x20), State::Partial(_)));
    }
}
