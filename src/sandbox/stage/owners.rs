//! A folder whose owner on the host and whose owner inside are two: an id-mapped mount.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sys::clone::{Side, fork};
use crate::sys::{message, mount};

/// Shows what belongs to the owner of the detached `copy` as belonging to user and group `inside`.
pub(super) fn map(copy: &OwnedFd, inside: (u32, u32)) -> io::Result<()> {
    let folder = fstat(copy)?;
    // A mount maps as a user namespace does: from the id on the disk to the id that is seen.
    let namespace = namespace((folder.st_uid, folder.st_gid), inside)?;
    mount::map_owners(copy, &namespace)
}

/// A user namespace that maps one user and one group. It needs a process to begin with, and none to go on.
fn namespace(from: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    let (ours, theirs) = message::pair()?;
    let child = match fork()? {
        Side::Child => {
            drop(ours);
            stand_in(&theirs)
        }
        Side::Parent(child) => Pid::from_raw(child.pid),
    };
    drop(theirs);
    let made = read_maps(&ours, from, to);
    drop(ours);
    let _ = kill(child, Signal::SIGKILL);
    while waitpid(child, None) == Err(Errno::EINTR) {}
    made
}

/// The process to begin with: it says by which number the host's `/proc` knows it, hands its namespace over, and waits. Nobody
/// else opens that: this is no process that others look into, not even root without `CAP_SYS_PTRACE` (`ptrace(2)`).
fn stand_in(theirs: &OwnedFd) -> ! {
    let done = unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).and_then(|()| {
        let (own, namespace) = (fs::read_link("/proc/self")?, File::open("/proc/self/ns/user")?);
        message::send(theirs, own.as_os_str().as_encoded_bytes(), &[namespace.as_fd()])
    });
    let _ = message::receive(theirs, 1);
    exit(i32::from(done.is_err()))
}

fn read_maps(ours: &OwnedFd, from: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    let said = message::receive(ours, MAX_NUMBER)?;
    let number = String::from_utf8(said.bytes).map_err(io::Error::other)?;
    let Some(namespace) = said.descriptors.into_iter().next() else { return Err(Errno::EPERM.into()) };
    fs::write(format!("/proc/{number}/uid_map"), format!("{} {} 1", from.0, to.0))?;
    fs::write(format!("/proc/{number}/gid_map"), format!("{} {} 1", from.1, to.1))?;
    Ok(namespace)
}

/// Longest process id in decimal.
const MAX_NUMBER: usize = 20;
