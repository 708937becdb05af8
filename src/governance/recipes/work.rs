//! Recipes at work: what an operator has run of them, as runtimes of the daemon.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::ServerConfig;
use crate::domain::{Clock, PersonaId, RuntimeId, Timestamp};
use crate::proxy::Gateway;
use crate::sandbox::plan::{Access, Owner};
use crate::sandbox::profile::Workspace;
use crate::store::{RecipeRow, Store, StoreFault};
use crate::supervisor::{Defaults, RuntimeSpec};

use super::super::audit::{Actor, Audit, AuditAction, Deed};
use super::super::consent::{self, Refusal};
use super::super::reason::reason;
use super::super::signed::{Act, ShelfFault, Trust, Unsigned, Version};
use super::read::INSIDE;
use super::store::{Installed, RecipeFault, load, load_version, shelf};

/// What the recipes need of the daemon.
#[derive(Debug)]
pub struct Premises {
    /// Where it is kept which are at work.
    pub store: Store,
    /// Where what was done is recorded.
    pub audit: Audit,
    /// The kill switch, and the personas in force.
    pub gateway: Arc<Gateway>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The folders, and whether unsigned recipes are taken.
    pub config: Arc<ServerConfig>,
    /// What this host sets for runtimes that do not say it themselves.
    pub defaults: Defaults,
}

/// Recipes at work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recipes(Arc<Premises>);

