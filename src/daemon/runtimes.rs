//! The supervised runtimes: their manifest and what they are run for read, their supervisor started.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::demo::Demo;
use crate::config::{AutomationsFile, Fault, Faults, MAX_MANIFEST, RuntimesFile, ServerConfig};
use crate::domain::{AutomationId, Clock, SystemClock};
use crate::events::EventBus;
use crate::governance::automations::{self, Found, Registry};
use crate::governance::consent;
use crate::governance::recipes::{self, Recipes};
use crate::proxy::{Gateway, Running};
use crate::sandbox::Launcher;
use crate::sandbox::cgroup::Roots;
use crate::sandbox::preset::PresetName;
use crate::store::Store;
use crate::supervisor::{self, Bars, Defaults, Manifest, Permit, Premises, Reports, RuntimeSpec, Supervisor};

/// The registry's name in the folder of the manifest.
const AUTOMATIONS: &str = "automations.toml";

/// What is declared: the runtimes, and what they are run for.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) manifest: Manifest,
    pub(super) registry: Registry,
}

/// Reads the manifest and the registry of automations, and adds the recipes at work: what the files declare stands before
/// them. Without a file nothing but recipes is declared.
///
/// # Errors
/// Every fault of the files; nothing of them is applied then.
pub(super) fn read_declared(config: &ServerConfig, recipes: Vec<Arc<RuntimeSpec>>) -> Result<Declared, Faults> {
    let path = &config.runtimes.manifest;
    let one = |fault| Faults(vec![fault]);
    let manifest = read_manifest(config)?;
    let path = path.with_file_name(AUTOMATIONS);
    let text = read(&path).map_err(one)?.unwrap_or_default();
    let file = AutomationsFile::parse(&path, &text).map_err(|document| Faults(document.into_faults()))?;
    let (registry, mut manifest) = automations::read(file, manifest)?;
    let named: BTreeSet<AutomationId> = registry.all().filter(|one| one.declared).map(|one| one.id.clone()).collect();
    for spec in recipes {
        let id = spec.id.clone();
        if named.contains(&spec.automation) || !manifest.including(spec) {
            tracing::error!(recipe = %id, "a recipe at work is not taken up: its id is taken by the manifest, or there is no room");
        }
    }
    let registry = Registry::of(&manifest, |id| named.contains(id));
    Ok(Declared { manifest, registry })
}

/// Reads the manifest alone. Without a file nothing is declared.
///
/// # Errors
/// Every fault of it.
pub(super) fn read_manifest(config: &ServerConfig) -> Result<Manifest, Faults> {
    let path = &config.runtimes.manifest;
    match read(path).map_err(|fault| Faults(vec![fault]))? {
        Some(text) => understand(config, path, &text),
        None => Ok(Manifest::default()),
    }
}

fn understand(config: &ServerConfig, path: &Path, text: &str) -> Result<Manifest, Faults> {
    let file = RuntimesFile::parse(path, text).map_err(|document| Faults(document.into_faults()))?;
    supervisor::read(file, &defaults(config))
}

fn read(path: &Path) -> Result<Option<String>, Fault> {
    use std::io::Read as _;
    let fault = |why: std::io::Error| Fault::new(path, None, "", why.to_string());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(fault(why)),
    };
    let mut text = String::new();
    file.take(MAX_MANIFEST + 1).read_to_string(&mut text).map_err(fault)?;
    if text.len() as u64 > MAX_MANIFEST {
        return Err(Fault::new(path, None, "", format!("a manifest has at most {MAX_MANIFEST} bytes")));
    }
    Ok(Some(text))
}

pub(super) fn defaults(config: &ServerConfig) -> Defaults {
    let runtimes = &config.runtimes;
    Defaults {
        restart_max: u64::try_from(runtimes.restart_max).unwrap_or(u64::MAX),
        restart_window: runtimes.restart_window,
        health_interval: runtimes.health_interval,
        // The settings were checked; a name that slipped through gets the smallest.
        preset: PresetName::from_code(&runtimes.preset).unwrap_or(PresetName::Eco),
        wall_time: Some(runtimes.max_runtime).filter(|time| *time > Duration::ZERO),
    }
}

/// What the demonstration runs where nothing is declared: a program that knows of no proxy.
fn demonstration(config: &ServerConfig, demo: &Demo) -> Result<Manifest, Faults> {
    understand(config, Path::new("demonstration"), &demo.manifest())
}

/// What a supervisor needs of the daemon's parts.
pub(super) struct Parts<'p> {
    pub(super) config: &'p ServerConfig,
    pub(super) clock: &'p Arc<dyn Clock>,
    pub(super) gateway: &'p Arc<Gateway>,
    pub(super) proxy: &'p Running,
    pub(super) events: &'p EventBus,
    pub(super) demo: Option<&'p Demo>,
    pub(super) store: &'p Store,
    pub(super) recipes: &'p Recipes,
    pub(super) launcher: Option<Launcher>,
}

/// Starts the supervisor, with what is kept of its automations. What is declared must be sound: a daemon that comes up
/// without half of its runtimes would look well.
///
/// # Errors
/// Every fault of the manifest, or why the state folder cannot be used.
pub(super) async fn start(parts: Parts<'_>) -> anyhow::Result<(Supervisor, Found)> {
    let Parts { config, clock, gateway, proxy, events, demo, store, recipes, launcher } = parts;
    let at_work = recipes.declared().await.context("the recipes at work")?;
    let Declared { mut manifest, mut registry } = read_declared(config, at_work)
        .map_err(|faults| anyhow::anyhow!("the runtimes' manifest is faulty:\n{faults}"))?;
    if let Some(demo) = demo.filter(|_| manifest.runtimes().len() == 0) {
        let shown = demonstration(config, demo);
        manifest = shown.map_err(|faults| anyhow::anyhow!("the demonstration is faulty:\n{faults}"))?;
        registry = Registry::of(&manifest, |_| false);
    }
    let (bars, reports) = (Bars::default(), Reports::default());
    // Before anything is launched or adopted.
    let found = automations::found(store, &config.state_dir, registry, (&bars, &reports), clock.now());
    let found = found.await.context("the automations")?;
    let premises = Premises {
        clock: Arc::clone(clock),
        gateway: Arc::clone(gateway),
        doors: proxy.runtimes(),
        events: events.clone(),
        config: config.runtimes.clone(),
        state_dir: &config.state_dir,
        roots: Roots::default(),
        permit: permit(config),
        shut: gateway.latched().is_some(),
        bars,
        reports,
        launcher,
    };
    let supervisor = supervisor::start(premises, manifest).await.context("the supervisor")?;
    Ok((supervisor, found))
}

/// A launch that reads data needs the consent for it, and one of a recipe its signature, as they stand at that moment.
fn permit(config: &ServerConfig) -> Permit {
    let config = config.clone();
    Arc::new(move |spec| {
        recipes::permit(&config, SystemClock.now(), spec).map_err(|fault| format!("{}: {fault}", fault.code()))?;
        let permitted = consent::permit(&config.config_dir, &config.state_dir, spec);
        permitted.map(drop).map_err(|refusal| format!("{}: {refusal}; {}", refusal.code(), refusal.hint()))
    })
}
