//! What a reload changes.

use std::sync::Arc;

use crate::domain::RuntimeId;

use super::{Manifest, RuntimeSpec};

/// One change from an old manifest to a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is no longer declared: end it. What is saved of its life is kept under its id, so that leaving it out
    /// and putting it back ends no quarantine.
    Remove(RuntimeId),
    /// It has to be launched anew for this to be so, if it runs.
    Relaunch {
        /// As it is declared now.
        spec: Arc<RuntimeSpec>,
        /// The keys that changed, those that need no launch among them.
        keys: Vec<&'static str>,
    },
    /// It goes on as it runs and is looked after in another way.
    Adjust {
        /// As it is declared now.
        spec: Arc<RuntimeSpec>,
        /// The keys that changed.
        keys: Vec<&'static str>,
    },
    /// It is declared for the first time.
    Add(Arc<RuntimeSpec>),
}

/// What leads from `old` to `new`; what is equal in both is not named. Removals come first and additions last, so
/// that a published address is free before another runtime takes it.
pub fn diff(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let removed = old.runtimes.keys().filter(|id| !new.runtimes.contains_key(*id));
    let mut changes: Vec<Change> = removed.cloned().map(Change::Remove).collect();
    let (mut relaunched, mut adjusted, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for (id, spec) in &new.runtimes {
        let spec = Arc::clone(spec);
        match old.runtimes.get(id).map(|before| changed(before, &spec)) {
            None => added.push(Change::Add(spec)),
            Some((_, keys)) if keys.is_empty() => {}
            Some((true, keys)) => relaunched.push(Change::Relaunch { spec, keys }),
            Some((false, keys)) => adjusted.push(Change::Adjust { spec, keys }),
        }
    }
    changes.extend(relaunched);
    changes.extend(adjusted);
    changes.extend(added);
    changes
}

/// Whether a launch is needed, and the keys that changed.
fn changed(old: &RuntimeSpec, new: &RuntimeSpec) -> (bool, Vec<&'static str>) {
    // Taken apart in full, so that a new field is not forgotten here.
    let RuntimeSpec {
        id: _,
        automation,
        name,
        persona,
        profile,
        preset,
        justification,
        accelerator,
        auto_start,
        schedule,
        depends_on,
        tags,
        consent,
        publish,
        require,
        process,
        health,
        watchdog,
        restart,
        restart_max,
        restart_window,
        backoff,
        budget,
        limits,
        gpu,
    } = old;
    let same_restart = (restart, restart_max, restart_window, backoff)
        == (&new.restart, &new.restart_max, &new.restart_window, &new.backoff);
    let command = process.same_command(&new.process);
    // key, equal, whether a change of it needs a launch
    let keys = [
        ("automation", *automation == new.automation, false),
        ("name", *name == new.name, false),
        ("persona", *persona == new.persona, true),
        ("profile", *profile == new.profile, true),
        ("preset", *preset == new.preset, true),
        ("justification", *justification == new.justification, false),
        ("accelerator", *accelerator == new.accelerator, true),
        ("auto_start", *auto_start == new.auto_start, false),
        ("schedule", *schedule == new.schedule, false),
        ("depends_on", *depends_on == new.depends_on, false),
        ("tags", *tags == new.tags, false),
        // The launch is refused where a scope is missing: what runs must pass that again.
        ("consent", *consent == new.consent, true),
        ("publish", *publish == new.publish, true),
        ("require", *require == new.require, true),
        ("process", command, true),
        ("process.stop_grace", process.stop_grace == new.process.stop_grace, false),
        ("health", *health == new.health, false),
        // The runtime reads it from its environment.
        ("watchdog", *watchdog == new.watchdog, true),
        ("restart", same_restart, false),
        ("budget", *budget == new.budget, false),
        ("limits", *limits == new.limits, true),
        ("gpu", *gpu == new.gpu, true),
    ];
    let changed = keys.iter().filter(|(_, equal, _)| !equal);
    (changed.clone().any(|(_, _, launch)| *launch), changed.map(|(key, _, _)| *key).collect())
}
