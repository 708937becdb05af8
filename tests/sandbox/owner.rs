//! An owner of many: the asynchronous channel, more commands inside, and owners that go and come.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use arw::sandbox::plan::WhenAlone;
use arw::sandbox::profile::Workload;
use arw::sandbox::{
    AdoptError, AdoptionInfo, Attended, Channel, Control, End, Exec, ExecError, Executing, Exit, InitId, Launcher,
    Listener, ListenerRole, MAX_EXECUTIONS, Plan, Profile, ProfileName, Step, Streams, Text, adopt,
    listen_for_adoption, log, read_exit,
};

use crate::support::{Extra, PATIENCE, charter, plan, start, start_with, workload};

fn attend(plan: &Plan) -> Attended {
    start(plan).unwrap_or_else(|fault| panic!("{fault}")).into_launched().attend().expect("a runtime")
}

fn words(argv: &[&str]) -> Vec<Text> {
    argv.iter().map(|word| Text::from(*word)).collect()
}

/// Waits, and fails with a word instead of hanging.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

async fn end(channel: &Channel) {
    channel.kill().expect("killed");
    soon(channel.gone()).await.expect("gone");
}

fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").expect("null").into()
}

/// Executes, with its output in a pipe.
async fn execute(channel: &Channel, command: Exec) -> Result<(Executing, File), ExecError> {
    let (read, write) = std::io::pipe().expect("pipe");
    let streams = [null(), write.try_clone().expect("clone").into(), write.into()];
    let executing = soon(channel.exec(command, streams)).await?;
    Ok((executing, File::from(OwnedFd::from(read))))
}

async fn text(mut out: File) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        out.read_to_string(&mut said).map(|_| said)
    });
    soon(read).await.expect("thread").expect("text")
}

async fn said(channel: &Channel, argv: &[&str]) -> (Exit, String) {
    let (executing, out) = execute(channel, Exec::new(words(argv))).await.expect("executed");
    let said = text(out).await;
    (soon(executing.ended()).await.expect("its end"), said)
}

#[tokio::test]
async fn a_signal_and_an_end_reach_everybody_who_waits() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { (channel.ended().await, channel.gone().await.is_ok()) })
        })
        .collect();
    assert_eq!((channel.end(), channel.is_gone()), (None, false));
    channel.signal(libc::SIGTERM).await.expect("signal");
    for one in waiting {
        assert_eq!(soon(one).await.expect("task"), (End::Exit(Exit::Signal(libc::SIGTERM)), true));
    }
    assert!(channel.is_gone());
    assert!(channel.socket(false).await.is_err(), "there is nobody to ask any more");
}

#[tokio::test]
async fn an_init_killed_from_outside_is_lost_and_nobody_waits_for_ever() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let (executing, _out) = execute(&channel, Exec::new(words(&["sleep", "1000"]))).await.expect("executed");
    channel.kill().expect("killed");
    assert_eq!(soon(channel.ended()).await, End::Lost);
    assert_eq!(soon(executing.ended()).await.expect_err("lost").kind(), std::io::ErrorKind::BrokenPipe);
    soon(channel.gone()).await.expect("gone");
    channel.kill().expect("twice is once");
}

#[tokio::test]
async fn a_killed_call_says_so() {
    let ended = attend(&plan(ProfileName::Standard, &["sh", "-c", "kill -SYS $$"])).channel;
    assert_eq!(soon(ended.ended()).await, End::Exit(Exit::Signal(libc::SIGSYS)));
}

/// Many at once, each with a socket of its own that really lies inside.
#[tokio::test]
async fn sockets_are_asked_for_by_many_at_once() {
    let Attended { channel, mut listeners, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let place = listeners.iter().position(|(listener, _)| listener.role == ListenerRole::Proxy).expect("proxy");
    let proxy = std::net::TcpListener::from(listeners.swap_remove(place).1);
    proxy.set_nonblocking(false).expect("blocking");
    let asked: Vec<_> = (0..32)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { channel.socket(false).await })
        })
        .collect();
    for socket in asked {
        let inside = socket2::Socket::from(soon(socket).await.expect("task").expect("socket"));
        inside.connect(&arw::sandbox::plan::PROXY_INSIDE.into()).expect("connect");
        assert!(proxy.accept().expect("accept").1.ip().is_loopback());
    }
    end(&channel).await;
}

