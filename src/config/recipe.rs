//! The manifest of a recipe as it is written, in TOML or JSON: one runtime, and what makes a recipe of it.
//! Shape-checked and located; what the words mean is decided by `governance` and `supervisor`.

use std::path::Path;

use super::located::{Document, Found};
use super::runtimes::{RuntimeForm, RuntimesFile};

/// Largest manifest of a recipe.
pub const MAX_RECIPE: u64 = 256 << 10;

/// `recipe.toml` or `recipe.json`.
#[derive(Debug)]
pub struct RecipeFile {
    /// `version`.
    pub version: Option<Found<String>>,
    /// `description`.
    pub description: Option<Found<String>>,
    /// `egress`: the URLs that it wants to reach.
    pub egress: Vec<Found<String>>,
    /// Everything else: the runtime, with the document that faults are reported to.
    pub runtime: RuntimesFile,
}

impl RecipeFile {
    /// Reads `text` as the contents of `path`; it is JSON when the name says so, and TOML otherwise.
    ///
    /// # Errors
    /// The document with its faults when the text is neither; faults of the shape wait in `runtime.document`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let json = path.extension().is_some_and(|extension| extension == "json");
        let document = if json { Document::json(path, text) } else { Document::new(path, text) };
        let Some(mut root) = document.root(text) else { return Err(document) };
        let version = root.require("version");
        let description = root.require("description");
        let egress = root.list("egress").unwrap_or_default();
        let runtime = RuntimeForm::take(root);
        Ok(Self { version, description, egress, runtime: RuntimesFile { document, runtimes: vec![runtime] } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_reads_alike_in_both_forms() {
        let toml = "id = \"a\"\nversion = \"1.0.0\"\ndescription = \"d\"\npersona = \"p\"\negress = [\"https://x\"]\n\
                    [process]\ncommand = \"true\"\n";
        let json = r#"{"id":"a","version":"1.0.0","description":"d","persona":"p","egress":["https://x"],
                       "process":{"command":"true"}}"#;
        for (name, text) in [("r.toml", toml), ("r.json", json)] {
            let file = RecipeFile::parse(Path::new(name), text).expect("read");
            assert_eq!(file.egress[0].value, "https://x");
            assert_eq!(file.runtime.runtimes[0].process.command.as_ref().expect("there").value, "true");
            assert_eq!(file.runtime.document.into_faults(), []);
        }
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_of_all_keys() {
        let text = "id = \"a\"\nversion = \"1.0.0\"\ndescription = \"d\"\npersona = \"p\"\negres = []\n[process]\ncommand = \"x\"\n";
        let file = RecipeFile::parse(Path::new("r.toml"), text).expect("read");
        let faults = file.runtime.document.into_faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].to_string().contains("did you mean `egress`?"), "{}", faults[0]);
    }
}
