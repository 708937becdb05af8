//! Ends in the middle of work, by `kill -9` and in order: what a client was told is in the ledger.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::load::{DENIED_HOST, ECHO_HOST, Load, Origin, Said, Tally, WEB_HOST, connect, echoes, setup};
use super::support::{Daemon, Setup, wait_for};
use super::{executor, turn, verify};

/// Crashes in a row, of one ledger.
const ROUNDS: usize = 5;
/// Tunnels that are open and silent when the crash comes.
const SILENT: usize = 16;
/// Bytes of a line that was being written.
const TORN: &[u8] = b"{\"seq\":4711,\"time\":\"2026-11-2";

#[test]
fn what_a_client_was_told_before_kill_9_is_in_the_ledger() {
    crash(ROUNDS, setup(), Ends::Known);
}

#[test]
fn what_a_client_was_told_before_kill_9_is_in_a_strict_ledger() {
    crash(2, setup().set("ledger.durability", "strict"), Ends::Known);
}

#[test]
fn what_a_client_was_told_before_kill_9_is_in_a_ledger_that_is_being_sealed() {
    // The smallest segments: several are sealed in each round. An end is found for what was opened in the
    // last of them, not for older ones (docs/ledger-format.md).
    crash(3, setup().set("ledger.segment_bytes", "1MiB"), Ends::Unknown);
}

/// Whether the next start is to find the end of each silent tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Known,
    Unknown,
}

/// Kills the gateway `rounds` times at moments that nobody chose.
fn crash(rounds: usize, setup: Setup, ends: Ends) {
    let _turn = turn();
    let executor = executor();
    let (echo, web) = (Origin::echo(&executor), Origin::web(&executor));
    let mut gateway = Daemon::start(setup);
    for round in 0..rounds {
        let silent = open_silent(&executor, &gateway, &echo);
        let load = Load::start(&executor, gateway.proxy, &echo, &web);
        // Some tens of tunnels to a thousand, or as many more as fill a segment.
        let least = if ends == Ends::Known { 20 } else { 1_500 };
        let enough = least + usize::from(random_byte()) * 4;
        wait_for("load", || (load.tally.opened() >= enough).then_some(()));
        gateway.kill9();
        let tally = load.stop(&executor);
        assert_eq!(*tally.surprises.lock().unwrap(), [""; 0], "round {round}");
        tally.opened.lock().unwrap().extend(silent.iter().map(|(decision, _)| decision));
        // Every second crash comes in the middle of a line.
        let torn = round % 2 == 1;
        if torn {
            tear(&gateway);
        }
        gateway.restart();
        if torn {
            gateway.wait_for_log("torn line");
        }
        let lines = gateway.ledger_lines();
        witness(&lines, &tally, &echo, &web);
        if ends == Ends::Known {
            let closes = closes(&lines);
            for (decision, _) in &silent {
                assert_eq!(closes.get(decision), Some(&"unclean"), "round {round}: the end of {decision}");
            }
        }
        verify(&gateway);
        serves(&executor, &gateway, &echo);
        println!("round {round}: {} tunnels seen open, {} lines", tally.opened(), lines.len());
    }
}

#[test]
fn a_stop_under_load_ends_every_tunnel_with_a_record() {
    let _turn = turn();
    let executor = executor();
    let (echo, web) = (Origin::echo(&executor), Origin::web(&executor));
    let mut gateway = Daemon::start(setup().set("proxy.drain", "1s"));
    let silent = open_silent(&executor, &gateway, &echo);
    let load = Load::start(&executor, gateway.proxy, &echo, &web);
    wait_for("load", || (load.tally.opened() >= 100).then_some(()));
    gateway.sigterm();
    assert_eq!(gateway.wait_for_exit(), Some(0), "{}", gateway.log());
    let tally = load.stop(&executor);
    {
        let surprises = tally.surprises.lock().unwrap();
        assert!(surprises.iter().all(|surprise| surprise.contains("overloaded")), "{surprises:?}");
    }
    tally.opened.lock().unwrap().extend(silent.iter().map(|(decision, _)| decision));
    let lines = gateway.ledger_lines();
    witness(&lines, &tally, &echo, &web);
    let ends = closes(&lines);
    for open in lines.iter().filter(|line| line["kind"] == "open") {
        let end = ends.get(&open["seq"].as_u64().unwrap());
        assert!(end.is_some_and(|end| *end != "unclean"), "{open}: {end:?}");
    }
    for (decision, _) in &silent {
        assert_eq!(ends[decision], "shutdown");
    }
    verify(&gateway);
}

