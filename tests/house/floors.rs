//! A module imports only from floors below it, and modules on one floor do not import each other.

use std::path::Path;

use crate::files;
use crate::source::{ident, is_ident, line_of, production, words};

const FLOORS: [(&str, u8); 16] = [
    ("domain", 0),
    ("sys", 0),
    ("config", 0),
    ("policy", 1),
    ("ledger", 1),
    ("events", 1),
    ("store", 1),
    ("proxy", 2),
    ("sandbox", 2),
    ("gpu", 2),
    ("supervisor", 3),
    ("governance", 4),
    ("control", 5),
    ("ui", 5),
    ("daemon", 6),
    ("bin", 6),
];
/// The imports within a floor: raw forms become domain words, and the client shows what the API says.
const WITHIN: [(&str, &str); 2] = [("config", "domain"), ("ui", "control")];

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn may_import(from: &str, to: &str) -> bool {
    from == to
        || WITHIN.contains(&(from, to))
        || matches!((floor(from), floor(to)), (Some(from), Some(to)) if to < from)
        || (from == "bin" && to == "daemon")
}

/// The module of the first floor that a file belongs to: `src/proxy/tls/mod.rs` is of `proxy`.
fn module_of(path: &Path) -> Option<String> {
    let part = path.components().nth(1)?.as_os_str().to_str()?;
    Some(part.strip_suffix(".rs").unwrap_or(part).to_owned()).filter(|name| name != "lib")
}

/// How many `super::` lead from a file's own module to the root of the crate.
fn depth(path: &Path) -> usize {
    let parts = path.components().count() - 1;
    if path.ends_with("mod.rs") { parts - 1 } else { parts }
}

/// What a file imports from the crate's root: module and line.
fn imports(code: &str, depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let up = "super::".repeat(depth);
    let mut roots: Vec<(usize, usize)> = words(code, "crate::").chain(words(code, "arw::")).map(|at| (at, 0)).collect();
    roots.iter_mut().for_each(|(at, end)| *end = *at + code[*at..].find("::").expect("matched") + 2);
    let chains = words(code, &up).filter(|at| depth > 0 && !code[..*at].ends_with("::"));
    roots.extend(chains.map(|at| (at, at + up.len())));
    for (at, end) in roots {
        let line = line_of(code, at);
        let rest = code[end..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group).map(|head| (head.to_owned(), line))),
            None => found.push((ident(rest).to_owned(), line)),
        }
    }
    found
}

/// The first identifiers of a group's members: `a::{x, y}, b}` gives `a` and `b`.
fn heads(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 1;
    let mut fresh = true;
    group
        .char_indices()
        .map_while(move |(at, letter)| {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                _ if depth == 1 && fresh && is_ident(letter) => {
                    fresh = false;
                    return Some(Some(ident(&group[at..])));
                }
                _ => {}
            }
            (depth > 0).then_some(None)
        })
        .flatten()
}

fn faults(path: &Path, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else { return Vec::new() };
    let at = path.display();
    if floor(&module).is_none() {
        return vec![format!("{at}: `{module}` has no floor")];
    }
    imports(&production(text), depth(path))
        .into_iter()
        // The macros and types at the root itself have no floor.
        .filter(|(to, _)| floor(to).is_some() && !may_import(&module, to))
        .map(|(to, line)| format!("{at}:{line}: `{module}` imports `{to}`"))
        .collect()
}

#[test]
fn modules_import_only_from_floors_below() {
    let all: Vec<String> = files::sources().iter().flat_map(|path| faults(path, &files::read(path))).collect();
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn an_import_upwards_or_sideways_is_found() {
    let found = |path: &str, text: &str| faults(Path::new(path), text).len();
    assert_eq!(found("src/policy/mod.rs", "use crate::proxy::Gate;"), 1);
    assert_eq!(found("src/policy/mod.rs", "use crate::ledger::Record;"), 1);
    assert_eq!(found("src/domain/host.rs", "fn f() { crate::sys::splice(); }"), 1);
    assert_eq!(found("src/ledger/a/b.rs", "use crate::{domain::{Host, Id}, proxy, ui::X};"), 2);
    assert_eq!(found("src/control/mod.rs", "use super::ui::Page;"), 1);
    assert_eq!(found("src/control/wire.rs", "use super::super::ui::Page;"), 1);
    assert_eq!(found("src/proxy/mod.rs", "// use crate::daemon;\nuse crate::daemon;"), 1);
    assert_eq!(found("src/fresh/mod.rs", ""), 1);
    assert!(faults(Path::new("src/sys/x.rs"), "\n\nuse crate::config::A;")[0].contains("src/sys/x.rs:3"));
}

#[test]
fn an_import_downwards_is_allowed() {
    let found = |path: &str, text: &str| faults(Path::new(path), text);
    let text = "use crate::{config::A, domain::B, ledger, policy, sys};\nuse super::wire;\nuse crate::proxy::X;";
    assert_eq!(found("src/proxy/gate.rs", text), Vec::<String>::new());
    assert_eq!(found("src/config/server.rs", "use crate::domain::Host;"), Vec::<String>::new());
    assert_eq!(found("src/bin/arw-server.rs", "use arw::daemon; use arw::config::X;"), Vec::<String>::new());
    assert_eq!(found("src/policy/x.rs", "#[cfg(test)]\nmod tests { use crate::proxy::X; }"), Vec::<String>::new());
    assert_eq!(found("src/lib.rs", "pub mod daemon; use crate::daemon;"), Vec::<String>::new());
}
