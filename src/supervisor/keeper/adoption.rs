//! Taking a run up again that went on without the daemon.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::Run;
use crate::proxy::RuntimeDoors;
use crate::sandbox::cgroup::CgroupFault;
use crate::sandbox::log::{LogReader, Place};
use crate::sandbox::notify::Notifications;
use crate::sandbox::preset::Preset;
use crate::sandbox::{AdoptError, Adopted, AdoptionInfo, Channel, End, Exit, InitId, adopt, end_unknown, read_exit};

use super::super::launch::{self, Group};
use super::super::life::{Event, Found, Life, Report};
use super::super::records::{Records, RunFile};
use super::launching::egress_limits;
use super::running::{Parts, cause};
use super::{Keeper, Running};

/// How long what cannot be adopted has to go.
const PATIENCE: Duration = Duration::from_secs(5);

impl Keeper {
    /// Looks whether a run of it lives, takes it over if so, and writes its end down if it ended meanwhile.
    pub(super) async fn adopt(&mut self) {
        let file = match self.records.run() {
            Ok(None) => return self.after(),
            Ok(Some(file)) => file,
            Err(fault) => {
                // What cannot be read cannot be adopted; the cgroup still has its name.
                tracing::error!(runtime = %self.spec.id, %fault, "a run cannot be found again");
                self.sweep(None).await;
                return self.after();
            }
        };
        self.spent.resume(file.window, file.run);
        self.slot.set_spent(self.spent);
        match self.found(&file).await {
            Ok(running) => self.take_over(file, running).await,
            Err(AdoptError::Gone(exit)) => self.mourn(&file, exit).await,
            Err(fault) => {
                tracing::error!(runtime = %self.spec.id, run = file.run, %fault, "a run cannot be adopted and is ended");
                self.mourn(&file, None).await;
            }
        }
    }

    async fn found(&self, file: &RunFile) -> Result<Box<Running>, AdoptError> {
        let Some(id) = file.init.clone() else {
            // The daemon died in the middle of a launch: nobody knows what came of it.
            return Err(AdoptError::Gone(None));
        };
        let group = Group::adopt(&self.shared.cgroups, file.leaf.clone())
            .map_err(|fault| AdoptError::Io(std::io::Error::other(fault.to_string())))?;
        if file.frozen {
            // What is held still answers nothing.
            on_a_thread(&group, Group::thaw).await;
        }
        let adopted = adopt(&info(&self.records, id, file)).await?;
        if file.frozen {
            on_a_thread(&group, Group::freeze).await;
        }
        if !file.gpus.is_empty() {
            let (shared, id, held) = (Arc::clone(&self.shared), self.spec.id.clone(), file.gpus.clone());
            let run = file.run;
            let booked = tokio::task::spawn_blocking(move || shared.gpus.adopt(&id, run, &held)).await;
            if let Ok(Err(why)) = booked {
                tracing::error!(runtime = %self.spec.id, %why, "its GPUs cannot be booked again");
            }
        }
        let doors = self.shared.doors.clone();
        self.hold(file, adopted, group, &doors).map(Box::new)
    }

    fn hold(
        &self,
        file: &RunFile,
        adopted: Adopted,
        group: Group,
        doors: &RuntimeDoors,
    ) -> Result<Running, AdoptError> {
        let preset = Preset::embedded(file.confinement.preset);
        let limits = egress_limits(&preset.egress, &self.spec);
        let run = Run { runtime: self.spec.id.clone(), number: file.run };
        let spent = self.spent.traffic();
        let sockets = launch::sockets(&self.spec.persona, Some(run), limits, spent, adopted.listeners);
        let guard = doors.attend(sockets.map_err(AdoptError::Io)?).map_err(AdoptError::Io)?;
        let notify = adopted.notify.map(Notifications::new).transpose().map_err(AdoptError::Io)?;
        let parts = Parts {
            run: file.run,
            began: file.began,
            channel: adopted.channel,
            group,
            guard,
            confinement: file.confinement.clone(),
            notify,
            records: self.records.clone(),
            shared: Arc::clone(&self.shared),
            has_gpus: !file.gpus.is_empty(),
        };
        Ok(Running::new(parts, &self.spec, self.spent))
    }

