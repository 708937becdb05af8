//! The new root: a small file system in memory with what the plan binds into it, and nothing else.
//!
//! Every place is walked to by descriptor, component by component, and no component may be a symbolic link:
//! what an earlier run left in a writable folder cannot lead a mount outside while the host's root is still
//! in reach.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstat, mkdirat, umask};
use nix::unistd::symlinkat;

use crate::sandbox::charter::Floor;
use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Absent, Access, Mount, NOTIFY_INSIDE, Owner, Plan, ProcView, User};
use crate::sys::message;
use crate::sys::mount::{self, Restrictions};

use super::ground::{Ground, Laid};
use super::landlock::Rules;
use super::owners;

/// The new root while it is being built, with the folders that were entered last: entries come in groups.
#[derive(Debug)]
pub(super) struct Root {
    mount: OwnedFd,
    entered: Vec<(PathBuf, OwnedFd)>,
}

/// A file that everybody may read and that no Landlock rule names: whether it can be opened tells whether
/// Landlock is in force.
pub(super) const CLOSED: &str = "/.arw/closed";

/// Most bytes and files of the root itself: folders, links and small files; everything larger is bound.
const ROOT_BYTES: &CStr = c"4m";
const ROOT_FILES: &CStr = c"4096";

/// A root that was built and entered.
#[derive(Debug)]
pub(super) struct Entered {
    /// The socket of `NOTIFY_SOCKET`, if the plan has one.
    pub(super) notify: Option<OwnedFd>,
    /// The rules for what was laid ahead.
    pub(super) rules: Option<Rules>,
}

/// Builds the new root, on the ground that may have been laid for it, and enters it. What goes below `floor` is not bound.
pub(super) fn build(plan: &Plan, ground: Option<Ground>, floor: Option<&Floor>) -> Result<Entered, Fault> {
    mount::make_all_private().at(Step::MountsPrivate)?;
    let Laid { root, mut veils, rules } = ground.map_or_else(Laid::default, |ground| ground.take(plan));
    let (root, laid) = root.map_or((None, 0), |(root, mounts)| (Some(root), mounts));
    let (_, rest) = plan.mounts.split_at(laid);
    // All of the host is opened before anything covers it.
    let sources = open_sources(rest, Some(plan.user), floor)?;
    let mut root = match root {
        Some(root) => root,
        None => {
            // Where it hides least: by now all that is needed of the host is open.
            let place = ["/tmp", "/run", "/mnt", "/var"].iter().find_map(|path| open_folder(path));
            let root = place.ok_or_else(|| Errno::ENOENT.into()).and_then(|place| Root::attached_at(&place));
            root.at(Step::NewRoot)?
        }
    };
    root.fill(rest, sources, plan.user.inside(), &mut veils)?;
    veils.leave_to_the_end();
    root.close_to_readers()?;
    let notify = if plan.notify { Some(root.listen_for_notices().at(Step::Notify)?) } else { None };
    mount::pivot_into(root.mount.as_fd()).at(Step::Pivot)?;
    // From here on nobody replaces the socket either: neither it nor its folder can be changed.
    let all = Restrictions { read_only: true, no_setuid: true, no_devices: true, no_exec: true };
    mount::restrict(&root.mount, all, false).at(Step::Pivot)?;
    Ok(Entered { notify, rules })
}

/// Gives what is made from here on the modes that everybody inside needs.
pub(super) fn set_mask() {
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
}

/// What `entries` bind, each as a detached copy, restricted before it is seen anywhere. Without a `user` nothing has another
/// owner than on the host.
pub(super) fn open_sources(
    entries: &[Mount],
    user: Option<User>,
    floor: Option<&Floor>,
) -> Result<Vec<Option<OwnedFd>>, Fault> {
    entries.iter().map(|entry| open_source(entry, user, floor)).collect()
}

