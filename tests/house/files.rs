//! The tree: where it is, what lies at its top, and its source files.

use std::fs;
use std::path::{Path, PathBuf};

/// Everything that may lie at the top of the package.
const TOP: [&str; 18] = [
    ".cargo",
    ".ci",
    ".git",
    ".github",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "configs",
    "docs",
    "justfile",
    "profiles",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "src",
    "systemd",
    "tests",
];

/// The root of the package.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `dir` whose name ends with `suffix`, as paths relative to the root, in order.
pub(crate) fn below(dir: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path.strip_prefix(root()).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// A file's text, by its path relative to the root.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

/// The source files that go into the binaries: a file of tests only is not among them.
pub(crate) fn sources() -> Vec<PathBuf> {
    let is_test =
        |path: &Path| path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
    below("src", ".rs").into_iter().filter(|path| !is_test(path)).collect()
}

/// Names that may not lie at the top; those that git ignores are not looked at.
fn strangers<'a>(names: impl IntoIterator<Item = &'a str>, ignored: &str) -> Vec<&'a str> {
    let is_ignored = |name: &str| ignored.lines().any(|line| line.trim_matches('/') == name);
    names.into_iter().filter(|name| !TOP.contains(name) && !is_ignored(name)).collect()
}

#[test]
fn the_top_of_the_tree_has_only_its_fixed_entries() {
    let names: Vec<String> = fs::read_dir(root())
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    let ignored = read(Path::new(".gitignore"));
    assert_eq!(strangers(names.iter().map(String::as_str), &ignored), Vec::<&str>::new());
}

#[test]
fn a_stray_entry_at_the_top_is_found() {
    let names = ["src", "target", "scripts", "notes.md", "tests"];
    assert_eq!(strangers(names, "/target/\n"), ["scripts", "notes.md"]);
}

#[test]
fn there_are_sources_to_look_at() {
    assert!(sources().len() > 20, "{:?}", sources());
    assert!(sources().iter().all(|path| !path.ends_with("tests.rs")));
}
