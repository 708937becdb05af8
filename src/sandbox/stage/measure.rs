//! The confinement report: not what was planned, but what is found by looking and trying.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::CpuSet;
use nix::sys::prctl;
use nix::sys::resource::getrlimit;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, getegid, getgroups, getresuid};

use crate::sandbox::charter::Floor;
use crate::sandbox::plan::{Plan, Terminal, User};
use crate::sandbox::seccomp;
use crate::sandbox::{Control, Finding, Report, State};
use crate::sys::capability::Capabilities;
use crate::sys::descriptor::inheritable;
use crate::sys::{filter, schedule};

use super::init::{kernel_resource, kernel_value};
use super::landlock::{InForce, can_read};
use super::root::CLOSED;

/// What the launcher sees of itself, to compare with.
#[derive(Debug, Clone, Default)]
pub(super) struct Outside {
    links: Vec<(Control, Option<PathBuf>)>,
    cgroup: Option<String>,
    everywhere: Option<CpuSet>,
    /// What the launcher holds to, whoever asks; nothing where its caller is as trusted as it is itself.
    pub(super) floor: Option<Floor>,
}

const NAMESPACES: [(Control, &str); 7] = [
    (Control::Identity, "user"),
    (Control::MountNamespace, "mnt"),
    (Control::PidNamespace, "pid"),
    (Control::NetworkNamespace, "net"),
    (Control::IpcNamespace, "ipc"),
    (Control::UtsNamespace, "uts"),
    (Control::CgroupNamespace, "cgroup"),
];

impl Outside {
    /// Looks at this process.
    pub(super) fn look() -> Self {
        let links = NAMESPACES.iter().map(|(control, name)| (*control, namespace(name))).collect();
        Self {
            links,
            cgroup: fs::read_to_string("/proc/self/cgroup").ok(),
            everywhere: schedule::cpus().ok().filter(schedule::are_all),
            floor: None,
        }
    }

    /// The CPUs of this process, if they are all that there are.
    pub(super) const fn everywhere(&self) -> Option<&CpuSet> {
        self.everywhere.as_ref()
    }

    fn link(&self, control: Control) -> Option<&PathBuf> {
        self.links.iter().find(|(own, _)| *own == control)?.1.as_ref()
    }
}

/// The kernel's name for a namespace of this process, such as `net:[4026531840]`.
fn namespace(name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/ns/{name}")).ok()
}

/// What could be looked at from inside only before the host's `/proc` was gone, and what was made to try.
#[derive(Debug)]
pub(super) struct Seen {
    namespaces: Vec<(Control, State)>,
    cgroup: State,
    environment: State,
    /// Listens outside the Landlock domain.
    pub(super) stranger: Option<(OwnedFd, UnixAddr)>,
    /// What Landlock has in force.
    pub(super) landlock: InForce,
}

impl Seen {
    /// Looks at this process, which is in its namespaces already.
    pub(super) fn look(outside: &Outside, in_cgroup: bool) -> Self {
        let namespaces =
            NAMESPACES.iter().map(|(control, name)| (*control, differs(outside, *control, name))).collect();
        let cgroup = match (in_cgroup, fs::read_to_string("/proc/self/cgroup"), &outside.cgroup) {
            (false, ..) => State::Unavailable("no cgroup was made for it".to_owned()),
            (true, Ok(inside), Some(before)) if inside != *before => State::Enforced,
            (true, Ok(_), Some(_)) => State::Unavailable("it is still in the launcher's cgroup".to_owned()),
            (true, ..) => State::Unavailable("/proc/self/cgroup cannot be read".to_owned()),
        };
        // What `/proc/1/environ` would show is fixed at the launcher's own start.
        let environment = match fs::read("/proc/self/environ") {
            Ok(text) if text.is_empty() => State::Enforced,
            Ok(_) => State::Partial("the init has an environment".to_owned()),
            Err(fault) => State::Partial(format!("the init's cannot be read: {fault}")),
        };
        Self { namespaces, cgroup, environment, stranger: None, landlock: InForce::LeftOut }
    }

    /// Looks again at the one namespace that is made later than the others.
    pub(super) fn look_at_cgroup_namespace(&mut self, outside: &Outside) {
        let state = differs(outside, Control::CgroupNamespace, "cgroup");
        self.namespaces.retain(|(control, _)| *control != Control::CgroupNamespace);
        self.namespaces.push((Control::CgroupNamespace, state));
    }

