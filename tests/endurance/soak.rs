//! The soak: minutes of mixed traffic while everything that can go wrong goes wrong, again and again, and then a look at
//! what was left behind. Not part of the suite: `just soak`, or
//! `ARW_SOAK_SECONDS=600 cargo test --release --test endurance -- --ignored --nocapture soak`.
//!
//! One round: reloads, a runtime restarted and one killed, a name server that falls silent, a full disk (root), a lease
//! granted and revoked, event streams opened and dropped, and clients all the while. After the first round, and after the
//! last, everything is brought to rest and counted: what a round costs for good would show as many times itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;
use tokio::runtime::Runtime;

use super::load::{Load, Origin, PERSONA, Said, Tally, connect, rule, rules, setup};
use super::support::daemon::ADMIN_TOKEN;
use super::support::dns::{Kind, Reply};
use super::support::{Client, Daemon, DnsServer, can_launch, wait_for};
use super::{executor, skip, turn, verify};

/// How long it goes on unless `ARW_SOAK_SECONDS` says otherwise; at most an hour.
const SECONDS: u64 = 180;
/// Room of the state folder, where root can mount one.
const DISK: &str = "size=96m";
/// Answered by the name server only, and never from memory.
const NAMED_HOST: &str = "named.test";
/// Open event streams in a round.
const STREAMS: usize = 8;
/// Traffic to see between two faults.
const ENOUGH: usize = 100;

/// What may be more at the end than after the first round: threads of pools that come and go, buffers and pages that the
/// allocator keeps. A leak of one for each of hundreds of tunnels, or of dozens of launches, is far above.
const SLACK: Rest =
    Rest { descriptors: 64, threads: 8, tasks: 16, memory: 48 << 20, processes: 0, namespaces: 0, cgroups: 0 };

/// Two runtimes: one is restarted by hand, one is killed.
const MANIFEST: &str = r#"
[[runtimes]]
id = "steady"
persona = "load"
auto_start = true
[runtimes.process]
command = "/bin/sh"
args = ["-c", "while :; do echo here; sleep 1; done"]
stop_grace = "1s"

[[runtimes]]
id = "victim"
persona = "load"
auto_start = true
[runtimes.process]
command = "/bin/sh"
args = ["-c", "sleep 100000"]
stop_grace = "1s"
[runtimes.restart]
backoff = "100ms"
backoff_max = "200ms"
max = 50
window = "60s"
"#;

/// What a daemon at rest holds.
#[derive(Debug, Clone, Copy)]
struct Rest {
    descriptors: usize,
    threads: usize,
    tasks: usize,
    /// Resident bytes.
    memory: usize,
    /// It and everything below it.
    processes: usize,
    /// Namespaces of those, of every kind.
    namespaces: usize,
    /// Its groups, over all hierarchies.
    cgroups: usize,
}

impl Rest {
    fn of(daemon: &Daemon) -> Self {
        let metrics = metrics(daemon);
        let processes = descendants(daemon.pid());
        let namespaces: BTreeSet<PathBuf> = processes.iter().flat_map(|pid| namespaces(*pid)).collect();
        Self {
            descriptors: value(&metrics, "process_open_fds"),
            threads: value(&metrics, "process_threads"),
            tasks: value(&metrics, "arw_control_tasks"),
            memory: value(&metrics, "process_resident_memory_bytes"),
            processes: processes.len(),
            namespaces: namespaces.len(),
            cgroups: cgroups(daemon),
        }
    }

    fn rows(&self) -> [(&'static str, usize); 7] {
        let Self { descriptors, threads, tasks, memory, processes, namespaces, cgroups } = *self;
        [
            ("descriptors", descriptors),
            ("threads", threads),
            ("tasks", tasks),
            ("memory", memory),
            ("processes", processes),
            ("namespaces", namespaces),
            ("cgroups", cgroups),
        ]
    }
}

#[test]
#[ignore = "takes minutes: just soak"]
fn soak() {
    let _turn = turn();
    let seconds = std::env::var("ARW_SOAK_SECONDS").ok().map_or(SECONDS, |text| text.parse().expect("seconds"));
    let until = Instant::now() + Duration::from_secs(seconds.min(3_600));
    let mut soak = Soak::start();
    soak.round();
    let before = soak.rest();
    let mut rounds = 1;
    while Instant::now() < until || rounds < 3 {
        soak.round();
        rounds += 1;
    }
    let after = soak.rest();
    soak.tell(rounds, seconds, &before, &after);
    for (((what, before), (_, after)), (_, slack)) in before.rows().iter().zip(after.rows()).zip(SLACK.rows()) {
        assert!(after <= before + slack, "{what}: {before} after the first of {rounds} rounds, {after} after the last");
    }
    verify(&soak.daemon);
}

/// The daemon, those that it talks to, and what was seen.
struct Soak {
    executor: Runtime,
    daemon: Daemon,
    names: DnsServer,
    echo: Origin,
    web: Origin,
    runtimes: bool,
    disk: bool,
    totals: Totals,
}

/// What happened in all.
#[derive(Debug, Default)]
struct Totals {
    tunnels: usize,
    pages: usize,
    denials: usize,
    unavailable: usize,
    reloads: usize,
    launches: usize,
    outages: usize,
    full_disks: usize,
    leases: usize,
    streams: usize,
    /// Most groups that were seen: 0 on a host that gives none.
    cgroups: usize,
}

impl Soak {
    fn start() -> Self {
        let executor = executor();
        let (echo, web) = (Origin::echo(&executor), Origin::web(&executor));
        let names = DnsServer::start();
        names.host(NAMED_HOST, &["127.0.0.1"]);
        let (runtimes, disk) = (can_launch(), nix::unistd::geteuid().is_root());
        let mut setup = setup()
            .dns(&names)
            .set("dns.timeout", "300ms")
            .set("dns.cache_entries", 0)
            .set("runtimes.first_uid", i64::from(1_200_000 + std::process::id() % 4_000 * 64))
            .persona(PERSONA, &policy(0));
        if runtimes {
            setup = setup.file("runtime/runtimes.toml", MANIFEST);
        }
        if disk {
            setup = setup.mounting(DISK);
        } else {
            skip("mount namespace", "only root fills a disk of its own");
        }
        let daemon = Daemon::start(setup);
        Self { executor, daemon, names, echo, web, runtimes, disk, totals: Totals::default() }
    }

