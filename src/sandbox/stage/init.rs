//! PID 1 of a sandbox: it carries the plan out, then keeps house.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::exit;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource as Kernel, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

use crate::sandbox::Control;
use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Limit, MAX_PLAN, Plan, Resource, User, WhenAlone};
use crate::sandbox::wire::{Event, Exit, LISTENERS_AT_ONCE, Order, hear, tell};
use crate::sys::clone::{Side, fork};
use crate::sys::descriptor;

use super::launcher::Descriptors;
use super::measure::{Outside, Seen};
use super::network::Made;
use super::{command, identity, landlock, network, root};

/// What an init returns when it could not launch, or has to give up.
const GAVE_UP: i32 = 125;

/// When this init was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Birth {
    /// For this launch, and inside its cgroup v2 if it has one.
    ForThis,
    /// Before, in the launcher's cgroup.
    Ahead,
}

/// Carries the plan out and stays until the command ends.
pub(super) fn run(mut descriptors: Descriptors, outside: &Outside, birth: Birth) -> ! {
    let launched = close_others(&descriptors).and_then(|()| launch(&mut descriptors, outside, birth));
    match launched {
        Ok(house) => house.keep(),
        Err(fault) => {
            let _ = tell(&descriptors.control, &Event::Failed(fault), &[]);
            exit(GAVE_UP);
        }
    }
}

/// Lets go of what is the launcher's.
fn close_others(descriptors: &Descriptors) -> Result<(), Fault> {
    let [stdin, stdout, stderr] = &descriptors.standard;
    let mut keep: Vec<&dyn std::os::fd::AsRawFd> = vec![&descriptors.plan, &descriptors.control, stdin, stdout, stderr];
    for fd in descriptors.joins.iter().chain(&descriptors.exit_record).chain(&descriptors.adoption) {
        keep.push(fd);
    }
    if let Some(cgroup) = &descriptors.cgroup {
        keep.push(cgroup);
    }
    descriptor::close_from(3, &keep).at(Step::Init)
}

fn launch(descriptors: &mut Descriptors, outside: &Outside, birth: Birth) -> Result<House, Fault> {
    let in_cgroup = join(descriptors, birth)?;
    let plan = read_plan(&descriptors.plan)?;
    map_ids(&plan)?;
    let mut seen = Seen::look(outside, in_cgroup);
    // From here on nobody else reads this process: not its memory, not its `/proc` entry.
    prctl::set_dumpable(false).at(Step::Verify)?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if plan.applies(Control::CgroupNamespace) {
        unshare(CloneFlags::CLONE_NEWCGROUP).at_with(Step::Clone, || "cgroup namespace")?;
        seen.look_at_cgroup_namespace(outside);
    }
    if plan.applies(Control::Limits) {
        set_limits(&plan)?;
    }
    if plan.applies(Control::UtsNamespace) {
        sethostname(&plan.host_name).at(Step::HostName)?;
    }
    if plan.applies(Control::MountNamespace) && plan.applies(Control::Root) {
        root::build(&plan)?;
    }
    let listeners = if plan.applies(Control::NetworkNamespace) { network::build(&plan.network)? } else { Vec::new() };
    hand_over(&descriptors.control, &listeners).at(Step::HandOver)?;
    let ruleset = landlock::prepare(&plan)?;
    seen.stranger = landlock::stranger();
    identity::become_user(&plan)?;
    if plan.applies(Control::NoNewPrivs) {
        prctl::set_no_new_privs().at(Step::NoNewPrivs)?;
    }
    seen.landlock = landlock::restrict(ruleset)?;
    start(plan, descriptors, listeners, seen)
}

/// Enters the cgroups that `clone3` has not entered: those of version 1, and version 2 if this init was made ahead. It
/// has done nothing yet that would have to be counted there.
fn join(descriptors: &mut Descriptors, birth: Birth) -> Result<bool, Fault> {
    let mut joins = std::mem::take(&mut descriptors.joins);
    let into = descriptors.cgroup.take();
    let any = into.is_some() || !joins.is_empty();
    if let (Some(folder), Birth::Ahead) = (into, birth) {
        joins
            .push(openat(&folder, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).at(Step::Cgroup)?);
    }
    for procs in joins {
        // 0 is whoever writes (cgroups(7)).
        File::from(procs).write_all(b"0\n").at(Step::Cgroup)?;
    }
    Ok(any)
}

