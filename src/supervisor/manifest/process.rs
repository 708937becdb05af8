//! `[runtimes.process]`: what is executed.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::config::ProcessForm;
use crate::config::located::{Document, Found, Place};
use crate::sandbox::profile::Workspace;

use super::read_runtime::{length_of_time, plain_text};

/// Longest command, argument, variable or path, in bytes; `execve(2)` takes 128 KiB in one piece.
const MAX_TEXT: usize = 64 << 10;
/// Most arguments, and most variables.
const MAX_ITEMS: usize = 1_024;
/// Most workspaces: each is a mount.
const MAX_WORKSPACES: usize = 64;
/// From the signal to the kill, where nothing else is said: what container engines give.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Longest grace: the kill switch waits for it.
const MAX_STOP_GRACE: Duration = Duration::from_secs(300);
/// Highest user id: the last one means "none" to the kernel.
const MAX_UID: u64 = u32::MAX as u64 - 1;

/// Variables that the supervisor sets. `ARW_*` and the proxy variables in upper and lower case belong to them.
const RESERVED: [&str; 13] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "FTP_PROXY",
    "NODE_USE_ENV_PROXY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
];

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The program: a path inside, or a name that is looked up in the `PATH` inside.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its own variables, by name.
    pub env: Vec<(String, String)>,
    /// Variables whose value is read from a file of the host at each launch, by name.
    pub secrets: Vec<(String, PathBuf)>,
    /// Where it starts, inside.
    pub workdir: Option<PathBuf>,
    /// Folders of the host that it works in.
    pub workspaces: Vec<Workspace>,
    /// The host's user id for it; from the configured range where it is not said.
    pub user: Option<u32>,
    /// From the signal that asks it to end until everything is killed.
    pub stop_grace: Duration,
}

impl Process {
    /// Whether both execute the same: the grace is not part of that.
    pub(super) fn same_command(&self, other: &Self) -> bool {
        let Self { command, args, env, secrets, workdir, workspaces, user, stop_grace: _ } = self;
        (command, args, env, secrets, workdir, workspaces, user)
            == (&other.command, &other.args, &other.env, &other.secrets, &other.workdir, &other.workspaces, &other.user)
    }

    /// What is never executed.
    pub(super) fn nothing() -> Self {
        Self {
            command: String::new(),
            args: Vec::new(),
            env: Vec::new(),
            secrets: Vec::new(),
            workdir: None,
            workspaces: Vec::new(),
            user: None,
            stop_grace: STOP_GRACE,
        }
    }
}

pub(super) fn read(document: &Document, form: &ProcessForm) -> Option<Process> {
    let command = form.command.as_ref().and_then(|found| command(document, found));
    if let Some(arg) = form.args.get(MAX_ITEMS) {
        document.fault(&arg.place, format!("more than {MAX_ITEMS} arguments"));
    }
    let args = form.args.iter().map(|found| plain_argument(document, found)).collect::<Vec<_>>();
    let mut names = BTreeSet::new();
    let mut env = Vec::new();
    for (name, found) in &form.env {
        variable(document, &mut names, name, &found.place);
        // A value may be a secret that stands in the wrong place: it is never repeated.
        if found.value.len() > MAX_TEXT || found.value.contains('\0') {
            document.fault(&found.place, "a value is at most 64 KiB long and has no NUL");
        }
        env.push((name.clone(), found.value.clone()));
    }
    let mut secrets = Vec::new();
    for (name, found) in &form.secrets {
        variable(document, &mut names, name, &found.place);
        secrets.extend(absolute(document, found, "the file of a secret").map(|file| (name.clone(), file)));
    }
    let stop_grace = form.stop_grace.as_ref();
    Some(Process {
        command: command?,
        args,
        env,
        secrets,
        workdir: form.workdir.as_ref().and_then(|found| absolute(document, found, "the working directory")),
        workspaces: workspaces(document, &form.workspaces),
        user: form.user.as_ref().and_then(|found| user(document, found)),
        stop_grace: stop_grace
            .map_or(STOP_GRACE, |found| length_of_time(document, found, Duration::from_millis(100), MAX_STOP_GRACE)),
    })
}

fn command(document: &Document, found: &Found<String>) -> Option<String> {
    let command = plain_text(document, found, 4_096)?;
    if command.contains('/') && !command.starts_with('/') {
        let hint = "write it from `/`, or a bare name that is found in `PATH`";
        document.fault_with_hint(&found.place, "a path that starts nowhere", hint);
    }
    Some(command)
}

/// Arguments may hold line breaks, unlike names.
fn plain_argument(document: &Document, found: &Found<String>) -> String {
    if found.value.len() > MAX_TEXT || found.value.contains('\0') {
        document.fault(&found.place, "an argument is at most 64 KiB long and has no NUL");
    }
    found.value.clone()
}

fn variable<'n>(document: &Document, names: &mut BTreeSet<&'n str>, name: &'n str, place: &Place) {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() > 256 || !name.bytes().all(letters) || name.as_bytes()[0].is_ascii_digit() {
        document.fault(place, "a variable is named with letters, digits and `_`, and starts with no digit");
    }
    let upper = name.to_ascii_uppercase();
    if RESERVED.contains(&upper.as_str()) || upper.starts_with("ARW_") {
        document.fault(place, "the supervisor sets this variable itself");
    }
    if names.len() >= MAX_ITEMS {
        document.fault(place, format!("more than {MAX_ITEMS} variables"));
    }
    if !names.insert(name) {
        document.fault(place, "the variable is in `env` and in `secrets`");
    }
}

fn absolute(document: &Document, found: &Found<String>, what: &str) -> Option<PathBuf> {
    let text = plain_text(document, found, 4_096)?;
    let path = Path::new(&text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        document.fault(&found.place, format!("{what} is written from `/`, without `..`"));
        return None;
    }
    Some(path.to_owned())
}

/// `SOURCE[:TARGET][:ro|:rw]`, read-only where nothing is said.
fn workspaces(document: &Document, forms: &[Found<String>]) -> Vec<Workspace> {
    if let Some(found) = forms.get(MAX_WORKSPACES) {
        document.fault(&found.place, format!("more than {MAX_WORKSPACES} workspaces"));
    }
    forms.iter().filter_map(|found| workspace(document, found)).collect()
}

fn workspace(document: &Document, found: &Found<String>) -> Option<Workspace> {
    let text = plain_text(document, found, 8_192)?;
    let read = Workspace::parse(&text);
    if read.is_none() {
        let hint = "write `/srv/data`, `/srv/data:/data` or `/srv/data:/data:rw`";
        document.fault_with_hint(&found.place, "a workspace is written from `/`, without `..`", hint);
    }
    read
}

fn user(document: &Document, found: &Found<u64>) -> Option<u32> {
    match u32::try_from(found.value) {
        Ok(0) => {
            let hint = "leave the key out: each runtime gets a user of its own";
            document.fault_with_hint(&found.place, "a runtime is never root", hint);
            None
        }
        Ok(uid) if found.value <= MAX_UID => Some(uid),
        _ => {
            document.fault(&found.place, format!("a user id is at most {MAX_UID}"));
            None
        }
    }
}