    /// One round of faults under load.
    fn round(&mut self) {
        let load = Load::start(&self.executor, self.daemon.proxy, &self.echo, &self.web);
        self.traffic(&load.tally);
        for _ in 0..5 {
            self.totals.reloads += 1;
            self.daemon.write_persona(PERSONA, &policy(self.totals.reloads));
            self.daemon.sighup();
        }
        self.traffic(&load.tally);
        if self.runtimes {
            self.wait_ready();
            self.restart_runtimes();
        }
        self.lose_the_name_server();
        self.lease();
        self.listen();
        if self.disk {
            self.fill_the_disk(&load.tally);
        }
        self.traffic(&load.tally);
        let tally = load.stop(&self.executor);
        assert_eq!(*tally.surprises.lock().unwrap(), [""; 0]);
        assert_eq!(*tally.broken.lock().unwrap(), [""; 0], "everyone was answered");
        self.totals.tunnels += tally.opened();
        self.totals.pages += tally.answered.lock().unwrap().len();
        self.totals.denials += tally.denied.lock().unwrap().len();
        self.totals.unavailable += tally.unavailable();
    }

    /// Waits until the clients got through, a good number of times.
    fn traffic(&self, tally: &Tally) {
        let (opened, denied) = (tally.opened(), tally.denied.lock().unwrap().len());
        wait_for("traffic", || {
            (tally.opened() >= opened + ENOUGH && tally.denied.lock().unwrap().len() > denied).then_some(())
        });
    }

