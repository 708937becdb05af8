//! The init's life after the launch: it reaps, forwards, copies and answers until the command ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::exit;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sandbox::plan::{Plan, WhenAlone};
use crate::sandbox::wire::{Event, Exit, Order, hear, tell};
use crate::sys::message;

use super::executions::Executions;
use super::init::{GAVE_UP, Sockets};
use super::journal::Journal;

/// What is passed on to the command when somebody outside sends it to the init.
pub(super) const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// What an init holds.
pub(super) struct House {
    pub(super) command: Pid,
    pub(super) signals: SignalFd,
    /// The owner's; it does not block, and an owner that does not read is none.
    pub(super) control: Option<OwnedFd>,
    pub(super) sockets: Sockets,
    pub(super) exit_record: Option<File>,
    pub(super) adoption: Option<OwnedFd>,
    pub(super) journal: Option<Journal>,
    pub(super) executions: Executions,
    pub(super) plan: Plan,
}

/// Where something happens.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Control,
    Adoption,
    Stream(usize),
    Execution(u64),
}

impl House {
    /// Works until the command ends. Then this process ends, and with PID 1 the kernel kills whatever is left inside.
    pub(super) fn keep(mut self) -> ! {
        loop {
            for source in self.wait() {
                match source {
                    Source::Signals => self.on_signals(),
                    Source::Control => self.on_order(),
                    Source::Adoption => self.on_owner(),
                    Source::Stream(which) => {
                        if let Some(journal) = &mut self.journal {
                            journal.copy(which);
                        }
                    }
                    Source::Execution(ask) => {
                        let events = self.executions.on_fault_pipe(ask);
                        self.say_all(&events);
                    }
                }
            }
        }
    }

    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>)> {
        let mut sources = vec![(Source::Signals, self.signals.as_fd())];
        sources.extend(self.control.iter().map(|fd| (Source::Control, fd.as_fd())));
        sources.extend(self.adoption.iter().map(|fd| (Source::Adoption, fd.as_fd())));
        let streams = self.journal.iter().flat_map(Journal::open_streams);
        sources.extend(streams.map(|(which, fd)| (Source::Stream(which), fd)));
        sources.extend(self.executions.fault_pipes().map(|(ask, fd)| (Source::Execution(ask), fd)));
        sources
    }

    fn wait(&self) -> Vec<Source> {
        let sources = self.sources();
        let mut wanted: Vec<PollFd<'_>> = sources.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Vec::new(),
            Err(_) => exit(GAVE_UP),
        }
        let ready = sources.iter().zip(&wanted).filter(|(_, fd)| fd.any().unwrap_or(true));
        ready.map(|((source, _), _)| *source).collect()
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number == libc::SIGCHLD {
                self.reap();
            } else {
                self.forward(number);
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => self.give_up(),
            };
            if pid == self.command {
                self.finish(exit);
            }
            let events = self.executions.on_end(pid, exit);
            self.say_all(&events);
        }
    }

    fn forward(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            // It may have ended a moment ago; then SIGCHLD is on its way.
            let _ = kill(self.command, signal);
        }
    }

    fn on_order(&mut self) {
        let Some(control) = &self.control else { return };
        let answered = match hear::<Order>(control) {
            Ok(Some((order, descriptors))) => self.obey(order, descriptors),
            Ok(None) => Err(io::ErrorKind::BrokenPipe.into()),
            // Another owner's socket, with nothing said yet.
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(fault) => Err(fault),
        };
        if answered.is_err() {
            self.lose_owner();
        }
    }

    /// Fails only if the owner is not there to hear the answer.
    fn obey(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        match order {
            Order::Signal { number } => {
                self.forward(number);
                Ok(())
            }
            // It was made.
            Order::Go => Ok(()),
            Order::Listeners => {
                self.sockets.hand_over(control)?;
                // An empty message says that these were all.
                tell(control, &Event::Listening { places: Vec::new() }, &[])
            }
            Order::Socket { ask, v6 } => answer_with_socket(control, ask, v6),
            Order::Exec { ask, command } => match self.executions.start(&self.plan, ask, &command, descriptors) {
                Ok(()) => Ok(()),
                Err(fault) => tell(control, &Event::ExecFailed { ask, fault }, &[]),
            },
            Order::KillExec { ask } => {
                self.executions.kill(ask);
                Ok(())
            }
        }
    }

    fn say_all(&mut self, events: &[Event]) {
        let Some(control) = &self.control else { return };
        if events.iter().any(|event| tell(control, event, &[]).is_err()) {
            self.lose_owner();
        }
    }

    /// A later owner replaces the one before: the socket's place in the file system decides who can be one.
    fn on_owner(&mut self) {
        let Some(adoption) = &self.adoption else { return };
        if let Ok(socket) = message::accept(adoption) {
            self.executions.kill_all();
            self.control = Some(socket);
        }
    }

    fn lose_owner(&mut self) {
        self.control = None;
        // Nobody reads what they say any more.
        self.executions.kill_all();
        if self.plan.when_alone == WhenAlone::End {
            self.give_up();
        }
    }

    fn finish(&mut self, end: Exit) -> ! {
        if let Some(journal) = &mut self.journal {
            journal.finish();
        }
        if let Some(record) = &mut self.exit_record {
            let mut line = serde_json::to_vec(&end).unwrap_or_default();
            line.push(b'\n');
            let _ = record.write_all(&line);
        }
        if let Some(control) = &self.control {
            let _ = tell(control, &Event::Exited(end), &[]);
        }
        exit(end.code());
    }

    fn give_up(&mut self) -> ! {
        self.finish(Exit::Signal(libc::SIGKILL))
    }
}

fn answer_with_socket(control: &OwnedFd, ask: u64, v6: bool) -> io::Result<()> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    match socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        Ok(made) => tell(control, &Event::Socket { ask }, &[made.as_fd()]),
        Err(errno) => tell(control, &Event::NoSocket { ask, errno: errno as i32 }, &[]),
    }
}
