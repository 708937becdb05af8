//! Alerts over restarts and reloads, and from each of their sources.

use serde_json::Value as Json;

use crate::support::{Daemon, Origin, Setup, can_launch, wait_for};
use crate::{AGENT, FILE, alerts, board, cli, lines, of_code, reach, start, wait_alert};

#[test]
fn a_restart_neither_forgets_an_active_alert_nor_raises_it_twice() {
    let origin = Origin::http();
    let mut daemon = start(&alerts(FILE), &origin, |setup| setup);
    reach(&daemon, &origin, "origin.test");
    let alert = wait_alert(&daemon, "active", "new_domain");
    assert_eq!(
        (alert["severity"].as_str(), alert["samples"][0].as_str()),
        (Some("info"), Some("origin.test")),
        "it is listed"
    );
    let told = |daemon: &Daemon| {
        let raised = lines(daemon, "alerts.jsonl");
        raised.iter().filter(|event| event["type"] == "alert.raised" && event["data"]["code"] == "new_domain").count()
    };
    wait_for("the file", || (told(&daemon) == 1).then_some(()));
    for (number, kill) in [false, true, false].into_iter().enumerate() {
        if kill {
            daemon.kill9();
        }
        daemon.restart();
        let found = wait_alert(&daemon, "active", "new_domain");
        assert_eq!(found["id"], alert["id"]);
        reach(&daemon, &origin, &format!("h{number}.origin.test"));
        assert_eq!(told(&daemon), 1, "told once");
    }
    wait_for("the new host to be a sample", || {
        let alert = wait_alert(&daemon, "active", "new_domain");
        alert["samples"].as_array().unwrap().contains(&Json::from("h2.origin.test")).then_some(())
    });
    let id = alert["id"].as_str().unwrap();
    let (code, acknowledged) = cli(&daemon, &["alerts", "ack", id, "--note", "expected"]);
    assert_eq!((code, acknowledged["cleared"]["why"].as_str()), (Some(0), Some("acknowledged")), "{acknowledged}");
    daemon.restart();
    assert_eq!(of_code(&board(&daemon), "active", "new_domain").len(), 0);
    assert_eq!(wait_alert(&daemon, "cleared", "new_domain")["acknowledged"]["note"], "expected");
    let cleared = lines(&daemon, "alerts.jsonl");
    assert!(cleared.iter().any(|event| event["type"] == "alert.cleared" && event["data"]["id"] == id));
}

#[test]
fn a_known_host_by_another_scheme_is_an_alert_of_its_own() {
    let origin = Origin::http();
    let daemon = start(&alerts(""), &origin, |setup| setup);
    reach(&daemon, &origin, "origin.test");
    let target = format!("origin.test:{}", origin.port());
    let mut client = crate::support::Client::connect(daemon.proxy);
    assert_eq!(client.connect_to(&target, &Daemon::credentials(AGENT)).status, 200);
    client.send("SSH-2.0-x\r\n");
    let alert = wait_alert(&daemon, "active", "protocol_change");
    assert_eq!(alert["samples"][0], "origin.test by tcp");
}

#[test]
fn a_lease_that_is_about_to_end_is_an_alert_until_it_has_ended() {
    let origin = Origin::http();
    let daemon = start(&alerts(FILE), &origin, |setup| setup);
    let grant = ["admin", "persona", "grant", AGENT, "--capability", "egress:host:leased.test", "--ttl", "40s"];
    let (code, lease) = cli(&daemon, &[&grant[..], &["--justification", "a trial"]].concat());
    assert_eq!(code, Some(0), "{lease}");
    assert_eq!(of_code(&board(&daemon), "active", "lease_near_expiry").len(), 0, "40 s are left");
    let raised = |kind: &str| {
        wait_for(kind, || {
            let told = lines(&daemon, "alerts.jsonl");
            told.into_iter().find(|event| event["type"] == kind && event["data"]["code"] == "lease_near_expiry")
        })
    };
    // The last tenth of its time.
    std::thread::sleep(std::time::Duration::from_secs(25));
    let event = raised("alert.raised");
    assert_eq!(
        (event["data"]["subject"].clone(), event["data"]["persona"].as_str()),
        (lease["id"].clone(), Some(AGENT))
    );
    assert_eq!(event["data"]["facts"]["capability"], "egress:host:leased.test");
    assert_eq!(raised("alert.cleared")["data"]["id"], event["data"]["id"]);
}

