//! Who is wanted and why, and when the clock wants somebody. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{RuntimeId, Timestamp};

use super::super::life::Origin;
use super::super::manifest::{Dependency, Manifest, RuntimeSpec};
use super::super::order::{Progress, plan};
use super::super::schedule::Schedule;

/// Those that are to be started, each until it was.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    by: BTreeMap<RuntimeId, Origin>,
    clock: BTreeMap<RuntimeId, (Schedule, Option<Timestamp>)>,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) start: Vec<(RuntimeId, Origin)>,
    pub(super) waiting: Vec<(RuntimeId, Vec<String>)>,
}

impl Wanted {
    pub(super) fn want(&mut self, id: &RuntimeId, origin: Origin) {
        self.by.insert(id.clone(), origin);
    }

    pub(super) fn forget(&mut self, id: &RuntimeId) {
        self.by.remove(id);
    }

    pub(super) fn clear(&mut self) {
        self.by.clear();
    }

    /// Follows the schedule that is declared, counted from now.
    pub(super) fn declare(&mut self, spec: &Arc<RuntimeSpec>, now: &Timestamp) {
        match &spec.schedule {
            Some(schedule) => {
                let same = self.clock.get(&spec.id).is_some_and(|(known, _)| known == schedule);
                if !same {
                    let next = schedule.next_after(*now);
                    self.clock.insert(spec.id.clone(), (schedule.clone(), next));
                }
            }
            None => self.undeclare(&spec.id),
        }
    }

    pub(super) fn undeclare(&mut self, id: &RuntimeId) {
        self.clock.remove(id);
    }

    /// How long until the next time of any schedule.
    pub(super) fn next_due(&self, now: &Timestamp) -> Option<Duration> {
        self.clock.values().filter_map(|(_, next)| next.map(|next| next.since(*now))).min()
    }

    /// When the clock starts each.
    pub(super) fn next_starts(&self) -> Vec<(RuntimeId, Timestamp)> {
        self.clock.iter().filter_map(|(id, (_, next))| Some((id.clone(), (*next)?))).collect()
    }

    /// Those whose time has come; each once, however late it is looked.
    pub(super) fn fire(&mut self, now: &Timestamp) -> Vec<RuntimeId> {
        let mut fired = Vec::new();
        for (id, (schedule, next)) in &mut self.clock {
            if next.is_some_and(|next| next <= *now) {
                fired.push(id.clone());
                *next = schedule.next_after(*now);
            }
        }
        fired
    }

    /// Who starts now and who waits, given how far each has come. Who starts is wanted no longer.
    pub(super) fn due(&mut self, manifest: &Manifest, progress: impl Fn(&RuntimeId) -> Progress) -> Due {
        let wanted: BTreeSet<RuntimeId> = self.by.keys().cloned().collect();
        let plan = plan(manifest, &wanted, &progress);
        // One that ended before is started anew by whoever asks for it: the plan itself leaves it alone.
        let again = wanted.iter().filter(|id| {
            matches!(progress(id), Progress::Completed | Progress::Failed)
                && !self.waits(manifest, id, &progress)
                && self.by.get(*id).is_some_and(|origin| *origin != Origin::Boot)
        });
        let mut due = Due::default();
        let starting: BTreeSet<RuntimeId> = plan.start.iter().chain(again).cloned().collect();
        for id in starting {
            let origin = self.by.remove(&id).unwrap_or(Origin::Dependent);
            due.start.push((id, origin));
        }
        for (id, on) in plan.wait.into_iter().chain(plan.blocked) {
            due.waiting.push((id, on.iter().map(ToString::to_string).collect()));
        }
        // Who is up already is not wanted any more.
        self.by.retain(|id, _| !matches!(progress(id), Progress::Coming | Progress::Started | Progress::Ready));
        due
    }

    /// Whether it has to wait for others.
    pub(super) fn waits(&self, manifest: &Manifest, id: &RuntimeId, progress: impl Fn(&RuntimeId) -> Progress) -> bool {
        let alone = BTreeSet::from([id.clone()]);
        // As if it had never run: whether it may start depends on the others only.
        let plan = plan(manifest, &alone, |other| if other == id { Progress::Idle } else { progress(other) });
        !plan.start.contains(id)
    }

    /// What keeps it from starting until somebody acts.
    pub(super) fn blocked(
        &self,
        manifest: &Manifest,
        id: &RuntimeId,
        progress: impl Fn(&RuntimeId) -> Progress,
    ) -> Vec<Dependency> {
        let alone = BTreeSet::from([id.clone()]);
        let mut plan = plan(manifest, &alone, |other| if other == id { Progress::Idle } else { progress(other) });
        plan.blocked.remove(id).unwrap_or_default()
    }
}
