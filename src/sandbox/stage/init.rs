//! PID 1 of a sandbox: it carries the plan out. What it does afterwards is in `house`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::exit;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource as Kernel, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, dup2_stderr, sethostname};

use crate::sandbox::Control;
use crate::sandbox::cgroup::{self, Applied};
use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Limit, MAX_PLAN, Plan, Resource, Scheduling, WhenAlone};
use crate::sandbox::wire::{Event, LISTENERS_AT_ONCE, Order, hear, tell};
use crate::sys::clone::run_before_exec;
use crate::sys::{descriptor, process, signals};

use super::executions::Executions;
use super::ground::{Ahead, Standing};
use super::house::{FORWARDED, House};
use super::launcher::Descriptors;
use super::measure::{Outside, Seen};
use super::network::Made;
use super::place::Place;
use super::{command, identity, journal, landlock, network, root};

/// What an init returns when it could not launch, or has to give up.
pub(super) const GAVE_UP: i32 = 125;

/// Where this init was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Birth {
    /// Ahead, and it has entered all its cgroups since.
    Standing,
    /// Inside its cgroup v2, if it has one.
    Inside,
    /// In the launcher's.
    Outside,
}

/// Carries the plan out and stays until the command ends. What stood ready has nothing open but `descriptors` and what it did
/// `ahead`; without that this is a copy of the launcher.
pub(super) fn run(
    mut descriptors: Descriptors,
    outside: &Outside,
    birth: Birth,
    ahead: Option<Ahead>,
    place: &Place,
) -> ! {
    let launched = place
        .leave()
        .and_then(|()| if ahead.is_none() { close_others(&descriptors) } else { Ok(()) })
        .and_then(|()| launch(&mut descriptors, outside, birth, ahead.unwrap_or_default()));
    match launched {
        Ok(house) => {
            // The house has its own; an owner hears that it was replaced only when nobody here holds its socket.
            drop(descriptors);
            house.keep()
        }
        Err(fault) => {
            let _ = tell(&descriptors.control, &Event::Failed(fault), &[]);
            exit(GAVE_UP);
        }
    }
}

/// Lets go of what is the launcher's.
fn close_others(descriptors: &Descriptors) -> Result<(), Fault> {
    let mut keep: Vec<&dyn std::os::fd::AsRawFd> = vec![&descriptors.plan, &descriptors.control];
    let Descriptors { standard, joins, last, cgroup, exit_record, adoption, log, .. } = descriptors;
    let logs = log.iter().flat_map(|log| &log.files);
    let standard = standard.iter().flatten();
    for fd in standard.chain(joins).chain(last).chain(cgroup).chain(exit_record).chain(adoption).chain(logs) {
        keep.push(fd);
    }
    descriptor::close_from(3, &keep).at(Step::Init)
}

fn launch(descriptors: &mut Descriptors, outside: &Outside, birth: Birth, mut ahead: Ahead) -> Result<House, Fault> {
    let in_cgroup = join(descriptors, birth)?;
    let standing = ahead.standing.take();
    let plan = read_plan(&descriptors.plan)?;
    outside.floor.as_ref().map_or(Ok(()), |floor| floor.admits(&plan))?;
    if !ahead.has_mapped(plan.user) {
        identity::map(plan.user)?;
    }
    let (start_ticks, mut seen) = match standing {
        Some(Standing { start_ticks, seen, .. }) => (start_ticks, seen),
        None => (process::stat(None).at(Step::Init)?.start_ticks, Seen::look(outside, in_cgroup)),
    };
    // From here on nobody else reads this process: not its memory, not its `/proc` entry.
    prctl::set_dumpable(false).at(Step::Verify)?;
    root::set_mask();
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
    let mut made = Sockets::default();
    let mut rules = None;
    let is_up = ahead.is_up_for(&plan);
    if plan.applies(Control::MountNamespace) && plan.applies(Control::Root) {
        let entered = root::build(&plan, ahead.ground(), outside.floor.as_ref())?;
        (made.notify, rules) = (entered.notify, entered.rules);
    } else if plan.notify {
        return Err(Fault::said(Step::Notify, "it takes a root of its own"));
    }
    if plan.applies(Control::NetworkNamespace) {
        if !is_up {
            network::bring_up(&plan.network.local_prefixes)?;
        }
        made.listeners = network::listen(&plan.network, ahead.waiting)?;
    }
    made.hand_over(&descriptors.control).at(Step::HandOver)?;
    let ruleset = landlock::prepare(&plan, rules)?;
    seen.stranger = landlock::stranger();
    slow_down(&plan, descriptors)?;
    identity::become_user(&plan)?;
    if plan.applies(Control::NoNewPrivs) {
        prctl::set_no_new_privs().at(Step::NoNewPrivs)?;
    }
    seen.landlock = landlock::restrict(ruleset)?;
    start(plan, descriptors, made, seen, Place::take(outside), start_ticks)
}

/// Enters the cgroups that `clone3` has not entered: those of version 1, and version 2 if it was made outside. It has done
/// nothing yet that would have to be counted there, and has one thread.
fn join(descriptors: &mut Descriptors, birth: Birth) -> Result<bool, Fault> {
    let mut joins = std::mem::take(&mut descriptors.joins);
    let into = descriptors.cgroup.take();
    let any = into.is_some() || !joins.is_empty();
    if birth == Birth::Standing {
        return Ok(any);
    }
    if let (Some(folder), Birth::Outside) = (into, birth) {
        joins
            .push(openat(&folder, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).at(Step::Cgroup)?);
    }
    enter(joins)?;
    Ok(any)
}

