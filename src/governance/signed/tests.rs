//! Attacks on signed material, and what holds the digest together.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::signers::{Purpose, Revoked, Signer};
use super::*;
use crate::domain::Timestamp;

const SHAPE: Shape = Shape {
    manifests: &["recipe.toml", "recipe.json"],
    signature: "recipe.sig",
    max_manifest: 1 << 10,
    max_files: 8,
    max_bytes: 64 << 10,
};

fn now() -> Timestamp {
    Timestamp::parse("2026-11-27T12:00:00Z").expect("valid")
}

fn version(text: &str) -> Version {
    Version::parse(text).expect("valid")
}

/// A folder with a manifest and a program.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "recipe.toml", "id = \"x\"");
    fs::create_dir(folder.path().join("bin")).expect("made");
    write(folder.path(), "bin/run", "#!/bin/sh\n");
    fs::set_permissions(folder.path().join("bin/run"), Permissions::from_mode(0o755)).expect("ours");
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("written");
}

struct Keys {
    folder: TempDir,
    signers: BTreeMap<&'static str, Signer>,
}

impl Keys {
    fn new(names: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut signers = BTreeMap::new();
        for name in names {
            let key = PrivateKey::create(&folder.path().join(name), name).expect("made");
            let signer = Signer {
                id: (*name).to_owned(),
                key: key.verifier().clone(),
                signs: vec![Purpose::Recipe, Purpose::Bundle],
                valid_from: Timestamp::parse("2026-01-01T00:00:00Z").expect("valid"),
                valid_to: Timestamp::parse("2027-01-01T00:00:00Z").expect("valid"),
                revoked: None,
                note: None,
            };
            signers.insert(*name, signer);
        }
        Self { folder, signers }
    }

    fn key(&self, name: &str) -> PrivateKey {
        PrivateKey::load(&self.folder.path().join(name), None).expect("made")
    }

    /// The trusted signers: those of `names`, each as `change` makes it.
    fn trusted(&self, names: &[&str], change: impl Fn(&mut Signer)) -> Signers {
        let mut signers = Signers::default();
        for name in names {
            let mut signer = self.signers[name].clone();
            change(&mut signer);
            let text = signers.with(signer).expect("added");
            signers = Signers::parse(Path::new("s.json"), &text).expect("sound");
        }
        signers
    }
}

fn material(folder: &Path) -> Material {
    read(folder, &SHAPE).expect("taken")
}

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

#[test]
fn a_signature_counts_only_from_the_right_signer_over_exactly_this() {
    let keys = Keys::new(&["good", "other"]);
    let source = folder();
    let tree = material(source.path()).tree;
    let one = version("1.0.0");
    let by = |name: &str| sign(&keys.key(name), Kind::Recipe, "x", one, &tree, now());
    let trusted = keys.trusted(&["good"], |_| ());
    let judge = |note: &str, signers: &Signers, kind, subject: (&str, Version), tree: &Tree, at| {
        verify(Some(note.as_bytes()), signers, kind, subject, tree, at).map_err(|fault| fault.code())
    };
    let good = by("good");
    let signed = judge(&good, &trusted, Kind::Recipe, ("x", one), &tree, now()).expect("good");
    assert_eq!((signed.signer(), signed.statement().version), ("good", one));

    let past = |secs: u64| now().plus(Duration::from_secs(secs));
    let later = past(90 * 86_400);
    let future = sign(&keys.key("good"), Kind::Recipe, "x", one, &tree, past(3_600));
    let early = Timestamp::parse("2025-06-01T00:00:00Z").expect("valid");
    let backdated = sign(&keys.key("good"), Kind::Recipe, "x", one, &tree, early);
    let bundle = sign(&keys.key("good"), Kind::Bundle, "x", one, &tree, now());
    let revoked = keys.trusted(&["good"], |signer| {
        signer.revoked = Some(Revoked { at: None, reason: "stolen".into() });
    });
    let bundles_only = keys.trusted(&["good"], |signer| signer.signs = vec![Purpose::Bundle]);
    let not_yet = keys.trusted(&["good"], |signer| signer.valid_from = past(60));
    let nobody = Signers::default();
    let impostor = keys.trusted(&["other"], |_| ());
    write(source.path(), "bin/more", "");
    let changed = material(source.path()).tree;
    for (name, note, signers, kind, subject, tree, at, code) in [
        ("nobody is trusted", &good, &nobody, Kind::Recipe, ("x", one), &tree, now(), "signer_untrusted"),
        ("another is trusted", &good, &impostor, Kind::Recipe, ("x", one), &tree, now(), "signer_untrusted"),
        ("signed by a stranger", &by("other"), &trusted, Kind::Recipe, ("x", one), &tree, now(), "signer_untrusted"),
        ("revoked", &good, &revoked, Kind::Recipe, ("x", one), &tree, now(), "signer_revoked"),
        ("for other things", &good, &bundles_only, Kind::Recipe, ("x", one), &tree, now(), "signer_purpose"),
        ("expired", &good, &trusted, Kind::Recipe, ("x", one), &tree, later, "signer_expired"),
        ("not yet valid", &good, &not_yet, Kind::Recipe, ("x", one), &tree, now(), "signer_not_yet_valid"),
        ("from before the key", &backdated, &trusted, Kind::Recipe, ("x", one), &tree, now(), "signer_not_yet_valid"),
        ("from the future", &future, &trusted, Kind::Recipe, ("x", one), &tree, now(), "signed_in_future"),
        ("a changed file", &good, &trusted, Kind::Recipe, ("x", one), &changed, now(), "content_changed"),
        ("another version", &good, &trusted, Kind::Recipe, ("x", version("1.0.1")), &tree, now(), "signature_of_other"),
        ("another id", &good, &trusted, Kind::Recipe, ("y", one), &tree, now(), "signature_of_other"),
        ("another kind", &bundle, &trusted, Kind::Recipe, ("x", one), &tree, now(), "signature_of_other"),
    ] {
        assert_eq!(judge(note, signers, kind, subject, tree, at).expect_err(name), code, "{name}");
    }
    assert_eq!(verify(None, &trusted, Kind::Recipe, ("x", one), &tree, now()).expect_err("none").code(), "unsigned");
    let lifted = good.replace("version 1.0.0", "version 2.0.0");
    assert_eq!(judge(&lifted, &trusted, Kind::Recipe, ("x", version("2.0.0")), &tree, now()), Err("signature_wrong"));
}

