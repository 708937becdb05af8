//! Which runtimes start now: dependencies and how far they have come.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::RuntimeId;

use super::manifest::{Dependency, Manifest};
use super::names::Condition;

/// How far a runtime has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Never started, or ended by an operator.
    Idle,
    /// On its way: being launched, being ended, or waiting for a restart.
    Coming,
    /// Its process runs.
    Started,
    /// It is ready.
    Ready,
    /// It ended with exit code 0.
    Completed,
    /// It ended otherwise, was given up or cannot be launched.
    Failed,
}

/// What to do about the runtimes that are wanted. Each wanted runtime that is not under way is in one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Start these now.
    pub start: BTreeSet<RuntimeId>,
    /// These wait for those.
    pub wait: BTreeMap<RuntimeId, Vec<Dependency>>,
    /// These cannot start because of those, until somebody acts.
    pub blocked: BTreeMap<RuntimeId, Vec<Dependency>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    Yes,
    NotYet,
    Never,
}

/// What to start of `wanted` and of all that these depend on, given how far each has come. Ids that the manifest
/// does not know are left out. Call it again whenever a runtime came further.
pub fn plan(manifest: &Manifest, wanted: &BTreeSet<RuntimeId>, progress: impl Fn(&RuntimeId) -> Progress) -> Plan {
    let mut plan = Plan::default();
    let mut ends: BTreeMap<&RuntimeId, bool> = BTreeMap::new();
    let wanted = closure(manifest, wanted);
    // Dependencies come first in this order, so that what blocks one blocks those that wait for it.
    for id in start_order(manifest).into_iter().filter(|id| wanted.contains(*id)) {
        let Some(spec) = manifest.runtime(id) else { continue };
        let own = progress(id);
        let startable = matches!(own, Progress::Idle) || (matches!(own, Progress::Completed | Progress::Failed));
        let mut unmet: Vec<(Dependency, Met)> = Vec::new();
        for dependency in &spec.depends_on {
            let reached = progress(&dependency.on);
            let met = match judge(dependency.condition, reached) {
                // What is blocked itself will not come.
                Met::NotYet if ends.get(&dependency.on) == Some(&true) => Met::Never,
                met => met,
            };
            if met != Met::Yes {
                unmet.push((dependency.clone(), met));
            }
        }
        let blocked = unmet.iter().any(|(_, met)| *met == Met::Never);
        ends.insert(id, blocked && startable);
        // What ended is started by whoever asks for it, not because it is looked at.
        if own != Progress::Idle {
            continue;
        }
        if unmet.is_empty() {
            plan.start.insert(id.clone());
        } else if blocked {
            let never = unmet.into_iter().filter(|(_, met)| *met == Met::Never);
            plan.blocked.insert(id.clone(), never.map(|(dependency, _)| dependency).collect());
        } else {
            plan.wait.insert(id.clone(), unmet.into_iter().map(|(dependency, _)| dependency).collect());
        }
    }
    plan
}

fn judge(condition: Condition, reached: Progress) -> Met {
    use Condition as C;
    use Progress as P;
    match (condition, reached) {
        (C::Started, P::Started | P::Ready | P::Completed) | (C::Ready, P::Ready) | (C::Completed, P::Completed) => {
            Met::Yes
        }
        // It came and went: starting it over and over would not keep it.
        (C::Ready, P::Completed) | (_, P::Failed) => Met::Never,
        (_, P::Idle | P::Coming) | (C::Ready | C::Completed, P::Started) | (C::Completed, P::Ready) => Met::NotYet,
    }
}

/// `wanted` and all that it depends on, however far.
fn closure(manifest: &Manifest, wanted: &BTreeSet<RuntimeId>) -> BTreeSet<RuntimeId> {
    let mut all = BTreeSet::new();
    let mut open: Vec<RuntimeId> = wanted.iter().cloned().collect();
    while let Some(id) = open.pop() {
        let Some(spec) = manifest.runtime(&id) else { continue };
        if all.insert(id) {
            open.extend(spec.depends_on.iter().map(|dependency| dependency.on.clone()));
        }
    }
    all
}

/// Every runtime, each after all that it depends on. The reverse is the order to stop in.
pub fn start_order(manifest: &Manifest) -> Vec<&RuntimeId> {
    let edges = |id: &RuntimeId| -> Vec<&RuntimeId> {
        let spec = manifest.runtime(id);
        spec.map(|spec| spec.depends_on.iter().map(|dependency| &dependency.on).collect()).unwrap_or_default()
    };
    // A manifest has no cycle: it was refused.
    sorted(manifest.runtimes().map(|spec| &spec.id), edges).unwrap_or_default()
}

