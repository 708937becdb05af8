//! Each folder of configs/examples as an operator takes it: checked as it stands, then started.
//!
//! A copy is started whose places are the test's own: ports, folders, the address that is published on, a name server
//! that is not there. What the files say beside that is in force.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::files;
use crate::support::{self, Client, Daemon, Origin, Setup};

/// Longest wait for a runtime: interpreters start in sandboxes while other builds share the machine.
const LONG: Duration = Duration::from_secs(90);

const EXAMPLES: [&str; 4] = ["automation-host", "ci-runner", "gpu-workstation", "laptop-eco"];

/// A running example; its runtimes end with it.
struct Example {
    daemon: Daemon,
    /// In place of 127.0.0.1 where ports are published.
    address: Ipv4Addr,
}

/// An address of loopback that no other test publishes on.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 64, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Example {
    fn start(name: &str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let home = Arc::new(TempDir::new().unwrap());
        let config = home.path().join("config");
        let copied = Command::new("cp").arg("-r").arg(folder(name)).arg(&config).status().unwrap();
        assert!(copied.success());
        let address = own_address();
        for file in ["runtime/runtimes.toml", "personas/chat.toml"].map(|file| config.join(file)) {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let text = text
                .replace("/etc/arw/", &format!("{}/", config.display()))
                .replace("\"127.0.0.1:", &format!("\"{address}:"))
                .replace("\"127.0.0.1/32\"", &format!("\"{address}/32\""));
            std::fs::write(file, text).unwrap();
        }
        let settings: toml::Table =
            toml::from_str(&files::read(&format!("configs/examples/{name}/arw-server.toml"))).unwrap();
        let mut setup = Setup::bare();
        for (section, table) in &settings {
            for (key, value) in table.as_table().expect("a section") {
                setup = setup.set(&format!("{section}.{key}"), value.clone());
            }
        }
        let places = Setup::new().in_home(home).set("runtimes.first_uid", first_uid()).set("log.filter", "info");
        let setup = setup.over(places).host("model.internal", &[&address.to_string()]);
        Self { daemon: Daemon::start(change(setup)), address }
    }

    fn cli(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_arw-cli"))
            .args(arguments)
            .env_clear()
            .env("HOME", self.daemon.home())
            .env("ARW_STATE_DIR", self.daemon.state_dir())
            .env("ARW_CONFIG_DIR", self.daemon.config_dir())
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), said)
    }

    /// The view of a runtime.
    fn view(&self, id: &str) -> Json {
        let (code, said) = self.cli(&["--json", "runtime", "status", id]);
        assert_eq!(code, Some(0), "{id}: {said}");
        serde_json::from_str(&said).unwrap()
    }

    fn wait(&self, id: &str, what: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let deadline = Instant::now() + LONG;
        loop {
            let view = self.view(id);
            if wanted(&view) {
                return view;
            }
            let log = || self.cli(&["runtime", "logs", id]).1;
            assert!(Instant::now() < deadline, "{id} never was {what}: {view:#}\n{}\n{}", log(), self.daemon.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_state(&self, id: &str, state: &str) -> Json {
        self.wait(id, state, |view| view["state"] == state)
    }

    /// Waits until what it wrote has `text` in it.
    fn wait_log(&self, id: &str, text: &str) {
        let deadline = Instant::now() + LONG;
        loop {
            let (_, log) = self.cli(&["runtime", "logs", id]);
            if log.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "{id} never wrote `{text}`: {log}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Demands what the gate would decide.
    #[track_caller]
    fn decides(&self, persona: &str, url: &str, decision: &str) {
        let (_, said) = self.cli(&["egress", "preview", url, "--persona", persona]);
        assert!(said.contains(decision), "{persona}, {url}: {said}");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if self.daemon.is_running() {
            // Ends the runtimes too.
            self.daemon.signal(Signal::SIGINT);
            self.daemon.wait_for_exit();
        }
    }
}

fn folder(name: &str) -> std::path::PathBuf {
    files::path("configs/examples").join(name)
}

/// Host user ids of runtimes, for this process alone.
fn first_uid() -> i64 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    i64::from(900_000 + (std::process::id() % 4_000) * 1_000 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * 64)
}

/// Whether sandboxes with python inside can be made here; says why not.
fn can_launch() -> bool {
    if !Path::new("/usr/bin/python3").exists() {
        println!("SKIP: /usr/bin/python3 is not installed");
        return false;
    }
    support::can_launch()
}

#[test]
fn every_example_is_sound_as_it_stands() {
    let found: BTreeSet<String> = std::fs::read_dir(files::path("configs/examples"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, EXAMPLES.map(str::to_owned).into(), "each is started below");
    for name in EXAMPLES {
        let state = TempDir::new().unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program)
                .args(arguments)
                .env_clear()
                .envs([("HOME", "/nonexistent"), ("ARW_CONFIG_DIR", folder(name).to_str().unwrap())])
                .env("ARW_STATE_DIR", state.path().join("state"))
                .output()
                .unwrap();
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{name}: {said}");
            said
        };
        assert!(run(env!("CARGO_BIN_EXE_arw-server"), &["--check"]).contains("are sound"), "{name}");
        let bundles = folder(name).join("runtime/bundles.json");
        let valid = run(env!("CARGO_BIN_EXE_arw-cli"), &["consent", "validate", bundles.to_str().unwrap()]);
        assert_eq!(valid.trim_end(), "Consent metadata validation passed");
        assert!(files::read("configs/examples/README.md").contains(&format!("[`{name}`]")), "{name}");
    }
}

#[test]
fn the_automation_host_waits_for_consent_and_leases_and_records_its_agent() {
    let example = Example::start("automation-host", |setup| setup);
    example.decides("report", "https://figures.example.com", "allow");
    example.decides("report", "https://elsewhere.example.com", "not_allowlisted");
    example.decides("publisher", "https://publish.example.com", "lease_required");
    let queue = "http://tickets.corp.internal:8080/api/tickets";
    example.decides("triage", queue, "allow");
    example.decides("triage", "http://tickets.corp.internal:8080/api/attachments/7", "denied_by_rule");
    if !can_launch() {
        return;
    }
    // It reads tickets, and nobody has acknowledged that yet.
    let view = example.wait("triage", "refused", |view| view["state"] == "error");
    let detail = view["detail"].as_str().unwrap();
    assert!(detail.contains("consent") && detail.contains("triage"), "{detail}");
    let (code, said) = example.cli(&["consent", "acknowledge", "triage", "--note", "agreed with the works council"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = example.cli(&["runtime", "start", "triage"]);
    assert_eq!(code, Some(0), "{said}");
    example.wait_state("triage", "ready");
    // No name server is there: the agent is told so by the gate, and idles.
    example.wait_log("triage", "not now: 502 dns_failed tickets.corp.internal");
    let line = example.daemon.wait_for_ledger("its denial", |line| line["runtime"] == "triage");
    assert_eq!((&line["persona"], &line["code"]), (&"triage".into(), &"dns_failed".into()), "{line}");
    assert_eq!(example.view("triage")["state"], "ready", "idle is not failure");
    // Nobody granted anything to the publisher.
    let (code, said) = example.cli(&["runtime", "start", "publisher"]);
    assert_eq!(code, Some(0), "{said}");
    example.wait_log("publisher", "not fetched");
    example.daemon.wait_for_ledger("the publisher's denial", |line| {
        line["runtime"] == "publisher" && line["code"] == "lease_required"
    });
    let (code, said) = example.cli(&["automation", "list"]);
    assert!(code == Some(0) && said.contains("report") && said.contains("triage"), "{said}");
    example.wait("nightly-report", "planned", |view| !view["next_start"].is_null());
}

#[test]
fn the_laptop_starts_its_assistant_when_somebody_asks() {
    let example = Example::start("laptop-eco", |setup| setup);
    example.decides("assistant", "https://anything.example.net", "allow");
    example.decides("assistant", "https://paste.example.com", "denied_by_rule");
    example.decides("newcomer", "https://unknown.example.net", "enforcement would deny");
    if !can_launch() {
        return;
    }
    assert_eq!(example.view("assistant")["state"], "stopped", "nothing starts by itself");
    // The first connection starts it and waits; it may have to wait longer than this client would.
    let asking = std::net::TcpStream::connect((example.address, 8181)).unwrap();
    let view = example.wait_state("assistant", "ready");
    assert_eq!(view["preset"], "eco");
    drop(asking);
    let mut client = Client::connect((example.address, 8181).into());
    client.send("GET / HTTP/1.1\r\nHost: laptop\r\nConnection: close\r\n\r\n");
    let page = client.answer_to("GET");
    assert!(page.status == 200 && page.text().contains("The assistant is here."), "{}{}", page.head, page.text());
}

#[test]
fn the_gpu_workstation_refuses_its_model_without_a_gpu_and_serves_the_rest() {
    let example = Example::start("gpu-workstation", |setup| setup);
    example.decides("model", "https://cdn.files.models.example.org", "allow");
    example.decides("model", "https://elsewhere.example.org", "not_allowlisted");
    example.decides("chat", "http://model.internal:8000/v1/answer", "allow");
    example.decides("chat", "https://models.example.org", "not_allowlisted");
    if !can_launch() {
        return;
    }
    if Path::new("/dev/nvidia0").exists() {
        println!("SKIP: this host has a GPU");
        return;
    }
    let view = example.wait("model", "refused", |view| view["state"] == "error");
    let detail = view["detail"].as_str().unwrap();
    assert!(detail.contains("gpu unavailable: "), "{detail}");
    let documented = files::read("docs/gpu.md");
    let code = ["no_library", "no_driver", "no_gpu", "no_permission", "version_mismatch", "driver_fault"]
        .into_iter()
        .find(|code| detail.contains(code));
    assert!(code.is_none_or(|code| documented.contains(&format!("| `{code}` |"))), "{detail}");
}

/// The same folder without its wish for a GPU: the server behind its gate, and the client that reaches it alone.
#[test]
fn a_client_of_the_workstation_reaches_the_model_and_nobody_else() {
    if !can_launch() {
        return;
    }
    let example = Example::start("gpu-workstation", |setup| setup);
    let manifest = example.daemon.config_dir().join("runtime/runtimes.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let gpu = text.find("[runtimes.gpu]").unwrap();
    let next = text[gpu..].find("[[runtimes]]").unwrap() + gpu;
    let text = [&text[..gpu], &text[next..]]
        .concat()
        .replace("accelerator = \"gpu\" ", "accelerator = \"none\" ")
        .replace("http = \"http://127.0.0.1:8000/health\"", "tcp = \"127.0.0.1:8000\"")
        .replace("preset = \"gpu\"", "preset = \"balanced\"");
    std::fs::write(&manifest, text).unwrap();
    example.daemon.sighup();
    let (code, said) = example.cli(&["runtime", "start", "model", "--wait"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = example.cli(&["runtime", "start", "chat"]);
    assert_eq!(code, Some(0), "{said}");
    example.wait_log("chat", "answered: an answer");
    let line = example.daemon.wait_for_ledger("the question", |line| line["runtime"] == "chat");
    assert_eq!((&line["decision"], &line["rule"]), (&"allow".into(), &"model".into()), "{line}");
}

#[test]
fn the_ci_runner_gives_each_kind_of_job_its_own_way() {
    let origin = Origin::http();
    let example = Example::start("ci-runner", |setup| setup);
    example.decides("build", "https://x.files.packages.example.org", "allow");
    example.decides("build", "https://upload.packages.example.org", "denied_by_rule");
    example.decides("release", "https://upload.packages.example.org", "lease_required");
    example.decides("fork", "https://git.example.com", "posture_off");
    // Nobody's token is a string of zeros: a client without one of its own is nobody.
    let mut client = Client::connect(example.daemon.proxy);
    let answer = client.connect_to(&format!("127.0.0.1:{}", origin.port()), &Daemon::credentials("build"));
    assert_eq!(answer.status, 407);
    if !can_launch() {
        return;
    }
    for (job, persona) in [("job", "build"), ("fork-job", "fork")] {
        let (code, said) = example.cli(&["runtime", "start", job]);
        assert_eq!(code, Some(0), "{said}");
        let view = example.wait(job, "through", |view| view["state"] == "stopped" && !view["last_death"].is_null());
        assert_eq!(view["health"], "well", "{view:#}");
        example.wait_log(job, &format!("job of persona {persona}, run "));
    }
}
