//! What the three parties of a launch say to each other.
//!
//! ```text
//!            Request + descriptors            clone3
//! caller ───────────────────────→ launcher ─────────→ init ──fork──→ command
//!   ↑ │                              │                 │ │              │
//!   │ │      Started + pidfd         │                 │ │              │
//!   │ └── Order (signal, exec, …) ───┼────────────────→│ │              │
//!   └──── Listening + sockets ───────┴─────────────────┘ │              │
//!         Running, Failed, Exited, answers               │              │
//!   └──── Measured (report) ─────────────────────────────┴──────────────┘
//! ```
//!
//! Each launch has a control pair of its own; launcher, init and the not yet executed command write into the
//! same end of it, one after the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::message;

use super::cgroup::Applied;
use super::charter::Charter;
use super::plan::{Landlock, Listener, Mount, ProcView, User};
use super::{Control, Exec, Fault, Report, stage};

/// Longest message: a report with every reason is a few KiB.
pub(crate) const MAX_MESSAGE: usize = 64 << 10;

/// Most listeners in one message, well below what descriptors one may carry.
pub(crate) const LISTENERS_AT_ONCE: usize = 16;

/// What a keeper answers, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Held {
    /// It has its charter, and reads no other.
    Charter,
}

/// What the caller wants of the launcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Ask {
    /// Have these namespaces ready, and the ground laid in them.
    Prepare(Preparation),
    /// Launch.
    Launch(Request),
}

/// What shall stand ready. Its descriptors are those of the groups, as in a [`Request`]: with some, the init itself stands
/// ready, in them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preparation {
    /// The namespaces to make.
    pub(crate) namespaces: Vec<Namespace>,
    /// What to lay in them.
    pub(crate) ground: Ground,
    /// A cgroup v2 folder comes along.
    pub(crate) cgroup: bool,
    /// So many opened `tasks` files come along.
    pub(crate) joins: usize,
}

/// What the next launches have in common, whatever their command is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ground {
    /// Whose ids are mapped, in a user namespace.
    pub(crate) mapped: Option<User>,
    /// The first mounts of every plan. None is `/proc`, and none belongs to the command.
    pub(crate) mounts: Vec<Mount>,
    /// How much of `/proc` will be seen.
    pub(crate) proc: Option<ProcView>,
    /// Prefixes whose every address is local.
    pub(crate) local_prefixes: Vec<IpNet>,
    /// Listeners that most plans have.
    pub(crate) listeners: Vec<Listener>,
    /// What Landlock will allow: the first files of every plan, and whether ports are ruled.
    pub(crate) landlock: Landlock,
    /// What the profile leaves out.
    pub(crate) without: Vec<Control>,
}

/// Asks for a sandbox. Its descriptors are, in this order: the plan, the init's end of the control
/// pair, the three standard streams, and those that the fields announce.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The namespaces to make.
    pub(crate) namespaces: Vec<Namespace>,
    /// A cgroup v2 folder comes along, to be cloned into.
    pub(crate) cgroup: bool,
    /// How many opened `tasks` files come along, to be entered by writing.
    pub(crate) joins: usize,
    /// One more comes along, to be entered last.
    pub(crate) last: bool,
    /// The command is made only when the caller says so ([`Order::Go`]).
    pub(crate) held: bool,
    /// A file for the exit record comes along.
    pub(crate) exit_record: bool,
    /// A listening socket for a later owner comes along.
    pub(crate) adoption: bool,
    /// Two files for what the command says come along, each of at most this many bytes.
    pub(crate) log: Option<u64>,
}

/// A namespace to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Namespace {
    User,
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
}

/// What a stage tells the caller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Event {
    /// The init exists; its pidfd comes along.
    Started { pid: i32 },
    /// Some of the plan's listeners come along, by their places in the plan.
    Listening { places: Vec<usize> },
    /// The socket of `NOTIFY_SOCKET` comes along.
    Notify,
    /// What became of the plan's scheduling.
    Scheduled(Vec<Applied>),
    /// The confinement, measured.
    Measured(Report),
    /// The command was executed, by an init that started then.
    Running { start_ticks: u64 },
    /// A step failed, and the sandbox is ending.
    Failed(Fault),
    /// The command ended.
    Exited(Exit),
    /// The socket that was asked for comes along.
    Socket { ask: u64 },
    /// It could not be made.
    NoSocket { ask: u64, errno: i32 },
    /// What was to be executed was.
    ExecStarted { ask: u64 },
    /// It was not.
    ExecFailed { ask: u64, fault: Fault },
    /// It ended.
    ExecEnded { ask: u64, exit: Exit },
}

/// What the caller wants of an init. `ask` is the caller's own number, which comes back with the answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    /// Make the command: all that it needs outside is there.
    Go,
    /// Send the command this signal.
    Signal { number: i32 },
    /// Send the listeners again: a new owner has come.
    Listeners,
    /// Send a TCP socket of the sandbox's network.
    Socket { ask: u64, v6: bool },
    /// Execute one more command; its three standard streams come along.
    Exec { ask: u64, command: Exec },
    /// Kill what was executed, with its session.
    KillExec { ask: u64 },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The code that a shell would show: that of the command, or 128 and the signal's number.
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128 + number,
        }
    }
}

/// Sends `what` with `descriptors`.
pub(crate) fn tell<T: Serialize>(socket: &impl AsFd, what: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(what).map_err(io::Error::other)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is longer than its bound"));
    }
    message::send(socket, &bytes, descriptors)
}

/// Waits for the peer to say something; `None` when it is gone.
pub(crate) fn hear<T: DeserializeOwned>(socket: &impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let message = message::receive(socket, MAX_MESSAGE)?;
    if message.bytes.is_empty() {
        return Ok(None);
    }
    let what = serde_json::from_slice(&message.bytes)
        .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault.to_string()))?;
    Ok(Some((what, message.descriptors)))
}

/// Who says something to whom: for the fuzz targets, which say it as whoever has broken into that party would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// The caller to the keeper of its launchers.
    ToKeeper,
    /// The caller to the launcher.
    ToLauncher,
    /// The launcher to a process that stands ready.
    ToSpare,
    /// The caller to an init.
    ToInit,
    /// Launcher, init and the not yet executed command to the caller.
    ToCaller,
}

impl Spoken {
    /// Hears one message as the party does, sorts what came with it, and lets go of that. What was understood is written down
    /// again; `None` where the peer is gone.
    ///
    /// # Errors
    /// The system call's own, and `InvalidData` for what is not understood, or a request whose descriptors are not those that it
    /// announces.
    pub fn overhear(self, socket: &impl AsFd) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::ToKeeper => again(socket, |_: &Charter, _| true),
            Self::ToLauncher => again(socket, |ask: &Ask, descriptors| match ask {
                Ask::Launch(request) => stage::has_all(request, descriptors),
                Ask::Prepare(preparation) => stage::has_groups(preparation, &descriptors),
            }),
            Self::ToSpare => again(socket, stage::has_all),
            Self::ToInit => again(socket, |_: &Order, _| true),
            Self::ToCaller => again(socket, |_: &Event, _| true),
        }
    }
}

fn again<T: Serialize + DeserializeOwned>(
    socket: &impl AsFd,
    sorts: impl FnOnce(&T, Vec<OwnedFd>) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    let Some((what, descriptors)) = hear::<T>(socket)? else { return Ok(None) };
    if !sorts(&what, descriptors) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptors are not those that are announced"));
    }
    serde_json::to_vec(&what).map(Some).map_err(io::Error::other)
}
