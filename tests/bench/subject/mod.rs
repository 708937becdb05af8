//! The forward proxies under measurement, each a process of its own in a folder of its own.

mod gateway;
mod squid;

pub(crate) use squid::check_passwords;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::load::Road;
use crate::process::Cores;

/// Time for a subject to listen: squid reads its files and starts its password process first.
const START_TIME: Duration = Duration::from_secs(20);
/// Time for a subject to end when told to, before it is killed.
const STOP_TIME: Duration = Duration::from_secs(5);

/// Persona, or user, of the load where a subject asks for one.
const PERSONA: &str = "bench";
/// Its token: not a secret, it opens nothing but a subject's loopback listener while a bench runs.
const TOKEN: &str = "62656e6368206f6e6c792c206e6f7420612073656372657421";
/// Allowed for any tunnel and for plain requests.
const ORIGIN_HOST: &str = "origin.bench.test";
/// Allowed for TLS in tunnels.
const TLS_HOST: &str = "tls.bench.test";
/// In no list.
const DENIED_HOST: &str = "denied.bench.test";
/// Names in every allowlist beside the two in use, so that a list that is scanned shows.
const OTHER_RULES: usize = 998;

/// A forward proxy that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Subject {
    /// Our own thinnest relay, to which the others are compared.
    Floor,
    /// `arw-server` as an operator runs it.
    Gateway,
    /// Squid from Debian.
    Squid,
}

impl Subject {
    pub(crate) const ALL: [Self; 3] = [Self::Floor, Self::Gateway, Self::Squid];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Gateway => "gateway",
            Self::Squid => "squid",
        }
    }

    /// What is switched on, for the report.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Floor => "epoll and splice in one thread; no authentication, no rules, no log",
            Self::Gateway => {
                "Basic authentication, 1,000 rules, own name look-up, address vetting, first-flight check on the TLS row, \
                 all limits and timers, ledger on (`batch`)"
            }
            Self::Squid => {
                "Debian's package, one worker, no cache; Basic authentication (its credentials cache on), an allowlist of \
                 1,000 names, hosts file, access log on (`stdio`)"
            }
        }
    }

    /// Starts it on the subject's cores and waits until it listens.
    ///
    /// # Errors
    /// Says why it is not there or did not come up; the caller reports that as a skip.
    pub(crate) fn start(self, cores: &Cores) -> anyhow::Result<Running> {
        let dir = TempDir::with_prefix("arw-bench-")?;
        let launch = match self {
            Self::Floor => Launch { command: own_binary("--serve-floor")?, port: None, credentials: None },
            Self::Gateway => gateway::launch(dir.path())?,
            Self::Squid => squid::launch(dir.path())?,
        };
        let named = self != Self::Floor;
        launch.run(dir, cores, |proxy, credentials| Road {
            proxy,
            credentials,
            origin_host: if named { ORIGIN_HOST } else { "127.0.0.1" },
            tls_host: if named { TLS_HOST } else { "127.0.0.1" },
            denied_host: DENIED_HOST,
        })
    }
}

/// A subject that listens. It ends when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) road: Road,
    _dir: TempDir,
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// What a subject's own file says about how to run it.
struct Launch {
    command: Command,
    /// Where it was told to listen; none when it prints its address as its first line.
    port: Option<u16>,
    credentials: Option<String>,
}

impl Launch {
    fn run(
        mut self,
        dir: TempDir,
        cores: &Cores,
        road: impl FnOnce(SocketAddr, Option<String>) -> Road,
    ) -> anyhow::Result<Running> {
        let log = dir.path().join("output.log");
        let file = File::create(&log)?;
        self.command.stdin(Stdio::null()).stderr(file.try_clone()?);
        match self.port {
            Some(_) => self.command.stdout(file),
            None => self.command.stdout(Stdio::piped()),
        };
        let mut child = cores.on_subject(|| self.command.spawn())?.context("cannot be started")?;
        match Self::listening(self.port, &mut child, &log) {
            Ok(proxy) => Ok(Running { child, road: road(proxy, self.credentials), _dir: dir }),
            Err(error) => {
                stop(&mut child);
                Err(error)
            }
        }
    }

    fn listening(port: Option<u16>, child: &mut Child, log: &Path) -> anyhow::Result<SocketAddr> {
        let Some(port) = port else {
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
            return line.trim().parse().context("the floor did not say where it listens");
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("ended before it listened ({status}){}", last_words(log));
            }
            if start.elapsed() > START_TIME {
                bail!("did not listen within {} s{}", START_TIME.as_secs(), last_words(log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(address)
    }
}

fn stop(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && start.elapsed() < STOP_TIME {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let telling = text.lines().find(|line| line.contains("FATAL") || line.contains("ERROR"));
    let last = || text.lines().rev().find(|line| !line.trim().is_empty());
    telling.or_else(last).map(|line| format!(": {line}")).unwrap_or_default()
}

/// This binary again, in one of its hidden roles.
fn own_binary(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn basic_credentials() -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{PERSONA}:{TOKEN}")))
}
