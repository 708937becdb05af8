//! The caller's side: a launcher that stays, and what one launch hands back.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::sys::clone::signal_by_pidfd;
use crate::sys::message;

use super::fault::At;
use super::plan::{MAX_LISTENERS, MAX_PLAN};
use super::wire::{Ask, Event, Exit, Namespace, Order, Request, hear, tell};
use super::{Control, Fault, LaunchError, Listener, Plan, Report, Step, User, stage};

/// The helper process that alone makes namespaces. One serves any number of launches, from any thread.
///
/// Dropping it ends the helper, not what it launched.
#[derive(Debug)]
pub struct Launcher {
    socket: Option<OwnedFd>,
    child: Child,
}

/// What a launch gets besides its plan.
#[derive(Debug)]
pub struct Streams<'a> {
    /// Standard input, output and error of the command.
    pub standard: [BorrowedFd<'a>; 3],
    /// The cgroup that it starts in.
    pub cgroup: Entry<'a>,
    /// An opened file that gets one line of JSON, an [`Exit`], when the command ends.
    pub exit_record: Option<BorrowedFd<'a>>,
    /// A listening `SOCK_SEQPACKET` socket, at which a later owner of the runtime can take the control channel and
    /// the listeners over ([`Handle::adopt`]). Whoever can connect to it owns the runtime.
    pub adoption: Option<BorrowedFd<'a>>,
}

impl<'a> Streams<'a> {
    /// The standard streams alone.
    pub const fn new(stdin: BorrowedFd<'a>, stdout: BorrowedFd<'a>, stderr: BorrowedFd<'a>) -> Self {
        Self { standard: [stdin, stdout, stderr], cgroup: Entry::None, exit_record: None, adoption: None }
    }
}

/// How a sandbox enters its cgroup.
#[derive(Debug, Clone)]
pub enum Entry<'a> {
    /// It stays in the launcher's.
    None,
    /// It is made inside this cgroup v2 folder (`CLONE_INTO_CGROUP`).
    Into(BorrowedFd<'a>),
    /// Its init writes itself into these opened `cgroup.procs` files first of all: one per v1 controller.
    Join(Vec<BorrowedFd<'a>>),
}

/// A running sandbox.
#[derive(Debug)]
pub struct Launched {
    /// Becomes readable when the init, and with it everything inside, has ended.
    pub pidfd: OwnedFd,
    /// The init's process id, as the caller sees it. Use `pidfd` to signal.
    pub pid: i32,
    /// The sockets made inside, non-blocking, in the order of the plan; without IPv6 in the kernel, without its own.
    pub listeners: Vec<(Listener, OwnedFd)>,
    /// What was measured from inside before the command was executed.
    pub report: Report,
    /// The channel to the init.
    pub control: Handle,
}

/// How a sandbox ended, as far as its init could tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its command ended.
    Exit(Exit),
    /// The init was killed from outside, or another owner has taken over.
    Lost,
}

