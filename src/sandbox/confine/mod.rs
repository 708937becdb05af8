//! The daemon itself, confined: what it keeps for the rest of its life, and what is measured of that.
//!
//! ```text
//! start ─ launcher executed ─ Bounds ─ enter ─┬─ Landlock's paths opened
//!                                             ├─ bounding set, no_new_privs
//!                                             ├─ Landlock in force
//!                                             ├─ capabilities
//!                                             └─ seccomp ─ threads start ─ … Walls::measure, at any time
//! ```
//!
//! It happens once, in a process with one thread, so that every thread that starts later is born inside. The launcher
//! ([`super::Launcher`]) was executed before and stays outside: it alone makes namespaces.
//!
//! A wall that the kernel does not have is not there, and the report says so; whether that is enough is for the caller to
//! say. What is in force can be taken back by nobody, the process itself included.

mod files;
mod measure;

use std::collections::BTreeSet;
use std::path::PathBuf;

use nix::sys::prctl;

use crate::sys::capability::{Capabilities, keep_only, lock_secure_bits, narrow_bounding_set};
use crate::sys::clone::is_single_threaded;
use crate::sys::filter;

use super::fault::{At, Step};
use super::stage::stranger;
use super::{Control, Fault, Report, State, seccomp};

/// The walls that a process can put around itself, in the order of a report.
pub const WALLS: [Control; 5] =
    [Control::LandlockFiles, Control::LandlockScopes, Control::Seccomp, Control::Capabilities, Control::NoNewPrivs];

/// What a process needs for the rest of its life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Paths with all that is below them. One that is absent is left out.
    pub files: Vec<(PathBuf, Reach)>,
    /// Capabilities that are kept where they are held now. None is gained by being named.
    pub capabilities: BTreeSet<Capability>,
    /// Whether sockets with an abstract name may be connected to that others have made.
    pub abstract_sockets: bool,
}

/// What may be done below a path. Nothing can be executed anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Sockets there can be connected to (seen by Landlock from ABI 9 on).
    Connect,
    /// Files are read, folders listed, sockets connected to.
    Read,
    /// A socket is made and replaced; no file is written.
    Listen,
    /// A device node is read, written and steered.
    Device,
    /// Everything but devices.
    Write,
}

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident = $number:literal $code:literal,)*) => {
        /// A capability that a process may keep (`capabilities(7)`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Capability {
            $($(#[$doc])* $name,)*
        }

        impl Capability {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name that operators read.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// Whether this thread has it.
            pub fn is_held(self) -> bool {
                Capabilities::of_this_thread().is_ok_and(|sets| sets.effective & self.bit() != 0)
            }

            const fn bit(self) -> u64 {
                match self {
                    $(Self::$name => 1 << $number,)*
                }
            }
        }
    };
}

capabilities! {
    /// Writes what belongs to others.
    DacOverride = 1 "dac_override",
    /// Reads what belongs to others.
    DacReadSearch = 2 "dac_read_search",
    /// Signals processes of others.
    Kill = 5 "kill",
    /// Listens on ports below 1024.
    NetBindService = 10 "net_bind_service",
    /// Has more pipes than one user may have.
    SysResource = 24 "sys_resource",
}

/// A process that has entered its bounds.
#[derive(Debug)]
pub struct Walls {
    kept: u64,
    files: files::InForce,
    /// Steps that failed.
    faults: Vec<Fault>,
    /// Tried once, with a socket that was made outside for that.
    scopes: State,
}

/// Puts the walls up. A step that fails leaves its wall out, and [`Walls::measure`] tells; nothing is left half done.
///
/// To be called by a process with one thread: another one would stay outside.
pub fn enter(bounds: &Bounds) -> Walls {
    let mut walls = Walls {
        kept: bounds.capabilities.iter().fold(0, |all, capability| all | capability.bit()),
        files: files::InForce::Absent,
        faults: Vec::new(),
        scopes: State::Unavailable("it was not entered".to_owned()),
    };
    match is_single_threaded() {
        Ok(true) => {}
        Ok(false) => {
            walls.faults.push(Fault::said(Step::Verify, "other threads have started before: they would stay outside"));
            return walls;
        }
        Err(fault) => walls.faults.push(Fault::new(Step::Verify, "/proc/self/stat", &fault)),
    }
    // Everything that allocates or opens comes before the first wall stands.
    let program = seccomp::compile_own();
    let rules = files::prepare(bounds);
    let stranger = stranger();
    let (kept, faults) = (walls.kept, &mut walls.faults);
    let mut tried = |done: Result<(), Fault>| faults.extend(done.err());
    if may_narrow() {
        tried(narrow_bounding_set(kept).at(Step::BoundingSet));
        tried(lock_secure_bits().at(Step::BoundingSet));
    }
    tried(prctl::set_no_new_privs().at(Step::NoNewPrivs));
    match rules.and_then(files::restrict) {
        Ok(in_force) => walls.files = in_force,
        Err(fault) => tried(Err(fault)),
    }
    tried(keep_only(kept).at(Step::Capabilities));
    tried(filter::install(&program).at(Step::Seccomp));
    walls.scopes = match bounds.abstract_sockets {
        true => State::Unavailable("an abstract socket is needed".to_owned()),
        false => measure::scopes(walls.files, stranger),
    };
    walls
}

/// Whether the bounding set is ours to narrow (`CAP_SETPCAP`): an ordinary user's is not, and is of no use to it without
/// executing anything.
fn may_narrow() -> bool {
    const SETPCAP: u64 = 1 << 8;
    Capabilities::of_this_thread().is_ok_and(|sets| sets.effective & SETPCAP != 0)
}

impl Walls {
    /// What is in force now, of every thread: found by looking and trying.
    pub fn measure(&self) -> Report {
        measure::report(self)
    }

    /// The capabilities that this thread holds, of those that may be kept.
    pub fn held(&self) -> Vec<Capability> {
        Capability::ALL.iter().copied().filter(|capability| capability.is_held()).collect()
    }

    /// The steps that failed, each of which left a wall out.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}