    fn namespace(&self, control: Control) -> State {
        let found = self.namespaces.iter().find(|(own, _)| *own == control);
        found.map_or_else(|| State::Unavailable("it was not looked at".to_owned()), |(_, state)| state.clone())
    }
}

fn differs(outside: &Outside, control: Control, name: &str) -> State {
    match (outside.link(control), namespace(name)) {
        (Some(before), Some(now)) if *before != now => State::Enforced,
        (Some(_), Some(_)) => State::Unavailable("it is the launcher's own".to_owned()),
        _ => State::Unavailable(format!("/proc/self/ns/{name} cannot be read")),
    }
}

/// Measures every control, in the process that is about to become the command.
pub(super) fn report(plan: &Plan, seen: &Seen) -> Report {
    let findings = Control::ALL.iter().map(|control| Finding { control: *control, state: judge(*control, plan, seen) });
    Report { findings: findings.collect() }
}

fn judge(control: Control, plan: &Plan, seen: &Seen) -> State {
    if !plan.applies(control) {
        return State::Unavailable("the profile leaves it out".to_owned());
    }
    match control {
        Control::Identity => identity(plan, seen),
        Control::Groups => groups(),
        Control::MountNamespace
        | Control::PidNamespace
        | Control::NetworkNamespace
        | Control::IpcNamespace
        | Control::UtsNamespace
        | Control::CgroupNamespace => seen.namespace(control),
        Control::Root => root(),
        Control::Cgroup => seen.cgroup.clone(),
        Control::LandlockFiles => landlock_files(plan, seen.landlock),
        Control::LandlockTcp => landlock_tcp(plan, seen.landlock),
        Control::LandlockScopes => landlock_scopes(seen),
        Control::Seccomp => seccomp_filter(),
        Control::Capabilities => capabilities(),
        Control::NoNewPrivs => held(prctl::get_no_new_privs().map_err(io::Error::from), "it is off"),
        Control::Limits => limits(plan),
        Control::Environment => seen.environment.clone(),
        Control::Descriptors => descriptors(),
        Control::Terminal => terminal(plan),
    }
}

fn held(found: io::Result<bool>, otherwise: &str) -> State {
    match found {
        Ok(true) => State::Enforced,
        Ok(false) => State::Unavailable(otherwise.to_owned()),
        Err(fault) => State::Unavailable(format!("it cannot be measured: {fault}")),
    }
}

fn identity(plan: &Plan, seen: &Seen) -> State {
    let (uid, _) = plan.user.inside();
    let own = getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == uid));
    match plan.user {
        _ if !own => State::Unavailable("the user id is another".to_owned()),
        User::Host { .. } => State::Enforced,
        User::Mapped { .. } => seen.namespace(Control::Identity),
    }
}

fn groups() -> State {
    /// What a group outside the map looks like (`/proc/sys/kernel/overflowgid`).
    const OVERFLOW: Gid = Gid::from_raw(65_534);
    match getgroups() {
        Ok(groups) if groups.iter().all(|group| *group == getegid()) => State::Enforced,
        Ok(groups) if groups.contains(&OVERFLOW) => {
            State::Partial("groups of the caller are kept: an ordinary user cannot drop them".to_owned())
        }
        Ok(_) => State::Unavailable("groups of the caller are kept".to_owned()),
        Err(fault) => State::Unavailable(format!("it cannot be measured: {fault}")),
    }
}

fn root() -> State {
    match statvfs("/") {
        Ok(found) if found.flags().contains(FsFlags::ST_RDONLY) => State::Enforced,
        Ok(_) => State::Unavailable("the root is writable".to_owned()),
        Err(fault) => State::Unavailable(format!("it cannot be measured: {fault}")),
    }
}

/// The first ABI that has each group of rights, and what an older one lacks.
const FILE_RIGHTS: [(i32, &str); 4] = [(2, "refer"), (3, "truncate"), (5, "device ioctl"), (9, SOCKETS)];
const SOCKETS: &str = "pathname sockets";

/// The groups of rights to files that `abi` lacks.
pub(in crate::sandbox) fn missing_file_rights(abi: i32) -> impl Iterator<Item = &'static str> {
    FILE_RIGHTS.iter().filter(move |(since, _)| abi < *since).map(|(_, name)| *name)
}

