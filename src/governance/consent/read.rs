//! From the files of bundles to what they say about consent.

use std::path::{Path, PathBuf};

use crate::config::located::{Document, Found, Place, nearest};
use crate::config::{BundleForm, ConsentForm, Fault, Faults};

use super::super::bundles::{Bundle, read_catalogues};
use super::{Consent, Modality, Scope};

/// Most files of bundles.
const MAX_FILES: usize = 256;
/// Most scopes of one consent, and most modalities: people can read that many.
const MAX_ITEMS: usize = 64;
/// Longest note, in bytes: a page.
const MAX_NOTE: usize = 4_096;

/// Every `runtime/bundles*.json` of the configuration folder, in the order of their names.
///
/// # Errors
/// When the folder is there and cannot be read, or holds too many.
pub fn bundle_files(config_dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let folder = config_dir.join("runtime");
    let unreadable = |error: std::io::Error| Fault::new(&folder, None, "", format!("cannot be read: {error}"));
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"bundles") && bytes.ends_with(b".json") {
            if files.len() == MAX_FILES {
                return Err(Fault::new(&folder, None, "", format!("holds more than {MAX_FILES} files of bundles")));
            }
            files.push(folder.join(name));
        }
    }
    files.sort();
    Ok(files)
}

/// Every bundle of the configuration folder.
///
/// # Errors
/// Every fault of every file: of a faulty set of consents nothing is believed.
pub fn load(config_dir: &Path) -> Result<Vec<Bundle>, Faults> {
    let files = bundle_files(config_dir).map_err(|fault| Faults(vec![fault]))?;
    read_catalogues(&files)
}

/// The modalities of a list, each known and named once.
pub(in crate::governance) fn modalities(document: &Document, list: &[Found<String>]) -> Vec<Modality> {
    let names: Vec<&str> = Modality::ALL.iter().map(|modality| modality.code()).collect();
    let mut read = Vec::new();
    for found in bounded(document, list) {
        let Some(modality) = Modality::from_code(&found.value) else {
            let hint = match nearest(&found.value, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("one of {}", names.join(", ")),
            };
            document.fault_with_hint(&found.place, "unknown modality", hint);
            continue;
        };
        if read.contains(&modality) {
            document.fault(&found.place, format!("`{modality}` is named twice"));
        } else {
            read.push(modality);
        }
    }
    read
}

/// What `form` means; `None` when a part of it is faulty, and that was reported.
pub(in crate::governance) fn consent(document: &Document, bundle: &BundleForm, form: &ConsentForm) -> Option<Consent> {
    let at = |key: &str| Place { key: format!("{}.{key}", form.place.key), line: form.place.line };
    let modalities = form.modalities.as_deref().map(|list| modalities(document, list)).unwrap_or_default();
    let scopes = scopes(document, form, &modalities);
    let note = form.note.as_ref().and_then(|found| document.plain_text(found, MAX_NOTE));
    let required = form.required.as_ref()?.value;
    if required {
        let missing = [
            ("modalities", form.modalities.as_ref().is_none_or(Vec::is_empty), "say what kinds of data are taken in"),
            ("scopes", form.scopes.as_ref().is_none_or(Vec::is_empty), "say what may be done, such as \"text:read\""),
            ("note", form.note.is_none(), "say what people were told"),
        ];
        for (key, _, hint) in missing.into_iter().filter(|(_, missing, _)| *missing) {
            document.fault_with_hint(&at(key), "a consent that is required needs this", hint);
        }
    }
    // Those of the bundle that are not known are reported where the bundle is read.
    for found in &bundle.modalities {
        if let Some(modality) = Modality::from_code(&found.value).filter(|modality| !modalities.contains(modality)) {
            let hint = format!("add `{modality}` to the consent's `modalities`, or take it from the bundle's");
            document.fault_with_hint(&at("modalities"), format!("the bundle takes in `{modality}`"), hint);
        }
    }
    Some(Consent { required, modalities, scopes, note })
}

fn scopes(document: &Document, form: &ConsentForm, modalities: &[Modality]) -> Vec<Scope> {
    let mut read = Vec::new();
    for found in bounded(document, form.scopes.as_deref().unwrap_or_default()) {
        let scope = match Scope::parse(&found.value) {
            Ok(scope) => scope,
            Err(fault) => {
                document.fault(&found.place, fault.to_string());
                continue;
            }
        };
        if let Some(modality) = scope.modality().filter(|modality| !modalities.contains(modality)) {
            let hint = format!("add `{modality}` to `modalities`, so that people are told");
            document.fault_with_hint(&found.place, format!("`{scope}` is about a modality that is not listed"), hint);
        }
        if read.contains(&scope) {
            document.fault(&found.place, format!("`{scope}` is named twice"));
        } else {
            read.push(scope);
        }
    }
    read
}

fn bounded<'l>(document: &Document, list: &'l [Found<String>]) -> &'l [Found<String>] {
    if let Some(found) = list.get(MAX_ITEMS) {
        document.fault(&found.place, format!("more than {MAX_ITEMS} items"));
    }
    &list[..list.len().min(MAX_ITEMS)]
}
