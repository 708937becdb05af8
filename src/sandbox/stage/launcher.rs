//! The helper that makes namespaces: it takes requests until its caller is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use nix::sched::CloneFlags;
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::wire::{Event, Namespace, Request, hear, tell};
use crate::sys::clone::{Side, clone_into};
use crate::sys::{descriptor, process, signals};

use super::init;
use super::measure::Outside;

/// Serves until the caller is gone.
pub(super) fn run() -> ! {
    match serve() {
        Ok(()) => exit(0),
        Err(fault) => {
            eprintln!("{}: {fault}", super::LAUNCHER);
            exit(125);
        }
    }
}

fn serve() -> Result<(), Fault> {
    let socket = descriptor::take_stdin().at(Step::Launcher)?;
    if getsockopt(&socket, sockopt::SockType).at(Step::Launcher)? != SockType::SeqPacket {
        return Err(Fault::said(Step::Launcher, "this program starts it by itself; it is not for the command line"));
    }
    // Nothing that the caller's own parent left open is for a sandbox.
    descriptor::close_from(3, &[&socket]).at(Step::Launcher)?;
    // Away from the caller's terminal: its ^C is for the command, which hears of it from the caller.
    nix::unistd::setsid().at(Step::Launcher)?;
    signals::forget_children().at(Step::Launcher)?;
    if process::is_root() {
        process::harden().at(Step::Launcher)?;
    }
    // An ordinary user's launcher stays readable for that user: the kernel gives the id maps of a process that is
    // not dumpable to root alone. Each init closes itself once its maps are written.
    let outside = Outside::look();
    while let Some((request, descriptors)) = hear::<Request>(&socket).at(Step::Launcher)? {
        if let Some(descriptors) = Descriptors::sort(&request, descriptors) {
            launch(&request, descriptors, &outside);
        }
    }
    Ok(())
}

/// What came with a request, by its meaning.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub(super) plan: OwnedFd,
    pub(super) control: OwnedFd,
    pub(super) standard: [OwnedFd; 3],
    pub(super) cgroup: Option<OwnedFd>,
    pub(super) joins: Vec<OwnedFd>,
    pub(super) exit_record: Option<OwnedFd>,
    pub(super) adoption: Option<OwnedFd>,
}

impl Descriptors {
    fn sort(request: &Request, all: Vec<OwnedFd>) -> Option<Self> {
        let mut rest = all.into_iter();
        let sorted = Self {
            plan: rest.next()?,
            control: rest.next()?,
            standard: [rest.next()?, rest.next()?, rest.next()?],
            cgroup: if request.cgroup { Some(rest.next()?) } else { None },
            joins: rest.by_ref().take(request.joins).collect(),
            exit_record: if request.exit_record { Some(rest.next()?) } else { None },
            adoption: if request.adoption { Some(rest.next()?) } else { None },
        };
        (rest.next().is_none() && sorted.joins.len() == request.joins).then_some(sorted)
    }
}

fn launch(request: &Request, descriptors: Descriptors, outside: &Outside) {
    let flags = request.namespaces.iter().fold(CloneFlags::empty(), |flags, namespace| flags | flag(*namespace));
    let said = match clone_into(flags, descriptors.cgroup.as_ref().map(AsFd::as_fd)) {
        Ok(Side::Child) => init::run(request, descriptors, outside),
        Ok(Side::Parent(child)) => {
            let pidfd: Vec<_> = child.pidfd.iter().map(AsFd::as_fd).collect();
            tell(&descriptors.control, &Event::Started { pid: child.pid }, &pidfd)
        }
        Err(fault) => {
            let hint = why_refused(request, &fault);
            tell(&descriptors.control, &Event::Failed(Fault::new(Step::Clone, hint, &fault)), &[])
        }
    };
    // A caller that hung up meanwhile wants nothing; the init sees the same and ends or waits by its plan.
    let _ = said;
}

/// What an operator can do about it. Most hosts that refuse do so by one of these settings.
fn why_refused(request: &Request, fault: &std::io::Error) -> &'static str {
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
