//! `policy.json` as it is written: who may do what on the control API. Shape-checked and located; what the words mean
//! is decided by `governance`.

use std::path::Path;

use super::bundles::expect_form;
use super::located::{Document, Found, Place, Section};

/// Largest policy, in either language: thousands of grants, which no person reads.
pub const MAX_AUTHORITY: u64 = 256 << 10;

/// `policy.json`.
#[derive(Debug)]
pub struct AuthorityFile {
    /// Reports what is found wrong later, beside what was found wrong in the shape.
    pub document: Document,
    /// `grants`, in file order.
    pub grants: Vec<GrantForm>,
    /// `denials`, in file order.
    pub denials: Vec<GrantForm>,
}

/// One grant or denial. A list is `None` when the key is absent; an empty list was reported.
#[derive(Debug, Clone)]
pub struct GrantForm {
    /// Where it starts.
    pub place: Place,
    /// `id`.
    pub id: Option<Found<String>>,
    /// `principals`.
    pub principals: Option<Vec<Found<String>>>,
    /// `actions`.
    pub actions: Option<Vec<Found<String>>>,
    /// `resources`.
    pub resources: Option<Vec<Found<String>>>,
    /// `while_leased`; never of a denial.
    pub while_leased: Option<Found<String>>,
}

impl AuthorityFile {
    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// The document with its faults when the text is not JSON; faults of the shape wait in `document`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let document = Document::json(path, text);
        let Some(mut root) = document.root(text) else { return Err(document) };
        expect_form(&mut root);
        root.refuse("allow_all", "nobody is allowed everything", "name who may do what in `grants`");
        // For people; nothing reads it.
        let _: Option<Found<String>> = root.take("notes");
        let listed = root.has("grants");
        let grants: Vec<GrantForm> = root.sections("grants").into_iter().map(GrantForm::take_grant).collect();
        if !listed {
            root.fault("grants", "the key is missing");
        }
        let denials = root.sections("denials").into_iter().map(GrantForm::take_denial).collect();
        root.end();
        Ok(Self { document, grants, denials })
    }
}

impl GrantForm {
    fn take_grant(mut section: Section<'_, '_>) -> Self {
        require(&section, &["principals", "actions", "resources"]);
        let form = Self { while_leased: section.take("while_leased"), ..Self::take_common(&mut section) };
        section.end();
        form
    }

    fn take_denial(mut section: Section<'_, '_>) -> Self {
        // Without principals or resources it is about all of them: a denial may be wide.
        require(&section, &["actions"]);
        let form = Self::take_common(&mut section);
        section.refuse("while_leased", "a denial holds at any time", "put it on a grant");
        section.end();
        form
    }

    fn take_common(section: &mut Section<'_, '_>) -> Self {
        section.refuse("allow_all", "nobody is allowed everything", "name what is granted");
        // For people; nothing reads it.
        let _: Option<Found<String>> = section.take("note");
        Self {
            place: section.place().clone(),
            id: section.require("id"),
            principals: section.filled_list("principals"),
            actions: section.filled_list("actions"),
            resources: section.filled_list("resources"),
            while_leased: None,
        }
    }

    /// The place of `key` of this entry as a whole.
    pub fn at(&self, key: &str) -> Place {
        Place { key: format!("{}.{key}", self.place.key), line: self.place.line }
    }
}

fn require(section: &Section<'_, '_>, keys: &[&str]) {
    for key in keys.iter().filter(|key| !section.has(key)) {
        section.fault(key, "the key is missing");
    }
}
