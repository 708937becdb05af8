//! A daemon with runtimes, and the questions that tests ask it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value as Json;

use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{Daemon, Origin, PATIENCE, Setup, TICK};

/// The persona of the runtimes here: it reaches `allowed.test` on loopback.
pub(crate) const PERSONA: &str = "agent";

/// A daemon whose runtimes end with the test.
pub(crate) struct Host {
    pub(crate) daemon: Daemon,
    /// Answers at `allowed.test` for as long as the host is there.
    origin: Origin,
}

/// A runtime of which the command is a bash script.
pub(crate) fn bash(id: &str, script: &str, more: &str) -> String {
    runtime(id, "/bin/bash", &["-c", script], more)
}

/// A runtime of which the command is a perl program: it can listen, and is on every Debian.
pub(crate) fn perl(id: &str, program: &str, more: &str) -> String {
    runtime(id, "/usr/bin/perl", &["-e", program], more)
}

/// A runtime of which the command says what time it is, in seconds.
pub(crate) fn clock(id: &str, more: &str) -> String {
    runtime(id, "/usr/bin/date", &["+%s.%N"], more)
}

/// `more` is TOML: keys of the runtime, then a line with a section for each of its tables.
fn runtime(id: &str, command: &str, args: &[&str], more: &str) -> String {
    let mut args_text = String::new();
    for arg in args {
        let _ = write!(args_text, "{}, ", toml::Value::from(*arg));
    }
    let cut = if more.starts_with('[') { Some(0) } else { more.find("\n[").map(|at| at + 1) };
    let (keys, sections) = more.split_at(cut.unwrap_or(more.len()));
    format!(
        "[[runtimes]]\nid = \"{id}\"\npersona = \"{PERSONA}\"\n{keys}\n[runtimes.process]\ncommand = \"{command}\"\nargs = [{args_text}]\nstop_grace = \"1s\"\n{sections}\n"
    )
}

/// A perl program that answers every connection on `port` with `text`.
pub(crate) fn server(port: u16, text: &str) -> String {
    format!(
        "use IO::Socket::INET; $SIG{{PIPE}} = 'IGNORE'; \
         my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => {port}, Listen => 16, ReuseAddr => 1) or die $!; \
         $| = 1; print \"listening\\n\"; \
         while (my $c = $s->accept) {{ my $head = ''; while (my $l = <$c>) {{ last if $l =~ /^\\r?$/ }} \
         print $c \"HTTP/1.1 200 OK\\r\\nContent-Length: {}\\r\\nConnection: close\\r\\n\\r\\n{text}\"; close $c }}",
        text.len()
    )
}

impl Host {
    pub(crate) fn start(manifest: &str) -> Self {
        Self::start_with(manifest, |setup| setup)
    }

    pub(crate) fn start_with(manifest: &str, more: impl FnOnce(Setup) -> Setup) -> Self {
        let origin = Origin::http();
        let rules = format!(
            "[[allow]]\nid = \"origin\"\nhosts = [\"allowed.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\", \"tcp\"]\n",
            origin.port()
        );
        let setup = Setup::new()
            .host("allowed.test", &["127.0.0.1"])
            .persona(PERSONA, &rules)
            .set("runtimes.first_uid", first_uid())
            .file("runtime/runtimes.toml", manifest.replace("{PORT}", &origin.port().to_string()));
        Self { daemon: Daemon::start(more(setup)), origin }
    }

    /// Where the origin listens.
    pub(crate) fn port(&self) -> u16 {
        self.origin.port()
    }

    /// Puts another manifest in force.
    pub(crate) fn declare(&self, manifest: &str) {
        std::fs::write(self.daemon.config_dir().join("runtime/runtimes.toml"), manifest).unwrap();
        self.daemon.sighup();
    }

    /// One request to the control API.
    pub(crate) fn ask(&self, method: &str, path: &str) -> (u16, Json) {
        self.send(method, path, "")
    }

