//! What a command says to its service manager (`sd_notify(3)`), received at the socket that its init made inside.
//!
//! Every process inside may speak, and nobody else reaches the socket: it lies in the sandbox's own root. What they say is
//! taken as a claim about their own runtime and nothing more. `MAINPID`, stored descriptors and everything else that
//! would steer the manager is not read.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::sys::message::{Datagram, receive_datagram};
use crate::sys::watch::watch;

/// Longest datagram; a longer one is dropped.
pub const MAX_DATAGRAM: usize = 4 << 10;
/// Most characters of a status.
pub const MAX_STATUS: usize = 256;

/// One thing said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// `READY=1`: it has started, or has read its settings again.
    Ready,
    /// `RELOADING=1`: it reads them.
    Reloading,
    /// `STOPPING=1`: it is ending on its own.
    Stopping,
    /// `WATCHDOG=1`: it is alive.
    Watchdog,
    /// `WATCHDOG=trigger`: it asks to be treated as if it were not.
    WatchdogTrigger,
    /// `STATUS=`: a line for a person, without control characters.
    Status(String),
}

/// What one datagram said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it, by the number that the receiver sees; 0 when it cannot be told.
    pub pid: i32,
    /// In the order said.
    pub notices: Vec<Notice>,
}

/// Reads a datagram. What is not known is passed over, as `sd_notify(3)` asks.
pub fn parse(datagram: &[u8]) -> Vec<Notice> {
    datagram.split(|byte| *byte == b'\n').filter_map(notice).collect()
}

fn notice(line: &[u8]) -> Option<Notice> {
    match line {
        b"READY=1" => Some(Notice::Ready),
        b"RELOADING=1" => Some(Notice::Reloading),
        b"STOPPING=1" => Some(Notice::Stopping),
        b"WATCHDOG=1" => Some(Notice::Watchdog),
        b"WATCHDOG=trigger" => Some(Notice::WatchdogTrigger),
        _ => line.strip_prefix(b"STATUS=").map(|status| Notice::Status(clean(status))),
    }
}

fn clean(status: &[u8]) -> String {
    String::from_utf8_lossy(status).chars().filter(|letter| !letter.is_control()).take(MAX_STATUS).collect()
}

/// Time from one datagram to the next: a runtime that floods its socket waits for us and not the other way round.
const GAP: Duration = Duration::from_millis(5);

/// Receives them, one after the other.
#[derive(Debug)]
pub struct Notifications {
    socket: Arc<AsyncFd<OwnedFd>>,
    /// A datagram that is being taken: kept over a wait that was given up.
    taking: Option<JoinHandle<io::Result<Datagram>>>,
    not_before: Instant,
}

