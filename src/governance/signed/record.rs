//! How something stands on a shelf, as its files say it.

use serde::{Deserialize, Serialize};

use crate::domain::{Timestamp, codes};

use super::version::Version;

codes! {
    /// Whether something is in force.
    Status {
        /// Its current version is.
        Installed => "installed",
        /// It was taken out of use; its versions are kept.
        Retired => "retired",
    }
}

codes! {
    /// What was done.
    Act {
        /// A version was put in force.
        Install => "install",
        /// An earlier one was put in force again.
        Rollback => "rollback",
        /// It was taken out of use.
        Retire => "retire",
    }
}

/// One version that was put in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// Which.
    pub version: Version,
    /// The digest of its tree.
    pub tree: String,
    /// Who signed it; nobody did where unsigned material is allowed.
    pub signer: Option<String>,
    /// When, as the signer says.
    pub signed_at: Option<Timestamp>,
    /// When it was put here.
    pub placed_at: Timestamp,
    /// By whom.
    pub placed_by: String,
}

/// How something stands: `records/<id>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Whether it is in force.
    pub status: Status,
    /// The version in force, or the last that was.
    pub current: Version,
    /// The highest version that was ever put here. What is older is not taken for new.
    pub highest: Version,
    /// The versions that are kept, in the order in which they were replaced; the newest comes last.
    pub revisions: Vec<Revision>,
    /// The end.
    pub retired: Option<Retired>,
}

/// Taken out of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub note: String,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// What.
    pub act: Act,
    /// To what.
    pub id: String,
    /// To which version.
    pub version: Version,
    /// The digest of its tree.
    pub tree: String,
    /// Who signed it.
    pub signer: Option<String>,
    /// Who did it.
    pub by: String,
    /// Why.
    pub note: Option<String>,
}

impl Record {
    /// The revision of `version`.
    pub fn revision(&self, version: Version) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.version == version)
    }

    /// The revision in force, or the last that was.
    pub fn in_force(&self) -> Option<&Revision> {
        self.revision(self.current)
    }

    /// The revision that came before the one in force.
    pub fn earlier(&self) -> Option<&Revision> {
        let at = self.revisions.iter().position(|revision| revision.version == self.current)?;
        self.revisions[..at].last()
    }
}