/// Why a recipe is not run.
#[derive(Debug, thiserror::Error)]
pub enum RunFault {
    /// No reason was given, or one that is not a line.
    #[error("a reason is required: one line")]
    Reason,
    /// The kill switch was used.
    #[error("the kill switch was used: nothing starts until it is rearmed")]
    Latched,
    /// The recipe itself.
    #[error("{code}: {0}", code = .0.code())]
    Recipe(#[from] RecipeFault),
    /// It reads data that nobody agreed to.
    #[error(transparent)]
    Consent(#[from] Refusal),
    /// Nobody its traffic could leave as.
    #[error("there is no persona `{0}`, as which it would leave")]
    Persona(PersonaId),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// A thread of the daemon failed.
    #[error("the recipe could not be read")]
    Failed,
}

/// A recipe that was put to work just now.
#[derive(Debug)]
pub struct Put {
    /// Which version of it.
    pub row: RecipeRow,
    /// What was at work before under its id.
    pub before: Option<RecipeRow>,
    /// Who signed it.
    pub signer: Option<String>,
}

impl Recipes {
    /// Those of a daemon.
    pub fn new(premises: Premises) -> Self {
        Self(Arc::new(premises))
    }

    /// Whether a version of it is at work.
    ///
    /// # Errors
    /// The state cannot be read.
    pub async fn is_at_work(&self, id: &RuntimeId) -> Result<bool, StoreFault> {
        Ok(self.row(id).await?.is_some())
    }

    /// Who the installed recipe's traffic would leave as; `None` where nothing sound of that id is installed.
    pub async fn persona_of(&self, id: &RuntimeId) -> Option<PersonaId> {
        let id = id.clone();
        let loaded = self.blocking(move |this| load(&shelf(&this.config.state_dir), &id, &this.trust())).await;
        Some(loaded.ok()?.ok()?.recipe.spec.persona.clone())
    }

    async fn row(&self, id: &RuntimeId) -> Result<Option<RecipeRow>, StoreFault> {
        Ok(self.0.store.recipes().all().await?.into_iter().find(|row| row.id == *id))
    }

    /// Puts the version in force of `id` to work. It is declared by the next reading of the manifest.
    ///
    /// # Errors
    /// [`RunFault`], which stands in the audit too; nothing was changed then.
    pub async fn put_to_work(&self, id: &RuntimeId, why: &str, by: &Actor) -> Result<Put, RunFault> {
        let why = reason(why).ok_or(RunFault::Reason)?;
        let put = self.try_to_put(id, &why, by).await;
        if let Err(fault) = &put {
            self.not_put(id, Some(why), by, fault.code()).await;
        }
        put
    }

    /// Records that somebody wanted a recipe run and did not get it.
    pub async fn not_put(&self, id: &RuntimeId, why: Option<String>, by: &Actor, code: &str) {
        let after = Some(json!({ "recipe": id, "refused": code }));
        let deed = Deed::new(by.clone(), AuditAction::RecipePutToWork);
        self.0.audit.record_in_any_case(Deed { why, after, ..deed }).await;
    }

    async fn try_to_put(&self, id: &RuntimeId, why: &str, by: &Actor) -> Result<Put, RunFault> {
        let Premises { store, audit, gateway, clock, .. } = &*self.0;
        if gateway.latched().is_some() {
            return Err(RunFault::Latched);
        }
        let installed = self
            .blocking({
                let id = id.clone();
                move |this| {
                    let (shelf, trust) = (shelf(&this.config.state_dir), this.trust());
                    let installed = load(&shelf, &id, &trust)?;
                    consent::permit(&this.config.config_dir, &this.config.state_dir, &installed.recipe.spec)
                        .map(drop)?;
                    Ok::<_, RunFault>(installed)
                }
            })
            .await??;
        let Installed { recipe, signed, revision, .. } = installed;
        let persona = recipe.spec.persona.clone();
        if gateway.policy.load().persona(&persona).is_none() {
            return Err(RunFault::Persona(persona));
        }
        let before = self.row(id).await?;
        let row = RecipeRow {
            id: id.clone(),
            version: revision.version.to_string(),
            tree: revision.tree,
            at: clock.now(),
            by: by.as_str().to_owned(),
            why: why.to_owned(),
        };
        let signer = signed.map(|signed| signed.signer().to_owned());
        let mut after = told(&row);
        after["signer"] = json!(signer);
        let entry = audit.entry(Deed {
            persona: Some(persona),
            runtime: Some(id.clone()),
            why: Some(why.to_owned()),
            before: before.as_ref().map(told),
            after: Some(after),
            ..Deed::new(by.clone(), AuditAction::RecipePutToWork)
        });
        store.recipes().put(row.clone(), entry).await?;
        audit.committed();
        Ok(Put { row, before, signer })
    }

    /// Takes back what [`Recipes::put_to_work`] did: the daemon's files did not let it be declared.
    pub async fn take_back(&self, put: Put, why: &str) {
        let Premises { store, audit, .. } = &*self.0;
        let deed = Deed {
            runtime: Some(put.row.id.clone()),
            why: Some(why.to_owned()),
            before: Some(told(&put.row)),
            after: put.before.as_ref().map(told),
            ..Deed::new(Actor::daemon(), AuditAction::RecipeTakenFromWork)
        };
        let entry = audit.entry(deed);
        let done = match put.before {
            Some(before) => store.recipes().put(before, entry).await,
            None => store.recipes().remove(put.row, entry).await,
        };
        match done {
            Ok(()) => audit.committed(),
            Err(fault) => tracing::error!(%fault, "a recipe that is not declared stays at work in the state"),
        }
    }

    /// The runtimes of the recipes at work, each hashed and verified. One that was retired is taken from its work; one
    /// that is not what was put to work any more is left out until it is again.
    ///
    /// # Errors
    /// The state cannot be read: then it is not known what is at work.
    pub async fn declared(&self) -> Result<Vec<Arc<RuntimeSpec>>, StoreFault> {
        let mut specs = Vec::new();
        for row in self.0.store.recipes().all().await? {
            let wanted = row.clone();
            let taken = self.blocking(move |this| this.taken(&wanted)).await.unwrap_or(Err(RunFault::Failed));
            match taken {
                Ok(spec) => specs.push(spec),
                Err(fault) => {
                    tracing::error!(recipe = %row.id, version = row.version, %fault, "a recipe at work is not taken up");
                    if matches!(fault, RunFault::Recipe(RecipeFault::Shelf(ShelfFault::Retired { .. }))) {
                        let why = fault.to_string();
                        self.take_back(Put { row, before: None, signer: None }, &why).await;
                    }
                }
            }
        }
        Ok(specs)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Premises) -> T + Send + 'static,
    ) -> Result<T, RunFault> {
        let this = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|_| RunFault::Failed)
    }
}

