//! One more command inside a runtime: within the same walls, for as long as it may, and no longer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use crate::stage::{Host, bash, lives};
use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{PATIENCE, wait_for};

/// A runtime that only stays.
const STAYS: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done";

/// Asks for a command, and reads the head of the answer. HTTP/1.0, so that the body is not chunked.
fn begin(host: &Host, id: &str, body: &Json) -> TcpStream {
    let mut stream = TcpStream::connect(host.daemon.control).unwrap();
    stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    let body = body.to_string();
    write!(
        stream,
        "POST /orchestrator/runtimes/{id}/exec HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        host.daemon.control,
        body.len()
    )
    .unwrap();
    stream
}

/// What a command said and how it ended, or why it was not executed.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    problem: Json,
    out: Vec<u8>,
    err: Vec<u8>,
    end: Json,
}

fn finish(stream: TcpStream) -> Answer {
    finish_after(stream, String::new())
}

/// `text` was read already.
fn finish_after(mut stream: TcpStream, mut text: String) -> Answer {
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut answer = Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), ..Answer::default() };
    if answer.status != 200 {
        answer.problem = serde_json::from_str(body).unwrap();
        return answer;
    }
    for event in body.split("\n\n").filter(|event| event.starts_with("event: ")) {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Json = serde_json::from_str(data).unwrap();
        let bytes = || STANDARD.decode(data["base64"].as_str().unwrap()).unwrap();
        match name {
            "out" => answer.out.extend(bytes()),
            "err" => answer.err.extend(bytes()),
            "end" => answer.end = data,
            other => panic!("an event `{other}`"),
        }
    }
    answer
}

fn ask(host: &Host, id: &str, body: &Json) -> Answer {
    finish(begin(host, id, body))
}

fn shell(script: &str, secs: u64) -> Json {
    json!({ "command": ["/bin/bash", "-c", script], "timeout_secs": secs })
}

fn said(host: &Host, id: &str, script: &str) -> String {
    let answer = ask(host, id, &shell(script, 60));
    assert_eq!(answer.end, json!({ "ending": "exited", "code": 0 }), "{script}: {answer:?}");
    String::from_utf8(answer.out).unwrap()
}

/// A command that runs, and that the daemon knows to.
struct Runs {
    stream: TcpStream,
    head: String,
}

impl Runs {
    fn start(host: &Host, id: &str, body: &Json, mark: &str) -> Self {
        let mut stream = begin(host, id, body);
        let mut head = Vec::new();
        while !head.ends_with(b": executed\n\n") {
            let mut byte = [0];
            let read = stream.read_exact(&mut byte);
            read.unwrap_or_else(|fault| panic!("{fault} after: {}", String::from_utf8_lossy(&head)));
            head.push(byte[0]);
        }
        wait_for("the command", || lives(mark).then_some(()));
        Self { stream, head: String::from_utf8(head).unwrap() }
    }

    fn finish(self) -> Answer {
        finish_after(self.stream, self.head)
    }
}

fn is_gone(mark: &str) {
    wait_for("its end", || (!lives(mark)).then_some(()));
}

/// Whether this host can hold a runtime still; says so if not.
fn freeze(host: &Host, id: &str) -> bool {
    let (status, body) = host.act(id, "freeze");
    if status == 409 {
        println!("SKIP: nothing here can freeze: {body}");
        return false;
    }
    host.wait_state(id, "frozen");
    true
}

/// Everything of a process's confinement that it can see itself.
const LOOK: &str = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|SigIgn|SigBlk):' /proc/self/status; \
    for n in mnt pid net ipc uts user cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup; ulimit -a; \
    env | grep -v '^_=' | sort; pwd; umask; ls -l /proc/self/fd | grep -c -- '->'; touch /usr/x /etc/x 2>&1; true";

#[test]
fn it_is_within_the_walls_of_the_runtime_itself() {
    if !crate::can_launch() {
        return;
    }
    let script = format!("{{ {LOOK}; }} > /tmp/look; echo looked; sleep 1000");
    let profile = |id: &str| bash(id, &script, &format!("auto_start = true\nprofile = \"{id}\""));
    let host = Host::start(&format!("{}{}", profile("strict"), profile("standard")));
    for id in ["strict", "standard"] {
        host.wait_state(id, "ready");
        host.wait_log(id, "looked");
        let first = said(&host, id, "cat /tmp/look");
        // The same redirections, so that both have the same descriptors open.
        let second = said(&host, id, &format!("{{ {LOOK}; }} > /tmp/again; cat /tmp/again"));
        assert_eq!(first, second, "{id}");
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
            assert!(second.contains(line), "{id}: {line}: {second}");
        }
        for namespace in ["mnt", "pid", "net", "ipc", "uts"] {
            let outside = std::fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
            let outside = outside.to_str().unwrap();
            assert!(second.contains(&format!("{namespace}:[")) && !second.contains(outside), "{id}: {namespace}");
        }
    }
}

