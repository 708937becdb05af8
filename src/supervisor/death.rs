//! How a runtime ended: a closed set of causes, and the record that is kept of it.

use serde::{Deserialize, Serialize};

use crate::domain::{RuntimeId, Timestamp};

/// Most lines of output kept in a record: a stack trace fits.
pub const MAX_LAST_LINES: usize = 50;

/// Longest line kept in a record, in bytes.
pub const MAX_LINE_BYTES: usize = 1_024;

/// How a main process ended by itself, as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExitCause {
    /// It ended with a code.
    Exit {
        /// 0 to 255.
        code: u8,
    },
    /// A signal that the supervisor did not send.
    Signal {
        /// Its number.
        signal: u8,
    },
    /// The kernel's out-of-memory killer.
    Oom,
    /// The filter before the system calls.
    Seccomp,
}

/// Why a runtime ended. A code never changes once released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case", deny_unknown_fields)]
pub enum Cause {
    /// It ended with a code.
    Exit {
        /// 0 to 255.
        code: u8,
    },
    /// A signal that the supervisor did not send.
    Signal {
        /// Its number.
        signal: u8,
    },
    /// The kernel's out-of-memory killer.
    Oom,
    /// It missed a beat of its watchdog.
    Watchdog,
    /// It was not ready within its grace, or failed too many probes.
    Probe,
    /// A budget was spent.
    Budget,
    /// An operator asked for it.
    Operator,
    /// The filter before the system calls.
    Seccomp,
}

/// What the state machine knows of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Which launch ended.
    pub run: u64,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
    /// When it was launched.
    pub began: Timestamp,
    /// When the last of its processes was gone.
    pub ended: Timestamp,
}

/// What is kept of an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeathRecord {
    /// The runtime.
    pub runtime: RuntimeId,
    /// When and why.
    #[serde(flatten)]
    pub death: Death,
    /// The last lines of its output, bounded by [`MAX_LAST_LINES`] and [`MAX_LINE_BYTES`].
    pub last_lines: Vec<String>,
    /// Requests to leave that were denied in its last minute.
    pub denials: u64,
    /// What it used.
    pub used: Used,
}

/// Resources used from launch to end; `None` where it was not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// CPU time of all its processes, in microseconds.
    pub cpu_micros: Option<u64>,
    /// Largest memory at one time, in bytes.
    pub memory_peak: Option<u64>,
    /// Bytes that left.
    pub egress_up: Option<u64>,
    /// Bytes that came.
    pub egress_down: Option<u64>,
}

impl Cause {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Exit { .. } => "exit",
            Self::Signal { .. } => "signal",
            Self::Oom => "oom",
            Self::Watchdog => "watchdog",
            Self::Probe => "probe",
            Self::Budget => "budget",
            Self::Operator => "operator",
            Self::Seccomp => "seccomp",
        }
    }

    /// Whether the runtime failed: it ended neither well nor because somebody asked.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Exit { code: 0 } | Self::Operator | Self::Budget)
    }
}

impl From<ExitCause> for Cause {
    fn from(cause: ExitCause) -> Self {
        match cause {
            ExitCause::Exit { code } => Self::Exit { code },
            ExitCause::Signal { signal } => Self::Signal { signal },
            ExitCause::Oom => Self::Oom,
            ExitCause::Seccomp => Self::Seccomp,
        }
    }
}

impl DeathRecord {
    /// A record with as much of the output as is kept: the last lines, each cut at a whole character. Control
    /// characters become `\u{fffd}`, so that a log cannot steer the terminal of who reads the record.
    pub fn new(runtime: RuntimeId, death: Death, lines: &[String], denials: u64, used: Used) -> Self {
        let kept = &lines[lines.len().saturating_sub(MAX_LAST_LINES)..];
        let last_lines = kept.iter().map(|line| plain(line)).collect();
        Self { runtime, death, last_lines, denials, used }
    }
}

fn plain(line: &str) -> String {
    let mut kept = String::new();
    for letter in line.chars() {
        let letter = if letter.is_control() && letter != '\t' { '\u{fffd}' } else { letter };
        if kept.len() + letter.len_utf8() > MAX_LINE_BYTES {
            break;
        }
        kept.push(letter);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(cause: Cause) -> Death {
        let at = Timestamp::from_unix_micros;
        Death { run: 7, cause, began: at(0), ended: at(1_000_000) }
    }

    #[test]
    fn every_cause_has_one_form_that_reads_back() {
        for (cause, text) in [
            (Cause::Exit { code: 3 }, r#"{"cause":"exit","code":3}"#),
            (Cause::Signal { signal: 11 }, r#"{"cause":"signal","signal":11}"#),
            (Cause::Oom, r#"{"cause":"oom"}"#),
            (Cause::Watchdog, r#"{"cause":"watchdog"}"#),
            (Cause::Probe, r#"{"cause":"probe"}"#),
            (Cause::Budget, r#"{"cause":"budget"}"#),
            (Cause::Operator, r#"{"cause":"operator"}"#),
            (Cause::Seccomp, r#"{"cause":"seccomp"}"#),
        ] {
            assert_eq!(serde_json::to_string(&cause).expect("text"), text);
            assert_eq!(serde_json::from_str::<Cause>(text).expect(text), cause);
            assert!(text.contains(&format!("\"{}\"", cause.code())));
        }
        for bad in [r#"{"cause":"bored"}"#, r#"{"cause":"exit"}"#, r#"{"cause":"exit","code":256}"#] {
            assert!(serde_json::from_str::<Cause>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_record_reads_back_and_is_bounded() {
        let lines: Vec<String> = (0..500).map(|n| format!("{n}{}", "é".repeat(2_000))).collect();
        let id = RuntimeId::parse("demo").expect("id");
        let record = DeathRecord::new(id, death(Cause::Oom), &lines, 2, Used::default());
        assert_eq!(record.last_lines.len(), MAX_LAST_LINES);
        assert!(record.last_lines[0].starts_with("450é"));
        assert!(record.last_lines.iter().all(|line| line.len() <= MAX_LINE_BYTES));
        let text = serde_json::to_string(&record).expect("text");
        assert_eq!(serde_json::from_str::<DeathRecord>(&text).expect("record"), record);
    }

    #[test]
    fn a_line_cannot_steer_a_terminal() {
        assert_eq!(plain("a\x1b[2Jb\tc\r"), "a\u{fffd}[2Jb\tc\u{fffd}");
    }
}
