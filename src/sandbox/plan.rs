//! The plan of one launch: everything that its stages do, decided before any of them runs.
//!
//! A plan is data. It crosses to the launcher in a sealed memfd, and the init executes it from top to
//! bottom without asking anybody. Whoever builds one decides; the stages refuse nothing but
//! nonsense and report what the kernel would not give.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv6Net};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::domain::SYNTHETIC_V4;
use crate::sys::capability::Capabilities;

use super::cgroup::{self, CpuSet, SchedulingPolicy};
use super::{Control, Text};

/// Longest plan, in bytes of JSON: argv and environment together have at most 2 MiB on Linux
/// (`execve(2)`), JSON may double that, and mounts are far below the rest.
pub const MAX_PLAN: u64 = 8 << 20;

/// The IPv6 addresses that stand for names inside a sandbox: a unique local /64 (RFC 4193). IPv4 has
/// [`SYNTHETIC_V4`].
pub const SYNTHETIC_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd61, 0x7277, 0xc612, 0, 0, 0, 0, 0), 64);
/// Where the explicit proxy listens inside.
pub const PROXY_INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9080);
/// Where the resolver listens inside.
pub const DNS_INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// Where the socket of `NOTIFY_SOCKET` lies inside (`sd_notify(3)`).
pub const NOTIFY_INSIDE: &str = "/run/arw/notify";

/// One launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The command and its arguments. A command without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<Text>,
    /// The whole environment: nothing is inherited.
    pub env: Vec<(Text, Text)>,
    /// Where the command starts, as seen inside.
    pub workdir: PathBuf,
    /// The host name inside.
    pub host_name: String,
    /// Who the command is.
    pub user: User,
    /// The new root, in order; ignored when [`Control::Root`] is left out.
    pub mounts: Vec<Mount>,
    /// Loopback, synthetic addresses and listening sockets.
    pub network: Network,
    /// What Landlock allows.
    pub landlock: Landlock,
    /// Which filter stands before the system calls.
    pub seccomp: Filter,
    /// Limits by `setrlimit(2)`.
    pub limits: Vec<Limit>,
    /// How the host's scheduler treats it.
    pub scheduling: Scheduling,
    /// Whether there is a socket at [`NOTIFY_INSIDE`]; it takes a root of its own.
    pub notify: bool,
    /// Whether it has a terminal.
    pub terminal: Terminal,
    /// What happens when nobody holds the control channel any more.
    pub when_alone: WhenAlone,
    /// Controls that are left out on purpose. The report says so.
    pub without: Vec<Control>,
    /// Controls that must be enforced, or nothing is executed.
    pub require: Vec<Control>,
}

impl Plan {
    /// Whether `control` is part of the plan.
    pub fn applies(&self, control: Control) -> bool {
        !self.without.contains(&control)
    }
}

/// Who the command runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum User {
    /// A user of the host that nothing else is (the launcher is root).
    Host {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// A user namespace with one user and one group (the launcher is an ordinary user).
    Mapped {
        /// User id inside.
        uid: u32,
        /// Group id inside.
        gid: u32,
        /// The caller's own user id outside.
        outside_uid: u32,
        /// The caller's own group id outside.
        outside_gid: u32,
    },
}

impl User {
    /// The user for a sandbox of this process: `host_id`, which nothing else may have, where it can become that user and
    /// mount; the caller's own id in a user namespace where it cannot.
    pub fn for_caller(host_id: u32) -> Self {
        Self::for_one_who(Self::caller_may_become(), host_id)
    }

    /// Whether this process can become another user, and mount.
    pub(super) fn caller_may_become() -> bool {
        let sets = Capabilities::of_this_thread();
        sets.is_ok_and(|sets| NEEDED.iter().all(|number| sets.effective & (1 << number) != 0))
    }

    pub(super) fn for_one_who(may_become: bool, host_id: u32) -> Self {
        let (outside_uid, outside_gid) = (geteuid().as_raw(), getegid().as_raw());
        if may_become {
            return Self::Host { uid: host_id, gid: host_id };
        }
        // Root without its powers, as in many containers: inside it is not root by name either.
        let inside = |id: u32| if id == 0 { 1000 } else { id };
        Self::Mapped { uid: inside(outside_uid), gid: inside(outside_gid), outside_uid, outside_gid }
    }

    /// The same kind of user with another id on the host; whoever is mapped stays the caller.
    #[must_use]
    pub const fn with_host_id(self, id: u32) -> Self {
        match self {
            Self::Host { .. } => Self::Host { uid: id, gid: id },
            Self::Mapped { .. } => self,
        }
    }

    /// The user and group id that the command itself sees.
    pub const fn inside(self) -> (u32, u32) {
        match self {
            Self::Host { uid, gid } | Self::Mapped { uid, gid, .. } => (uid, gid),
        }
    }
}

/// What it takes to launch without a user namespace: `CAP_SETGID`, `CAP_SETUID`, `CAP_SETPCAP`, `CAP_NET_ADMIN`,
/// `CAP_SYS_ADMIN`.
const NEEDED: [u32; 5] = [6, 7, 8, 12, 21];