#[test]
fn one_good_signature_among_several_is_enough_and_none_is_not() {
    let keys = Keys::new(&["old", "new", "stranger"]);
    let tree = material(folder().path()).tree;
    let one = version("1.0.0");
    let by = |name: &str| sign(&keys.key(name), Kind::Recipe, "x", one, &tree, now());
    let lines = |note: &str| note.split_once("\n\n").expect("two parts").1.to_owned();
    let both = format!("{}{}{}", by("stranger"), lines(&by("old")), lines(&by("new")));
    let judge = |signers: &Signers| {
        let found = verify(Some(both.as_bytes()), signers, Kind::Recipe, ("x", one), &tree, now());
        found.map(|signed| signed.signer().to_owned()).map_err(|fault| fault.code())
    };
    let revoke_old = |signer: &mut Signer| {
        if signer.id == "old" {
            signer.revoked = Some(Revoked { at: None, reason: "rotated".into() });
        }
    };
    assert_eq!(judge(&keys.trusted(&["old", "new"], revoke_old)), Ok("new".to_owned()));
    assert_eq!(judge(&keys.trusted(&["old"], revoke_old)), Err("signer_revoked"));
    assert_eq!(judge(&Signers::default()), Err("signer_untrusted"));
}

#[test]
fn what_is_no_note_is_refused_whatever_it_is() {
    let keys = Keys::new(&["good"]);
    let tree = material(folder().path()).tree;
    let one = version("1.0.0");
    let trusted = keys.trusted(&["good"], |_| ());
    let note = sign(&keys.key("good"), Kind::Recipe, "x", one, &tree, now());
    let judge = |bytes: &[u8]| verify(Some(bytes), &trusted, Kind::Recipe, ("x", one), &tree, now());
    assert!(judge(note.as_bytes()).is_ok());
    for cut in 0..note.len() {
        assert!(judge(&note.as_bytes()[..cut]).is_err(), "{cut}");
    }
    for at in 0..note.len() {
        let mut changed = note.clone().into_bytes();
        changed[at] ^= 1;
        assert!(judge(&changed).is_err(), "a bit of byte {at}");
    }
    for bytes in [&b""[..], b"\n\n", b"\xff", &[0; 100]] {
        assert_eq!(judge(bytes).expect_err("no note").code(), "signature_malformed");
    }
    // A note over a text that is no statement, by a trusted key.
    let other = keys.key("good").sign("hello\n");
    assert_eq!(judge(other.as_bytes()).expect_err("no statement").code(), "signature_malformed");
}

// --- the shelf ------------------------------------------------------------------------------------------------------

struct Ground {
    home: TempDir,
    shelf: Shelf,
    keys: Keys,
}