    /// One request with a JSON body.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        self.try_send(method, path, body).unwrap_or_else(|| panic!("{method} {path} was not answered"))
    }

    /// The same; `None` when the daemon did not live to answer.
    pub(crate) fn try_send(&self, method: &str, path: &str, body: &str) -> Option<(u16, Json)> {
        let mut stream = TcpStream::connect(self.daemon.control).ok()?;
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        // In one piece, as clients send it: a launch is measured from here on.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n{kind}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.daemon.control,
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // A daemon that is killed resets it; what came before counts.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        // Half an answer is none.
        (length.is_none_or(|length: usize| body.len() == length))
            .then(|| (status, serde_json::from_str(body).unwrap_or(Json::Null)))
    }

    /// The text of a `GET`.
    pub(crate) fn read(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.daemon.control).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n",
            self.daemon.control
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits for an event of this type that is as wanted; those that are kept count.
    pub(crate) fn wait_event(&self, kind: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let mut stream = TcpStream::connect(self.daemon.control).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        write!(
            stream,
            "GET /events?prefix={kind}&replay=1000 HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n",
            self.daemon.control
        )
        .unwrap();
        let deadline = Instant::now() + PATIENCE * 2;
        for line in BufReader::new(stream).lines() {
            assert!(Instant::now() < deadline, "no event {kind}:\n{}", self.daemon.log());
            let line = line.unwrap_or_else(|fault| panic!("no event {kind}: {fault}\n{}", self.daemon.log()));
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let event: Json = serde_json::from_str(data).unwrap();
            if event["type"] == kind && wanted(&event["data"]) {
                return event;
            }
        }
        panic!("the stream of events ended");
    }

    pub(crate) fn act(&self, id: &str, action: &str) -> (u16, Json) {
        self.ask("POST", &format!("/orchestrator/runtimes/{id}/{action}"))
    }

    /// The action is taken.
    pub(crate) fn must(&self, id: &str, action: &str) {
        let (status, body) = self.act(id, action);
        assert_eq!(status, 200, "{action} {id}: {body}");
    }

    pub(crate) fn view(&self, id: &str) -> Json {
        let (status, body) = self.ask("GET", &format!("/orchestrator/runtimes/{id}"));
        assert_eq!(status, 200, "{id}: {body}");
        body
    }

    /// Waits until the view of `id` is as wanted.
    pub(crate) fn wait(&self, id: &str, what: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            let view = self.view(id);
            if wanted(&view) {
                return view;
            }
            assert!(
                Instant::now() < deadline,
                "{id} never was {what}: {view:#}\nits log:\n{}\n{}",
                self.log(id),
                self.daemon.log()
            );
            std::thread::sleep(TICK * 4);
        }
    }

    pub(crate) fn wait_state(&self, id: &str, state: &str) -> Json {
        self.wait(id, state, |view| view["state"] == state)
    }

    /// Waits until it ended and stays so.
    pub(crate) fn wait_end(&self, id: &str) -> Json {
        self.wait(id, "ended", |view| view["state"] == "stopped" && !view["last_death"].is_null())
    }

    /// The newest death record.
    pub(crate) fn death(&self, id: &str) -> Json {
        self.view(id)["last_death"].clone()
    }

    /// What the runtime wrote, both files.
    pub(crate) fn log(&self, id: &str) -> String {
        let folder = self.daemon.state_dir().join("runtimes").join(id);
        ["log.0", "log.1"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap_or_default()).concat()
    }

    pub(crate) fn wait_log(&self, id: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE * 2;
        while !self.log(id).contains(text) {
            assert!(Instant::now() < deadline, "{id} never wrote `{text}`:\n{}\n{}", self.log(id), self.daemon.log());
            std::thread::sleep(TICK * 4);
        }
    }
}

impl Drop for Host {
    /// Ends what the daemon started, also where the test has killed the daemon.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.daemon.log());
        }
        if !self.daemon.is_running() {
            self.daemon.restart();
        }
        self.daemon.signal(Signal::SIGINT);
        self.daemon.wait_for_exit();
    }
}

/// A range for each test process and each test: RLIMIT_NPROC counts by user.
fn first_uid() -> i64 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let test = NEXT.fetch_add(1, Ordering::Relaxed);
    i64::from(700_000 + (std::process::id() % 4_000) * 1_000 + test * 16)
}

/// Whether any process has `mark` in its command line.
pub(crate) fn lives(mark: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let path = entry.path().join("cmdline");
        entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())
            && std::fs::read(path).is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
    })
}
