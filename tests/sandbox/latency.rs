//! How long a launch takes, beside bubblewrap in the same run.
//!
//! `cargo test --test sandbox -- --ignored --nocapture latency`

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arw::sandbox::{End, Entry, Exit, Launcher, Plan, Profile, ProfileName, Streams};

use crate::support::{PATIENCE, launcher, plan};

/// Enough for a median that is stable to a tenth on a shared machine.
const ROUNDS: usize = 60;

/// From the request to the end of `/bin/true`, which says nothing else than that it ran.
fn launch(launcher: &Launcher, plan: &Plan) -> (Duration, Duration) {
    let null = File::options().read(true).write(true).open("/dev/null").expect("null");
    let streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
    let began = Instant::now();
    let launched = launcher.launch(plan, &streams).expect("launch");
    let running = began.elapsed();
    assert_eq!(launched.control.wait().expect("wait"), End::Exit(Exit::Code(0)));
    let ended = began.elapsed();
    launched.wait_until_gone(PATIENCE).expect("gone");
    (running, ended)
}

fn bubblewrap() -> Option<Duration> {
    let began = Instant::now();
    let status = Command::new("bwrap")
        .args([
            "--unshare-all",
            "--ro-bind",
            "/usr",
            "/usr",
            "--symlink",
            "usr/lib",
            "/lib",
            "--symlink",
            "usr/lib64",
            "/lib64",
        ])
        .args([
            "--symlink",
            "usr/bin",
            "/bin",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "--",
            "/bin/true",
        ])
        .stdin(Stdio::null())
        .status()
        .ok()?;
    status.success().then(|| began.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement, for an idle machine"]
fn latency_of_a_launch_beside_bubblewrap() {
    let plan = plan(ProfileName::Standard, &["/bin/true"]);
    let (mut running, mut ended, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
    let (mut fresh, mut other) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (first, whole) = launch(launcher(), &plan);
        running.push(first);
        ended.push(whole);
        launcher().prepare(plan.user, Profile::embedded(ProfileName::Standard), &Entry::default()).expect("launcher");
        std::thread::sleep(Duration::from_millis(5));
        ahead.push(launch(launcher(), &plan).0);
        let began = Instant::now();
        let own = Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher");
        let started = began.elapsed();
        fresh.push(started + launch(&own, &plan).1);
        other.extend(bubblewrap());
    }
    println!("resident launcher: {:?} to the command, {:?} to its end", median(running), median(ended));
    println!("prepared ahead:    {:?} to the command", median(ahead));
    println!("fresh launcher:    {:?} to its end", median(fresh));
    match other.is_empty() {
        true => println!("bubblewrap:        not here"),
        false => println!("bubblewrap:        {:?} to its end", median(other)),
    }
}
