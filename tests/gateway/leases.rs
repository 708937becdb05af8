//! Leases: what they open, what they cannot, and that all of it ends with them.
//!
//! A lease opens public addresses only, so these trials run in a network namespace of their own, where a public address is
//! local, and in a mount namespace, where a small disk can be had. Each test runs itself again in them ([`inside`]).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use arw::sys::route::Routing;
use serde_json::{Value as Json, json};

use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{Client, Daemon, Setup, SmallDisk, wait_for};
use crate::{AGENT, credentials, rule};

/// A public address, here one of `lo`.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
/// Tells a test that it is in its namespace.
const MARK: &str = "ARW_TEST_LEASE_NAMESPACE";

/// Whether the test `name` is in a namespace of its own. If not it is run again in one, and is over with that.
fn inside(name: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        let mut routing = Routing::open().unwrap();
        routing.bring_loopback_up().unwrap();
        routing.add_local_prefix(IpAddr::V4(Ipv4Addr::new(93, 184, 216, 0)), 24).unwrap();
        return true;
    }
    let allowed = Command::new("unshare").args(["-rnm", "true"]).output().is_ok_and(|tried| tried.status.success());
    if !allowed {
        println!("SKIP: no network namespace can be made here (user namespaces are refused)");
        return false;
    }
    let again = Command::new("unshare")
        .arg("-rnm")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("leases::{name}"), "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// Answers every connection on [`PUBLIC`] with what comes in. Its port.
