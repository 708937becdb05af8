//! The helper that makes namespaces: it takes requests until its caller is gone.
//!
//! ```text
//! caller ──execve──> keeper ──fork──> launcher      resident: for a caller that will not be able to execute it again
//!    ├── charter ───────┘                           what both hold to, whatever is requested
//!    └── requests ──────socket──────────┘           the socket outlives a launcher, and what waits in it
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::exit;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::fstat;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid};

use crate::sandbox::charter::{Charter, Floor};
use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::seccomp;
use crate::sandbox::wire::{Ask, Event, Ground, Held, Namespace, Preparation, Request, hear, tell};
use crate::sys::clone::{Child, Side, clone_into, fork, open_pidfd, succeed};
use crate::sys::{descriptor, message, process, schedule, signals};

use super::ground::{Ahead, Standing};
use super::init::{self, Birth};
use super::measure::Outside;
use super::place::Place;

/// Between the death of a launcher and the next one: whatever kills them all at once shall not have the whole processor.
const RESPITE: Duration = Duration::from_millis(50);

/// Serves until the caller is gone. `arguments` are those after the name.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> ! {
    let resident = arguments.next().is_some_and(|word| word == super::RESIDENT);
    let done = begin().and_then(|socket| if resident { keep(&socket) } else { serve(&socket, None) });
    match done {
        Ok(()) => exit(0),
        Err(fault) => {
            eprintln!("{}: {fault}", super::LAUNCHER);
            exit(125);
        }
    }
}

fn begin() -> Result<OwnedFd, Fault> {
    let socket = descriptor::take_stdin().at(Step::Launcher)?;
    if getsockopt(&socket, sockopt::SockType).at(Step::Launcher)? != SockType::SeqPacket {
        return Err(Fault::said(Step::Launcher, "this program starts it by itself; it is not for the command line"));
    }
    // Nothing that the caller's own parent left open is for a sandbox.
    descriptor::close_from(3, &[&socket]).at(Step::Launcher)?;
    // Away from the caller's terminal: its ^C is for the command, which hears of it from the caller.
    nix::unistd::setsid().at(Step::Launcher)?;
    process::spare_memory();
    // Whoever runs the daemon before everything else does not mean what it launches.
    schedule::give_way().at(Step::Launcher)?;
    if process::is_root() {
        process::harden().at(Step::Launcher)?;
    }
    Ok(socket)
}

/// Has a launcher until the caller is gone: a new one when one dies. What it launched goes on without it.
fn keep(socket: &OwnedFd) -> Result<(), Fault> {
    let floor = take_charter(socket)?;
    loop {
        let launcher = match fork().at(Step::Launcher)? {
            Side::Child => return serve(socket, Some(floor)),
            Side::Parent(child) => Pid::from_raw(child.pid),
        };
        // Where a parent had its children ignored, the wait ends without an answer; it ends with the child all the same.
        while waitpid(launcher, None) == Err(Errno::EINTR) {}
        let mut caller = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        if poll(&mut caller, PollTimeout::ZERO) != Ok(0) {
            return Ok(());
        }
        std::thread::sleep(RESPITE);
    }
}

/// The first thing that the caller says, once, and while it still is what it was executed as.
fn take_charter(socket: &OwnedFd) -> Result<Floor, Fault> {
    match hear::<Charter>(socket).at(Step::Charter)? {
        Some((charter, _)) => {
            let floor = Floor::new(charter);
            tell(socket, &Held::Charter, &[]).at(Step::Charter)?;
            Ok(floor)
        }
        None => Err(Fault::said(Step::Charter, "none came")),
    }
}

