//! The command's own process, from the fork to `execve`.

use std::ffi::CString;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid};

use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Plan, Terminal};
use crate::sandbox::wire::{Event, tell};
use crate::sandbox::{Control, Text, seccomp};
use crate::sys::{descriptor, filter};

use super::launcher::Descriptors;
use super::measure::{self, Seen};

/// Becomes the command, or writes the fault into `faults`.
pub(super) fn run(plan: &Plan, descriptors: &Descriptors, seen: &Seen, mut faults: PipeWriter) -> ! {
    let Err(fault) = become_command(plan, descriptors, seen, &faults);
    let _ = serde_json::to_writer(&mut faults, &fault);
    let _ = faults.flush();
    exit(127);
}

fn become_command(
    plan: &Plan,
    descriptors: &Descriptors,
    seen: &Seen,
    faults: &PipeWriter,
) -> Result<std::convert::Infallible, Fault> {
    // Compiled and allocated before the filter, so that afterwards as little as possible is left to do.
    let program = seccomp::compile(plan.seccomp);
    let command = Command::of(plan)?;
    setsid().at(Step::Session)?;
    descriptors.standard.iter().try_for_each(refuse_folder)?;
    let [stdin, stdout, stderr] = &descriptors.standard;
    dup2_stdin(stdin).at(Step::Streams)?;
    dup2_stdout(stdout).at(Step::Streams)?;
    dup2_stderr(stderr).at(Step::Streams)?;
    if plan.terminal == Terminal::Own {
        descriptor::take_terminal(&std::io::stdin()).at(Step::Terminal)?;
    }
    chdir(&plan.workdir).at_with(Step::Workdir, || plan.workdir.display().to_string())?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if plan.applies(Control::Descriptors) {
        let keep = [&descriptors.control as &dyn std::os::fd::AsRawFd, faults];
        descriptor::close_from(3, &keep).at(Step::Descriptors)?;
        descriptor::close_on_exec_from(3).at(Step::Descriptors)?;
    }
    SigSet::empty().thread_set_mask().at(Step::Session)?;
    if plan.applies(Control::Seccomp) {
        filter::install(&program).at(Step::Seccomp)?;
    }
    let report = measure::report(plan, seen);
    tell(&descriptors.control.as_fd(), &Event::Measured(report.clone()), &[]).at(Step::Measure)?;
    if let Some(unmet) = report.unmet(&plan.require) {
        let why = format!("{} is {}: {}", unmet.control, unmet.state.code(), unmet.state.why());
        return Err(Fault::said(Step::Require, why));
    }
    command.execute()
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
    fn of(plan: &Plan) -> Result<Self, Fault> {
        let argv = plan.argv.iter().map(c_string).collect::<Result<Vec<_>, Fault>>()?;
        let Some(program) = argv.first() else { return Err(Fault::said(Step::Exec, "there is no command")) };
        let env = plan
            .env
            .iter()
            .map(|(name, value)| c_string(&Text::from_parts(&[name.as_bytes(), b"=", value.as_bytes()])))
            .collect::<Result<Vec<_>, Fault>>()?;
        let candidates = if program.as_bytes().contains(&b'/') {
            vec![program.clone()]
        } else {
            let path = plan.env.iter().find(|(name, _)| name.as_bytes() == b"PATH");
            let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_bytes());
            path.split(|byte| *byte == b':')
                // An empty entry would mean the working directory, which the command itself can write.
                .filter(|folder| folder.starts_with(b"/"))
                .map(|folder| c_string(&Text::from_parts(&[folder, b"/", program.as_bytes()])))
                .collect::<Result<_, Fault>>()?
        };
        Ok(Self { candidates, argv, env })
    }

    fn execute(&self) -> Result<std::convert::Infallible, Fault> {
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
