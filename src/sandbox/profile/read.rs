//! A profile's TOML.

use std::path::{Path, PathBuf};

use crate::config::Faults;
use crate::config::located::{ByteSize, Document, Found, Section};

use super::{Profile, TcpRule};
use crate::sandbox::Control;
use crate::sandbox::plan::{Filter, Limit, ProcView, Resource};

/// What no profile can leave out: without one of these, what runs inside reaches the network or the host.
pub(in crate::sandbox) const BOUNDARY: [Control; 9] = [
    Control::Identity,
    Control::MountNamespace,
    Control::PidNamespace,
    Control::NetworkNamespace,
    Control::Root,
    Control::Seccomp,
    Control::Capabilities,
    Control::NoNewPrivs,
    Control::Descriptors,
];

/// Largest memory file system: more than a host of today has.
const MOST_MEMORY: u64 = 1 << 40;

pub(super) fn parse(file: &Path, text: &str) -> Result<Profile, Faults> {
    let document = Document::new(file, text);
    let profile = document.root(text).map(|root| take(&document, root));
    let faults = document.into_faults();
    match profile {
        Some(Some(profile)) if faults.is_empty() => Ok(profile),
        _ => Err(Faults(faults)),
    }
}

fn take(document: &Document, mut root: Section<'_, '_>) -> Option<Profile> {
    let description = root.require::<String>("description");
    let filter = one_of(document, root.require("filter"), &FILTERS);
    let proc = one_of(document, root.require("proc"), &PROC_VIEWS);
    let tcp = one_of(document, root.require("tcp"), &TCP_RULES);
    let read_only = paths(document, root.list("read_only").unwrap_or_default());
    let devices = paths(document, root.list("devices").unwrap_or_default());
    let memory = memory(document, &mut root);
    let limits = limits(&mut root);
    let controls = controls(document, &mut root);
    root.end();
    let (tmp, shared_memory, home, exec) = memory?;
    let (without, require) = controls?;
    Some(Profile {
        description: description?.value,
        filter: filter?,
        proc: proc?,
        read_only,
        devices,
        tmp,
        shared_memory,
        home,
        exec,
        tcp: tcp?,
        limits,
        without,
        require,
    })
}

const FILTERS: [(&str, Filter); 3] =
    [("strict", Filter::Strict), ("standard", Filter::Standard), ("compat", Filter::Compat)];
const PROC_VIEWS: [(&str, ProcView); 2] = [("processes", ProcView::Processes), ("masked", ProcView::Masked)];
const TCP_RULES: [(&str, TcpRule); 2] = [("gateway", TcpRule::Gateway), ("any", TcpRule::Any)];

fn one_of<T: Copy>(document: &Document, found: Option<Found<String>>, words: &[(&str, T)]) -> Option<T> {
    let found = found?;
    let known = words.iter().find(|(word, _)| *word == found.value).map(|(_, value)| *value);
    if known.is_none() {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        document.fault_with_hint(&found.place, "it is none of the known words", format!("one of: {}", all.join(", ")));
    }
    known
}

fn paths(document: &Document, found: Vec<Found<String>>) -> Vec<PathBuf> {
    let check = |found: Found<String>| {
        let path = PathBuf::from(&found.value);
        if is_plain(&path) {
            return Some(path);
        }
        document.fault_with_hint(
            &found.place,
            "the path is not absolute, or climbs",
            "write it from `/`, without `..`",
        );
        None
    };
    found.into_iter().filter_map(check).collect()
}

/// Absolute, below the root, and without `..`.
pub(super) fn is_plain(path: &Path) -> bool {
    let climbs = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
    path.is_absolute() && !climbs && path != Path::new("/")
}

fn memory(document: &Document, root: &mut Section<'_, '_>) -> Option<(u64, u64, u64, bool)> {
    let Some(mut section) = root.section("memory") else {
        root.fault("memory", "the table is missing");
        return None;
    };
    let mut size = |key| {
        let found = section.require::<ByteSize>(key)?;
        if found.value.0 > MOST_MEMORY {
            document.fault(&found.place, "it is more than 1 TiB");
        }
        Some(found.value.0)
    };
    let (tmp, shared, home) = (size("tmp"), size("shared"), size("home"));
    let exec = section.require::<bool>("exec");
    section.end();
    Some((tmp?, shared?, home?, exec?.value))
}

const LIMITS: [(&str, Resource); 12] = [
    ("address_space", Resource::AddressSpace),
    ("data", Resource::Data),
    ("core_file", Resource::CoreFile),
    ("file_size", Resource::FileSize),
    ("locked_memory", Resource::LockedMemory),
    ("message_queues", Resource::MessageQueues),
    ("niceness", Resource::Niceness),
    ("open_files", Resource::OpenFiles),
    ("processes", Resource::Processes),
    ("realtime_priority", Resource::RealtimePriority),
    ("signals", Resource::Signals),
    ("stack", Resource::Stack),
];

fn limits(root: &mut Section<'_, '_>) -> Vec<Limit> {
    let Some(mut section) = root.section("limits") else { return Vec::new() };
    let take = |(key, resource): (&'static str, Resource)| {
        let found = section.take::<ByteSize>(key)?;
        Some(Limit { resource, most: found.value.0 })
    };
    let limits = LIMITS.into_iter().filter_map(take).collect();
    section.end();
    limits
}

fn controls(document: &Document, root: &mut Section<'_, '_>) -> Option<(Vec<Control>, Vec<Control>)> {
    let Some(mut section) = root.section("controls") else {
        root.fault("controls", "the table is missing");
        return None;
    };
    let mut named = |key| {
        let list: Vec<Found<String>> = section.list(key).unwrap_or_default();
        list.into_iter().filter_map(|found| Some((control(document, &found)?, found))).collect::<Vec<_>>()
    };
    let (without, require) = (named("leave_out"), named("require"));
    section.end();
    for (control, found) in &without {
        if BOUNDARY.contains(control) {
            document.fault(&found.place, "it cannot be left out: the boundary is made of it");
        }
    }
    let plain = |list: Vec<(Control, Found<String>)>| list.into_iter().map(|(control, _)| control).collect();
    Some((plain(without), plain(require)))
}

fn control(document: &Document, found: &Found<String>) -> Option<Control> {
    let control = Control::from_code(&found.value);
    if control.is_none() {
        let all: Vec<&str> = Control::ALL.iter().map(|control| control.code()).collect();
        document.fault_with_hint(&found.place, "there is no such control", format!("one of: {}", all.join(", ")));
    }
    control
}
