//! The two listening sockets: how they are made, and taken over.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use super::error::ControlError;
use crate::config::ControlConfig;

/// Listeners that somebody else opened (systemd socket activation, a hand-over at upgrade).
#[derive(Debug, Default)]
pub struct Prepared {
    /// Instead of binding [`ControlConfig::bind`]. Must be on loopback.
    pub tcp: Option<StdTcpListener>,
    /// Instead of binding [`ControlConfig::unix_socket`]. Its file is left alone at the end.
    pub unix: Option<StdUnixListener>,
}

/// Both sockets, listening.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) tcp: TcpListener,
    pub(crate) tcp_addr: SocketAddr,
    pub(crate) unix: UnixListener,
    /// Removes the socket's file at the end, when we made it.
    pub(crate) file: Option<SocketFile>,
}

/// Binds what is not prepared.
pub(crate) fn listen(config: &ControlConfig, prepared: Prepared) -> Result<Listening, ControlError> {
    let tcp = match prepared.tcp {
        Some(listener) => listener,
        None => bind_tcp(config.bind)?,
    };
    let tcp_addr = tcp.local_addr().map_err(ControlError::Prepared)?;
    if !tcp_addr.ip().to_canonical().is_loopback() {
        return Err(ControlError::NotLoopback(tcp_addr));
    }
    let (unix, file) = match prepared.unix {
        Some(listener) => (listener, None),
        None => {
            let (listener, file) = bind_unix(&config.unix_socket)?;
            (listener, Some(file))
        }
    };
    tcp.set_nonblocking(true).map_err(ControlError::Prepared)?;
    unix.set_nonblocking(true).map_err(ControlError::Prepared)?;
    Ok(Listening {
        tcp: TcpListener::from_std(tcp).map_err(ControlError::Prepared)?,
        tcp_addr,
        unix: UnixListener::from_std(unix).map_err(ControlError::Prepared)?,
        file,
    })
}

fn bind_tcp(addr: SocketAddr) -> Result<StdTcpListener, ControlError> {
    // Before binding, so that not even a moment of it is reachable from outside.
    if !addr.ip().to_canonical().is_loopback() {
        return Err(ControlError::NotLoopback(addr));
    }
    StdTcpListener::bind(addr).map_err(|source| ControlError::Tcp { addr, source })
}

/// Binds in a private folder, sets the mode, and only then moves the socket to its place: at no
/// moment can anybody connect to it with wider permissions.
fn bind_unix(path: &Path) -> Result<(StdUnixListener, SocketFile), ControlError> {
    let failed = |source: io::Error| ControlError::Unix { path: path.to_owned(), source };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_private(folder).map_err(failed)?;
    let mode = std::fs::metadata(folder).map_err(failed)?.mode();
    if mode & 0o022 != 0 {
        return Err(ControlError::OpenFolder(folder.to_owned()));
    }
    refuse_unless_stale(path)?;

    // Short, because a socket's path has 107 bytes at most (unix(7)) and the operator chose the rest.
    let staging = folder.join(format!(".s{}", std::process::id()));
    match std::fs::remove_dir_all(&staging) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    std::fs::DirBuilder::new().mode(0o700).create(&staging).map_err(failed)?;
    let bound = bind_in(&staging, path);
    let removed = std::fs::remove_dir_all(&staging);
    let bound = bound.map_err(failed)?;
    removed.map_err(failed)?;
    Ok(bound)
}

fn bind_in(staging: &Path, path: &Path) -> io::Result<(StdUnixListener, SocketFile)> {
    let new = staging.join("s");
    let listener = StdUnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    let inode = std::fs::symlink_metadata(&new)?.ino();
    std::fs::rename(&new, path)?;
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

fn make_private(folder: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A socket that nobody listens on is left over from a killed daemon and may be replaced.
fn refuse_unless_stale(path: &Path) -> Result<(), ControlError> {
    let failed = |source: io::Error| ControlError::Unix { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ControlError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Anything else, a full backlog too, may be a daemon at work.
        Ok(_) | Err(_) => Err(ControlError::InUse(path.to_owned())),
    }
}

/// Removes the socket at the end, unless another daemon has put its own there by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Lets every user of the host connect (unix(7): to connect is to write), or nobody but ours. What they may do is
    /// another question, and the folder may keep them out all the same.
    pub(crate) fn admit(&self, everybody: bool) -> io::Result<()> {
        // Not by name: another daemon may have put its own there by then.
        if !std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            return Ok(());
        }
        let mode = if everybody { 0o666 } else { 0o600 };
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(mode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // The worst of a failure is a stale file, which the next start replaces.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("control.sock");
        drop(StdUnixListener::bind(&path).expect("bind"));
        let (live, file) = bind_unix(&path).expect("the stale socket is replaced");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert!(matches!(bind_unix(&path), Err(ControlError::InUse(_))));
        drop(live);
        drop(file);
        assert!(!path.exists(), "the own socket is removed at the end");

        std::fs::write(&path, "precious").expect("write");
        assert!(matches!(bind_unix(&path), Err(ControlError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
        let names: Vec<_> = std::fs::read_dir(folder.path()).expect("folder").collect();
        assert_eq!(names.len(), 1, "nothing is left of the staging");
    }

    #[test]
    fn the_socket_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("control.sock");
        let (old, file) = bind_unix(&path).expect("bind");
        drop(old);
        let (_new, _new_file) = bind_unix(&path).expect("the old one no longer answers");
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_symlink_in_the_place_of_the_socket_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("control.sock");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).expect("symlink");
        assert!(matches!(bind_unix(&path), Err(ControlError::NotASocket(_))));
    }

    #[test]
    fn a_new_folder_is_private_and_an_open_one_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let inner = folder.path().join("state");
        let _bound = bind_unix(&inner.join("c.sock")).expect("bind");
        assert_eq!(std::fs::metadata(&inner).expect("made").mode() & 0o777, 0o700);
        let open = folder.path().join("open");
        std::fs::create_dir(&open).expect("create");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("mode");
        assert!(matches!(bind_unix(&open.join("c.sock")), Err(ControlError::OpenFolder(_))));
    }

    #[test]
    fn an_address_off_loopback_is_refused_before_it_is_bound() {
        for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8091"] {
            let addr = addr.parse().expect("literal");
            assert!(matches!(bind_tcp(addr), Err(ControlError::NotLoopback(_))), "{addr}");
        }
        assert!(bind_tcp("127.0.0.1:0".parse().expect("literal")).is_ok());
    }
}
