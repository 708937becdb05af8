//! One cryptographic provider, aws-lc-rs: two would mean that which one signs depends on who came first.
//!
//! `Cargo.lock` does name `ring`, because two packages switch features of it on *if* somebody else brings
//! it in (`ring?/…`), and the lock file holds such optional packages too. So the check is who depends on
//! it there, and whether a build has it.

use std::path::Path;
use std::process::Command;

use crate::files;

/// Depend on `ring` only if somebody else brings it in.
const WEAK: [&str; 2] = ["hickory-proto", "rustls-webpki"];

/// The packages of a lock file that depend on `package`.
fn dependents<'a>(lock: &'a str, package: &str) -> Vec<&'a str> {
    lock.split("[[package]]")
        .filter(|entry| {
            entry.lines().map(str::trim).any(|line| {
                let item = line.trim_matches([',', '"']);
                line.starts_with('"') && item.split(' ').next() == Some(package)
            })
        })
        .filter_map(|entry| entry.lines().find_map(|line| line.strip_prefix("name = ")))
        .map(|name| name.trim_matches('"'))
        .collect()
}

/// Whether `package` is among the packages of a `cargo tree --prefix none`.
fn is_built(tree: &str, package: &str) -> bool {
    tree.lines().any(|line| line.split(' ').next() == Some(package))
}

#[test]
fn nothing_depends_on_ring() {
    let lock = files::read(Path::new("Cargo.lock"));
    let strong: Vec<&str> = dependents(&lock, "ring").into_iter().filter(|name| !WEAK.contains(name)).collect();
    assert_eq!(strong, Vec::<&str>::new());
}

#[test]
fn no_build_has_ring() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--all-features", "--edges", "normal,build,dev", "--prefix", "none"])
        .current_dir(files::root())
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_built(&tree, "aws-lc-rs"), "the tree is not the one that was meant: {tree}");
    assert!(!is_built(&tree, "ring"));
}

#[test]
fn ring_is_found_where_it_is() {
    let lock = "[[package]]\nname = \"ring\"\nversion = \"0.17.14\"\ndependencies = [\n \"cc\",\n]\n\n\
                [[package]]\nname = \"rustls\"\nversion = \"1.0.0\"\ndependencies = [\n \"log\",\n \"ring\",\n]\n\n\
                [[package]]\nname = \"other\"\ndependencies = [\n \"ring 0.16.0\",\n]\n\n\
                [[package]]\nname = \"jewel\"\ndependencies = [\n \"ringbuffer\",\n]\n";
    assert_eq!(dependents(lock, "ring"), ["rustls", "other"]);
    assert!(is_built("arw v0.1.0\nring v0.17.14\n", "ring"));
    assert!(!is_built("ringbuffer v1.0.0\n", "ring"));
}