impl Premises {
    fn trust(&self) -> Trust {
        trust(&self.config, self.clock.now())
    }

    fn taken(&self, row: &RecipeRow) -> Result<Arc<RuntimeSpec>, RunFault> {
        let shelf = shelf(&self.config.state_dir);
        // Installed anew after it was retired: somebody has to want it again.
        let history = shelf.history().map_err(RecipeFault::from)?;
        let retired = |entry: &&super::super::signed::Entry| {
            entry.act == Act::Retire && entry.id == row.id.as_str() && entry.time > row.at
        };
        if let Some(entry) = history.iter().rfind(retired) {
            let note = entry.note.clone().unwrap_or_default();
            let fault = ShelfFault::Retired { id: entry.id.clone(), by: entry.by.clone(), note };
            return Err(RecipeFault::from(fault).into());
        }
        let version = Version::parse(&row.version).map_err(|_| ShelfFault::Unknown(row.id.to_string()));
        let version = version.map_err(RecipeFault::from)?;
        let what = (version, Some(row.tree.as_str()));
        let Installed { recipe, folder, .. } = load_version(&shelf, &row.id, what, &self.trust(), &self.defaults)?;
        let mut spec = Arc::unwrap_or_clone(recipe.spec);
        // Last, so that nothing lies over it.
        let files = Workspace { source: folder, target: INSIDE.into(), access: Access::ReadOnly, owner: Owner::Host };
        spec.process.workspaces.push(files);
        Ok(Arc::new(spec))
    }
}

impl RunFault {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reason => "reason_required",
            Self::Latched => "shutdown_latched",
            Self::Recipe(fault) => fault.code(),
            Self::Consent(refusal) => refusal.code().code(),
            Self::Persona(_) => "no_such_persona",
            Self::Store(_) => "state_unavailable",
            Self::Failed => "internal",
        }
    }
}

/// Whether `spec` may be launched now, as far as it is a recipe: hashed and verified right before every launch. Others may.
///
/// # Errors
/// Why it is not what a trusted signer signed, or not any more.
pub fn permit(config: &ServerConfig, now: Timestamp, spec: &RuntimeSpec) -> Result<(), RecipeFault> {
    let shelf = shelf(&config.state_dir);
    let Some(version) = version_of(&config.state_dir, spec) else { return Ok(()) };
    let version = version.to_str().and_then(|text| Version::parse(text).ok());
    let version = version.ok_or_else(|| ShelfFault::Unknown(spec.id.to_string()))?;
    let trust = trust(config, now);
    load_version(&shelf, &spec.id, (version, None), &trust, &Defaults::default()).map(drop)
}

/// The version whose files a runtime has, if it is a recipe's.
fn version_of<'s>(state_dir: &Path, spec: &'s RuntimeSpec) -> Option<&'s OsStr> {
    let versions = state_dir.join("recipes").join("versions").join(spec.id.as_str());
    let mut inside = spec.process.workspaces.iter().filter_map(|files| files.source.strip_prefix(&versions).ok());
    inside.next().map(|files| files.components().next().map_or(OsStr::new(""), |version| version.as_os_str()))
}

fn trust(config: &ServerConfig, now: Timestamp) -> Trust {
    let unsigned = if config.require_signed_bundles { Unsigned::Refuse } else { Unsigned::Accept };
    Trust::load(&config.config_dir, unsigned, now)
}

fn told(row: &RecipeRow) -> Value {
    json!({ "version": row.version, "tree": row.tree })
}