fn serve(socket: &OwnedFd, floor: Option<Floor>) -> Result<(), Fault> {
    signals::forget_children().at(Step::Launcher)?;
    // An ordinary user's launcher stays readable for that user: the kernel gives the id maps of a process that is
    // not dumpable to root alone. Each init closes itself once its maps are written.
    let mut outside = Outside::look();
    outside.floor = floor;
    let mut mounts = MountTable::open().at(Step::Launcher)?;
    let mut spare: Option<Spare> = None;
    while let Some((ask, descriptors)) = hear::<Ask>(socket).at(Step::Launcher)? {
        match ask {
            // The launch itself will tell why.
            Ask::Prepare(preparation) => {
                if let Some(wish) = Wish::of(preparation, descriptors).filter(|wish| wish.is_for(&outside)) {
                    let moved = mounts.has_changed();
                    if moved || spare.as_ref().is_none_or(|spare| !spare.is(&wish)) {
                        // The one before leaves the groups, which are the same.
                        drop(spare.take());
                        // If it cannot be made, the launch itself will tell why.
                        spare = Spare::make(wish, &outside).ok();
                    }
                }
                // For all that is launched later; the first does not wait for it.
                seccomp::warm();
            }
            Ask::Launch(request) => {
                let flags = flags(&request.namespaces);
                // One that stands ready knows the manifest as it was.
                let declared = outside.floor.as_mut().is_some_and(Floor::look_again);
                let moved = mounts.has_changed() || declared;
                let fits = |spare: &Spare| spare.flags == flags && spare.is_in_groups_of(&request, &descriptors);
                let spare = spare.take().filter(|spare| !moved && fits(spare));
                if spare.is_none_or(|spare| spare.serve(&request, &descriptors).is_err()) {
                    launch(&request, descriptors, flags, &outside);
                }
            }
        }
    }
    Ok(())
}

/// What shall stand ready.
struct Wish {
    preparation: Preparation,
    /// The v2 folder first, if there is one; then the `tasks`.
    groups: Vec<OwnedFd>,
}

impl Wish {
    fn of(preparation: Preparation, descriptors: Vec<OwnedFd>) -> Option<Self> {
        has_groups(&preparation, &descriptors).then_some(Self { preparation, groups: descriptors })
    }

    /// Whether it may be made. Of what may not, the launch itself will tell why.
    fn is_for(&self, outside: &Outside) -> bool {
        let Some(floor) = &outside.floor else { return true };
        let Preparation { namespaces, ground, .. } = &self.preparation;
        let admitted = floor.admits_namespaces(namespaces).and_then(|()| floor.admits_ground(ground));
        admitted.and_then(|()| self.groups.iter().try_for_each(|group| floor.admits_group(group))).is_ok()
    }
}

/// Whether what came with `preparation` is what it announces.
pub(in crate::sandbox) fn has_groups(preparation: &Preparation, all: &[OwnedFd]) -> bool {
    all.len() == usize::from(preparation.cgroup).saturating_add(preparation.joins)
}

/// The host's mounts. Namespaces that were made before one came or went do not always hear of it: that takes shared mounts
/// (`mount_namespaces(7)`), and nothing in a root that stands already.
struct MountTable(File);

impl MountTable {
    fn open() -> io::Result<Self> {
        File::open("/proc/self/mountinfo").map(Self)
    }

    /// Whether one came or went since this was asked last, or that cannot be told (`proc_pid_mountinfo(5)`: `poll(2)` answers
    /// `POLLPRI`).
    fn has_changed(&mut self) -> bool {
        let mut wanted = [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)];
        !matches!(poll(&mut wanted, PollTimeout::ZERO), Ok(0))
    }
}

/// What came with a request, by its meaning.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub(super) plan: OwnedFd,
    pub(super) control: OwnedFd,
    /// Until the command has them.
    pub(super) standard: Option<[OwnedFd; 3]>,
    pub(super) cgroup: Option<OwnedFd>,
    pub(super) joins: Vec<OwnedFd>,
    /// Until it was entered.
    pub(super) last: Option<OwnedFd>,
    /// The command waits for the caller's word.
    pub(super) is_held: bool,
    pub(super) exit_record: Option<OwnedFd>,
    pub(super) adoption: Option<OwnedFd>,
    pub(super) log: Option<LogFiles>,
}

