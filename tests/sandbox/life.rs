//! What happens to a sandbox after its launch: signals, ends, survivors, owners that go and come.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use arw::sandbox::{Control, End, Exit, LaunchError, ProfileName, Step};

use crate::support::{Extra, PATIENCE, plan, run, start, start_piped, start_with, workload};

/// A command that says `ready` and then waits for a signal.
const WAITS: &str = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done";

/// Waits until the command has said a line.
fn hear(out: File) -> (String, BufReader<File>) {
    let mut reader = BufReader::new(out);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    (line, reader)
}

#[test]
fn a_signal_reaches_the_command_and_its_answer_is_the_exit_code() {
    let (running, read) = start_piped(&plan(ProfileName::Standard, &["sh", "-c", WAITS]));
    let (line, mut rest) = hear(read);
    assert_eq!(line, "ready\n");
    running.launched.control.signal(libc::SIGTERM).expect("signal");
    let mut said = String::new();
    rest.read_to_string(&mut said).expect("the rest");
    assert_eq!(said, "caught\n");
    assert_eq!(running.launched.control.wait().expect("wait"), End::Exit(Exit::Code(3)));
}

#[test]
fn a_command_killed_by_a_signal_says_which() {
    let ended = run(&plan(ProfileName::Standard, &["sh", "-c", "kill -SEGV $$"]));
    assert_eq!(ended.end, End::Exit(Exit::Signal(libc::SIGSEGV)));
}

/// A grandchild in a session of its own, its parent gone, holding the output open: it ends with the command.
#[test]
fn nothing_survives_the_command() {
    let script = "setsid sh -c 'trap \"\" TERM HUP INT; echo daemon; while :; do sleep 1; done' & sleep 0.1; exit 0";
    let (mut running, mut read) = start_piped(&plan(ProfileName::Standard, &["sh", "-c", script]));
    assert_eq!(running.finish().end, End::Exit(Exit::Code(0)));
    let mut said = String::new();
    // The end of the file comes only when nobody holds the other end any more.
    read.read_to_string(&mut said).expect("end of file");
    assert_eq!(said, "daemon\n");
}

#[test]
fn the_kill_of_the_init_ends_everything_inside() {
    let (running, mut read) =
        start_piped(&plan(ProfileName::Standard, &["sh", "-c", "sleep 1000 & echo up; sleep 1000"]));
    let began = Instant::now();
    running.launched.kill(PATIENCE).expect("killed");
    read.read_to_string(&mut String::new()).expect("end of file");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(running.launched.control.wait().expect("wait"), End::Lost);
}

/// A foreground command must not outlive the one who asked for it, however that one ended.
#[test]
fn a_sandbox_ends_when_its_owner_is_gone() {
    let (running, mut read) = start_piped(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let (pidfd, control) = running.into_parts();
    drop(control);
    crate::support::wait_for(&pidfd);
    assert_eq!(read.read_to_string(&mut String::new()).expect("end of file"), 0);
}

#[test]
fn what_is_required_and_not_there_refuses_the_launch_and_leaves_nothing() {
    let mut plan = plan(ProfileName::Standard, &["sh", "-c", "echo ran"]);
    plan.require.push(Control::Cgroup);
    match start(&plan) {
        Err(LaunchError::Step(fault)) => {
            assert_eq!(fault.step, Step::Require);
            assert!(fault.detail.contains("cgroup is unavailable"), "{fault}");
        }
        other => panic!("{:?}", other.map(|_| ()).err()),
    }
}

#[test]
fn a_failing_step_is_named_with_what_it_was_about() {
    let mut missing = workload(&["true"]);
    missing.workspaces.push(arw::sandbox::profile::Workspace {
        source: "/nonexistent/folder".into(),
        target: "/work".into(),
        access: arw::sandbox::plan::Access::ReadWrite,
        owner: arw::sandbox::plan::Owner::Host,
    });
    let plan = arw::sandbox::Profile::embedded(ProfileName::Standard).plan(&missing).expect("plan");
    match start(&plan) {
        Err(LaunchError::Step(fault)) => {
            assert_eq!((fault.step, fault.errno), (Step::BindSource, libc::ENOENT));
            assert_eq!(fault.detail, "/nonexistent/folder");
        }
        other => panic!("{:?}", other.map(|_| ()).err()),
    }
}

/// With a terminal of its own the command has job control, and the keys of that terminal reach it and nobody else.
#[test]
fn a_terminal_of_its_own_controls_the_command() {
    use std::io::Write;
    let pair = nix::pty::openpty(None, None).expect("terminal");
    let mut workload =
        workload(&["sh", "-c", "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.05; done"]);
    workload.terminal = arw::sandbox::plan::Terminal::Own;
    let plan = arw::sandbox::Profile::embedded(ProfileName::Strict).plan(&workload).expect("plan");
    let extra = Extra { input: Some(pair.slave.as_fd()), out: Some(pair.slave.as_fd()), ..Extra::default() };
    let running = start_with(&plan, &extra).expect("launch");
    drop(pair.slave);
    let mut keys = File::from(pair.master.try_clone().expect("clone"));
    let (line, mut rest) = hear(File::from(pair.master));
    assert_eq!(line.trim_end(), "ready");
    keys.write_all(&[3]).expect("ctrl-c");
    assert_eq!(running.launched.control.wait().expect("wait"), End::Exit(Exit::Code(4)));
    let mut said = String::new();
    let _ = rest.read_line(&mut said);
    assert!(said.contains("interrupted"), "{said:?}");
}

#[test]
fn an_open_folder_is_no_standard_stream() {
    let folder = File::open("/usr").expect("folder");
    let extra = Extra { input: Some(folder.as_fd()), ..Extra::default() };
    match start_with(&plan(ProfileName::Standard, &["true"]), &extra) {
        Err(LaunchError::Step(fault)) => assert_eq!(fault.step, Step::Streams),
        other => panic!("{:?}", other.map(|_| ()).err()),
    }
}

/// One launcher serves every thread of a daemon.
#[test]
fn launches_from_many_threads_do_not_mix() {
    std::thread::scope(|scope| {
        let one = |number: usize| {
            let ended = run(&plan(ProfileName::Strict, &["sh", "-c", &format!("echo {number}; exit {number}")]));
            assert_eq!(ended.end, End::Exit(Exit::Code(i32::try_from(number).expect("small"))));
            assert_eq!(ended.said, format!("{number}\n"));
        };
        (1..9).map(|number| scope.spawn(move || one(number))).collect::<Vec<_>>().into_iter().for_each(|thread| {
            thread.join().expect("no panic");
        });
    });
}

/// An init is small, and what it executes is as on the host.
#[test]
fn an_init_has_small_pages_only_and_its_command_what_the_host_gives() {
    let huge = |status: &str| status.lines().find(|line| line.starts_with("THP_enabled")).map(str::to_owned);
    let Some(own) = huge(&std::fs::read_to_string("/proc/self/status").expect("status")) else {
        println!("SKIP: this kernel does not tell (before Linux 5.0)");
        return;
    };
    let argv = ["sh", "-c", "grep THP_enabled /proc/self/status; exec sleep 60"];
    let (running, said) = start_piped(&plan(ProfileName::Compat, &argv));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).expect("a line");
    assert_eq!(line.trim_end(), own);
    let init = std::fs::read_to_string(format!("/proc/{}/status", running.launched.pid)).expect("status");
    assert_eq!(huge(&init).as_deref(), Some("THP_enabled:\t0"), "{init}");
    running.launched.kill(PATIENCE).expect("ended");
}
