//! A file of bundles as it is written (`runtime/bundles*.json`, or the `bundle.json` of one bundle): shape-checked
//! and located, not yet understood. What consent means is decided by `governance`.

use std::path::Path;

use super::located::{Document, Found, Place, Section, nearest};

/// Largest file of bundles: thousands of bundles with notes fit.
pub const MAX_BUNDLES: u64 = 4 << 20;
/// The one form of the file that there is.
const FORM: u64 = 1;

/// `bundles.json`.
#[derive(Debug)]
pub struct BundlesFile {
    /// Reports what is found wrong later, beside what was found wrong in the shape.
    pub document: Document,
    /// `release`: the version of the file as a whole.
    pub release: Option<Found<String>>,
    /// `bundles`, in file order.
    pub bundles: Vec<BundleForm>,
}

/// One bundle.
#[derive(Debug, Clone)]
pub struct BundleForm {
    /// Where it starts.
    pub place: Place,
    /// `id`.
    pub id: Option<Found<String>>,
    /// `version`.
    pub version: Option<Found<String>>,
    /// `name`.
    pub name: Option<Found<String>>,
    /// `description`.
    pub description: Option<Found<String>>,
    /// `license`.
    pub license: Option<Found<String>>,
    /// `modalities`.
    pub modalities: Vec<Found<String>>,
    /// `artifacts`.
    pub artifacts: Vec<ArtifactForm>,
    /// `metadata.consent`; its absence was reported.
    pub consent: Option<ConsentForm>,
}

/// One file of a bundle.
#[derive(Debug, Clone)]
pub struct ArtifactForm {
    /// Where it starts.
    pub place: Place,
    /// `path`.
    pub path: Option<Found<String>>,
    /// `sha256`.
    pub sha256: Option<Found<String>>,
    /// `bytes`.
    pub bytes: Option<Found<u64>>,
}

/// `metadata.consent`.
#[derive(Debug, Clone)]
pub struct ConsentForm {
    /// Where it starts.
    pub place: Place,
    /// `required`.
    pub required: Option<Found<bool>>,
    /// `modalities`.
    pub modalities: Option<Vec<Found<String>>>,
    /// `scopes`.
    pub scopes: Option<Vec<Found<String>>>,
    /// `note`.
    pub note: Option<Found<String>>,
}

impl BundlesFile {
    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// The document with its faults when the text is not JSON. Faults of the shape do not stop the reading: they
    /// wait in `document` for those that the meaning adds.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let document = Document::json(path, text);
        let Some(mut root) = document.root(text) else { return Err(document) };
        expect_form(&mut root);
        // For people; nothing reads it.
        let _: Option<Found<String>> = root.take("notes");
        let release = root.take("release");
        let listed = root.has("bundles");
        let bundles: Vec<BundleForm> = root.sections("bundles").into_iter().map(BundleForm::take).collect();
        if !listed {
            root.fault("bundles", "the key is missing");
        }
        root.end();
        Ok(Self { document, release, bundles })
    }
}

/// Takes `version`, which says how the rest is to be read.
pub(super) fn expect_form(root: &mut Section<'_, '_>) {
    if let Some(version) = root.require::<u64>("version").filter(|version| version.value != FORM) {
        let message = format!("the form `{}` is not known here", version.value);
        root.document_fault(&version.place, message, format!("write {FORM}"));
    }
}

impl BundleForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            place: section.place().clone(),
            id: section.require("id"),
            version: section.require("version"),
            name: section.take("name"),
            description: section.take("description"),
            license: section.take("license"),
            modalities: section.list("modalities").unwrap_or_default(),
            artifacts: section.sections("artifacts").into_iter().map(ArtifactForm::take).collect(),
            consent: consent(&mut section),
        };
        section.end();
        form
    }
}

/// `metadata` holds what others put there; only a slip of `consent` is not theirs.
fn consent(bundle: &mut Section<'_, '_>) -> Option<ConsentForm> {
    const HINT: &str = "write `required`, `modalities`, `scopes` and `note`; docs/consent.md has an example";
    let place = bundle.place_of("metadata");
    if !bundle.has("metadata") {
        bundle.document_fault(
            &Place { key: format!("{}.consent", place.key), ..place },
            "the consent is missing",
            HINT,
        );
        return None;
    }
    let mut metadata = bundle.section("metadata")?;
    let had = metadata.has("consent");
    let form = metadata.section("consent").map(ConsentForm::take);
    if !had {
        metadata.document_fault(&metadata.place_of("consent"), "the consent is missing", HINT);
    }
    for (key, place) in metadata.rest() {
        if nearest(key, &["consent"]).is_some() {
            metadata.document_fault(&place, "this is almost `consent`", "did you mean `consent`?");
        }
    }
    form
}

impl ConsentForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            place: section.place().clone(),
            required: section.require("required"),
            modalities: section.list("modalities"),
            scopes: section.list("scopes"),
            note: section.take("note"),
        };
        section.end();
        form
    }
}

impl ArtifactForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            place: section.place().clone(),
            path: section.require("path"),
            sha256: section.require("sha256"),
            bytes: section.require("bytes"),
        };
        section.end();
        form
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(text: &str) -> Vec<String> {
        let document = match BundlesFile::parse(Path::new("b.json"), text) {
            Ok(file) => file.document,
            Err(document) => document,
        };
        document.into_faults().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_of_the_shape_is_reported_with_its_line() {
        let text = r#"{
"version": 2, "bundels": [],
"bundles": [
 {"id": "a", "version": "1.0.0", "metadata": {
   "consent": {"required": "yes", "scope": []},
   "consnt": {}, "team": "x"}},
 {"id": 5, "version": "1.0.0", "metadata": {}},
 {"id": "c", "id": "d", "version": "1.0.0"},
 {"id": "e", "version": "1.0.0", "metadata": [], "artifacts": {}}
]}"#;
        const HINT: &str =
            "(hint: write `required`, `modalities`, `scopes` and `note`; docs/consent.md has an example)";
        assert_eq!(
            faults_of(text),
            [
                "b.json:2: version: the form `2` is not known here (hint: write 1)",
                "b.json:2: bundels: unknown key `bundels` (hint: did you mean `bundles`?)",
                "b.json:5: bundles[0].metadata.consent.required: expected true or false, found a text",
                "b.json:5: bundles[0].metadata.consent.scope: unknown key `scope` (hint: did you mean `scopes`?)",
                "b.json:6: bundles[0].metadata.consnt: this is almost `consent` (hint: did you mean `consent`?)",
                "b.json:7: bundles[1].id: expected a text in quotes, found a whole number",
                &format!("b.json:7: bundles[1].metadata.consent: the consent is missing {HINT}"),
                "b.json:8: the key `id` stands here twice",
                &format!("b.json:8: bundles[2].metadata.consent: the consent is missing {HINT}"),
                "b.json:9: bundles[3].artifacts: expected a list of tables (hint: \"artifacts\": [{ … }])",
                "b.json:9: bundles[3].metadata: expected a table",
            ]
        );
    }

    #[test]
    fn a_file_that_is_not_json_has_one_fault_with_its_line() {
        assert_eq!(faults_of("{\n\"version\": 1,\n}"), ["b.json:3: not JSON: a key in quotes is expected"]);
        assert_eq!(faults_of(""), ["b.json:1: not JSON: the file ends in the middle"]);
        assert_eq!(faults_of("{}").len(), 2);
    }
}
