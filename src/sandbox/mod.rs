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
//! | `launch` | the caller's side: [`Launcher`], [`Launched`], the channel to the init |
//! | `stage` | the other side: launcher, init, command, in the order of the launch |
//! | `seccomp` | the filters |
//! | `control` | the confinement report |
//! | `cgroup` | limits that hold for all processes of a sandbox together |
//! | `preset` | named sets of limits, and what may be claimed of them |
//! | `pressure` | when the host is short of something, and eco gives way |
//! | `check` | the escape self-test that runs inside |
//!
//! It needs Linux 5.12 (mounts by descriptor that are read-only all the way down) with seccomp; Landlock (5.13, TCP 6.7,
//! scopes 6.12) and cgroup v2 make it better and are reported. As root every runtime has a host uid of its own; an
//! ordinary user gets a user namespace with one mapped id. Either way the command has no capability at all.
//!
//! It refuses to skip silently: a step that fails ends the launch and is named ([`Fault`]), and a control that the
//! kernel does not have is in the report ([`Report`]). It knows nothing of personas, rules or restarts.

pub mod cgroup;
pub mod check;
mod control;
mod fault;
mod launch;
pub mod plan;
pub mod preset;
pub mod pressure;
pub mod profile;
pub mod seccomp;
pub mod stage;
mod text;
mod wire;

pub use control::{Control, Finding, Report, State};
pub use fault::{Fault, LaunchError, Step};
pub use launch::{End, Entry, Handle, Launched, Launcher, Streams, launch};
pub use plan::{Listener, ListenerRole, Plan, User};
pub use profile::{Profile, ProfileName};
pub use text::Text;
pub use wire::Exit;