/// A folder of the host, by its path. `None` where there is none.
pub(super) fn open_folder(path: &str) -> Option<OwnedFd> {
    open(path, FOLDER, Mode::empty()).ok()
}

fn open_source(entry: &Mount, user: Option<User>, floor: Option<&Floor>) -> Result<Option<OwnedFd>, Fault> {
    let Mount::Bind { source, access, absent, owner, .. } = entry else { return Ok(None) };
    let named = || source.display().to_string();
    let floor = floor.filter(|floor| !floor.is_common(entry));
    let opened = match access {
        // The command's own folder: what it leaves there must not decide what the next launch binds.
        Access::ReadWrite => open_without_links(source).map(Some),
        // What is judged is then what is bound, wherever its name leads by that time.
        Access::ReadOnly | Access::Device if floor.is_some() => open_as_it_is(source).map(Some),
        Access::ReadOnly | Access::Device => Ok(None),
    };
    if let (Some(floor), Ok(Some(opened))) = (floor, &opened) {
        floor.admits_source(entry, opened)?;
    }
    let copy = opened.and_then(|opened| match opened {
        Some(opened) => mount::copy_opened(&opened),
        None => mount::copy_tree(source),
    });
    let copy = match copy {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound && *absent == Absent::Skip => return Ok(None),
        other => other.at_with(Step::BindSource, named)?,
    };
    mount::restrict(&copy, restrictions(*access), true).at_with(Step::BindSource, named)?;
    if let (Owner::Command, Some(User::Host { uid, gid })) = (owner, user) {
        match owners::map(&copy, (uid, gid)) {
            // This file system cannot: the command then has the rights of a stranger there, never more.
            Err(fault) if fault.raw_os_error() == Some(libc::EINVAL) => {}
            other => other.at_with(Step::MapOwners, named)?,
        }
    }
    Ok(Some(copy))
}

/// Component by component: where a unit has `RestrictSUIDSGID=` systemd's filter knows no `openat2`.
fn open_without_links(path: &Path) -> io::Result<OwnedFd> {
    let top = open("/", FOLDER, Mode::empty())?;
    walk_down(top, path)
}

/// Stands at `path` below `top`; `ELOOP` or `ENOTDIR` where a component is a link.
fn walk_down(top: OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_plain) {
        return Err(Errno::EINVAL.into());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(top) };
    let mut at = top;
    for part in parent.components().skip(1) {
        at = enter(&at, part.as_os_str(), Missing::Refuse)?;
    }
    existing(&at, name)
}