/// The nodes, each after those that `edges` gives for it.
///
/// # Errors
/// The nodes of one cycle, in its order.
pub(super) fn sorted<'n, N: Ord>(
    nodes: impl Iterator<Item = &'n N>,
    edges: impl Fn(&N) -> Vec<&'n N>,
) -> Result<Vec<&'n N>, Vec<&'n N>> {
    let mut done: BTreeSet<&N> = BTreeSet::new();
    let mut order = Vec::new();
    for root in nodes {
        // A stack of our own: a chain as long as the manifest must not end the process.
        let mut path: Vec<(&N, Vec<&N>)> = Vec::new();
        let mut on_path: BTreeSet<&N> = BTreeSet::new();
        let mut next = Some(root);
        loop {
            if let Some(node) = next.take() {
                if on_path.contains(node) {
                    let cycle = path.iter().map(|(node, _)| *node).skip_while(|on| *on != node);
                    return Err(cycle.collect());
                }
                if !done.contains(node) {
                    on_path.insert(node);
                    path.push((node, edges(node)));
                }
            }
            let Some((node, rest)) = path.last_mut() else { break };
            let node = *node;
            next = rest.pop();
            if next.is_none() {
                path.pop();
                on_path.remove(node);
                done.insert(node);
                order.push(node);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::manifest::tests::manifest_of;

    fn id(text: &str) -> RuntimeId {
        RuntimeId::parse(text).expect(text)
    }

    fn ids(texts: &[&str]) -> BTreeSet<RuntimeId> {
        texts.iter().map(|text| id(text)).collect()
    }

    fn house() -> Manifest {
        manifest_of(&[
            ("web", "depends_on = [\"db\", \"migrate:completed\"]"),
            ("migrate", "depends_on = [\"db:started\"]"),
            ("db", ""),
            ("alone", ""),
        ])
    }

    fn plan_with(progress: &[(&str, Progress)]) -> Plan {
        plan(&house(), &ids(&["web"]), |id| {
            progress.iter().find(|(name, _)| *name == id.as_str()).map_or(Progress::Idle, |(_, progress)| *progress)
        })
    }

    #[test]
    fn what_is_wanted_pulls_in_what_it_depends_on_and_nothing_else() {
        let plan = plan_with(&[]);
        assert_eq!(plan.start, ids(&["db"]));
        assert_eq!(plan.wait.keys().cloned().collect::<BTreeSet<_>>(), ids(&["migrate", "web"]));
        assert!(plan.blocked.is_empty());
    }

    #[test]
    fn each_condition_is_met_by_its_own_progress() {
        use Progress::{Coming, Completed, Idle, Ready, Started};
        for (db, migrate, start) in [
            (Coming, Idle, &[][..]),
            (Started, Idle, &["migrate"]),
            (Ready, Idle, &["migrate"]),
            (Ready, Ready, &[]),
            (Started, Completed, &[]),
            (Ready, Completed, &["web"]),
        ] {
            let plan = plan_with(&[("db", db), ("migrate", migrate)]);
            assert_eq!(plan.start, ids(start), "db {db:?}, migrate {migrate:?}");
        }
    }

    #[test]
    fn a_failed_dependency_blocks_all_that_wait_for_it() {
        let plan = plan_with(&[("db", Progress::Failed)]);
        assert!(plan.start.is_empty() && plan.wait.is_empty());
        assert_eq!(plan.blocked.keys().cloned().collect::<BTreeSet<_>>(), ids(&["migrate", "web"]));
        let plan = plan_with(&[("db", Progress::Ready), ("migrate", Progress::Failed)]);
        assert_eq!(plan.blocked[&id("web")].len(), 1);
    }

    #[test]
    fn one_that_came_and_went_is_not_started_over_and_over() {
        let plan = plan_with(&[("db", Progress::Completed), ("migrate", Progress::Completed)]);
        assert!(plan.start.is_empty());
        assert_eq!(plan.blocked.keys().cloned().collect::<BTreeSet<_>>(), ids(&["web"]));
    }

    #[test]
    fn dependencies_start_first() {
        let house = house();
        let order: Vec<&str> = start_order(&house).into_iter().map(RuntimeId::as_str).collect();
        let place = |name: &str| order.iter().position(|id| *id == name).expect(name);
        assert_eq!(order.len(), 4);
        assert!(place("db") < place("migrate") && place("migrate") < place("web"));
    }

    #[test]
    fn a_cycle_is_named_and_a_long_chain_is_no_trouble() {
        let nodes: Vec<usize> = (0..100_000).collect();
        let chain = |node: &usize| nodes.get(node + 1).into_iter().collect();
        assert_eq!(sorted(nodes.iter(), chain).map(|order| *order[0]), Ok(99_999));
        let ring = |node: &usize| vec![&nodes[if *node == 5 { 3 } else { *node + 1 }]];
        let mut cycle = sorted(nodes.iter(), ring).expect_err("a cycle");
        cycle.sort();
        assert_eq!(cycle, [&3, &4, &5]);
    }
}
