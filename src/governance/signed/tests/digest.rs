//! One digest for one folder, and no other.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::super::*;
use super::{material, write};

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