fn open_as_it_is(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

const fn restrictions(access: Access) -> Restrictions {
    match access {
        Access::ReadOnly => Restrictions { read_only: true, no_setuid: true, no_devices: true, no_exec: false },
        Access::ReadWrite => Restrictions { read_only: false, no_setuid: true, no_devices: true, no_exec: false },
        Access::Device => Restrictions { read_only: false, no_setuid: true, no_devices: false, no_exec: true },
    }
}

fn place(
    root: &mut Root,
    entry: &Mount,
    source: Option<OwnedFd>,
    owner: (u32, u32),
    veils: &mut Veils,
) -> Result<(), Fault> {
    match entry {
        Mount::Bind { target, .. } => match source {
            Some(source) => bind(root, target, &source),
            None => Ok(()),
        },
        Mount::Memory { target, bytes, mode, exec, owned } => {
            let owner = if *owned { owner } else { (0, 0) };
            let named = || target.display().to_string();
            let memory = memory(*bytes, *mode, *exec, owned.then_some(owner)).at_with(Step::Mount, named)?;
            let place = root.walk_to(target, Kind::Folder).at_with(Step::MountTarget, named)?;
            root.attach(target, &memory, &place).at_with(Step::Mount, named)
        }
        Mount::Folder { target } => {
            root.walk_to(target, Kind::Folder).map(drop).at_with(Step::MountTarget, || target.display().to_string())
        }
        Mount::Link { target, to } => {
            link(root, target, to).at_with(Step::MountTarget, || target.display().to_string())
        }
        Mount::File { target, contents } => {
            file(root, target, contents).at_with(Step::MountTarget, || target.display().to_string())
        }
        Mount::Proc { view } => proc(root, *view, veils).at_with(Step::Mount, || "/proc"),
        Mount::Terminals => terminals(root).at_with(Step::Mount, || "/dev/pts"),
    }
}

fn bind(root: &mut Root, target: &Path, source: &OwnedFd) -> Result<(), Fault> {
    let named = || target.display().to_string();
    let is_folder = file_type(source).at_with(Step::Bind, named)? == SFlag::S_IFDIR;
    let kind = if is_folder { Kind::Folder } else { Kind::File };
    let place = root.walk_to(target, kind).at_with(Step::MountTarget, named)?;
    root.attach(target, source, &place).at_with(Step::Bind, named)
}

fn memory(bytes: u64, mode: u32, exec: bool, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    let text = |number: String| CString::new(number).expect("a number has no NUL");
    let (size, mode) = (text(bytes.to_string()), text(format!("{mode:o}")));
    // A file takes memory beyond its bytes: without a bound, empty files would be the way around `size`.
    let files = text((bytes / BYTES_PER_FILE).clamp(64, 1 << 20).to_string());
    let owner = owner.map(|(uid, gid)| (text(uid.to_string()), text(gid.to_string())));
    let mut options = vec![(c"size", size.as_c_str()), (c"mode", mode.as_c_str()), (c"nr_inodes", files.as_c_str())];
    if let Some((uid, gid)) = &owner {
        options.extend([(c"uid", uid.as_c_str()), (c"gid", gid.as_c_str())]);
    }
    let restrictions = Restrictions { no_setuid: true, no_devices: true, no_exec: !exec, read_only: false };
    mount::new_filesystem(c"tmpfs", &options, restrictions)
}

/// One file for every so many bytes: a source tree has fewer.
const BYTES_PER_FILE: u64 = 4096;

fn link(root: &mut Root, target: &Path, to: &Path) -> io::Result<()> {
    let (folder, name) = root.walk(target, Missing::Make)?;
    Ok(symlinkat(to, folder, name)?)
}

fn file(root: &mut Root, target: &Path, contents: &str) -> io::Result<()> {
    let (folder, name) = root.walk(target, Missing::Make)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(folder, name, flags, Mode::from_bits_truncate(0o444))?;
    fchmod(&made, Mode::from_bits_truncate(0o444))?;
    File::from(made).write_all(contents.as_bytes())
}

/// What of a masked `/proc` is covered: memory, keys, timers and schedules of the host, and ways to steer it.
/// Files that this kernel does not have are skipped.
const MASKED_FILES: [&str; 12] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kallsyms",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/proc/interrupts",
];
const MASKED_FOLDERS: [&str; 6] = ["/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/scsi"];

/// Nothing can be done with them.
const CLOSED_TO_ALL: Restrictions = Restrictions { read_only: true, no_setuid: true, no_devices: true, no_exec: true };

