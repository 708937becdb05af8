//! Attacks on signed material, and what holds the digest together.

mod digest;
mod material;
mod shelf;
mod signature;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::signers::{Purpose, Signer};
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
