//! The daemon under trial: the built `arw-server` with folders of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use arw::domain::TokenHash;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;
use tempfile::TempDir;
use toml::Value;

use super::{DnsServer, PATIENCE, TICK, basic, wait_for};

/// Admin token of every daemon under trial.
pub const ADMIN_TOKEN: &str = "trial-admin-token-0123456789abcdef";

/// How a daemon is to be started.
pub struct Setup {
    settings: toml::Table,
    personas: BTreeMap<String, String>,
    files: Vec<(PathBuf, Vec<u8>)>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    mounts: bool,
    home: Option<Arc<TempDir>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// Listeners on free ports, two workers, no name server, no hosts, no persona.
    pub fn new() -> Self {
        Self::bare()
            .set("log.json", true)
            .set("log.journald", false)
            .set("proxy.bind", "127.0.0.1:0")
            .set("proxy.workers", 2)
            .set("control.bind", "127.0.0.1:0")
            .set("control.admin_token_sha256", TokenHash::of(ADMIN_TOKEN.as_bytes()).to_hex())
            .set("dns.use_hosts_file", false)
            // Reserved for documentation and closed: a query that a test did not expect fails at once.
            .set("dns.servers", vec!["127.0.0.1:1".to_owned()])
            .set("dns.timeout", "2s")
            .set("ledger.reserve_bytes", "1MiB")
    }

    /// No setting at all.
    pub fn bare() -> Self {
        Self {
            settings: toml::Table::new(),
            personas: BTreeMap::new(),
            files: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            mounts: false,
            home: None,
        }
    }

    /// Sets one key by its dotted name, as in `limits.head_time`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let table = match section {
            "" => &mut self.settings,
            _ => self
                .settings
                .entry(section)
                .or_insert_with(|| Value::Table(toml::Table::new()))
                .as_table_mut()
                .expect("a section"),
        };
        match name.split_once('.') {
            None => {
                table.insert(name.to_owned(), value.into());
            }
            Some((inner, name)) => {
                table
                    .entry(inner)
                    .or_insert_with(|| Value::Table(toml::Table::new()))
                    .as_table_mut()
                    .expect("a section")
                    .insert(name.to_owned(), value.into());
            }
        }
        self
    }

    /// A name that the gateway answers by itself, before any server.
    #[must_use]
    pub fn host(mut self, name: &str, addresses: &[&str]) -> Self {
        let hosts = self
            .settings
            .entry("dns")
            .or_insert_with(|| Value::Table(toml::Table::new()))
            .as_table_mut()
            .expect("a section")
            .entry("hosts")
            .or_insert_with(|| Value::Table(toml::Table::new()));
        let addresses: Vec<Value> = addresses.iter().map(|addr| Value::from(*addr)).collect();
        hosts.as_table_mut().expect("a table").insert(name.to_owned(), Value::Array(addresses));
        self
    }

    /// Names are asked of this server.
    #[must_use]
    pub fn dns(self, server: &DnsServer) -> Self {
        self.set("dns.servers", vec![server.addr().to_string()])
    }

    /// A persona of this id whose token is [`token_of`] it; `text` is what follows: top keys, then rules.
    #[must_use]
    pub fn persona(mut self, id: &str, text: &str) -> Self {
        self.personas.insert(id.to_owned(), persona_text(id, text));
        self
    }

    /// A persona file exactly as written.
    #[must_use]
    pub fn persona_file(mut self, id: &str, text: &str) -> Self {
        self.personas.insert(id.to_owned(), text.to_owned());
        self
    }

    /// A file in the configuration folder.
    #[must_use]
    pub fn file(mut self, path: &str, text: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), text.into()));
        self
    }

    /// A variable of the daemon's otherwise bare environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A command that executes the daemon, which is appended to it: `["unshare", "-m"]`. It must `exec`,
    /// so that its process becomes the daemon's.
    #[must_use]
    pub fn wrapped(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// A wrapper that mounts a file system on the state folder, in a namespace of its own; the test looks
    /// through the daemon's eyes then. Root only.
    #[must_use]
    pub fn mounting(mut self, options: &str) -> Self {
        let script = format!(
            "mkdir -p \"$ARW_STATE_DIR\" && mount -t tmpfs -o mode=0700,{options} tmpfs \"$ARW_STATE_DIR\" && exec \"$0\" \"$@\""
        );
        self.wrapper = ["unshare", "-m", "sh", "-c", &script].map(str::to_owned).to_vec();
        self.mounts = true;
        self
    }

    /// Uses the folders of another daemon, whose persona files stay as they are.
    #[must_use]
    pub fn in_home_of(mut self, other: &Daemon) -> Self {
        self.home = Some(Arc::clone(&other.home));
        self
    }

    /// Uses this folder, so that a test knows where things will lie.
    #[must_use]
    pub fn in_home(mut self, home: Arc<TempDir>) -> Self {
        self.home = Some(home);
        self
    }

    /// These settings, and over them those of `other`, with its folders.
    #[must_use]
    pub fn over(mut self, other: Self) -> Self {
        for (section, table) in other.settings {
            let ours = self.settings.entry(section).or_insert_with(|| Value::Table(toml::Table::new()));
            match (ours.as_table_mut(), table) {
                (Some(ours), Value::Table(table)) => ours.extend(table),
                (_, value) => *ours = value,
            }
        }
        Self { settings: self.settings, ..other }
    }

    /// Starts the daemon and gives the first words that it fails with.
    ///
    /// # Panics
    /// When it comes up.
    pub fn refused(self) -> String {
        match self.launch() {
            Ok(daemon) => panic!("the daemon started:\n{}", daemon.log()),
            Err(log) => log,
        }
    }

    fn launch(self) -> Result<Daemon, String> {
        let home = self.home.unwrap_or_else(|| Arc::new(TempDir::new().unwrap()));
        let config = home.path().join("config");
        std::fs::create_dir_all(config.join("personas")).unwrap();
        for (id, text) in &self.personas {
            std::fs::write(config.join("personas").join(format!("{id}.toml")), text).unwrap();
        }
        for (path, text) in &self.files {
            std::fs::create_dir_all(config.join(path).parent().unwrap()).unwrap();
            write_private(&config.join(path), text);
        }
        std::fs::write(config.join("arw-server.toml"), toml::to_string(&self.settings).unwrap()).unwrap();
        let plan = Plan { home, environment: self.environment, wrapper: self.wrapper, mounts: self.mounts };
        Daemon::spawn(plan)
    }
}

