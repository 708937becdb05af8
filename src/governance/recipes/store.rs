//! Recipes on this host.

use std::path::{Path, PathBuf};

use crate::config::{Faults, MAX_RECIPE};
use crate::domain::RuntimeId;
use crate::supervisor::Defaults;

use super::super::signed::{
    Expect, Kind, Placed, Record, Revision, Shape, Shelf, ShelfFault, SignatureFault, Signed, TreeFault, Trust, Version,
};
use super::read::{Recipe, read, read_for};

/// A folder with `recipe.toml` or `recipe.json`, or one such file. 64 MiB: programs and prompts, not models.
pub const SHAPE: Shape = Shape {
    manifests: &["recipe.toml", "recipe.json"],
    signature: "recipe.sig",
    max_manifest: MAX_RECIPE,
    max_files: 1_024,
    max_bytes: 64 << 20,
};

/// Why a recipe is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RecipeFault {
    /// Its manifest.
    #[error("{0}")]
    Manifest(Faults),
    /// Its signature.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// Its files, or the shelf.
    #[error(transparent)]
    Shelf(#[from] ShelfFault),
}

impl RecipeFault {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "recipe_faulty",
            Self::Signature(fault) => fault.code(),
            Self::Shelf(ShelfFault::Unknown(_) | ShelfFault::NotKept { .. }) => "no_such_recipe",
            Self::Shelf(ShelfFault::Retired { .. }) => "recipe_retired",
            Self::Shelf(ShelfFault::Changed { .. }) => "content_changed",
            Self::Shelf(_) => "recipe_unreadable",
        }
    }
}

impl From<TreeFault> for RecipeFault {
    fn from(fault: TreeFault) -> Self {
        Self::Shelf(ShelfFault::Tree(fault))
    }
}

/// A recipe that is in force, and was checked again when it was taken.
#[derive(Debug)]
pub struct Installed {
    /// What it is.
    pub recipe: Recipe,
    /// Who stands behind it; `None` where unsigned recipes are accepted.
    pub signed: Option<Signed>,
    /// The folder of its files.
    pub folder: PathBuf,
    /// How it stands.
    pub record: Record,
    /// The version in force.
    pub revision: Revision,
}

/// The installed recipes of the state folder. Every version is kept.
pub fn shelf(state_dir: &Path) -> Shelf {
    Shelf::new(state_dir.join("recipes"), SHAPE, None)
}

/// Copies the recipe at `source`, verifies the copy and puts it in force.
///
/// # Errors
/// [`RecipeFault`]; what was in force stays so.
pub fn install(
    shelf: &Shelf,
    source: &Path,
    trust: &Trust,
    expect: Expect,
    by: &str,
) -> Result<(Recipe, Record), RecipeFault> {
    let staged = shelf.stage(source)?;
    let recipe = read(source, staged.material()).map_err(RecipeFault::Manifest)?;
    let subject = (recipe.spec.id.as_str(), recipe.version);
    let signed = trust.check(staged.material(), Kind::Recipe, subject)?;
    let record = staged.place(subject, signed.as_ref(), expect, by, trust.now())?;
    Ok((recipe, record))
}

/// Takes the recipe in force for a launch or a preview: hashed, read and verified again.
///
/// # Errors
/// [`RecipeFault`]: it is not installed, was changed, or is signed by somebody who is trusted no more.
pub fn load(shelf: &Shelf, id: &RuntimeId, trust: &Trust) -> Result<Installed, RecipeFault> {
    checked(shelf.take(id.as_str())?, id, trust, &Defaults::default())
}

/// Takes the version of a recipe that was put to work, whatever was installed since: hashed, read and verified again.
///
/// # Errors
/// As [`load`]; also where the recipe was retired, or that version has other files.
pub(super) fn load_version(
    shelf: &Shelf,
    id: &RuntimeId,
    (version, tree): (Version, Option<&str>),
    trust: &Trust,
    defaults: &Defaults,
) -> Result<Installed, RecipeFault> {
    let record = shelf.record(id.as_str())?.ok_or_else(|| ShelfFault::Unknown(id.to_string()))?;
    if let Some(retired) = &record.retired {
        let (by, note) = (retired.by.clone(), retired.note.clone());
        return Err(ShelfFault::Retired { id: id.to_string(), by, note }.into());
    }
    let placed = shelf.take_version(record, version)?;
    if let Some(expected) = tree.filter(|tree| *tree != placed.revision.tree) {
        let (expected, found) = (expected.to_owned(), placed.revision.tree);
        return Err(ShelfFault::Changed { id: id.to_string(), version, expected, found }.into());
    }
    checked(placed, id, trust, defaults)
}

fn checked(placed: Placed, id: &RuntimeId, trust: &Trust, defaults: &Defaults) -> Result<Installed, RecipeFault> {
    let recipe = read_for(&placed.folder, &placed.material, defaults).map_err(RecipeFault::Manifest)?;
    let signed = trust.check(&placed.material, Kind::Recipe, (id.as_str(), placed.revision.version))?;
    if (recipe.spec.id.as_str(), recipe.version) != (id.as_str(), placed.revision.version) {
        let version = placed.revision.version;
        return Err(ShelfFault::NotKept { id: id.to_string(), version }.into());
    }
    Ok(Installed { recipe, signed, folder: placed.folder, record: placed.record, revision: placed.revision })
}
