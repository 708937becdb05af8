//! What this host believes: its signers, and whether unsigned material is taken at all.

use std::path::Path;

use crate::config::Faults;
use crate::domain::Timestamp;

use super::signers::Signers;
use super::statement::{Kind, SignatureFault, Signed, verify};
use super::tree::Material;
use super::version::Version;

/// What is made of material without a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// It is refused: the default.
    Refuse,
    /// It is taken (`ARW_REQUIRE_SIGNED_BUNDLES=0`). A signature that is there must be good all the same.
    Accept,
}

/// What is believed at one moment.
#[derive(Debug)]
pub struct Trust {
    signers: Result<Signers, Faults>,
    unsigned: Unsigned,
    now: Timestamp,
}

impl Trust {
    /// That of the configuration folder. A faulty file of signers is told by the first check that needs it.
    pub fn load(config_dir: &Path, unsigned: Unsigned, now: Timestamp) -> Self {
        Self { signers: Signers::load(config_dir), unsigned, now }
    }

    /// The moment of it.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// What is made of unsigned material.
    pub const fn unsigned(&self) -> Unsigned {
        self.unsigned
    }

    /// Whether `material` is what a trusted signer signed as this version of this thing; `None` when it is unsigned
    /// and that is accepted.
    ///
    /// # Errors
    /// [`SignatureFault`].
    pub fn check(
        &self,
        material: &Material,
        kind: Kind,
        subject: (&str, Version),
    ) -> Result<Option<Signed>, SignatureFault> {
        if material.signature.is_none() {
            return match self.unsigned {
                Unsigned::Accept => Ok(None),
                Unsigned::Refuse => Err(SignatureFault::Missing),
            };
        }
        let signers = self.signers.as_ref().map_err(|faults| SignatureFault::Signers(faults.clone()))?;
        verify(material.signature.as_deref(), signers, kind, subject, &material.tree, self.now).map(Some)
    }
}
