//! The thread that has the only connection, and the handle to it.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::sys::schedule;

use super::alerts::Alerts;
use super::automations::Automations;
use super::fault::StoreFault;
use super::leases::Leases;
use super::open::open;
use super::outbox::Outbox;
use super::personas::Personas;
use super::recipes::Recipes;

/// Changes that may wait. 256: operators make a few a minute; more than this means that the disk hangs.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The state. Cheap to clone; when the last clone goes, what waits is done, and the file is closed.
#[derive(Debug, Clone)]
pub struct Store(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the state of `folder`; makes it if there is none. Blocks.
    ///
    /// # Errors
    /// See [`StoreFault`].
    pub fn open(folder: &Path) -> Result<Self, StoreFault> {
        Self::own(open(folder)?, folder)
    }

    pub(super) fn own(mut connection: Connection, folder: &Path) -> Result<Self, StoreFault> {
        let (jobs, mut inbox) = mpsc::channel::<Job>(QUEUE);
        let work = move || {
            // It syncs; whoever waits for that waits for the disk, and nobody else is to be interrupted for it.
            let _ = schedule::set_policy(schedule::Policy::Batch);
            while let Some(job) = inbox.blocking_recv() {
                job(&mut connection);
            }
            if let Err((_, fault)) = connection.close() {
                tracing::warn!(%fault, "the state was not closed cleanly; the next start repairs it");
            }
        };
        let thread = std::thread::Builder::new()
            .name("arw-store".to_owned())
            .spawn(work)
            .map_err(|source| StoreFault::io("start the thread of", folder, source))?;
        Ok(Self(Arc::new(Owner { jobs: Some(jobs), thread: Some(thread) })))
    }

    /// The leases.
    pub const fn leases(&self) -> Leases<'_> {
        Leases(self)
    }

    /// The alerts.
    pub const fn alerts(&self) -> Alerts<'_> {
        Alerts(self)
    }

    /// Which automations are disabled, what ran, what was reported.
    pub const fn automations(&self) -> Automations<'_> {
        Automations(self)
    }

    /// Personas beyond their files.
    pub const fn personas(&self) -> Personas<'_> {
        Personas(self)
    }

    /// Recipes at work.
    pub const fn recipes(&self) -> Recipes<'_> {
        Recipes(self)
    }

    /// Audit entries that are not in their log yet.
    pub const fn outbox(&self) -> Outbox<'_> {
        Outbox(self)
    }

    /// Does `work` on the owner's thread. What it committed is on the disk when this returns.
    ///
    /// # Errors
    /// The fault of `work`; `Busy` when too much waits, `Closed` when the thread is gone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreFault> {
        let (answer, done) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // The asker may have gone; what was done stays done.
            let _ = answer.send(work(connection));
        });
        let jobs = self.0.jobs.as_ref().ok_or(StoreFault::Closed)?;
        jobs.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => StoreFault::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreFault::Closed,
        })?;
        Ok(done.await.map_err(|_| StoreFault::Closed)??)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was said when it happened.
            let _ = thread.join();
        }
    }
}
