//! The walls that the daemon puts around itself, tried from inside: a process enters them as the daemon does and then
//! attempts what they are there to stop.
//!
//! Not a libtest harness: walls are entered by a process with one thread, and each attempt is a process of its own, this
//! very program executed again. Every attempt is made twice, without the walls first: one that the host itself refuses
//! proves nothing and is a `SKIP`. As root it all runs a second time as an ordinary user.
#![allow(clippy::unwrap_used)]

mod attempts;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use arw::sandbox::confine::{self, Bounds, Capability, Reach, WALLS, Walls};
use arw::sandbox::{Control, Report, State};

use attempts::{ATTEMPTS, Attempt, Kind};

/// A user id that no account of a development machine has.
const NOBODYS: u32 = 64_243;
/// Words of a re-execution's command line.
const ATTEMPT: &str = "--attempt-of-confine";
const LOOK: &str = "--look-at-confine";
const THREADED: &str = "--threaded-confine";
const ORDINARY: &str = "--ordinary-confine";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [ATTEMPT, name, folder, walls] => attempt(name, &Places::at(Path::new(folder)), *walls == "walls"),
        [LOOK, folder] => look(&Places::at(Path::new(folder))),
        [THREADED, folder] => threaded(&Places::at(Path::new(folder))),
        [ORDINARY] => run(&[]),
        _ if words.contains(&"--list") => {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            ExitCode::SUCCESS
        }
        // `cargo test <filter>` hands its filter to every test binary.
        _ => run(&words.into_iter().filter(|word| !word.starts_with('-')).collect::<Vec<_>>()),
    }
}

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("what_the_walls_stop_is_done_without_them_and_refused_inside", every_attempt),
    ("what_is_measured_is_what_the_kernel_shows_of_every_thread", measured),
    ("a_process_with_two_threads_does_not_enter", two_threads),
    ("it_all_holds_for_an_ordinary_user_too", ordinary),
];

fn run(filters: &[&str]) -> ExitCode {
    let mut failed = 0;
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter)) {
            continue;
        }
        let held = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if held { "ok" } else { "FAILED" });
        failed += usize::from(!held);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The folders of one trial.
pub(crate) struct Places {
    /// Written.
    pub(crate) own: PathBuf,
    /// Read: `file` lies there.
    pub(crate) read: PathBuf,
    /// Sockets are made there.
    pub(crate) sockets: PathBuf,
    /// No rule names it: `secret` and the program `true` lie there.
    pub(crate) outside: PathBuf,
}

impl Places {
    fn at(folder: &Path) -> Self {
        let inside = |name: &str| folder.join(name);
        Self { own: inside("own"), read: inside("read"), sockets: inside("sockets"), outside: inside("outside") }
    }

    fn make(folder: &Path) -> Self {
        let places = Self::at(folder);
        for made in [&places.own, &places.own.join("deeper"), &places.read, &places.sockets, &places.outside] {
            fs::create_dir(made).unwrap();
        }
        fs::write(places.read.join("file"), "to be read").unwrap();
        fs::write(places.outside.join("secret"), "hunter2").unwrap();
        for program in [places.own.join("true"), places.outside.join("true")] {
            fs::copy("/bin/true", &program).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        places
    }

    fn bounds(&self) -> Bounds {
        let mut files = vec![
            (self.own.clone(), Reach::Write),
            (self.read.clone(), Reach::Read),
            (self.sockets.clone(), Reach::Listen),
            (PathBuf::from("/dev/null"), Reach::Device),
            (self.own.join("absent"), Reach::Write),
        ];
        files.extend(["/proc", "/sys", "/usr", "/lib", "/lib64"].map(|path| (PathBuf::from(path), Reach::Read)));
        Bounds { files, capabilities: BTreeSet::from([Capability::Kill]), abstract_sockets: false }
    }

    fn enter(&self) -> Walls {
        confine::enter(&self.bounds())
    }
}

fn again(words: &[&str]) -> Output {
    Command::new(env::current_exe().unwrap()).args(words).output().unwrap()
}

/// One attempt, in this process: 0 when it was done, 1 when it was refused.
fn attempt(name: &str, places: &Places, walls: bool) -> ExitCode {
    let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).expect("an attempt");
    // For as long as it is attempted: the walls keep a socket to measure with.
    let _walls = walls.then(|| places.enter());
    match (attempt.run)(places) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            println!("{fault}");
            ExitCode::from(1)
        }
    }
}

fn tried(attempt: &Attempt, walls: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    Places::make(folder.path());
    let stranger = attempts::stranger();
    let output = again(&[ATTEMPT, attempt.name, folder.path().to_str().unwrap(), walls]);
    drop(stranger);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        _ => panic!("{} {walls}: {output:?}", attempt.name),
    }
}

