//! A running sandbox, as an owner of hundreds holds it: nothing blocks, and what is idle costs nothing.
//!
//! ```text
//!  signal, socket, exec ──Order──> init ──Event──> the one reader ──┬─> the answer, by its number
//!                                                                   └─> ended: everybody who waits
//!  pidfd ─────────────────────────────────────────────────────────────> gone: everybody who waits
//! ```
//!
//! Each wait for an answer has a bound, because an init may be frozen or killed at any moment. The command inside has no
//! descriptor of this socket: it is close-on-exec, and closed before it is executed.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::sys::clone::signal_by_pidfd;
use crate::sys::descriptor::set_nonblocking;
use crate::sys::watch::watch;

use super::cgroup::Applied;
use super::exec::{self, Exec, ExecError, Executing};
use super::wire::{Event, Exit, Order, hear, tell};
use super::{End, Fault, InitId, Listener, Report};

/// How long an init may take to read an order or to answer: it does so in microseconds, and on a host under full load in
/// tenths of a second.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What a control socket is watched for.
pub(super) const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A sandbox just launched, as its owner takes it.
#[derive(Debug)]
pub struct Attended {
    /// The channel to its init.
    pub channel: Channel,
    /// The sockets made inside; see [`Launched`](super::Launched).
    pub listeners: Vec<(Listener, OwnedFd)>,
    /// What `NOTIFY_SOCKET` leads to.
    pub notify: Option<OwnedFd>,
    /// What was measured from inside before the command was executed.
    pub report: Report,
    /// What became of the plan's scheduling.
    pub scheduled: Vec<Applied>,
    /// What names the init for good.
    pub id: InitId,
}

/// The channel to a sandbox's init. Clones are the same channel; with the last one the owner is gone, and the init does
/// what its plan says of that.
#[derive(Debug, Clone)]
pub struct Channel(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    link: Arc<Link>,
    pidfd: AsyncFd<OwnedFd>,
    pid: i32,
    reader: AbortHandle,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It holds the socket too.
        self.reader.abort();
    }
}

/// What the reader and the askers share.
#[derive(Debug)]
struct Link {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    pending: Mutex<HashMap<u64, Pending>>,
    ended: watch::Sender<Option<End>>,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Pending {
    Socket(oneshot::Sender<io::Result<OwnedFd>>),
    Execution { started: Option<oneshot::Sender<Result<(), Fault>>>, ended: watch::Sender<Option<Exit>> },
}

impl Channel {
    /// Takes the socket over. Inside of a tokio runtime.
    pub(super) fn new(socket: OwnedFd, ended: Option<Exit>, pidfd: OwnedFd, pid: i32) -> io::Result<Self> {
        set_nonblocking(&socket)?;
        let link = Arc::new(Link {
            socket: watch(socket, BOTH)?,
            next: AtomicU64::new(1),
            pending: Mutex::default(),
            ended: watch::Sender::new(ended.map(End::Exit)),
        });
        let pidfd = watch(pidfd, Interest::READABLE)?;
        let reader = tokio::spawn(read(Arc::clone(&link))).abort_handle();
        Ok(Self(Arc::new(Owner { link, pidfd, pid, reader })))
    }

    /// The init's process id, for showing.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Sends the command a signal, such as 15.
    ///
    /// # Errors
    /// `BrokenPipe` when the init is gone, `TimedOut` when it takes no orders.
    pub async fn signal(&self, number: i32) -> io::Result<()> {
        self.0.link.order(&Order::Signal { number }, &[]).await
    }

