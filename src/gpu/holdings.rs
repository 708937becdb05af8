//! Who has which GPU: one holder per GPU, and one assignment per holder.

use std::collections::{BTreeMap, BTreeSet};

use super::adapter::{Adapter, GpuUuid};
use super::assign::{AssignFault, Assignment, Request, Unfit, assign};

/// The bookkeeping of assignments. `H` is what holds: the id of a runtime.
///
/// A GPU stays held until [`release`](Self::release), also while the memory of an ended runtime is not
/// given back yet, and also while it is lost.
#[derive(Debug, Clone)]
pub struct Holdings<H>(BTreeMap<GpuUuid, H>);

impl<H> Default for Holdings<H> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<H: Clone + PartialEq> Holdings<H> {
    /// Chooses GPUs that nobody holds, as [`assign`] does, and books them on `holder`.
    ///
    /// # Errors
    /// [`AssignFault`]; then nothing is booked.
    pub fn assign(&mut self, adapters: &[Adapter], request: &Request, holder: &H) -> Result<Assignment, AssignFault> {
        if self.0.values().any(|other| other == holder) {
            return Err(AssignFault::HoldsAlready);
        }
        let held: BTreeSet<GpuUuid> = self.0.keys().cloned().collect();
        let assignment = assign(adapters, &held, request)?;
        self.book(&assignment, holder);
        Ok(assignment)
    }

    /// Books GPUs that a runtime has had since before the daemon restarted. Their health and free memory
    /// do not matter: it runs on them already.
    ///
    /// # Errors
    /// [`AssignFault::Unknown`] for a GPU that is no longer here, [`AssignFault::Unfit`] with
    /// [`Unfit::Held`] for one that another runtime has, [`AssignFault::TooFew`] without any UUID; then
    /// nothing is booked.
    pub fn adopt(&mut self, adapters: &[Adapter], uuids: &[GpuUuid], holder: &H) -> Result<Assignment, AssignFault> {
        if self.0.values().any(|other| other == holder) {
            return Err(AssignFault::HoldsAlready);
        }
        let mut adopted: Vec<&Adapter> = Vec::new();
        for uuid in uuids {
            let found = adapters.iter().find(|adapter| adapter.uuid == *uuid);
            let adapter = found.ok_or_else(|| AssignFault::Unknown(uuid.clone()))?;
            if self.0.contains_key(uuid) {
                return Err(AssignFault::Unfit { uuid: uuid.clone(), why: Unfit::Held });
            }
            if !adopted.iter().any(|known| known.uuid == *uuid) {
                adopted.push(adapter);
            }
        }
        if adopted.is_empty() {
            return Err(AssignFault::TooFew { wanted: 1, fit: 0, unfit: Vec::new() });
        }
        let assignment = Assignment::of(adopted);
        self.book(&assignment, holder);
        Ok(assignment)
    }

    /// Takes back what `holder` has; gives nothing when it has nothing.
    pub fn release(&mut self, holder: &H) -> Vec<GpuUuid> {
        let given: Vec<GpuUuid> = self.of(holder).cloned().collect();
        self.0.retain(|_, other| other != holder);
        given
    }

    /// Who has `gpu`.
    pub fn holder(&self, gpu: &GpuUuid) -> Option<&H> {
        self.0.get(gpu)
    }

    /// Everything that anybody has, in order of name.
    pub fn all(&self) -> impl Iterator<Item = &GpuUuid> {
        self.0.keys()
    }

    /// What `holder` has, in order of name.
    pub fn of(&self, holder: &H) -> impl Iterator<Item = &GpuUuid> {
        self.0.iter().filter(move |(_, other)| *other == holder).map(|(uuid, _)| uuid)
    }

    fn book(&mut self, assignment: &Assignment, holder: &H) {
        self.0.extend(assignment.gpus().iter().map(|gpu| (gpu.uuid.clone(), holder.clone())));
    }
}
