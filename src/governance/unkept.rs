//! What narrows and is not in the state yet: it counts already, and the reserve has it until the state does.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{Reserve, StoreFault};

/// Acts of one kind, the oldest first, each with what the state is to be told besides.
#[derive(Debug)]
pub(super) struct Unkept<A, E> {
    reserve: Reserve<A>,
    acts: Vec<(A, E)>,
    /// How many of them the reserve tells of; `None` when it may tell of others.
    reserved: Option<usize>,
}

impl<A: Clone + Serialize + DeserializeOwned + Send + 'static, E: Clone> Unkept<A, E> {
    /// None yet. `stale` says that the reserve tells of some, or cannot be read: the next [`Unkept::settle`] writes it.
    pub(super) fn new(reserve: Reserve<A>, stale: bool) -> Self {
        Self { reserve, acts: Vec::new(), reserved: (!stale).then_some(0) }
    }

    /// Adds one. It is on the disk once a [`Unkept::settle`] leaves [`Unkept::is_kept`].
    pub(super) fn push(&mut self, act: A, besides: E) {
        self.acts.push((act, besides));
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<(A, E)> {
        self.acts.first().cloned()
    }

    /// The state has the oldest.
    pub(super) fn shift(&mut self) {
        if !self.acts.is_empty() {
            self.acts.remove(0);
        }
        if self.reserved != Some(0) {
            self.reserved = None;
        }
    }

    /// Whether each is on the disk, in the state or in the reserve.
    pub(super) fn is_kept(&self) -> bool {
        self.acts.is_empty() || self.reserved == Some(self.acts.len())
    }

    /// Has the reserve tell of what is left after an attempt to bring all into the state, which went as `brought` says.
    ///
    /// # Errors
    /// That of the attempt, or why the reserve tells of more or of less than it should.
    pub(super) async fn settle(&mut self, brought: Result<(), StoreFault>) -> Result<(), StoreFault> {
        if self.reserved == Some(self.acts.len()) {
            return brought;
        }
        if let Err(fault) = &brought {
            tracing::error!(%fault, code = fault.code(), file = %self.reserve.path().display(), "what narrows is not in the state yet");
        }
        let acts = self.acts.iter().map(|(act, _)| act.clone()).collect();
        let written = self.reserve.keep(acts).await;
        self.reserved = written.is_ok().then_some(self.acts.len());
        if let Err(fault) = &written {
            tracing::error!(%fault, file = %self.reserve.path().display(), "the reserve cannot be written");
        }
        brought.and(written)
    }
}
