//! Why the API could not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the control API does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A TCP address that is not loopback: the API has no TLS, so the token would cross the network in the clear.
    #[error("the control API listens on loopback only, and `{0}` is not; reach it from elsewhere through SSH")]
    NotLoopback(SocketAddr),
    /// The configured hash of the admin token is not 64 hexadecimal digits.
    #[error("`admin_token_sha256` is not 64 hexadecimal digits")]
    BadTokenHash,
    /// The TCP address could not be taken.
    #[error("cannot listen on `{addr}`")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The Unix socket could not be made.
    #[error("cannot listen on the socket `{}`", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another daemon answers on the Unix socket.
    #[error("another daemon answers on the socket `{}`", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket lies where the socket goes.
    #[error("`{}` is there and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// Users other than the owner may write to the socket's folder, so they could replace the socket.
    #[error("the folder `{}` is writable by others; its mode must be 0700", .0.display())]
    OpenFolder(PathBuf),
    /// The prepared listener could not be taken over.
    #[error("cannot use the prepared listener")]
    Prepared(#[source] io::Error),
}