#[test]
fn its_only_way_out_is_the_gateway_and_its_traffic_is_the_runtimes() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("agent-one", STAYS, "auto_start = true"));
    host.wait_state("agent-one", "ready");
    let script = format!(
        "if exec 3<>/dev/tcp/allowed.test/{}; then printf 'GET /hello HTTP/1.0\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n' >&3; tail -n 1 <&3; fi; \
         exec 3<>/dev/tcp/denied.test/80 || echo denied-is-out-of-reach; \
         exec 3<>/dev/tcp/127.0.0.1/{} || echo the-daemon-is-out-of-reach; \
         exec 3<>/dev/tcp/192.0.2.1/80 || echo the-world-is-out-of-reach",
        host.port(),
        host.daemon.control.port()
    );
    let out = said(&host, "agent-one", &script);
    for part in ["GET /hello", "denied-is-out-of-reach", "the-daemon-is-out-of-reach", "the-world-is-out-of-reach"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    for kind in ["open", "deny"] {
        let line = host.daemon.wait_for_ledger(kind, |line| line["kind"] == kind);
        assert_eq!((&line["runtime"], &line["run"]), (&"agent-one".into(), &"1".into()), "{line}");
    }
}

#[test]
fn the_client_passes_on_what_it_says_and_how_it_ends() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&format!("{}{}", bash("one", STAYS, "auto_start = true"), bash("off", STAYS, "")));
    host.wait_state("one", "ready");
    let cli = |more: &[&str]| host.daemon.cli(&[&["runtime", "exec", "one"], more].concat());
    let run = cli(&["--", "/bin/bash", "-c", "printf 'a\\xff\\0\\e[1m'; echo wrong >&2; exit 7"]);
    assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(7), &b"a\xff\0\x1b[1m"[..]), "{run:?}");
    assert_eq!(run.stderr, b"wrong\n");
    // Found in PATH, and with more than a pipe holds.
    let long = cli(&["--", "seq", "1", "100000"]);
    assert_eq!((long.status.code(), long.stdout.len()), (Some(0), 588_895));
    assert_eq!(cli(&["--", "/bin/bash", "-c", "kill -TERM $$"]).status.code(), Some(143));
    assert_eq!(cli(&["--timeout", "1", "--", "sleep", "1000"]).status.code(), Some(124));
    for (args, code) in [
        (&["one", "--", "/no/such/program"][..], "not_executed"),
        (&["one", "--", "/etc"], "not_executed"),
        (&["none", "--", "true"], "unknown_runtime"),
        (&["off", "--", "true"], "not_in_this_state"),
    ] {
        let refused = host.daemon.cli(&[&["--json", "runtime", "exec"], args].concat());
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        let error: Json = serde_json::from_slice(&refused.stderr).unwrap();
        assert_eq!(error["error"]["code"], code, "{args:?}: {error}");
    }
    let lines = host.daemon.cli(&["--json", "runtime", "exec", "one", "--", "echo", "x"]);
    let lines: Vec<Json> =
        String::from_utf8(lines.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({ "event": "out", "data": { "base64": "eAo=" } }));
    assert_eq!(lines[1]["event"], "end");
    let recorded = |host: &Host| {
        let folder = host.daemon.state_dir().join("audit");
        let segments = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let segments = segments.filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
        segments.map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>()
    };
    let audit = wait_for("the audit", || Some(recorded(&host)).filter(|text| text.contains("/no/such/program")));
    assert!(audit.contains("runtime_exec") && !audit.contains("kill -TERM"), "{audit}");
    let wrong = host.daemon.cli(&["runtime", "exec", "one", "true"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn what_is_no_command_is_refused_before_anything_happens() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", STAYS, "auto_start = true"));
    host.wait_state("one", "ready");
    for body in [
        json!({}),
        json!({ "command": [] }),
        json!({ "command": [""] }),
        json!({ "command": "ls" }),
        json!({ "command": ["ls\u{0}", "x"] }),
        json!({ "command": ["ls"], "timeout_secs": 0 }),
        json!({ "command": ["ls"], "timeout_secs": 3_601 }),
        json!({ "command": ["ls"], "timeout_secs": -1 }),
        json!({ "command": ["ls"], "user": 0 }),
        json!({ "command": ["echo", "x".repeat(9_000)] }),
        json!({ "command": vec!["x"; 257] }),
    ] {
        let answer = ask(&host, "one", &body);
        assert_eq!((answer.status, &answer.problem["code"]), (400, &"bad_request".into()), "{body}");
    }
    let huge = ask(&host, "one", &json!({ "command": ["echo", "x".repeat(70_000)] }));
    assert_eq!((huge.status, &huge.problem["code"]), (413, &"body_too_large".into()));
    // The longest that may be, with every byte in its longest form.
    let longest = "\u{1}".repeat(8 * 1_024 - 4);
    let answer = ask(&host, "one", &json!({ "command": ["echo", longest] }));
    assert_eq!((answer.end["code"].as_i64(), answer.out.len()), (Some(0), 8 * 1_024 - 3), "{:?}", answer.problem);
    for id in ["none", "..%2f..", "ONE"] {
        assert_eq!(ask(&host, id, &shell("true", 1)).problem["code"], "unknown_runtime", "{id}");
    }
    let anybody = host.daemon.cli(&[
        "--base",
        &format!("http://{}", host.daemon.control),
        "--admin-token",
        "wrong",
        "runtime",
        "exec",
        "one",
        "--",
        "true",
    ]);
    assert!(String::from_utf8_lossy(&anybody.stderr).contains("admin_token_wrong"), "{anybody:?}");
}

#[test]
fn it_is_killed_when_its_time_is_over_with_all_of_its_session() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", STAYS, "auto_start = true"));
    let ready = host.wait_state("one", "ready");
    let script = "trap '' TERM INT HUP; bash -c 'trap \"\" TERM; while :; do sleep 1; done; : exec-late-mark' & wait; : exec-late-mark";
    let answer = ask(&host, "one", &shell(script, 1));
    assert_eq!(answer.end, json!({ "ending": "timed_out" }), "{answer:?}");
    is_gone("exec-late-mark");
    // An unread flood is no way to stay: nobody takes what it says, and its time is over all the same.
    let flood = Runs::start(
        &host,
        "one",
        &json!({ "command": ["yes", "exec-flood-mark"], "timeout_secs": 5 }),
        "exec-flood-mark",
    );
    is_gone("exec-flood-mark");
    drop(flood);
    let after = host.wait_state("one", "ready");
    assert_eq!((&after["pid"], &after["run"]), (&ready["pid"], &ready["run"]), "the runtime goes on");
}

