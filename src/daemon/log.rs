//! The daemon's own log: stderr, and journald where it runs.

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::LogConfig;

/// Sets up `tracing`. Under systemd (`JOURNAL_STREAM`, systemd.exec(5)) lines go to journald with their
/// fields, and not to stderr too.
pub(super) fn init(config: &LogConfig, stderr_is_journal: bool) -> anyhow::Result<()> {
    let filter = || EnvFilter::try_new(&config.filter).with_context(|| format!("log filter `{}`", config.filter));
    let journal = if config.journald && stderr_is_journal { tracing_journald::layer().ok() } else { None };
    let to_stderr = journal.is_none();
    let plain = (to_stderr && !config.json)
        .then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false))
        .map(|layer| layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())));
    let json = (to_stderr && config.json).then(|| tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr));
    tracing_subscriber::registry()
        .with(journal.with_filter(filter()?))
        .with(plain.with_filter(filter()?))
        .with(json.with_filter(filter()?))
        .try_init()
        .context("the log is set up already")
}
