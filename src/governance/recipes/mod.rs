//! Recipes: automations as signed folders.
//!
//! ```text
//! folder ── install ──> shelf ── take ──> Recipe ── preview ──> Plan      spawns nothing, lets nothing leave
//!           verifies            hashes      └── spec ──> supervisor::RuntimeSpec
//! ```
//!
//! A recipe is one runtime, with a version, and the hosts that it wants to reach. What it may reach is its persona's
//! policy to say; what it may read is for the host's consents. Its files lie at `/recipe` inside, and cannot be changed
//! there.
//!
//! A recipe is put to work by an operator: from then on the daemon declares its runtime beside those of the manifest, as
//! the version that was put to work, for as long as that is installed, unchanged and signed by somebody who is trusted.
//! Each launch asks again.
//!
//! Refuses: a recipe that names a user, a folder, a secret's file or another runtime of the host. It travels; those stay.

mod plan;
mod read;
mod store;
mod work;

pub use plan::{EgressAnswer, EgressWord, Plan, ScopeAnswer, plan};
pub use read::{INSIDE, Recipe, read};
pub use store::{Installed, RecipeFault, SHAPE, install, load, shelf};
pub use work::{Premises, Put, Recipes, RunFault, permit};
