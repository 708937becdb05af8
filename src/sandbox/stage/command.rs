//! The command's own process, from the fork to `execve`.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid};

use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Plan, Terminal};
use crate::sandbox::wire::{Event, tell};
use crate::sandbox::{Control, Exec, Text, seccomp};
use crate::sys::{descriptor, filter, process, signals};

use super::measure::{self, Seen};
use super::place::Place;

/// The exit status of one that could not be executed.
const NOT_EXECUTED: u8 = 127;

/// Becomes the command, or writes the fault into `faults` and gives the exit status to leave with. The memory is the init's
/// own, so nothing of it is let go of.
pub(super) fn run(
    plan: &Plan,
    control: &OwnedFd,
    standard: &[OwnedFd; 3],
    seen: &Seen,
    place: &Place,
    faults: &PipeWriter,
) -> u8 {
    let task =
        Task { argv: &plan.argv, env: plan.env.clone(), workdir: &plan.workdir, terminal: plan.terminal, standard };
    let Err(fault) = place.leave_with_maker().and_then(|()| become_command(plan, &task, control, seen, faults));
    say(&fault, faults);
    NOT_EXECUTED
}

/// Becomes one more command of a sandbox that runs already, or writes the fault into `faults`.
pub(super) fn run_another(plan: &Plan, command: &Exec, standard: [OwnedFd; 3], faults: PipeWriter) -> ! {
    let own = |name: &Text| command.env.iter().any(|(other, _)| other == name);
    let inherited = plan.env.iter().filter(|(name, _)| !own(name));
    let task = Task {
        argv: &command.argv,
        env: inherited.chain(&command.env).cloned().collect(),
        workdir: command.workdir.as_ref().unwrap_or(&plan.workdir),
        terminal: command.terminal,
        standard: &standard,
    };
    let Err(fault) = become_another(plan, &task, &faults);
    say(&fault, &faults);
    process::leave(NOT_EXECUTED)
}

fn say(fault: &Fault, mut faults: &PipeWriter) {
    let _ = faults.write_all(&serde_json::to_vec(fault).unwrap_or_default());
}

/// What is executed, and with what.
struct Task<'a> {
    argv: &'a [Text],
    env: Vec<(Text, Text)>,
    workdir: &'a Path,
    terminal: Terminal,
    standard: &'a [OwnedFd; 3],
}

fn become_command(
    plan: &Plan,
    task: &Task<'_>,
    control: &OwnedFd,
    seen: &Seen,
    faults: &PipeWriter,
) -> Result<Infallible, Fault> {
    let command = confine(plan, task, &[control, faults])?;
    let report = measure::report(plan, seen);
    tell(&control.as_fd(), &Event::Measured(report.clone()), &[]).at(Step::Measure)?;
    if let Some(unmet) = report.unmet(&plan.require) {
        let why = format!("{} is {}: {}", unmet.control, unmet.state.code(), unmet.state.why());
        return Err(Fault::said(Step::Require, why));
    }
    command.execute()
}

/// Namespaces, ids, limits, Landlock and the lack of capabilities are the init's own, which were measured at the launch.
fn become_another(plan: &Plan, task: &Task<'_>, faults: &PipeWriter) -> Result<Infallible, Fault> {
    // The init ignores some, and a program would inherit that.
    signals::reset_all();
    confine(plan, task, &[faults])?.execute()
}

/// The part of a command's confinement that it does not inherit. What is in `keep` closes when it is executed.
fn confine(plan: &Plan, task: &Task<'_>, keep: &[&dyn AsRawFd]) -> Result<Command, Fault> {
    // Compiled and allocated before the filter, so that afterwards as little as possible is left to do.
    let program = seccomp::program(plan.seccomp);
    let command = Command::of(task)?;
    setsid().at(Step::Session)?;
    task.standard.iter().try_for_each(refuse_folder)?;
    let [stdin, stdout, stderr] = task.standard;
    dup2_stdin(stdin).at(Step::Streams)?;
    dup2_stdout(stdout).at(Step::Streams)?;
    dup2_stderr(stderr).at(Step::Streams)?;
    if task.terminal == Terminal::Own {
        descriptor::take_terminal(&std::io::stdin()).at(Step::Terminal)?;
    }
    chdir(task.workdir).at_with(Step::Workdir, || task.workdir.display().to_string())?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if plan.applies(Control::Descriptors) {
        descriptor::close_from(3, keep).at(Step::Descriptors)?;
        descriptor::close_on_exec_from(3).at(Step::Descriptors)?;
    }
    SigSet::empty().thread_set_mask().at(Step::Session)?;
    process::spend_memory();
    if plan.applies(Control::Seccomp) {
        filter::install(program).at(Step::Seccomp)?;
    }
    Ok(command)
}

/// An open folder of the host is a way to everything below and above it.
fn refuse_folder(stream: &OwnedFd) -> Result<(), Fault> {
    let kind = SFlag::from_bits_truncate(fstat(stream).at(Step::Streams)?.st_mode & SFlag::S_IFMT.bits());
    let flags = OFlag::from_bits_truncate(fcntl(stream, FcntlArg::F_GETFL).at(Step::Streams)?);
    if kind == SFlag::S_IFDIR || kind == SFlag::S_IFBLK || flags.contains(OFlag::O_PATH) {
        return Err(Fault::said(Step::Streams, "one of them is an open folder, a disk, or a path"));
    }
    Ok(())
}

/// What `execve` takes.
struct Command {
    /// Where the program may lie, in order.
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    fn of(task: &Task<'_>) -> Result<Self, Fault> {
        let argv = task.argv.iter().map(c_string).collect::<Result<Vec<_>, Fault>>()?;
        let Some(program) = argv.first() else { return Err(Fault::said(Step::Exec, "there is no command")) };
        let env = task
            .env
            .iter()
            .map(|(name, value)| c_string(&Text::from_parts(&[name.as_bytes(), b"=", value.as_bytes()])))
            .collect::<Result<Vec<_>, Fault>>()?;
        let candidates = if program.as_bytes().contains(&b'/') {
            vec![program.clone()]
        } else {
            let path = task.env.iter().find(|(name, _)| name.as_bytes() == b"PATH");
            let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_bytes());
            path.split(|byte| *byte == b':')
                // An empty entry would mean the working directory, which the command itself can write.
                .filter(|folder| folder.starts_with(b"/"))
                .map(|folder| c_string(&Text::from_parts(&[folder, b"/", program.as_bytes()])))
                .collect::<Result<_, Fault>>()?
        };
        Ok(Self { candidates, argv, env })
    }

    fn execute(&self) -> Result<Infallible, Fault> {
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            match execve(candidate, &self.argv, &self.env) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(Errno::EACCES) => worst = Errno::EACCES,
                Err(fault) => return Err(self.fault(fault)),
                Ok(never) => return Ok(never),
            }
        }
        Err(self.fault(worst))
    }

    fn fault(&self, errno: Errno) -> Fault {
        let program = self.argv.first().map(|program| program.to_string_lossy().into_owned());
        Fault::new(Step::Exec, program.unwrap_or_default(), &errno.into())
    }
}

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

fn c_string(text: &Text) -> Result<CString, Fault> {
    text.to_c_string().map_err(|_| Fault::said(Step::Exec, "an argument or a variable has a NUL inside"))
}
