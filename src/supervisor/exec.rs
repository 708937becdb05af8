//! One more command inside a runtime that lives, on behalf of an operator.
//!
//! ```text
//!                    ┌── output ──> Execution::next ──> Said::{Out, Err}, … , Said::End
//! command, inside ───┤
//!        ^           └── end ─────> its task ──> Ending
//!        └────────── kill ─────────── ┘ when its time is over, or when the Execution is dropped
//! ```
//!
//! It is as confined as the runtime's own command, and counts against the runtime's limits. Nothing here grows with what
//! it says: who does not read lets its pipes fill, and it waits. Its time runs meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::sandbox::{Channel, Exec, ExecError, Executing, Exit, Fault, MAX_EXECUTIONS, Text};

use super::life::State;

/// Most commands of operators that run in one runtime at once: half of what its init takes, so that its probes always
/// find room.
pub(super) const MAX_COMMANDS: usize = MAX_EXECUTIONS / 2;
/// Most bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// Most bytes that one pipe holds when nobody says how many (pipe(7): `pipe-max-size` of an ordinary user).
const MAX_PIPE: usize = 1 << 20;
/// How long a killed command may take to vanish. A frozen one does not; it is gone once it goes on.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Why a command was not executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecFault {
    /// There is no such runtime.
    #[error("there is no such runtime")]
    Unknown,
    /// Nothing runs there, or it is held still or being ended.
    #[error("nothing can be executed in it while it is {0}")]
    NotRunning(State),
    /// It ended while it was asked.
    #[error("the runtime ended meanwhile")]
    Ended,
    /// The kill switch was used.
    #[error("the kill switch was used: nothing starts until it is rearmed")]
    Shut,
    /// As many commands run there as may.
    #[error("{MAX_COMMANDS} commands run there already, the most there may be")]
    Crowded,
    /// The command, in the form in which it reaches the init, is longer than a message.
    #[error("the command is too long")]
    TooLong,
    /// It could not be made a process of.
    #[error("{0}")]
    Refused(Fault),
    /// The runtime's init does not answer, or this host is out of something.
    #[error("the runtime's init could not be asked: {0}")]
    Silent(String),
}

impl From<ExecError> for ExecFault {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Refused(fault) => Self::Refused(fault),
            ExecError::Io(fault) => match fault.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Ended,
                io::ErrorKind::InvalidInput => Self::TooLong,
                _ => Self::Silent(fault.to_string()),
            },
        }
    }
}

/// What is heard of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// On its standard output.
    Out(Vec<u8>),
    /// On its standard error.
    Err(Vec<u8>),
    /// It is over, and nothing more will be heard.
    End(Ending),
}

/// How it came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, or by a signal of somebody inside.
    Exited(Exit),
    /// Its time was over, and it was killed with its session.
    TimedOut,
    /// With the runtime.
    RuntimeEnded,
}

/// A command that runs. Dropped, it is killed with its session; what has left that session belongs to the runtime.
#[derive(Debug)]
pub struct Execution {
    out: Option<Receiver>,
    err: Option<Receiver>,
    end: Wait,
    _place: OwnedSemaphorePermit,
}

/// Whether its end is known.
#[derive(Debug)]
enum Wait {
    /// Not yet.
    Runs(AbortOnDropHandle<Ending>),
    /// It is, and this much of what the pipes still hold may be read.
    Ended(Ending, [usize; 2]),
    /// It was told.
    Over,
}

impl Execution {
    /// Executes `argv`, without input, for at most `time`.
    pub(super) async fn start(
        channel: &Channel,
        argv: Vec<Text>,
        time: Duration,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, ExecFault> {
        let local = |fault: io::Error| ExecFault::Silent(fault.to_string());
        let null = File::open("/dev/null").map_err(local)?;
        let (out, to_out) = io::pipe().map_err(local)?;
        let (err, to_err) = io::pipe().map_err(local)?;
        let executing = channel.exec(Exec::new(argv), [null.into(), to_out.into(), to_err.into()]).await?;
        let deadline = Instant::now() + time;
        let receiver = |end: io::PipeReader| Receiver::from_owned_fd(OwnedFd::from(end)).map_err(local);
        Ok(Self {
            out: Some(receiver(out)?),
            err: Some(receiver(err)?),
            end: Wait::Runs(AbortOnDropHandle::new(tokio::spawn(attend(executing, deadline)))),
            _place: place,
        })
    }

    /// What it says next; `None` after its end. Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<Said> {
        let (mut first, mut second) = (vec![0; CHUNK], vec![0; CHUNK]);
        loop {
            match &mut self.end {
                Wait::Runs(ending) => tokio::select! {
                    read = read(&mut self.out, &mut first) => if let Some(count) = read {
                        first.truncate(count);
                        return Some(Said::Out(first));
                    },
                    read = read(&mut self.err, &mut second) => if let Some(count) = read {
                        second.truncate(count);
                        return Some(Said::Err(second));
                    },
                    ending = ending => {
                        let ending = ending.unwrap_or(Ending::RuntimeEnded);
                        self.end = Wait::Ended(ending, [capacity(self.out.as_ref()), capacity(self.err.as_ref())]);
                    }
                },
                Wait::Ended(ending, [of_out, of_err]) => {
                    if let Some(rest) = rest(&mut self.out, of_out) {
                        return Some(Said::Out(rest));
                    }
                    if let Some(rest) = rest(&mut self.err, of_err) {
                        return Some(Said::Err(rest));
                    }
                    let ending = *ending;
                    self.end = Wait::Over;
                    return Some(Said::End(ending));
                }
                Wait::Over => return None,
            }
        }
    }
}

/// Holds the command, until it ends or its time is over.
async fn attend(executing: Executing, deadline: Instant) -> Ending {
    tokio::select! {
        ended = executing.ended() => ended.map_or(Ending::RuntimeEnded, Ending::Exited),
        () = sleep_until(deadline) => {
            // The order waits for an init that stands still; one that is gone has taken the command along.
            let _ = executing.kill().await;
            let _ = timeout(LAST_BREATH, executing.ended()).await;
            Ending::TimedOut
        }
    }
}

/// Reads once; for ever waiting when nothing can come any more.
async fn read(pipe: &mut Option<Receiver>, chunk: &mut [u8]) -> Option<usize> {
    let Some(open) = pipe else { return std::future::pending().await };
    match open.read(chunk).await {
        Ok(count @ 1..) => Some(count),
        Ok(0) | Err(_) => {
            *pipe = None;
            None
        }
    }
}

/// What a pipe can hold: all that was written before the end. What a process that stays says later is not waited for.
fn capacity(pipe: Option<&Receiver>) -> usize {
    let size = pipe.and_then(|pipe| fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok());
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(MAX_PIPE).min(MAX_PIPE)
}

/// What is in the pipe, without waiting for more. Asked of the kernel itself: the executor may not have heard of it yet.
fn rest(pipe: &mut Option<Receiver>, left: &mut usize) -> Option<Vec<u8>> {
    let open = pipe.as_ref()?;
    let mut chunk = vec![0; CHUNK.min(*left)];
    let read = loop {
        match nix::unistd::read(open, &mut chunk) {
            Err(Errno::EINTR) => {}
            other => break other.unwrap_or(0),
        }
    };
    if read == 0 {
        *pipe = None;
        return None;
    }
    *left -= read;
    chunk.truncate(read);
    Some(chunk)
}
