//! Doing what the life says.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::events::EventKind;

use super::super::death::{Death, DeathRecord};
use super::super::life::{Effect, Event, LaunchFault, Notice, Origin, Report, Signal, Why};
use super::super::records::{RecordFault, Records};
use super::launching::{Note, Wanted};
use super::{Keeper, Running, Told, What};

/// How long a cgroup may take to stand still, or to go on.
const FREEZE: Duration = Duration::from_secs(2);
/// How long a signal may take to reach the init.
const SIGNAL: Duration = Duration::from_secs(2);

/// How long what was noted may lie in memory. A launch takes less, and a sync beside it holds up each file that it makes: a
/// commit of the journal stops whoever begins a change (ext4).
const SETTLE: Duration = Duration::from_millis(50);

/// When what was written has to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// Before anything else is done.
    First,
    /// Soon. It is written at once, so a daemon that was killed finds it.
    Soon,
    /// Soon after the launch of the same turn, which writes it before anything runs.
    WithLaunch,
}

/// A launch that nobody asked for counts in the restart window, and the window is on disk before it: if the launch takes the
/// host down, it ends in a quarantine and not in a host that goes down again at each boot. An operator's own launch loses
/// nothing with the power but its number, and does not wait for the disk.
fn durability(effects: &[Effect]) -> Durable {
    let asked = |effect: &Effect| matches!(effect, Effect::Launch { why: Why::Asked(Origin::Operator), .. });
    if effects.iter().any(asked) { Durable::WithLaunch } else { Durable::First }
}

impl Keeper {
    pub(super) async fn perform_all(&mut self, effects: Vec<Effect>) {
        (self.unwritten, self.noted) = (None, None);
        let durable = durability(&effects);
        for effect in effects {
            self.perform(effect, durable).await;
        }
        // Left by what was to launch and did not.
        if let Some(note) = self.noted.take() {
            self.write(note).await;
        }
    }

    async fn perform(&mut self, effect: Effect, durable: Durable) {
        match effect {
            Effect::Launch { run, why } => self.launch(run, why).await,
            Effect::StartWatching { run } => {
                let (spec, state, tell) = (Arc::clone(&self.spec), self.life.state(), self.tell.clone());
                if let Some(running) = self.of(run) {
                    running.watch(&spec, state, &tell);
                }
            }
            Effect::StopWatching { run } => {
                if let Some(running) = self.of(run) {
                    running.stop_watching();
                }
            }
            Effect::ArmTimer { timer, after } => self.timer = Some((timer, Instant::now() + after)),
            Effect::SendSignal { run, signal } => self.signal(run, signal).await,
            Effect::KillAll { run } => self.kill(run),
            Effect::Freeze { run } => self.freeze(run).await,
            Effect::Thaw { run } => self.thaw(run).await,
            Effect::WriteDeathRecord(death) => self.bury(death).await,
            Effect::Persist(saved) => {
                self.kept.life = saved;
                self.persist(durable).await;
            }
            Effect::Publish(notice) => self.publish(notice),
        }
    }

    fn of(&mut self, run: u64) -> Option<&mut Running> {
        self.running.as_deref_mut().filter(|running| running.run == run)
    }

    async fn launch(&mut self, run: u64, why: Why) {
        if let Some((fault, reason)) = self.cannot_launch() {
            self.slot.set_detail(Some(reason));
            return self.follow.push_back(Event::Process { run, report: Report::LaunchFailed(fault) });
        }
        // Somebody wants it anew: a fresh stretch. Whatever comes by itself goes on in the old one.
        let fresh = match why {
            Why::Asked(Origin::Operator | Origin::Schedule) | Why::Restore => true,
            Why::Asked(Origin::Boot | Origin::Demand | Origin::Dependent) | Why::Restart => false,
        };
        self.spent.begin(self.spec.budget.window, run, fresh, self.now());
        self.slot.set_spent(self.spent);
        if why == Why::Restart {
            self.slot.count_restart();
        }
        self.save_spent().await;
        let uid = match self.uid().await {
            Ok(uid) => uid,
            Err(reason) => {
                self.slot.set_detail(Some(reason));
                return self
                    .follow
                    .push_back(Event::Process { run, report: Report::LaunchFailed(LaunchFault::Failed) });
            }
        };
        self.running = None;
        self.remains = None;
        let wanted = Wanted {
            shared: Arc::clone(&self.shared),
            spec: Arc::clone(&self.spec),
            run,
            began: self.now(),
            uid,
            records: self.records.clone(),
            spent: self.spent,
            noted: self.noted.take(),
        };
        let tell = self.tell.clone();
        // It goes on beside all else that this turn leads to.
        let launched = wanted.launch();
        tracing::info!(runtime = %self.spec.id, run, "a runtime is launched");
        // Not bound to the keeper: a launch that is under way is brought to its end, and the record says how to find it.
        tokio::spawn(async move {
            let launched = launched.await.map(|(mut running, from)| {
                running.from = from;
                running
            });
            let _ = tell.send(Told { run, what: What::Launched(launched) }).await;
        });
    }