/// Where what the command says is copied to.
#[derive(Debug)]
pub(super) struct LogFiles {
    pub(super) files: [OwnedFd; 2],
    /// Most bytes of each.
    pub(super) bound: u64,
}

/// Whether what came with `request` is what it announces.
pub(in crate::sandbox) fn has_all(request: &Request, all: Vec<OwnedFd>) -> bool {
    Descriptors::sort(request, all).is_some()
}

impl Descriptors {
    /// The plan, the control pair and three streams.
    const BEFORE_GROUPS: usize = 5;

    fn sort(request: &Request, all: Vec<OwnedFd>) -> Option<Self> {
        let mut rest = all.into_iter();
        let sorted = Self {
            plan: rest.next()?,
            control: rest.next()?,
            standard: Some([rest.next()?, rest.next()?, rest.next()?]),
            cgroup: if request.cgroup { Some(rest.next()?) } else { None },
            joins: rest.by_ref().take(request.joins).collect(),
            last: if request.last { Some(rest.next()?) } else { None },
            is_held: request.held,
            exit_record: if request.exit_record { Some(rest.next()?) } else { None },
            adoption: if request.adoption { Some(rest.next()?) } else { None },
            log: match request.log {
                Some(bound) => Some(LogFiles { files: [rest.next()?, rest.next()?], bound }),
                None => None,
            },
        };
        (rest.next().is_none() && sorted.joins.len() == request.joins).then_some(sorted)
    }
}

/// Namespaces made ahead, with the ground laid: a process stands in them and waits for the request. Where the groups of the
/// launch are known it is the init, and in them. Otherwise it becomes the init then: that has to be made inside its cgroup v2,
/// since moving there would wait for a grace period.
struct Spare {
    /// Of the whole launch.
    flags: CloneFlags,
    ground: Ground,
    /// Those that it is in.
    groups: Vec<Identity>,
    /// Its other end is the spare's; closed, it sends the spare away.
    socket: OwnedFd,
}

impl Spare {
    fn make(wish: Wish, outside: &Outside) -> io::Result<Self> {
        let (ours, theirs) = message::pair()?;
        let Wish { preparation: Preparation { namespaces, ground, cgroup, .. }, groups: mut doors } = wish;
        let flags = flags(&namespaces);
        let groups = identities(&doors)?;
        let folder = cgroup.then(|| doors.remove(0));
        let namespaces_alone = || {
            let later = flags.intersection(CloneFlags::CLONE_NEWPID);
            clone_into(flags.difference(later), None).map(|side| (side, later))
        };
        let init = |folder| clone_into(flags, folder).map(|side| (side, CloneFlags::empty()));
        let (side, later) = match groups.is_empty() {
            true => namespaces_alone()?,
            // Where nothing can be made in a group, the launch still finds its namespaces.
            false => init(folder.as_ref().map(AsFd::as_fd)).or_else(|_| namespaces_alone())?,
        };
        let stands = later.is_empty();
        match side {
            Side::Parent(_) => {
                Ok(Self { flags, ground, groups: if stands { groups } else { Vec::new() }, socket: ours })
            }
            Side::Child => {
                drop((ours, folder));
                wait_for_request(theirs, later, stands.then_some(doors), ground, outside)
            }
        }
    }

    /// Whether it is what is wished for.
    fn is(&self, wish: &Wish) -> bool {
        let Preparation { namespaces, ground, .. } = &wish.preparation;
        self.flags == flags(namespaces)
            && self.ground == *ground
            && identities(&wish.groups).is_ok_and(|groups| groups == self.groups)
    }

    /// Whether it is in the groups of `request`, or in none yet.
    fn is_in_groups_of(&self, request: &Request, descriptors: &[OwnedFd]) -> bool {
        let count = usize::from(request.cgroup).saturating_add(request.joins);
        let groups = descriptors.iter().skip(Descriptors::BEFORE_GROUPS).take(count);
        self.groups.is_empty() || identities(groups).is_ok_and(|groups| groups == self.groups)
    }

