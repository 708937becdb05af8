//! A folder whose owner on the host and whose owner inside are two: an id-mapped mount.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::process::exit;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sys::clone::{Side, fork};
use crate::sys::mount;

/// Shows what belongs to the owner of the detached `copy` as belonging to user and group `inside`.
pub(super) fn map(copy: &OwnedFd, inside: (u32, u32)) -> io::Result<()> {
    let folder = fstat(copy)?;
    // A mount maps as a user namespace does: from the id on the disk to the id that is seen.
    let namespace = namespace((folder.st_uid, folder.st_gid), inside)?;
    mount::map_owners(copy, &namespace)
}

/// A user namespace that maps one user and one group. It needs a process to begin with, and none to go on.
fn namespace(from: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    let (ours, theirs) = io::pipe()?;
    let (hold, held) = io::pipe()?;
    let child = match fork()? {
        Side::Child => {
            drop((ours, held));
            stand_in(theirs, hold)
        }
        Side::Parent(child) => Pid::from_raw(child.pid),
    };
    drop((theirs, hold));
    let made = read_maps(ours, from, to);
    drop(held);
    let _ = kill(child, Signal::SIGKILL);
    while waitpid(child, None) == Err(Errno::EINTR) {}
    made
}

/// The process to begin with: it says by which number the host's `/proc` knows it, and waits.
fn stand_in(mut say: PipeWriter, mut hold: PipeReader) -> ! {
    let done = unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from).and_then(|()| {
        let own = fs::read_link("/proc/self")?;
        say.write_all(own.as_os_str().as_encoded_bytes())
    });
    drop(say);
    let _ = hold.read(&mut [0]);
    exit(i32::from(done.is_err()))
}

fn read_maps(mut ours: PipeReader, from: (u32, u32), to: (u32, u32)) -> io::Result<OwnedFd> {
    let mut number = String::new();
    ours.read_to_string(&mut number)?;
    if number.is_empty() {
        return Err(Errno::EPERM.into());
    }
    fs::write(format!("/proc/{number}/uid_map"), format!("{} {} 1", from.0, to.0))?;
    fs::write(format!("/proc/{number}/gid_map"), format!("{} {} 1", from.1, to.1))?;
    Ok(File::open(format!("/proc/{number}/ns/user"))?.into())
}
