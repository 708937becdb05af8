//! A process that cannot leave: its own view of the machine, and no network but the sockets of the gateway.
//!
//! ```text
//! caller (threads, tokio)     Plan in a sealed memfd
//!   └─ launcher               the same program executed again: one thread, no environment; clone3
//!        └─ init              PID 1: mounts, loopback and listeners, Landlock, capabilities; then it
//!             │               reaps, forwards signals and keeps the exit status
//!             └─ command      session, streams, descriptors, seccomp, the report measured; execve
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `plan` | everything that a launch does, as data |
//! | `profile` | confinement profiles in TOML, and the plan that one makes of a command |
//! | `launch` | the caller's side: [`Launcher`] |
//! | `handle` | a running sandbox: [`Launched`], and the channel to its init, for an owner of one |
//! | `channel`, `exec` | the same for an owner of many: [`Channel`], and more commands inside |
//! | `adopt`, `init_id` | a running sandbox found again by an owner that comes back |
//! | `log` | what the command says, in two files that its init writes |
//! | `notify` | what the command says to its service manager |
//! | `charter` | what a resident launcher holds to, whoever asks |
//! | `stage` | the other side: launcher, init, command, in the order of the launch |
//! | `seccomp` | the filters |
//! | `control` | the confinement report |
//! | `cgroup` | limits that hold for all processes of a sandbox together |
//! | `preset` | named sets of limits, and what may be claimed of them |
//! | `pressure` | when the host is short of something, and eco gives way |
//! | `check` | the escape self-test that runs inside |
//! | `confine` | the same walls, as far as they fit, around the daemon itself |
//!
//! It needs Linux 5.12 (mounts by descriptor that are read-only all the way down) with seccomp; Landlock (5.13, TCP 6.7,
//! scopes 6.12) and cgroup v2 make it better and are reported. As root every runtime has a host uid of its own; an
//! ordinary user gets a user namespace with one mapped id. Either way the command has no capability at all.
//!
//! It refuses to skip silently: a step that fails ends the launch and is named ([`Fault`]), and a control that the
//! kernel does not have is in the report ([`Report`]). It knows nothing of personas, rules or restarts.

mod adopt;
pub mod cgroup;
mod channel;
pub mod charter;
pub mod check;
pub mod confine;
mod control;
mod exec;
mod fault;
mod handle;
mod init_id;
mod launch;
pub mod log;
pub mod notify;
pub mod plan;
pub mod preset;
pub mod pressure;
pub mod profile;
pub mod seccomp;
pub mod stage;
mod text;
mod wire;

pub use adopt::{AdoptError, Adopted, AdoptionInfo, adopt, end_unknown, listen_for_adoption, read_exit};
pub use channel::{Attended, Channel};
pub use control::{Control, Finding, Report, State};
pub use exec::{Exec, ExecError, Executing, MAX_EXECUTIONS};
pub use fault::{Fault, LaunchError, Step};
pub use handle::{End, Handle, Launched};
pub use init_id::InitId;
pub use launch::{Begun, Entry, Launcher, Log, Streams, launch};
pub use plan::{Listener, ListenerRole, Plan, Scheduling, User};
pub use profile::{Profile, ProfileName};
pub use text::Text;
pub use wire::{Exit, Spoken};
