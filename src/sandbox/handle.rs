//! A running sandbox, as its owner holds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::clone::signal_by_pidfd;

use super::cgroup::Applied;
use super::wire::{Event, Exit, Order, hear, tell};
use super::{Attended, Channel, InitId, Listener, Report};

/// A running sandbox.
#[derive(Debug)]
pub struct Launched {
    /// Becomes readable when the init, and with it everything inside, has ended.
    pub pidfd: OwnedFd,
    /// The init's process id, as the caller sees it. Use `pidfd` to signal.
    pub pid: i32,
    /// What names the init for good, for a later owner.
    pub id: InitId,
    /// The sockets made inside, non-blocking, in the order of the plan; without IPv6 in the kernel, without its own.
    pub listeners: Vec<(Listener, OwnedFd)>,
    /// What `NOTIFY_SOCKET` leads to, when the plan has it: for [`Notifications`](super::notify::Notifications).
    pub notify: Option<OwnedFd>,
    /// What became of the plan's scheduling.
    pub scheduled: Vec<Applied>,
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

/// The channel to a sandbox's init, for an owner of one. Calls block; each sends or waits for one message. [`Channel`] is
/// for an owner of many.
#[derive(Debug)]
pub struct Handle {
    pub(super) socket: OwnedFd,
    /// Heard while waiting for something else.
    pub(super) ended: OnceLock<Exit>,
}

impl Handle {
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
        tell(&self.socket, &Order::Socket { ask: 0, v6 }, &[])?;
        loop {
            match hear::<Event>(&self.socket)? {
                Some((Event::Socket { .. }, sockets)) => {
                    return sockets.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into());
                }
                Some((Event::NoSocket { errno, .. }, _)) => return Err(io::Error::from_raw_os_error(errno)),
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
    /// Gives it to an owner that waits for many at once. To be called inside of a tokio runtime.
    ///
    /// # Errors
    /// No descriptors are left, or there is no runtime's driver; the init then loses its owner.
    pub fn attend(self) -> io::Result<Attended> {
        let Self { pidfd, pid: _, id, listeners, notify, scheduled, report, control } = self;
        let channel = Channel::new(control.socket, control.ended.into_inner(), pidfd, id.pid)?;
        Ok(Attended { channel, listeners, notify, report, scheduled, id })
    }

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

/// Kills the init, and waits until nothing inside is left.
pub(super) fn end(pidfd: &OwnedFd, patience: Duration) -> io::Result<()> {
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
            Err(nix::errno::Errno::EINTR) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// What the sockets are for; a place that the plan does not have closes its socket.
pub(super) fn named(
    plan: &[Listener],
    places: &[usize],
    sockets: Vec<OwnedFd>,
) -> impl Iterator<Item = (Listener, OwnedFd)> {
    places.iter().zip(sockets).filter_map(|(place, socket)| Some((*plan.get(*place)?, socket)))
}

/// Unread messages of ours when the peer closes make a reset of its end.
pub(super) fn is_gone(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