impl Ground {
    fn new(keep: Option<usize>) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(home.path().join("state/recipes"), SHAPE, keep);
        Self { home, shelf, keys: Keys::new(&["good"]) }
    }

    fn source(&self, text: &str) -> PathBuf {
        let path = self.home.path().join("source");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("made");
        write(&path, "recipe.toml", text);
        path
    }

    fn install(&self, text: &str, number: &str, expect: Expect) -> Result<Record, ShelfFault> {
        let source = self.source(text);
        let staged = self.shelf.stage(&source)?;
        staged.place(("x", version(number)), None, expect, "ops", now())
    }

    fn content(&self) -> String {
        let placed = self.shelf.take("x").expect("in force");
        String::from_utf8(placed.material.manifest).expect("text")
    }
}

#[test]
fn versions_replace_each_other_and_the_old_ones_stay() {
    let ground = Ground::new(None);
    assert!(matches!(ground.shelf.take("x"), Err(ShelfFault::Unknown(_))));
    for (text, number) in [("a", "1.0.0"), ("b", "1.1.0"), ("c", "2.0.0")] {
        ground.install(text, number, Expect::Newer).expect("newer");
        assert_eq!(ground.content(), text);
    }
    let record = ground.shelf.record("x").expect("read").expect("there");
    assert_eq!(record.revisions.len(), 3);
    let first = ground.shelf.take_version(record, version("1.0.0")).expect("kept");
    assert_eq!(first.material.manifest, b"a");
}

#[test]
fn an_old_version_is_not_taken_for_new_and_a_version_keeps_its_content() {
    let ground = Ground::new(None);
    ground.install("a", "1.0.0", Expect::Newer).expect("first");
    ground.install("b", "2.0.0", Expect::Newer).expect("newer");
    let older = ground.install("a", "1.0.0", Expect::Newer).expect_err("older");
    assert!(matches!(older, ShelfFault::Older { .. }), "{older}");
    assert!(matches!(ground.install("x", "1.5.0", Expect::Newer), Err(ShelfFault::Older { .. })));
    let other = ground.install("other", "2.0.0", Expect::OlderToo).expect_err("same version");
    assert!(matches!(other, ShelfFault::SameVersion { .. }), "{other}");
    assert_eq!(ground.content(), "b", "a refusal changes nothing");
    ground.install("a", "1.0.0", Expect::OlderToo).expect("asked for");
    assert_eq!(ground.content(), "a");
    // What was once here stays the mark: going back once does not open the way for every old version.
    assert!(matches!(ground.install("x", "1.5.0", Expect::Newer), Err(ShelfFault::Older { .. })));
    ground.install("b", "2.0.0", Expect::Newer).expect("the highest again");
    assert_eq!(ground.content(), "b");
}

#[test]
fn what_was_changed_after_it_was_installed_is_not_taken() {
    let ground = Ground::new(None);
    ground.install("a", "1.0.0", Expect::Newer).expect("installed");
    let content = ground.shelf.take("x").expect("sound").folder;
    let file = content.join("recipe.toml");
    let changes: [(&str, &dyn Fn()); 4] = [
        ("content", &|| fs::write(&file, "b").expect("written")),
        ("another file", &|| fs::write(content.join("more"), "b").expect("written")),
        ("mode", &|| fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("ours")),
        ("a link", &|| {
            fs::remove_file(&file).expect("removed");
            symlink("/etc/hostname", &file).expect("linked");
        }),
    ];
    for (name, change) in changes {
        if !file.is_symlink() {
            fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("ours");
        }
        change();
        let fault = ground.shelf.take("x").expect_err(name);
        assert!(matches!(fault, ShelfFault::Changed { .. } | ShelfFault::Tree(_)), "{name}: {fault}");
        // Installed again, it is sound again.
        ground.install("a", "1.0.0", Expect::Newer).expect("healed");
        assert_eq!(ground.content(), "a", "{name}");
    }
}

#[test]
fn retiring_removes_nothing_and_keeps_it_from_being_taken() {
    let ground = Ground::new(None);
    assert!(matches!(ground.shelf.retire("x", "ops", "unsafe", now()), Err(ShelfFault::Unknown(_))));
    ground.install("a", "1.0.0", Expect::Newer).expect("installed");
    let content = ground.shelf.take("x").expect("sound").folder;
    ground.shelf.retire("x", "ops", "unsafe", now()).expect("retired");
    let fault = ground.shelf.take("x").expect_err("retired").to_string();
    assert_eq!(fault, "`x` was retired by ops: unsafe");
    assert!(matches!(ground.shelf.retire("x", "ops", "again", now()), Err(ShelfFault::Retired { .. })));
    assert_eq!(fs::read_to_string(content.join("recipe.toml")).expect("kept"), "a");
    let acts: Vec<Act> = ground.shelf.history().expect("read").iter().map(|entry| entry.act).collect();
    assert_eq!(acts, [Act::Install, Act::Retire]);
}

