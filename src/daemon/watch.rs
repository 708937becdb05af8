//! Notices that persona files or the policy changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Quiet time after a change before the files are read: editors and deployments write several at once.
pub(super) const SETTLE: Duration = Duration::from_millis(250);

/// Watches the folder of the personas for as long as it is kept.
#[derive(Debug)]
pub(super) struct Watch {
    _watcher: Option<RecommendedWatcher>,
    changes: mpsc::Receiver<()>,
    // Kept, so that `changed` never ends when there is no watcher.
    _sender: mpsc::Sender<()>,
    /// When the folder will have been quiet for long enough, once something changed. It outlives a call
    /// of `changed` that is dropped: the change is not forgotten because a signal came first.
    quiet_at: Option<Instant>,
}

impl Watch {
    /// Watches `folder`, and the one file `policy`. What cannot be watched is said in the log; SIGHUP works all the same.
    pub(super) fn new(folder: &Path, policy: Option<&Path>) -> Self {
        // One place: a change that is not looked at yet stands for all that follow.
        let (sender, changes) = mpsc::channel(1);
        let tell = sender.clone();
        let (within, file) = (folder.to_owned(), policy.and_then(|path| path.file_name()).map(ToOwned::to_owned));
        // A file is watched through its folder: who writes it anew puts another in its place.
        let concerned = move |path: &PathBuf| path.starts_with(&within) || path.file_name() == file.as_deref();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let told = |event: &notify::Event| {
                !event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(&concerned))
            };
            if event.as_ref().is_ok_and(told) {
                // Full means that a change is waiting to be looked at already.
                let _ = tell.try_send(());
            }
        })
        .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher));
        let mut watcher = watcher;
        if let (Ok(watcher), Some(around)) = (&mut watcher, policy.and_then(Path::parent))
            && around != folder
            && let Err(fault) = watcher.watch(around, RecursiveMode::NonRecursive)
        {
            tracing::warn!(error = %fault, folder = %around.display(), "changes of the policy are not noticed; use SIGHUP");
        }
        if let Err(fault) = &watcher {
            tracing::warn!(error = %fault, folder = %folder.display(), "changes of persona files are not noticed; use SIGHUP");
        }
        Self { _watcher: watcher.ok(), changes, _sender: sender, quiet_at: None }
    }

    /// Ends after the next change, once the folder is quiet. May be dropped and called again.
    pub(super) async fn changed(&mut self) {
        loop {
            match self.quiet_at {
                None => {
                    self.changes.recv().await;
                }
                Some(at) => {
                    if timeout_at(at, self.changes.recv()).await.is_err() {
                        self.quiet_at = None;
                        return;
                    }
                }
            }
            self.quiet_at = Some(Instant::now() + SETTLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_not_forgotten_when_something_else_comes_first() {
        let folder = tempfile::TempDir::new().expect("folder");
        let mut watch = Watch::new(folder.path(), None);
        std::fs::write(folder.path().join("a.toml"), "id = \"a\"").expect("write");
        // Each try is shorter than the folder has to be quiet.
        let tries = 400;
        for _ in 0..tries {
            if tokio::time::timeout(SETTLE / 10, watch.changed()).await.is_ok() {
                return;
            }
        }
        panic!("{tries} tries, and the change was never told");
    }
}