/// Enters the groups whose `tasks` these are.
pub(super) fn enter(tasks: Vec<OwnedFd>) -> Result<(), Fault> {
    for tasks in tasks {
        // 0 is whoever writes (cgroups(7)).
        File::from(tasks).write_all(b"0\n").at(Step::Cgroup)?;
    }
    Ok(())
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

/// Takes the command's share of the CPU, and tells what became of it.
fn slow_down(plan: &Plan, descriptors: &mut Descriptors) -> Result<(), Fault> {
    enter(descriptors.last.take().into_iter().collect())?;
    let scheduled = schedule(plan)?;
    if !scheduled.is_empty() {
        tell(&descriptors.control, &Event::Scheduled(scheduled), &[]).at(Step::Schedule)?;
    }
    Ok(())
}

/// What is set here is inherited by everything inside, and cannot be made better without a privilege.
fn schedule(plan: &Plan) -> Result<Vec<Applied>, Fault> {
    let Scheduling { nice, policy, cpus } = plan.scheduling.clone();
    if nice.is_some_and(|nice| nice < 0) {
        return Err(Fault::said(Step::Schedule, "a sandbox does not come before the host's own work"));
    }
    Ok(cgroup::apply_to_self(&cgroup::Limits { nice, policy, cpus, ..cgroup::Limits::default() }))
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

/// The sockets that were made inside for the owner.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) listeners: Vec<Made>,
    pub(super) notify: Option<OwnedFd>,
}

impl Sockets {
    /// Hands them out.
    pub(super) fn hand_over(&self, control: &impl AsFd) -> io::Result<()> {
        for some in self.listeners.chunks(LISTENERS_AT_ONCE) {
            let places = some.iter().map(|made| made.place).collect();
            let sockets: Vec<BorrowedFd<'_>> = some.iter().map(|made| made.socket.as_fd()).collect();
            tell(control, &Event::Listening { places }, &sockets)?;
        }
        if let Some(notify) = &self.notify {
            tell(control, &Event::Notify, &[notify.as_fd()])?;
        }
        Ok(())
    }
}

/// Stands still until the caller has seen to what the command needs outside. Of a caller that is gone nothing runs, even
/// where the plan has an init wait for a later one: that knows nothing of this launch yet.
fn await_word(control: &OwnedFd) -> Result<(), Fault> {
    match hear::<Order>(control).at(Step::Init)? {
        Some((Order::Go, _)) => Ok(()),
        Some(_) => Err(Fault::said(Step::Init, "it was to be told to go on, and was told something else")),
        None => Err(Fault::said(Step::Init, "its owner was gone before the command was made")),
    }
}

/// Makes the command's process, which is executed when this returns.
fn start(
    plan: Plan,
    descriptors: &mut Descriptors,
    sockets: Sockets,
    seen: Seen,
    place: Place,
    start_ticks: u64,
) -> Result<House, Fault> {
    // Blocked before there is a child, so that no signal about it is lost. What is blocked is never ignored,
    // and PID 1 gets it although it has no handler.
    let handled = SigSet::from_iter(FORWARDED.into_iter().chain([Signal::SIGCHLD]));
    handled.thread_block().at(Step::Init)?;
    let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).at(Step::Init)?;
    signals::reset_all();
    if descriptors.is_held {
        await_word(&descriptors.control)?;
    }
    let standard = descriptors.standard.take().ok_or_else(|| Fault::said(Step::Streams, "they are gone"))?;
    let (standard, journal) = match descriptors.log.take() {
        Some(log) => journal::open(log, standard).at(Step::Log)?,
        None => (standard, None),
    };
    let (mut faults, report_fault) = io::pipe().at(Step::Fork)?;
    let mut become_command = || command::run(&plan, &descriptors.control, &standard, &seen, &place, &report_fault);
    let child = Pid::from_raw(run_before_exec(&mut become_command).at(Step::Fork)?);
    // The command took that back for itself, in the memory of both.
    process::spare_memory();
    // Whoever reads what the command says hears of its end only when nobody here can write either.
    drop((report_fault, standard));
    let mut json = Vec::new();
    faults.read_to_end(&mut json).at(Step::Exec)?;
    if !json.is_empty() {
        let unknown = |_| Fault::said(Step::Exec, "the command's process could not say why");
        return Err(serde_json::from_slice(&json).unwrap_or_else(unknown));
    }
    drop(seen);
    signals::writes_only_fail().at(Step::Init)?;
    tell(&descriptors.control, &Event::Running { start_ticks }, &[]).at(Step::Init)?;
    let control = descriptors.control.try_clone().at(Step::Init)?;
    descriptor::set_nonblocking(&control).at(Step::Init)?;
    let stays = plan.when_alone == WhenAlone::Wait;
    if stays {
        // It outlives whoever reads the caller's standard error, and that must end with the caller.
        dup2_stderr(io::stdout()).at(Step::Init)?;
    }
    Ok(House {
        command: child,
        signals,
        control: Some(control),
        // A gateway that is gone for good must take its listeners along: then nobody else may hold them.
        sockets: if stays { sockets } else { Sockets::default() },
        exit_record: descriptors.exit_record.take().map(File::from),
        adoption: descriptors.adoption.take(),
        journal,
        executions: Executions::new(&plan),
        plan,
    })
}