/// The channel to a sandbox's init. Calls block; each sends or waits for one message.
#[derive(Debug)]
pub struct Handle {
    socket: OwnedFd,
    /// Heard while waiting for something else.
    ended: OnceLock<Exit>,
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
        let (ours, theirs) = message::pair().at(Step::Launcher)?;
        let child = spawn(program, theirs).at_with(Step::Launcher, || program.display().to_string())?;
        Ok(Self { socket: Some(ours), child })
    }

    /// Has the namespaces for the next sandbox of `user` made now, which is a quarter of a launch. They wait in an init
    /// that has nothing to do yet, and that ends with the launcher. A failure shows itself at the launch.
    ///
    /// # Errors
    /// The launcher is gone.
    pub fn prepare(&self, user: User) -> io::Result<()> {
        self.ask(&Ask::Prepare { namespaces: namespaces(user, |_| true) }, &[])
    }

    /// Launches a sandbox and waits until its command was executed.
    ///
    /// # Errors
    /// [`LaunchError::Step`] names the step that failed; nothing is left then.
    pub fn launch(&self, plan: &Plan, streams: &Streams<'_>) -> Result<Launched, LaunchError> {
        if plan.network.listeners.len() > MAX_LISTENERS {
            return Err(Fault::said(Step::Send, format!("more than {MAX_LISTENERS} listeners")).into());
        }
        let (ours, theirs) = message::pair().at(Step::Send)?;
        let sealed = seal(plan)?;
        self.request(plan, streams, &sealed, &theirs)?;
        drop(theirs);
        await_running(ours, plan)
    }

    fn request(&self, plan: &Plan, streams: &Streams<'_>, sealed: &File, control: &OwnedFd) -> Result<(), Fault> {
        let mut descriptors = vec![sealed.as_fd(), control.as_fd()];
        descriptors.extend(streams.standard);
        let (mut cgroup, mut joins) = (false, 0);
        match &streams.cgroup {
            Entry::None => {}
            Entry::Into(folder) => {
                cgroup = true;
                descriptors.push(*folder);
            }
            Entry::Join(files) => {
                joins = files.len();
                descriptors.extend(files);
            }
        }
        descriptors.extend(streams.exit_record);
        descriptors.extend(streams.adoption);
        if descriptors.len() > message::MAX_DESCRIPTORS {
            return Err(Fault::said(Step::Send, "more descriptors than one message carries"));
        }
        let request = Request {
            namespaces: namespaces(plan.user, |control| plan.applies(control)),
            cgroup,
            joins,
            exit_record: streams.exit_record.is_some(),
            adoption: streams.adoption.is_some(),
        };
        self.ask(&Ask::Launch(request), &descriptors).at(Step::Send)
    }

    fn ask(&self, ask: &Ask, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let socket = self.socket.as_ref().expect("the socket is there until the launcher is dropped");
        // One message, whole or not at all: requests of several threads do not mix.
        tell(socket, ask, descriptors)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Its end of the pair reads the end, and it leaves; without the wait it would stay a zombie.
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, socket: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    std::os::unix::process::CommandExt::arg0(&mut command, OsStr::new(stage::LAUNCHER));
    // The environment is what `/proc/1/environ` of every sandbox would show: nothing.
    command.env_clear().current_dir("/").stdin(Stdio::from(socket)).stdout(Stdio::null()).spawn()
}

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
    let patient = |seconds| setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(seconds)).at(Step::Send);
    patient(STEP_PATIENCE)?;
    let outcome = collect(&socket, plan, &mut init);
    // From here on it may take as long as the command does: 0 means for ever.
    let outcome = patient(0).map_err(LaunchError::from).and(outcome);
    match (outcome, init) {
        (Ok(Heard { listeners, report, ended }), Some((pid, pidfd))) => {
            Ok(Launched { pidfd, pid, listeners, report, control: Handle { socket, ended } })
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

/// How many seconds may pass without a word from a stage: a launch takes milliseconds, and a folder to bind that lies on
/// a server which does not answer would take for ever.
const STEP_PATIENCE: i64 = 20;

/// How long a failed launch may take to vanish: its init is exiting already.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// What the stages said until the command ran.
struct Heard {
    listeners: Vec<(Listener, OwnedFd)>,
    report: Report,
    ended: OnceLock<Exit>,
}

fn collect(socket: &OwnedFd, plan: &Plan, init: &mut Option<(i32, OwnedFd)>) -> Result<Heard, LaunchError> {
    let mut heard = Heard { listeners: Vec::new(), report: Report::default(), ended: OnceLock::new() };
    let mut is_running = false;
    // The launcher and the init speak each for itself: on a busy host the pidfd may come last, after a short command's end.
    while init.is_none() || !is_running {
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
            Event::Measured(measured) => heard.report = measured,
            Event::Failed(fault) => return Err(fault.into()),
            Event::Running => is_running = true,
            Event::Exited(exit) if is_running => {
                let _ = heard.ended.set(exit);
            }
            Event::Exited(_) | Event::Socket => return Err(LaunchError::Wire("an event out of order".to_owned())),
        }
    }
    Ok(heard)
}

/// What the sockets are for; a place that the plan does not have closes its socket.
fn named(plan: &[Listener], places: &[usize], sockets: Vec<OwnedFd>) -> impl Iterator<Item = (Listener, OwnedFd)> {
    places.iter().zip(sockets).filter_map(|(place, socket)| Some((*plan.get(*place)?, socket)))
}

/// Unread messages of ours when the peer closes make a reset of its end.
fn is_gone(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl Handle {
    /// Takes a running sandbox over: `socket` was connected to its adoption socket. Hands back the
    /// listeners of `plan`.
    ///
    /// # Errors
    /// The init is gone, or speaks another version.
    pub fn adopt(socket: OwnedFd, plan: &[Listener]) -> io::Result<(Self, Vec<(Listener, OwnedFd)>)> {
        tell(&socket, &Order::Listeners, &[])?;
        let mut listeners = Vec::new();
        loop {
            match hear::<Event>(&socket)? {
                Some((Event::Listening { places }, _)) if places.is_empty() => break,
                Some((Event::Listening { places }, sockets)) => listeners.extend(named(plan, &places, sockets)),
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok((Self { socket, ended: OnceLock::new() }, listeners))
    }

    /// Sends the command a signal, such as 15.
    ///
    /// # Errors
    /// `EPIPE` when the init is gone.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        tell(&self.socket, &Order::Signal { number }, &[])
    }

    /// A fresh TCP socket inside the sandbox's network, to be connected to what listens there.
    ///
    /// # Errors
    /// The init is gone. Not to be called while another thread waits for the end.
    pub fn socket(&self, v6: bool) -> io::Result<OwnedFd> {
        tell(&self.socket, &Order::Socket { v6 }, &[])?;
        loop {
            match hear::<Event>(&self.socket)? {
                Some((Event::Socket, sockets)) => {
                    return sockets.into_iter().next().ok_or_else(|| Errno::EPROTO.into());
                }
                Some((Event::Exited(exit), _)) => {
                    let _ = self.ended.set(exit);
                }
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Waits for the command's end. The init may still be taking the rest down: only `pidfd` tells when all
    /// is gone.
    ///
    /// # Errors
    /// The channel is broken.
    pub fn wait(&self) -> io::Result<End> {
        if let Some(exit) = self.ended.get() {
            return Ok(End::Exit(*exit));
        }
        loop {
            match hear::<Event>(&self.socket) {
                Ok(Some((Event::Exited(exit), _))) => return Ok(End::Exit(exit)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(End::Lost),
                Err(fault) if is_gone(&fault) => return Ok(End::Lost),
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// The channel becomes readable when there is something to [`Handle::wait`] for.
impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Launched {
    /// Kills everything inside and waits until nothing is left, at most `patience`.
    ///
    /// # Errors
    /// `TimedOut` when something would not die: a process in an uninterruptible call.
    pub fn kill(&self, patience: Duration) -> io::Result<()> {
        end(&self.pidfd, patience)
    }

    /// Waits until nothing inside is left, at most `patience`.
    ///
    /// # Errors
    /// `TimedOut`.
    pub fn wait_until_gone(&self, patience: Duration) -> io::Result<()> {
        wait_until_gone(&self.pidfd, patience)
    }
}

fn end(pidfd: &OwnedFd, patience: Duration) -> io::Result<()> {
    match signal_by_pidfd(pidfd, libc::SIGKILL) {
        Err(fault) if fault.raw_os_error() != Some(libc::ESRCH) => Err(fault),
        _ => wait_until_gone(pidfd, patience),
    }
}

fn wait_until_gone(pidfd: &OwnedFd, patience: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut wanted = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut wanted, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
}