fn read_plan(memory: &OwnedFd) -> Result<Plan, Fault> {
    let seals = SealFlag::from_bits_retain(fcntl(memory, FcntlArg::F_GET_SEALS).at(Step::ReadPlan)?);
    if !seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW) {
        return Err(Fault::said(Step::ReadPlan, "it is not sealed"));
    }
    let file = File::from(memory.try_clone().at(Step::ReadPlan)?);
    let len = file.metadata().at(Step::ReadPlan)?.len();
    if len > MAX_PLAN {
        return Err(Fault::said(Step::ReadPlan, "it is longer than its bound"));
    }
    let mut json = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut json, 0).at(Step::ReadPlan)?;
    serde_json::from_slice(&json).map_err(|fault| Fault::said(Step::ReadPlan, fault.to_string()))
}

/// One user and one group, as `user_namespaces(7)` lets everybody map: their own. `setgroups` has to be
/// given up for it.
fn map_ids(plan: &Plan) -> Result<(), Fault> {
    let User::Mapped { uid, gid, outside_uid, outside_gid } = plan.user else { return Ok(()) };
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).at_with(Step::MapIds, || file.to_owned())
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{uid} {outside_uid} 1"))?;
    write("gid_map", format!("{gid} {outside_gid} 1"))
}

fn set_limits(plan: &Plan) -> Result<(), Fault> {
    for limit in &plan.limits {
        let named = || format!("{:?} to {}", limit.resource, limit.most);
        let resource = kernel_resource(limit.resource);
        // A plan only ever tightens: the caller's own hard limit may be lower, and raising it takes a privilege.
        let (_, hard) = getrlimit(resource).at_with(Step::Limits, named)?;
        let most = kernel_value(limit).min(hard);
        setrlimit(resource, most, most).at_with(Step::Limits, named)?;
    }
    Ok(())
}

/// What is set for a limit. A core file of no bytes is still written when the host pipes core files to a program
/// (core(5)), which runs outside with all of the memory in its hands; a limit of one byte stops both kinds.
pub(super) fn kernel_value(limit: &Limit) -> u64 {
    if limit.resource == Resource::CoreFile { limit.most.max(1) } else { limit.most }
}

/// The kernel's name of a resource.
pub(super) const fn kernel_resource(resource: Resource) -> Kernel {
    match resource {
        Resource::AddressSpace => Kernel::RLIMIT_AS,
        Resource::Data => Kernel::RLIMIT_DATA,
        Resource::CoreFile => Kernel::RLIMIT_CORE,
        Resource::FileSize => Kernel::RLIMIT_FSIZE,
        Resource::LockedMemory => Kernel::RLIMIT_MEMLOCK,
        Resource::MessageQueues => Kernel::RLIMIT_MSGQUEUE,
        Resource::Niceness => Kernel::RLIMIT_NICE,
        Resource::OpenFiles => Kernel::RLIMIT_NOFILE,
        Resource::Processes => Kernel::RLIMIT_NPROC,
        Resource::RealtimePriority => Kernel::RLIMIT_RTPRIO,
        Resource::Signals => Kernel::RLIMIT_SIGPENDING,
        Resource::Stack => Kernel::RLIMIT_STACK,
    }
}

fn hand_over(control: &impl AsFd, listeners: &[Made]) -> io::Result<()> {
    for some in listeners.chunks(LISTENERS_AT_ONCE) {
        let places = some.iter().map(|made| made.place).collect();
        let sockets: Vec<BorrowedFd<'_>> = some.iter().map(|made| made.socket.as_fd()).collect();
        tell(control, &Event::Listening { places }, &sockets)?;
    }
    Ok(())
}

