//! Starting, stopping, and dying.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Client, Daemon, End, Origin, Setup, wait_for};
use crate::{AGENT, authority, credentials, over, rule, tunnel, url, with};

#[test]
fn a_stop_lets_open_tunnels_end_and_takes_no_new_ones() {
    let origin = Origin::echo();
    let mut daemon = over(&origin);
    let (mut client, seq) = tunnel(&daemon, &origin);
    // Answered once, so that it is known to be accepted.
    let mut idle = Client::connect(daemon.proxy);
    assert_eq!(idle.get("http://elsewhere.test/", &credentials()).status, 403);
    daemon.sigterm();
    // A client that waits for nothing is let go at once, and nobody listens any more.
    assert_eq!(idle.read_to_end(), (Vec::new(), End::Clean));
    wait_for("the listener's end", || TcpStream::connect(daemon.proxy).is_err().then_some(()));
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    client.half_close();
    client.read_to_end();
    assert_eq!(daemon.wait_for_exit(), Some(0));
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "client_closed");
    assert!(UnixStream::connect(daemon.unix_socket()).is_err());
}

#[test]
fn a_stop_that_takes_too_long_cuts_what_is_left_and_records_it() {
    let origin = Origin::echo();
    let mut daemon = with(&origin, "", |setup| setup.set("proxy.drain", "300ms"));
    let (mut client, seq) = tunnel(&daemon, &origin);
    daemon.sigterm();
    let (rest, end) = client.read_to_end();
    assert_eq!(daemon.wait_for_exit(), Some(0));
    let close = daemon.wait_for_close(seq);
    assert_eq!((rest.as_slice(), end, &close["close_reason"]), (&[][..], End::Abort, &"shutdown".into()), "{close}");
}

#[test]
fn a_request_under_way_is_answered_during_a_stop() {
    let origin = Origin::http();
    let mut daemon = over(&origin);
    origin.on(
        "/slow",
        crate::support::Script::raw("").then_wait().then_send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"),
    );
    let mut client = Client::connect(daemon.proxy);
    client.send(format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
        url(&origin, "/slow"),
        authority(&origin),
        credentials()
    ));
    origin.wait_for_requests(1);
    daemon.sigterm();
    wait_for("the listener's end", || TcpStream::connect(daemon.proxy).is_err().then_some(()));
    origin.open_gate();
    assert_eq!(client.answer().text(), "slow");
    assert_eq!(daemon.wait_for_exit(), Some(0));
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let origin = Origin::http();
    let mut daemon = over(&origin);
    let rules = rule("origin", "origin.test", origin.port(), "\"http\"", "");
    let log = Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, &rules).in_home_of(&daemon).refused();
    assert!(log.contains("ledger") && log.contains("another"), "{log}");
    // The first one does not notice.
    assert!(daemon.is_running());
    assert_eq!(Client::connect(daemon.proxy).get(&url(&origin, "/"), &credentials()).status, 200);
    assert_eq!(Client::connect_unix(&daemon.unix_socket()).get(&url(&origin, "/"), &credentials()).status, 200);
}

#[test]
fn a_port_that_is_taken_ends_the_start_with_its_name() {
    let origin = Origin::http();
    let log = Setup::new().persona(AGENT, "").set("proxy.bind", origin.addr().to_string()).refused();
    assert!(log.contains(&origin.addr().to_string()), "{log}");
}

#[test]
fn broken_settings_and_personas_end_the_start_with_their_place() {
    let log = Setup::new().persona(AGENT, "").set("limits.head_tme", "1s").refused();
    assert!(log.contains("head_tme") && log.contains("head_time"), "{log}");
    let log = Setup::new().persona(AGENT, "[[allow]]\nhosts = [\"*.com\"]\n").refused();
    assert!(log.contains("agent.toml") && log.contains("*.com"), "{log}");
}

