//! From a file of bundles to bundles, every fault at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::config::located::{Document, Found, read_file};
use crate::config::{ArtifactForm, BundleForm, BundlesFile, Faults, MAX_BUNDLES};
use crate::domain::BundleId;

use super::super::consent::{self, Consent, Modality};
use super::super::signed::{Version, check_path};

/// Most bundles of one file.
const MAX_ITEMS: usize = 4_096;
/// Longest name and licence, in bytes.
const MAX_NAME: usize = 128;
/// Longest description, in bytes.
const MAX_DESCRIPTION: usize = 2_048;

/// One bundle, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its id.
    pub id: BundleId,
    /// Its version.
    pub version: Version,
    /// What people call it; its id where nothing else is said.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Under which licence, as SPDX names it.
    pub license: Option<String>,
    /// What kinds of data it takes in.
    pub modalities: Vec<Modality>,
    /// Its files.
    pub artifacts: Vec<Artifact>,
    /// What people were told.
    pub consent: Consent,
    /// The file that it stands in.
    pub file: PathBuf,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its place in the bundle's folder.
    pub path: String,
    /// SHA-256, in lower-case hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// Reads `files` together: an id that two of them have would make what it means depend on their order.
///
/// # Errors
/// Every fault of every file.
pub fn read_catalogues(files: &[PathBuf]) -> Result<Vec<Bundle>, Faults> {
    let (mut read, mut faults) = (Vec::new(), Vec::new());
    for path in files {
        match read_file(path, MAX_BUNDLES).map(|text| BundlesFile::parse(path, &text)) {
            Ok(Ok(file)) => read.push((path.clone(), file)),
            Ok(Err(document)) => faults.extend(document.into_faults()),
            Err(fault) => faults.push(fault),
        }
    }
    finish(read, faults)
}

/// Reads `text` as the contents of `path`.
///
/// # Errors
/// Every fault of it.
pub fn read_catalogue_text(path: &Path, text: &str) -> Result<Vec<Bundle>, Faults> {
    match BundlesFile::parse(path, text) {
        Ok(file) => finish(vec![(path.to_owned(), file)], Vec::new()),
        Err(document) => Err(Faults(document.into_faults())),
    }
}

fn finish(files: Vec<(PathBuf, BundlesFile)>, mut faults: Vec<crate::config::Fault>) -> Result<Vec<Bundle>, Faults> {
    let mut bundles = Vec::new();
    let mut seen: BTreeMap<BundleId, (PathBuf, usize)> = BTreeMap::new();
    for (path, file) in files {
        let BundlesFile { document, release, bundles: forms } = file;
        if let Some(found) = &release
            && let Err(fault) = Version::parse(&found.value)
        {
            document.fault(&found.place, fault.to_string());
        }
        if let Some(form) = forms.get(MAX_ITEMS) {
            document.fault(&form.place, format!("more than {MAX_ITEMS} bundles"));
        }
        for form in &forms {
            if let Some(found) = &form.id
                && let Ok(id) = BundleId::parse(&found.value)
                && let Some((first, line)) = seen.insert(id.clone(), (path.clone(), found.place.line))
            {
                let message = format!("`{id}` is also in `{}` on line {line}", first.display());
                document.fault_with_hint(&found.place, message, "one id means one bundle");
            }
            bundles.extend(bundle(&document, form, &path));
        }
        faults.extend(document.into_faults());
    }
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    bundles.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(bundles)
}

fn bundle(document: &Document, form: &BundleForm, file: &Path) -> Option<Bundle> {
    let id = form.id.as_ref().and_then(|found| parsed(document, found, BundleId::parse));
    let version = form.version.as_ref().and_then(|found| parsed(document, found, Version::parse));
    let text = |found: &Option<Found<String>>, most| document.plain_text(found.as_ref()?, most);
    let (name, license) = (text(&form.name, MAX_NAME), text(&form.license, MAX_NAME));
    let description = text(&form.description, MAX_DESCRIPTION);
    let modalities = consent::modalities(document, &form.modalities);
    let artifacts = artifacts(document, form);
    let consent = form.consent.as_ref().and_then(|consent| consent::consent(document, form, consent));
    let (id, version, consent) = (id?, version?, consent?);
    Some(Bundle {
        name: name.unwrap_or_else(|| id.to_string()),
        description,
        license,
        modalities,
        artifacts,
        consent,
        file: file.to_owned(),
        id,
        version,
    })
}

fn parsed<T, E: std::fmt::Display>(
    document: &Document,
    found: &Found<String>,
    parse: fn(&str) -> Result<T, E>,
) -> Option<T> {
    parse(&found.value).map_err(|fault| document.fault(&found.place, fault.to_string())).ok()
}

fn artifacts(document: &Document, form: &BundleForm) -> Vec<Artifact> {
    if let Some(form) = form.artifacts.get(MAX_ITEMS) {
        document.fault(&form.place, format!("more than {MAX_ITEMS} artifacts"));
    }
    let mut seen = BTreeSet::new();
    form.artifacts.iter().take(MAX_ITEMS).filter_map(|form| artifact(document, form, &mut seen)).collect()
}

