//! Bundles: what runtimes are made of.
//!
//! ```text
//! runtime/bundles*.json ── read_catalogues ──> Bundle, …     what this host means by a bundle, and its consent
//! folder with bundle.json + bundle.sig ── import ──> shelf   what was verified, five revisions of it
//! ```
//!
//! An import never grants consent: that is the host's own to give, in its catalogue.

mod catalogue;
mod store;

pub use catalogue::{Artifact, Bundle, read_catalogue_text, read_catalogues};
pub use store::{BundleFault, Finding, KEPT_REVISIONS, Signable, audit, import, rollback, shelf, signable};