fn random_byte() -> u8 {
    let mut byte = [0];
    getrandom::fill(&mut byte).unwrap();
    byte[0]
}

fn open_silent(executor: &Runtime, gateway: &Daemon, echo: &Origin) -> Vec<(u64, TcpStream)> {
    executor.block_on(async {
        let mut open = Vec::new();
        for _ in 0..SILENT {
            match connect(gateway.proxy, ECHO_HOST, echo.addr.port()).await.unwrap() {
                Said::Open(decision, stream) => open.push((decision, stream)),
                Said::Refused(refusal) => panic!("{refusal:?}"),
            }
        }
        open
    })
}

/// Leaves the beginning of a line at the end of the newest segment.
fn tear(gateway: &Daemon) {
    let folder = gateway.state_dir().join("ledger");
    let segments = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let newest = segments.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).max().expect("a segment");
    std::fs::OpenOptions::new().append(true).open(newest).unwrap().write_all(TORN).unwrap();
}

/// The reason of each close, by the decision that it ends.
fn closes(lines: &[Json]) -> HashMap<u64, &str> {
    let closes = lines.iter().filter(|line| line["kind"] == "close");
    closes.map(|line| (line["opened"].as_u64().unwrap(), line["close_reason"].as_str().unwrap())).collect()
}

/// Holds what clients and origins saw against the ledger.
#[track_caller]
pub(crate) fn witness(lines: &[Json], tally: &Tally, echo: &Origin, web: &Origin) {
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], index as u64 + 1, "the numbers have no gap");
    }
    let line = |decision: u64| {
        let index = usize::try_from(decision).unwrap();
        lines.get(index - 1).unwrap_or_else(|| panic!("decision {decision} of {} lines", lines.len()))
    };
    for decision in tally.opened.lock().unwrap().iter() {
        let line = line(*decision);
        assert!(line["kind"] == "open" && line["decision"] == "allow" && line["host"] == ECHO_HOST, "{line}");
    }
    for decision in tally.denied.lock().unwrap().iter() {
        let line = line(*decision);
        assert!(line["kind"] == "deny" && line["code"] == "not_allowlisted" && line["host"] == DENIED_HOST, "{line}");
    }
    let open = |host: &str| -> Vec<&Json> {
        lines.iter().filter(|line| line["kind"] == "open" && line["host"] == host).collect()
    };
    // What the origins saw is the truth about what left.
    let tunnels = open(ECHO_HOST);
    assert!(echo.accepted() <= tunnels.len(), "{} came, {} are recorded", echo.accepted(), tunnels.len());
    let recorded: HashSet<String> = tunnels.iter().map(|line| line["seq"].to_string()).collect();
    for decision in echo.said().iter().filter(|said| said.parse::<u64>().is_ok()) {
        assert!(recorded.contains(decision), "tunnel {decision} reached the origin without a record");
    }
    let pages: HashSet<&str> = open(WEB_HOST).into_iter().filter_map(|line| line["path"].as_str()).collect();
    for path in web.said().iter().chain(tally.answered.lock().unwrap().iter()) {
        assert!(pages.contains(path.as_str()), "{path} left without a record");
    }
}

/// New work is done.
#[track_caller]
fn serves(executor: &Runtime, gateway: &Daemon, echo: &Origin) {
    executor.block_on(async {
        match connect(gateway.proxy, ECHO_HOST, echo.addr.port()).await.unwrap() {
            Said::Open(decision, mut stream) => echoes(&mut stream, &format!("{decision}\n")).await.unwrap(),
            Said::Refused(refusal) => panic!("{refusal:?}"),
        }
    });
}
