//! What lies on the host for a self-test to reach.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde::{Deserialize, Serialize};

use crate::sandbox::plan::{Absent, Access, Mount};
use crate::sandbox::stage::CHECK;
use crate::sandbox::{Control, Plan, Text};
use crate::sys::socket::local_addresses;

/// What the inside is told of the trap, so that it knows what to look for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bait {
    /// Where the host listens.
    pub(super) tcp: Vec<SocketAddr>,
    /// Where the host takes datagrams.
    pub(super) udp: Vec<SocketAddr>,
    /// An abstract socket's name.
    pub(super) name: String,
    /// A folder of the host that anybody may write, with a file `secret` that anybody may read.
    pub(super) folder: PathBuf,
    /// A process of the host.
    pub(super) process: i32,
    /// Descriptor with which the caller's launcher was started.
    pub(super) descriptor: i32,
}

/// The name of the file that holds the secret.
pub(super) const SECRET: &str = "secret";

/// A listener, an abstract socket, a file and more on the host, for as long as this value lives.
#[derive(Debug)]
pub struct Trap {
    bait: Bait,
    _tcp: TcpListener,
    _udp: UdpSocket,
    _name: OwnedFd,
    _descriptor: File,
}

/// Where the file lies on the host: a folder that anybody may write, and that no rule of a sandbox names.
const OUTSIDE: &str = "/var/tmp";
/// Where the program lies inside.
const FOLDER_INSIDE: &str = "/.arw/bin";

impl Trap {
    /// Lays everything out.
    ///
    /// # Errors
    /// No port, no descriptor or no place in `/var/tmp` left.
    pub fn set() -> io::Result<Self> {
        // On every address: the namespace must stop more than loopback.
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let (tcp, udp) = (TcpListener::bind(any)?, UdpSocket::bind(any)?);
        let targets = |port: u16| -> io::Result<Vec<SocketAddr>> {
            let own = local_addresses()?.into_iter().filter(IpAddr::is_ipv4);
            Ok(own.map(|address| SocketAddr::new(address, port)).collect())
        };
        let folder = nix::unistd::mkdtemp(Path::new(OUTSIDE).join("arw-check-XXXXXX").as_path())?;
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        let secret = folder.join(SECRET);
        File::create(&secret)?.write_all(b"bait")?;
        fs::set_permissions(&secret, Permissions::from_mode(0o644))?;
        let descriptor = File::open(&secret)?;
        // As a careless parent leaves it: open across the execution of other programs.
        fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let name = format!("arw-check-{}-{}", std::process::id(), tcp.local_addr()?.port());
        let bait = Bait {
            tcp: targets(tcp.local_addr()?.port())?,
            udp: targets(udp.local_addr()?.port())?,
            folder,
            process: std::process::id().cast_signed(),
            descriptor: descriptor.as_raw_fd(),
            name: name.clone(),
        };
        Ok(Self { bait, _tcp: tcp, _udp: udp, _name: listen_abstract(&name)?, _descriptor: descriptor })
    }

    /// Makes `plan` run the self-test of `program` in place of its command.
    ///
    /// # Errors
    /// The program's path cannot be resolved.
    pub fn arm(&self, plan: &mut Plan, program: &Path) -> io::Result<()> {
        let inside = Path::new(FOLDER_INSIDE).join(CHECK);
        if plan.applies(Control::Root) {
            plan.mounts.push(Mount::Bind {
                // By its path: `/proc/self/exe` lies on a mount of another namespace, which cannot be copied.
                source: fs::canonicalize(program)?,
                target: inside.clone(),
                access: Access::ReadOnly,
                absent: Absent::Fault,
            });
            plan.landlock.files.push((inside, Access::ReadOnly));
            plan.env.retain(|(name, _)| name.as_bytes() != b"PATH");
            plan.env.push((Text::from("PATH"), Text::from(FOLDER_INSIDE)));
        }
        plan.argv = vec![Text::from(CHECK), Text::from(self.argument())];
        Ok(())
    }

    /// The self-test's one argument.
    pub fn argument(&self) -> String {
        serde_json::to_string(&self.bait).expect("a bait is plain data")
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.bait.folder);
    }
}

fn listen_abstract(name: &str) -> io::Result<OwnedFd> {
    let made = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(made.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    listen(&made, Backlog::new(8)?)?;
    Ok(made)
}
