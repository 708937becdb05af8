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
/// `InvalidData` when a message or its descriptors were longer than allowed, or did not fit into the table of this
/// process; what came of them is closed.
pub fn receive(socket: &impl AsFd, most: usize) -> io::Result<Message> {
    let mut bytes = vec![0; most];
    let Taken { len, flags, descriptors } = take(socket.as_fd(), &mut bytes)?;
    if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than its bound"));
    }
    bytes.truncate(len);
    Ok(Message { bytes, descriptors })
}

/// What `recvmsg(2)` gave.
struct Taken {
    len: usize,
    flags: libc::c_int,
    descriptors: Vec<OwnedFd>,
}

/// Room for a message's descriptors, in words: a control header is aligned to one.
// SAFETY: CMSG_SPACE computes with numbers alone.
const CONTROL_WORDS: usize = unsafe { libc::CMSG_SPACE(DESCRIPTOR_BYTES) as usize }.div_ceil(size_of::<usize>());
const DESCRIPTOR_BYTES: libc::c_uint = (MAX_DESCRIPTORS * size_of::<RawFd>()) as libc::c_uint;

/// `recvmsg(2)`, of which every descriptor that the kernel has made ours is taken. `nix` gives none when the control part was
/// cut, and by then those that did fit are open here: a peer that sends too many would fill our table, message by message.
fn take(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Taken> {
    let mut control = [0_usize; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr is numbers and pointers, for which all zeroes is a value: no name, no parts, no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let len = retried(|| {
        // SAFETY: the descriptor is open while borrowed; `header` points to one part and to control space, both alive and of
        // the lengths given until the call returns.
        Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) })
    })?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has set the control length to what it wrote, and the space is alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: null, or a header that the kernel wrote whole, in space that is aligned for it.
    while let Some(found) = unsafe { next.as_ref() } {
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: it computes with numbers alone.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: `found` is a header within the control space.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            for at in 0..found.cmsg_len.saturating_sub(empty) / size_of::<RawFd>() {
                // SAFETY: the length that the kernel wrote says that this number stands there, within the control space.
                let place = unsafe { data.add(at) };
                // SAFETY: as before; nothing says that it is aligned.
                descriptors.push(owned(unsafe { place.read_unaligned() }));
            }
        }
        // SAFETY: `next` is a header of this very message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(Taken { len: len.cast_unsigned(), flags: header.msg_flags, descriptors })
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

    /// The kernel installs what fits before it says that something did not.
    #[test]
    fn descriptors_over_the_bound_are_all_closed() {
        let (one, two) = pair().expect("pair");
        let (mut reader, writer) = io::pipe().expect("pipe");
        for count in [MAX_DESCRIPTORS + 1, 253] {
            send(&one, b"many", &vec![writer.as_fd(); count]).expect("send");
            assert_eq!(receive(&two, 64).expect_err("too many").kind(), io::ErrorKind::InvalidData);
        }
        send(&one, b"enough", &[writer.as_fd(); MAX_DESCRIPTORS]).expect("send");
        assert_eq!(receive(&two, 64).expect("receive").descriptors.len(), MAX_DESCRIPTORS);
        drop(writer);
        // It ends when nobody can write any more.
        assert_eq!(reader.read(&mut [0]).expect("read"), 0);
    }
}