    fn serve(&self, request: &Request, descriptors: &[OwnedFd]) -> io::Result<()> {
        let all: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        // If it was killed meanwhile, this fails before anybody has heard of it.
        tell(&self.socket, request, &all)
    }
}

/// A group by its file: the same for as long as it is there, whatever it is called.
type Identity = (u64, u64);

fn identities<'f>(groups: impl IntoIterator<Item = &'f OwnedFd>) -> io::Result<Vec<Identity>> {
    groups.into_iter().map(|group| fstat(group).map(|found| (found.st_dev, found.st_ino)).map_err(Into::into)).collect()
}

/// With `doors` this is the init, and they are the `tasks` of its groups; otherwise the flags of `rest` are left for that.
fn wait_for_request(
    socket: OwnedFd,
    rest: CloneFlags,
    doors: Option<Vec<OwnedFd>>,
    ground: Ground,
    outside: &Outside,
) -> ! {
    // The launcher's own socket above all: a spare that held it would keep the caller waiting for ever.
    let kept: Vec<&dyn AsRawFd> = std::iter::once(&socket).chain(doors.iter().flatten()).map(|fd| fd as _).collect();
    if descriptor::close_from(3, &kept).is_err() {
        exit(125);
    }
    let standing = doors.map(|doors| init::enter(doors).and_then(|()| Standing::look(outside)));
    let Ok(standing) = standing.transpose() else { exit(125) };
    let ahead = Ahead::of(ground.clone(), standing);
    // While nobody waits.
    if poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0) {
        rehearse(&ground);
        seccomp::warm();
        process::map_program();
    }
    if let Ok(Some((request, descriptors))) = hear::<Request>(&socket) {
        drop(socket);
        become_init(&request, descriptors, rest, outside, ahead);
    }
    process::leave(0);
}

/// Reads what is much like a plan: a copied process gets each page of its memory when it first writes to it.
fn rehearse(ground: &Ground) {
    if let Ok(json) = serde_json::to_vec(ground) {
        drop(serde_json::from_slice::<Ground>(&json));
    }
}

/// Makes the init in the new namespaces of `flags`.
fn launch(request: &Request, descriptors: Vec<OwnedFd>, flags: CloneFlags, outside: &Outside) {
    if let Some(descriptors) = accept(request, descriptors, outside) {
        copy(request, descriptors, flags, outside, None);
    }
}

/// Goes on as the init, or has that take this process's place in the new namespaces of `flags`; the launcher's child, as every
/// init: it is reaped there. Comes back if it could not.
fn become_init(request: &Request, descriptors: Vec<OwnedFd>, flags: CloneFlags, outside: &Outside, ahead: Ahead) {
    let Some(descriptors) = accept(request, descriptors, outside) else { return };
    if let Some(standing) = &ahead.standing {
        introduce(&descriptors.control, standing.pid);
        init::run(descriptors, outside, Birth::Standing, Some(ahead), &Place::anywhere());
    }
    let place = Place::take(outside);
    match succeed(flags, descriptors.cgroup.as_ref().map(AsFd::as_fd)) {
        Ok(pid) => {
            introduce(&descriptors.control, pid);
            init::run(descriptors, outside, Birth::Inside, Some(ahead), &place);
        }
        // A copy takes longer, and tells why if that cannot be made either.
        Err(_) => copy(request, descriptors, flags | CloneFlags::CLONE_PARENT, outside, Some(ahead)),
    }
}

/// Tells the caller of this process, which is the init, and the launcher's `pid`.
fn introduce(control: &OwnedFd, pid: i32) {
    match open_pidfd(getpid().as_raw()) {
        // Who hung up meanwhile wants nothing; the init sees the same and ends or waits by its plan.
        Ok(pidfd) => drop(started(control, pid, &pidfd)),
        Err(fault) => {
            let _ = tell(control, &Event::Failed(Fault::new(Step::Clone, "pidfd", &fault)), &[]);
            exit(init::GAVE_UP);
        }
    }
}

