//! What a runtime reaches, and how it is reached.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::stage::{Host, bash, lives, perl, server};
use crate::support::{PATIENCE, wait_for};

/// Asks for `/` on a published port; `None` while nobody listens.
pub(crate) fn fetch(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_runtime_that_knows_no_proxy_reaches_what_is_allowed_and_nothing_else() {
    if !crate::can_launch() {
        return;
    }
    let script = "if exec 3<>/dev/tcp/allowed.test/{PORT}; then printf 'GET /hello HTTP/1.0\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n' >&3; tail -n 1 <&3; fi; \
                  exec 3<>/dev/tcp/denied.test/80 || echo denied-is-out-of-reach; \
                  exec 3<>/dev/tcp/127.0.0.1/1 || echo own-loopback-only; sleep 1000";
    let host = Host::start(&bash("agent-one", script, "auto_start = true"));
    host.wait_log("agent-one", "GET /hello");
    host.wait_log("agent-one", "denied-is-out-of-reach");
    let open = host.daemon.wait_for_ledger("the open line", |line| line["kind"] == "open");
    assert_eq!((&open["runtime"], &open["run"], &open["persona"]), (&"agent-one".into(), &"1".into(), &"agent".into()));
    let deny = host.daemon.wait_for_ledger("the denial", |line| line["kind"] == "deny");
    assert_eq!(
        (&deny["runtime"], &deny["host"], &deny["code"]),
        (&"agent-one".into(), &"denied.test".into(), &"not_allowlisted".into())
    );
    let view = host.wait("agent-one", "counted", |view| view["egress"]["denials"].as_u64() > Some(0));
    assert_eq!(view["egress"]["requests"], 1, "{view:#}");
}

#[test]
fn a_published_port_starts_its_runtime_and_leads_into_it() {
    if !crate::can_launch() {
        return;
    }
    let port = free_port();
    let more = format!(
        "publish = [\"127.0.0.1:{port}:8000\"]\n[runtimes.health]\ntcp = \"127.0.0.1:8000\"\ninterval = \"100ms\""
    );
    let host = Host::start(&perl("web", &server(8000, "from inside"), &more));
    assert_eq!(host.view("web")["state"], "stopped");
    assert!(fetch(port).expect("an answer").ends_with("from inside"));
    host.wait_state("web", "ready");
    // A stop by an operator is not undone by whoever connects.
    host.must("web", "stop");
    host.wait_state("web", "stopped");
    assert_eq!(fetch(port), None);
    assert_eq!(host.view("web")["state"], "stopped");
    host.must("web", "start");
    assert!(fetch(port).expect("an answer").ends_with("from inside"));
}

#[test]
fn a_tunnel_ends_with_its_runtime() {
    if !crate::can_launch() {
        return;
    }
    let script = "exec 3<>/dev/tcp/allowed.test/{PORT}; echo connected; sleep 1000; : a-tunnel-ends-mark";
    let host = Host::start(&bash("tunnel", script, "auto_start = true"));
    host.wait_log("tunnel", "connected");
    host.must("tunnel", "stop");
    host.wait_state("tunnel", "stopped");
    wait_for("its processes to end", || (!lives("a-tunnel-ends-mark")).then_some(()));
    assert!(host.view("tunnel")["egress"].is_null());
}
