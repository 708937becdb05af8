//! The daemon's own log: stderr, journald where it runs, and a file where the settings name a folder.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::LogConfig;

/// The resolver logs every answer that it throws away; a stranger must not be able to fill our log.
const QUIET: &str = "hickory_proto=error,hickory_resolver=error,hickory_net=error";

/// Sets up `tracing`. Under systemd (`JOURNAL_STREAM`, systemd.exec(5)) lines go to journald with their
/// fields, and not to stderr too.
pub(super) fn init(config: &LogConfig, stderr_is_journal: bool) -> anyhow::Result<()> {
    let filter = || {
        EnvFilter::try_new(format!("{QUIET},{}", config.filter))
            .with_context(|| format!("log filter `{}`", config.filter))
    };
    let journal = if config.journald && stderr_is_journal { tracing_journald::layer().ok() } else { None };
    let to_stderr = journal.is_none();
    let plain = (to_stderr && !config.json)
        .then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false))
        .map(|layer| layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())));
    let json = (to_stderr && config.json).then(|| tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr));
    let file = config.dir.as_deref().map(open).transpose()?;
    let file = file.map(|file| tracing_subscriber::fmt::layer().json().with_writer(Mutex::new(file)));
    tracing_subscriber::registry()
        .with(journal.with_filter(filter()?))
        .with(plain.with_filter(filter()?))
        .with(json.with_filter(filter()?))
        .with(file.with_filter(filter()?))
        .try_init()
        .context("the log is set up already")
}

/// The log file, for appending. Rotation is logrotate's work (`copytruncate`).
fn open(folder: &Path) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making the log folder {}", folder.display()))?;
    let path = folder.join("arw-server.log");
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
}
