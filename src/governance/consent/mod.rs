//! Consent: what people were told and agreed to, and whether a launch may read data.
//!
//! ```text
//! runtime/bundles*.json ── read ──> Bundle, Bundle, …  ─┐
//!                                                       ├─> Consents ── permits(scopes) ──> Acknowledged
//! consent/acknowledgements.jsonl ── who agreed, when ───┘                         or ──> ConsentMissing
//! ```
//!
//! A scope is open when a bundle lists it, and every bundle that lists it and requires consent was acknowledged in
//! exactly the words that it has now. Changed words need a new acknowledgement; a withdrawal closes the scope at once.
//!
//! Refuses: wildcards, a file that is faulty anywhere, and to forget an acknowledgement.

mod acknowledge;
mod gate;
mod read;
mod scope;

pub use acknowledge::{Acknowledgement, Acknowledgements, Act};
pub use gate::{Acknowledged, ConsentFault, ConsentMissing, Consents, Missing, Refusal, Standing, permit};
pub use read::{bundle_files, load};
pub(super) use read::{consent, modalities};
pub use scope::{Modality, Scope, ScopeFault};

use sha2::{Digest, Sha256};

/// What one bundle says about consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// Whether somebody must acknowledge it before data is read.
    pub required: bool,
    /// What kinds of data it is about.
    pub modalities: Vec<Modality>,
    /// What may be done.
    pub scopes: Vec<Scope>,
    /// What people were told.
    pub note: Option<String>,
}

impl Consent {
    /// SHA-256 over everything that it says, in hexadecimal: an acknowledgement is bound to these words.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        // Each part carries its length, so that two different consents never run into the same bytes.
        let mut part = |text: &str| {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        };
        part("arw.consent/v1");
        part(if self.required { "required" } else { "optional" });
        for (name, words) in [
            ("modalities", self.modalities.iter().map(|modality| modality.code()).collect::<Vec<_>>()),
            ("scopes", self.scopes.iter().map(Scope::as_str).collect()),
        ] {
            let mut words = words;
            words.sort_unstable();
            part(name);
            part(&words.join(" "));
        }
        part(self.note.as_deref().unwrap_or_default());
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
