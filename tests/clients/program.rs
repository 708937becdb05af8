//! Running foreign programs: found or skipped with a reason, bounded in time, and with nothing of the
//! caller's own proxies, certificates and configuration.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Time for one program; a package installation on a busy machine takes a third of it.
const LIMIT: Duration = Duration::from_secs(120);

/// What a CI machine need not have. Everything else that is missing there is a fault.
const MAY_BE_MISSING_IN_CI: &[&str] = &["node", "npm", "pip", "python packages", "socat", "undici"];

/// Variables that change where programs connect, whom they trust or what they say.
const FOREIGN: [&str; 16] = [
    "ALL_PROXY",
    "CURL_",
    "FTP_PROXY",
    "GIT_",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_",
    "NODE_",
    "NO_PROXY",
    "NPM_CONFIG_",
    "PIP_",
    "PYTHON",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_",
    "XDG_",
];

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The exit code; `None` when a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Everything that it said.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Demands success.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &Self {
        assert!(self.status.success(), "the program failed: {self:#?}");
        self
    }

    /// Demands a failure that the program reports itself.
    #[track_caller]
    pub(crate) fn failed(&self) -> &Self {
        assert!(self.code().is_some_and(|code| code != 0), "the program did not fail by itself: {self:#?}");
        self
    }

    /// Demands that a person who reads the output finds `words` there.
    #[track_caller]
    pub(crate) fn shows(&self, words: &str) -> &Self {
        assert!(self.said().contains(words), "`{words}` is not in what the program said: {self:#?}");
        self
    }
}

/// Says why a program was not tried. In CI only what is on the list may be missing.
#[track_caller]
pub(crate) fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci || MAY_BE_MISSING_IN_CI.contains(&name), "`{name}` has to be there in CI: {reason}");
}

/// The executable called `name`, or a printed skip.
#[track_caller]
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(name, "not installed");
    }
    found
}

/// `program` with a clean environment and `home` as its home and working folder.
pub(crate) fn clean(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_ascii_uppercase();
        if FOREIGN.iter().any(|foreign| upper.starts_with(foreign)) {
            command.env_remove(&name);
        }
    }
    command.env("HOME", home).env("LC_ALL", "C.UTF-8").current_dir(home);
    command
}

/// Runs `command` to its end. One that does not end in time is killed with all its children, and the test fails.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Outcome {
    run_with_input(command, Stdio::null())
}

/// The same, with something to read.
#[track_caller]
pub(crate) fn run_with_input(command: &mut Command, input: Stdio) -> Outcome {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|fault| panic!("{command:?} does not start: {fault}"));
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            // It may have ended this moment.
            let _ = killpg(group, Signal::SIGKILL);
        }
    });
    let status = child.wait().unwrap();
    let outcome = Outcome { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    drop(ended);
    watchdog.join().unwrap();
    assert_ne!(status.signal(), Some(Signal::SIGKILL as i32), "{command:?} did not end in time: {outcome:#?}");
    outcome
}

fn collect(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
