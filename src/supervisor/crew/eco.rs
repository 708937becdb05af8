//! Eco gives way: under pressure or heat of the host the CPU quota of runtimes whose preset adapts is tightened, and
//! given back when the host is calm.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::domain::RuntimeId;
use crate::events::EventKind;
use crate::sandbox::cgroup::Outcome;
use crate::sandbox::preset::{self, Preset};
use crate::sandbox::pressure::{Cause, Sources, State, step};

use super::Directory;

/// Between two looks at the host. The averages that it reads are over ten seconds.
const LOOK: Duration = Duration::from_secs(3);

/// Watches for as long as there is a directory.
pub(super) fn watch(directory: &Arc<Directory>) {
    let directory = Arc::downgrade(directory);
    tokio::spawn(async move {
        let mut host = (Sources::default(), BTreeMap::new());
        loop {
            tokio::time::sleep(LOOK).await;
            let directory = directory.clone();
            let looked = tokio::task::spawn_blocking(move || look(&directory, host.0, host.1));
            match looked.await {
                Ok(Some(next)) => host = next,
                _ => return,
            }
        }
    });
}

type States = BTreeMap<RuntimeId, State>;

fn look(directory: &Weak<Directory>, mut sources: Sources, mut states: States) -> Option<(Sources, States)> {
    let directory = directory.upgrade()?;
    let living: Vec<_> = directory.slots().into_iter().filter_map(|slot| Some((slot.leaf()?, slot))).collect();
    if living.is_empty() {
        states.clear();
        return Some((sources, states));
    }
    let reading = sources.read();
    for (leaf, slot) in living {
        let view = slot.view();
        let preset = Preset::embedded(view.preset);
        let ceiling = preset::resolve(preset, &directory.shared.host).cpu_quota;
        let Some(ceiling) = ceiling.filter(|_| preset.adapts) else { continue };
        let state = states.entry(view.id.clone()).or_default();
        let (next, adjustment) = step(*state, &reading, ceiling);
        *state = next;
        let Some(adjustment) = adjustment else { continue };
        let outcome = leaf.set_cpu_quota(adjustment.cpu_quota);
        let why = adjustment.reason.to_string();
        tracing::info!(runtime = %view.id, quota = %adjustment.cpu_quota, %why, ?outcome, "eco gives way");
        let calm = adjustment.reason.cause == Cause::Calm && next.level() == 0;
        slot.set_throttled((!calm && outcome == Outcome::Enforced).then(|| why.clone()));
        let data = serde_json::json!({"runtime": view.id, "reason": "eco", "cpu_quota_millis": adjustment.cpu_quota.millis(), "why": why});
        directory.shared.events.publish(EventKind::RuntimeHealth, Some(view.id.as_str()), data);
    }
    Some((sources, states))
}