    async fn take_over(&mut self, file: RunFile, mut running: Box<Running>) {
        let found = if file.frozen { Found::Frozen } else { Found::Running };
        // Lines from before may say that it is ready: it has readiness to prove anew.
        running.from = Place::START;
        // A frozen one too: once it goes on, its end must be heard of.
        running.attend(&self.spec, &self.tell);
        self.slot.begin(&running, &self.spec);
        self.running = Some(running);
        let (life, effects) = Life::adopt(self.kept.life.clone(), file.run, file.began, found, &self.policy);
        self.life = life;
        self.perform_all(effects).await;
        self.after();
        tracing::info!(runtime = %self.spec.id, run = file.run, "a run was adopted");
        if file.declared != self.spec.declared() {
            tracing::info!(runtime = %self.spec.id, "it was declared in another way meanwhile, and is launched anew");
            self.turn(Event::RestartRequested).await;
        }
    }

    /// It ended while nobody looked: the life hears of it now, so that restart policy and budget hold.
    async fn mourn(&mut self, file: &RunFile, exit: Option<Exit>) {
        let exit = exit.or_else(|| read_exit(&self.records.exit_record()).ok().flatten());
        let rebooted = file.init.as_ref().is_some_and(|id| !id.is_of_this_boot());
        if file.init.is_none()
            && let Err(fault) = end_unknown(&self.records.adoption_socket()).await
        {
            tracing::error!(runtime = %self.spec.id, %fault, "what an unfinished launch left does not end");
        }
        let oom = self.sweep(Some(file)).await;
        if rebooted || file.init.is_none() {
            // The host went down, or the launch was never finished: no failure of its own.
            return self.after();
        }
        let end = exit.map_or(End::Lost, End::Exit);
        let (life, _) = Life::adopt(self.kept.life.clone(), file.run, file.began, Found::Running, &self.policy);
        // Nothing of it lives: what adopting would start is not started.
        self.life = life;
        let lines = LogReader::new(self.records.logs());
        let remains = super::Remains::of_the_dead(&lines, file.began, self.now());
        self.remains = Some(Box::new(remains));
        self.turn(Event::Process { run: file.run, report: Report::Exited(cause(end, oom)) }).await;
    }

    /// Ends whatever is left of a run that nobody can take over. Whether the kernel had taken a process for its memory.
    async fn sweep(&mut self, file: Option<&RunFile>) -> bool {
        let (shared, records) = (Arc::clone(&self.shared), self.records.clone());
        let place = file.and_then(|file| file.leaf.clone());
        let (id, name) = (self.spec.id.clone(), launch::group::leaf_name(&self.shared.instance, self.spec.id.as_str()));
        let swept = tokio::task::spawn_blocking(move || {
            let named = || shared.cgroups.as_ref().ok()?.find(&name).ok()?;
            let mut oom = false;
            if let Some(place) = place.or_else(named)
                && let Ok(group) = Group::adopt(&shared.cgroups, Some(place))
            {
                oom = group.leaf().and_then(|leaf| leaf.events().oom_kills).unwrap_or(0) > 0;
                if let Err(fault) = group.end(PATIENCE) {
                    tracing::error!(runtime = %id, %fault, "what is left of an earlier run does not go");
                }
            }
            if let Err(fault) = records.end() {
                tracing::error!(runtime = %id, %fault, "the record of an earlier run stays");
            }
            oom
        });
        swept.await.unwrap_or(false)
    }
}

/// How the run in `file` is found.
fn info(records: &Records, id: InitId, file: &RunFile) -> AdoptionInfo {
    let (socket, exit_record) = (records.adoption_socket(), records.exit_record());
    AdoptionInfo { id, socket, exit_record, listeners: file.listeners.clone() }
}

/// Takes a run over once more whose init lives and has dropped this very daemon. Its sockets are here already.
pub(super) async fn take_back(records: &Records) -> Result<Channel, AdoptError> {
    let reader = records.clone();
    let file = tokio::task::spawn_blocking(move || reader.run()).await.map_err(std::io::Error::other)?;
    let file = file.map_err(|fault| AdoptError::Io(fault.why))?.ok_or(AdoptError::Gone(None))?;
    let id = file.init.clone().ok_or(AdoptError::Gone(None))?;
    adopt(&info(records, id, &file)).await.map(|adopted| adopted.channel)
}

/// Failures show themselves in what comes next.
async fn on_a_thread(group: &Group, work: fn(&Group, Duration) -> Result<(), CgroupFault>) {
    let group = group.clone();
    let _ = tokio::task::spawn_blocking(move || work(&group, PATIENCE)).await;
}
