//! Confinement profiles: which rules a runtime lives under, as operators read and write them.
//!
//! Four are embedded ([`ProfileName`]); `profiles/*.toml` is their text, each rule with its reason. A profile and
//! a [`Workload`] make a [`Plan`].

mod environment;
mod read;
mod system;
mod workload;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use crate::config::Faults;
use crate::domain::codes;

use super::Control;
use super::plan::{Filter, Landlock, Limit, Mount, ProcView};

#[cfg(doc)]
use super::Plan;

pub use environment::proxy_variables;
pub(super) use read::BOUNDARY;
pub(super) use workload::check as check_target;
pub use workload::{Workload, WorkloadFault, Workspace};

codes! {
    /// The embedded profiles, from the tightest on.
    ProfileName {
        /// For code that nobody has read.
        Strict => "strict",
        /// For known tools and agents. The default.
        Standard => "standard",
        /// For programs that the others break: a list of refused calls in place of one of allowed calls.
        Compat => "compat",
        /// Standard, with the nodes of a GPU.
        Gpu => "gpu",
    }
}

impl ProfileName {
    /// Its file, annotated.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Strict => include_str!("../../../profiles/strict.toml"),
            Self::Standard => include_str!("../../../profiles/standard.toml"),
            Self::Compat => include_str!("../../../profiles/compat.toml"),
            Self::Gpu => include_str!("../../../profiles/gpu.toml"),
        }
    }
}

impl FromStr for ProfileName {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        Self::from_code(text).ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

/// A name that no embedded profile has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no profile `{0}`; there are strict, standard, compat and gpu")]
pub struct UnknownProfile(String);

/// The rules of one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What it is for, in a sentence.
    pub description: String,
    /// Which system calls are let through.
    pub filter: Filter,
    /// How much of `/proc` is seen.
    pub proc: ProcView,
    /// Folders of the host that are bound read-only where they exist, besides the system's own.
    pub read_only: Vec<PathBuf>,
    /// Device nodes that are bound where they exist, besides the harmless ones.
    pub devices: Vec<PathBuf>,
    /// Most bytes in `/tmp`.
    pub tmp: u64,
    /// Most bytes in `/dev/shm`.
    pub shared_memory: u64,
    /// Most bytes in the home folder.
    pub home: u64,
    /// Whether programs in `/tmp` and the home folder can be executed.
    pub exec: bool,
    /// Which TCP ports Landlock leaves open.
    pub tcp: TcpRule,
    /// Limits by `setrlimit(2)`.
    pub limits: Vec<Limit>,
    /// Controls left out.
    pub without: Vec<Control>,
    /// Controls that must be enforced.
    pub require: Vec<Control>,
}

/// Which TCP ports Landlock leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpRule {
    /// Those of the gateway and those published; no other may be bound or connected to.
    Gateway,
    /// All: processes inside may talk to each other. The network namespace still has no way out.
    Any,
}

impl Profile {
    /// An embedded profile, read once.
    pub fn embedded(name: ProfileName) -> &'static Self {
        static READ: [OnceLock<Profile>; ProfileName::ALL.len()] = [const { OnceLock::new() }; ProfileName::ALL.len()];
        READ[name as usize].get_or_init(|| {
            let file = format!("profiles/{}.toml", name.code());
            Self::parse(Path::new(&file), name.text()).expect("an embedded profile is right, which a test holds")
        })
    }

    /// What every plan of this profile begins its mounts with: nothing of it depends on the command or its user.
    pub fn ground(&self) -> Vec<Mount> {
        system::ground(self)
    }

    /// What Landlock allows of the ground, and of no port yet.
    pub(in crate::sandbox) fn ground_rights(&self) -> Landlock {
        let ports = match self.tcp {
            TcpRule::Any => None,
            TcpRule::Gateway => Some(Vec::new()),
        };
        Landlock { files: system::ground_rights(self), connect: ports.clone(), bind: ports }
    }

    /// Reads `text` as the contents of `file`.
    ///
    /// # Errors
    /// Every fault of the file at once.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Faults> {
        read::parse(file, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::plan::Resource;

    #[test]
    fn every_embedded_profile_is_right_and_leaves_no_core_files() {
        for name in ProfileName::ALL.iter().copied() {
            let profile = Profile::parse(Path::new("x.toml"), name.text()).unwrap_or_else(|faults| panic!("{faults}"));
            let core = profile.limits.iter().find(|limit| limit.resource == Resource::CoreFile);
            assert_eq!(core.map(|limit| limit.most), Some(0), "{name:?}");
            assert_eq!(name.code().parse(), Ok(name));
        }
    }

    #[test]
    fn every_fault_of_a_profile_is_found_at_once() {
        let text = "filter = \"lax\"\nproc = \"all\"\n[memory]\ntmp = \"1 parsec\"\n[limits]\ncores = 1\n\
                    [controls]\nrequire = [\"seccomp\", \"magic\"]\n";
        let faults = Profile::parse(Path::new("own.toml"), text).expect_err("faults").to_string();
        for part in [
            "own.toml:1: filter: ",
            "own.toml:2: proc: ",
            "own.toml:4: memory.tmp: ",
            "own.toml:6: limits.cores: unknown key",
            "own.toml:8: controls.require[1]: ",
            "description: the key is missing",
        ] {
            assert!(faults.contains(part), "{part} in {faults}");
        }
    }

    /// A network namespace of its own is what the whole product stands on; so is its own root.
    #[test]
    fn no_profile_leaves_out_what_the_boundary_is_made_of() {
        for control in ["network_namespace", "seccomp", "capabilities", "no_new_privs"] {
            let text = ProfileName::Standard.text().replace("leave_out = []", &format!("leave_out = [\"{control}\"]"));
            assert!(text.contains(control));
            let faults = Profile::parse(Path::new("own.toml"), &text).expect_err("refused").to_string();
            assert!(faults.contains("cannot be left out"), "{faults}");
        }
    }
}
