//! What is attempted: what the walls stop, and what the daemon goes on needing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use arw::sandbox::Control;
use arw::sys::probe;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, UnixAddr, bind, connect, listen, socket,
};

use nix::unistd::{Pid, getpid, getppid};

use crate::Places;

/// Whether it shall be possible inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not.
    Stopped,
    /// The daemon needs it.
    Needed,
}

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The wall without which it proves nothing.
    pub(crate) wall: Option<Control>,
    pub(crate) run: fn(&Places) -> io::Result<()>,
}

const fn files(name: &'static str, run: fn(&Places) -> io::Result<()>) -> Attempt {
    Attempt { name, kind: Kind::Stopped, wall: Some(Control::LandlockFiles), run }
}

const fn calls(name: &'static str, run: fn(&Places) -> io::Result<()>) -> Attempt {
    Attempt { name, kind: Kind::Stopped, wall: Some(Control::Seccomp), run }
}

const fn needed(name: &'static str, run: fn(&Places) -> io::Result<()>) -> Attempt {
    Attempt { name, kind: Kind::Needed, wall: None, run }
}

/// All of them.
pub(crate) const ATTEMPTS: &[Attempt] = &[
    files("read a file that no rule names", |at| fs::read(at.outside.join("secret")).map(drop)),
    files("read it through /proc", |at| fs::read(through_proc(&at.outside.join("secret"))).map(drop)),
    files("read it through a link", |at| {
        let link = at.own.join("link");
        symlink(at.outside.join("secret"), &link)?;
        fs::read(link).map(drop)
    }),
    files("read it by a second name", |at| {
        let name = at.own.join("name");
        fs::hard_link(at.outside.join("secret"), &name)?;
        fs::read(name).map(drop)
    }),
    files("fetch it by renaming", |at| fs::rename(at.outside.join("secret"), at.own.join("secret"))),
    files("list a folder that no rule names", |at| fs::read_dir(&at.outside).map(drop)),
    files("make a file there", |at| fs::write(at.outside.join("new"), "x")),
    files("append to a file there", |at| File::options().append(true).open(at.outside.join("secret")).map(drop)),
    files("remove a file there", |at| fs::remove_file(at.outside.join("secret"))),
    files("make a folder there", |at| fs::create_dir(at.outside.join("folder"))),
    files("move a file of ours there", |at| fs::rename(at.own.join("true"), at.outside.join("moved"))),
    files("write where it may only read", |at| File::options().write(true).open(at.read.join("file")).map(drop)),
    files("make a file where it may only read", |at| fs::write(at.read.join("new"), "x")),
    files("write a file where sockets are made", |at| fs::write(at.sockets.join("new"), "x")),
    files("write below /proc", |_| {
        // What it holds already: harmless where it succeeds.
        let path = "/proc/self/oom_score_adj";
        let now = fs::read(path)?;
        fs::write(path, now)
    }),
    // The launcher is such a one: of the same user, outside of the walls.
    files("read the memory of a process outside", |_| File::open(of_the_parent("mem")).map(drop)),
    files("see what a process outside has open", |_| fs::read_link(of_the_parent("fd/0")).map(drop)),
    files("read a file by the root of a process outside", |at| {
        fs::read(of_the_parent("root").join(at.read.join("file").strip_prefix("/").unwrap())).map(drop)
    }),
    Attempt {
        name: "connect to an abstract socket of a stranger",
        kind: Kind::Stopped,
        wall: Some(Control::LandlockScopes),
        run: |_| {
            let own = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            connect(own.as_raw_fd(), &strangers_name(getppid()))?;
            Ok(())
        },
    },
    calls("execute a program of the host", |_| execute(Path::new("/bin/true"))),
    calls("execute a program that it wrote itself", |at| execute(&at.own.join("true"))),
    calls("become another program", |at| {
        use std::os::unix::process::CommandExt;
        Err(Command::new(at.own.join("true")).exec())
    }),
    calls("become a program that lies in memory alone", |_| {
        let memory = memfd_create(c"true", MFdFlags::empty())?;
        File::from(memory.try_clone()?).write_all(&fs::read("/bin/true")?)?;
        let none: [&std::ffi::CStr; 0] = [];
        match nix::unistd::fexecve(&memory, &[c"true"], &none)? {}
    }),
    calls("make a user namespace", |_| Ok(unshare(CloneFlags::CLONE_NEWUSER)?)),
    calls("make a mount namespace", |_| Ok(unshare(CloneFlags::CLONE_NEWNS)?)),
    calls("enter a namespace", |_| Ok(setns(File::open("/proc/self/ns/uts")?, CloneFlags::CLONE_NEWUTS)?)),
    calls("change its root", |at| Ok(nix::unistd::chroot(&at.own)?)),
    calls("be traced", |_| probe::trace_me()),
    calls("read a process by its number", |_| {
        let text = *b"hunter2";
        let mut copy = [0; 7];
        let from = nix::sys::uio::RemoteIoVec { base: text.as_ptr() as usize, len: text.len() };
        nix::sys::uio::process_vm_readv(nix::unistd::getpid(), &mut [io::IoSliceMut::new(&mut copy)], &[from])?;
        Ok(())
    }),
    calls("make a ring of io_uring", |_| probe::io_uring()),
    calls("handle faults of memory", |_| probe::user_faults()),
    calls("look at the keyring", |_| probe::session_keyring()),
    calls("map memory that is written and executed", |_| probe::writable_code()),
    calls("make memory executable that was written", |_| probe::written_code()),
    calls("have all that can be read executable", |_| probe::read_implies_exec()),
    calls("set its user id, to what it is", |_| Ok(nix::unistd::setuid(nix::unistd::getuid())?)),
    calls("make a named pipe", |at| Ok(nix::unistd::mkfifo(&at.own.join("pipe"), nix::sys::stat::Mode::S_IRUSR)?)),
    calls("make a program that runs as its owner", |at| {
        fs::set_permissions(at.own.join("true"), fs::Permissions::from_mode(0o4755))
    }),
    calls("make a file that runs as its owner", |at| {
        let made = File::options().write(true).create_new(true).mode(0o6700).open(at.own.join("new"))?;
        let mode = made.metadata()?.permissions().mode();
        if mode & 0o6000 == 0 { Err(io::Error::other("the bits were not set")) } else { Ok(()) }
    }),
    calls("open a raw socket", |_| open(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp))),
    calls("open a packet socket", |_| open(AddressFamily::Packet, SockType::Datagram, None)),
    calls("open a socket to the hypervisor", |_| open(AddressFamily::Vsock, SockType::Stream, None)),
    calls("open a socket to the kernel's ciphers", |_| open(AddressFamily::Alg, SockType::SeqPacket, None)),
    calls("ask the kernel for the sockets of others", |_| {
        open(AddressFamily::Netlink, SockType::Datagram, Some(SockProtocol::NetlinkSockDiag))
    }),
    needed("write, rename and remove in its own folders", |at| {
        let (first, second) = (at.own.join("file.new"), at.own.join("deeper/file"));
        fs::write(&first, "x")?;
        fs::rename(&first, &second)?;
        File::options().append(true).open(&second)?.sync_all()?;
        File::open(&at.own)?.sync_all()?;
        fs::remove_file(&second)?;
        fs::create_dir(at.own.join("folder"))?;
        fs::remove_dir(at.own.join("folder"))
    }),
    needed("read what it may read", |at| {
        fs::read_dir(&at.read)?.count();
        fs::read(at.read.join("file")).map(drop)
    }),
    needed("read a file that was replaced", |at| {
        // As an editor does, from outside of the walls: here the folder is also ours to write.
        fs::write(at.own.join("fresh"), "x")?;
        fs::rename(at.own.join("fresh"), at.own.join("hosts"))?;
        fs::read(at.own.join("hosts")).map(drop)
    }),
    needed("listen on a socket and replace it", |at| {
        let folder = at.sockets.join(".staging");
        fs::create_dir(&folder)?;
        let listener = UnixListener::bind(folder.join("new"))?;
        fs::set_permissions(folder.join("new"), fs::Permissions::from_mode(0o600))?;
        fs::rename(folder.join("new"), at.sockets.join("control.sock"))?;
        fs::remove_dir_all(&folder)?;
        let _client = UnixStream::connect(at.sockets.join("control.sock"))?;
        listener.accept()?;
        fs::remove_file(at.sockets.join("control.sock"))
    }),
    needed("speak TCP", |_| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"x")?;
        server.read_exact(&mut [0])
    }),
    needed("list the host's own addresses", |_| Ok(nix::ifaddrs::getifaddrs().map(drop)?)),
    needed("start a thread", |_| {
        std::thread::Builder::new().spawn(|| ())?.join().map_err(|_| io::Error::other("it panicked"))
    }),
    needed("signal a process", |_| Ok(nix::sys::signal::kill(nix::unistd::getpid(), None)?)),
    needed("use the device that swallows everything", |_| {
        File::options().read(true).write(true).open("/dev/null")?.write_all(b"x")
    }),
    needed("look at itself and at the host", |_| {
        fs::read_to_string("/proc/self/status")?;
        fs::read_dir("/proc/self/fd")?.count();
        fs::read_to_string("/proc/meminfo").map(drop)
    }),
];

/// What the kernel shows of the process that makes the attempts.
fn of_the_parent(name: &str) -> std::path::PathBuf {
    Path::new("/proc").join(getppid().to_string()).join(name)
}

/// What lies at `path`, by the root of this process.
fn through_proc(path: &Path) -> std::path::PathBuf {
    Path::new("/proc/self/root").join(path.strip_prefix("/").unwrap())
}

fn execute(program: &Path) -> io::Result<()> {
    match Command::new(program).status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("it failed")),
    }
}

fn open(family: AddressFamily, kind: SockType, protocol: Option<SockProtocol>) -> io::Result<()> {
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map(drop)?)
}

/// Where the process that makes the attempts listens.
fn strangers_name(pid: Pid) -> UnixAddr {
    UnixAddr::new_abstract(format!("arw-test-stranger-{pid}").as_bytes()).unwrap()
}

/// An abstract socket that listens for an attempt.
pub(crate) fn stranger() -> OwnedFd {
    let made = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(made.as_raw_fd(), &strangers_name(getpid())).unwrap();
    listen(&made, Backlog::new(1).unwrap()).unwrap();
    made
}