fn echo() -> u16 {
    let listener = TcpListener::bind((PUBLIC, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count) = stream.read(&mut bytes) {
                    if count == 0 || stream.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A daemon whose agent may reach nothing at `leased.test`, which has the public address.
fn daemon(rules: &str) -> Daemon {
    Daemon::start(setup(rules))
}

fn setup(rules: &str) -> Setup {
    let setup = Setup::new().host("leased.test", &[&PUBLIC.to_string()]).host("inner.test", &["10.1.2.3"]);
    setup.persona(AGENT, &format!("tls = {{ not_tls = \"allow\" }}\n{rules}"))
}

/// Lines of the audit about `lease` of this kind.
fn audited(daemon: &Daemon, action: &str, lease: &str) -> Vec<Json> {
    let (status, page) = ask(daemon, "GET", "/state/audit?limit=1000", &Json::Null);
    assert_eq!(status, 200, "{page}");
    let lines = page["entries"].as_array().unwrap().iter();
    lines.filter(|line| line["audit"]["action"] == action && line["lease"] == lease).cloned().collect()
}

/// Ids of the leases that are in force.
fn in_force(daemon: &Daemon) -> Vec<String> {
    let (_, all) = ask(daemon, "GET", "/state/leases", &Json::Null);
    all["leases"].as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
}

/// One request to the control API.
fn ask(daemon: &Daemon, method: &str, path: &str, body: &Json) -> (u16, Json) {
    let mut stream = std::net::TcpStream::connect(daemon.control).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        daemon.control,
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Json::Null))
}

fn request(port: u16, ttl: u64, more: &Json) -> Json {
    let mut body = json!({
        "capability": format!("egress:host:leased.test:{port}"), "subject": AGENT, "ttl_secs": ttl, "justification": "a trial",
    });
    more.as_object().into_iter().flatten().for_each(|(key, value)| body[key] = value.clone());
    body
}

/// Gives a lease for `leased.test:port`; its id.
fn grant(daemon: &Daemon, port: u16, ttl: u64, more: &Json) -> String {
    let (status, lease) = ask(daemon, "POST", "/leases", &request(port, ttl, more));
    assert_eq!(status, 201, "{lease}");
    lease["id"].as_str().unwrap().to_owned()
}

/// A tunnel to the origin, through which a word went; none when it is refused, with the code.
fn tunnel(daemon: &Daemon, port: u16) -> Result<(Client, u64), String> {
    let mut client = Client::connect(daemon.proxy);
    let answer = client.connect_to(&format!("leased.test:{port}"), &credentials());
    if answer.status != 200 {
        return Err(answer.code());
    }
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    Ok((client, answer.decision()))
}

/// The tunnel ends, with what was under way.
fn ends(client: &mut Client) {
    client.read_to_end();
}

#[test]
fn the_hint_of_a_denial_opens_exactly_what_was_denied_and_a_revocation_cuts_it() {
    if !inside("the_hint_of_a_denial_opens_exactly_what_was_denied_and_a_revocation_cuts_it") {
        return;
    }
    let (port, other) = (echo(), echo());
    let daemon = daemon("");
    let mut client = Client::connect(daemon.proxy);
    let denied = client.connect_to(&format!("leased.test:{port}"), &credentials());
    assert_eq!(denied.code(), "not_allowlisted");
    let hint = denied.problem()["lease_hint"].as_str().unwrap().to_owned();
    let words: Vec<&str> = hint.split(' ').skip(1).map(|word| word.trim_matches('"')).collect();
    let granted = daemon.cli(&words);
    let said = String::from_utf8_lossy(&granted.stdout).into_owned();
    assert!(granted.status.success(), "`{hint}`: {said}{}", String::from_utf8_lossy(&granted.stderr));
    let id = said.split(':').next().unwrap().to_owned();

    let (mut open, decision) = tunnel(&daemon, port).unwrap();
    let line = daemon.ledger_line(decision);
    assert_eq!((&line["via"], &line["lease"]), (&"lease".into(), &id.as_str().into()), "{line}");
    // The port that was named, and no other; nobody else.
    assert_eq!(tunnel(&daemon, other).map(drop), Err("not_allowlisted".to_owned()));
    let (_, all) = ask(&daemon, "GET", "/state/leases", &Json::Null);
    let lease = &all["leases"][0];
    assert_eq!((&lease["uses"], &lease["id"]), (&1.into(), &id.as_str().into()), "{all}");

    let revoked = daemon.cli(&["admin", "lease", "revoke", &id, "--reason", "the trial is over"]);
    assert!(String::from_utf8_lossy(&revoked.stdout).contains("1 open connections were cut"), "{revoked:?}");
    ends(&mut open);
    let close = daemon.wait_for_close(decision);
    assert_eq!(close["close_reason"], "lease_revoked", "{close}");
    assert_eq!(tunnel(&daemon, port).map(drop), Err("not_allowlisted".to_owned()));
    assert_eq!(ask(&daemon, "DELETE", &format!("/leases/{id}"), &Json::Null).1["code"], "no_such_lease");
    let (_, all) = ask(&daemon, "GET", "/state/leases?ended=5", &Json::Null);
    assert_eq!((&all["leases"], &all["ended"][0]["end"]), (&json!([]), &"revoked".into()), "{all}");

    let audit = daemon.state_dir().join("audit");
    let audited = wait_for("both entries in the audit", || {
        let shown = daemon.cli(&["--json", "ledger", "query", "--dir", audit.to_str().unwrap()]);
        let lines = String::from_utf8_lossy(&shown.stdout).into_owned();
        (lines.contains("lease_created") && lines.contains("lease_revoked")).then_some(lines)
    });
    assert!(audited.contains("the trial is over") && audited.contains(&id), "{audited}");
    let verified = daemon.cli(&["ledger", "verify", audit.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn its_end_ends_what_it_let_through_and_is_named_afterwards() {
    if !inside("its_end_ends_what_it_let_through_and_is_named_afterwards") {
        return;
    }
    let port = echo();
    let daemon = daemon("");
    let id = grant(&daemon, port, 3, &json!({}));
    let (mut open, decision) = tunnel(&daemon, port).unwrap();
    wait_for("the end of the lease", || {
        ask(&daemon, "GET", "/state/leases", &Json::Null).1["leases"].as_array().unwrap().is_empty().then_some(())
    });
    ends(&mut open);
    assert_eq!(daemon.wait_for_close(decision)["close_reason"], "expired");
    let mut client = Client::connect(daemon.proxy);
    let late = client.connect_to(&format!("leased.test:{port}"), &credentials());
    assert_eq!(late.code(), "lease_expired");
    assert!(late.problem()["lease_hint"].as_str().unwrap().contains("admin persona grant"), "{}", late.text());
    let events = daemon.cli(&["--json", "events", "--prefix", "leases."]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("leases.created") && events.contains("leases.expired") && events.contains(&id), "{events}");
}

#[test]
fn uses_and_bytes_are_bounds_and_come_back_after_a_kill() {
    if !inside("uses_and_bytes_are_bounds_and_come_back_after_a_kill") {
        return;
    }
    let (port, other) = (echo(), echo());
    let mut daemon = daemon("");
    grant(&daemon, port, 600, &json!({ "max_uses": 2 }));
    let bytes = grant(&daemon, other, 600, &json!({ "max_bytes": 1024 }));
    let (first, opened) = tunnel(&daemon, port).unwrap();
    drop(first);
    daemon.wait_for_close(opened);
    daemon.kill9();
    daemon.restart();
    tunnel(&daemon, port).map(drop).unwrap();
    assert_eq!(tunnel(&daemon, port).map(drop), Err("lease_exhausted".to_owned()));
    // Bytes end a tunnel in the middle of it.
    let (mut open, _) = tunnel(&daemon, other).unwrap();
    open.send(vec![b'x'; 4096]);
    ends(&mut open);
    assert_eq!(tunnel(&daemon, other).map(drop), Err("lease_exhausted".to_owned()));
    let (_, all) = ask(&daemon, "GET", "/state/leases", &Json::Null);
    let lease = all["leases"].as_array().unwrap().iter().find(|lease| lease["id"] == bytes.as_str()).unwrap();
    assert!(lease["bytes"].as_u64().unwrap() <= 1024 + 64, "{lease}");
}

#[test]
fn no_lease_beats_a_deny_a_special_address_a_closed_persona_or_the_latch() {
    if !inside("no_lease_beats_a_deny_a_special_address_a_closed_persona_or_the_latch") {
        return;
    }
    let port = echo();
    let daemon = daemon("[[deny]]\nid = \"never\"\nhosts = [\"leased.test\"]");
    grant(&daemon, port, 600, &json!({}));
    assert_eq!(tunnel(&daemon, port).map(drop), Err("denied_by_rule".to_owned()));
    grant(&daemon, 80, 600, &json!({ "capability": "egress:host:inner.test" }));
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get("http://inner.test/", &credentials()).code(), "special_address");

    let refused = |body: Json| {
        let (status, problem) = ask(&daemon, "POST", "/leases", &body);
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    };
    let with = |more: Json| request(port, 600, &more);
    for (body, status, code) in [
        (with(json!({ "capability": "egress:host:*" })), 422, "lease_capability"),
        (with(json!({ "capability": "egress:host:*.com" })), 422, "lease_capability"),
        (with(json!({ "capability": "egress:host:127.0.0.1" })), 422, "lease_capability"),
        (with(json!({ "capability": "egress:*" })), 422, "lease_capability"),
        (with(json!({ "capability": "persona:manage", "ttl_secs": 86_400 })), 422, "lease_time"),
        (with(json!({ "capability": "telemetry:persona:*", "ttl_secs": 90_000 })), 422, "lease_time"),
        (with(json!({ "ttl_secs": 0 })), 422, "lease_time"),
        (with(json!({ "ttl_secs": u64::MAX })), 422, "lease_time"),
        (with(json!({ "justification": " " })), 422, "reason_required"),
        (with(json!({ "justification": "two\nlines" })), 422, "reason_required"),
        (with(json!({ "max_uses": 0 })), 422, "lease_bound"),
        (with(json!({ "capability": "persona:manage", "max_uses": 1 })), 422, "lease_bound"),
        (with(json!({ "subject": "nobody" })), 404, "no_such_persona"),
        (with(json!({ "unknown": 1 })), 400, "bad_request"),
        (with(json!({ "ttl_secs": -1 })), 400, "bad_request"),
    ] {
        assert_eq!(refused(body.clone()), (status, code.to_owned()), "{body}");
    }
    let under_a_day = with(json!({ "capability": "persona:manage", "ttl_secs": 86_399 }));
    assert_eq!(ask(&daemon, "POST", "/leases", &under_a_day).0, 201);
    daemon.write_persona(AGENT, "posture = \"off\"");
    daemon.sighup();
    assert_eq!(tunnel(&daemon, port).map(drop), Err("posture_off".to_owned()));
    assert_eq!(refused(with(json!({}))), (409, "lease_useless".to_owned()));

    let latched = daemon.cli(&["automation", "shutdown", "--reason", "a trial"]);
    assert!(latched.status.success(), "{latched:?}");
    assert_eq!(refused(with(json!({}))), (409, "shutdown_latched".to_owned()));
    assert_eq!(ask(&daemon, "GET", "/state/leases", &Json::Null).1["leases"], json!([]), "all were revoked");
}

#[test]
fn granting_again_renews_and_a_kill_at_any_moment_leaves_all_or_nothing() {
    if !inside("granting_again_renews_and_a_kill_at_any_moment_leaves_all_or_nothing") {
        return;
    }
    let port = echo();
    let mut daemon = daemon("");
    let id = grant(&daemon, port, 60, &json!({}));
    let (status, renewed) = ask(&daemon, "POST", "/leases", &request(port, 600, &json!({})));
    assert_eq!((status, renewed["id"].as_str()), (200, Some(id.as_str())), "{renewed}");
    // Killed while grants are on their way, after a different time each round: what was acknowledged is there.
    let mut acknowledged = vec![id];
    for round in 0..8_u64 {
        let control = daemon.control;
        let granter = std::thread::spawn(move || {
            let mut known = Vec::new();
            for port in 1..=200_u16 {
                let body = request(port, 600, &json!({ "max_uses": 9 })).to_string();
                let Ok(mut stream) = std::net::TcpStream::connect(control) else { break };
                let asked = write!(
                    stream,
                    "POST /leases HTTP/1.1\r\nHost: {control}\r\nX-ARW-Admin: {ADMIN_TOKEN}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let mut answer = String::new();
                if asked.is_err() || stream.read_to_string(&mut answer).is_err() {
                    break;
                }
                let Some((head, body)) = answer.split_once("\r\n\r\n") else { break };
                let Ok(lease) = serde_json::from_str::<Json>(body) else { break };
                if head.starts_with("HTTP/1.1 201") {
                    known.push(lease["id"].as_str().unwrap().to_owned());
                }
            }
            known
        });
        std::thread::sleep(Duration::from_millis(7 + 13 * round));
        daemon.kill9();
        acknowledged.extend(granter.join().unwrap());
        daemon.restart();
        let (_, all) = ask(&daemon, "GET", "/state/leases", &Json::Null);
        let there: Vec<&str> =
            all["leases"].as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap()).collect();
        for id in &acknowledged {
            assert!(there.contains(&id.as_str()), "{id} was acknowledged before round {round} and is gone");
        }
        assert!(there.len() <= acknowledged.len() + 1 + usize::try_from(round).unwrap(), "{there:?} {acknowledged:?}");
    }
    assert!(tunnel(&daemon, port).is_ok());
    // Each lease that there is has exactly one entry.
    let audit = daemon.state_dir().join("audit");
    let (_, all) = ask(&daemon, "GET", "/state/leases", &Json::Null);
    for lease in all["leases"].as_array().unwrap() {
        let id = lease["id"].as_str().unwrap();
        wait_for("one entry of each lease", || {
            let shown =
                daemon.cli(&["--json", "ledger", "query", "--limit", "10000", "--dir", audit.to_str().unwrap()]);
            let lines = String::from_utf8_lossy(&shown.stdout).into_owned();
            let entries = lines.lines().filter(|line| line.contains(id) && line.contains("lease_created")).count();
            assert!(entries <= 1, "{id} has {entries} entries");
            (entries == 1).then_some(())
        });
    }
}

#[test]
fn a_persona_that_needs_a_lease_for_the_proxy_has_none_without_it() {
    if !inside("a_persona_that_needs_a_lease_for_the_proxy_has_none_without_it") {
        return;
    }
    let port = echo();
    let rules = rule("origin", "leased.test", port, "\"tcp\"", "").replace("127.0.0.1/32", &format!("{PUBLIC}/32"));
    let daemon = daemon(&format!("require_lease = true\n{rules}"));
    assert_eq!(tunnel(&daemon, port).map(drop), Err("lease_required".to_owned()));
    let id = grant(&daemon, port, 600, &json!({ "capability": "egress:proxy" }));
    let (mut open, decision) = tunnel(&daemon, port).unwrap();
    assert_eq!(ask(&daemon, "DELETE", &format!("/leases/{id}?reason=over"), &Json::Null).0, 200);
    ends(&mut open);
    assert_eq!(daemon.wait_for_close(decision)["close_reason"], "lease_revoked");
    assert_eq!(tunnel(&daemon, port).map(drop), Err("lease_required".to_owned()));
}

#[test]
fn one_that_is_taken_back_on_a_full_disk_is_gone_also_after_a_kill() {
    if !inside("one_that_is_taken_back_on_a_full_disk_is_gone_also_after_a_kill") {
        return;
    }
    let (disk, port) = (SmallDisk::mounted(), echo());
    let mut daemon = Daemon::start(setup("").in_home(disk.home()));
    let (taken, kept) = (grant(&daemon, port, 3_600, &json!({})), grant(&daemon, 80, 3_600, &json!({})));
    let (mut open, _) = tunnel(&daemon, port).unwrap();
    wait_for("the grants in the audit", || (!audited(&daemon, "lease_created", &kept).is_empty()).then_some(()));
    disk.fill();
    let (status, answer) = ask(&daemon, "DELETE", &format!("/leases/{taken}?reason=incident%204711"), &Json::Null);
    assert_eq!((status, &answer["cut"], &answer["persisted"]), (200, &1.into(), &true.into()), "{answer}");
    ends(&mut open);
    assert!(daemon.log().contains("ends of leases are not in the state yet"), "the disk was not full");
    // What could not be kept there either is refused: nothing else is given meanwhile.
    let (status, refusal) = ask(&daemon, "POST", "/leases", &request(81, 60, &json!({})));
    assert_eq!((status, &refusal["code"]), (503, &"state_unavailable".into()), "{refusal}");

    daemon.kill9();
    // Nothing starts on a full disk: there is nowhere to record it.
    disk.free();
    daemon.restart();
    assert_eq!(in_force(&daemon), [kept.as_str()]);
    assert_eq!(tunnel(&daemon, port).map(drop), Err("not_allowlisted".to_owned()));
    daemon.wait_for_log("a lease was taken back before the last end of the daemon, and stays so");
    let lines =
        wait_for("the audit", || Some(audited(&daemon, "lease_revoked", &taken)).filter(|lines| !lines.is_empty()));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["detail"], "incident 4711", "{lines:?}");
    assert!(lines[0]["audit"]["actor"].as_str().unwrap().starts_with("token:"), "{lines:?}");
    // The state has it now, and the reserve has not: nothing is told twice.
    daemon.kill9();
    daemon.restart();
    assert_eq!(in_force(&daemon), [kept.as_str()]);
    let (_, all) = ask(&daemon, "GET", "/state/leases?ended=10", &Json::Null);
    let ended = &all["ended"][0];
    assert_eq!((&ended["id"], &ended["end"]), (&taken.as_str().into(), &"revoked".into()), "{all}");
    assert_eq!(audited(&daemon, "lease_revoked", &taken).len(), 1);
    assert!(!daemon.log().contains("a lease was taken back before"), "{}", daemon.log());
}

#[test]
fn a_revocation_that_holds_until_a_restart_only_says_so() {
    if !inside("a_revocation_that_holds_until_a_restart_only_says_so") {
        return;
    }
    let (disk, port) = (SmallDisk::mounted(), echo());
    let daemon = Daemon::start(setup("").in_home(disk.home()));
    let id = grant(&daemon, port, 3_600, &json!({}));
    wait_for("the grant in the audit", || (!audited(&daemon, "lease_created", &id).is_empty()).then_some(()));
    disk.spoil("narrowed-leases");
    disk.fill();
    let revoked = daemon.cli(&["admin", "lease", "revoke", &id, "--reason", "a trial"]);
    let said = String::from_utf8_lossy(&revoked.stdout).into_owned();
    assert!(said.contains("a restart before that brings the lease back"), "{said}");
    assert_eq!(revoked.status.code(), Some(1), "{said}");
    assert_eq!(in_force(&daemon), [""; 0]);
    assert!(tunnel(&daemon, port).is_err());
}

#[test]
fn a_reserve_that_cannot_be_read_takes_every_lease_back() {
    if !inside("a_reserve_that_cannot_be_read_takes_every_lease_back") {
        return;
    }
    let port = echo();
    let mut daemon = daemon("");
    let leases = [grant(&daemon, port, 3_600, &json!({})), grant(&daemon, 80, 3_600, &json!({}))];
    daemon.kill9();
    let reserve = daemon.state_dir().join("narrowed-leases");
    let spoilt = |at: &Path| {
        let mut bytes = std::fs::read(at).unwrap();
        bytes[3] ^= 1;
        std::fs::write(at, bytes).unwrap();
    };
    spoilt(&reserve);
    daemon.restart();
    assert_eq!(in_force(&daemon), [""; 0]);
    assert_eq!(tunnel(&daemon, port).map(drop), Err("not_allowlisted".to_owned()));
    for id in &leases {
        let lines =
            wait_for("the audit", || Some(audited(&daemon, "lease_revoked", id)).filter(|lines| !lines.is_empty()));
        assert!(lines[0]["detail"].as_str().unwrap().contains("narrowed-leases` is damaged"), "{lines:?}");
        assert_eq!(lines[0]["audit"]["actor"], "daemon");
    }
    // It is whole again: what is given from here on stays.
    let fresh = grant(&daemon, port, 3_600, &json!({}));
    daemon.kill9();
    daemon.restart();
    assert_eq!(in_force(&daemon), [fresh.as_str()]);
}