    fn restart_runtimes(&mut self) {
        let restarted = self.daemon.cli(&["runtime", "restart", "steady"]);
        assert!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));
        let victim = self.view("victim");
        let (pid, run) = (victim["pid"].as_i64().expect("alive"), victim["run"].as_u64());
        // The init: with it everything inside ends.
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
        wait_for("the next run of the victim", || {
            let view = self.view("victim");
            (view["state"] == "ready" && view["run"].as_u64() > run).then_some(())
        });
        self.wait_ready();
        self.totals.launches += 2;
        self.totals.cgroups = self.totals.cgroups.max(cgroups(&self.daemon));
    }

    fn wait_ready(&self) {
        for id in ["steady", "victim"] {
            let deadline = Instant::now() + Duration::from_secs(60);
            while self.view(id)["state"] != "ready" {
                assert!(Instant::now() < deadline, "{id}: {:#}\n{}", self.view(id), self.daemon.log());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn view(&self, id: &str) -> Json {
        let output = self.daemon.cli(&["--json", "runtime", "status", id]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// A silent server is `dns_failed`, and the first answer afterwards counts.
    fn lose_the_name_server(&mut self) {
        let port = self.echo.addr.port();
        let ask = |soak: &Self| match soak.executor.block_on(connect(soak.daemon.proxy, NAMED_HOST, port)).unwrap() {
            Said::Open(_, _) => "open".to_owned(),
            Said::Refused(refusal) => refusal.code,
        };
        wait_for("the name", || (ask(self) == "open").then_some(()));
        for kind in [Kind::A, Kind::Aaaa] {
            self.names.script(NAMED_HOST, kind, [Reply::silence()]);
        }
        for _ in 0..3 {
            assert_eq!(ask(self), "dns_failed");
        }
        self.names.host(NAMED_HOST, &["127.0.0.1"]);
        wait_for("the name again", || (ask(self) == "open").then_some(()));
        self.totals.outages += 1;
    }

    fn lease(&mut self) {
        let grant = ["admin", "persona", "grant", PERSONA, "--capability", "egress:host:leased.test:443"];
        let granted = self.daemon.cli(&[&["--json"], &grant[..], &["--ttl", "1h", "--justification", "soak"]].concat());
        let said = String::from_utf8_lossy(&granted.stdout).into_owned();
        assert!(granted.status.success(), "{said}{}", String::from_utf8_lossy(&granted.stderr));
        let at = said.find("lease-").expect("an id");
        let id: String =
            said[at..].chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '-').collect();
        let revoked = self.daemon.cli(&["admin", "lease", "revoke", &id, "--reason", "soak"]);
        assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
        self.totals.leases += 1;
    }

    /// Listeners that go without a word.
    fn listen(&mut self) {
        let mut listeners = Vec::new();
        for _ in 0..STREAMS {
            let mut client = Client::connect(self.daemon.control);
            client.send(format!(
                "GET /events?replay=10 HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n",
                self.daemon.control
            ));
            listeners.push(client);
        }
        wait_for("the listeners", || (value(&metrics(&self.daemon), "arw_events_sse_clients") > 0).then_some(()));
        self.totals.streams += listeners.len();
    }

    fn fill_the_disk(&mut self, tally: &Tally) {
        let filler = self.daemon.state_dir().join("filler");
        let mut file = File::create(&filler).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        let refused = tally.unavailable();
        wait_for("refusals", || (tally.unavailable() >= refused + ENOUGH).then_some(()));
        std::fs::remove_file(&filler).unwrap();
        self.totals.full_disks += 1;
    }

    /// Brings everything to rest and counts it.
    fn rest(&self) -> Rest {
        if self.runtimes {
            for id in ["steady", "victim"] {
                let stopped = self.daemon.cli(&["runtime", "stop", id]);
                assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
                wait_for("the end of a runtime", || (self.view(id)["state"] == "stopped").then_some(()));
            }
        }
        wait_for("the clients to be gone", || {
            let metrics = metrics(&self.daemon);
            let tunnels: usize =
                metrics.lines().filter(|line| line.starts_with("arw_egress_open_tunnels{")).map(last_number).sum();
            let busy = value(&metrics, "arw_egress_connections") + value(&metrics, "arw_events_sse_clients") + tunnels;
            (busy == 0).then_some(())
        });
        // Kept upstream connections, pool threads and what else goes by itself: counted when two looks agree.
        let mut last = Rest::of(&self.daemon);
        wait_for("rest", || {
            std::thread::sleep(Duration::from_secs(1));
            let now = Rest::of(&self.daemon);
            let still = last.descriptors == now.descriptors && last.threads == now.threads && last.tasks == now.tasks;
            last = now;
            (still && now.processes == last.processes).then_some(())
        });
        let resting = last;
        if self.runtimes {
            for id in ["steady", "victim"] {
                let started = self.daemon.cli(&["runtime", "start", id]);
                assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
            }
            self.wait_ready();
        }
        resting
    }

    fn tell(&self, rounds: usize, seconds: u64, before: &Rest, after: &Rest) {
        println!("{rounds} rounds in {seconds} s: {:?}", self.totals);
        println!("| at rest | after the first round | after the last |\n|---|---:|---:|");
        for ((what, before), (_, after)) in before.rows().iter().zip(after.rows()) {
            println!("| {what} | {before} | {after} |");
        }
    }
}

/// The rules of all load, and one that each reload changes.
fn policy(reloads: usize) -> String {
    let other = format!("[[allow]]\nhosts = [\"*.service-{reloads}.example\"]\n");
    [rules(), rule(NAMED_HOST, "tcp"), other].concat()
}

fn metrics(daemon: &Daemon) -> String {
    let mut client = Client::connect(daemon.control);
    client.send(format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n",
        daemon.control
    ));
    let answer = client.answer_to("GET");
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.text()
}

fn value(metrics: &str, name: &str) -> usize {
    let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    last_number(line.unwrap_or_else(|| panic!("no {name}")))
}

fn last_number(line: &str) -> usize {
    line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_else(|| panic!("{line}")) as usize
}

/// `pid` and everything that it started, and what those did.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", found[at])).into_iter().flatten().flatten();
        // Children are listed by the thread that made them (proc_tid_children(5)).
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        found.extend(
            children.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()),
        );
        at += 1;
    }
    found
}

/// The namespaces of a process, as far as one may look.
fn namespaces(pid: u32) -> Vec<PathBuf> {
    let links = std::fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
    links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect()
}

/// The groups that this daemon made: they carry its instance's name.
fn cgroups(daemon: &Daemon) -> usize {
    let Ok(instance) = std::fs::read_to_string(daemon.state_dir().join("runtimes/instance")) else { return 0 };
    fn count(folder: &Path, instance: &str) -> usize {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders
            .map(|entry| {
                let ours = entry.file_name().to_string_lossy().contains(instance);
                usize::from(ours) + count(&entry.path(), instance)
            })
            .sum()
    }
    count(Path::new("/sys/fs/cgroup"), instance.trim())
}
