//! Putting a new policy in force, or keeping the old one.

use std::sync::Arc;

use serde_json::json;

use super::governance::read_alerts;
use super::runtimes::{Declared, read_declared};
use crate::config::{Faults, ServerConfig};
use crate::control::ReloadReport;
use crate::events::{EventBus, EventKind};
use crate::governance::alerts::Alerts;
use crate::governance::authority::{Authority, Policy, Summary};
use crate::governance::automations::Automations;
use crate::policy::{self, PolicySettings, Snapshot};
use crate::proxy::Gateway;
use crate::proxy::tls::ReloadableAcceptor;
use crate::supervisor::Supervisor;

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
    /// longer allows.
    ///
    /// # Errors
    /// Every fault; the policy in force stays as it was.
    pub(super) async fn reload(&self) -> Result<ReloadReport, Faults> {
        let old = self.gateway.policy.load_full();
        // All are read before one is applied.
        let mut faults = Faults::default();
        let fresh = faults.gather(read_policy(&self.config));
        let declared = faults.gather(self.supervisor.as_ref().map(|_| read_declared(&self.config)).transpose());
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
                return Err(faults);
            }
        };
        for warning in fresh.warnings(self.gateway.clock.now()) {
            tracing::warn!(%warning, "policy");
        }
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