    /// A fresh TCP socket inside the sandbox's network, to be connected to what listens there. Close-on-exec, blocking.
    ///
    /// # Errors
    /// As [`Channel::signal`]; `EAFNOSUPPORT` without IPv6 in the kernel.
    pub async fn socket(&self, v6: bool) -> io::Result<OwnedFd> {
        let link = &self.0.link;
        let (answer, answered) = oneshot::channel();
        let asked = Asked { link, ask: link.expect(Pending::Socket(answer))? };
        link.order(&Order::Socket { ask: asked.ask, v6 }, &[]).await?;
        match timeout(ANSWER_PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Executes one more command inside, with `streams` as its standard input, output and error, and tells once that has
    /// succeeded.
    ///
    /// # Errors
    /// The step that failed inside, or that the init does not answer. Nothing is left running then.
    pub async fn exec(&self, command: Exec, streams: [OwnedFd; 3]) -> Result<Executing, ExecError> {
        let link = &self.0.link;
        let (started, has_started) = oneshot::channel();
        let (ended, has_ended) = watch::channel(None);
        let ask = link.expect(Pending::Execution { started: Some(started), ended })?;
        // From here on every way out of this function kills what may have started.
        let executing = Executing { channel: self.clone(), ask, ended: has_ended };
        let borrowed: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
        link.order(&Order::Exec { ask, command }, &borrowed).await?;
        match timeout(exec::PATIENCE, has_started).await {
            Ok(Ok(Ok(()))) => Ok(executing),
            Ok(Ok(Err(fault))) => Err(fault.into()),
            Ok(Err(_)) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Waits for the command's end. The init may still be taking the rest down: only [`Channel::gone`] tells when all is
    /// gone.
    pub async fn ended(&self) -> End {
        let mut ended = self.0.link.ended.subscribe();
        // The sender is in the link, which `self` holds.
        ended.wait_for(Option::is_some).await.ok().and_then(|end| *end).unwrap_or(End::Lost)
    }

    /// The same, if it is known already.
    pub fn end(&self) -> Option<End> {
        *self.0.link.ended.borrow()
    }

    /// Waits until the init, and with it everything inside, has ended.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn gone(&self) -> io::Result<()> {
        self.0.pidfd.readable().await.map(drop)
    }

    /// Whether everything inside has ended.
    pub fn is_gone(&self) -> bool {
        // A signal of number 0 only asks.
        signal_by_pidfd(self.0.pidfd.get_ref(), 0).is_err_and(|fault| fault.raw_os_error() == Some(libc::ESRCH))
    }

    /// Kills the init, and with it the kernel kills everything inside; [`Channel::gone`] tells when that is done.
    ///
    /// # Errors
    /// `EPERM` when this process may not.
    pub fn kill(&self) -> io::Result<()> {
        match signal_by_pidfd(self.0.pidfd.get_ref(), libc::SIGKILL) {
            Err(fault) if fault.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    pub(super) async fn kill_execution(&self, ask: u64) -> io::Result<()> {
        self.0.link.order(&Order::KillExec { ask }, &[]).await
    }

    /// Nobody waits for it any more: what still runs is killed.
    pub(super) fn forget_execution(&self, ask: u64, has_ended: bool) {
        let link = &self.0.link;
        let is_open = link.pending().remove(&ask).is_some();
        if has_ended || !is_open || tell(link.socket.get_ref(), &Order::KillExec { ask }, &[]).is_ok() {
            return;
        }
        // The init is behind with its orders, or gone.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let channel = self.clone();
            drop(runtime.spawn(async move { channel.kill_execution(ask).await }));
        }
    }
}

impl Link {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who waits; the number is the answer's.
    fn expect(&self, who: Pending) -> io::Result<u64> {
        let ask = self.next.fetch_add(1, Ordering::Relaxed);
        self.pending().insert(ask, who);
        // The reader sets the end before it lets go of who waits, so nobody is forgotten between the two.
        if self.ended.borrow().is_some_and(|end| end == End::Lost) {
            self.pending().remove(&ask);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(ask)
    }

    async fn order(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| tell(socket, order, descriptors));
        timeout(ANSWER_PATIENCE, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn on(&self, event: Event, descriptors: Vec<OwnedFd>) {
        match event {
            Event::Exited(exit) => self.set_end(End::Exit(exit)),
            Event::Socket { ask } => {
                let socket = descriptors.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into());
                self.answer_socket(ask, socket);
            }
            Event::NoSocket { ask, errno } => self.answer_socket(ask, Err(io::Error::from_raw_os_error(errno))),
            Event::ExecStarted { ask } => self.answer_execution(ask, Ok(())),
            Event::ExecFailed { ask, fault } => {
                self.answer_execution(ask, Err(fault));
                self.pending().remove(&ask);
            }
            Event::ExecEnded { ask, exit } => {
                if let Some(Pending::Execution { ended, .. }) = self.pending().remove(&ask) {
                    ended.send_replace(Some(exit));
                }
            }
            // Of the launch, or of an adoption: over by now.
            Event::Started { .. }
            | Event::Listening { .. }
            | Event::Notify
            | Event::Scheduled(_)
            | Event::Measured(_)
            | Event::Running { .. }
            | Event::Failed(_) => {}
        }
    }

    fn answer_socket(&self, ask: u64, answer: io::Result<OwnedFd>) {
        if let Some(Pending::Socket(waiting)) = self.pending().remove(&ask) {
            // Whoever asked may have stopped waiting; then the socket closes here.
            let _ = waiting.send(answer);
        }
    }

    fn answer_execution(&self, ask: u64, answer: Result<(), Fault>) {
        if let Some(Pending::Execution { started, .. }) = self.pending().get_mut(&ask)
            && let Some(waiting) = started.take()
        {
            let _ = waiting.send(answer);
        }
    }

    /// The first end that is heard counts: behind the command's exit the channel closes.
    fn set_end(&self, end: End) {
        self.ended.send_if_modified(|known| known.is_none() && known.replace(end).is_none());
    }
}

/// Hears the init until it is gone, or has another owner.
async fn read(link: Arc<Link>) {
    loop {
        match link.socket.async_io(Interest::READABLE, hear::<Event>).await {
            Ok(Some((event, descriptors))) => link.on(event, descriptors),
            // An event that this version does not know: of an init that a newer one started.
            Err(fault) if fault.kind() == io::ErrorKind::InvalidData => {}
            Ok(None) | Err(_) => break,
        }
    }
    link.set_end(End::Lost);
    // Dropped, they tell those who wait that no answer will come.
    link.pending().clear();
}

/// An answer that is waited for, until it is not.
struct Asked<'a> {
    link: &'a Link,
    ask: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.link.pending().remove(&self.ask);
    }
}
