//! `runtime/bundle_signers.json` as it is written: whose signatures are believed. Shape-checked and located; what
//! a key or a time means is decided by `governance`.

use std::path::Path;

use crate::domain::Timestamp;

use super::bundles::expect_form;
use super::located::{Document, Found, Place, Section};

/// Largest file of signers.
pub const MAX_SIGNERS: u64 = 1 << 20;

/// `bundle_signers.json`.
#[derive(Debug)]
pub struct SignersFile {
    /// Reports what is found wrong later, beside what was found wrong in the shape.
    pub document: Document,
    /// `notes`: for people.
    pub notes: Option<Found<String>>,
    /// `signers`, in file order.
    pub signers: Vec<SignerForm>,
}

/// One signer.
#[derive(Debug, Clone)]
pub struct SignerForm {
    /// Where it starts.
    pub place: Place,
    /// `id`.
    pub id: Option<Found<String>>,
    /// `public_key`.
    pub public_key: Option<Found<String>>,
    /// `signs`; its absence was reported.
    pub signs: Vec<Found<String>>,
    /// `valid_from`.
    pub valid_from: Option<Found<Timestamp>>,
    /// `valid_to`.
    pub valid_to: Option<Found<Timestamp>>,
    /// `revoked.reason`; there when the key is revoked.
    pub revoked: Option<RevokedForm>,
    /// `note`.
    pub note: Option<Found<String>>,
}

/// `revoked`: that it stands there at all revokes the key.
#[derive(Debug, Clone)]
pub struct RevokedForm {
    /// `at`.
    pub at: Option<Found<Timestamp>>,
    /// `reason`.
    pub reason: Option<Found<String>>,
}

impl SignersFile {
    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// The document with its faults when the text is not JSON; faults of the shape wait in `document`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let document = Document::json(path, text);
        let Some(mut root) = document.root(text) else { return Err(document) };
        expect_form(&mut root);
        let notes = root.take("notes");
        let listed = root.has("signers");
        let signers: Vec<SignerForm> = root.sections("signers").into_iter().map(SignerForm::take).collect();
        if !listed {
            root.fault("signers", "the key is missing");
        }
        root.end();
        Ok(Self { document, notes, signers })
    }
}

impl SignerForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let listed = section.has("signs");
        let form = Self {
            place: section.place().clone(),
            id: section.require("id"),
            public_key: section.require("public_key"),
            signs: section.filled_list("signs").unwrap_or_default(),
            valid_from: section.require("valid_from"),
            valid_to: section.require("valid_to"),
            revoked: section.section("revoked").map(|mut revoked| {
                let form = RevokedForm { at: revoked.take("at"), reason: revoked.require("reason") };
                revoked.end();
                form
            }),
            note: section.take("note"),
        };
        if !listed {
            section.fault("signs", "the key is missing: write [\"recipe\"], [\"bundle\"] or both");
        }
        section.end();
        form
    }
}