#[test]
fn only_so_many_revisions_are_kept_and_each_of_them_can_come_back() {
    let ground = Ground::new(Some(5));
    for number in 1..=7 {
        ground.install(&format!("content {number}"), &format!("1.{number}.0"), Expect::Newer).expect("newer");
    }
    let record = ground.shelf.record("x").expect("read").expect("there");
    let kept: Vec<String> = record.revisions.iter().map(|revision| revision.version.to_string()).collect();
    assert_eq!(kept, ["1.3.0", "1.4.0", "1.5.0", "1.6.0", "1.7.0"]);
    let folders = fs::read_dir(ground.home.path().join("state/recipes/versions/x")).expect("there").count();
    assert_eq!(folders, 5);
    assert!(matches!(ground.shelf.take_version(record.clone(), version("1.2.0")), Err(ShelfFault::NotKept { .. })));
    for revision in &record.revisions {
        let placed = ground.shelf.take_version(record.clone(), revision.version).expect("kept");
        ground.shelf.put_back(&placed, "ops", "a fault", now()).expect("back");
        assert_eq!(ground.shelf.take("x").expect("in force").revision.version, revision.version);
    }
    let earlier = ground.shelf.record("x").expect("read").expect("there").earlier().map(|found| found.version);
    assert_eq!(earlier, Some(version("1.6.0")));
}

#[test]
fn a_source_that_is_swapped_all_the_time_never_gets_in_unhashed() {
    // Somebody changes the source while it is read and verified: what is kept is one of the two, whole, under the
    // digest that was verified; or nothing is.
    let ground = Ground::new(None);
    let source = ground.source("a");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut turn = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                turn += 1;
                let text = if turn.is_multiple_of(2) { "a" } else { "evil" };
                let fresh = source.with_extension("fresh");
                if fs::write(&fresh, text).is_ok() {
                    let _ = fs::rename(&fresh, source.join("recipe.toml"));
                }
                let _ = fs::remove_file(source.join("x"));
                if turn.is_multiple_of(3) {
                    let _ = symlink("/etc/passwd", source.join("x"));
                }
            }
        });
        let mut kept = 0;
        for number in 1..=40 {
            let Ok(staged) = ground.shelf.stage(&source) else { continue };
            let digest = staged.tree().digest();
            let manifest = staged.material().manifest.clone();
            staged.place(("x", version(&format!("1.{number}.0"))), None, Expect::Newer, "ops", now()).expect("placed");
            let placed = ground.shelf.take("x").expect("sound");
            assert_eq!((placed.revision.tree, &placed.material.manifest), (digest, &manifest));
            assert!(manifest == b"a" || manifest == b"evil");
            assert_eq!(placed.material.tree.entries().len(), 1, "the link never got in");
            kept += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        swapper.join().expect("ended");
        println!("{kept} of 40 were taken");
    });
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_old_version_or_the_new_one() {
    let ground = Ground::new(None);
    ground.install("a", "1.0.0", Expect::Newer).expect("installed");
    let root = ground.home.path().join("state/recipes");
    // Before the version's folder is in place.
    fs::create_dir_all(root.join("staging/new/content")).expect("made");
    fs::write(root.join("staging/new/content/recipe.toml"), "b").expect("written");
    assert_eq!(ground.content(), "a");
    // Behind it, before the record names it: half a folder, even.
    fs::create_dir_all(root.join("versions/x/1.1.0/content")).expect("made");
    fs::write(root.join("versions/x/1.1.0/content/junk"), "b").expect("written");
    fs::write(root.join("records/x.json.tmp"), "{").expect("written");
    assert_eq!(ground.content(), "a");
    ground.install("b", "1.1.0", Expect::Newer).expect("goes on");
    assert_eq!(ground.content(), "b");
    assert_eq!(fs::read_dir(root.join("staging")).expect("there").count(), 0);
    assert_eq!(ground.shelf.records().expect("listed").len(), 1);
}

