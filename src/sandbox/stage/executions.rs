//! Commands besides the main one, on behalf of the owner.

use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::Plan;
use crate::sandbox::wire::{Event, Exit};
use crate::sandbox::{Control, Exec, MAX_EXECUTIONS};
use crate::sys::clone::{Side, fork};
use crate::sys::{descriptor, process};

use super::command;

/// What runs for the owner.
pub(super) struct Executions {
    all: Vec<Execution>,
    /// Whether `/proc` shows the processes of this sandbox, by the numbers that they have here.
    sees_processes: bool,
}

struct Execution {
    ask: u64,
    leader: Pid,
    /// Closes without a word when the program was executed.
    faults: Option<PipeReader>,
    said: Vec<u8>,
    /// Its owner has gone: nobody is told of its end.
    is_orphan: bool,
}

impl Executions {
    pub(super) fn new(plan: &Plan) -> Self {
        let needed = [Control::MountNamespace, Control::Root, Control::PidNamespace];
        Self { all: Vec::new(), sees_processes: needed.iter().all(|control| plan.applies(*control)) }
    }

    /// Makes the process; whether it could execute its program is heard later.
    pub(super) fn start(&mut self, plan: &Plan, ask: u64, command: &Exec, streams: Vec<OwnedFd>) -> Result<(), Fault> {
        if self.all.len() >= MAX_EXECUTIONS {
            return Err(Fault::said(Step::Fork, format!("{MAX_EXECUTIONS} commands run already")));
        }
        if self.all.iter().any(|one| one.ask == ask && !one.is_orphan) {
            return Err(Fault::said(Step::Fork, "its number is taken"));
        }
        let streams: [OwnedFd; 3] = streams.try_into().map_err(|_| Fault::said(Step::Streams, "three are needed"))?;
        let (faults, report_fault) = io::pipe().at(Step::Fork)?;
        descriptor::set_nonblocking(&faults).at(Step::Fork)?;
        match fork().at(Step::Fork)? {
            Side::Child => command::run_another(plan, command, streams, report_fault),
            Side::Parent(child) => self.all.push(Execution {
                ask,
                leader: Pid::from_raw(child.pid),
                faults: Some(faults),
                said: Vec::new(),
                is_orphan: false,
            }),
        }
        Ok(())
    }

    /// Where it is heard.
    pub(super) fn fault_pipes(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.all.iter().filter_map(|one| Some((one.ask, one.faults.as_ref()?.as_fd())))
    }

    /// What to tell the owner.
    pub(super) fn on_fault_pipe(&mut self, ask: u64) -> Vec<Event> {
        let mut events = Vec::new();
        self.all.retain_mut(|one| one.ask != ask || one.listen(&mut events));
        events
    }

    /// A process was reaped, perhaps one of these.
    pub(super) fn on_end(&mut self, pid: Pid, exit: Exit) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(place) = self.all.iter().position(|one| one.leader == pid) else { return events };
        let mut ended = self.all.swap_remove(place);
        // With the process its end of the pipe is closed, so all that will be said is there.
        if ended.listen(&mut events) && !ended.is_orphan {
            events.push(Event::ExecEnded { ask: ended.ask, exit });
        }
        events
    }

    /// Kills what the owner asked for under this number.
    pub(super) fn kill(&self, ask: u64) {
        self.all.iter().filter(|one| one.ask == ask && !one.is_orphan).for_each(|one| self.kill_session(one.leader));
    }

    /// Kills all, and says nothing more of them.
    pub(super) fn kill_all(&mut self) {
        self.all.iter_mut().for_each(|one| one.is_orphan = true);
        self.all.iter().for_each(|one| self.kill_session(one.leader));
    }

    /// The leader was not reaped yet, so its number is nobody else's, nor is that of its session.
    fn kill_session(&self, leader: Pid) {
        // It may not have made its session yet.
        let _ = kill(leader, Signal::SIGKILL);
        let _ = kill(Pid::from_raw(-leader.as_raw()), Signal::SIGKILL);
        if !self.sees_processes {
            return;
        }
        // A shell with job control gives each job a group of its own. What forks while we look is caught next time.
        for _ in 0..PASSES {
            let members = members(leader);
            if members.is_empty() {
                return;
            }
            for pid in members {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}

/// How often a session is looked through for what is left of it.
const PASSES: usize = 8;

/// The living processes of a session.
fn members(session: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_member = |pid: &i32| {
        process::stat(Some(*pid)).is_ok_and(|found| found.session == session.as_raw() && !b"ZX".contains(&found.state))
    };
    numbers.filter(|pid| *pid > 1).filter(is_member).map(Pid::from_raw).collect()
}

impl Execution {
    /// Reads what its process says before it is the program. `false` when it never will be.
    fn listen(&mut self, events: &mut Vec<Event>) -> bool {
        let Some(faults) = &mut self.faults else { return true };
        match faults.read_to_end(&mut self.said) {
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return true,
            _ => self.faults = None,
        }
        if self.is_orphan {
            return true;
        }
        let ask = self.ask;
        if self.said.is_empty() {
            events.push(Event::ExecStarted { ask });
            return true;
        }
        let unknown = |_| Fault::said(Step::Exec, "the command's process could not say why");
        events.push(Event::ExecFailed { ask, fault: serde_json::from_slice(&self.said).unwrap_or_else(unknown) });
        false
    }
}
