//! Bundles as signed folders: imported when they verify, kept in five revisions, audited.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::located::read_file;
use crate::config::{BundlesFile, Fault, Faults, MAX_BUNDLES};
use crate::domain::BundleId;

use super::super::consent::bundle_files;
use super::super::signed::{
    self, Expect, Kind, Material, Record, Shape, Shelf, ShelfFault, SignatureFault, Status, TreeFault, Trust, Version,
    VersionFault,
};
use super::catalogue::{Bundle, read_catalogue_text};

/// Revisions of a bundle that are kept, the one in force among them: what the handbook's roll-back asks for.
pub const KEPT_REVISIONS: usize = 5;

/// A folder with `bundle.json`. 64 GiB: large models fit.
pub(super) const FOLDER: Shape = Shape {
    manifests: &["bundle.json"],
    signature: "bundle.sig",
    max_manifest: MAX_BUNDLES,
    max_files: 4_096,
    max_bytes: 64 << 30,
};

/// A catalogue by itself; in its tree it is called so, whatever its name on this host is.
const CATALOGUE: Shape = Shape {
    manifests: &["bundles.json"],
    signature: "bundles.sig",
    max_manifest: MAX_BUNDLES,
    max_files: 1,
    max_bytes: MAX_BUNDLES,
};

/// Why a bundle was not imported or not put back.
#[derive(Debug, thiserror::Error)]
pub enum BundleFault {
    /// Its manifest.
    #[error("{0}")]
    Manifest(Faults),
    /// Its signature.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// Its files, or the shelf.
    #[error(transparent)]
    Shelf(#[from] ShelfFault),
}

impl From<TreeFault> for BundleFault {
    fn from(fault: TreeFault) -> Self {
        Self::Shelf(ShelfFault::Tree(fault))
    }
}

/// Something that can be signed as a bundle: its kind, id and version, with its files.
#[derive(Debug)]
pub struct Signable {
    /// A folder, or a catalogue.
    pub kind: Kind,
    /// Its id: that of the bundle, or the catalogue's name without `.json`.
    pub id: String,
    /// Its version, or the catalogue's release.
    pub version: Version,
    /// Its files.
    pub material: Material,
    /// Where its signature goes.
    pub signature_file: PathBuf,
}

/// The imported bundles of the state folder.
pub fn shelf(state_dir: &Path) -> Shelf {
    Shelf::new(state_dir.join("bundles"), FOLDER, Some(KEPT_REVISIONS))
}

/// Copies the bundle at `source`, verifies the copy and puts it in force.
///
/// # Errors
/// [`BundleFault`]; what was in force stays so.
pub fn import(
    shelf: &Shelf,
    source: &Path,
    trust: &Trust,
    expect: Expect,
    by: &str,
) -> Result<(Bundle, Record), BundleFault> {
    let staged = shelf.stage(source)?;
    let bundle = manifest(source, staged.material())?;
    let subject = (bundle.id.as_str(), bundle.version);
    let signed = trust.check(staged.material(), Kind::Bundle, subject)?;
    let record = staged.place(subject, signed.as_ref(), expect, by, trust.now())?;
    Ok((bundle, record))
}

/// Puts the revision before the one in force, or `to`, in force again. It must verify now: a revision of a signer
/// who was revoked since does not come back.
///
/// # Errors
/// [`BundleFault`].
pub fn rollback(
    shelf: &Shelf,
    id: &BundleId,
    to: Option<Version>,
    trust: &Trust,
    by: &str,
    note: &str,
) -> Result<Record, BundleFault> {
    let record = shelf.record(id.as_str())?.ok_or_else(|| ShelfFault::Unknown(id.to_string()))?;
    let version = match to {
        Some(version) => version,
        None => record.earlier().ok_or_else(|| ShelfFault::NoEarlier(id.to_string()))?.version,
    };
    let placed = shelf.take_version(record, version)?;
    let bundle = manifest(&placed.folder, &placed.material)?;
    trust.check(&placed.material, Kind::Bundle, (bundle.id.as_str(), bundle.version))?;
    Ok(shelf.put_back(&placed, by, note, trust.now())?)
}

/// Reads what lies at `path`, a bundle's folder or a catalogue, so that it can be signed or checked.
///
/// # Errors
/// [`BundleFault`].
pub fn signable(path: &Path) -> Result<Signable, BundleFault> {
    if path.is_dir() {
        let material = signed::read(path, &FOLDER)?;
        let bundle = manifest(path, &material)?;
        return Ok(Signable {
            kind: Kind::Bundle,
            id: bundle.id.to_string(),
            version: bundle.version,
            material,
            signature_file: path.join(FOLDER.signature),
        });
    }
    let material = signed::read(path, &CATALOGUE)?;
    let text = text(path, &material)?;
    read_catalogue_text(path, &text).map_err(BundleFault::Manifest)?;
    let version = release(path, &text).map_err(BundleFault::Manifest)?;
    let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut signature_file = path.as_os_str().to_owned();
    signature_file.push(".sig");
    Ok(Signable { kind: Kind::Manifest, id, version, material, signature_file: signature_file.into() })
}

fn text(path: &Path, material: &Material) -> Result<String, BundleFault> {
    String::from_utf8(material.manifest.clone())
        .map_err(|_| BundleFault::Manifest(Faults(vec![Fault::new(path, None, "", "not UTF-8")])))
}

fn release(path: &Path, text: &str) -> Result<Version, Faults> {
    let file = BundlesFile::parse(path, text).map_err(|document| Faults(document.into_faults()))?;
    let missing = || {
        Faults(vec![
            Fault::new(path, None, "release", "a catalogue without a release cannot be signed")
                .hint("write \"release\": \"1.0.0\", and a higher one with each change"),
        ])
    };
    let found = file.release.ok_or_else(missing)?;
    Version::parse(&found.value).map_err(|fault: VersionFault| {
        Faults(vec![Fault::new(path, Some(found.place.line), "release", fault.to_string())])
    })
}

/// The one bundle of a folder's manifest, whose artifacts are exactly the folder's files.
fn manifest(source: &Path, material: &Material) -> Result<Bundle, BundleFault> {
    let path = source.join(&material.manifest_name);
    let text = text(&path, material)?;
    let bundles = read_catalogue_text(&path, &text).map_err(BundleFault::Manifest)?;
    let whole = |message: &str| BundleFault::Manifest(Faults(vec![Fault::new(&path, None, "bundles", message)]));
    let Ok([bundle]) = <[Bundle; 1]>::try_from(bundles) else {
        return Err(whole("the folder of a bundle holds exactly one"));
    };
    let faults = artifacts(&path, &bundle, material);
    if faults.is_empty() { Ok(bundle) } else { Err(BundleFault::Manifest(Faults(faults))) }
}

fn artifacts(path: &Path, bundle: &Bundle, material: &Material) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |index: usize, message: String| {
        faults.push(Fault::new(path, None, format!("bundles[0].artifacts[{index}]"), message));
    };
    let mut listed: BTreeSet<&str> = BTreeSet::from([material.manifest_name.as_str()]);
    for (index, artifact) in bundle.artifacts.iter().enumerate() {
        listed.insert(&artifact.path);
        match material.tree.entry(&artifact.path) {
            None => fault(index, format!("`{}` is not in the folder", artifact.path)),
            Some(entry) if entry.sha256_hex() != artifact.sha256 || entry.bytes != artifact.bytes => {
                fault(index, format!("`{}` is another file than the one that is listed", artifact.path));
            }
            Some(_) => {}
        }
    }
    for entry in material.tree.entries().iter().filter(|entry| !listed.contains(entry.path.as_str())) {
        faults.push(Fault::new(path, None, "bundles[0].artifacts", format!("`{}` is not listed", entry.path)));
    }
    faults
}

