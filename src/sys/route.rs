//! The loopback interface of a fresh network namespace, by `rtnetlink(7)`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// An open conversation with the kernel about this namespace's network.
#[derive(Debug)]
pub struct Routing {
    socket: OwnedFd,
    sequence: u32,
}

/// `lo` is the first interface of every namespace, and can be neither removed nor moved.
const LOOPBACK: u32 = 1;

impl Routing {
    /// Opens it in the network namespace that the caller is in now.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn open() -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Brings `lo` up. With it come `127.0.0.1/8` and `::1`.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn bring_loopback_up(&mut self) -> io::Result<()> {
        // struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change.
        let mut body = Vec::with_capacity(16);
        body.extend([0_u8, 0]);
        body.extend(0_u16.to_ne_bytes());
        body.extend(LOOPBACK.to_ne_bytes());
        let up = libc::IFF_UP.cast_unsigned();
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        self.request(libc::RTM_NEWLINK, 0, &body)
    }

    /// Makes every address of a prefix one of this host (`local`, on `lo`), so that a connect to any of them
    /// arrives at a listener on the wildcard address.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`, `EINVAL` when the address has bits below the prefix,
    /// `EOPNOTSUPP` or `EAFNOSUPPORT` when the kernel has no IPv6.
    pub fn add_local_prefix(&mut self, network: IpAddr, length: u8) -> io::Result<()> {
        let (family, address): (libc::c_int, Vec<u8>) = match network {
            IpAddr::V4(address) => (libc::AF_INET, Ipv4Addr::octets(&address).to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, Ipv6Addr::octets(&address).to_vec()),
        };
        // struct rtmsg: family, destination and source length, service, table, protocol, scope, type, flags.
        let mut body = vec![
            u8::try_from(family).unwrap_or(0),
            length,
            0,
            0,
            libc::RT_TABLE_LOCAL,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_HOST,
            libc::RTN_LOCAL,
        ];
        body.extend(0_u32.to_ne_bytes());
        attribute(&mut body, libc::RTA_DST, &address);
        attribute(&mut body, libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.request(libc::RTM_NEWROUTE, flags, &body)
    }

    fn request(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or(0);
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(u32::try_from(HEADER + body.len()).unwrap_or(0).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        // The answer echoes the request; ours are far below this.
        let mut answer = [0_u8; 1024];
        let len = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        acknowledged(&answer[..len])
    }
}

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// Reads an `NLMSG_ERROR`: zero is success.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement");
    let kind = answer.get(4..6).ok_or_else(malformed)?;
    let code = answer.get(HEADER..HEADER + 4).ok_or_else(malformed)?;
    if u16::from_ne_bytes([kind[0], kind[1]]) != u16::try_from(libc::NLMSG_ERROR).unwrap_or(0) {
        return Err(malformed());
    }
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        code => Err(Errno::from_raw(code.saturating_neg()).into()),
    }
}

/// Appends one attribute, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_read_and_anything_else_is_not() {
        let answer = |kind: i32, code: i32| {
            let mut bytes = vec![0; HEADER];
            bytes[4..6].copy_from_slice(&u16::try_from(kind).expect("small").to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(libc::NLMSG_ERROR, 0)).is_ok());
        let refused = acknowledged(&answer(libc::NLMSG_ERROR, -libc::EPERM)).expect_err("refused");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(acknowledged(&answer(libc::NLMSG_DONE, 0)).is_err());
        assert!(acknowledged(&[0; 5]).is_err());
    }

    #[test]
    fn an_attribute_is_padded_to_four_bytes() {
        let mut body = Vec::new();
        attribute(&mut body, 7, &[1, 2, 3, 4, 5]);
        assert_eq!(body.len(), 12);
        assert_eq!(body[..2], 9_u16.to_ne_bytes());
    }
}
