//! Syslog, the journal and files beside each other: none waits for another, and what one lost is counted.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{Origin, PATIENCE, wait_for};
use crate::{AGENT, FILE, alerts, board, cli, deny, lines, metric, reach, route, start, wait_raised};

/// Splits an RFC 5424 message into its header's fields and its JSON.
fn message(text: &str) -> (Vec<String>, Json) {
    let (header, rest) = text.split_once(" [origin ").unwrap_or_else(|| panic!("{text}"));
    let (_, body) = rest.split_once("] ").unwrap_or_else(|| panic!("{text}"));
    let fields: Vec<String> = header.split(' ').map(str::to_owned).collect();
    assert_eq!(fields.len(), 6, "{text}");
    (fields, serde_json::from_str(body).unwrap_or_else(|fault| panic!("{fault}: {text}")))
}

#[test]
fn every_sink_gets_the_same_event_and_a_siem_gets_whole_families() {
    let origin = Origin::http();
    let folder = tempfile::tempdir().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = UnixDatagram::bind(folder.path().join("log")).unwrap();
    let journal = UnixDatagram::bind(folder.path().join("journal")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    unix.set_read_timeout(Some(PATIENCE)).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    let routes = format!(
        "{FILE}\
         [[routes]]\nname = \"udp\"\nsink = \"syslog\"\nseverity = \"critical\"\naddress = \"udp://{}\"\nfacility = \"local3\"\n\
         [[routes]]\nname = \"unix\"\nsink = \"syslog\"\nseverity = \"critical\"\naddress = \"unix:{}\"\n\
         [[routes]]\nname = \"journal\"\nsink = \"journald\"\nseverity = \"critical\"\naddress = \"unix:{}\"\n\
         [[routes]]\nname = \"siem\"\nsink = \"syslog\"\nevents = [\"egress.*\", \"persona.*\", \"cluster.*\", \"automation.*\"]\naddress = \"tcp://{}\"\n",
        udp.local_addr().unwrap(),
        folder.path().join("log").display(),
        folder.path().join("journal").display(),
        tcp.local_addr().unwrap(),
    );
    let daemon = start(&alerts(&routes), &origin, |setup| setup);
    deny(&daemon, 3);
    let mut buffer = vec![0; 64 << 10];
    let length = udp.recv(&mut buffer).unwrap();
    let (fields, event) = message(std::str::from_utf8(&buffer[..length]).unwrap());
    assert_eq!(fields[0], format!("<{}>1", 19 * 8 + 2));
    assert_eq!(
        (fields[3].as_str(), fields[4].as_str(), fields[5].as_str()),
        ("arw-server", daemon.pid().to_string().as_str(), "alert.raised")
    );
    assert_eq!(
        (event["data"]["code"].as_str(), event["data"]["persona"].as_str()),
        (Some("policy_denials"), Some(AGENT))
    );
    let length = unix.recv(&mut buffer).unwrap();
    assert_eq!(message(std::str::from_utf8(&buffer[..length]).unwrap()).1, event);
    let length = journal.recv(&mut buffer).unwrap();
    let entry = std::str::from_utf8(&buffer[..length]).unwrap().to_owned();
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
    assert_eq!((field("PRIORITY"), field("ARW_EVENT_TYPE")), ("2", "alert.raised"));
    assert_eq!(serde_json::from_str::<Json>(field("ARW_EVENT")).unwrap(), event);
    wait_for("the file", || lines(&daemon, "alerts.jsonl").contains(&event).then_some(()));

    let (mut stream, _) = tcp.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut denied = 0;
    while denied < 3 {
        let mut length = 0;
        loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            match byte[0] {
                b' ' => break,
                digit => length = length * 10 + usize::from(digit - b'0'),
            }
        }
        stream.read_exact(&mut buffer[..length]).unwrap();
        let (fields, event) = message(std::str::from_utf8(&buffer[..length]).unwrap());
        assert!(["egress.", "persona."].iter().any(|family| fields[5].starts_with(family)), "{event}");
        if event["type"] == "egress.ledger.appended" && event["data"]["kind"] == "deny" {
            denied += 1;
        }
    }
    assert_eq!(metric(&daemon, "arw_sink_failures_total{route=\"siem\"}"), 0.0);
}

