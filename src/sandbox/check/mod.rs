//! The escape self-test: a [`Trap`] is set on the host, and this very program, inside a real sandbox, tries to
//! reach what lies in it.
//!
//! ```text
//! host: a listener, a UDP socket, an abstract socket, a file, an open descriptor, a variable, a process
//!   └─ sandbox: one attempt after another; each says held, escaped, or why it could not be tried
//! ```
//!
//! An attempt that finds its way blocked by the host itself (no vsock, no io_uring) says so: a lock on a door that
//! is not there proves nothing.

mod attempt;
mod inside;
mod trap;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

pub use attempt::{Attempt, Attempted, Outcome};
pub(super) use inside::run_inside;
pub use trap::Trap;

use super::profile::{Profile, Workload, WorkloadFault};
use super::{LaunchError, Launcher, Report, Streams, User};

/// How long the self-test may take: its attempts answer at once, or time out one by one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a self-test found.
#[derive(Debug)]
pub struct Checked {
    /// The confinement report of the sandbox that was tried.
    pub report: Report,
    /// Every attempt, in order.
    pub attempts: Vec<Attempted>,
}

impl Checked {
    /// Whether nothing escaped.
    pub fn held(&self) -> bool {
        self.attempts.len() == Attempt::ALL.len()
            && self.attempts.iter().all(|tried| !matches!(tried.outcome, Outcome::Escaped(_)))
    }
}

/// A line per attempt.
impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempts.iter().try_for_each(|tried| writeln!(f, "{tried}"))
    }
}

/// Why a self-test could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The trap could not be set, or the answers not be read.
    #[error("the self-test could not be prepared")]
    Trap(#[from] io::Error),
    /// The sandbox could not be made.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The plan could not be made.
    #[error(transparent)]
    Plan(#[from] WorkloadFault),
    /// The self-test ended early; what it had said is there.
    #[error("the self-test inside ended early, after: {0}")]
    Silent(String),
}

/// Runs every attempt inside a sandbox of `profile`. `program` is an executable that intercepts stages;
/// `/proc/self/exe` is this one. Blocks for as long as the attempts take.
///
/// # Errors
/// When there is nothing to judge. An escape is no error: see [`Checked::held`].
pub fn run(program: &Path, profile: &Profile, user: User) -> Result<Checked, CheckError> {
    let trap = Trap::set()?;
    // Started after the trap was set, so that it inherits the bait that a careless caller would leave open.
    let launcher = Launcher::start_from(program)?;
    let mut plan = profile.plan(&Workload::new(Vec::new(), user))?;
    trap.arm(&mut plan, program)?;
    let null = File::open("/dev/null")?;
    let mut out = File::from(
        nix::sys::memfd::memfd_create(c"check", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?,
    );
    let launched = launcher.launch(&plan, &Streams::new(null.as_fd(), out.as_fd(), null.as_fd()))?;
    let waited = launched.wait_until_gone(PATIENCE);
    if waited.is_err() {
        launched.kill(PATIENCE)?;
    }
    let mut said = String::new();
    out.rewind()?;
    out.read_to_string(&mut said)?;
    Ok(Checked { report: launched.report, attempts: attempt::parse(&said)? })
}
