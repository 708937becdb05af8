//! The caller's side: a launcher that stays, and one launch after another.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, chdir, dup2_stdin, dup2_stdout, execve};

use crate::sys::clone::{Side, fork, is_single_threaded};
use crate::sys::{message, signals};

use super::cgroup::Applied;
use super::charter::Charter;
use super::fault::At;
use super::handle::{end, is_gone, named};
use super::plan::{MAX_LISTENERS, MAX_PLAN, Network};
use super::wire::{Ask, Event, Exit, Ground, Held, Namespace, Order, Preparation, Request, hear, tell};
use super::{
    Control, Fault, Handle, InitId, LaunchError, Launched, Listener, Plan, Profile, Report, Step, User, stage,
};

/// The helper process that alone makes namespaces. One serves any number of launches, from any thread.
///
/// Dropping it ends the helper, not what it launched.
#[derive(Debug)]
pub struct Launcher {
    socket: Option<OwnedFd>,
    process: Pid,
    may_become: bool,
}

/// What a launch gets besides its plan.
#[derive(Debug)]
pub struct Streams<'a> {
    /// Standard input, output and error of the command; with a `log` the latter two are not used.
    pub standard: [BorrowedFd<'a>; 3],
    /// The cgroup that it starts in.
    pub cgroup: Entry<'a>,
    /// An opened file that gets one line of JSON, an [`Exit`], when the command ends.
    pub exit_record: Option<BorrowedFd<'a>>,
    /// A listening `SOCK_SEQPACKET` socket, at which a later owner of the runtime can take the control channel and
    /// the listeners over ([`adopt`](super::adopt())). Whoever can connect to it owns the runtime.
    pub adoption: Option<BorrowedFd<'a>>,
    /// Files for what the command writes to its standard output and error.
    pub log: Option<Log<'a>>,
}

/// Two files that the init copies lines into, one after the other ([`super::log`]). It outlives the caller, and with it
/// the copying.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    /// Opened for reading and writing; the init goes on where an earlier run stopped.
    pub files: [BorrowedFd<'a>; 2],
    /// Most bytes of each.
    pub bound: u64,
}

impl<'a> Streams<'a> {
    /// The standard streams alone.
    pub const fn new(stdin: BorrowedFd<'a>, stdout: BorrowedFd<'a>, stderr: BorrowedFd<'a>) -> Self {
        Self {
            standard: [stdin, stdout, stderr],
            cgroup: Entry { into: None, join: Vec::new(), last: None },
            exit_record: None,
            adoption: None,
            log: None,
        }
    }
}

/// The cgroups that a sandbox starts in. Where nothing is named it stays in the launcher's.
///
/// Neither way takes the kernel's lock of all thread groups, which one write to `cgroup.procs` waits for as long as an
/// RCU grace period lasts: 7 ms and more.
#[derive(Debug, Clone, Default)]
pub struct Entry<'a> {
    /// It is made inside this cgroup v2 folder (`CLONE_INTO_CGROUP`).
    pub into: Option<BorrowedFd<'a>>,
    /// Its init, which has one thread, writes itself into these opened `tasks` files first of all: one per v1 hierarchy.
    pub join: Vec<BorrowedFd<'a>>,
    /// The same for the hierarchy of the CPU, which it enters when the sandbox is made and the command is not: with a runtime's
    /// share of the CPU that would take longer, and the launch of everybody else's with it.
    pub last: Option<BorrowedFd<'a>>,
}

/// Launches one sandbox with a launcher made for it alone.
///
/// # Errors
/// As [`Launcher::start`] and [`Launcher::launch`].
pub fn launch(plan: &Plan, streams: &Streams<'_>) -> Result<Launched, LaunchError> {
    Launcher::start()?.launch(plan, streams)
}

impl Launcher {
    /// Starts the helper: this very program, executed again. Its `main` must call
    /// [`stage::intercept`] first of all.
    ///
    /// # Errors
    /// [`Step::Launcher`] when it cannot be executed.
    pub fn start() -> Result<Self, LaunchError> {
        // Not the path: the file may have been replaced by an upgrade, and stages must match their caller.
        Self::start_from(Path::new("/proc/self/exe"))
    }

    /// Starts the helper from another executable that intercepts stages.
    ///
    /// # Errors
    /// As [`Launcher::start`].
    pub fn start_from(program: &Path) -> Result<Self, LaunchError> {
        Self::start_as(program, None)
    }