    fn cannot_launch(&self) -> Option<(LaunchFault, String)> {
        if self.shared.is_shut() {
            return Some((LaunchFault::Barred, "the kill switch was used".to_owned()));
        }
        if self.shared.bars.holds(&self.spec.id) {
            return Some((LaunchFault::Barred, "it is disabled".to_owned()));
        }
        let unwritten = |why| format!("its state cannot be written, so it is not launched: {why}");
        self.unwritten.as_ref().map(|why| (LaunchFault::Failed, unwritten(why)))
    }

    /// Its user id on the host, chosen once and kept for as long as the range has it.
    async fn uid(&mut self) -> Result<u32, String> {
        if let Some(uid) = self.kept.uid.filter(|uid| self.shared.uids().contains(uid)) {
            return Ok(uid);
        }
        let uid = self.shared.take_uid().ok_or("every user id of `runtimes.uids` is taken")?;
        self.kept.uid = Some(uid);
        self.persist(Durable::First).await;
        match &self.unwritten {
            None => Ok(uid),
            Some(why) => Err(format!("its state cannot be written, so it is not launched: {why}")),
        }
    }

    async fn signal(&mut self, run: u64, signal: Signal) {
        let number = match signal {
            Signal::Terminate => nix::libc::SIGTERM,
            Signal::Abort => nix::libc::SIGABRT,
        };
        let Some(running) = self.of(run) else { return };
        // One that is gone already, or does not hear, is what the grace and the kill after it are for.
        let _ = tokio::time::timeout(SIGNAL, running.channel.signal(number)).await;
    }

    fn kill(&mut self, run: u64) {
        self.slot.finish();
        let tell = self.tell.clone();
        match self.of(run) {
            Some(running) => running.kill(&tell),
            // Nothing was launched, or the launch ended what it had begun.
            None => self.follow.push_back(Event::Process { run, report: Report::KillDone }),
        }
    }

    async fn freeze(&mut self, run: u64) {
        let Some(running) = self.of(run) else { return };
        let (group, tell) = (running.group.clone(), self.tell.clone());
        let frozen = tokio::task::spawn_blocking(move || {
            group.freeze(FREEZE).map_err(|fault| {
                let _ = group.thaw(FREEZE);
                fault.to_string()
            })
        });
        let failed = match frozen.await {
            Ok(Ok(())) => return self.note_frozen(true).await,
            Ok(Err(why)) => why,
            Err(_) => "the attempt panicked".to_owned(),
        };
        let what = What::NotFrozen(format!("it cannot be held still: {failed}"));
        // Not awaited: the keeper itself empties the queue.
        let _ = tell.try_send(Told { run, what });
    }

    async fn thaw(&mut self, run: u64) {
        let Some(group) = self.of(run).map(|running| running.group.clone()) else { return };
        let thawed = tokio::task::spawn_blocking(move || group.thaw(FREEZE)).await;
        if let Ok(Err(fault)) = thawed {
            tracing::error!(runtime = %self.spec.id, run, %fault, "a runtime does not go on");
            self.slot.set_detail(Some(format!("it does not go on: {fault}")));
        }
        self.note_frozen(false).await;
    }

    async fn note_frozen(&mut self, frozen: bool) {
        let noted = self.on_disk(move |records| match records.run()? {
            Some(run) => records.begin(&super::super::records::RunFile { frozen, ..run }),
            None => Ok(()),
        });
        if let Err(fault) = noted.await {
            tracing::warn!(runtime = %self.spec.id, %fault, "a later daemon will not know whether it is frozen");
        }
    }

    async fn bury(&mut self, death: Death) {
        let remains = self.remains.take().unwrap_or_default();
        let record = DeathRecord::new(self.spec.id.clone(), death, &remains.last_lines, remains.denials, remains.used);
        tracing::info!(runtime = %self.spec.id, run = death.run, cause = death.cause.code(), "a run has ended");
        self.slot.bury(record.clone());
        if let Err(fault) = self.on_disk(move |records| records.bury(&record)).await {
            tracing::error!(runtime = %self.spec.id, %fault, "a death record could not be written");
        }
    }