/// One entry of the new root. Every path is absolute and as seen inside, but for `source`. No component of
/// a target may be a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mount {
    /// Something of the host.
    Bind {
        /// On the host.
        source: PathBuf,
        /// Inside.
        target: PathBuf,
        /// What can be done there.
        access: Access,
        /// What an absent source means.
        absent: Absent,
        /// Whose its files are.
        owner: Owner,
    },
    /// An empty file system in memory.
    Memory {
        /// Inside.
        target: PathBuf,
        /// Most bytes.
        bytes: u64,
        /// Permission bits of its top.
        mode: u32,
        /// Whether programs in it can be executed.
        exec: bool,
        /// Whether it belongs to the command's user.
        owned: bool,
    },
    /// A folder, mode 0755.
    Folder {
        /// Inside.
        target: PathBuf,
    },
    /// A symbolic link.
    Link {
        /// Inside.
        target: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// A small file, mode 0444.
    File {
        /// Inside.
        target: PathBuf,
        /// What stands in it.
        contents: String,
    },
    /// `/proc` of the new process namespace.
    Proc {
        /// How much of it is seen.
        view: ProcView,
    },
    /// An instance of pseudo-terminals of its own, on `/dev/pts`.
    Terminals,
}

/// What can be done below a bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read and execute.
    ReadOnly,
    /// Read, write and execute.
    ReadWrite,
    /// A device node: opened for reading and writing, never executed.
    Device,
}

/// Whose the files of a bind are, as seen inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The ids that they have on the host.
    Host,
    /// What belongs to the folder's own owner on the host belongs to the command inside, and what the command makes
    /// belongs to that owner outside (an id-mapped mount: Linux 5.12, tmpfs 6.3). A file system that cannot (overlayfs,
    /// NFS) stays as it is on the host. Without a host uid of its own the command is the caller outside, and this
    /// changes nothing.
    Command,
}

/// What it means that the source of a bind is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absent {
    /// The launch fails.
    Fault,
    /// The entry is skipped.
    Skip,
}

/// How much of `/proc` is seen. Other processes than the sandbox's own are in neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcView {
    /// Processes only (`subset=pid`): nothing about the host.
    Processes,
    /// Everything but what leaks or steers the host, read-only where it can be.
    Masked,
}

/// The network inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Prefixes whose every address is local.
    pub local_prefixes: Vec<IpNet>,
    /// Sockets made inside and handed out.
    pub listeners: Vec<Listener>,
}

/// Most listeners of one sandbox: proxy, resolver, and a transparent pair for each port that rules name.
pub const MAX_LISTENERS: usize = 128;

/// A socket made inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What it is for.
    pub role: ListenerRole,
    /// Where it is bound.
    pub address: SocketAddr,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerRole {
    /// The explicit proxy, TCP.
    Proxy,
    /// The resolver, UDP.
    DnsUdp,
    /// The resolver, TCP.
    DnsTcp,
    /// A port of the synthetic addresses, TCP.
    Transparent,
}

impl Network {
    /// What a gateway needs: the explicit proxy, the resolver, and `ports` of every synthetic address.
    ///
    /// The transparent listeners are bound to the wildcard address, so the command cannot listen on `ports`
    /// itself.
    pub fn of_gateway(ports: &[u16]) -> Self {
        let mut listeners = vec![
            Listener { role: ListenerRole::Proxy, address: PROXY_INSIDE },
            Listener { role: ListenerRole::DnsUdp, address: DNS_INSIDE },
            Listener { role: ListenerRole::DnsTcp, address: DNS_INSIDE },
        ];
        for port in ports {
            for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                listeners.push(Listener { role: ListenerRole::Transparent, address: SocketAddr::new(any, *port) });
            }
        }
        Self { local_prefixes: vec![SYNTHETIC_V4.into(), SYNTHETIC_V6.into()], listeners }
    }
}

/// What Landlock allows; everything else that the kernel's ABI knows is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    /// Paths as seen inside, with what is below them. An absent one is skipped.
    pub files: Vec<(PathBuf, Access)>,
    /// TCP ports that may be connected to; `None` leaves connecting alone.
    pub connect: Option<Vec<u16>>,
    /// TCP ports that may be bound; `None` leaves binding alone.
    pub bind: Option<Vec<u16>>,
}

/// Which system calls are let through. See [`super::seccomp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Only the listed ones; no netlink.
    Strict,
    /// Only the listed ones; netlink for reading addresses and routes.
    Standard,
    /// All but the dangerous ones.
    Compat,
}

/// One `setrlimit(2)`: soft and hard at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// In the resource's own unit.
    pub most: u64,
}

/// What `setrlimit(2)` limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Bytes of address space.
    AddressSpace,
    /// Bytes of a core file.
    CoreFile,
    /// Bytes of data and heap of one process.
    Data,
    /// Bytes of one file.
    FileSize,
    /// Bytes locked in memory.
    LockedMemory,
    /// Bytes in POSIX message queues.
    MessageQueues,
    /// 20 less the best nice value.
    Niceness,
    /// Open descriptors.
    OpenFiles,
    /// Processes and threads of the user.
    Processes,
    /// Real-time priority.
    RealtimePriority,
    /// Signals waiting.
    Signals,
    /// Bytes of stack.
    Stack,
}

/// What the init sets on itself, and all inside inherits. `None` leaves it as the launcher has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduling {
    /// Niceness, 0 to 19: nothing inside comes before the host's own work.
    pub nice: Option<i8>,
    /// Scheduling policy.
    pub policy: Option<SchedulingPolicy>,
    /// CPUs that it may run on.
    pub cpus: Option<CpuSet>,
}

impl Scheduling {
    /// The part of `limits` that a process sets on itself.
    pub fn of(limits: &cgroup::Limits) -> Self {
        Self { nice: limits.nice, policy: limits.policy, cpus: limits.cpus.clone() }
    }
}

/// Whether the command has a controlling terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// None: a session of its own without one.
    None,
    /// Standard input is a pseudo-terminal made for this launch, and becomes its controlling terminal.
    Own,
}

/// What the init does when the control channel has no other end any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAlone {
    /// Ends everything: nobody would hear of it.
    End,
    /// Goes on, keeps the listeners, and waits to be adopted.
    Wait,
}