/// One thing that an audit found: a line of its own when shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: a file, or an imported bundle.
    pub place: String,
    /// What, as a stable code.
    pub code: &'static str,
    /// In words.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.place, self.detail, self.code)
    }
}

impl Finding {
    fn new(place: impl fmt::Display, code: &'static str, detail: &dyn fmt::Display) -> Self {
        Self { place: place.to_string(), code, detail: detail.to_string() }
    }

    /// A fault of a file, with its line in the place.
    fn of(fault: &Fault) -> Self {
        let line = fault.line.map(|line| format!(":{line}")).unwrap_or_default();
        let key = if fault.key.is_empty() { String::new() } else { format!("{}: ", fault.key) };
        let hint = fault.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let detail = format!("{key}{}{hint}", fault.message);
        Self { place: format!("{}{line}", fault.file.display()), code: "manifest_faulty", detail }
    }
}

/// Everything that is wrong with the catalogues and the imported bundles.
pub fn audit(config_dir: &Path, state_dir: &Path, trust: &Trust) -> Vec<Finding> {
    let mut lines = Vec::new();
    match bundle_files(config_dir) {
        Ok(files) => {
            for file in &files {
                lines.extend(audit_catalogue(file, trust));
            }
            // What only shows when they are read together.
            if lines.is_empty()
                && let Err(faults) = super::read_catalogues(&files)
            {
                lines.extend(faults.0.iter().map(Finding::of));
            }
        }
        Err(fault) => lines.push(Finding::of(&fault)),
    }
    let shelf = shelf(state_dir);
    match shelf.records() {
        Ok(records) => {
            for record in records {
                lines.extend(audit_record(&shelf, record, trust));
            }
        }
        Err(fault) => lines.push(Finding::new(state_dir.display(), "not_taken", &fault)),
    }
    lines
}

