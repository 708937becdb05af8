//! Launches, ends, and what the caller hears of them.

use std::os::fd::AsFd;
use std::path::Path;

use arw::sandbox::{
    Control, End, Entry, Exit, LaunchError, Launcher, ListenerRole, Profile, ProfileName, State, Step, Streams,
};

use crate::support::{PATIENCE, plan, run, start};

#[test]
fn a_command_runs_in_every_profile_and_its_exit_code_comes_back() {
    for profile in ProfileName::ALL.iter().copied() {
        let ended = run(&plan(profile, &["sh", "-c", "echo hello; exit 7"]));
        assert_eq!(ended.end, End::Exit(Exit::Code(7)), "{profile:?}: {}", ended.said);
        assert_eq!(ended.said, "hello\n");
    }
}

#[test]
fn the_report_is_measured_and_what_is_required_is_enforced() {
    let mut running = start(&plan(ProfileName::Strict, &["true"])).expect("launch");
    let report = running.launched.report.clone();
    println!("{report}");
    assert_eq!(report.findings.len(), Control::ALL.len());
    for control in [Control::NetworkNamespace, Control::Seccomp, Control::Capabilities, Control::Root] {
        assert_eq!(report.state(control), Some(&State::Enforced), "{report}");
    }
    running.finish();
}

#[test]
fn listeners_come_out_and_a_client_inside_reaches_them() {
    use std::io::{Read, Write};
    let argv = ["curl", "-sS", "-m", "10", "http://allowed.example/"];
    let mut running = start(&plan(ProfileName::Standard, &argv)).expect("launch");
    let place = running.launched.listeners.iter().position(|(listener, _)| listener.role == ListenerRole::Proxy);
    let (_, socket) = running.launched.listeners.swap_remove(place.expect("a proxy listener"));
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(false).expect("blocking");
    let (mut client, _) = listener.accept().expect("accept");
    let mut head = [0; 512];
    let len = client.read(&mut head).expect("read");
    assert!(head[..len].starts_with(b"GET http://allowed.example/ HTTP/1.1\r\n"));
    client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfound").expect("write");
    let ended = running.finish();
    assert_eq!((ended.end, ended.said.as_str()), (End::Exit(Exit::Code(0)), "found"));
}

#[test]
fn a_command_that_is_not_there_names_the_step() {
    match start(&plan(ProfileName::Standard, &["no-such-command"])) {
        Err(LaunchError::Step(fault)) => {
            assert_eq!((fault.step, fault.errno), (Step::Exec, libc::ENOENT));
        }
        other => panic!("{:?}", other.err()),
    }
}

/// The daemon's program has another allocator and its own `main`; it is a launcher all the same, and a sandbox goes on
/// when the launcher that made it is gone.
#[test]
fn the_daemons_program_launches_too_and_its_sandboxes_outlive_it() {
    let null = std::fs::File::open("/dev/null").expect("null");
    let streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
    let launcher = Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-server"))).expect("launcher");
    let launched = launcher.launch(&plan(ProfileName::Strict, &["sleep", "1000"]), &streams).expect("launch");
    drop(launcher);
    launched.control.signal(libc::SIGTERM).expect("the init is there");
    assert_eq!(launched.control.wait().expect("wait"), End::Exit(Exit::Signal(libc::SIGTERM)));
    launched.wait_until_gone(PATIENCE).expect("gone");
}

#[test]
fn a_program_that_is_no_stage_is_found_out() {
    let null = std::fs::File::open("/dev/null").expect("null");
    let streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
    let launcher = Launcher::start_from(Path::new("/bin/true")).expect("it starts");
    assert!(launcher.launch(&plan(ProfileName::Strict, &["true"]), &streams).is_err());
    assert!(Launcher::start_from(Path::new("/nonexistent")).is_err());
}

#[test]
fn an_init_made_ahead_serves_the_plan_that_fits_it_and_no_other() {
    let null = std::fs::File::open("/dev/null").expect("null");
    let streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
    let launcher = Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher");
    let mut other = plan(ProfileName::Strict, &["true"]);
    other.without.push(Control::IpcNamespace);
    other.require.clear();
    let whole = plan(ProfileName::Strict, &["true"]);
    for (plan, ipc) in [(&whole, true), (&other, false), (&whole, true)] {
        launcher.prepare(whole.user, Profile::embedded(ProfileName::Strict), &Entry::default()).expect("launcher");
        launcher.prepare(whole.user, Profile::embedded(ProfileName::Strict), &Entry::default()).expect("twice is once");
        let launched = launcher.launch(plan, &streams).expect("launch");
        let state = launched.report.state(Control::IpcNamespace);
        assert_eq!(state == Some(&State::Enforced), ipc, "{}", launched.report);
        assert_eq!(launched.control.wait().expect("wait"), End::Exit(Exit::Code(0)));
        launched.wait_until_gone(PATIENCE).expect("gone");
    }
}
