//! Whole messages between processes of one host: `SOCK_SEQPACKET` sockets that carry descriptors, and datagrams that
//! carry who sent them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, accept4, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::stat::Mode;

/// Most descriptors in one message. The kernel's own bound is 253 (`SCM_MAX_FD`); a launch carries six, and
/// one per cgroup v1 controller.
pub const MAX_DESCRIPTORS: usize = 32;

/// One message as it came.
#[derive(Debug)]
pub struct Message {
    /// Its bytes; empty when the peer is gone.
    pub bytes: Vec<u8>,
    /// Its descriptors, in the order sent, each close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// A connected pair that keeps message borders (`unix(7)`), close-on-exec.
///
/// # Errors
/// No descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Takes the next connection of a listening `SOCK_SEQPACKET` socket, close-on-exec and non-blocking.
///
/// # Errors
/// `EAGAIN` when the peer has gone again and the socket does not block.
pub fn accept(listener: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(owned(accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?))
}

/// A listening `SOCK_SEQPACKET` socket at `path`, close-on-exec. Who may connect is for the folder to say.
///
/// # Errors
/// `EADDRINUSE` when something lies there, and what opening the folder gives.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let (_folder, address) = address_of(path)?;
    bind(made.as_raw_fd(), &address)?;
    listen(&made, Backlog::new(4)?)?;
    Ok(made)
}

/// Connects to a listening `SOCK_SEQPACKET` socket at `path`: close-on-exec and non-blocking.
///
/// # Errors
/// `ECONNREFUSED` when nobody listens there any more, `EAGAIN` when too many wait already.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let (_folder, address) = address_of(path)?;
    connect(made.as_raw_fd(), &address)?;
    Ok(made)
}

/// A datagram socket at `path` that notes who sends, close-on-exec and non-blocking.
///
/// Where the kernel can (`SO_PASSRIGHTS`, Linux 6.16), descriptors cannot be sent to it: whoever receives one also
/// closes it, and a close can be made to take long (`SO_LINGER`).
///
/// # Errors
/// As [`listen_at`].
pub fn datagrams_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    setsockopt(&made, sockopt::PassCred, &true)?;
    match refuse_descriptors(&made) {
        Err(Errno::ENOPROTOOPT) => {}
        other => other?,
    }
    let (_folder, address) = address_of(path)?;
    bind(made.as_raw_fd(), &address)?;
    Ok(made)
}

/// An address may have 107 bytes (`unix(7)`) and a path more: by its folder's descriptor it is always short.
fn address_of(path: &Path) -> io::Result<(OwnedFd, UnixAddr)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL.into()) };
    let folder = open(folder, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    let address = UnixAddr::new(&short)?;
    Ok((folder, address))
}

/// `SO_PASSRIGHTS`, `asm-generic/socket.h`: the same on every architecture that we build for.
const SO_PASSRIGHTS: libc::c_int = 83;

fn refuse_descriptors(socket: &OwnedFd) -> nix::Result<()> {
    let off: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&off)).expect("an int is small");
    // SAFETY: the descriptor is open while borrowed, and the pointer is to an int of the length given, alive until the
    // call returns.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), len) };
    Errno::result(done).map(drop)
}

/// One datagram as it came.
#[derive(Debug)]
pub struct Datagram {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The sender's process id as seen here; 0 when it is in no namespace that we see, or has sent descriptors along.
    pub pid: i32,
}

/// Takes one datagram of at most `most` bytes of a socket of [`datagrams_at`]. Descriptors that come along are closed.
///
/// # Errors
/// `EAGAIN` when none waits; `InvalidData` when it was longer.
pub fn receive_datagram(socket: &impl AsFd, most: usize) -> io::Result<Datagram> {
    let mut bytes = vec![0; most];
    // Room for the sender alone: the kernel then never makes the descriptors ours.
    let mut space = cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let fd = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let got = retried(|| {
        recvmsg::<()>(fd, &mut parts, Some(&mut space), flags).map(|got| {
            let mut pid = 0;
            let mut strays = Vec::new();
            for part in got.cmsgs().into_iter().flatten() {
                match part {
                    ControlMessageOwned::ScmCredentials(sender) => pid = sender.pid(),
                    ControlMessageOwned::ScmRights(raw) => strays.extend(raw.into_iter().map(owned)),
                    _ => {}
                }
            }
            (got.bytes, got.flags, pid)
        })
    })?;
    let (len, flags, pid) = got;
    if flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram is longer than its bound"));
    }
    bytes.truncate(len);
    Ok(Datagram { bytes, pid })
}

/// Sends `bytes` and `descriptors` as one message.
///
/// # Errors
/// `EPIPE` when the peer is gone (no SIGPIPE), `EAGAIN` when a socket that does not block is full, `EMSGSIZE` when the socket's buffer cannot hold the message.
pub fn send(socket: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let parts = [IoSlice::new(bytes)];
    retried(|| sendmsg::<()>(socket.as_fd().as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None))?;
    Ok(())
}

/// Waits for one message of at most `most` bytes. An empty one means that the peer is gone.
///
/// # Errors
/// `EAGAIN` when none waits and the socket does not block.
/// `InvalidData` when a message or its descriptors were longer than allowed; what came of them is closed.
pub fn receive(socket: &impl AsFd, most: usize) -> io::Result<Message> {
    let mut bytes = vec![0; most];
    let mut space = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let (len, flags, descriptors) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = loop {
            let fd = socket.as_fd().as_raw_fd();
            match recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut descriptors = Vec::new();
        for part in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                descriptors.extend(raw.into_iter().map(owned));
            }
        }
        (got.bytes, got.flags, descriptors)
    };
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than its bound"));
    }
    bytes.truncate(len);
    Ok(Message { bytes, descriptors })
}

fn owned(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor in our table, by SCM_RIGHTS or accept4(2), so it is
    // open, and nobody else knows its number: this is its one owner.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_message_keeps_its_borders_and_brings_its_descriptors() {
        let (one, two) = pair().expect("pair");
        let (mut reader, writer) = io::pipe().expect("pipe");
        send(&one, b"first", &[writer.as_fd()]).expect("send");
        send(&one, b"second", &[]).expect("send");
        drop(writer);
        let first = receive(&two, 64).expect("receive");
        assert_eq!((first.bytes.as_slice(), first.descriptors.len()), (b"first".as_slice(), 1));
        assert_eq!(receive(&two, 64).expect("receive").bytes, b"second");
        let mut passed = std::fs::File::from(first.descriptors.into_iter().next().expect("one"));
        passed.write_all(b"x").expect("write");
        drop(passed);
        let mut got = String::new();
        reader.read_to_string(&mut got).expect("read");
        assert_eq!(got, "x");
    }

    #[test]
    fn a_message_over_its_bound_is_refused_and_a_gone_peer_is_empty() {
        let (one, two) = pair().expect("pair");
        send(&one, &[7; 65], &[]).expect("send");
        assert_eq!(receive(&two, 64).expect_err("too long").kind(), io::ErrorKind::InvalidData);
        drop(one);
        assert!(receive(&two, 64).expect("end").bytes.is_empty());
        assert_eq!(send(&two, b"x", &[]).expect_err("gone").raw_os_error(), Some(libc::EPIPE));
    }
}