fn landlock_files(plan: &Plan, in_force: InForce) -> State {
    let abi = match in_force {
        InForce::Abi(abi) => abi,
        InForce::Absent | InForce::LeftOut => return State::Unavailable("the kernel has no landlock".to_owned()),
    };
    if plan.applies(Control::Root) && can_read(CLOSED) {
        return State::Unavailable("a file without a rule can be read".to_owned());
    }
    // Pathname sockets of others are not in this root, so a kernel without that right leaves nothing open.
    let missing: Vec<&str> = missing_file_rights(abi).filter(|name| *name != SOCKETS).collect();
    if missing.is_empty() {
        State::Enforced
    } else {
        State::Partial(format!("landlock ABI {abi} does not know: {}", missing.join(", ")))
    }
}

/// A port that no profile opens (tcpmux).
const CLOSED_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

fn landlock_tcp(plan: &Plan, in_force: InForce) -> State {
    match in_force {
        InForce::Abi(abi) if abi >= 4 => {}
        InForce::Abi(abi) => return State::Unavailable(format!("landlock ABI {abi} does not know TCP")),
        InForce::Absent | InForce::LeftOut => return State::Unavailable("the kernel has no landlock".to_owned()),
    }
    if plan.landlock.connect.is_some() {
        let tried = std::net::TcpStream::connect(CLOSED_PORT);
        if !tried.is_err_and(|fault| fault.raw_os_error() == Some(libc::EACCES)) {
            return State::Unavailable("a port without a rule was tried and not refused".to_owned());
        }
    }
    match (plan.landlock.connect.is_some(), plan.landlock.bind.is_some()) {
        (true, true) => State::Enforced,
        (true, false) => State::Partial("every port can be bound".to_owned()),
        (false, true) => State::Partial("every port can be connected to".to_owned()),
        (false, false) => State::Unavailable("the profile leaves every port open".to_owned()),
    }
}

fn landlock_scopes(seen: &Seen) -> State {
    match seen.landlock {
        InForce::Abi(abi) if abi >= 6 => {}
        InForce::Abi(abi) => return State::Unavailable(format!("landlock ABI {abi} does not know scopes")),
        InForce::Absent | InForce::LeftOut => return State::Unavailable("the kernel has no landlock".to_owned()),
    }
    let Some((_, address)) = &seen.stranger else {
        return State::Unavailable("it cannot be measured: no socket to try".to_owned());
    };
    let tried = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .and_then(|own| connect(own.as_raw_fd(), address));
    match tried {
        Err(Errno::EPERM) => State::Enforced,
        other => State::Unavailable(format!("an abstract socket outside was tried: {other:?}")),
    }
}

fn seccomp_filter() -> State {
    match filter::is_installed() {
        Ok(true) if seccomp::is_felt() => State::Enforced,
        Ok(true) => State::Unavailable("a filtered call was tried and not refused".to_owned()),
        other => held(other, "no filter is installed"),
    }
}

fn capabilities() -> State {
    held(Capabilities::of_this_thread().map(|sets| sets.are_none()), "some are left")
}

fn limits(plan: &Plan) -> State {
    let loose = plan.limits.iter().find(|limit| {
        let found = getrlimit(kernel_resource(limit.resource));
        !found.is_ok_and(|(soft, hard)| soft.max(hard) <= kernel_value(limit))
    });
    match loose {
        None => State::Enforced,
        Some(limit) => State::Unavailable(format!("{:?} is not limited", limit.resource)),
    }
}

/// Descriptors that a program is likely to have inherited lie low; `close_range` took the rest too.
const LIKELY: i32 = 256;

fn descriptors() -> State {
    match inheritable(3, LIKELY) {
        Ok(open) if open.is_empty() => State::Enforced,
        Ok(open) => State::Unavailable(format!("these stay open: {open:?}")),
        Err(fault) => State::Unavailable(format!("it cannot be measured: {fault}")),
    }
}

fn terminal(plan: &Plan) -> State {
    match plan.terminal {
        Terminal::Own => State::Enforced,
        // Without a controlling terminal this cannot be opened.
        Terminal::None => held(Ok(!can_read("/dev/tty")), "it has a controlling terminal"),
    }
}
