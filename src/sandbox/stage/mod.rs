//! The other side of a launch: what the re-executed program does instead of its `main`.
//!
//! The order of steps, which is also that of [`Step`](super::Step):
//!
//! 1. launcher: `clone3` into the namespaces and the cgroup;
//! 2. init: cgroups v1, the plan, ids, limits, host name; mounts and the new root; loopback, routes and listeners; Landlock's
//!    rules, made while still privileged; the CPU's group and the scheduling; bounding set, groups, gid, uid, capabilities,
//!    each read back; `no_new_privs`; Landlock in force after the last mount; the caller's word, where it holds the launch;
//!    fork;
//! 3. command: session, terminal, folder, streams, descriptors, seccomp last; the report; `execve`.
//!
//! Most of an init's steps that no plan changes are done ahead (`ground`), where its groups are known by the init itself.
//!
//! Then the init keeps house: it reaps, forwards, copies what the command says (`journal`), answers its owner and
//! executes more commands (`executions`). The plan with its environment stays in its memory for that, which nobody
//! inside can read: it is not dumpable.
//!
//! Everything here runs in processes with one thread: allocation is safe, and a failure ends the process. Only the command
//! has its init's memory until it is executed, while that stands still.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

mod command;
mod executions;
mod ground;
mod house;
mod identity;
mod init;
mod journal;
mod landlock;
mod launcher;
mod measure;
mod network;
mod owners;
mod place;
mod root;

pub(super) use landlock::stranger;
pub(super) use launcher::{has_all, has_groups};
pub(super) use measure::missing_file_rights;

/// The first word of a launcher's command line.
pub(super) const LAUNCHER: &str = "arw-launcher";
/// The second word of one that is started again when it dies.
pub(super) const RESIDENT: &str = "resident";
/// The first word of a self-test's command line.
pub(super) const CHECK: &str = "arw-check";

/// Becomes a stage if this process was executed as one, and then never returns. The first call of every `main`:
/// before the first thread, before arguments are parsed. `arguments` are the process's own (`args_os`).
pub fn intercept(mut arguments: impl Iterator<Item = OsString>) {
    let Some(name) = arguments.next() else { return };
    if name.as_bytes() == LAUNCHER.as_bytes() {
        launcher::run(arguments);
    }
    if name.as_bytes() == CHECK.as_bytes() {
        super::check::run_inside(arguments);
    }
}