#[test]
fn a_flood_that_is_read_ends_at_its_time_and_costs_the_daemon_no_memory() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", STAYS, "auto_start = true"));
    host.wait_state("one", "ready");
    let pages = || {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", host.daemon.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = pages();
    let mut stream = begin(&host, "one", &json!({ "command": ["yes"], "timeout_secs": 2 }));
    let (mut bytes, mut most, mut tail) = (0_u64, 0, Vec::new());
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut chunk).unwrap();
        if count == 0 {
            break;
        }
        bytes += count as u64;
        tail = chunk[..count].to_vec();
        most = most.max(pages());
    }
    assert!(String::from_utf8_lossy(&tail).ends_with("event: end\ndata: {\"ending\":\"timed_out\"}\n\n"));
    println!("{bytes} bytes came; the daemon grew by {} pages", most.saturating_sub(before));
    assert!(bytes > 1 << 20, "no flood: {bytes}");
    assert!(most.saturating_sub(before) < 64 << 8, "the daemon kept what went through it");
}

#[test]
fn it_ends_with_its_client() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", STAYS, "auto_start = true"));
    host.wait_state("one", "ready");
    for script in ["sleep 1000; : exec-gone-mark", "while echo noise; do sleep 0.05; done; : exec-gone-mark"] {
        let stream = Runs::start(&host, "one", &shell(script, 600), "exec-gone-mark");
        drop(stream);
        is_gone("exec-gone-mark");
    }
    host.wait_state("one", "ready");
}

#[test]
fn it_ends_with_the_runtime() {
    if !crate::can_launch() {
        return;
    }
    // Once the operator ends it, once it ends by itself.
    let dies = "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3";
    let more = "auto_start = true\n[runtimes.restart]\npolicy = \"no\"";
    let host = Host::start(&format!("{}{}", bash("one", STAYS, more), bash("dies", dies, more)));
    host.wait_state("one", "ready");
    let stream = Runs::start(&host, "one", &shell("trap '' TERM; sleep 1000; : exec-stop-mark", 600), "exec-stop-mark");
    host.must("one", "stop");
    host.wait_state("one", "stopped");
    assert!(!lives("exec-stop-mark"), "stopped, and a command is there");
    assert_eq!(stream.finish().end, json!({ "ending": "runtime_ended" }));
    host.wait_state("dies", "ready");
    let answer = ask(&host, "dies", &shell("trap '' TERM; touch /tmp/go; sleep 1000; : exec-dies-mark", 600));
    assert_eq!(answer.end, json!({ "ending": "runtime_ended" }));
    is_gone("exec-dies-mark");
    let death = host.wait_end("dies")["last_death"].clone();
    assert_eq!((&death["cause"], &death["code"]), (&"exit".into(), &3.into()), "{death}");
    assert_eq!(ask(&host, "dies", &shell("true", 1)).problem["code"], "not_in_this_state");
}