/// What the main command has of its confinement, line by line.
const LOOK: &str = "cat /proc/self/status | grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|SigIgn|SigBlk)'; \
    for n in mnt pid net ipc uts user cgroup; do readlink /proc/self/ns/$n; done; ulimit -a; env | sort; pwd; umask; \
    ls -l /proc/self/fd | grep -c -- '->'; touch /usr/x /etc/x 2>&1; cat /.arw/closed 2>&1";

#[tokio::test]
async fn a_further_command_is_as_confined_as_the_first() {
    for profile in [ProfileName::Strict, ProfileName::Standard] {
        let script = format!("{{ {LOOK}; }} > /tmp/look; touch /tmp/done; sleep 1000");
        let Attended { channel, .. } = attend(&plan(profile, &["sh", "-c", &script]));
        // The same redirections, so that both have the same descriptors open.
        let wait = "until [ -e /tmp/done ]; do sleep 0.02; done; cat /tmp/look";
        let (_, first) = said(&channel, &["sh", "-c", wait]).await;
        let (exit, second) =
            said(&channel, &["sh", "-c", &format!("{{ {LOOK}; }} > /tmp/again; cat /tmp/again")]).await;
        assert_eq!(exit, Exit::Code(0));
        assert!(first.contains("Seccomp:\t2") && first.contains("HTTPS_PROXY"), "{first}");
        assert_eq!(first, second);
        end(&channel).await;
    }
}

/// The same look sees a difference where there is one, so the test above can fail.
#[tokio::test]
async fn without_the_filter_a_further_command_has_none_either() {
    let mut open = plan(ProfileName::Standard, &["sleep", "1000"]);
    open.without = vec![Control::Seccomp];
    open.require.clear();
    let Attended { channel, .. } = attend(&open);
    assert!(said(&channel, &["sh", "-c", LOOK]).await.1.contains("Seccomp:\t0"));
    end(&channel).await;
}

/// Three streams and nothing else; above all no way to the init's owner.
#[tokio::test]
async fn neither_command_has_a_descriptor_of_the_control_channel() {
    let script = "ls -l /proc/self/fd > /tmp/fds; touch /tmp/done; sleep 1000";
    let Attended { channel, .. } = attend(&plan(ProfileName::Compat, &["sh", "-c", script]));
    let wait = "until [ -e /tmp/done ]; do sleep 0.02; done; cat /tmp/fds; echo; ls -l /proc/self/fd";
    let (_, said) = said(&channel, &["sh", "-c", wait]).await;
    assert!(!said.contains("socket:"), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("->")).count(), 8, "each: 0, 1, 2 and the folder read: {said}");
    end(&channel).await;
}

#[tokio::test]
async fn a_further_command_has_its_own_variables_and_folder() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let mut command = Exec::new(words(&["sh", "-c", "pwd; echo $OWN $LANG $HOME"]));
    command.env = vec![(Text::from("OWN"), Text::from("1")), (Text::from("LANG"), Text::from("C"))];
    command.workdir = Some("/tmp".into());
    let (executing, out) = execute(&channel, command).await.expect("executed");
    assert_eq!(text(out).await, "/tmp\n1 C /home/runtime\n");
    assert_eq!(soon(executing.ended()).await.expect("end"), Exit::Code(0));
    end(&channel).await;
}

#[tokio::test]
async fn what_cannot_be_executed_names_the_step() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let step = |fault: ExecError| match fault {
        ExecError::Refused(fault) => (fault.step, fault.errno),
        ExecError::Io(fault) => panic!("{fault}"),
    };
    let fault = execute(&channel, Exec::new(words(&["no-such-command"]))).await.expect_err("refused");
    assert_eq!(step(fault), (Step::Exec, libc::ENOENT));
    let fault = execute(&channel, Exec::new(Vec::new())).await.expect_err("refused");
    assert_eq!(step(fault), (Step::Exec, 0));
    let nowhere = Exec { workdir: Some("/nowhere".into()), ..Exec::new(words(&["true"])) };
    let fault = execute(&channel, nowhere).await.expect_err("refused");
    assert_eq!(step(fault), (Step::Workdir, libc::ENOENT));
    let folder = || OwnedFd::from(File::open("/usr").expect("folder"));
    let fault = channel.exec(Exec::new(words(&["true"])), [folder(), null(), null()]).await.expect_err("refused");
    assert_eq!(step(fault).0, Step::Streams);
    assert_eq!(said(&channel, &["echo", "still there"]).await, (Exit::Code(0), "still there\n".to_owned()));
    end(&channel).await;
}