/// What came with the request, if it may be launched.
fn accept(request: &Request, descriptors: Vec<OwnedFd>, outside: &Outside) -> Option<Descriptors> {
    let descriptors = Descriptors::sort(request, descriptors)?;
    if let Err(fault) = outside.floor.as_ref().map_or(Ok(()), |floor| may_launch(floor, request, &descriptors)) {
        let _ = tell(&descriptors.control, &Event::Failed(fault), &[]);
        return None;
    }
    Some(descriptors)
}

fn copy(request: &Request, descriptors: Descriptors, flags: CloneFlags, outside: &Outside, ahead: Option<Ahead>) {
    let place = Place::take(outside);
    let (made, birth) = match clone_into(flags, descriptors.cgroup.as_ref().map(AsFd::as_fd)) {
        // A container runtime's filter may know no `clone3`. Then the init moves, which takes longer.
        Err(fault) if fault.raw_os_error() == Some(libc::ENOSYS) => (clone_into(flags, None), Birth::Outside),
        made => (made, Birth::Inside),
    };
    let said = match made {
        Ok(Side::Child) => init::run(descriptors, outside, birth, ahead, &place),
        Ok(Side::Parent(Child { pid, pidfd: Some(pidfd) })) => started(&descriptors.control, pid, &pidfd),
        Ok(Side::Parent(_)) => Ok(()),
        Err(fault) => {
            let hint = why_refused(request, &fault);
            tell(&descriptors.control, &Event::Failed(Fault::new(Step::Clone, hint, &fault)), &[])
        }
    };
    // A caller that hung up meanwhile wants nothing; the init sees the same and ends or waits by its plan. And nobody is
    // refused to be where they were.
    let _ = (said, place.leave());
}

/// What has to be right before there is an init. The rest is the plan's, which it reads.
fn may_launch(floor: &Floor, request: &Request, descriptors: &Descriptors) -> Result<(), Fault> {
    floor.admits_namespaces(&request.namespaces)?;
    descriptors
        .cgroup
        .iter()
        .chain(&descriptors.joins)
        .chain(&descriptors.last)
        .try_for_each(|group| floor.admits_group(group))
}

fn started(control: &OwnedFd, pid: i32, pidfd: &OwnedFd) -> io::Result<()> {
    tell(control, &Event::Started { pid }, &[pidfd.as_fd()])
}

fn flags(namespaces: &[Namespace]) -> CloneFlags {
    namespaces.iter().fold(CloneFlags::empty(), |flags, namespace| flags | flag(*namespace))
}

/// What an operator can do about it. Most hosts that refuse do so by one of these settings.
fn why_refused(request: &Request, fault: &io::Error) -> &'static str {
    let user = request.namespaces.contains(&Namespace::User);
    match (fault.raw_os_error(), user) {
        (Some(libc::EPERM), true) => {
            "this host gives ordinary users no user namespace (kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns, or a container's filter)"
        }
        (Some(libc::EPERM), false) => "it takes CAP_SYS_ADMIN, or a user namespace",
        (Some(libc::ENOSPC | libc::EUSERS), _) => "a limit of /proc/sys/user is reached",
        (Some(libc::EBUSY | libc::EOPNOTSUPP), _) if request.cgroup => "the cgroup may hold no process of its own",
        _ => "",
    }
}

/// A cgroup namespace is not among them: its top is the cgroup of the *caller* of `clone3`, so the init makes
/// it once it stands in its own.
fn flag(namespace: Namespace) -> CloneFlags {
    match namespace {
        Namespace::User => CloneFlags::CLONE_NEWUSER,
        Namespace::Mount => CloneFlags::CLONE_NEWNS,
        Namespace::Pid => CloneFlags::CLONE_NEWPID,
        Namespace::Network => CloneFlags::CLONE_NEWNET,
        Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
        Namespace::Uts => CloneFlags::CLONE_NEWUTS,
    }
}