fn audit_catalogue(file: &Path, trust: &Trust) -> Vec<Finding> {
    let text = match read_file(file, MAX_BUNDLES) {
        Ok(text) => text,
        Err(fault) => return vec![Finding::of(&fault)],
    };
    if let Err(faults) = read_catalogue_text(file, &text) {
        return faults.0.iter().map(Finding::of).collect();
    }
    let told = |fault: &dyn fmt::Display, code| vec![Finding::new(file.display(), code, fault)];
    match signed::read(file, &CATALOGUE) {
        Err(fault) => told(&fault, "not_taken"),
        // A catalogue without a release has no version to sign; unsigned, it may do without.
        Ok(material) if material.signature.is_none() => {
            match trust.check(&material, Kind::Manifest, ("", Version::ZERO)) {
                Ok(_) => Vec::new(),
                Err(fault) => told(&fault, fault.code()),
            }
        }
        Ok(_) => match signable(file) {
            Ok(signable) => match trust.check(&signable.material, signable.kind, (&signable.id, signable.version)) {
                Ok(_) => Vec::new(),
                Err(fault) => told(&fault, fault.code()),
            },
            Err(BundleFault::Manifest(faults)) => faults.0.iter().map(Finding::of).collect(),
            Err(fault) => told(&fault, "not_taken"),
        },
    }
}

fn audit_record(shelf: &Shelf, record: Result<Record, ShelfFault>, trust: &Trust) -> Vec<Finding> {
    let record = match record {
        Ok(record) => record,
        Err(fault) => return vec![Finding::new("the imported bundles", "not_taken", &fault)],
    };
    if record.status == Status::Retired {
        return Vec::new();
    }
    let (id, version) = (record.id.clone(), record.current);
    let told =
        |fault: &dyn fmt::Display, code| vec![Finding::new(format_args!("bundle `{id}` {version}"), code, fault)];
    let placed = match shelf.take_version(record, version) {
        Ok(placed) => placed,
        Err(fault @ ShelfFault::Changed { .. }) => return told(&fault, "content_changed"),
        Err(fault) => return told(&fault, "not_taken"),
    };
    match trust.check(&placed.material, Kind::Bundle, (&id, version)) {
        Ok(_) => Vec::new(),
        Err(fault) => told(&fault, fault.code()),
    }
}