#[test]
fn it_ends_with_the_daemon_and_the_runtime_does_not() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&bash("one", STAYS, "auto_start = true"));
    let ready = host.wait_state("one", "ready");
    let stream =
        Runs::start(&host, "one", &shell("trap '' TERM HUP; sleep 1000; : exec-kill9-mark", 600), "exec-kill9-mark");
    host.daemon.kill9();
    is_gone("exec-kill9-mark");
    drop(stream);
    host.daemon.restart();
    assert_eq!(host.wait_state("one", "ready")["pid"], ready["pid"]);
    assert_eq!(said(&host, "one", "echo again"), "again\n");
    // A stop in good order does not wait for a command that takes long.
    let mut client = std::process::Command::new(env!("CARGO_BIN_EXE_arw-cli"))
        .args(["runtime", "exec", "one", "--timeout", "600", "--", "sleep", "1000.125"])
        .env("ARW_STATE_DIR", host.daemon.state_dir())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the command", || lives("sleep\u{0}1000.125").then_some(()));
    host.daemon.sigterm();
    host.daemon.wait_for_exit();
    is_gone("sleep\u{0}1000.125");
    let ended = client.wait().unwrap();
    assert_eq!((ended.code(), ended.signal()), (Some(1), None));
}

#[test]
fn a_frozen_runtime_executes_nothing_and_kills_what_it_had_to_when_it_goes_on() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", STAYS, "auto_start = true"));
    host.wait_state("one", "ready");
    let stream = Runs::start(&host, "one", &shell("sleep 1000; : exec-frozen-mark", 5), "exec-frozen-mark");
    if !freeze(&host, "one") {
        return;
    }
    assert_eq!(ask(&host, "one", &shell("true", 1)).problem["code"], "not_in_this_state");
    // It cannot die now, and nobody waits for that.
    assert_eq!(stream.finish().end, json!({ "ending": "timed_out" }));
    host.must("one", "thaw");
    host.wait_state("one", "ready");
    is_gone("exec-frozen-mark");
    assert_eq!(said(&host, "one", "echo fine"), "fine\n");
}

#[test]
fn an_init_that_does_not_answer_is_not_waited_for_and_nothing_runs_afterwards() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", STAYS, "auto_start = true"));
    let view = host.wait_state("one", "ready");
    let init = nix::unistd::Pid::from_raw(i32::try_from(view["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let answer = ask(&host, "one", &shell("sleep 1000; : exec-silent-mark", 600));
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!((answer.status, &answer.problem["code"]), (503, &"timed_out".into()));
    // What it was asked it does now, and then undoes.
    assert_eq!(said(&host, "one", "echo fine"), "fine\n");
    is_gone("exec-silent-mark");
}

#[test]
fn operators_cannot_crowd_out_the_probes() {
    if !crate::can_launch() {
        return;
    }
    let more = "auto_start = true\n[runtimes.health]\nexec = [\"/bin/true\"]\ninterval = \"100ms\"\nfailure_threshold = 1\n[runtimes.restart]\npolicy = \"no\"";
    let host = Host::start(&bash("one", STAYS, more));
    host.wait_state("one", "ready");
    let mut streams: Vec<Runs> = (0..8)
        .map(|n| {
            Runs::start(
                &host,
                "one",
                &shell(&format!("sleep 1000; : exec-crowd-{n}-mark"), 600),
                &format!("exec-crowd-{n}-mark"),
            )
        })
        .collect();
    let ninth = ask(&host, "one", &shell("true", 1));
    assert_eq!((ninth.status, &ninth.problem["code"]), (503, &"too_many_streams".into()));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(host.view("one")["health"], "well");
    drop(streams.pop());
    is_gone("exec-crowd-7-mark");
    wait_for("room for another", || (ask(&host, "one", &shell("true", 1)).status == 200).then_some(()));
}

#[test]
fn what_it_leaves_behind_does_not_keep_its_answer_open() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash("one", STAYS, "auto_start = true"));
    host.wait_state("one", "ready");
    // A child that holds the pipes, and one that never stops writing into them.
    let script = "bash -c 'while echo more; do :; done; : exec-left-mark' & bash -c 'sleep 1000; : exec-left-mark' & sleep 0.2; echo done; exit 5";
    let answer = ask(&host, "one", &shell(script, 600));
    assert_eq!(answer.end, json!({ "ending": "exited", "code": 5 }));
    assert!(String::from_utf8_lossy(&answer.out).contains("done\n"));
    host.must("one", "stop");
    host.wait_state("one", "stopped");
    assert!(!lives("exec-left-mark"));
}
