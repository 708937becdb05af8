//! A daemon of its own for each test, and the client's binary.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The client, knowing of nothing but what the test says.
pub(crate) fn cli(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arw-cli"));
    command.args(arguments).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

pub(crate) fn run(mut command: Command) -> Output {
    command.output().expect("the client runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// A running `arw-server` with the persona `demo`, which may reach `api.example.com`.
pub(crate) struct Daemon {
    child: Child,
    /// `http://127.0.0.1:PORT` of the control API.
    pub(crate) tcp: String,
    folder: tempfile::TempDir,
}

/// The admin token of every daemon.
pub(crate) const TOKEN: &str = "a-token-of-more-than-22-bytes";

impl Daemon {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let personas = folder.path().join("config/personas");
        std::fs::create_dir_all(&personas).expect("made");
        let demo = "id = \"demo\"\n\n[[allow]]\nid = \"api\"\nhosts = [\"api.example.com\"]\n";
        std::fs::write(personas.join("demo.toml"), demo).expect("written");
        let (child, tcp) = spawn(folder.path());
        Self { child, tcp, folder }
    }

    /// Ends it without a chance to tidy up, and starts it again on the same folders.
    pub(crate) fn kill_and_restart(&mut self) {
        self.end();
        (self.child, self.tcp) = spawn(self.folder.path());
    }

    pub(crate) fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The client on the daemon's Unix socket.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = cli(arguments);
        command.arg("--state-dir").arg(self.path("state"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        run(self.cli(arguments))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// A daemon over the folders of a runbook's ground; it ends with it.
pub(crate) struct Serving(Child);

impl Serving {
    /// With `config` and `state` of `folder`.
    pub(crate) fn over(folder: &Path) -> Self {
        Self(spawn(folder).0)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it and waits until it says that it is up.
fn spawn(folder: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_arw-server"))
        .args(["--log", "info", "--state-dir"])
        .arg(folder.join("state"))
        .arg("--config-dir")
        .arg(folder.join("config"))
        .env_clear()
        .envs([("ARW_PORT", "0"), ("ARW_EGRESS_PROXY_PORT", "0"), ("ARW_ADMIN_TOKEN", TOKEN), ("NO_COLOR", "1")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the daemon starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut said = Vec::new();
    let tcp = loop {
        let Some(Ok(line)) = lines.next() else { panic!("the daemon ended: {said:#?}") };
        if line.contains("arw-server is up") {
            let address = line.split("control=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
            break format!("http://{address}");
        }
        said.push(line);
    };
    // Its log must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (child, tcp)
}