#[test]
fn dead_and_stuck_sinks_hold_up_neither_the_gateway_nor_each_other_and_lose_in_the_open() {
    let origin = Origin::http();
    // Takes a connection and never reads.
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let events = "events = [\"egress.*\", \"alert.*\"]";
    let routes = format!(
        "[[routes]]\nname = \"stuck\"\nsink = \"syslog\"\n{events}\naddress = \"tcp://{}\"\n\
         [[routes]]\nname = \"dead\"\nsink = \"syslog\"\n{events}\naddress = \"tcp://{dead}\"\n\
         [[routes]]\nname = \"gone\"\nsink = \"journald\"\n{events}\naddress = \"unix:/nonexistent/socket\"\n\
         [[routes]]\nname = \"full\"\nsink = \"jsonl\"\n{events}\npath = \"/dev/full\"\n\
         [[routes]]\nname = \"alive\"\nsink = \"jsonl\"\n{events}\npath = \"siem.jsonl\"\n",
        stuck.local_addr().unwrap(),
    );
    let daemon = start(&alerts(&routes), &origin, |setup| setup);
    // One event for the host and two for the ledger's lines, each.
    for number in 0..500 {
        reach(&daemon, &origin, &format!("h{number}.origin.test"));
    }
    wait_for("all of it", || {
        let told = lines(&daemon, "siem.jsonl");
        (told.iter().filter(|event| event["type"] == "egress.new_domain").count() >= 500).then_some(())
    });
    for name in ["dead", "gone", "full"] {
        wait_for("loss", || (route(&board(&daemon), name)["lost"] != 0).then_some(()));
        let route = route(&board(&daemon), name);
        assert!(route["failures"] != 0 && !route["fault"].is_null() && route["sent"] == 0, "{route}");
        assert!(route["waiting"].as_u64() <= Some(1_025), "{route}");
        assert!(metric(&daemon, &format!("arw_sink_lost_total{{route=\"{name}\"}}")) > 0.0);
    }
    assert_eq!(route(&board(&daemon), "alive")["lost"], 0);
    let alert = wait_raised(&daemon, "sink_losing");
    assert_ne!(alert["subject"], "alive");
    // The gateway is as quick as ever.
    reach(&daemon, &origin, "other.origin.test");
    let (code, trial) = cli(&daemon, &["alerts", "test", "dead"]);
    assert_eq!((code, trial["delivered"].as_bool()), (Some(1), Some(false)), "{trial}");
    assert!(trial["detail"].as_str().unwrap().contains("refused"), "{trial}");
    assert_eq!(cli(&daemon, &["alerts", "test", "alive"]).0, Some(0));
    drop(stuck);
}

#[test]
fn a_receiver_that_comes_back_gets_what_waited_in_order() {
    let origin = Origin::http();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let routes = format!(
        "[[routes]]\nname = \"unix\"\nsink = \"syslog\"\nevents = [\"egress.new_domain\"]\naddress = \"unix:{}\"\n",
        path.display()
    );
    let daemon = start(&alerts(&routes), &origin, |setup| setup);
    for number in 0..5 {
        reach(&daemon, &origin, &format!("h{number}.origin.test"));
    }
    wait_for("a failure", || (route(&board(&daemon), "unix")["failures"] != 0).then_some(()));
    let receiver = UnixDatagram::bind(&path).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut buffer = vec![0; 64 << 10];
    for number in 0..5 {
        let length = receiver.recv(&mut buffer).unwrap();
        let (_, event) = message(std::str::from_utf8(&buffer[..length]).unwrap());
        assert_eq!(event["data"]["host"], format!("h{number}.origin.test"));
    }
    wait_for("nothing to wait", || {
        let route = route(&board(&daemon), "unix");
        (route["waiting"] == 0 && route["fault"].is_null() && route["lost"] == 0).then_some(())
    });
}
