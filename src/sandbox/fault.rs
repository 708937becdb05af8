//! Where a launch failed.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $prose:literal,)*) => {
        /// One step of a launch, in the order in which they are taken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        impl fmt::Display for Step {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $prose,)*
                })
            }
        }
    };
}

steps! {
    /// The launcher itself started.
    Launcher = "start the launcher",
    /// The plan was sealed and sent.
    Send = "send the plan",
    /// A process was made in its new namespaces.
    Clone = "make the namespaces",
    /// It entered its cgroups.
    Cgroup = "enter the cgroup",
    /// It read the plan.
    ReadPlan = "read the plan",
    /// What was asked for was held against the launcher's charter.
    Charter = "keep to the charter",
    /// User and group ids were mapped.
    MapIds = "map the user",
    /// Resource limits were set.
    Limits = "set the resource limits",
    /// The host name was set.
    HostName = "set the host name",
    /// Mounts were cut off from the host's.
    MountsPrivate = "make the mounts private",
    /// Something of the host was opened for binding.
    BindSource = "open a folder to bind",
    /// Its files were shown as the command's own.
    MapOwners = "show a folder as the command's own",
    /// The new root was mounted.
    NewRoot = "mount the new root",
    /// A place in the new root was made.
    MountTarget = "make a place in the new root",
    /// Something of the host was bound there.
    Bind = "bind a folder",
    /// Something else was mounted there.
    Mount = "mount a file system",
    /// The new root became the root.
    Pivot = "enter the new root",
    /// The socket for notifications was made.
    Notify = "make the socket for notifications",
    /// Loopback came up.
    Loopback = "bring loopback up",
    /// Synthetic addresses became local.
    Route = "route the synthetic addresses",
    /// A listening socket was made.
    Listen = "listen inside the sandbox",
    /// The sockets were handed out.
    HandOver = "hand the listeners over",
    /// Landlock rules were made.
    LandlockRules = "make the landlock rules",
    /// Niceness, policy and affinity were set.
    Schedule = "set the scheduling",
    /// The bounding set was emptied.
    BoundingSet = "empty the bounding set",
    /// Groups were dropped.
    Groups = "drop the groups",
    /// The group id was set.
    Gid = "set the group id",
    /// The user id was set.
    Uid = "set the user id",
    /// The capability sets were emptied.
    Capabilities = "drop the capabilities",
    /// What was given up was found to be still there.
    Verify = "verify what was given up",
    /// `no_new_privs` was set.
    NoNewPrivs = "set no_new_privs",
    /// Landlock came into force.
    LandlockRestrict = "apply landlock",
    /// What the command says found its files.
    Log = "open the log",
    /// The command's process was made.
    Fork = "make the command's process",
    /// It got a session of its own.
    Session = "start a session",
    /// It took its terminal.
    Terminal = "take the terminal",
    /// It went to its folder.
    Workdir = "enter the working directory",
    /// It got its standard streams.
    Streams = "set the standard streams",
    /// Other descriptors were closed.
    Descriptors = "close the descriptors",
    /// The system call filter came into force.
    Seccomp = "install the seccomp filter",
    /// The report was measured.
    Measure = "measure the confinement",
    /// A required control was not enforced.
    Require = "meet what is required",
    /// The command was executed.
    Exec = "execute the command",
    /// The init lost its hold.
    Init = "watch over the command",
}

/// The step that failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What was being done.
    pub step: Step,
    /// What it was being done to; may be empty.
    pub detail: String,
    /// The system's error number; 0 when the fault is not the system's.
    pub errno: i32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}", self.step)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if self.errno != 0 {
            write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

impl Fault {
    /// A fault of `step`, with what it was about.
    pub(crate) fn new(step: Step, detail: impl Into<String>, fault: &io::Error) -> Self {
        let mut detail = detail.into();
        let errno = fault.raw_os_error().unwrap_or(0);
        if errno == 0 {
            if !detail.is_empty() {
                detail.push_str(": ");
            }
            detail.push_str(&fault.to_string());
        }
        Self { step, detail, errno }
    }

    /// A fault that is not the system's.
    pub(crate) fn said(step: Step, detail: impl Into<String>) -> Self {
        Self { step, detail: detail.into(), errno: 0 }
    }
}

/// Names the step that a call belongs to.
pub(crate) trait At<T> {
    /// Its error becomes a fault of `step`.
    fn at(self, step: Step) -> Result<T, Fault>;

    /// Its error becomes a fault of `step` about `detail`.
    fn at_with<D: Into<String>>(self, step: Step, detail: impl FnOnce() -> D) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: Step) -> Result<T, Fault> {
        self.map_err(|fault| Fault::new(step, "", &fault.into()))
    }

    fn at_with<D: Into<String>>(self, step: Step, detail: impl FnOnce() -> D) -> Result<T, Fault> {
        self.map_err(|fault| Fault::new(step, detail(), &fault.into()))
    }
}

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step failed; what had been made is gone again.
    #[error(transparent)]
    Step(#[from] Fault),
    /// The launcher or the init ended without a word: killed from outside, or out of memory.
    #[error("the sandbox ended while it was being made")]
    Lost,
    /// The launcher was killed together with what would have started another.
    #[error("the launcher is dead, and a confined daemon can start no other; restart the daemon")]
    Dead,
    /// No stage said anything for too long; what had been made was killed.
    #[error("the sandbox was not made in time: the last step does not end")]
    Slow,
    /// A stage said what this version does not understand.
    #[error("the launcher speaks another version: {0}")]
    Wire(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_the_step_the_thing_and_the_cause() {
        let missing: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOENT));
        let fault = missing.at_with(Step::BindSource, || "/work").expect_err("fault");
        assert_eq!(fault.to_string(), "could not open a folder to bind: /work: No such file or directory (os error 2)");
        let said: io::Result<()> = Err(io::Error::other("two threads"));
        let fault = said.at(Step::Clone).expect_err("fault");
        assert_eq!(fault.to_string(), "could not make the namespaces: two threads");
    }
}
