//! Mounts by descriptor (`open_tree(2)`, `fsopen(2)`, `move_mount(2)`, Linux 5.2; `mount_setattr(2)`, 5.12).
//!
//! Nothing here takes a path to mount *onto*: a target is a descriptor that the caller has walked to,
//! so no symbolic link can lead a mount astray.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

/// What is forbidden on a mount. Flags are only ever added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Nothing can be written.
    pub read_only: bool,
    /// Set-user-id bits and file capabilities do not count.
    pub no_setuid: bool,
    /// Device nodes cannot be opened.
    pub no_devices: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
}

impl Restrictions {
    fn bits(self) -> u64 {
        let flags = [
            (self.read_only, libc::MOUNT_ATTR_RDONLY),
            (self.no_setuid, libc::MOUNT_ATTR_NOSUID),
            (self.no_devices, libc::MOUNT_ATTR_NODEV),
            (self.no_exec, libc::MOUNT_ATTR_NOEXEC),
        ];
        flags.iter().filter(|(wanted, _)| *wanted).fold(0, |bits, (_, flag)| bits | flag)
    }
}

/// Cuts every mount's tie to other namespaces: what is mounted here from now on is seen nowhere else.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over the mount namespace.
pub fn make_all_private() -> io::Result<()> {
    Ok(nix::mount::mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>)?)
}

/// What is mounted here from now on is seen nowhere else, while what is mounted elsewhere is still seen here
/// (`mount_namespaces(7)`, slave mounts).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over the mount namespace.
pub fn make_all_followers() -> io::Result<()> {
    Ok(nix::mount::mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&Path>)?)
}

/// Takes what was mounted last at `path` away, with all below it, also while it is in use.
///
/// # Errors
/// `EINVAL` when nothing is mounted there, `EPERM`.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
}

/// A detached copy of what is mounted at `path` and below it.
///
/// # Errors
/// `ENOENT`, `EPERM`, `ENOSYS` before Linux 5.2.
pub fn copy_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
    let fd = path.with_nix_path(|path| {
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }
    })?;
    owned(fd)
}

/// A detached copy of what `place`, opened with `O_PATH`, stands for, and of what is mounted below it: in a user
/// namespace of its own a process cannot leave out what is mounted over a part.
///
/// # Errors
/// As [`copy_tree`]. `EINVAL` before Linux 6.15 when `place` is on a mount that is not attached.
pub fn copy_opened(place: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | flags.cast_unsigned();
    let fd = place.as_fd().as_raw_fd();
    // SAFETY: an empty NUL-terminated path with AT_EMPTY_PATH means the open descriptor itself.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, fd, c"".as_ptr(), flags) })
}

/// Adds restrictions to a mount, and with `below` to all mounts below it.
///
/// # Errors
/// `EPERM`, `ENOSYS` before Linux 5.12.
pub fn restrict(mount: &impl AsFd, restrictions: Restrictions, below: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: restrictions.bits(), attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_attributes(mount, &attributes, below)
}

/// Shows the files of a detached copy as owned by others, as the user namespace `owners` maps ids (an id-mapped mount,
/// Linux 5.12; tmpfs since 6.3).
///
/// # Errors
/// `EINVAL` when the file system cannot, `EPERM` without `CAP_SYS_ADMIN` over it.
pub fn map_owners(mount: &impl AsFd, owners: &impl AsFd) -> io::Result<()> {
    let namespace = u64::try_from(owners.as_fd().as_raw_fd()).unwrap_or(0);
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: namespace };
    set_attributes(mount, &attributes, true)
}

fn set_attributes(mount: &impl AsFd, attributes: &libc::mount_attr, below: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if below { libc::AT_RECURSIVE } else { 0 };
    let size = std::mem::size_of::<libc::mount_attr>();
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for as long as it is borrowed, the path is an empty NUL-terminated string,
    // and `attributes` is a struct mount_attr of the size given.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, std::ptr::from_ref(attributes), size)
    };
    Errno::result(done)?;
    Ok(())
}

/// A new, detached file system of `kind`, such as `tmpfs`.
///
/// # Errors
/// `EPERM` when this namespace may not mount it, `EINVAL` on an unknown option, `ENOSYS` before Linux 5.2.
pub fn new_filesystem(kind: &CStr, options: &[(&CStr, &CStr)], restrictions: Restrictions) -> io::Result<OwnedFd> {
    // SAFETY: `kind` is a NUL-terminated string that outlives the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let raw = context.as_raw_fd();
    for (key, value) in options {
        // SAFETY: both are NUL-terminated strings that outlive the call; `raw` is the open context.
        let done =
            unsafe { libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0) };
        Errno::result(done)?;
    }
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: FSCONFIG_CMD_CREATE takes no key and no value (fsconfig(2)).
    let done = unsafe { libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_CMD_CREATE, none, none, 0) };
    Errno::result(done)?;
    // SAFETY: the context is open and complete; the other arguments are flags.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, raw, FSMOUNT_CLOEXEC, restrictions.bits()) })
}

/// Mounts the detached `mount` onto `target`, opened with `O_PATH`.
///
/// # Errors
/// `ENOTDIR` when one is a folder and the other a file, `EINVAL`, `EPERM`.
pub fn attach(mount: &impl AsFd, target: &impl AsFd) -> io::Result<()> {
    let (from, to) = (mount.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both descriptors are open, and both paths are empty NUL-terminated strings, which the flags allow.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    Errno::result(done)?;
    Ok(())
}

/// Makes the mount `root` the root of this mount namespace and lets go of the old one.
///
/// # Errors
/// `EINVAL` when `root` is no mount point or the old root is the initial ramdisk.
pub fn pivot_into(root: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    // pivot_root(2), "pivot_root(".", ".")": the old root lies on top of the new one, and goes.
    nix::unistd::pivot_root(".", ".")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF))?;
    // SAFETY: the kernel has just returned this new descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `linux/mount.h`; the libc crate does not have these.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
