//! Whole messages with descriptors between related processes: a pair of `SOCK_SEQPACKET` sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, accept4, recvmsg, sendmsg,
    socketpair,
};

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

/// Takes the next connection of a listening `SOCK_SEQPACKET` socket, close-on-exec.
///
/// # Errors
/// `EAGAIN` when the peer has gone again and the socket does not block.
pub fn accept(listener: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(owned(accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC)?))
}

/// Sends `bytes` and `descriptors` as one message.
///
/// # Errors
/// `EPIPE` when the peer is gone (no SIGPIPE), `EMSGSIZE` when the socket's buffer cannot hold the message.
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