fn every_attempt() {
    let report = report();
    let mut wrong = Vec::new();
    for attempt in ATTEMPTS {
        let (bare, inside) = (tried(attempt, "bare"), tried(attempt, "walls"));
        let lacks = attempt.wall.filter(|wall| matches!(report.state(*wall), None | Some(State::Unavailable(_))));
        match (attempt.kind, bare, inside) {
            (_, Err(host), _) => println!("SKIP {}: this host refuses it by itself: {host}", attempt.name),
            _ if lacks.is_some() => println!("SKIP {}: this kernel has no {}", attempt.name, lacks.unwrap()),
            (Kind::Stopped, Ok(()), Ok(())) => wrong.push(format!("{} was done inside", attempt.name)),
            (Kind::Needed, Ok(()), Err(fault)) => wrong.push(format!("{} was refused inside: {fault}", attempt.name)),
            (Kind::Stopped, Ok(()), Err(_)) | (Kind::Needed, Ok(()), Ok(())) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Enters, starts threads, and prints what is measured and what the kernel shows.
fn look(places: &Places) -> ExitCode {
    let walls = places.enter();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let held = std::sync::Arc::clone(&held);
            std::thread::spawn(move || held.lock().unwrap().recv().is_err())
        })
        .collect();
    println!("{}", serde_json::to_string(&walls.measure()).unwrap());
    let faults: Vec<String> = walls.faults().iter().map(ToString::to_string).collect();
    println!("{}", serde_json::to_string(&faults).unwrap());
    for entry in fs::read_dir("/proc/self/task").unwrap() {
        let status = fs::read_to_string(entry.unwrap().path().join("status")).unwrap();
        let shown = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let names = ["NoNewPrivs:", "Seccomp:", "CapPrm:", "CapEff:", "CapInh:", "CapAmb:", "CapBnd:"];
        println!("{}", names.map(shown).join(" "));
    }
    drop(hold);
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    ExitCode::SUCCESS
}

fn looked() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    Places::make(folder.path());
    let output = again(&[LOOK, folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn report() -> Report {
    serde_json::from_str(&looked()[0]).unwrap()
}

fn measured() {
    let lines = looked();
    let report: Report = serde_json::from_str(&lines[0]).unwrap();
    let found: Vec<Control> = report.findings.iter().map(|finding| finding.control).collect();
    assert_eq!(found, WALLS);
    assert_eq!(lines[1], "[]", "no step failed");
    let threads = &lines[2..];
    assert_eq!(threads.len(), 4, "{threads:?}");
    let root = nix::unistd::geteuid().is_root();
    let kill = "0000000000000020";
    let none = "0000000000000000";
    let held = if root { kill } else { none };
    for thread in threads {
        assert!(thread.starts_with(&format!("1 2 {held} {held} {none} {none} ")), "{thread}");
        if root {
            assert!(thread.ends_with(kill), "the bounding set: {thread}");
        }
    }
    for wall in [Control::Seccomp, Control::NoNewPrivs] {
        assert_eq!(report.state(wall), Some(&State::Enforced));
    }
    match report.state(Control::Capabilities) {
        Some(State::Enforced) if root => {}
        Some(State::Partial(why)) if !root => assert!(why.contains("bounding"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Tries to enter beside another thread, and prints what is measured.
fn threaded(places: &Places) -> ExitCode {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || held.recv().is_err());
    let walls = places.enter();
    println!("{}", serde_json::to_string(&walls.measure()).unwrap());
    println!("{}", walls.faults().first().unwrap());
    drop(hold);
    assert!(other.join().unwrap());
    ExitCode::SUCCESS
}

fn two_threads() {
    let folder = tempfile::tempdir().unwrap();
    Places::make(folder.path());
    let output = again(&[THREADED, folder.path().to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap();
    let report: Report = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert!(said.contains("other threads have started before"), "{said}");
    let walls = report.findings.iter().filter(|finding| finding.control != Control::NoNewPrivs);
    for finding in walls.filter(|finding| finding.control != Control::Capabilities) {
        assert!(matches!(finding.state, State::Unavailable(_)), "{finding:?}");
    }
}

fn ordinary() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: this is the ordinary user's run");
        return;
    }
    let program = env::current_exe().unwrap();
    let reachable = Command::new("test").arg("-x").arg(&program).uid(NOBODYS).gid(NOBODYS).status();
    if !reachable.is_ok_and(|status| status.success()) {
        println!("SKIP: the build folder is closed to other users");
        return;
    }
    let mut command = Command::new(program);
    let output = command.arg(ORDINARY).env("TMPDIR", "/tmp").current_dir("/").uid(NOBODYS).gid(NOBODYS).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().for_each(|line| println!("  ordinary user: {line}"));
}