    /// What outlives the daemon; a failure keeps it from launching.
    pub(super) async fn persist(&mut self, durable: Durable) {
        // One after the other: the newest is what stays.
        if let Some(earlier) = self.writing.take().filter(|note| !note.is_written()) {
            self.write(earlier).await;
        }
        match durable {
            Durable::First => {
                let kept = self.kept.clone();
                if let Err(fault) = self.on_disk(move |records| records.keep(&kept)).await {
                    tracing::error!(runtime = %self.spec.id, %fault, "the state of a runtime could not be written");
                    self.unwritten = Some(fault.to_string());
                }
            }
            Durable::Soon => {
                let note = self.note();
                tokio::task::spawn_blocking(move || note.write().is_ok());
            }
            Durable::WithLaunch => self.noted = Some(self.note()),
        }
    }

    async fn write(&self, note: Arc<Note>) {
        // What comes of it was logged, and the next launch asks for itself.
        let _ = tokio::task::spawn_blocking(move || note.write().is_ok()).await;
    }

    /// What is to be written, by whoever comes to it first, and is on disk soon.
    fn note(&mut self) -> Arc<Note> {
        let (id, records, kept) = (self.spec.id.clone(), self.records.clone(), self.kept.clone());
        let note = Arc::new(Note::new(id.clone(), records.clone(), kept));
        self.writing = Some(Arc::clone(&note));
        let noted = Arc::clone(&note);
        // It has an end of its own, and nobody waits for it: what it is for is a power cut.
        tokio::spawn(async move {
            tokio::time::sleep(SETTLE).await;
            tokio::task::spawn_blocking(move || {
                let _ = note.write();
                if let Err(fault) = records.settle() {
                    tracing::error!(runtime = %id, %fault, "the state of a runtime would not outlive a power cut");
                }
            });
        });
        noted
    }

    pub(super) async fn save_spent(&mut self) {
        // Without a budget nobody asks, and a launch need not wait for the disk.
        if self.spec.budget == super::super::Budget::default() {
            return;
        }
        let spent = self.spent;
        if let Err(fault) = self.on_disk(move |records| records.spend(&spent)).await {
            tracing::error!(runtime = %self.spec.id, %fault, "what a runtime has spent could not be written");
            self.unwritten = Some(fault.to_string());
        }
    }

    async fn on_disk(
        &self,
        work: impl FnOnce(&Records) -> Result<(), RecordFault> + Send + 'static,
    ) -> Result<(), RecordFault> {
        let records = self.records.clone();
        let path = records.exit_record();
        let panicked =
            |_| RecordFault { path, why: std::io::Error::other("the thread that writes to the disk panicked") };
        tokio::task::spawn_blocking(move || work(&records)).await.unwrap_or_else(|fault| Err(panicked(fault)))
    }

    fn publish(&mut self, notice: Notice) {
        let id = &self.spec.id;
        let tell = |kind, mut data: serde_json::Value| {
            data["runtime"] = json!(id);
            data["persona"] = json!(self.spec.persona);
            self.shared.events.publish(kind, Some(id.as_str()), data);
        };
        match notice {
            Notice::StateChanged { from, to } => {
                tracing::info!(runtime = %id, %from, %to, "the state of a runtime changed");
                tell(EventKind::RuntimeStateChanged, json!({"from": from, "to": to, "run": self.life.run()}));
            }
            Notice::Health(reason) => {
                self.slot.set_health(reason);
                tell(EventKind::RuntimeHealth, json!({"reason": reason, "run": self.life.run()}));
            }
            Notice::Quarantined => {
                // The change of its state is what alerts are raised from.
                tracing::error!(runtime = %id, "a runtime is quarantined: `arw-cli runtime restore` starts it again");
            }
            Notice::BudgetPaidBack => tracing::info!(runtime = %id, "the restart budget is paid back"),
            Notice::RestoreRequested => tell(EventKind::RuntimeRestoreRequested, json!({})),
            Notice::RestoreCompleted => tell(EventKind::RuntimeRestoreCompleted, json!({})),
            Notice::Refused { request, state } => {
                tracing::debug!(runtime = %id, %request, %state, "a request was refused");
            }
        }
    }
}
