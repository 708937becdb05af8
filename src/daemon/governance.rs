//! The governance floor: its state opened, its tasks started and ended.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;
use crate::domain::Clock;
use crate::events::EventBus;
use crate::governance::Governance;
use crate::governance::audit::Audit;
use crate::governance::authority::{Authority, Policy, Summary};
use crate::governance::automations;
use crate::governance::leases::{self, Keeper, Leases};
use crate::governance::switch::{self, KillSwitch};
use crate::proxy::Gateway;
use crate::store::{LatchFile, LatchRecord, Store};
use crate::supervisor::Supervisor;

/// What was found in the state folder, in force before anything can be dialled.
pub(super) struct Foundation {
    file: LatchFile,
    latched: Option<LatchRecord>,
    audit: Audit,
    leases: Leases,
    keeper: Keeper,
    authority: Authority,
    pub(super) store: Store,
}

/// The floor at work.
pub(super) struct Governing {
    pub(super) handles: Governance,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// Opens the state. A latched switch is obeyed first, whatever becomes of the rest.
///
/// # Errors
/// The state cannot be used: what was leased or latched would not be known.
pub(super) async fn open(
    config: &Arc<ServerConfig>,
    gateway: &Arc<Gateway>,
    clock: &Arc<dyn Clock>,
    events: &EventBus,
) -> anyhow::Result<Foundation> {
    let policy = Policy::load(config.control.policy.as_deref());
    let policy = policy.map_err(|faults| anyhow::anyhow!("the policy is faulty:\n{faults}"))?;
    announce(config, &policy);
    let authority = Authority::new(policy, events.clone(), Arc::clone(clock));
    let (file, latched, store, audit) = {
        let (config, gateway, clock) = (Arc::clone(config), Arc::clone(gateway), Arc::clone(clock));
        tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
            let file = LatchFile::new(&config.state_dir);
            let latched = switch::found(&file, &gateway, &*clock).context("the latch of the kill switch")?;
            let store = Store::open(&config.state_dir).context("the state")?;
            let opened = Audit::open(&config.state_dir, &config.ledger, store.clone(), clock);
            let (audit, recovery) = opened.context("the audit log")?;
            if !recovery.created {
                recovery.to_string().lines().for_each(|line| tracing::warn!("audit log: {line}"));
            }
            Ok((file, latched, store, audit))
        })
        .await??
    };
    let premises = leases::Premises {
        store: store.clone(),
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        events: events.clone(),
    };
    let (leases, keeper) = leases::start(premises).await.context("the leases")?;
    Ok(Foundation { file, latched, audit, leases, keeper, authority, store })
}

/// Says who may do what; a file that nobody named is not read.
fn announce(config: &ServerConfig, policy: &Policy) {
    let Summary { source, file, grants, .. } = policy.summary();
    match file {
        Some(file) => tracing::info!(%source, file = %file.display(), grants, "the policy says who may do what"),
        None => {
            let unused = ["policy.json", "policy.cedar"].map(|name| config.config_dir.join(name));
            for file in unused.iter().filter(|file| file.exists()) {
                let file = file.display();
                tracing::warn!(%file, "this policy is not in force: name it with `control.policy` or ARW_POLICY_FILE");
            }
        }
    }
}

impl Foundation {
    /// Puts the floor to work. A switch that was found latched ends what `supervisor` has adopted.
    pub(super) fn start(
        self,
        config: &ServerConfig,
        gateway: &Arc<Gateway>,
        clock: &Arc<dyn Clock>,
        events: &EventBus,
        supervisor: Option<Supervisor>,
        found: automations::Found,
    ) -> Governing {
        let Self { file, latched, audit, leases, keeper, authority, store } = self;
        let premises = automations::Premises {
            store,
            audit: audit.clone(),
            gateway: Arc::clone(gateway),
            supervisor: supervisor.clone(),
            events: events.clone(),
            clock: Arc::clone(clock),
            config_dir: config.config_dir.clone(),
            state_dir: config.state_dir.clone(),
        };
        let (automations, clerk) = automations::start(premises, found);
        let premises = switch::Premises {
            file,
            gateway: Arc::clone(gateway),
            leases: leases.clone(),
            supervisor,
            audit: audit.clone(),
            events: events.clone(),
            clock: Arc::clone(clock),
        };
        let switch = KillSwitch::new(premises, latched);
        let stop = CancellationToken::new();
        let mut tasks = vec![
            tokio::spawn(audit.clone().run(stop.clone())),
            tokio::spawn(keeper.run(stop.clone())),
            tokio::spawn(switch.clone().run(stop.clone())),
            tokio::spawn(clerk.run(stop.clone())),
        ];
        if let Some(inquiries) = gateway.desk.open() {
            tasks.push(tokio::spawn(automations::serve(inquiries, automations.clone(), stop.clone())));
        }
        switch.resume();
        Governing { handles: Governance { leases, switch, audit, authority, automations }, tasks, stop }
    }
}

impl Governing {
    /// Ends it; what is not in the audit log by then waits in the state.
    pub(super) async fn finish(self) {
        self.stop.cancel();
        for task in self.tasks {
            if let Err(fault) = task.await {
                tracing::error!(%fault, "a task of the governance floor failed");
            }
        }
    }
}