#[tokio::test]
async fn only_so_many_run_at_once() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let mut running = Vec::new();
    for _ in 0..MAX_EXECUTIONS {
        running.push(execute(&channel, Exec::new(words(&["sleep", "1000"]))).await.expect("executed").0);
    }
    let refused = execute(&channel, Exec::new(words(&["true"]))).await.expect_err("refused");
    assert!(matches!(&refused, ExecError::Refused(fault) if fault.step == Step::Fork), "{refused}");
    let first = running.pop().expect("some");
    first.kill().await.expect("killed");
    assert_eq!(soon(first.ended()).await.expect("end"), Exit::Signal(libc::SIGKILL));
    execute(&channel, Exec::new(words(&["true"]))).await.expect("there is room again");
    end(&channel).await;
}

/// Killed with all of its session: children, and those in process groups of their own. What made a session of its own
/// belongs to the runtime, and the main command goes on.
#[tokio::test]
async fn a_killed_execution_takes_its_session_along_and_nothing_else() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let script = "sleep 1001 & set -m; sleep 1002 & setsid sleep 1003 & echo up; wait";
    let (executing, mut out) = execute(&channel, Exec::new(words(&["sh", "-c", script]))).await.expect("executed");
    let heard = tokio::task::spawn_blocking(move || {
        let mut line = [0; 3];
        out.read_exact(&mut line).map(|()| out)
    });
    let out = soon(heard).await.expect("thread").expect("up");
    let count = |pattern: &'static str| {
        let channel = channel.clone();
        async move {
            let script = format!(
                "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep {pattern}' | sort -u | tr '\\n' ,"
            );
            said(&channel, &["sh", "-c", &script]).await.1
        }
    };
    // A job is there once it has executed its program.
    soon(async {
        while count("100[0-9]").await != "sleep 1000,sleep 1001,sleep 1002,sleep 1003," {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(executing);
    soon(async {
        while count("100[0-9]").await != "sleep 1000,sleep 1003," {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(out);
    assert_eq!(channel.end(), None);
    end(&channel).await;
}

/// Where a runtime of a daemon keeps its things. Dropped, it ends what was launched there: no owner's end would.
struct Place {
    folder: tempfile::TempDir,
    launched: RefCell<Vec<InitId>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        for id in self.launched.borrow().iter() {
            if let Ok(Some(pidfd)) = id.open() {
                let _ = arw::sys::clone::signal_by_pidfd(&pidfd, libc::SIGKILL);
            }
        }
    }
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("folder"), launched: RefCell::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn logs(&self) -> [PathBuf; 2] {
        [self.path("a.log"), self.path("b.log")]
    }

    fn info(&self, id: InitId, listeners: &[Listener]) -> AdoptionInfo {
        let (socket, exit_record) = (self.path("init.sock"), self.path("exit"));
        AdoptionInfo { id, socket, exit_record, listeners: listeners.to_vec() }
    }

    /// Launches a sandbox that waits for its next owner.
    fn launch(&self, launcher: Option<&Launcher>, script: &str) -> (Attended, AdoptionInfo) {
        let workload = Workload { when_alone: WhenAlone::Wait, notify: true, ..workload(&["sh", "-c", script]) };
        let plan = Profile::embedded(ProfileName::Standard).plan(&workload).expect("plan");
        let adoption = listen_for_adoption(&self.path("init.sock")).expect("socket");
        let record = File::create(self.path("exit")).expect("record");
        let files = log::open(&self.logs()).expect("log");
        let log = arw::sandbox::Log { files: [files[0].as_fd(), files[1].as_fd()], bound: log::DEFAULT_BOUND };
        let launched = match launcher {
            Some(launcher) => {
                let null = File::open("/dev/null").expect("null");
                let mut streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
                streams.adoption = Some(adoption.as_fd());
                streams.exit_record = Some(record.as_fd());
                streams.log = Some(log);
                launcher.launch(&plan, &streams).expect("launch")
            }
            None => {
                let extra = Extra {
                    exit_record: Some(record.as_fd()),
                    adoption: Some(adoption.as_fd()),
                    log: Some(log),
                    ..Extra::default()
                };
                start_with(&plan, &extra).expect("launch").into_launched()
            }
        };
        self.launched.borrow_mut().push(launched.id.clone());
        let info = self.info(launched.id.clone(), &plan.network.listeners);
        (launched.attend().expect("a runtime"), info)
    }

    async fn hears(&self, text: &str) {
        let reader = log::LogReader::new(self.logs());
        soon(async {
            while !reader.last(1_000).expect("log").lines.iter().any(|line| line.shown() == text) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// A command that says `ready` and then waits for a signal.
const WAITS: &str = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done";

/// A daemon dies and another takes its runtime over: command, listeners, notifications, log and exit status are all
/// there.
#[tokio::test]
async fn a_sandbox_that_waits_is_adopted_with_all_that_is_its_own() {
    let place = Place::new();
    let (attended, info) = place.launch(None, WAITS);
    place.hears("ready").await;
    let before: Vec<Listener> = attended.listeners.iter().map(|(listener, _)| *listener).collect();
    let (executing, out) =
        execute(&attended.channel, Exec::new(words(&["sh", "-c", "sleep 1000 & sleep 1000"]))).await.expect("executed");
    // As after `kill -9`: nothing is said, the descriptors are gone.
    let state = serde_json::to_string(&info.id).expect("json");
    drop((attended, executing));
    let found = AdoptionInfo { id: serde_json::from_str(&state).expect("json"), ..info };
    let adopted = soon(adopt(&found)).await.expect("adopted");
    assert_eq!(text(out).await, "", "what was executed for the earlier owner has ended with it");
    let after: Vec<Listener> = adopted.listeners.iter().map(|(listener, _)| *listener).collect();
    assert_eq!(after, before);
    assert!(adopted.notify.is_some());
    // The socket is the very one inside: a client made there reaches it.
    let (_, proxy) =
        adopted.listeners.into_iter().find(|(listener, _)| listener.role == ListenerRole::Proxy).expect("proxy");
    let inside = socket2::Socket::from(soon(adopted.channel.socket(false)).await.expect("socket"));
    inside.connect(&arw::sandbox::plan::PROXY_INSIDE.into()).expect("connect");
    let proxy = std::net::TcpListener::from(proxy);
    proxy.set_nonblocking(false).expect("blocking");
    assert!(proxy.accept().expect("accept").1.ip().is_loopback());
    assert_eq!(said(&adopted.channel, &["echo", "inside"]).await.1, "inside\n");
    adopted.channel.signal(libc::SIGTERM).await.expect("signal");
    assert_eq!(soon(adopted.channel.ended()).await, End::Exit(Exit::Code(3)));
    soon(adopted.channel.gone()).await.expect("gone");
    assert_eq!(read_exit(&place.path("exit")).expect("record"), Some(Exit::Code(3)));
    place.hears("caught").await;
}

#[tokio::test]
async fn what_ended_while_no_owner_was_there_tells_how_and_its_last_words() {
    let place = Place::new();
    let (attended, info) =
        place.launch(None, "echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; printf 'last words' >&2; exit 9");
    place.hears("ready").await;
    said(&attended.channel, &["touch", "/tmp/go"]).await;
    drop(attended);
    place.hears("last words").await;
    soon(async {
        while info.id.open().expect("asked").is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    match soon(adopt(&info)).await {
        Err(AdoptError::Gone(exit)) => assert_eq!(exit, Some(Exit::Code(9))),
        other => panic!("{other:?}"),
    }
}

/// A number that is another process's by now is nobody's.
#[tokio::test]
async fn a_reused_process_id_is_not_adopted() {
    let place = Place::new();
    let (attended, info) = place.launch(None, WAITS);
    let other = InitId { start_ticks: info.id.start_ticks + 1, ..info.id.clone() };
    let result = soon(adopt(&AdoptionInfo { id: other, ..info.clone() })).await;
    assert!(matches!(result, Err(AdoptError::Gone(None))), "{result:?}");
    assert_eq!(attended.channel.end(), None, "its owner still has it");
    end(&attended.channel).await;
    let result = soon(adopt(&info)).await;
    assert!(matches!(result, Err(AdoptError::Gone(None))), "a killed init writes no record: {result:?}");
}

#[tokio::test]
async fn of_two_owners_the_later_wins_and_the_earlier_hears_of_it() {
    let place = Place::new();
    let (attended, info) = place.launch(None, WAITS);
    let adopted = soon(adopt(&info)).await.expect("adopted");
    assert_eq!(soon(attended.channel.ended()).await, End::Lost);
    assert!(!attended.channel.is_gone(), "lost, and alive");
    assert!(attended.channel.signal(libc::SIGTERM).await.is_err());
    assert_eq!(said(&adopted.channel, &["echo", "mine"]).await.1, "mine\n");
    end(&adopted.channel).await;
}

/// A stopped init does not answer, and nobody waits for it for ever.
#[tokio::test]
async fn an_init_that_does_not_answer_is_called_silent() {
    let place = Place::new();
    let (attended, info) = place.launch(None, WAITS);
    let pid = nix::unistd::Pid::from_raw(attended.channel.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    let asked = soon(attended.channel.socket(false)).await;
    assert_eq!(asked.expect_err("no answer").kind(), std::io::ErrorKind::TimedOut);
    assert!(matches!(soon(adopt(&info)).await, Err(AdoptError::Silent)));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("goes on");
    end(&attended.channel).await;
}

/// The launcher alone is killed: what it launched goes on under its owner, and another launcher launches more.
#[tokio::test]
async fn a_killed_launcher_takes_nothing_along_and_is_replaced() {
    let program = Path::new(env!("CARGO_BIN_EXE_arw-cli"));
    let launcher = Launcher::start_from(program).expect("launcher");
    let place = Place::new();
    let (attended, info) = place.launch(Some(&launcher), WAITS);
    place.hears("ready").await;
    assert!(launcher.is_alive());
    let pid = nix::unistd::Pid::from_raw(launcher.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    soon(async {
        while launcher.is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let null = File::open("/dev/null").expect("null");
    let streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
    assert!(launcher.launch(&plan(ProfileName::Strict, &["true"]), &streams).is_err());
    assert_eq!(said(&attended.channel, &["echo", "alive"]).await.1, "alive\n");
    let adopted = soon(adopt(&info)).await.expect("adopted");
    adopted.channel.signal(libc::SIGTERM).await.expect("signal");
    assert_eq!(soon(adopted.channel.ended()).await, End::Exit(Exit::Code(3)));
    let next = Launcher::start_from(program).expect("launcher");
    let more = next.launch(&plan(ProfileName::Strict, &["true"]), &streams).expect("launch");
    assert_eq!(more.control.wait().expect("wait"), End::Exit(Exit::Code(0)));
}

/// A resident launcher is there again although its caller does nothing for it, and goes when its caller does.
#[tokio::test]
async fn a_resident_launcher_comes_back_by_itself_and_goes_with_its_caller() {
    let launcher = Launcher::start_resident_from(Path::new(env!("CARGO_BIN_EXE_arw-cli")), &charter(Path::new("/")))
        .expect("launcher");
    let children = |pid: u32| {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace().map(|pid| pid.parse().expect("a number")).collect::<Vec<i32>>()
    };
    let keeper = launcher.id();
    let place = Place::new();
    let (attended, _) = place.launch(Some(&launcher), WAITS);
    place.hears("ready").await;
    let null = File::open("/dev/null").expect("null");
    let streams = Streams::new(null.as_fd(), null.as_fd(), null.as_fd());
    for _ in 0..3 {
        let [worker] = children(keeper)[..] else { panic!("{:?}", children(keeper)) };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL).expect("killed");
        // What the dying one still takes up is lost with it.
        soon(async {
            while children(keeper).contains(&worker) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        // By now, or soon: what is asked meanwhile waits in the socket.
        let more = launcher.launch(&plan(ProfileName::Strict, &["true"]), &streams).expect("launch");
        assert_eq!(more.control.wait().expect("wait"), End::Exit(Exit::Code(0)));
        assert!(launcher.is_alive() && launcher.id() == keeper);
    }
    assert_eq!(said(&attended.channel, &["echo", "alive"]).await.1, "alive\n");
    let [worker] = children(keeper)[..] else { panic!("{:?}", children(keeper)) };
    // Waits for the keeper.
    drop(launcher);
    let gone = |pid: i32| !std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(gone(keeper.cast_signed()));
    soon(async {
        while !gone(worker) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    end(&attended.channel).await;
}

/// Orders that do not concern anybody change nothing, and the last words of the owner are heard.
#[tokio::test]
async fn the_last_clone_dropped_is_the_owner_gone() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let other = channel.clone();
    drop(channel);
    assert_eq!(said(&other, &["echo", "still"]).await.1, "still\n");
    let id = other.pid();
    let pidfd = arw::sys::clone::open_pidfd(id).expect("there");
    drop(other);
    tokio::task::spawn_blocking(move || crate::support::wait_for(&pidfd)).await.expect("it ends by its plan");
}

/// The preset's part that a process sets on itself comes with the plan, whoever launches.
#[tokio::test]
async fn scheduling_comes_with_the_plan_and_is_measured_inside() {
    use arw::sandbox::cgroup::{self, CpuSet, SchedulingPolicy};
    let cpus = CpuSet::parse("0").expect("one");
    let limits = cgroup::Limits {
        nice: Some(7),
        policy: Some(SchedulingPolicy::Batch),
        cpus: Some(cpus),
        ..cgroup::Limits::default()
    };
    let mut plan = plan(ProfileName::Standard, &["sleep", "1000"]);
    plan.scheduling = arw::sandbox::Scheduling::of(&limits);
    let Attended { channel, scheduled, .. } = attend(&plan);
    let outcome = |control| scheduled.iter().find(|one| one.control == control).map(|one| &one.outcome);
    assert_eq!(outcome(cgroup::Control::Nice), Some(&cgroup::Outcome::Enforced), "{scheduled:?}");
    assert_eq!(scheduled.len(), 3);
    let script =
        "cut -d' ' -f19,41 /proc/self/stat; grep Cpus_allowed_list /proc/self/status; nice -n -5 true 2>&1; nice";
    let (_, said) = said(&channel, &["sh", "-c", script]).await;
    // SCHED_BATCH is 3; and nobody inside gets better than that.
    assert!(said.starts_with("7 3\nCpus_allowed_list:\t0\n") && said.ends_with("7\n"), "{said}");
    end(&channel).await;
    let mut greedy = plan;
    greedy.scheduling.nice = Some(-1);
    match start(&greedy) {
        Err(arw::sandbox::LaunchError::Step(fault)) => assert_eq!(fault.step, Step::Schedule),
        other => panic!("{:?}", other.map(|_| ()).err()),
    }
}

/// The first command starts on its init's CPU; neither it nor a later one stays there.
#[tokio::test]
async fn nobody_is_kept_on_the_cpu_that_it_was_started_on() {
    let cpus = |status: &str| status.lines().find(|line| line.starts_with("Cpus_allowed:")).map(str::to_owned);
    let ours = cpus(&std::fs::read_to_string("/proc/self/status").expect("status")).expect("line");
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let (_, said) = said(&channel, &["sh", "-c", "grep -h Cpus_allowed: /proc/[0-9]*/status"]).await;
    let theirs: Vec<&str> = said.lines().collect();
    // `sleep`, and the `grep` that the init has made.
    assert!(theirs.len() >= 2 && theirs.iter().all(|cpus| *cpus == ours), "{ours}: {said}");
    end(&channel).await;
}

/// More than one message of orders may carry is refused here, and nothing is left half done.
#[tokio::test]
async fn an_order_that_is_too_long_is_refused() {
    let Attended { channel, .. } = attend(&plan(ProfileName::Standard, &["sleep", "1000"]));
    let long = "x".repeat(70_000);
    let refused = channel.exec(Exec::new(words(&["echo", &long])), [null(), null(), null()]).await;
    assert!(matches!(&refused, Err(ExecError::Io(fault)) if fault.kind() == std::io::ErrorKind::InvalidInput));
    assert_eq!(said(&channel, &["echo", "fine"]).await.1, "fine\n");
    let _ = std::io::stdout().flush();
    end(&channel).await;
}
