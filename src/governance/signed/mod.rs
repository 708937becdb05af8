//! Material that somebody signed: what it is, who answers for it, and where it is kept.
//!
//! ```text
//! folder or file ── tree::copy ──> Material ── Statement + Signers ──> Signed ── Shelf ──> version folder + record
//!                   hashes what it copies          verify             the proof            renamed into place
//! ```
//!
//! The copy is what is hashed, verified and kept; the source is read once and never looked at again, so there is
//! nothing to swap between a check and its use. What is kept is hashed again whenever it is taken from the shelf.
//!
//! Refuses: links, second names of a file, devices, set-user-id bits, names that two programs could read differently,
//! anything without a bound, and a signature over other content, another kind, another id or another version.

mod key;
mod look;
mod path;
mod record;
mod shelf;
mod signers;
mod statement;
mod tree;
mod trust;
mod version;

#[cfg(test)]
mod tests;

pub use key::{KeyFault, PrivateKey};
pub use path::{PathFault, check_path};
pub use record::{Act, Entry, Record, Retired, Revision, Status};
pub use shelf::{Expect, Placed, Shelf, ShelfFault, Staged};
pub use signers::{Purpose, Signer, SignerState, Signers};
pub use statement::{Kind, SignatureFault, Signed, Statement, sign, verify};
pub use tree::{Material, Shape, Tree, TreeEntry, TreeFault, read};
pub use trust::{Trust, Unsigned};
pub use version::{Version, VersionFault};
