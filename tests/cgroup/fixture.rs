//! A leaf for one test, processes in it, and the certain end of both.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arw::sandbox::cgroup::{Applied, Cgroups, Control, Leaf, Limits, Outcome, Roots};

/// How long something that takes milliseconds is waited for on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A leaf that ends with the test.
pub(crate) struct Ground {
    pub(crate) cgroups: Cgroups,
    pub(crate) leaf: Leaf,
    children: Vec<Child>,
}

/// Where the tests make their groups: below our own, in a folder that names this process.
pub(crate) fn roots() -> Roots {
    Roots { folder: format!("arw-test-{}", std::process::id()), ..Roots::default() }
}

impl Ground {
    /// A leaf of this name; `None`, with the reason printed, when this host has none for us.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let cgroups = Cgroups::discover(&roots()).expect("the tables of /proc");
        match cgroups.leaf(name) {
            Ok(leaf) => Some(Self { cgroups, leaf, children: Vec::new() }),
            Err(fault) => {
                println!("SKIP {name}: {fault}");
                None
            }
        }
    }

    /// What ends `leaf` with the test.
    pub(crate) fn of(leaf: Leaf) -> Self {
        Self { cgroups: Cgroups::discover(&roots()).expect("the tables of /proc"), leaf, children: Vec::new() }
    }

    /// Applies limits; `None`, with the reason printed, when `needed` could not be enforced here.
    pub(crate) fn limited(name: &str, limits: &Limits, needed: Control) -> Option<Self> {
        let ground = Self::new(name)?;
        let applied = ground.leaf.apply(limits);
        match outcome(&applied, needed) {
            Outcome::Enforced => Some(ground),
            other => {
                println!("SKIP {name}: {needed:?} is {other:?}");
                None
            }
        }
    }

    /// Starts a shell that is in the leaf before it runs `script`.
    pub(crate) fn sh(&mut self, script: &str) -> u32 {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("shell");
        self.leaf.admit(child.id()).expect("admitted");
        let pid = child.id();
        child.stdin.take().expect("piped").write_all(b"go\n").expect("told");
        self.children.push(child);
        pid
    }

    /// Waits for the last shell and gives the signal that ended it, or its code below zero.
    pub(crate) fn end(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let child = self.children.last_mut().expect("started");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("child") {
                return status.signal().unwrap_or_else(|| -status.code().unwrap_or(0));
            }
            assert!(Instant::now() < deadline, "the shell did not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // All of it is tried, and told only afterwards: nothing may be left behind.
        let killed = self.leaf.kill(PATIENCE);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let removed = self.leaf.remove(PATIENCE);
        let tidied = self.cgroups.tidy();
        if !std::thread::panicking() {
            killed.expect("killed");
            removed.expect("removed");
            tidied.expect("tidied");
            assert!(self.leaf.place().paths().all(|path| !path.exists()), "groups are left");
        }
    }
}

/// What became of one control.
pub(crate) fn outcome(applied: &[Applied], control: Control) -> Outcome {
    applied.iter().find(|one| one.control == control).expect("reported").outcome.clone()
}

/// Waits until `done`.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The state letter of a process (`R`, `S`, `D`, `Z`…); `None` when it is gone.
pub(crate) fn state(pid: i32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process is gone, a dead one that nobody waited for included.
pub(crate) fn is_gone(pid: i32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}
