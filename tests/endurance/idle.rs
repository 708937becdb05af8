//! Thousands of silent tunnels: all stay open, each costs little, and all descriptors come back.

use std::net::SocketAddr;
use std::path::PathBuf;

use arw::sys::limits::raise_descriptor_limit;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::load::{ECHO_HOST, Origin, Said, connect, echoes, setup};
use super::support::{Daemon, wait_for};
use super::{executor, skip, turn};

/// How many.
const TUNNELS: usize = 5_000;
/// Opened at the same time.
const AT_ONCE: usize = 50;
/// Each how many-th speaks while the others are silent.
const SAMPLE: usize = 100;
/// The gateway and we each hold both ends of something, and other things.
const DESCRIPTORS: u64 = 2 * TUNNELS as u64 + 1_000;
/// More than a tunnel costs even in a build without optimisation and with the events about it, which are kept in
/// a journal of bounded size; `docs/performance.md` has the real number.
const MOST_PER_TUNNEL: usize = 16 << 10;

/// Empty pipes that two workers keep for the next tunnel that moves bytes: 64 of two ends each.
const KEPT_PIPES: usize = 2 * 64 * 2;

#[test]
fn five_thousand_silent_tunnels_stay_open_and_give_everything_back() {
    let _turn = turn();
    let limit = raise_descriptor_limit().unwrap();
    if limit.soft < DESCRIPTORS {
        skip("descriptor limit", &format!("{} of the {DESCRIPTORS} that are needed", limit.soft));
        return;
    }
    let executor = executor();
    let echo = Origin::echo(&executor);
    let setup = setup()
        .set("limits.connections", 6_000)
        .set("limits.connections_per_persona", 6_000)
        .set("limits.tunnels_per_persona", 6_000);
    let gateway = Daemon::start(setup);
    // What is made once, at the first use, is not the tunnels' cost.
    drop(executor.block_on(open(gateway.proxy, echo.addr.port(), AT_ONCE)));
    wait_for_closes(&gateway, AT_ONCE);
    let (before, memory) = (descriptors(&gateway), resident(&gateway));

    let mut tunnels = executor.block_on(open(gateway.proxy, echo.addr.port(), TUNNELS));
    // The kernel says that a connection is there before the origin has taken it.
    wait_for("the origin", || (echo.accepted() == AT_ONCE + TUNNELS).then_some(()));
    let each = resident(&gateway).saturating_sub(memory) / TUNNELS;
    println!("{each} bytes of resident memory per silent tunnel, with their part of the event journal");
    assert!(each < MOST_PER_TUNNEL, "{each} bytes per silent tunnel");
    executor.block_on(async {
        for (index, tunnel) in tunnels.iter_mut().enumerate().step_by(SAMPLE) {
            echoes(tunnel, &format!("tunnel {index}\n")).await.unwrap();
        }
    });
    if let (Some(before), Some(now)) = (&before, descriptors(&gateway)) {
        assert!(now.sockets >= before.sockets + 2 * TUNNELS, "{now:?}, {before:?} before");
        assert!(now.others <= before.others + KEPT_PIPES, "an idle tunnel holds no pipe: {now:?}, {before:?} before");
    }
    drop(tunnels);
    wait_for_closes(&gateway, AT_ONCE + TUNNELS);
    let Some(before) = before else {
        skip("descriptors of the daemon", "only root may look at a hardened process");
        return;
    };
    wait_for("all descriptors to come back", || {
        let now = descriptors(&gateway).expect("as before");
        (now.sockets == before.sockets && now.others <= before.others + KEPT_PIPES).then_some(())
    });
}

async fn open(proxy: SocketAddr, port: u16, count: usize) -> Vec<TcpStream> {
    let mut opening = JoinSet::new();
    let mut tunnels = Vec::with_capacity(count);
    for started in 0..count {
        if started >= AT_ONCE {
            tunnels.extend(opening.join_next().await.map(Result::unwrap));
        }
        opening.spawn(async move {
            match connect(proxy, ECHO_HOST, port).await.unwrap() {
                Said::Open(_, stream) => stream,
                Said::Refused(refusal) => panic!("{refusal:?}"),
            }
        });
    }
    tunnels.extend(opening.join_all().await);
    tunnels
}

/// The close record is the last thing that a tunnel does.
fn wait_for_closes(gateway: &Daemon, count: usize) {
    wait_for("the tunnels' ends", || {
        let lines = gateway.ledger_lines();
        (lines.iter().filter(|line| line["kind"] == "close").count() == count).then_some(())
    });
}

/// What the daemon holds.
#[derive(Debug)]
struct Descriptors {
    sockets: usize,
    others: usize,
}

/// `None` when we may not look.
fn descriptors(gateway: &Daemon) -> Option<Descriptors> {
    let folder = PathBuf::from(format!("/proc/{}/fd", gateway.pid()));
    let links = std::fs::read_dir(folder).ok()?.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let is_socket: Vec<bool> = links.map(|link| link.to_string_lossy().starts_with("socket:")).collect();
    let sockets = is_socket.iter().filter(|is_socket| **is_socket).count();
    Some(Descriptors { sockets, others: is_socket.len() - sockets })
}

/// Resident bytes of the daemon.
fn resident(gateway: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}