    /// Starts one that is there for as long as its caller: when the helper dies, a process that does nothing else makes
    /// another. For a caller that will be able to execute nothing later on ([`confine`](super::confine)), and that others may
    /// take over: whatever it asks for then, the helper keeps to `charter`.
    ///
    /// # Errors
    /// As [`Launcher::start`]; [`Step::Charter`] when it does not take the charter.
    pub fn start_resident(charter: &Charter) -> Result<Self, LaunchError> {
        Self::start_resident_from(Path::new("/proc/self/exe"), charter)
    }

    /// The same, from another executable that intercepts stages.
    ///
    /// # Errors
    /// As [`Launcher::start_resident`].
    pub fn start_resident_from(program: &Path, charter: &Charter) -> Result<Self, LaunchError> {
        let launcher = Self::start_as(program, Some(stage::RESIDENT))?;
        launcher.hand_over(charter)?;
        Ok(launcher)
    }

    fn hand_over(&self, charter: &Charter) -> Result<(), LaunchError> {
        let Some(socket) = &self.socket else { return Err(LaunchError::Lost) };
        tell(socket, charter, &[]).at(Step::Charter)?;
        patient(socket, STEP_PATIENCE).at(Step::Charter)?;
        let held = hear::<Held>(socket).at(Step::Charter)?;
        patient(socket, 0).at(Step::Charter)?;
        match held {
            Some((Held::Charter, _)) => Ok(()),
            None => Err(Fault::said(Step::Charter, "it ended").into()),
        }
    }

    fn start_as(program: &Path, word: Option<&str>) -> Result<Self, LaunchError> {
        let (ours, theirs) = message::pair().at(Step::Launcher)?;
        let process = start(program, word, theirs).at_with(Step::Launcher, || program.display().to_string())?;
        Ok(Self { socket: Some(ours), process, may_become: User::caller_may_become() })
    }

    /// The user for a sandbox of this launcher, as [`User::for_caller`] found it when the launcher was started: its caller
    /// may have given up since what the launcher still has.
    pub fn user(&self, host_id: u32) -> User {
        User::for_one_who(self.may_become, host_id)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.as_raw().cast_unsigned()
    }

    /// Whether it still takes requests. What it launched goes on without it; only another launcher can launch more.
    pub fn is_alive(&self) -> bool {
        let Some(socket) = &self.socket else { return false };
        let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        // It never says anything here: a hang-up is all that can come.
        matches!(poll(&mut wanted, PollTimeout::ZERO), Ok(0))
    }

    /// Has the namespaces for the next sandbox of `user` under `profile` made now, with all in them that does not depend on
    /// the command: more than half of a launch. A process waits there that ends with the launcher. With groups in `entry` it is
    /// the init itself, in those groups, for the launch that names the same; otherwise it makes the init then. A failure shows
    /// itself at the launch, and so does a launch that was not prepared for: it takes longer.
    ///
    /// # Errors
    /// The launcher is gone.
    pub fn prepare(&self, user: User, profile: &Profile, entry: &Entry<'_>) -> io::Result<()> {
        let network = Network::of_gateway(&WEB);
        let ground = Ground {
            mapped: matches!(user, User::Mapped { .. }).then_some(user),
            mounts: profile.ground(),
            proc: Some(profile.proc),
            local_prefixes: network.local_prefixes,
            listeners: network.listeners,
            landlock: profile.ground_rights(),
            without: profile.without.clone(),
        };
        let Entry { into, join, .. } = entry;
        let (namespaces, cgroup) = (namespaces(user, |_| true), into.is_some());
        let preparation = Preparation { namespaces, ground, cgroup, joins: join.len() };
        let groups: Vec<BorrowedFd<'_>> = into.iter().chain(join).copied().collect();
        self.ask(&Ask::Prepare(preparation), &groups)
    }

    /// Launches a sandbox and waits until its command was executed.
    ///
    /// # Errors
    /// [`LaunchError::Step`] names the step that failed; nothing is left then.
    pub fn launch(&self, plan: &Plan, streams: &Streams<'_>) -> Result<Launched, LaunchError> {
        await_running(self.request(plan, streams, false)?, plan)
    }

    /// Begins a launch: the sandbox is made while the caller sees to what the command needs outside of it, and the command is
    /// made when that is there ([`Begun::go_on`]).
    ///
    /// # Errors
    /// As [`Launcher::launch`], as far as they show themselves at once.
    pub fn begin<'p>(&self, plan: &'p Plan, streams: &Streams<'_>) -> Result<Begun<'p>, LaunchError> {
        Ok(Begun { socket: self.request(plan, streams, true)?, plan })
    }

