//! What a sandbox can enforce, one by one, and what was measured of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::codes;

codes! {
    /// One thing that a sandbox enforces, in the order of a report.
    Control {
        /// A user of its own: a host uid that nothing else has, or a user namespace.
        Identity => "identity",
        /// No group of the caller's is kept.
        Groups => "groups",
        /// Its own table of mounts.
        MountNamespace => "mount_namespace",
        /// Sees and signals no process but its own.
        PidNamespace => "pid_namespace",
        /// Has no network interface but its own loopback.
        NetworkNamespace => "network_namespace",
        /// Its own System V and POSIX message queues, semaphores and shared memory.
        IpcNamespace => "ipc_namespace",
        /// Its own host name.
        UtsNamespace => "uts_namespace",
        /// Sees no cgroup above its own.
        CgroupNamespace => "cgroup_namespace",
        /// A new root with only what the plan binds, and not writable itself.
        Root => "root",
        /// Started inside the cgroup that was made for it.
        Cgroup => "cgroup",
        /// Landlock: rights to files and devices.
        LandlockFiles => "landlock_files",
        /// Landlock: TCP ports.
        LandlockTcp => "landlock_tcp",
        /// Landlock: no abstract socket and no signal crosses the border.
        LandlockScopes => "landlock_scopes",
        /// A filter before the system calls.
        Seccomp => "seccomp",
        /// No capability in any set.
        Capabilities => "capabilities",
        /// Nothing that it executes gains a right.
        NoNewPrivs => "no_new_privs",
        /// Resource limits of `setrlimit(2)`.
        Limits => "limits",
        /// An environment rebuilt from nothing, the init's included.
        Environment => "environment",
        /// No descriptor but the three standard ones.
        Descriptors => "descriptors",
        /// No controlling terminal but one of its own.
        Terminal => "terminal",
    }
}

/// How far a control holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum State {
    /// It was measured from inside and holds.
    Enforced,
    /// A part holds; the text says what is missing.
    Partial(String),
    /// It does not hold; the text says why.
    Unavailable(String),
}

impl State {
    /// `enforced`, `partial` or `unavailable`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Partial(_) => "partial",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// What is missing; empty when nothing is.
    pub fn why(&self) -> &str {
        match self {
            Self::Enforced => "",
            Self::Partial(why) | Self::Unavailable(why) => why,
        }
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was measured.
    pub control: Control,
    /// What was found.
    #[serde(flatten)]
    pub state: State,
}

/// The confinement report: every control, measured from inside after the plan was applied and before
/// the command ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One finding for each of [`Control::ALL`], in that order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How far `control` holds.
    pub fn state(&self, control: Control) -> Option<&State> {
        self.findings.iter().find(|finding| finding.control == control).map(|finding| &finding.state)
    }

    /// The first of `required` that is not enforced.
    pub fn unmet(&self, required: &[Control]) -> Option<&Finding> {
        self.findings.iter().find(|finding| required.contains(&finding.control) && finding.state != State::Enforced)
    }
}

/// A line per control.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            write!(f, "{:<18} {:<11}", finding.control.code(), finding.state.code())?;
            if !finding.state.why().is_empty() {
                write!(f, " {}", finding.state.why())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_finds_its_control_and_is_its_name_on_the_wire() {
        for control in Control::ALL {
            assert_eq!(Control::from_code(control.code()), Some(*control));
            assert_eq!(serde_json::to_string(control).expect("json"), format!("\"{}\"", control.code()));
        }
        assert_eq!(Control::from_code("Seccomp"), None);
    }

    #[test]
    fn a_required_control_that_holds_in_part_is_unmet() {
        let finding = |control, state| Finding { control, state };
        let report = Report {
            findings: vec![
                finding(Control::Seccomp, State::Enforced),
                finding(Control::Groups, State::Partial("kept".to_owned())),
            ],
        };
        assert_eq!(report.unmet(&[Control::Seccomp]), None);
        assert_eq!(
            report.unmet(&[Control::Seccomp, Control::Groups]).map(|found| found.control),
            Some(Control::Groups)
        );
    }
}