fn artifact(document: &Document, form: &ArtifactForm, seen: &mut BTreeSet<String>) -> Option<Artifact> {
    let path = form.path.as_ref().and_then(|found| match check_path(&found.value) {
        Ok(()) if !seen.insert(found.value.clone()) => {
            document.fault(&found.place, "it is named twice");
            None
        }
        Ok(()) => Some(found.value.clone()),
        Err(fault) => {
            document.fault(&found.place, fault.to_string());
            None
        }
    });
    let sha256 = form.sha256.as_ref().and_then(|found| {
        let digits =
            found.value.len() == 64 && found.value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            document.fault(&found.place, "a SHA-256 is 64 lower-case hexadecimal digits");
        }
        digits.then(|| found.value.clone())
    });
    Some(Artifact { path: path?, sha256: sha256?, bytes: form.bytes.as_ref()?.value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let faults = read_catalogue_text(Path::new("b.json"), text).expect_err("faulty");
        faults.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_of_the_meaning_is_told_at_once_with_line_key_and_hint() {
        let text = r#"{"version": 1, "release": "1.0", "bundles": [
{"id": "Bad Id", "version": "1", "modalities": ["text", "smell"], "metadata": {"consent":
 {"required": true}}},
{"id": "b", "version": "1.2.3", "modalities": ["audio", "txt"], "metadata": {"consent":
 {"required": true, "modalities": ["text", "text"], "scopes": ["audio:record", "text:*", "text:read", "text:read"],
  "note": " "}}},
{"id": "b", "version": "1.2.3", "metadata": {"consent": {"required": false}}, "artifacts": [
 {"path": "../x", "sha256": "AB", "bytes": -1}, {"path": "a", "sha256": "x", "bytes": 1}, {"path": "a", "sha256": "x", "bytes": 1}]}
]}"#;
        assert_eq!(
            faults(text),
            [
                "b.json:1: release: a version is three numbers, such as `1.4.0`",
                "b.json:2: bundles[0].id: an id is made of `a-z`, `0-9`, `.`, `_` and `-`; found `B`",
                "b.json:2: bundles[0].version: a version is three numbers, such as `1.4.0`",
                "b.json:2: bundles[0].modalities[1]: unknown modality (hint: one of text, audio, vision, video)",
                "b.json:2: bundles[0].metadata.consent.modalities: a consent that is required needs this (hint: say what kinds of data are taken in)",
                "b.json:2: bundles[0].metadata.consent.scopes: a consent that is required needs this (hint: say what may be done, such as \"text:read\")",
                "b.json:2: bundles[0].metadata.consent.note: a consent that is required needs this (hint: say what people were told)",
                "b.json:2: bundles[0].metadata.consent.modalities: the bundle takes in `text` (hint: add `text` to the consent's `modalities`, or take it from the bundle's)",
                "b.json:4: bundles[1].modalities[1]: unknown modality (hint: did you mean `text`?)",
                "b.json:4: bundles[1].metadata.consent.modalities: the bundle takes in `audio` (hint: add `audio` to the consent's `modalities`, or take it from the bundle's)",
                "b.json:5: bundles[1].metadata.consent.modalities[1]: `text` is named twice",
                "b.json:5: bundles[1].metadata.consent.scopes[0]: `audio:record` is about a modality that is not listed (hint: add `audio` to `modalities`, so that people are told)",
                "b.json:5: bundles[1].metadata.consent.scopes[1]: a scope is made of `a-z`, `0-9`, `.`, `_`, `-` and one `:`; wildcards do not exist",
                "b.json:5: bundles[1].metadata.consent.scopes[3]: `text:read` is named twice",
                "b.json:6: bundles[1].metadata.consent.note: the text is empty",
                "b.json:7: bundles[2].id: `b` is also in `b.json` on line 4 (hint: one id means one bundle)",
                "b.json:8: bundles[2].artifacts[0].bytes: expected a whole number that is not negative and fits 64 bits",
                "b.json:8: bundles[2].artifacts[0].path: `../x` has a part that leads elsewhere",
                "b.json:8: bundles[2].artifacts[0].sha256: a SHA-256 is 64 lower-case hexadecimal digits",
                "b.json:8: bundles[2].artifacts[1].sha256: a SHA-256 is 64 lower-case hexadecimal digits",
                "b.json:8: bundles[2].artifacts[2].path: it is named twice",
                "b.json:8: bundles[2].artifacts[2].sha256: a SHA-256 is 64 lower-case hexadecimal digits",
            ]
        );
    }

    #[test]
    fn an_id_that_two_files_have_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let text =
            r#"{"version":1,"bundles":[{"id":"a","version":"1.0.0","metadata":{"consent":{"required":false}}}]}"#;
        let files = ["bundles.json", "bundles.more.json"].map(|name| folder.path().join(name));
        for file in &files {
            std::fs::write(file, text).expect("written");
        }
        assert_eq!(read_catalogues(&files[..1]).expect("sound").len(), 1);
        let faults = read_catalogues(&files).expect_err("twice").to_string();
        assert!(faults.contains("bundles.more.json:1: bundles[0].id: `a` is also in"), "{faults}");
    }

    #[test]
    fn the_shipped_catalogue_is_sound() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/runtime/bundles.json");
        let bundles = read_catalogues(&[path]).expect("sound");
        assert!(bundles.iter().any(|bundle| bundle.consent.required && !bundle.consent.scopes.is_empty()));
    }
}