impl Notifications {
    /// Of [`Launched::notify`](super::Launched). Inside of a tokio runtime.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = Arc::new(watch(socket, Interest::READABLE)?);
        Ok(Self { socket, taking: None, not_before: Instant::now() })
    }

    /// Waits for the next datagram that says something. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// The runtime is shutting down, or the socket is broken: it will say no more.
    pub async fn next(&mut self) -> io::Result<Message> {
        loop {
            sleep_until(self.not_before).await;
            let datagram = self.take().await;
            self.not_before = Instant::now() + GAP;
            match datagram {
                Ok(Datagram { bytes, pid }) => {
                    let notices = parse(&bytes);
                    if !notices.is_empty() {
                        return Ok(Message { pid, notices });
                    }
                }
                Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidData) => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// On a thread that may block: a descriptor that somebody sends along is closed by whoever receives it, also when it
    /// is refused, and before Linux 6.16 nothing keeps it out. A socket made to linger then closes slowly.
    async fn take(&mut self) -> io::Result<Datagram> {
        if self.taking.is_none() {
            self.socket.readable().await?.retain_ready();
            let socket = Arc::clone(&self.socket);
            self.taking = Some(tokio::task::spawn_blocking(move || {
                let datagram = receive_datagram(socket.get_ref(), MAX_DATAGRAM);
                if datagram.as_ref().is_err_and(|fault| fault.kind() == io::ErrorKind::WouldBlock) {
                    // What was there is taken; only now may the next one wake us.
                    let _ =
                        socket.try_io(Interest::READABLE, |_| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
                }
                datagram
            }));
        }
        let Some(taking) = &mut self.taking else { return Err(io::ErrorKind::WouldBlock.into()) };
        let taken = taking.await;
        self.taking = None;
        taken.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;
    use crate::sys::message::datagrams_at;

    #[test]
    fn what_is_known_is_read_and_the_rest_passed_over() {
        let said = b"READY=1\nMAINPID=1\nSTATUS=\x1b[31mup \xff\tnow\nWATCHDOG=1\nREADY=0\nready=1\nFDSTORE=1\n\n=\nWATCHDOG_USEC=1";
        let status = Notice::Status("[31mup \u{fffd}now".to_owned());
        assert_eq!(parse(said), [Notice::Ready, status, Notice::Watchdog]);
        assert_eq!(
            parse(b"STOPPING=1\nWATCHDOG=trigger\nRELOADING=1"),
            [Notice::Stopping, Notice::WatchdogTrigger, Notice::Reloading]
        );
        let long = [b"STATUS=".as_slice(), "\u{e9}".repeat(1_000).as_bytes()].concat();
        assert_eq!(parse(&long), [Notice::Status("\u{e9}".repeat(MAX_STATUS))]);
        assert_eq!(parse(b""), []);
    }

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").expect("proc").count()
    }

    /// As an ordinary socket takes them: on a kernel without `SO_PASSRIGHTS`, ours is one.
    #[tokio::test]
    async fn descriptors_that_come_along_do_not_stay() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify");
        let ours = UnixDatagram::bind(&path).expect("bind");
        ours.set_nonblocking(true).expect("non-blocking");
        nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::PassCred, &true).expect("option");
        let theirs = UnixDatagram::unbound().expect("socket");
        theirs.connect(&path).expect("connect");
        let mut notifications = Notifications::new(ours.into()).expect("notifications");
        let null = std::fs::File::open("/dev/null").expect("null");
        let raw = [null.as_raw_fd(); 8];
        let send = |text: &[u8]| {
            let parts = [io::IoSlice::new(text)];
            sendmsg::<()>(theirs.as_raw_fd(), &parts, &[ControlMessage::ScmRights(&raw)], MsgFlags::empty(), None)
        };
        send(b"READY=1").expect("send");
        assert_eq!(notifications.next().await.expect("message").notices, [Notice::Ready]);
        let before = descriptors();
        for _ in 0..64 {
            send(b"WATCHDOG=1").expect("send");
            assert_eq!(notifications.next().await.expect("message").notices, [Notice::Watchdog]);
        }
        // Other tests open and close some meanwhile; 512 were sent.
        assert!(descriptors() < before + 256, "{before} became {}", descriptors());
    }

    #[tokio::test]
    async fn our_own_socket_notes_the_sender_and_drops_what_is_too_long() {
        let folder = tempfile::tempdir().expect("folder");
        // Longer than an address may be.
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("folder");
        let ours = datagrams_at(&deep.join("notify")).expect("socket");
        let theirs = UnixDatagram::unbound().expect("socket");
        let short = format!(
            "/proc/self/fd/{}/notify",
            std::fs::File::open(&deep).map(std::os::fd::IntoRawFd::into_raw_fd).expect("folder")
        );
        theirs.connect(short).expect("connect");
        let mut notifications = Notifications::new(ours).expect("notifications");
        theirs.send(&vec![b'x'; MAX_DATAGRAM + 1]).expect("send");
        theirs.send(b"X_UNKNOWN=1").expect("send");
        theirs.send(b"STOPPING=1").expect("send");
        // Given up and taken up again: nothing is lost.
        let brief = tokio::time::timeout(Duration::ZERO, notifications.next()).await;
        let message = match brief {
            Ok(message) => message,
            Err(_) => notifications.next().await,
        };
        let expected = Message { pid: std::process::id().cast_signed(), notices: vec![Notice::Stopping] };
        assert_eq!(message.expect("message"), expected);
    }
}
