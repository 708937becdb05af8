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
//! Refuses: a recipe that names a user, a secret's file or another runtime of the host. It travels; those stay.

mod plan;
mod read;
mod store;

pub use plan::{EgressAnswer, EgressWord, Plan, ScopeAnswer, plan};
pub use read::{INSIDE, Recipe, read};
pub use store::{Installed, RecipeFault, SHAPE, install, load, shelf};
