//! Sockets: listeners, connects, options, peers, and the host's own addresses.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// A listening TCP socket: non-blocking, close-on-exec, `SO_REUSEADDR`, IPv6 without IPv4, with
/// `TCP_NODELAY` for all that it accepts.
///
/// `backlog` is cut by `/proc/sys/net/core/somaxconn`. With `reuse_port`, several sockets of the same
/// user may listen on `addr`, and the kernel spreads the connections over them (`SO_REUSEPORT`,
/// Linux 3.9): one accept loop per core.
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` (a port below 1024), or no descriptors left.
pub fn listen(addr: SocketAddr, backlog: u32, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = tcp(addr)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&addr.into())?;
    // Accepted sockets inherit it (tcp(7)): one system call less for each.
    socket.set_tcp_nodelay(true)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Begins to connect to `addr` and returns at once; the stream is non-blocking and close-on-exec, with
/// `TCP_NODELAY` set.
///
/// The connect is done once the stream is writable; [`connect_result`] then tells how it went.
///
/// # Errors
/// What is known at once: no route, no descriptors, an address of the wrong family.
pub fn connect_start(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = tcp(addr)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&addr.into()) {
        Ok(()) => {}
        Err(fault) if fault.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(fault) => return Err(fault),
    }
    Ok(socket.into())
}

/// How a connect begun with [`connect_start`] went, once the stream is writable (`SO_ERROR`).
///
/// # Errors
/// The connect's own: refused, unreachable, timed out.
pub fn connect_result(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).take_error()?.map_or(Ok(()), Err)
}

fn tcp(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends small segments at once (`TCP_NODELAY`): a proxy must not add Nagle's wait to its peers' own.
///
/// # Errors
/// Not a TCP socket.
pub fn set_nodelay(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// Acknowledges at once for now (`TCP_QUICKACK`); the kernel leaves that mode by itself.
///
/// # Errors
/// Not a TCP socket.
pub fn set_quickack(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_quickack(true)
}

/// Makes the close of `socket` send a reset and throw away what is unsent (`SO_LINGER` 0): the peer of
/// a cut tunnel learns that it was cut, and cannot take the part for the whole.
///
/// # Errors
/// Not a socket.
pub fn set_linger_zero(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Notices a dead peer: after `idle` without traffic a probe every `interval`, and given up after
/// `probes` of them (`tcp(7)`). Whole seconds, at least one.
///
/// # Errors
/// Not a TCP socket, or a value the kernel refuses.
pub fn set_keepalive(socket: &impl AsFd, idle: Duration, interval: Duration, probes: u32) -> io::Result<()> {
    let second = Duration::from_secs(1);
    let wish = TcpKeepalive::new().with_time(idle.max(second)).with_interval(interval.max(second)).with_retries(probes);
    SockRef::from(socket).set_tcp_keepalive(&wish)
}

/// Longest time that sent bytes may stay unacknowledged before the connection fails
/// (`TCP_USER_TIMEOUT`, milliseconds, RFC 5482).
///
/// # Errors
/// Not a TCP socket.
pub fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(timeout))
}

/// Bytes that have arrived and were not read (`FIONREAD`, `tcp(7)`).
///
/// # Errors
/// `InvalidInput` on a listening socket.
pub fn unread_bytes(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and FIONREAD writes one int
    // through the pointer, which is `bytes`, alive and exclusively ours until the call returns.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    nix::errno::Errno::result(result)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Who is at the other end of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Effective user when it connected (or listened).
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, in our PID namespace; 0 when it is in none that we see. It may be gone, and its number
    /// reused: a hint, never a proof.
    pub pid: i32,
}

/// The credentials that the kernel noted for the peer of a connected Unix socket (`SO_PEERCRED`,
/// `unix(7)`).
///
/// # Errors
/// Not a connected Unix stream socket: nobody is there, so nobody is identified.
pub fn peer_credentials(socket: &impl AsFd) -> io::Result<PeerCredentials> {
    let noted = getsockopt(socket, sockopt::PeerCredentials)?;
    // The kernel answers for other sockets too, with pid 0 and uid -1.
    if noted.uid() == u32::MAX {
        return Err(io::Error::new(io::ErrorKind::NotConnected, "the socket has no peer credentials"));
    }
    Ok(PeerCredentials { uid: noted.uid(), gid: noted.gid(), pid: noted.pid() })
}

/// Every IP address of this host's interfaces, loopback included, without duplicates (`getifaddrs(3)`).
///
/// # Errors
/// The netlink socket could not be opened.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|sockaddr| IpAddr::V4(sockaddr.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|sockaddr| IpAddr::V6(sockaddr.ip())))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn wait(stream: &impl AsFd, flags: PollFlags) {
        let ready = poll(&mut [PollFd::new(stream.as_fd(), flags)], PollTimeout::from(5_000_u16));
        assert_eq!(ready, Ok(1), "nothing happened within 5 s");
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = listen(ANY_PORT, 8, false).expect("listen");
        let client = connect_start(listener.local_addr().expect("address")).expect("connect");
        wait(&listener, PollFlags::POLLIN);
        let (server, _) = listener.accept().expect("accept");
        wait(&client, PollFlags::POLLOUT);
        connect_result(&client).expect("connected");
        client.set_nonblocking(false).expect("blocking");
        server.set_nonblocking(false).expect("blocking");
        (client, server)
    }

    #[test]
    fn a_listener_does_not_block_and_is_not_inherited() {
        let listener = listen(ANY_PORT, 8, false).expect("listen");
        assert_eq!(listener.accept().expect_err("nobody").kind(), io::ErrorKind::WouldBlock);
        let status = OFlag::from_bits_retain(fcntl(&listener, FcntlArg::F_GETFL).expect("flags"));
        assert!(status.contains(OFlag::O_NONBLOCK));
        let flags = FdFlag::from_bits_retain(fcntl(&listener, FcntlArg::F_GETFD).expect("flags"));
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }

    #[test]
    fn a_port_is_shared_only_by_those_who_ask_for_it() {
        let first = listen(ANY_PORT, 8, true).expect("listen");
        let addr = first.local_addr().expect("address");
        listen(addr, 8, true).expect("shared");
        let fault = listen(addr, 8, false).expect_err("alone");
        assert_eq!(fault.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_ipv6_listener_does_not_take_ipv4_as_well() {
        let Ok(listener) = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), 8, false) else {
            eprintln!("SKIP: this host has no IPv6");
            return;
        };
        let port = listener.local_addr().expect("address").port();
        let fault = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect_err("v6 only");
        assert_eq!(fault.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_refused_connect_is_told_once_it_is_writable() {
        let closed = {
            let listener = listen(ANY_PORT, 1, false).expect("listen");
            listener.local_addr().expect("address")
        };
        let result = connect_start(closed).and_then(|stream| {
            wait(&stream, PollFlags::POLLOUT);
            connect_result(&stream)
        });
        assert_eq!(result.expect_err("nobody").kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn options_are_set_on_a_real_connection() {
        let (client, server) = pair();
        assert!(client.nodelay().expect("read"));
        set_nodelay(&server).expect("set");
        assert!(server.nodelay().expect("read"));
        set_quickack(&server).expect("set");
        set_keepalive(&server, Duration::from_secs(60), Duration::ZERO, 4).expect("set");
        assert!(SockRef::from(&server).keepalive().expect("read"));
        set_user_timeout(&server, Duration::from_secs(30)).expect("set");
        assert_eq!(SockRef::from(&server).tcp_user_timeout().expect("read"), Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_close_with_linger_zero_is_a_reset() {
        let (mut client, server) = pair();
        set_linger_zero(&server).expect("set");
        drop(server);
        let fault = client.read(&mut [0]).expect_err("not a clean end");
        assert_eq!(fault.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn unread_bytes_counts_what_arrived() {
        let (mut client, mut server) = pair();
        assert_eq!(unread_bytes(&server).expect("count"), 0);
        client.write_all(b"12345").expect("write");
        wait(&server, PollFlags::POLLIN);
        assert_eq!(unread_bytes(&server).expect("count"), 5);
        server.read_exact(&mut [0; 3]).expect("read");
        assert_eq!(unread_bytes(&server).expect("count"), 2);
        let listener = listen(ANY_PORT, 1, false).expect("listen");
        assert_eq!(unread_bytes(&listener).expect_err("listener").kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_peer_of_a_unix_socket_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let peer = peer_credentials(&ours).expect("credentials");
        assert_eq!(peer.pid, i32::try_from(std::process::id()).expect("pid"));
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
    }

    #[test]
    fn a_tcp_peer_has_no_credentials() {
        let (client, _server) = pair();
        assert!(peer_credentials(&client).is_err());
        let lone = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
        assert!(peer_credentials(&lone).is_err(), "an unconnected socket identifies nobody");
    }

    #[test]
    fn the_local_addresses_have_loopback_once() {
        let found = local_addresses().expect("addresses");
        assert_eq!(found.iter().filter(|addr| **addr == IpAddr::V4(Ipv4Addr::LOCALHOST)).count(), 1);
    }
}
