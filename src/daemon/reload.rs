//! Putting a new policy in force, or keeping the old one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::governance::read_alerts;
use super::runtimes::{Declared, read_declared};
use crate::config::{Fault, Faults, ServerConfig};
use crate::control::{ProblemCode, ReloadReport};
use crate::events::{EventBus, EventKind};
use crate::governance::alerts::Alerts;
use crate::governance::audit::{Actor, Audit, AuditAction, Deed};
use crate::governance::authority::{Authority, Policy, Summary};
use crate::governance::automations::Automations;
use crate::governance::recipes::Recipes;
use crate::policy::{self, PolicySettings, Snapshot};
use crate::proxy::Gateway;
use crate::proxy::tls::ReloadableAcceptor;
use crate::supervisor::Supervisor;

/// Bytes of a fault that the audit has: an entry stays whole.
const MAX_TOLD: usize = 256;

/// What a reload touches.
#[derive(Debug, Clone)]
pub(super) struct Reloader {
    pub(super) config: Arc<ServerConfig>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) tls: Option<Arc<ReloadableAcceptor>>,
    pub(super) events: EventBus,
    pub(super) supervisor: Option<Supervisor>,
    pub(super) authority: Authority,
    pub(super) alerts: Alerts,
    pub(super) automations: Automations,
    pub(super) audit: Audit,
    pub(super) recipes: Recipes,
}

/// Reads every persona file.
///
/// # Errors
/// Every fault of every file; nothing is applied then.
pub(super) fn read_policy(config: &ServerConfig) -> Result<Snapshot, Faults> {
    let settings = PolicySettings::from(&config.proxy);
    let environment = config.default_persona.as_ref().map(|persona| (persona, nix::unistd::geteuid().as_raw()));
    policy::load_with(&config.config_dir.join("personas"), &settings, environment)
}

impl Reloader {
    /// Reads the personas, the manifest, the policy, the alerts and the TLS files again. A narrowed persona ends what it no
    /// longer allows. The audit has who wanted it, why, and what was in force before; also when it is refused.
    ///
    /// # Errors
    /// Every fault; the policy in force stays as it was.
    pub(super) async fn reload(&self, by: Actor, why: Option<String>) -> Result<ReloadReport, Faults> {
        let old = self.gateway.policy.load_full();
        let deed = Deed {
            why,
            before: Some(in_force(&old, &self.authority.policy())),
            ..Deed::new(by, AuditAction::PolicyReloaded)
        };
        // All are read before one is applied.
        let mut faults = Faults::default();
        let fresh = faults.gather(read_policy(&self.config));
        let declared = faults.gather(self.declared().await);
        let authority = faults.gather(Policy::load(self.config.control.policy.as_deref()));
        let alerting = faults.gather(read_alerts(&self.config));
        let (fresh, declared, authority, alerting) = match (fresh, declared, authority, alerting) {
            (Some(fresh), Some(declared), Some(authority), Some(alerting)) => (fresh, declared, authority, alerting),
            _ => {
                self.gateway.metrics.reloaded(false);
                for fault in &faults.0 {
                    tracing::error!(%fault, "the policy was not reloaded");
                }
                self.events.publish(EventKind::PolicyReloaded, None, json!({"applied": false, "faults": faults.0}));
                self.audit.record_in_any_case(Deed { after: Some(refused(&faults)), ..deed }).await;
                return Err(faults);
            }
        };
        for warning in fresh.warnings(self.gateway.clock.now()) {
            tracing::warn!(%warning, "policy");
        }
        // Written before it is done, so that no crash leaves it done and unwritten; a disk that is full does not keep a
        // policy from being narrowed.
        self.audit.record_in_any_case(Deed { after: Some(in_force(&fresh, &authority)), ..deed }).await;
        let authorized = authority.digest() != self.authority.policy().digest();
        let changed = authorized || fresh.digest() != old.digest();
        let Summary { source, grants, .. } = authority.summary();
        self.authority.replace(authority);
        let (digest, personas) = (fresh.digest().to_owned(), fresh.personas().len());
        // Names may have moved meanwhile; asking again costs little.
        self.gateway.resolver.clear();
        let ended = self.gateway.put_personas(&fresh);
        let generation = self.gateway.policy.load().generation();
        if let Some(Err(fault)) = self.tls.as_ref().map(|tls| tls.reload()) {
            tracing::error!(%fault, "the TLS listener keeps its old certificate");
        }
        let mut runtimes = 0;
        if let (Some(supervisor), Some(Declared { manifest, registry })) = (&self.supervisor, declared) {
            // A demonstration that no file declares is not taken away by a reload.
            if manifest.runtimes().len() > 0 || self.config.runtimes.manifest.exists() {
                // What is disabled stays so under its new name, before anything of it could start.
                let _ = self.automations.declare(registry).await;
                runtimes = supervisor.apply(manifest).await.map_or(0, |changes| changes.len());
            }
        }
        if let Err(fault) = self.alerts.apply(alerting).await {
            tracing::error!(%fault, "the alerts keep their old settings");
        }
        self.gateway.metrics.reloaded(true);
        tracing::info!(personas, generation, changed, ended, runtimes, "the policy was reloaded");
        self.events.publish(
            EventKind::PolicyReloaded,
            None,
            json!({
                "applied": true, "generation": generation, "changed": changed, "ended": ended,
                "authority": source, "authority_changed": authorized,
            }),
        );
        Ok(ReloadReport {
            generation,
            digest,
            personas: personas as u64,
            changed,
            tunnels_ended: ended as u64,
            authority: source.code().to_owned(),
            grants: grants as u64,
        })
    }
}

impl Reloader {
    /// The runtimes of files and recipes; none where nothing is supervised.
    async fn declared(&self) -> Result<Option<Declared>, Faults> {
        if self.supervisor.is_none() {
            return Ok(None);
        }
        // Without knowing them, what is at work would be ended.
        let recipes = self.recipes.declared().await.map_err(|fault| {
            let file = self.config.state_dir.join(crate::store::FILE);
            Faults(vec![Fault::new(&file, None, "", format!("the recipes at work: {fault}"))])
        })?;
        read_declared(&self.config, recipes).map(Some)
    }
}

/// What the audit says of policies.
fn in_force(personas: &Snapshot, authority: &Policy) -> Value {
    let Summary { source, digest, grants, .. } = authority.summary();
    json!({
        "personas": personas.personas().len(), "digest": personas.digest(),
        "authority": source, "authority_digest": digest, "grants": grants,
    })
}

/// What it says of a reload that was refused: how much is wrong, and what first. The daemon's log has the rest.
fn refused(faults: &Faults) -> Value {
    let first = faults.0.first().map(ToString::to_string).unwrap_or_default();
    let first = first[..first.floor_char_boundary(MAX_TOLD)].replace(char::is_control, " ");
    json!({ "refused": ProblemCode::PolicyFaults.code(), "faults": faults.0.len(), "first": first })
}