/// Writes a file that only its owner may read, as keys must be.
pub fn write_private(path: &Path, text: &[u8]) {
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text).unwrap();
}

/// Token of the persona that [`Setup::persona`] makes.
pub fn token_of(persona: &str) -> String {
    format!("token-of-{persona}-0123456789abcdef")
}

/// The file of a persona as [`Setup::persona`] writes it.
pub fn persona_text(id: &str, text: &str) -> String {
    let hash = TokenHash::of(token_of(id).as_bytes()).to_hex();
    format!("id = \"{id}\"\ntokens = [{{ name = \"trial\", sha256 = \"{hash}\" }}]\n{text}\n")
}

#[derive(Clone)]
struct Plan {
    home: Arc<TempDir>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    mounts: bool,
}

#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    grew: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    fn text(&self) -> String {
        self.state.lock().unwrap().lines.join("\n")
    }

    /// Waits for a line of which `look` makes something; `None` when the log ends without one.
    fn wait<T>(&self, what: &str, look: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(found) = state.lines.iter().find_map(|line| look(line)) {
                return Some(found);
            }
            if state.ended {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the log never said {what}:\n{}", state.lines.join("\n"));
            state = self.grew.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// A running daemon; it is killed when dropped.
pub struct Daemon {
    /// Where the proxy listens first.
    pub proxy: SocketAddr,
    /// All TCP listeners of the proxy, TLS last.
    pub proxies: Vec<SocketAddr>,
    /// Where the control API listens.
    pub control: SocketAddr,
    home: Arc<TempDir>,
    plan: Plan,
    child: Option<Child>,
    log: Arc<Log>,
    replaced: bool,
}

impl Daemon {
    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(setup: Setup) -> Self {
        setup.launch().unwrap_or_else(|log| panic!("the daemon did not start:\n{log}"))
    }

    fn spawn(plan: Plan) -> Result<Self, String> {
        let home = Arc::clone(&plan.home);
        let mut words = plan.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_arw-server").to_owned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("ARW_CONFIG", home.path().join("config/arw-server.toml"))
            .env("ARW_CONFIG_DIR", home.path().join("config"))
            .env("ARW_STATE_DIR", home.path().join("state"))
            .envs(plan.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("piped");
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || follow(stderr, &log)
        });
        let mut daemon = Self {
            proxy: SocketAddr::from(([127, 0, 0, 1], 0)),
            proxies: Vec::new(),
            control: SocketAddr::from(([127, 0, 0, 1], 0)),
            home,
            plan,
            child: Some(child),
            log,
            replaced: false,
        };
        let Some(up) = daemon.log.wait("that it is up", |line| field(line, "arw-server is up")) else {
            daemon.wait_for_exit();
            return Err(daemon.log());
        };
        let text = up["proxy"].as_str().unwrap_or("[]").to_owned();
        daemon.proxies = text
            .trim_matches(['[', ']'])
            .split(", ")
            .filter(|addr| !addr.is_empty())
            .map(|addr| addr.parse().unwrap())
            .collect();
        if let Some(first) = daemon.proxies.first() {
            daemon.proxy = *first;
        }
        daemon.control = up["control"].as_str().expect("an address").parse().unwrap();
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), signal).unwrap();
    }

    /// Tells it to read its files again and waits until it said how that went.
    pub fn sighup(&self) {
        let before = self.reloads();
        self.signal(Signal::SIGHUP);
        wait_for("the reload", || (self.reloads() > before).then_some(()));
    }

    /// How often it reloaded, or refused to.
    pub fn reloads(&self) -> usize {
        let state = self.log.state.lock().unwrap();
        let said = |line: &&String| {
            field(line, "the policy was reloaded").is_some() || field(line, "the policy was not reloaded").is_some()
        };
        state.lines.iter().filter(said).count()
    }

    /// Asks it to end; [`Daemon::wait_for_exit`] tells when it did.
    pub fn sigterm(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Kills it at once.
    pub fn kill9(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.child = None;
    }

    /// Waits until the process is gone; gives its exit code, if it had one.
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let status = wait_for("the daemon's end", || child.try_wait().unwrap());
        status.code()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Ends it by `SIGTERM` if it runs, and starts it anew in the same folders, perhaps on other ports.
    pub fn restart(&mut self) {
        if self.is_running() {
            self.sigterm();
            self.wait_for_exit();
        }
        let fresh = Self::spawn(self.plan.clone()).unwrap_or_else(|log| panic!("no restart:\n{log}"));
        // What lives is the new one's.
        self.replaced = true;
        *self = fresh;
    }

    /// Its folder: `config/`, `state/`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        let path = self.home.path().join("state");
        match &self.child {
            // proc(5): the file system as that process sees it.
            Some(child) if self.plan.mounts => {
                Path::new(&format!("/proc/{}/root", child.id())).join(path.strip_prefix("/").unwrap())
            }
            _ => path,
        }
    }

    pub fn config_dir(&self) -> PathBuf {
        self.home.path().join("config")
    }

    /// The proxy's Unix socket.
    pub fn unix_socket(&self) -> PathBuf {
        self.state_dir().join("proxy.sock")
    }

    /// Writes a persona's file anew, in one step. The daemon notices by itself, or is told.
    pub fn write_persona(&self, id: &str, text: &str) {
        self.write_persona_file(id, &persona_text(id, text));
    }

    /// The same with a file exactly as written.
    pub fn write_persona_file(&self, id: &str, text: &str) {
        let folder = self.config_dir().join("personas");
        let fresh = folder.join(format!(".{id}.fresh"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, folder.join(format!("{id}.toml"))).unwrap();
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for a log line with this text in it.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log
            .wait(text, |line| line.contains(text).then(|| line.to_owned()))
            .unwrap_or_else(|| panic!("the log never said {text}:\n{}", self.log()))
    }

    /// Every whole line of the ledger's files, in order.
    pub fn ledger_lines(&self) -> Vec<Json> {
        let folder = self.state_dir().join("ledger");
        // A segment that is being sealed has two files, and then only the other one.
        let segments: BTreeSet<PathBuf> = std::fs::read_dir(&folder)
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>())
            .unwrap_or_default()
            .into_iter()
            .map(|path| if path.extension().is_some_and(|end| end == "zst") { path.with_extension("") } else { path })
            .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
            .collect();
        let mut lines = Vec::new();
        for segment in segments {
            let bytes = std::fs::read(&segment).unwrap_or_else(|_| {
                let sealed =
                    std::fs::read(segment.with_extension("jsonl.zst")).expect("the plain file or the sealed one");
                zstd::decode_all(sealed.as_slice()).unwrap()
            });
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                lines.push(
                    serde_json::from_slice(line)
                        .unwrap_or_else(|fault| panic!("{fault} in a ledger line: {}", String::from_utf8_lossy(line))),
                );
            }
        }
        lines
    }

    /// Waits for a ledger line.
    pub fn wait_for_ledger(&self, what: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.ledger_lines();
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            if Instant::now() > deadline {
                let all: Vec<String> = lines.iter().map(Json::to_string).collect();
                panic!("the ledger never had {what}:\n{}\nlog:\n{}", all.join("\n"), self.log());
            }
            std::thread::sleep(TICK);
        }
    }

    /// The line whose sequence number is `seq`; it must be there already.
    pub fn ledger_line(&self, seq: u64) -> Json {
        let lines = self.ledger_lines();
        let found = lines.into_iter().find(|line| line["seq"] == seq);
        found.unwrap_or_else(|| panic!("the ledger has no line {seq}"))
    }

    /// The close record of the grant `opened`.
    pub fn wait_for_close(&self, opened: u64) -> Json {
        self.wait_for_ledger("the close record", |line| line["kind"] == "close" && line["opened"] == opened)
    }

    /// Runs `arw-cli` against this daemon's Unix socket and state folder.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_arw-cli"))
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("ARW_STATE_DIR", self.state_dir())
            .env("ARW_ADMIN_TOKEN", ADMIN_TOKEN)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// `Proxy-Authorization` of a persona that [`Setup::persona`] made, as a whole field line.
    pub fn credentials(persona: &str) -> String {
        format!("Proxy-Authorization: {}\r\n", basic(persona, &token_of(persona)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill9();
        if !self.replaced {
            end_groups(&self.home.path().join("state"));
        }
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}

/// Ends what a killed daemon of this state folder has left in cgroups, and removes them.
fn end_groups(state_dir: &Path) {
    let Ok(instance) = std::fs::read_to_string(state_dir.join("runtimes/instance")) else { return };
    let deadline = Instant::now() + PATIENCE;
    let top = Path::new("/sys/fs/cgroup");
    loop {
        let left = groups_of(top, &format!("rt-{instance}"));
        for group in &left {
            let pids = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 1) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            if std::fs::remove_dir(group).is_ok() {
                // Ours too, if this was the last in it.
                let _ = group.parent().map(std::fs::remove_dir);
            }
        }
        if left.is_empty() || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(TICK);
    }
    for holder in groups_of(top, "held-") {
        let pid = holder.file_name().and_then(|name| name.to_str()?.strip_prefix("held-")?.parse().ok());
        if pid.is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err()) {
            let _ = std::fs::remove_dir(&holder);
            let _ = holder.parent().map(std::fs::remove_dir);
        }
    }
}

/// Groups whose name begins with `name`, wherever below `top`.
fn groups_of(top: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(top) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let found = folders.flat_map(|entry| {
        let is_one = entry.file_name().to_string_lossy().starts_with(name);
        if is_one { vec![entry.path()] } else { groups_of(&entry.path(), name) }
    });
    found.collect()
}

fn follow(stderr: impl Read, log: &Log) {
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else { break };
        log.state.lock().unwrap().lines.push(line);
        log.grew.notify_all();
    }
    log.state.lock().unwrap().ended = true;
    log.grew.notify_all();
}

/// The fields of a JSON log line whose message is `message`.
fn field(line: &str, message: &str) -> Option<Json> {
    let line: Json = serde_json::from_str(line).ok()?;
    (line["fields"]["message"] == message).then(|| line["fields"].clone())
}
