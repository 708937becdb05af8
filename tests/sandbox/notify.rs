//! `NOTIFY_SOCKET`: what a runtime may say to its supervisor, and how little that is.

use std::os::fd::OwnedFd;

use arw::sandbox::notify::{Message, Notice, Notifications};
use arw::sandbox::profile::Workload;
use arw::sandbox::{Control, LaunchError, Plan, Profile, ProfileName, Step, Text};

use crate::support::{PATIENCE, Running, start, workload};

fn plan_of(profile: ProfileName, argv: &[&str]) -> Plan {
    let mut workload = Workload { notify: true, ..workload(argv) };
    // A manager's socket of the caller does not get in.
    workload.env.push((Text::from("NOTIFY_SOCKET"), Text::from("/run/systemd/notify")));
    Profile::embedded(profile).plan(&workload).expect("plan")
}

fn launch(plan: &Plan) -> (Running, Notifications) {
    let mut running = start(plan).unwrap_or_else(|fault| panic!("{fault}"));
    let socket: OwnedFd = running.launched.notify.take().expect("a socket");
    (running, Notifications::new(socket).expect("a runtime"))
}

async fn next(notifications: &mut Notifications) -> Message {
    tokio::time::timeout(PATIENCE, notifications.next()).await.expect("in time").expect("a message")
}

const SPEAKS: &str = r#"
import os, socket, sys
place = os.environ["NOTIFY_SOCKET"]
def say(text, *more):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.connect(place)
    return s.sendmsg([text.encode()], *more)
say("READY=1\nSTATUS=up \x1b[31m")
if os.fork() == 0:
    os.setsid()
    say("WATCHDOG=1")
    os._exit(0)
os.wait()
"#;

#[tokio::test]
async fn every_process_of_every_profile_is_heard() {
    for profile in ProfileName::ALL.iter().copied() {
        let (mut running, mut notifications) = launch(&plan_of(profile, &["python3", "-c", SPEAKS]));
        let first = next(&mut notifications).await;
        assert_eq!(first.notices, [Notice::Ready, Notice::Status("up [31m".to_owned())], "{profile:?}");
        assert!(first.pid > 0);
        let second = next(&mut notifications).await;
        assert_eq!(second.notices, [Notice::Watchdog]);
        assert_ne!(second.pid, first.pid);
        running.finish();
    }
}

/// The command cannot put a socket of its own in the place, take it away or close it to others.
#[tokio::test]
async fn the_socket_cannot_be_replaced_from_inside() {
    let script = "d=$(dirname $NOTIFY_SOCKET); rm -f $NOTIFY_SOCKET; mv $d /run/x; touch $d/x; chmod 0 $NOTIFY_SOCKET; \
        ln -sf /tmp/x $NOTIFY_SOCKET; ls -A $d | wc -l; stat -c %F:%a $NOTIFY_SOCKET";
    let (mut running, _notifications) = launch(&plan_of(ProfileName::Compat, &["sh", "-c", script]));
    let said = running.finish().said;
    assert!(said.ends_with("1\nsocket:666\n"), "{said}");
}

/// Descriptors that come along: refused where the kernel can, closed where it cannot. One that closes slowly holds up
/// nobody but its own sandbox.
#[tokio::test]
async fn descriptors_sent_along_stay_outside() {
    let script = format!(
        r#"{SPEAKS}
import array
l = socket.create_server(("127.0.0.1", 7777))
c = socket.create_connection(("127.0.0.1", 7777))
import struct, time
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
c.setblocking(False)
try:
    while True: c.send(b"x" * 65536)
except BlockingIOError: pass
try:
    say("STOPPING=1", [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [c.fileno()]))])
    print("sent")
except PermissionError: print("refused")
say("WATCHDOG=trigger")
sys.stdout.flush()
# Without the interpreter's own close, which would linger here.
os._exit(0)
"#
    );
    let (mut running, mut notifications) = launch(&plan_of(ProfileName::Standard, &["python3", "-c", &script]));
    next(&mut notifications).await;
    next(&mut notifications).await;
    let said = running.finish().said;
    if said != "refused\n" {
        // Before Linux 6.16. With its sandbox the other end is gone, and nothing lingers any more.
        assert_eq!((said.as_str(), next(&mut notifications).await.notices), ("sent\n", vec![Notice::Stopping]));
    }
    assert_eq!(next(&mut notifications).await.notices, [Notice::WatchdogTrigger]);
}

/// Outside there is no such place, and without a root of its own none is made on the host.
#[test]
fn the_socket_lies_in_the_sandbox_alone() {
    let mut plan = plan_of(ProfileName::Standard, &["true"]);
    plan.without = vec![Control::Root];
    plan.require.clear();
    match start(&plan) {
        Err(LaunchError::Step(fault)) => assert_eq!(fault.step, Step::Notify),
        other => panic!("{:?}", other.map(|_| ()).err()),
    }
    assert!(!std::path::Path::new(arw::sandbox::plan::NOTIFY_INSIDE).exists());
    // Nor in a folder of the host that a plan puts over it.
    let folder = tempfile::tempdir_in("/tmp").expect("folder");
    let mut plan = plan_of(ProfileName::Standard, &["true"]);
    plan.mounts.push(arw::sandbox::plan::Mount::Bind {
        source: folder.path().canonicalize().expect("path"),
        target: "/run".into(),
        access: arw::sandbox::plan::Access::ReadWrite,
        absent: arw::sandbox::plan::Absent::Fault,
        owner: arw::sandbox::plan::Owner::Host,
    });
    match start(&plan) {
        Err(LaunchError::Step(fault)) => assert_eq!(fault.step, Step::Notify),
        other => panic!("{:?}", other.map(|_| ()).err()),
    }
    assert!(!folder.path().join("arw/notify").exists());
}

/// Without it there is neither a variable nor a socket.
#[test]
fn who_has_none_is_told_of_none() {
    let mut workload = workload(&["sh", "-c", "echo ${NOTIFY_SOCKET-none}; ls /run"]);
    workload.env.push((Text::from("NOTIFY_SOCKET"), Text::from("/run/systemd/notify")));
    let plan = Profile::embedded(ProfileName::Standard).plan(&workload).expect("plan");
    let mut running = start(&plan).expect("launch");
    assert!(running.launched.notify.is_none());
    assert_eq!(running.finish().said, "none\n");
}
