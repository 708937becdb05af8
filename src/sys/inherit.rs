//! Sockets that a service manager opened for us.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

/// One inherited listening socket, by its family.
#[derive(Debug)]
pub enum InheritedListener {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// Takes ownership of descriptor `fd`, which the caller was handed by sd_listen_fds(3), if it is a
/// listening stream socket. Sets close-on-exec and non-blocking mode.
///
/// # Errors
/// When `fd` is not open or no listening stream socket of a known family.
pub fn adopt_listener(fd: RawFd) -> io::Result<InheritedListener> {
    if fd < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a standard stream is no inherited socket"));
    }
    // SAFETY: fcntl(F_GETFD) below proves that the number is an open descriptor before it is used; that
    // nobody else in this process owns it is promised by the service manager's protocol: descriptors from
    // 3 on were open before `main`, and each is adopted once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(owned.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    if getsockopt(&owned, sockopt::SockType)? != SockType::Stream || !getsockopt(&owned, sockopt::AcceptConn)? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an inherited descriptor is not a listening stream socket",
        ));
    }
    let family = getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(&owned))?.family();
    match family {
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            let listener = TcpListener::from(owned);
            super::socket::set_nodelay(&listener)?;
            listener.set_nonblocking(true)?;
            Ok(InheritedListener::Tcp(listener))
        }
        Some(AddressFamily::Unix) => {
            let listener = UnixListener::from(owned);
            listener.set_nonblocking(true)?;
            Ok(InheritedListener::Unix(listener))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "an inherited socket is neither IP nor Unix")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_listening_socket_is_adopted_and_others_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("addr");
        match adopt_listener(listener.into_raw_fd()) {
            Ok(InheritedListener::Tcp(adopted)) => assert_eq!(adopted.local_addr().expect("addr"), addr),
            other => panic!("{other:?}"),
        }
        let (one, _two) = std::os::unix::net::UnixStream::pair().expect("pair");
        assert!(adopt_listener(one.into_raw_fd()).is_err(), "a connected socket does not listen");
        assert!(adopt_listener(1).is_err());
    }
}