/// Detached mounts to cover parts of `/proc` with: empty folders, and copies of `/dev/null`. One for each: before Linux 6.15 no
/// copy is made of a mount that is not attached yet.
#[derive(Debug, Default)]
pub(super) struct Veils {
    folders: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Veils {
    /// Makes all that a masked `/proc` takes on this host, ahead.
    pub(super) fn weave(&mut self) -> io::Result<()> {
        let there = |path: &&&str| Path::new(path).exists();
        self.folders = MASKED_FOLDERS.iter().filter(there).map(|_| Self::new_folder()).collect::<io::Result<_>>()?;
        self.files = MASKED_FILES.iter().filter(there).map(|_| Self::new_file()).collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Leaves those that were not needed to the end of this process. The last close of a mount that was never attached waits
    /// for the kernel, 4 ms each.
    fn leave_to_the_end(self) {
        self.folders.into_iter().chain(self.files).for_each(std::mem::forget);
    }

    fn folder(&mut self) -> io::Result<OwnedFd> {
        self.folders.pop().map_or_else(Self::new_folder, Ok)
    }

    fn file(&mut self) -> io::Result<OwnedFd> {
        self.files.pop().map_or_else(Self::new_file, Ok)
    }

    fn new_folder() -> io::Result<OwnedFd> {
        mount::new_filesystem(c"tmpfs", &[(c"mode", c"0555")], CLOSED_TO_ALL)
    }

    fn new_file() -> io::Result<OwnedFd> {
        mount::copy_opened(&open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
    }
}

fn proc(root: &mut Root, view: ProcView, veils: &mut Veils) -> io::Result<()> {
    // Read-only, so that no setting of the host can be written whatever its permission bits say. The init,
    // which is not dumpable, is hidden from the command (`hidepid`).
    let options: &[(&CStr, &CStr)] = match view {
        ProcView::Processes => &[(c"hidepid", c"invisible"), (c"subset", c"pid")],
        ProcView::Masked => &[(c"hidepid", c"invisible")],
    };
    let proc = mount::new_filesystem(c"proc", options, CLOSED_TO_ALL)?;
    let place = root.walk_to(Path::new("/proc"), Kind::Folder)?;
    root.attach(Path::new("/proc"), &proc, &place)?;
    if view == ProcView::Masked {
        for path in MASKED_FOLDERS {
            cover(root, Path::new(path), || veils.folder())?;
        }
        for path in MASKED_FILES {
            cover(root, Path::new(path), || veils.file())?;
        }
    }
    Ok(())
}

/// Puts what `what` makes over an existing path.
fn cover(root: &mut Root, path: &Path, what: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<()> {
    match root.walk_to(path, Kind::Existing) {
        Ok(place) => root.attach(path, &what()?, &place),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn terminals(root: &mut Root) -> io::Result<()> {
    let restrictions = Restrictions { no_setuid: true, no_exec: true, ..Restrictions::default() };
    let instance = mount::new_filesystem(c"devpts", &[(c"ptmxmode", c"0666"), (c"mode", c"0620")], restrictions)?;
    let place = root.walk_to(Path::new("/dev/pts"), Kind::Folder)?;
    root.attach(Path::new("/dev/pts"), &instance, &place)
}

/// What a walk ends at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A folder, made when it is not there.
    Folder,
    /// A file, made when it is not there.
    File,
    /// Whatever is there.
    Existing,
}

const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Root {
    /// A root with nothing in it, attached at `place`.
    pub(super) fn attached_at(place: &OwnedFd) -> io::Result<Self> {
        let nothing = Restrictions { no_setuid: true, no_devices: true, ..Restrictions::default() };
        let options = [(c"size", ROOT_BYTES), (c"nr_inodes", ROOT_FILES), (c"mode", c"0755")];
        let root = mount::new_filesystem(c"tmpfs", &options, nothing)?;
        mount::attach(&root, place)?;
        Ok(Self { mount: root, entered: Vec::new() })
    }

    /// Puts `entries` into it, with what they bind from [`open_sources`]. What is the command's belongs to `owner`.
    pub(super) fn fill(
        &mut self,
        entries: &[Mount],
        sources: Vec<Option<OwnedFd>>,
        owner: (u32, u32),
        veils: &mut Veils,
    ) -> Result<(), Fault> {
        entries.iter().zip(sources).try_for_each(|(entry, source)| place(self, entry, source, owner, veils))
    }

    /// Makes the file at [`CLOSED`], if it is not there.
    pub(super) fn close_to_readers(&mut self) -> Result<(), Fault> {
        self.walk_to(Path::new(CLOSED), Kind::File).map(drop).at(Step::MountTarget)
    }

    /// What will be found at `path` inside; `None` where nothing will be.
    ///
    /// # Errors
    /// Among others where a component is a link: what that leads to is not looked for.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match walk_down(self.mount.try_clone()?, path) {
            Ok(found) => Ok(Some(found)),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Closes all but the root's own descriptor.
    pub(super) fn forget_entered(&mut self) {
        self.entered.clear();
    }

    /// The socket at [`NOTIFY_INSIDE`], which everybody inside may send to.
    fn listen_for_notices(&mut self) -> io::Result<OwnedFd> {
        let (folder, name) = self.walk(Path::new(NOTIFY_INSIDE), Missing::Make)?;
        let folder = folder.try_clone()?;
        // Not in a folder of the host that a plan has put there.
        if fstat(&folder)?.st_dev != fstat(&self.mount)?.st_dev {
            return Err(Errno::EXDEV.into());
        }
        // The process's own view of its descriptors is still the host's.
        let place = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        let made = message::datagrams_at(&place)?;
        fchmodat(&folder, name, Mode::from_bits_truncate(0o666), FchmodatFlags::FollowSymlink)?;
        Ok(made)
    }

    /// Mounts `what` at `place`, which was walked to as `target`.
    fn attach(&mut self, target: &Path, what: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
        // What was entered there before lies below the mount from now on.
        self.entered.retain(|(path, _)| !path.starts_with(target));
        mount::attach(what, place)
    }

    /// Walks from the new root to `target` and stands at it with a path descriptor.
    fn walk_to(&mut self, target: &Path, kind: Kind) -> io::Result<OwnedFd> {
        let missing = if kind == Kind::Existing { Missing::Refuse } else { Missing::Make };
        let (folder, name) = self.walk(target, missing)?;
        match kind {
            Kind::Folder => enter(folder, name, Missing::Make),
            Kind::File => {
                let make = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                match openat(folder, name, make, Mode::from_bits_truncate(0o444)) {
                    Ok(_) | Err(Errno::EEXIST) => existing(folder, name),
                    Err(fault) => Err(fault.into()),
                }
            }
            Kind::Existing => existing(folder, name),
        }
    }

    /// Walks to the folder that holds the last component of `target`.
    fn walk<'p>(&mut self, target: &'p Path, missing: Missing) -> io::Result<(&OwnedFd, &'p OsStr)> {
        // `..` would climb; `Path` itself has taken `.` out.
        let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(Errno::EINVAL.into());
        };
        if !target.is_absolute() || !target.components().all(is_plain) {
            return Err(Errno::EINVAL.into());
        }
        if parent == Path::new("/") {
            return Ok((&self.mount, name));
        }
        if let Some(at) = self.entered.iter().position(|(path, _)| path == parent) {
            return Ok((&self.entered[at].1, name));
        }
        let mut at = self.mount.try_clone()?;
        for part in parent.components().skip(1) {
            at = enter(&at, part.as_os_str(), missing)?;
        }
        self.entered.push((parent.to_owned(), at));
        let (_, folder) = self.entered.last().expect("it was just pushed");
        Ok((folder, name))
    }
}

/// What a walk does where there is no folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Refuse,
}

fn enter(folder: &OwnedFd, name: &OsStr, missing: Missing) -> io::Result<OwnedFd> {
    match openat(folder, name, FOLDER, Mode::empty()) {
        Err(Errno::ENOENT) if missing == Missing::Make => {
            mkdirat(folder, name, Mode::from_bits_truncate(0o755))?;
            Ok(openat(folder, name, FOLDER, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

fn existing(folder: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let found = openat(folder, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    if file_type(&found)? == SFlag::S_IFLNK { Err(Errno::ELOOP.into()) } else { Ok(found) }
}

fn file_type(file: &impl AsFd) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(file)?.st_mode & SFlag::S_IFMT.bits()))
}