#[test]
fn a_reload_adds_and_takes_routes_and_a_broken_file_changes_nothing() {
    let origin = Origin::http();
    let daemon = start(&alerts(FILE), &origin, |setup| setup);
    let names = |board: &Json| -> Vec<String> {
        board["routes"].as_array().unwrap().iter().map(|route| route["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&board(&daemon)), ["file"]);
    let write = |text: &str| std::fs::write(daemon.config_dir().join("alerts.toml"), text).unwrap();
    let siem = "[[routes]]\nname = \"siem\"\nsink = \"jsonl\"\npath = \"siem.jsonl\"\nevents = [\"egress.*\"]\n";
    write(&alerts(&format!("{FILE}{siem}")));
    daemon.sighup();
    assert_eq!(names(&board(&daemon)), ["file", "siem"]);
    reach(&daemon, &origin, "origin.test");
    for kind in ["egress.new_domain", "egress.ledger.appended"] {
        let found = || lines(&daemon, "siem.jsonl").into_iter().find(|event| event["type"] == kind);
        wait_for(kind, found);
    }
    let broken = format!("{FILE}[[routes]]\nname = \"file\"\nsink = \"jsnol\"\n");
    write(&broken);
    let (code, problem) = cli(&daemon, &["reload"]);
    assert_eq!(code, Some(1), "{problem}");
    let text = problem.to_string();
    assert!(text.contains("did you mean `jsonl`?") && text.contains("already used on line 1"), "{text}");
    assert_eq!(names(&board(&daemon)), ["file", "siem"], "as before");
    write("");
    assert_eq!(cli(&daemon, &["reload"]).0, Some(0));
    assert_eq!(names(&board(&daemon)), Vec::<String>::new());

    let setup = Setup::new().persona(AGENT, "").file("alerts.toml", broken);
    let refused = setup.refused();
    assert!(refused.contains("alerts.toml:7: routes[1].sink: `jsnol` is not a sink"), "{refused}");
}

#[test]
fn a_runtime_that_is_given_up_is_an_alert_until_it_is_restored() {
    if !can_launch() {
        return;
    }
    let origin = Origin::http();
    let manifest = format!(
        "[[runtimes]]\nid = \"failing\"\npersona = \"{AGENT}\"\nauto_start = true\n[runtimes.process]\ncommand = \"/bin/bash\"\nargs = [\"-c\", \"exit 7\"]\n[runtimes.restart]\nbackoff = \"100ms\"\nmax = 2\nwindow = \"600s\"\n"
    );
    let daemon = start(&alerts(FILE), &origin, |setup| {
        let first = 800_000 + i64::from(std::process::id() % 4_000) * 16;
        setup.set("runtimes.first_uid", first).file("runtime/runtimes.toml", manifest)
    });
    let alert = wait_alert(&daemon, "active", "runtime_quarantined");
    assert_eq!((alert["severity"].as_str(), alert["subject"].as_str()), (Some("critical"), Some("failing")));
    assert_eq!(
        (alert["persona"].as_str(), alert["facts"]["reason"].as_str()),
        (Some(AGENT), Some("restarts_exhausted"))
    );
    assert!(alert["summary"].as_str().unwrap().contains("arw-cli runtime restore failing"));
    let (code, view) = cli(&daemon, &["runtime", "restore", "failing"]);
    assert_eq!(code, Some(0), "{view}");
    wait_for("the end of the first", || {
        let cleared = lines(&daemon, "alerts.jsonl");
        cleared.into_iter().find(|event| event["type"] == "alert.cleared" && event["data"]["id"] == alert["id"])
    });
}
