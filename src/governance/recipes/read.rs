//! From the manifest of a recipe to what it means.

use std::path::Path;
use std::sync::Arc;

use crate::config::located::{Document, Place};
use crate::config::{Fault, Faults, RecipeFile, RuntimeForm};
use crate::policy::Question;
use crate::supervisor::{self, Defaults, RuntimeSpec};

use super::super::signed::{Material, Version};

/// Where the files of a recipe lie in its sandbox, read-only.
pub const INSIDE: &str = "/recipe";
/// Longest description, in bytes.
const MAX_DESCRIPTION: usize = 2_048;
/// Most hosts that a recipe asks for.
const MAX_EGRESS: usize = 256;

/// One recipe, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Its version.
    pub version: Version,
    /// What it does.
    pub description: String,
    /// What it wants to reach: the URL as written, and how the gateway reads it.
    pub egress: Vec<(String, Question)>,
    /// The runtime that it becomes, of the same id.
    pub spec: Arc<RuntimeSpec>,
}

/// Reads the manifest of `material`, which lies in `folder`.
///
/// # Errors
/// Every fault of it.
pub fn read(folder: &Path, material: &Material) -> Result<Recipe, Faults> {
    read_for(folder, material, &Defaults::default())
}

/// The same on a host that has these defaults.
///
/// # Errors
/// Every fault of it.
pub(super) fn read_for(folder: &Path, material: &Material, defaults: &Defaults) -> Result<Recipe, Faults> {
    let path = folder.join(&material.manifest_name);
    let text =
        std::str::from_utf8(&material.manifest).map_err(|_| Faults(vec![Fault::new(&path, None, "", "not UTF-8")]))?;
    let file = RecipeFile::parse(&path, text).map_err(|document| Faults(document.into_faults()))?;
    let RecipeFile { version, description, egress, runtime } = file;
    let document = &runtime.document;
    let version = version.and_then(|found| {
        Version::parse(&found.value).map_err(|fault| document.fault(&found.place, fault.to_string())).ok()
    });
    let description = description.and_then(|found| document.plain_text(&found, MAX_DESCRIPTION));
    if let Some(found) = egress.get(MAX_EGRESS) {
        document.fault(&found.place, format!("more than {MAX_EGRESS} hosts"));
    }
    let mut questions: Vec<(String, Question)> = Vec::new();
    for found in egress.iter().take(MAX_EGRESS) {
        match Question::of_url(&found.value) {
            Ok(question) if questions.iter().any(|(_, asked)| *asked == question) => {
                document.fault(&found.place, "it is named twice");
            }
            Ok(question) => questions.push((found.value.clone(), question)),
            Err(fault) => {
                document.fault_with_hint(
                    &found.place,
                    fault,
                    "write one URL for each host, such as `https://api.example.com`",
                );
            }
        }
    }
    for form in &runtime.runtimes {
        stays_on_its_host(document, form);
        its_own_program_is_there(document, form, material);
    }
    let manifest = supervisor::read(runtime, defaults)?;
    let missing = || Faults(vec![Fault::new(&path, None, "", "the manifest is not whole")]);
    let spec = manifest.runtimes().next().cloned().ok_or_else(missing)?;
    Ok(Recipe {
        version: version.ok_or_else(missing)?,
        description: description.ok_or_else(missing)?,
        egress: questions,
        spec,
    })
}

/// What names something of one host does not travel, and would give a signer rights over that host.
fn stays_on_its_host(document: &Document, form: &RuntimeForm) {
    const HINT: &str = "declare a runtime in runtimes.toml for that";
    if let Some(found) = &form.process.user {
        document.fault_with_hint(&found.place, "a recipe does not choose a user of the host", HINT);
    }
    for (_, found) in &form.process.secrets {
        document.fault_with_hint(&found.place, "a recipe does not read files of the host", HINT);
    }
    for found in &form.process.workspaces {
        document.fault_with_hint(&found.place, "a recipe does not choose folders of the host", HINT);
    }
    for found in &form.depends_on {
        document.fault_with_hint(&found.place, "a recipe stands by itself", HINT);
    }
    for found in &form.publish {
        document.fault_with_hint(&found.place, "a recipe opens no port of the host", HINT);
    }
}

fn its_own_program_is_there(document: &Document, form: &RuntimeForm, material: &Material) {
    let Some(found) = &form.process.command else { return };
    let Some(path) = found.value.strip_prefix(INSIDE).and_then(|rest| rest.strip_prefix('/')) else { return };
    let place: &Place = &found.place;
    match material.tree.entry(path) {
        None => document.fault(place, format!("`{path}` is not a file of the recipe")),
        Some(entry) if !entry.executable => {
            document.fault_with_hint(place, format!("`{path}` cannot be executed"), "chmod u+x it, then sign");
        }
        Some(_) => {}
    }
}
