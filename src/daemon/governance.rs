//! The governance floor: its state opened, its tasks started and ended.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::runtimes::defaults;
use crate::config::{Faults, ServerConfig};
use crate::control::{Command, ReloadAsk};
use crate::domain::Clock;
use crate::events::{EventBus, Subscription};
use crate::governance::audit::Audit;
use crate::governance::authority::{Authority, Policy, Summary};
use crate::governance::leases::{self, Keeper, Leases};
use crate::governance::personas::{self, Personas, Reload};
use crate::governance::recipes::{self, Recipes};
use crate::governance::switch::{self, KillSwitch};
use crate::governance::{Governance, alerts, automations};
use crate::proxy::Gateway;
use crate::store::{LatchFile, LatchRecord, Narrowing, Reserve, Store};
use crate::supervisor::Supervisor;

/// Reloads that may wait: they come one by one.
const RELOADS: usize = 1;

/// What was found in the state folder, in force before anything can be dialled.
pub(super) struct Foundation {
    file: LatchFile,
    latched: Option<LatchRecord>,
    audit: Audit,
    leases: Leases,
    keeper: Keeper,
    authority: Authority,
    pub(super) store: Store,
    alerting: alerts::Settings,
    heard: Subscription,
    pub(super) recipes: Recipes,
    personas: (Personas, personas::Keeper),
    reloads: mpsc::Receiver<Reload>,
    commands: mpsc::Sender<Command>,
}

/// The floor at work.
pub(super) struct Governing {
    pub(super) handles: Governance,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// Reads `alerts.toml`.
///
/// # Errors
/// Every fault of it.
pub(super) fn read_alerts(config: &ServerConfig) -> Result<alerts::Settings, Faults> {
    alerts::read(alerts::Folders { config: &config.config_dir, state: &config.state_dir })
}

/// Opens the state. What is latched or leased is in force when this returns. `commands` lead to the daemon's own task.
///
/// # Errors
/// The state cannot be used: what was leased or latched would not be known.
pub(super) async fn open(
    config: &Arc<ServerConfig>,
    gateway: &Arc<Gateway>,
    clock: &Arc<dyn Clock>,
    events: &EventBus,
    commands: &mpsc::Sender<Command>,
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
    let heard = alerts::listen(events);
    let alerting = read_alerts(config).map_err(|faults| anyhow::anyhow!("the alerts are faulty:\n{faults}"))?;
    let (asks, reloads) = mpsc::channel(RELOADS);
    let premises = personas::Premises {
        store: store.clone(),
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        events: events.clone(),
        reloads: asks,
    };
    let personas = personas::start(config, premises).await.context("the personas' state")?;
    let premises = leases::Premises {
        store: store.clone(),
        reserve: Reserve::new(&config.state_dir, Narrowing::Leases),
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        events: events.clone(),
    };
    let (leases, keeper) = leases::start(premises).await.context("the leases")?;
    let recipes = Recipes::new(recipes::Premises {
        store: store.clone(),
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        config: Arc::clone(config),
        defaults: defaults(config),
    });
    let commands = commands.clone();
    Ok(Foundation {
        file,
        latched,
        audit,
        leases,
        keeper,
        authority,
        store,
        alerting,
        heard,
        recipes,
        personas,
        reloads,
        commands,
    })
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
    ///
    /// # Errors
    /// What is known of alerts cannot be read.
    pub(super) async fn start(
        self,
        config: &ServerConfig,
        gateway: &Arc<Gateway>,
        clock: &Arc<dyn Clock>,
        events: &EventBus,
        supervisor: Option<Supervisor>,
        found: automations::Found,
    ) -> anyhow::Result<Governing> {
        let Self {
            file,
            latched,
            audit,
            leases,
            keeper,
            authority,
            store,
            alerting,
            heard,
            recipes,
            personas,
            reloads,
            commands,
        } = self;
        let premises = alerts::Premises {
            store: store.clone(),
            audit: audit.clone(),
            gateway: Arc::clone(gateway),
            supervisor: supervisor.clone(),
            leases: leases.clone(),
            clock: Arc::clone(clock),
            events: events.clone(),
            state_dir: config.state_dir.clone(),
            ledger_dir: config.ledger.dir.clone(),
        };
        let (alerts, watcher) = alerts::start(premises, alerting, heard).await.context("the alerts")?;
        let (personas, personas_keeper) = personas;
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
            tokio::spawn(watcher.run(stop.clone())),
            tokio::spawn(personas_keeper.run(stop.clone())),
            tokio::spawn(forward(reloads, commands)),
            tokio::spawn(switch.clone().run(stop.clone())),
            tokio::spawn(clerk.run(stop.clone())),
        ];
        if let Some(inquiries) = gateway.desk.open() {
            tasks.push(tokio::spawn(automations::serve(
                inquiries,
                automations.clone(),
                personas.clone(),
                stop.clone(),
            )));
        }
        switch.resume();
        let handles = Governance { leases, personas, switch, audit, authority, recipes, automations, alerts };
        Ok(Governing { handles, tasks, stop })
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

/// Takes the floor's reloads to the daemon's own task. What is not answered there is not answered here: the daemon stops.
async fn forward(mut reloads: mpsc::Receiver<Reload>, commands: mpsc::Sender<Command>) {
    while let Some(Reload { by, why, done }) = reloads.recv().await {
        let (answer, answered) = oneshot::channel();
        if commands.send(Command::Reload(ReloadAsk { by, why: Some(why), answer })).await.is_ok()
            && let Ok(outcome) = answered.await
        {
            // Whoever asked may have gone.
            let _ = done.send(outcome.map(drop));
        }
    }
}
