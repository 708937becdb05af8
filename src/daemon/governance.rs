//! The governance floor: its state opened, its tasks started and ended.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;
use crate::control::Command;
use crate::domain::Clock;
use crate::events::EventBus;
use crate::governance::Governance;
use crate::governance::audit::Audit;
use crate::governance::automations;
use crate::governance::leases::{self, Keeper, Leases};
use crate::governance::personas::{self, Personas, Reload};
use crate::governance::switch::{self, KillSwitch};
use crate::proxy::Gateway;
use crate::store::{LatchFile, LatchRecord, Store};
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
    pub(super) store: Store,
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

/// Opens the state. A latched switch is obeyed first, whatever becomes of the rest. `commands` lead to the daemon's own task.
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
        audit: audit.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        events: events.clone(),
    };
    let (leases, keeper) = leases::start(premises).await.context("the leases")?;
    Ok(Foundation { file, latched, audit, leases, keeper, store, personas, reloads, commands: commands.clone() })
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
        let Self { file, latched, audit, leases, keeper, store, personas, reloads, commands } = self;
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
        let tasks = vec![
            tokio::spawn(audit.clone().run(stop.clone())),
            tokio::spawn(keeper.run(stop.clone())),
            tokio::spawn(personas_keeper.run(stop.clone())),
            tokio::spawn(forward(reloads, commands)),
            tokio::spawn(switch.clone().run(stop.clone())),
            tokio::spawn(clerk.run(stop.clone())),
        ];
        switch.resume();
        Governing { handles: Governance { leases, personas, switch, audit, automations }, tasks, stop }
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
    while let Some(done) = reloads.recv().await {
        let (answer, answered) = oneshot::channel();
        if commands.send(Command::Reload(answer)).await.is_ok()
            && let Ok(outcome) = answered.await
        {
            // Whoever asked may have gone.
            let _ = done.send(outcome.map(drop));
        }
    }
}
