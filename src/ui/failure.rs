//! What a failed command says: what, why, and what to do, on one line.

use std::fmt;
use std::io;

use serde::Serialize;

use super::text::safe;
use crate::control::{Base, ClientError};

/// How a command ended when nothing went wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As asked: exit 0.
    Done,
    /// It ran, and the answer is no (a denial, faults found): exit 1. What there is to say was said.
    Refused,
    /// A command ran for it and ended with this code, which is passed on.
    Passed(u8),
}

/// Why a command failed: exit 1, or 2 when the command line itself is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What did not happen.
    pub what: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// The daemon's stable code, when it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The process's exit status.
    #[serde(skip)]
    pub exit: u8,
    /// The reader of our output went away; nothing to say.
    #[serde(skip)]
    pub silent: bool,
}

impl Failure {
    /// A failure with nothing but what failed.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: None, advice: None, code: None, exit: 1, silent: false }
    }

    /// A command line that cannot be acted on: exit 2.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::new(what) }
    }

    /// With the cause.
    #[must_use]
    pub fn why(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// With the causes of `error`, outermost first.
    #[must_use]
    pub fn because(mut self, error: &dyn std::error::Error) -> Self {
        self.why = Some(chain(error));
        self
    }

    /// With advice.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// `error` and its sources, joined by colons.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent errors repeat their source.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// One line, safe for a terminal.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&safe(&self.what))?;
        if let Some(why) = &self.why {
            write!(f, ": {}", safe(why))?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {}", safe(advice))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// A broken output; a reader that went away (`| head`) is no failure to speak of.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        Self { silent: gone, exit: if gone { 0 } else { 1 }, ..Self::new("cannot write the output").why(error) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::NotRunning { base, source } => {
                let advice = match base {
                    Base::Unix(_) => {
                        "start it with `systemctl start arw-server` or `arw-server`, or name its place with --base or \
                         --state-dir"
                    }
                    Base::Tcp(_) => {
                        "start it with `systemctl start arw-server` or `arw-server`, or name its place with --base"
                    }
                };
                Self::new(error.to_string()).why(source).advice(advice)
            }
            ClientError::Forbidden { source, .. } => Self::new(error.to_string()).why(source).advice(
                "run as root or as the daemon's user, or use `--base http://127.0.0.1:8091` with the admin token",
            ),
            ClientError::Refused(problem) => {
                let mut failure = Self::new(format!("the daemon refused ({})", problem.code)).why(&problem.detail);
                failure.advice = problem.hint.clone();
                failure.code = Some(problem.code.clone());
                failure
            }
            ClientError::Exchange(_) | ClientError::Answer(_) => {
                let cause = std::error::Error::source(&error).map(chain);
                Self { why: cause, ..Self::new(error.to_string()) }
            }
            ClientError::Status(_) => {
                Self::new(error.to_string()).advice("is it really arw-server that listens there?")
            }
            ClientError::Timeout(_) => Self::new(error.to_string()).advice("see its log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_daemon_that_does_not_run_says_so_and_how_to_start_it() {
        let error = ClientError::NotRunning {
            base: Base::Unix(PathBuf::from("/run/arw/control.sock")),
            source: io::Error::from_raw_os_error(111),
        };
        assert_eq!(
            Failure::from(error).to_string(),
            "no daemon answers at `unix:/run/arw/control.sock`: Connection refused (os error 111); start it with \
             `systemctl start arw-server` or `arw-server`, or name its place with --base or --state-dir"
        );
    }

    #[test]
    fn a_failure_is_one_line_whatever_the_daemon_says() {
        let text = Failure::new("a\nb").why("c\x1b[2J").advice("d").to_string();
        assert_eq!(text, "a\\u{a}b: c\\u{1b}[2J; d");
    }

    #[test]
    fn a_closed_pipe_is_silent() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.silent);
        assert_eq!(failure.exit, 0);
    }
}
