//! A policy that changes while it is in use.

use std::time::{Duration, Instant};

use crate::support::{Client, Daemon, Origin, Setup};
use crate::{AGENT, authority, credentials, over, rule, tunnel, url};

/// Long for a machine that is busy, short beside the tunnel's idle time.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_narrowed_rule_ends_the_open_tunnel_on_sighup() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let (mut client, seq) = tunnel(&daemon, &origin);
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    daemon.write_persona(AGENT, "");
    let started = Instant::now();
    daemon.sighup();
    let (rest, end) = client.read_to_end();
    assert!(rest.is_empty() && started.elapsed() < SOON, "{end:?} after {:?}", started.elapsed());
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "policy_narrowed");
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.connect_to(&authority(&origin), &credentials()).code(), "not_allowlisted");
}

#[test]
fn a_change_of_the_file_is_noticed() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let (mut client, seq) = tunnel(&daemon, &origin);
    let started = Instant::now();
    daemon.write_persona(AGENT, "");
    client.read_to_end();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "policy_narrowed");
}

#[test]
fn a_persona_that_is_gone_takes_its_tunnels_along() {
    let origin = Origin::echo();
    let rules = rule("origin", "origin.test", origin.port(), "\"tcp\"", "");
    let daemon =
        Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, &rules).persona("stays", &rules));
    let (mut gone, seq) = tunnel(&daemon, &origin);
    let mut stays = Client::connect(daemon.proxy);
    assert_eq!(stays.connect_to(&authority(&origin), &Daemon::credentials("stays")).status, 200);
    std::fs::remove_file(daemon.config_dir().join("personas").join(format!("{AGENT}.toml"))).unwrap();
    gone.read_to_end();
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "policy_narrowed");
    stays.send("still here");
    assert_eq!(stays.read(10), b"still here");
}

#[test]
fn a_token_that_is_revoked_ends_what_it_opened() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let (mut client, seq) = tunnel(&daemon, &origin);
    let file = daemon.config_dir().join("personas").join(format!("{AGENT}.toml"));
    let text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|line| line.starts_with("tokens")).expect("the harness writes tokens on one line");
    let other =
        "tokens = [{ name = \"new\", sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }]";
    std::fs::write(&file, text.replace(line, other)).unwrap();
    daemon.sighup();
    client.read_to_end();
    assert_eq!(daemon.wait_for_close(seq)["close_reason"], "policy_narrowed");
}

#[test]
fn a_new_deny_rule_ends_what_it_denies_and_nothing_else() {
    let (bad, good) = (Origin::echo(), Origin::echo());
    let rules = format!(
        "{}{}",
        rule("bad", "bad.test", bad.port(), "\"tcp\"", ""),
        rule("good", "good.test", good.port(), "\"tcp\"", "")
    );
    let daemon = Daemon::start(
        Setup::new().host("bad.test", &["127.0.0.1"]).host("good.test", &["127.0.0.1"]).persona(AGENT, &rules),
    );
    let mut to_bad = Client::connect(daemon.proxy);
    let decision = to_bad.connect_to(&format!("bad.test:{}", bad.port()), &credentials()).decision();
    let mut to_good = Client::connect(daemon.proxy);
    assert_eq!(to_good.connect_to(&format!("good.test:{}", good.port()), &credentials()).status, 200);
    daemon.write_persona(AGENT, &format!("{rules}[[deny]]\nid = \"no\"\nhosts = [\"bad.test\"]\n"));
    daemon.sighup();
    to_bad.read_to_end();
    assert_eq!(daemon.wait_for_close(decision)["close_reason"], "policy_narrowed");
    to_good.send("ping");
    assert_eq!(to_good.read(4), b"ping");
}

#[test]
fn a_reload_that_changes_nothing_ends_nothing() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let (mut client, _) = tunnel(&daemon, &origin);
    for _ in 0..3 {
        daemon.sighup();
        client.send("ping");
        assert_eq!(client.read(4), b"ping");
    }
}

#[test]
fn a_broken_file_keeps_the_old_policy_and_names_the_place() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    let broken = [
        ("not TOML", "id = \"agent\n"),
        ("an unknown key", "id = \"agent\"\npostur = \"off\"\n"),
        ("a wildcard for everything", "id = \"agent\"\n[[allow]]\nhosts = [\"*\"]\n"),
        ("a rule without an end", "id = \"agent\"\n[[allow]]\nhosts = []\n"),
    ];
    for (name, text) in broken {
        daemon.write_persona_file(AGENT, text);
        daemon.sighup();
        let answer = client.get(&url(&origin, "/"), &credentials());
        assert_eq!(answer.status, 200, "{name}: {}{}", answer.head, answer.text());
    }
    let log = daemon.wait_for_log("the policy was not reloaded");
    assert!(log.contains("agent.toml"), "{log}");
    assert!(daemon.log().contains("postur"), "{}", daemon.log());
    // A whole file is taken again.
    daemon.write_persona(AGENT, "");
    daemon.sighup();
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).code(), "not_allowlisted");
}

#[test]
fn one_broken_file_keeps_all_others_as_they_were() {
    let origin = Origin::http();
    let rules = rule("origin", "origin.test", origin.port(), "\"http\"", "");
    let daemon =
        Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, &rules).persona("other", ""));
    // The change to `agent` is sound, but it comes together with a broken file.
    daemon.write_persona_file("other", "id = ");
    daemon.write_persona(AGENT, "");
    daemon.sighup();
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
}

#[test]
fn a_widened_policy_holds_at_once() {
    let origin = Origin::http();
    let daemon = Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, ""));
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 403);
    daemon.write_persona(AGENT, &rule("origin", "origin.test", origin.port(), "\"http\"", ""));
    daemon.sighup();
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
}
