//! What is kept, what replaces what, and what a crash or a rival leaves.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::*;
use super::{SHAPE, now, version, write};

struct Ground {
    home: TempDir,
    shelf: Shelf,
}

impl Ground {
    fn new(keep: Option<usize>) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(home.path().join("state/recipes"), SHAPE, keep);
        Self { home, shelf }
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
    let changes: [(&str, &dyn Fn()); 5] = [
        ("a file that no digest has", &|| fs::write(content.join("recipe.sig"), "b").expect("written")),
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
    let earlier = || ground.shelf.record("x").expect("read").expect("there").earlier().map(|found| found.version);
    assert_eq!(earlier(), Some(version("1.6.0")));

    // The oldest comes back, and then a new one comes: what was in force until then is not the one that goes.
    let oldest = ground.shelf.take_version(record, version("1.3.0")).expect("kept");
    ground.shelf.put_back(&oldest, "ops", "the later ones are worse", now()).expect("back");
    ground.install("content 8", "1.8.0", Expect::Newer).expect("newer");
    assert_eq!(earlier(), Some(version("1.3.0")));
    let record = ground.shelf.record("x").expect("read").expect("there");
    let kept: Vec<String> = record.revisions.iter().map(|revision| revision.version.to_string()).collect();
    assert_eq!(kept, ["1.5.0", "1.6.0", "1.7.0", "1.3.0", "1.8.0"]);
    for revision in &record.revisions {
        ground.shelf.take_version(record.clone(), revision.version).expect("kept");
    }
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
}
