//! Reload storms: two hundred policies one after the other, under load.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use super::load::{Load, Origin, PERSONA, Said, connect, echoes, rule, rules, setup};
use super::support::daemon::ADMIN_TOKEN;
use super::support::{Client, Daemon, PATIENCE};
use super::{executor, turn, verify};

const RELOADS: usize = 200;
/// Allowed by every second policy.
const FLIP_HOST: &str = "flip.test";
/// Rules that mean nothing here, so that compiling takes its time.
const OTHER_RULES: usize = 500;

#[test]
fn two_hundred_reloads_fail_no_allowed_request_and_allow_no_denied_one() {
    let _turn = turn();
    let executor = executor();
    let (echo, web) = (Origin::echo(&executor), Origin::web(&executor));
    let gateway = Daemon::start(setup().host(FLIP_HOST, &["127.0.0.1"]));
    let port = echo.addr.port();
    let mut lasting = open(&executor, gateway.proxy, super::load::ECHO_HOST, port).expect("allowed");
    let load = Load::start(&executor, gateway.proxy, &echo, &web);
    let others: String =
        (0..OTHER_RULES).map(|index| format!("[[allow]]\nhosts = [\"*.service-{index}.example\"]\n")).collect();
    for round in 0..RELOADS / 2 {
        gateway.write_persona(PERSONA, &[rules(), rule(FLIP_HOST, "tcp"), others.clone()].concat());
        reload(&gateway);
        let mut flip = open(&executor, gateway.proxy, FLIP_HOST, port)
            .unwrap_or_else(|code| panic!("round {round}: a reload that was answered is in force: {code}"));
        executor.block_on(echoes(&mut flip, "allowed\n")).unwrap();
        gateway.write_persona(PERSONA, &[rules(), others.clone()].concat());
        reload(&gateway);
        let code = open(&executor, gateway.proxy, FLIP_HOST, port).expect_err("denied from the answer on");
        assert_eq!(code, "not_allowlisted");
        // The tunnel that the old policy let through ends, and not as if it were complete.
        let ended = executor.block_on(async { tokio::time::timeout(PATIENCE, flip.read_u8()).await.unwrap() });
        assert!(ended.is_err(), "round {round}: {ended:?}");
    }
    let tally = load.stop(&executor);
    println!("{} tunnels and {} pages meanwhile", tally.opened(), tally.answered.lock().unwrap().len());
    assert_eq!(*tally.surprises.lock().unwrap(), [""; 0]);
    assert_eq!(*tally.broken.lock().unwrap(), [""; 0]);
    executor.block_on(echoes(&mut lasting, "still here\n")).unwrap();
    let lines = gateway.ledger_lines();
    let narrowed = |line: &&serde_json::Value| line["close_reason"] == "policy_narrowed";
    assert_eq!(lines.iter().filter(narrowed).count(), RELOADS / 2);
    assert!(lines.iter().filter(narrowed).all(|line| line["host"] == FLIP_HOST));
    verify(&gateway);
}

#[test]
fn a_broken_file_in_a_storm_changes_nothing() {
    let _turn = turn();
    let executor = executor();
    let (echo, web) = (Origin::echo(&executor), Origin::web(&executor));
    let gateway = Daemon::start(setup());
    let load = Load::start(&executor, gateway.proxy, &echo, &web);
    for broken in ["posture = \"open\"", "[[allow]]\nhosts = [\"*\"]", "[[allow", "postur = \"public\"", "\0"] {
        for _ in 0..RELOADS / 10 {
            gateway.write_persona(PERSONA, broken);
            assert_ne!(reload_status(&gateway), 200, "{broken:?}");
        }
    }
    let tally = load.stop(&executor);
    assert_eq!(*tally.surprises.lock().unwrap(), [""; 0]);
    assert_eq!(*tally.broken.lock().unwrap(), [""; 0]);
}

/// A tunnel, or the code of its refusal.
fn open(executor: &Runtime, proxy: SocketAddr, host: &str, port: u16) -> Result<tokio::net::TcpStream, String> {
    match executor.block_on(connect(proxy, host, port)).unwrap() {
        Said::Open(_, stream) => Ok(stream),
        Said::Refused(refusal) => Err(refusal.code),
    }
}

/// Has the daemon read its files, and waits until it did.
fn reload(gateway: &Daemon) {
    assert_eq!(reload_status(gateway), 200, "{}", gateway.log());
}

fn reload_status(gateway: &Daemon) -> u16 {
    let mut client = Client::connect(gateway.control);
    client.send(format!(
        "POST /policy/reload HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        gateway.control
    ));
    client.answer_to("POST").status
}
