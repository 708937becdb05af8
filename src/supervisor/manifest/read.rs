//! From the manifest's file to the manifest: each runtime by itself, then what they mean to each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::located::{Document, Found, Place, nearest};
use crate::config::{Faults, RuntimeForm, RuntimesFile};
use crate::domain::RuntimeId;

use super::super::names::{Condition, RestartRule};
use super::super::order::sorted;
use super::super::publish::Publish;
use super::read_runtime::{self, Read};
use super::{Defaults, Manifest};

/// Most runtimes of one host: five times what it is built to hold.
pub const MAX_RUNTIMES: usize = 1_024;

/// Reads what `file` means.
///
/// # Errors
/// Every fault of the file, those of its shape included: nothing of a faulty manifest is applied.
pub fn read(file: RuntimesFile, defaults: &Defaults) -> Result<Manifest, Faults> {
    let RuntimesFile { document, runtimes } = file;
    if let Some(form) = runtimes.get(MAX_RUNTIMES) {
        document.fault(&form.place, format!("more than {MAX_RUNTIMES} runtimes"));
    }
    let read: Vec<Read> = runtimes.iter().map(|form| read_runtime::read(&document, form, defaults)).collect();
    let ids = ids_are_unique(&document, &runtimes);
    addresses_are_free(&document, &read);
    dependencies_can_be_met(&document, &runtimes, &read, &ids);
    let faults = document.into_faults();
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    let runtimes = read.into_iter().filter_map(|read| read.spec).map(|spec| (spec.id.clone(), Arc::new(spec)));
    Ok(Manifest { runtimes: runtimes.collect() })
}

/// Every id of the file, also of runtimes that are faulty otherwise.
fn ids_are_unique(document: &Document, runtimes: &[RuntimeForm]) -> BTreeMap<RuntimeId, Place> {
    let mut ids: BTreeMap<RuntimeId, Place> = BTreeMap::new();
    for found in runtimes.iter().filter_map(|form| form.id.as_ref()) {
        let Ok(id) = RuntimeId::parse(&found.value) else { continue };
        match ids.get(&id) {
            Some(first) => document.fault(&found.place, format!("`{id}` is also in line {}", first.line)),
            None => drop(ids.insert(id, found.place.clone())),
        }
    }
    ids
}

fn addresses_are_free(document: &Document, runtimes: &[Read]) {
    type Taken<'r> = (&'r Found<Publish>, Option<&'r RuntimeId>);
    // By port: only equal ports can conflict.
    let mut taken: BTreeMap<u16, Vec<Taken<'_>>> = BTreeMap::new();
    for read in runtimes {
        for found in &read.publish {
            let same_port = taken.entry(found.value.host.port()).or_default();
            match same_port.iter().find(|(other, _)| other.value.conflicts(&found.value)) {
                Some((other, id)) => {
                    let (host, line) = (found.value.host, other.place.line);
                    let by = id.map(|id| format!(" by `{id}`")).unwrap_or_default();
                    document.fault(&found.place, format!("{host} is taken{by} in line {line}"));
                }
                None => same_port.push((found, read.id.as_ref())),
            }
        }
    }
}

fn dependencies_can_be_met(
    document: &Document,
    forms: &[RuntimeForm],
    read: &[Read],
    ids: &BTreeMap<RuntimeId, Place>,
) {
    let names: Vec<&str> = ids.keys().map(RuntimeId::as_str).collect();
    let by_id: BTreeMap<&RuntimeId, &Read> =
        read.iter().filter_map(|read| read.id.as_ref().map(|id| (id, read))).collect();
    for read in read {
        for (dependency, place) in &read.depends_on {
            let on = &dependency.on;
            if !ids.contains_key(on) {
                let hint = nearest(on.as_str(), &names).map_or_else(
                    || "there is no runtime of that id in this file".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                document.fault_with_hint(place, format!("unknown runtime `{on}`"), hint);
            }
            let never = by_id.get(on).is_some_and(|read| read.restart == RestartRule::Always);
            if dependency.condition == Condition::Completed && never {
                let hint = format!("wait for `{on}:ready`, or give it another restart policy");
                document.fault_with_hint(place, format!("`{on}` is always started again: it never completes"), hint);
            }
        }
    }
    let edges = |id: &RuntimeId| {
        let read = by_id.get(id);
        read.map(|read| read.depends_on.iter().map(|(dependency, _)| &dependency.on).collect()).unwrap_or_default()
    };
    if let Err(cycle) = sorted(by_id.keys().copied(), edges) {
        let first = cycle.first().copied();
        let place = forms
            .iter()
            .find(|form| form.id.as_ref().map(|found| found.value.as_str()) == first.map(RuntimeId::as_str))
            .map_or_else(|| Place { key: "runtimes".to_owned(), line: 1 }, |form| form.at("depends_on"));
        let ring: Vec<&str> = cycle.iter().copied().chain(first).map(RuntimeId::as_str).collect();
        // A ring through the whole file would be no message.
        let shown = if ring.len() > 12 { format!("{} → …", ring[..12].join(" → ")) } else { ring.join(" → ") };
        document.fault(&place, format!("they wait for each other: {shown}"));
    }
}
