//! What is taken of a folder, and what is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::super::*;
use super::{SHAPE, folder, material, write};

#[test]
fn what_is_not_only_files_and_folders_is_not_taken() {
    type Change = fn(&Path);
    let attacks: [(&str, Change, &str); 14] = [
        ("a link to a file", |at| symlink("/etc/passwd", at.join("x")).expect("linked"), "symbolic link"),
        ("a link to a folder", |at| symlink("/etc", at.join("x")).expect("linked"), "symbolic link"),
        ("a link to nowhere", |at| symlink("/nonexistent", at.join("x")).expect("linked"), "symbolic link"),
        ("a link inside", |at| symlink("recipe.toml", at.join("bin/x")).expect("linked"), "symbolic link"),
        ("a second name", |at| fs::hard_link(at.join("bin/run"), at.join("bin/again")).expect("linked"), "hard link"),
        (
            "a pipe",
            |at| nix::unistd::mkfifo(&at.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made"),
            "a device, a pipe or a socket",
        ),
        (
            "a socket",
            |at| drop(std::os::unix::net::UnixListener::bind(at.join("socket")).expect("bound")),
            "a device, a pipe or a socket",
        ),
        (
            "set-user-id",
            |at| fs::set_permissions(at.join("bin/run"), Permissions::from_mode(0o4755)).expect("ours"),
            "set-user-id",
        ),
        ("too many files", |at| (0..9).for_each(|n| write(at, &format!("f{n}"), "")), "more than 8 files"),
        (
            "a giant file",
            |at| fs::File::create(at.join("giant")).expect("made").set_len(1 << 40).expect("sparse"),
            "leads beyond 65536 bytes",
        ),
        ("a giant manifest", |at| write(at, "recipe.toml", &"#".repeat(2_000)), "larger than 1024 bytes"),
        ("two manifests", |at| write(at, "recipe.json", "{}"), "both manifests"),
        ("no manifest", |at| fs::remove_file(at.join("recipe.toml")).expect("removed"), "there is no manifest"),
        ("a giant signature", |at| write(at, "recipe.sig", &"x".repeat(20_000)), "larger than 16384 bytes"),
    ];
    for (name, change, expected) in attacks {
        let source = folder();
        change(source.path());
        let fault = read(source.path(), &SHAPE).expect_err(name).to_string();
        assert!(fault.contains(expected), "{name}: {fault}");
        let into = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(into.path().join("shelf"), SHAPE, None);
        assert!(shelf.stage(source.path()).is_err(), "{name}");
        let left = fs::read_dir(into.path().join("shelf/staging")).expect("there").count();
        assert_eq!(left, 0, "{name}: nothing of it stays");
    }
}

#[test]
fn names_that_programs_read_differently_are_not_taken() {
    use std::os::unix::ffi::OsStrExt;
    for name in [&b"a\nb"[..], b"a\x1b[2J", b"caf\xc3\xa9", b"\xff\xfe", b"a\\b", b"\xe2\x80\xae", b" a", b"a "] {
        let source = folder();
        fs::write(source.path().join(std::ffi::OsStr::from_bytes(name)), "x").expect("written");
        let fault = read(source.path(), &SHAPE).expect_err("not taken");
        assert!(matches!(fault, TreeFault::Path(_)), "{name:?}: {fault}");
        assert!(!fault.to_string().contains(['\n', '\u{1b}']), "{fault:?}");
    }
    for path in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "../a", "a\0b"] {
        assert!(check_path(path).is_err(), "{path:?}");
    }
    for path in ["a", "a/b-c_d.e", "..a", "a..b", "...", "a b"] {
        assert!(check_path(path).is_ok(), "{path:?}");
    }
}

#[test]
fn a_folder_without_end_is_not_walked() {
    let source = folder();
    let deep = (0..20).fold(source.path().to_owned(), |at, _| at.join("d"));
    fs::create_dir_all(&deep).expect("made");
    let fault = read(source.path(), &SHAPE).expect_err("too deep").to_string();
    assert!(fault.contains("deeper than 16"), "{fault}");
}

#[test]
fn a_link_is_not_followed_at_the_top_either() {
    let (source, other) = (folder(), tempfile::tempdir().expect("a folder"));
    let link = other.path().join("recipe");
    symlink(source.path(), &link).expect("linked");
    assert!(matches!(read(&link, &SHAPE), Err(TreeFault::Kind { .. })));
    let single = other.path().join("x.toml");
    symlink(source.path().join("recipe.toml"), &single).expect("linked");
    assert!(matches!(read(&single, &SHAPE), Err(TreeFault::Kind { .. })));
}

#[test]
fn a_single_file_is_the_same_as_a_folder_with_its_manifest() {
    let source = folder();
    fs::remove_dir_all(source.path().join("bin")).expect("removed");
    let other = tempfile::tempdir().expect("a folder");
    write(other.path(), "nightly.toml", "id = \"x\"");
    write(other.path(), "nightly.toml.sig", "signature");
    let single = material(&other.path().join("nightly.toml"));
    assert_eq!(single.tree, material(source.path()).tree);
    assert_eq!(single.signature.as_deref(), Some(&b"signature"[..]));
    write(other.path(), "nightly.txt", "id = \"x\"");
    assert!(read(&other.path().join("nightly.txt"), &SHAPE).is_err());
}

#[test]
fn the_listing_can_be_made_by_hand() {
    let source = folder();
    let listing = material(source.path()).tree.listing();
    let expected = "arw-tree/v1\n\
        a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf x 10 bin/run\n";
    assert!(listing.starts_with(expected), "{listing}");
    assert!(listing.ends_with(" - 8 recipe.toml\n"), "{listing}");
}