#[test]
fn a_demonstration_that_cannot_be_made_lets_nobody_out_and_is_told() {
    let origin = Origin::http();
    // A folder in the place of the file that it is first written to.
    let home = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    std::fs::create_dir_all(home.path().join("config/personas/demo.new")).expect("made");
    let daemon = Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).in_home(home));
    let log = daemon.log();
    assert!(log.contains("the demonstration cannot be made") && log.contains("demo.toml"), "{log}");
    for credentials in [String::new(), Daemon::credentials("demo")] {
        let answer = Client::connect(daemon.proxy).get(&url(&origin, "/"), &credentials);
        assert_eq!(answer.status, 407, "{}", answer.text());
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn sockets_of_a_service_manager_are_used() {
    const ACTIVATE: &str = "import os, socket, sys\n\
        proxy = socket.socket(); proxy.bind(('127.0.0.1', 0)); proxy.listen()\n\
        control = socket.socket(); control.bind(('127.0.0.1', 0)); control.listen()\n\
        kept = [os.dup(proxy.fileno()), os.dup(control.fileno())]\n\
        os.dup2(kept[0], 3); os.dup2(kept[1], 4)\n\
        os.set_inheritable(3, True); os.set_inheritable(4, True)\n\
        os.environ.update(LISTEN_FDS='2', LISTEN_FDNAMES='proxy:control', LISTEN_PID=str(os.getpid()))\n\
        print(proxy.getsockname()[1], control.getsockname()[1], file=sys.stderr, flush=True)\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        println!("SKIP: there is no python3 to hand sockets over");
        return;
    }
    let origin = Origin::http();
    let daemon = with(&origin, "", |setup| setup.wrapped(&["python3", "-c", ACTIVATE]));
    let log = daemon.log();
    let ports: Vec<u16> = log.lines().next().unwrap().split(' ').map(|port| port.parse().unwrap()).collect();
    assert_eq!(
        (daemon.proxies.iter().map(|addr| addr.port()).collect::<Vec<_>>(), daemon.control.port()),
        (vec![ports[0]], ports[1])
    );
    for _ in 0..4 {
        assert_eq!(Client::connect(daemon.proxy).get(&url(&origin, "/"), &credentials()).status, 200);
    }
    // The trial's own settings ask for port 0, which was not handed over.
    assert!(log.contains("proxy.bind 127.0.0.1:0") && log.contains("control.bind 127.0.0.1:0"), "{log}");
    // A handed listener is the gateway's own all the same.
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&format!("http://127.0.0.1:{}/", ports[0]), &credentials()).code(), "special_address");
}

#[test]
fn every_tunnel_that_a_client_saw_open_is_in_the_ledger_after_kill_9() {
    let origin = Origin::echo();
    let mut daemon = over(&origin);
    let dead = AtomicBool::new(false);
    let proxy = daemon.proxy;
    let target = authority(&origin);
    let seen: BTreeSet<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let (dead, target) = (&dead, &target);
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    while !dead.load(Ordering::SeqCst) {
                        let Ok(_) = TcpStream::connect(proxy) else { break };
                        let mut client = Client::connect(proxy);
                        if client
                            .try_send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", credentials()))
                            .is_err()
                        {
                            break;
                        }
                        let Ok(answer) = client.try_answer_to("CONNECT") else { break };
                        assert_eq!(answer.status, 200);
                        seen.push(answer.decision());
                    }
                    seen
                })
            })
            .collect();
        origin.wait_for_connections(300);
        daemon.kill9();
        dead.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(seen.len() >= 200, "{}", seen.len());
    let opened = |daemon: &Daemon| -> BTreeSet<u64> {
        daemon
            .ledger_lines()
            .iter()
            .filter(|line| line["kind"] == "open")
            .map(|line| line["seq"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(seen.difference(&opened(&daemon)).count(), 0);
    let last = daemon.ledger_lines().iter().filter_map(|line| line["seq"].as_u64()).max().unwrap();
    daemon.restart();
    // Nothing is lost by the recovery, and the numbers go on.
    assert_eq!(seen.difference(&opened(&daemon)).count(), 0);
    let (_, next) = tunnel(&daemon, &origin);
    assert!(next > last, "{next} after {last}");
    let verified = daemon.cli(&["ledger", "verify"]);
    assert!(
        verified.status.success(),
        "{}{}",
        String::from_utf8_lossy(&verified.stdout),
        String::from_utf8_lossy(&verified.stderr)
    );
}
