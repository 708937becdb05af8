//! Notices that persona files changed.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Quiet time after a change before the files are read: editors and deployments write several at once.
pub(super) const SETTLE: Duration = Duration::from_millis(250);

/// Watches the folder of the personas for as long as it is kept.
#[derive(Debug)]
pub(super) struct Watch {
    _watcher: Option<RecommendedWatcher>,
    changes: mpsc::Receiver<()>,
    // Kept, so that `changed` never ends when there is no watcher.
    _sender: mpsc::Sender<()>,
}

impl Watch {
    /// Watches `folder`. A folder that cannot be watched is said in the log; SIGHUP works all the same.
    pub(super) fn new(folder: &Path) -> Self {
        // One place: a change that is not looked at yet stands for all that follow.
        let (sender, changes) = mpsc::channel(1);
        let tell = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // Full means that a change is waiting to be looked at already.
                let _ = tell.try_send(());
            }
        })
        .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher));
        if let Err(fault) = &watcher {
            tracing::warn!(error = %fault, folder = %folder.display(), "changes of persona files are not noticed; use SIGHUP");
        }
        Self { _watcher: watcher.ok(), changes, _sender: sender }
    }

    /// Ends after the next change, once the folder is quiet.
    pub(super) async fn changed(&mut self) {
        self.changes.recv().await;
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.changes.recv()).await {}
    }
}