    /// The caller's end of the control pair.
    fn request(&self, plan: &Plan, streams: &Streams<'_>, held: bool) -> Result<OwnedFd, LaunchError> {
        if plan.network.listeners.len() > MAX_LISTENERS {
            return Err(Fault::said(Step::Send, format!("more than {MAX_LISTENERS} listeners")).into());
        }
        let (ours, control) = message::pair().at(Step::Send)?;
        let sealed = seal(plan)?;
        let mut descriptors = vec![sealed.as_fd(), control.as_fd()];
        descriptors.extend(streams.standard);
        let Entry { into, join, last } = &streams.cgroup;
        descriptors.extend(into);
        descriptors.extend(join);
        descriptors.extend(last);
        descriptors.extend(streams.exit_record);
        descriptors.extend(streams.adoption);
        descriptors.extend(streams.log.iter().flat_map(|log| log.files));
        if descriptors.len() > message::MAX_DESCRIPTORS {
            return Err(Fault::said(Step::Send, "more descriptors than one message carries").into());
        }
        let request = Request {
            namespaces: namespaces(plan.user, |control| plan.applies(control)),
            cgroup: into.is_some(),
            joins: join.len(),
            last: last.is_some(),
            held,
            exit_record: streams.exit_record.is_some(),
            adoption: streams.adoption.is_some(),
            log: streams.log.map(|log| log.bound),
        };
        self.ask(&Ask::Launch(request), &descriptors).at(Step::Send)?;
        Ok(ours)
    }

    fn ask(&self, ask: &Ask, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let socket = self.socket.as_ref().expect("the socket is there until the launcher is dropped");
        // One message, whole or not at all: requests of several threads do not mix.
        tell(socket, ask, descriptors)
    }
}

/// A launch whose command waits. Dropped, nothing is left of it.
#[derive(Debug)]
pub struct Begun<'p> {
    socket: OwnedFd,
    plan: &'p Plan,
}

impl Begun<'_> {
    /// Has the command made, and waits until it was executed.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn go_on(self) -> Result<Launched, LaunchError> {
        // If nobody hears it, the init's last word tells why.
        let _ = tell(&self.socket, &Order::Go, &[]);
        await_running(self.socket, self.plan)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Its end of the pair reads the end, and it leaves; without the wait it would stay a zombie.
        drop(self.socket.take());
        while waitpid(self.process, None) == Err(Errno::EINTR) {}
    }
}

fn start(program: &Path, word: Option<&str>, socket: OwnedFd) -> io::Result<Pid> {
    if is_single_threaded()? {
        return fork_and_execute(program, word, &socket);
    }
    let mut command = Command::new(program);
    std::os::unix::process::CommandExt::arg0(&mut command, OsStr::new(stage::LAUNCHER)).args(word);
    // The environment is what `/proc/1/environ` of every sandbox would show: nothing.
    command.env_clear().current_dir("/").stdin(Stdio::from(socket)).stdout(Stdio::null());
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// The same without waiting for it: a program of this size takes a millisecond and more to execute, which the caller has
/// other use for. That it could not be executed is told by its end.
fn fork_and_execute(program: &Path, word: Option<&str>, socket: &OwnedFd) -> io::Result<Pid> {
    let program = CString::new(program.as_os_str().as_bytes())?;
    let words = [Some(stage::LAUNCHER), word].into_iter().flatten().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let null = File::options().write(true).open("/dev/null")?;
    match fork()? {
        Side::Parent(child) => Ok(Pid::from_raw(child.pid)),
        Side::Child => {
            signals::reset_all();
            let ready = dup2_stdin(socket).and_then(|()| dup2_stdout(&null)).and_then(|()| chdir("/"));
            let _ = ready.and_then(|()| execve(&program, &words, &[] as &[&CStr]));
            std::process::exit(NOT_EXECUTED)
        }
    }
}

/// Ports that nearly every sandbox has transparent listeners for.
const WEB: [u16; 2] = [80, 443];

/// The exit status of a launcher that could not be executed, as a shell's.
const NOT_EXECUTED: i32 = 126;

fn namespaces(user: User, applies: impl Fn(Control) -> bool) -> Vec<Namespace> {
    let by_control = [
        (Control::MountNamespace, Namespace::Mount),
        (Control::PidNamespace, Namespace::Pid),
        (Control::NetworkNamespace, Namespace::Network),
        (Control::IpcNamespace, Namespace::Ipc),
        (Control::UtsNamespace, Namespace::Uts),
    ];
    let user = matches!(user, User::Mapped { .. }).then_some(Namespace::User);
    let wanted = by_control.into_iter().filter(|(control, _)| applies(*control)).map(|(_, namespace)| namespace);
    user.into_iter().chain(wanted).collect()
}

/// The plan in memory that nobody can change any more.
fn seal(plan: &Plan) -> Result<File, Fault> {
    let json = serde_json::to_vec(plan).map_err(|fault| Fault::said(Step::Send, fault.to_string()))?;
    if u64::try_from(json.len()).unwrap_or(u64::MAX) > MAX_PLAN {
        return Err(Fault::said(Step::Send, format!("the plan has more than {MAX_PLAN} bytes")));
    }
    let memory = memfd_create(c"plan", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).at(Step::Send)?;
    let mut file = File::from(memory);
    file.write_all(&json).at(Step::Send)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).at(Step::Send)?;
    Ok(file)
}

