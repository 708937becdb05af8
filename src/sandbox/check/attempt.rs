//! What is attempted, and what came of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::CheckError;

macro_rules! attempts {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// One way out that is tried. Its code never changes once released.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Attempt {
            $($(#[$doc])* $name,)*
        }

        impl Attempt {
            /// All of them, in the order in which they are tried.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

attempts! {
    /// A TCP connection to the host.
    DirectTcp = "direct_tcp",
    /// A datagram to the host.
    DirectUdp = "direct_udp",
    /// Data in the first segment (`MSG_FASTOPEN`), which rules for connects do not see.
    FastOpen = "fast_open",
    /// Multipath TCP, which rules for TCP do not see.
    MultipathTcp = "multipath_tcp",
    /// A raw IP socket.
    RawSocket = "raw_socket",
    /// A packet socket.
    PacketSocket = "packet_socket",
    /// A socket to the hypervisor.
    Vsock = "vsock",
    /// A change to the network's own settings.
    NetlinkWrite = "netlink_write",
    /// An io_uring, which opens sockets and files behind a filter.
    IoUring = "io_uring",
    /// A file of the host is read.
    HostFileRead = "host_file_read",
    /// A file is made on the host.
    HostFileWrite = "host_file_write",
    /// A process of the host is seen or signalled.
    HostProcess = "host_process",
    /// A socket of the host that is named without a path.
    AbstractSocket = "abstract_socket",
    /// A descriptor that the caller had left open.
    LeakedDescriptor = "leaked_descriptor",
    /// A capability in any set.
    Capability = "capability",
    /// The environment of the caller or of the init.
    InitEnvironment = "init_environment",
    /// A new file system, to be mounted.
    Mount = "mount",
    /// The session's keys.
    Keyring = "keyring",
    /// Page faults handled by the program, the tool of many kernel exploits.
    UserFaults = "user_faults",
    /// Letters typed into the terminal.
    TerminalInput = "terminal_input",
    /// A user namespace of its own, which gives capabilities again. It and what follows change the process, so they come last.
    UserNamespace = "user_namespace",
    /// Tracing.
    Trace = "trace",
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "how", rename_all = "snake_case")]
pub enum Outcome {
    /// It was refused; the text says how.
    Held(String),
    /// It succeeded; the text says what was reached.
    Escaped(String),
    /// The host itself has no such way; the text says why.
    NotTried(String),
}

/// One attempt and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// What was tried.
    pub attempt: Attempt,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl fmt::Display for Attempted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, how) = match &self.outcome {
            Outcome::Held(how) => ("held", how),
            Outcome::Escaped(how) => ("ESCAPED", how),
            Outcome::NotTried(how) => ("not tried", how),
        };
        write!(f, "{:<18} {word:<10} {how}", self.attempt.code())
    }
}

/// One attempt per line, and each of them there.
pub(super) fn parse(said: &str) -> Result<Vec<Attempted>, CheckError> {
    let read: Result<Vec<Attempted>, _> = said.lines().map(serde_json::from_str).collect();
    match read {
        Ok(attempts) if attempts.iter().map(|tried| tried.attempt).eq(Attempt::ALL.iter().copied()) => Ok(attempts),
        // It is shown to an operator: bounded, and the last words are the telling ones.
        _ => Err(CheckError::Silent(said.chars().rev().take(500).collect::<Vec<_>>().into_iter().rev().collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_test_that_ends_early_is_not_taken_for_a_good_one() {
        let line = |attempt: &Attempt| {
            let tried = Attempted { attempt: *attempt, outcome: Outcome::Held("EPERM".to_owned()) };
            serde_json::to_string(&tried).expect("json")
        };
        let all: Vec<String> = Attempt::ALL.iter().map(line).collect();
        assert_eq!(parse(&all.join("\n")).expect("whole").len(), Attempt::ALL.len());
        assert!(parse(&all[..all.len() - 1].join("\n")).is_err());
        assert!(parse("").is_err());
        assert!(parse("panicked").is_err());
    }
}
