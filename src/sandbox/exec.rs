//! One more command inside of a running sandbox.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::plan::Terminal;
use super::wire::Exit;
use super::{Channel, Fault, Text};

/// Most commands that run at once besides the main one: a probe, and a handful of operators.
pub const MAX_EXECUTIONS: usize = 16;

/// How long it may take until a command was executed: its program may lie on a slow disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A command for a sandbox that runs already. It is as confined as the main one: the same namespaces, ids, limits and
/// Landlock rules, the same filter, no capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The command and its arguments; without a slash it is looked up in `PATH`. At most about 60 KiB, with `env`.
    pub argv: Vec<Text>,
    /// Variables besides those of the main command's plan, or in their place.
    pub env: Vec<(Text, Text)>,
    /// Where it starts; `None` is where the main command did.
    pub workdir: Option<PathBuf>,
    /// Whether its standard input is a terminal of its own.
    pub terminal: Terminal,
}

impl Exec {
    /// `argv`, with the plan's environment and folder and no terminal.
    pub const fn new(argv: Vec<Text>) -> Self {
        Self { argv, env: Vec::new(), workdir: None, terminal: Terminal::None }
    }
}

/// Why it was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// A step failed inside.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// The init could not be asked (`BrokenPipe`), or did not answer in time (`TimedOut`): a frozen one does not.
    #[error("the sandbox did not answer")]
    Io(#[from] io::Error),
}

/// A command that runs inside. Dropped, it is killed with all of its session; what has left that session belongs to the
/// runtime.
#[derive(Debug)]
pub struct Executing {
    pub(super) channel: Channel,
    pub(super) ask: u64,
    pub(super) ended: watch::Receiver<Option<Exit>>,
}

impl Executing {
    /// Waits for its end.
    ///
    /// # Errors
    /// `BrokenPipe` when the sandbox ended first, or got another owner.
    pub async fn ended(&self) -> io::Result<Exit> {
        let mut ended = self.ended.clone();
        let exit = ended.wait_for(Option::is_some).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        exit.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Kills it and its session; [`Executing::ended`] then tells of it.
    ///
    /// # Errors
    /// The init is gone, or takes no orders.
    pub async fn kill(&self) -> io::Result<()> {
        self.channel.kill_execution(self.ask).await
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        let has_ended = self.ended.borrow().is_some();
        self.channel.forget_execution(self.ask, has_ended);
    }
}