/// Makes the command's process and waits until it was executed.
fn start(plan: Plan, descriptors: &mut Descriptors, listeners: Vec<Made>, seen: Seen) -> Result<House, Fault> {
    // Blocked before there is a child, so that no signal about it is lost. What is blocked is never ignored,
    // and PID 1 gets it although it has no handler.
    let handled = SigSet::from_iter(FORWARDED.into_iter().chain([Signal::SIGCHLD]));
    handled.thread_block().at(Step::Init)?;
    let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).at(Step::Init)?;
    crate::sys::signals::reset_all();
    let (mut faults, report_fault) = io::pipe().at(Step::Fork)?;
    let child = match fork().at(Step::Fork)? {
        Side::Child => {
            drop((faults, listeners));
            command::run(&plan, descriptors, &seen, report_fault)
        }
        Side::Parent(child) => Pid::from_raw(child.pid),
    };
    drop(report_fault);
    let mut json = Vec::new();
    faults.read_to_end(&mut json).at(Step::Exec)?;
    if !json.is_empty() {
        let unknown = |_| Fault::said(Step::Exec, "the command's process could not say why");
        return Err(serde_json::from_slice(&json).unwrap_or_else(unknown));
    }
    drop(seen);
    tell(&descriptors.control, &Event::Running, &[]).at(Step::Init)?;
    let stays = plan.when_alone == WhenAlone::Wait;
    Ok(House {
        command: child,
        signals,
        control: Some(descriptors.control.try_clone().at(Step::Init)?),
        // A gateway that is gone for good must take its listeners along: then nobody else may hold them.
        listeners: if stays { listeners } else { Vec::new() },
        exit_record: descriptors.exit_record.take().map(File::from),
        adoption: descriptors.adoption.take(),
        when_alone: plan.when_alone,
    })
}

/// What is passed on to the command when somebody outside sends it to the init.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// The init's life after the launch.
struct House {
    command: Pid,
    signals: SignalFd,
    control: Option<OwnedFd>,
    listeners: Vec<Made>,
    exit_record: Option<File>,
    adoption: Option<OwnedFd>,
    when_alone: WhenAlone,
}

impl House {
    /// Reaps, forwards and answers until the command ends. Then this process ends, and with PID 1 the kernel kills
    /// whatever is left inside.
    fn keep(mut self) -> ! {
        loop {
            let (signal, order, owner) = self.wait();
            if signal {
                self.on_signals();
            }
            if order {
                self.on_order();
            }
            if owner {
                self.on_owner();
            }
        }
    }

    fn wait(&self) -> (bool, bool, bool) {
        let mut wanted = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let control = self.control.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        let adoption = self.adoption.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        let (has_control, has_adoption) = (control.is_some(), adoption.is_some());
        wanted.extend(control);
        wanted.extend(adoption);
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return (false, false, false),
            Err(_) => exit(GAVE_UP),
        }
        let mut ready = wanted.iter().map(|fd| fd.any().unwrap_or(true));
        let signal = ready.next().unwrap_or(false);
        let order = has_control && ready.next().unwrap_or(false);
        let owner = has_adoption && ready.next().unwrap_or(false);
        (signal, order, owner)
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number == libc::SIGCHLD {
                self.reap();
            } else {
                self.forward(number);
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => self.give_up(),
            };
            if pid == self.command {
                self.finish(exit);
            }
        }
    }

    fn forward(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            // It may have ended a moment ago; then SIGCHLD is on its way.
            let _ = kill(self.command, signal);
        }
    }

    fn on_order(&mut self) {
        let Some(control) = &self.control else { return };
        let answered = match hear::<Order>(control) {
            Ok(Some((Order::Signal { number }, _))) => {
                self.forward(number);
                Ok(())
            }
            // An empty message says that these were all.
            Ok(Some((Order::Listeners, _))) => hand_over(control, &self.listeners)
                .and_then(|()| tell(control, &Event::Listening { places: Vec::new() }, &[])),
            Ok(Some((Order::Socket { v6 }, _))) => answer_with_socket(control, v6),
            Ok(None) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(fault) => Err(fault),
        };
        if answered.is_err() {
            self.control = None;
            if self.when_alone == WhenAlone::End {
                self.give_up();
            }
        }
    }

    /// A later owner replaces the one before: the socket's place in the file system decides who can be one.
    fn on_owner(&mut self) {
        let Some(adoption) = &self.adoption else { return };
        if let Ok(socket) = crate::sys::message::accept(adoption) {
            self.control = Some(socket);
        }
    }

    fn finish(&mut self, end: Exit) -> ! {
        if let Some(record) = &mut self.exit_record {
            let mut line = serde_json::to_vec(&end).unwrap_or_default();
            line.push(b'\n');
            let _ = record.write_all(&line);
        }
        if let Some(control) = &self.control {
            let _ = tell(control, &Event::Exited(end), &[]);
        }
        exit(end.code());
    }

    fn give_up(&mut self) -> ! {
        self.finish(Exit::Signal(libc::SIGKILL))
    }
}

fn answer_with_socket(control: &OwnedFd, v6: bool) -> io::Result<()> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    tell(control, &Event::Socket, &[made.as_fd()])
}
