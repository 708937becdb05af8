//! A running sandbox, found again by an owner that comes back.
//!
//! ```text
//! state file ── id ──> pidfd, start time compared ──> adoption socket ──> listeners, notifications, channel
//!                        └─ ended meanwhile ──> the exit record
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::sys::message;
use crate::sys::watch::watch;

use super::channel::{ANSWER_PATIENCE, BOTH};
use super::handle::named;
use super::wire::{Event, Exit, Order, hear, tell};
use super::{Channel, InitId, Listener};

/// How long an init that has closed its socket may take to vanish.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// A record is a few dozen bytes.
const MAX_RECORD: u64 = 4 << 10;

/// What an owner has written down of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptionInfo {
    /// Which process its init is.
    pub id: InitId,
    /// Where its adoption socket lies.
    pub socket: PathBuf,
    /// Where its exit record lies.
    pub exit_record: PathBuf,
    /// The listeners of its plan.
    pub listeners: Vec<Listener>,
}

/// A sandbox that has this owner now.
#[derive(Debug)]
pub struct Adopted {
    /// The channel to its init.
    pub channel: Channel,
    /// The sockets made inside.
    pub listeners: Vec<(Listener, OwnedFd)>,
    /// What `NOTIFY_SOCKET` leads to.
    pub notify: Option<OwnedFd>,
}

/// Why a sandbox has no new owner.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It has ended; this is what its exit record says. Without one its init was killed.
    #[error("the sandbox has ended")]
    Gone(Option<Exit>),
    /// It is there and does not answer: its cgroup may be frozen.
    #[error("the sandbox does not answer")]
    Silent,
    /// It cannot be reached.
    #[error("the sandbox cannot be reached")]
    Io(#[from] io::Error),
}

/// The socket at which a later owner can take the sandbox over, for [`Streams::adoption`](super::Streams). The folder
/// must be closed to everybody else: whoever connects owns the runtime. An old socket at that place is removed.
///
/// # Errors
/// The folder is missing or not writable.
pub fn listen_for_adoption(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
        _ => message::listen_at(path),
    }
}

/// Takes a running sandbox over, from whoever has it. Inside of a tokio runtime.
///
/// # Errors
/// See [`AdoptError`]; the sandbox is then as it was.
pub async fn adopt(info: &AdoptionInfo) -> Result<Adopted, AdoptError> {
    let Some(pidfd) = info.id.open()? else { return Err(gone(info)) };
    match take_over(info).await {
        Ok((socket, listeners, notify)) => {
            let channel = Channel::new(socket, None, pidfd, info.id.pid)?;
            Ok(Adopted { channel, listeners, notify })
        }
        Err(fault) if fault.kind() == io::ErrorKind::TimedOut => Err(AdoptError::Silent),
        Err(fault) => {
            // It may be ending at this very moment: its record is written before the socket closes.
            let pidfd = watch(pidfd, Interest::READABLE)?;
            match timeout(LAST_BREATH, pidfd.readable()).await {
                Ok(ended) => {
                    drop(ended?);
                    Err(gone(info))
                }
                Err(_) => Err(fault.into()),
            }
        }
    }
}

/// Ends a sandbox of which nothing but its adoption socket is known: its owner died before it wrote down what it had
/// launched. `true` when somebody answered there and is gone now.
///
/// # Errors
/// It is there and does not end.
pub async fn end_unknown(socket: &Path) -> io::Result<bool> {
    let socket = match message::connect_to(socket) {
        Ok(socket) => watch(socket, BOTH)?,
        // Nobody listens there, or nothing is there.
        Err(fault) if matches!(fault.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOENT)) => return Ok(false),
        Err(fault) => return Err(fault),
    };
    let ended = timeout(ANSWER_PATIENCE, async {
        let kill = Order::Signal { number: libc::SIGKILL };
        socket.async_io(Interest::WRITABLE, |socket| tell(socket, &kill, &[])).await?;
        // With the command its init ends, and with that everything inside; the socket closes last.
        while let Ok(Some(_)) = socket.async_io(Interest::READABLE, hear::<Event>).await {}
        Ok(true)
    });
    ended.await?
}

/// A record that cannot be read says nothing.
fn gone(info: &AdoptionInfo) -> AdoptError {
    AdoptError::Gone(read_exit(&info.exit_record).unwrap_or(None))
}

type Taken = (OwnedFd, Vec<(Listener, OwnedFd)>, Option<OwnedFd>);

async fn take_over(info: &AdoptionInfo) -> io::Result<Taken> {
    let socket = watch(message::connect_to(&info.socket)?, BOTH)?;
    let (listeners, notify) = timeout(ANSWER_PATIENCE, ask_for_sockets(&socket, &info.listeners)).await??;
    Ok((socket.into_inner(), listeners, notify))
}

async fn ask_for_sockets(
    socket: &AsyncFd<OwnedFd>,
    plan: &[Listener],
) -> io::Result<(Vec<(Listener, OwnedFd)>, Option<OwnedFd>)> {
    socket.async_io(Interest::WRITABLE, |socket| tell(socket, &Order::Listeners, &[])).await?;
    let (mut listeners, mut notify) = (Vec::new(), None);
    loop {
        match socket.async_io(Interest::READABLE, hear::<Event>).await? {
            // An empty one says that these were all.
            Some((Event::Listening { places }, _)) if places.is_empty() => return Ok((listeners, notify)),
            Some((Event::Listening { places }, sockets)) => listeners.extend(named(plan, &places, sockets)),
            Some((Event::Notify, sockets)) => notify = sockets.into_iter().next(),
            Some(_) => {}
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// What an exit record says: `None` when none was written, because the init was killed or has not ended.
///
/// # Errors
/// It cannot be read, or something else stands in it.
pub fn read_exit(path: &Path) -> io::Result<Option<Exit>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_RECORD).read_to_end(&mut text)?,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(fault) => return Err(fault),
    };
    if text.is_empty() { Ok(None) } else { serde_json::from_slice(&text).map(Some).map_err(io::Error::from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_record_is_one_line_or_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("exit");
        assert_eq!(read_exit(&path).expect("none"), None);
        for (text, exit) in
            [("", None), ("{\"code\":3}\n", Some(Exit::Code(3))), ("{\"signal\":31}\n", Some(Exit::Signal(31)))]
        {
            fs::write(&path, text).expect("write");
            assert_eq!(read_exit(&path).expect("readable"), exit);
        }
        fs::write(&path, "{\"code\":").expect("write");
        assert!(read_exit(&path).is_err());
    }
}
