//! No place for the record: nothing leaves, the client is told, and service comes back by itself.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::support::{Client, Daemon, Origin, wait_for};
use crate::{authority, credentials, tunnel, url, with};

/// Whether this process may mount in a namespace of its own; prints why not.
fn may_mount() -> bool {
    let works = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        println!("SKIP: a mount namespace with a small file system needs root");
    }
    works
}

/// Fills the small file system until nothing fits. Gives up far above its size: should the mount be missing,
/// the disk of whoever runs this must not fill.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let (mut size, mut written) = (64 << 10, 0);
    while size > 0 {
        match file.write(&vec![0; size]) {
            Ok(0) | Err(_) => size /= 2,
            Ok(count) => written += count,
        }
        assert!(written < 64 << 20, "{} is no small file system", path.display());
    }
}

#[test]
fn a_full_disk_stops_everything_and_a_freed_one_lets_it_go_on() {
    if !may_mount() {
        return;
    }
    let origin = Origin::http();
    let daemon = with(&origin, "", |setup| setup.mounting("size=16m"));
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/before"), &credentials()).status, 200);
    let filler = daemon.state_dir().join("filler");
    fill(&filler);
    let refused =
        |answer: &crate::support::Answer| (answer.status, answer.code()) == (503, "ledger_unavailable".to_owned());
    wait_for("the refusal", || refused(&client.get(&url(&origin, "/full"), &credentials())).then_some(()));
    let seen = origin.seen().len();
    // Requests, tunnels and denials alike: what cannot be recorded is not answered otherwise.
    for _ in 0..20 {
        let answer = client.get(&url(&origin, "/full"), &credentials());
        assert!(refused(&answer), "{}{}", answer.head, answer.text());
        assert!(answer.field("retry-after").is_some() && answer.problem()["retryable"] == true);
        assert!(answer.field("x-arw-decision-id").is_none(), "a decision that is not recorded");
    }
    let mut other = Client::connect(daemon.proxy);
    assert!(refused(&other.connect_to(&authority(&origin), &credentials())));
    let mut other = Client::connect(daemon.proxy);
    assert!(refused(&other.get("http://elsewhere.test/", &credentials())));
    assert_eq!(origin.seen().len(), seen, "something left unrecorded");
    std::fs::remove_file(&filler).unwrap();
    wait_for("service again", || {
        let mut client = Client::connect(daemon.proxy);
        (client.get(&url(&origin, "/after"), &credentials()).status == 200).then_some(())
    });
    whole(&daemon);
}

#[test]
fn a_request_that_could_not_be_recorded_costs_no_use_of_its_rule() {
    if !may_mount() {
        return;
    }
    let origin = Origin::http();
    let daemon = with(&origin, "max_uses = 3", |setup| setup.mounting("size=16m"));
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/before"), &credentials()).status, 200);
    let filler = daemon.state_dir().join("filler");
    fill(&filler);
    wait_for("the refusal", || {
        // A denial, which costs no use.
        (client.get("http://elsewhere.test/", &credentials()).code() == "ledger_unavailable").then_some(())
    });
    for _ in 0..10 {
        let answer = client.get(&url(&origin, "/full"), &credentials());
        assert_eq!(answer.code(), "ledger_unavailable", "{}{}", answer.head, answer.text());
    }
    std::fs::remove_file(&filler).unwrap();
    wait_for("service again", || {
        let code = client.get("http://elsewhere.test/", &credentials()).code();
        (code == "not_allowlisted").then_some(())
    });
    for status in [200, 200, 403] {
        assert_eq!(client.get(&url(&origin, "/after"), &credentials()).status, status);
    }
}

#[test]
fn an_open_tunnel_outlives_a_full_disk_and_its_end_is_counted() {
    if !may_mount() {
        return;
    }
    let origin = Origin::echo();
    let daemon = with(&origin, "", |setup| setup.mounting("size=16m"));
    let (mut client, _) = tunnel(&daemon, &origin);
    let filler = daemon.state_dir().join("filler");
    fill(&filler);
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    drop(client);
    origin.wait_for_ended(1);
    std::fs::remove_file(&filler).unwrap();
    wait_for("service again", || {
        let mut client = Client::connect(daemon.proxy);
        (client.connect_to(&authority(&origin), &credentials()).status == 200).then_some(())
    });
    whole(&daemon);
}

#[test]
fn a_file_system_that_turns_read_only_stops_everything_too() {
    if !may_mount() {
        return;
    }
    let origin = Origin::http();
    // An open file of a tmpfs keeps a remount from succeeding, so the daemon's limit of file sizes stands in:
    // every write to the ledger fails with EFBIG. The state of a new daemon needs less than that.
    let daemon = with(&origin, "", |setup| setup.wrapped(&["prlimit", "--fsize=262144:262144"]));
    let mut client = Client::connect(daemon.proxy);
    let answer = wait_for("the refusal", || {
        let answer = client.get(&url(&origin, "/"), &credentials());
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((answer.status, answer.code().as_str()), (503, "ledger_unavailable"));
    let seen = origin.seen().len();
    let opens = daemon.ledger_lines().iter().filter(|line| line["kind"] == "open").count();
    assert_eq!(seen, opens, "each request that left has its line");
}

/// The sequence numbers in the files have no hole.
fn whole(daemon: &Daemon) {
    let lines = daemon.ledger_lines();
    let numbers: Vec<u64> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}