fn await_running(socket: OwnedFd, plan: &Plan) -> Result<Launched, LaunchError> {
    let mut init = None;
    patient(&socket, STEP_PATIENCE).at(Step::Send)?;
    let outcome = collect(&socket, plan, &mut init);
    // From here on it may take as long as the command does: 0 means for ever.
    let outcome = patient(&socket, 0).at(Step::Send).map_err(LaunchError::from).and(outcome);
    match (outcome, init) {
        (Ok(heard), Some((pid, pidfd))) => {
            let Heard { listeners, notify, scheduled, report, ended, start_ticks } = heard;
            let id = InitId::new(pid, start_ticks).at(Step::Init).inspect_err(|_| {
                let _ = end(&pidfd, LAST_BREATH);
            })?;
            Ok(Launched { pidfd, pid, id, listeners, notify, scheduled, report, control: Handle { socket, ended } })
        }
        (Ok(_), None) => Err(LaunchError::Wire("no pidfd came".to_owned())),
        (Err(fault), init) => {
            if let Some((_, pidfd)) = init {
                // An init that waits to be adopted would outlive a launch that nobody knows of.
                let _ = end(&pidfd, LAST_BREATH);
            }
            Err(fault)
        }
    }
}

fn patient(socket: &OwnedFd, seconds: i64) -> nix::Result<()> {
    setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::seconds(seconds))
}

/// How many seconds may pass without a word from a stage: a launch takes milliseconds, and a folder to bind that lies on
/// a server which does not answer would take for ever.
const STEP_PATIENCE: i64 = 20;

/// How long a failed launch may take to vanish: its init is exiting already.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// What the stages said until the command ran.
#[derive(Default)]
struct Heard {
    listeners: Vec<(Listener, OwnedFd)>,
    notify: Option<OwnedFd>,
    scheduled: Vec<Applied>,
    report: Report,
    ended: OnceLock<Exit>,
    start_ticks: u64,
}

fn collect(socket: &OwnedFd, plan: &Plan, init: &mut Option<(i32, OwnedFd)>) -> Result<Heard, LaunchError> {
    let mut heard = Heard::default();
    let mut started = None;
    // The launcher and the init speak each for itself: on a busy host the pidfd may come last, after a short command's end.
    while init.is_none() || started.is_none() {
        let (event, descriptors) = match hear::<Event>(socket) {
            Ok(Some(said)) => said,
            Ok(None) => return Err(LaunchError::Lost),
            Err(fault) if is_gone(&fault) => return Err(LaunchError::Lost),
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Err(LaunchError::Slow),
            Err(fault) => return Err(LaunchError::Wire(fault.to_string())),
        };
        match event {
            Event::Started { pid } => *init = descriptors.into_iter().next().map(|pidfd| (pid, pidfd)),
            Event::Listening { places } => {
                heard.listeners.extend(named(&plan.network.listeners, &places, descriptors));
            }
            Event::Notify => heard.notify = descriptors.into_iter().next(),
            Event::Scheduled(applied) => heard.scheduled = applied,
            Event::Measured(measured) => heard.report = measured,
            Event::Failed(fault) => return Err(fault.into()),
            Event::Running { start_ticks } => started = Some(start_ticks),
            Event::Exited(exit) if started.is_some() => {
                let _ = heard.ended.set(exit);
            }
            Event::Exited(_)
            | Event::Socket { .. }
            | Event::NoSocket { .. }
            | Event::ExecStarted { .. }
            | Event::ExecFailed { .. }
            | Event::ExecEnded { .. } => return Err(LaunchError::Wire("an event out of order".to_owned())),
        }
    }
    heard.start_ticks = started.unwrap_or_default();
    Ok(heard)
}