#[test]
fn a_record_that_is_not_what_was_written_is_told_and_not_used() {
    let ground = Ground::new(None);
    ground.install("a", "1.0.0", Expect::Newer).expect("installed");
    let path = ground.home.path().join("state/recipes/records/x.json");
    let sound = fs::read_to_string(&path).expect("there");
    for broken in [
        String::new(),
        sound.replace("\"x\"", "\"y\""),
        sound.replacen("1.0.0", "9.0.0", 1),
        sound.replace("installed", "removed"),
        sound.replacen('{', "{\"more\": 1,", 1),
    ] {
        fs::write(&path, &broken).expect("broken");
        assert!(matches!(ground.shelf.take("x"), Err(ShelfFault::Record { .. })), "{broken}");
        assert!(ground.shelf.records().expect("listed")[0].is_err());
        assert!(ground.install("b", "2.0.0", Expect::Newer).is_err(), "nothing is written over it");
    }
}

#[test]
fn two_writers_at_once_come_one_after_the_other() {
    let ground = Ground::new(None);
    std::thread::scope(|scope| {
        for writer in 1..=4_u32 {
            let ground = &ground;
            scope.spawn(move || {
                let source = ground.home.path().join(format!("source-{writer}"));
                fs::create_dir(&source).expect("made");
                write(&source, "recipe.toml", &format!("by {writer}"));
                let staged = ground.shelf.stage(&source).expect("staged");
                let id = format!("w{writer}");
                staged.place((&id, version("1.0.0")), None, Expect::Newer, "ops", now()).expect("placed");
            });
        }
    });
    for writer in 1..=4 {
        let placed = ground.shelf.take(&format!("w{writer}")).expect("in force");
        assert_eq!(placed.material.manifest, format!("by {writer}").into_bytes());
    }
    assert!(ground.keys.signers.contains_key("good"));
}

// --- the digest -----------------------------------------------------------------------------------------------------

/// By path: content, and whether it can be executed.
type Files = BTreeMap<String, (String, bool)>;

fn tree_of(files: &Files, reverse: bool) -> Tree {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "recipe.toml", "m");
    let mut order: Vec<_> = files.iter().collect();
    if reverse {
        order.reverse();
    }
    for (name, (text, executable)) in order {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, text).expect("written");
        let mode = if *executable { 0o700 } else { 0o640 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
    }
    material(folder.path()).tree
}

fn files() -> impl Strategy<Value = Files> {
    proptest::collection::btree_map("[a-c]{1,2}/[a-c]{1,2}", ("[a-c \n]{0,6}", any::<bool>()), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn equal_folders_have_one_digest_and_different_ones_have_two(one in files(), two in files()) {
        let (first, again, other) = (tree_of(&one, false), tree_of(&one, true), tree_of(&two, false));
        prop_assert_eq!(first.digest(), again.digest());
        prop_assert_eq!(first.digest() == other.digest(), one == two);
    }

    #[test]
    fn every_change_changes_the_digest(files in files(), extra in "[d-f]{1,3}", at in any::<prop::sample::Index>()) {
        let before = tree_of(&files, false).digest();
        let mut more = files.clone();
        more.insert(extra, (String::new(), false));
        prop_assert_ne!(&tree_of(&more, false).digest(), &before, "an empty file more");
        if files.is_empty() {
            return Ok(());
        }
        let name = files.keys().nth(at.index(files.len())).expect("one of them").clone();
        let changed = |change: &dyn Fn(&mut Files)| {
            let mut changed = files.clone();
            change(&mut changed);
            tree_of(&changed, false).digest()
        };
        prop_assert_ne!(changed(&|files| { files.remove(&name); }), before.clone());
        prop_assert_ne!(changed(&|files| files.get_mut(&name).expect("there").0.push('x')), before.clone());
        prop_assert_ne!(changed(&|files| { let entry = files.get_mut(&name).expect("there"); entry.1 = !entry.1; }), before.clone());
        prop_assert_ne!(changed(&|files| { let entry = files.remove(&name).expect("there"); files.insert(format!("{name}z"), entry); }), before);
    }

    #[test]
    fn the_listing_tells_each_tree_from_every_other(
        one in proptest::collection::vec(("[ -~]{1,12}", any::<bool>(), any::<u64>(), any::<[u8; 32]>()), 0..4),
        two in proptest::collection::vec(("[ -~]{1,12}", any::<bool>(), any::<u64>(), any::<[u8; 32]>()), 0..4),
    ) {
        let tree = |list: Vec<(String, bool, u64, [u8; 32])>| {
            let entry = |(path, executable, bytes, sha256)| TreeEntry { path, executable, bytes, sha256 };
            Tree::of(list.into_iter().map(entry).collect())
        };
        let (one, two) = (tree(one), tree(two));
        prop_assert_eq!(one.listing() == two.listing(), one == two);
    }
}
