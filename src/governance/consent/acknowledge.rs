//! Who agreed to what, and when.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::{BundleId, Timestamp, codes};

use super::super::bundles::Bundle;
use super::super::journal::{Journal, JournalFault};
use super::Scope;

codes! {
    /// What a person did.
    Act {
        /// Agreed, for whom they speak.
        Acknowledge => "acknowledge",
        /// Took it back.
        Withdraw => "withdraw",
    }
}

/// One line of `consent/acknowledgements.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// When.
    pub time: Timestamp,
    /// What was done.
    pub act: Act,
    /// Which bundle's consent.
    pub bundle: BundleId,
    /// [`Consent::digest`](super::Consent::digest) of the words that were agreed to.
    pub consent_sha256: String,
    /// The scopes that they open, for people who read the record.
    pub scopes: Vec<String>,
    /// Who.
    pub by: String,
    /// Why, and on whose behalf.
    pub note: String,
}

impl Acknowledgement {
    /// What `by` did about `bundle` at the moment `time`.
    pub fn new(time: Timestamp, act: Act, bundle: &Bundle, by: String, note: String) -> Self {
        Self {
            time,
            act,
            bundle: bundle.id.clone(),
            consent_sha256: bundle.consent.digest(),
            scopes: bundle.consent.scopes.iter().map(Scope::to_string).collect(),
            by,
            note,
        }
    }
}

/// The record. Nothing is ever taken out of it, so it outlasts the 90 days that the handbook asks for.
#[derive(Debug, Clone)]
pub struct Acknowledgements {
    journal: Journal,
}

impl Acknowledgements {
    /// That of the state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self { journal: Journal::new(state_dir.join("consent/acknowledgements.jsonl")) }
    }

    /// Every line, oldest first.
    ///
    /// # Errors
    /// When the record is damaged or cannot be read; nothing is then known to be acknowledged.
    pub fn read(&self) -> Result<Vec<Acknowledgement>, JournalFault> {
        self.journal.read()
    }

    /// Adds a line; it is on the disk when this returns.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn add(&self, line: &Acknowledgement) -> Result<(), JournalFault> {
        self.journal.append(line)
    }
}

/// The last line about each bundle.
pub(super) fn latest(lines: Vec<Acknowledgement>) -> BTreeMap<BundleId, Acknowledgement> {
    // Later lines take the place of earlier ones: the file's order counts, clocks can go back.
    lines.into_iter().map(|line| (line.bundle.clone(), line)).collect()
}
