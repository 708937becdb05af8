//! A real Prometheus over a daemon: Debian's, on a port of the kernel's, in a folder of its own, ended with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::files;
use crate::program;
use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{Client, Daemon};

/// Longest wait for Prometheus: it scrapes and evaluates each second or two, and other builds share the machine.
const LONG: Duration = Duration::from_secs(120);

pub(crate) struct Prometheus {
    child: Child,
    addr: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it with the shipped rules, of which only the waiting times (`for`) are cut, so that a test sees what
    /// operators see minutes later. `None` where it is not installed.
    pub(crate) fn over(daemon: &Daemon) -> Option<Self> {
        let mut command = program("prometheus")?;
        let folder = tempfile::tempdir().unwrap();
        for rules in [files::RECORDING, files::ALERTING] {
            let waits = |line: &str| line.trim_start().starts_with("for: ");
            let text: String =
                files::read(rules).lines().filter(|line| !waits(line)).map(|line| format!("{line}\n")).collect();
            std::fs::write(folder.path().join(Path::new(rules).file_name().unwrap()), text).unwrap();
        }
        std::fs::write(folder.path().join("token"), ADMIN_TOKEN).unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), config(daemon.control)).unwrap();
        let mut child = command
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (told, hear) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Nobody listens once the address is known; its log must not fill the pipe.
                let _ = told.send(line);
            }
        });
        let mut said = Vec::new();
        let deadline = Instant::now() + LONG;
        let addr = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = hear.recv_timeout(left) else {
                let _ = child.kill();
                let _ = child.wait();
                panic!("Prometheus did not come up:\n{}", said.join("\n"));
            };
            if let Some((_, addr)) = line.split_once("msg=\"Listening on\" address=") {
                break addr.trim().parse().unwrap();
            }
            said.push(line);
        };
        Some(Self { child, addr, _folder: folder })
    }

    /// The `data` of an answer of its API; `None` while it is not ready to answer.
    fn try_ask(&self, path: &str) -> Option<Json> {
        let mut client = Client::connect(self.addr);
        client.send(format!("GET /api/v1/{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr));
        let answer = client.answer_to("GET");
        if answer.status == 503 {
            return None;
        }
        let body: Json = serde_json::from_str(&answer.text()).unwrap_or(Json::Null);
        assert_eq!(body["status"], "success", "{path}: {}{}", answer.head, answer.text());
        Some(body["data"].clone())
    }

    /// The `data` of an answer of its API.
    pub(crate) fn ask(&self, path: &str) -> Json {
        self.wait(path, "an answer", |data| Some(data.clone()))
    }

    /// Waits until `look` finds something in the answer to `path`.
    pub(crate) fn wait<T>(&self, path: &str, what: &str, look: impl Fn(&Json) -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        loop {
            let answer = self.try_ask(path);
            if let Some(found) = answer.as_ref().and_then(&look) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {answer:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Names of the alerts that fire.
    pub(crate) fn firing(&self) -> Vec<String> {
        let alerts = self.ask("alerts");
        let firing = alerts["alerts"].as_array().expect("alerts").iter().filter(|alert| alert["state"] == "firing");
        let mut names: Vec<String> =
            firing.map(|alert| alert["labels"]["alertname"].as_str().expect("a name").to_owned()).collect();
        names.sort();
        names
    }

    /// Waits until an alert fires; the whole of it.
    pub(crate) fn wait_for_alert(&self, name: &str) -> Json {
        self.wait("alerts", name, |alerts| {
            let fits = |alert: &&Json| alert["labels"]["alertname"] == name && alert["state"] == "firing";
            alerts["alerts"].as_array().expect("alerts").iter().find(fits).cloned()
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As the shipped one, faster, and with the daemon's address.
fn config(control: SocketAddr) -> String {
    let shipped = files::read("configs/prometheus/prometheus.yml");
    let changed = [
        ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
        ("evaluation_interval: 15s", "evaluation_interval: 1s".to_owned()),
        ("/etc/prometheus/arw-admin-token", "token".to_owned()),
        ("127.0.0.1:8091\"]", format!("{control}\"]")),
    ]
    .iter()
    .fold(shipped, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    });
    // Nobody is to be told.
    let (before, alerting) = changed.split_once("alerting:\n").expect("there");
    let (_, after) = alerting.split_once("scrape_configs:\n").expect("there");
    format!("{before}scrape_configs:\n{after}")
}
