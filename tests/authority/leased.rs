//! What a grant permits only while something is leased: from the lease on, until its end, and over every end of the daemon.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{Client, Daemon, Setup, wait_for};
use crate::{grant, policy, under};

/// Something of the one persona that only a lease permits: the lease, and what is asked.
const LEASED: [(&str, &str, &str, &str); 3] = [
    ("runtime:manage", "POST", "/orchestrator/runtimes/job/stop", ""),
    ("persona:manage", "POST", "/persona/demo/history/1/note", r#"{"note": "seen"}"#),
    ("telemetry:persona:*", "POST", "/persona/demo/feedback", r#"{"mood": "calm"}"#),
];

fn grants() -> Vec<String> {
    let leased = |id: &str, action: &str, resource: &str, lease: &str| {
        format!(
            r#"{{"id":"{id}","principals":["token"],"actions":["{action}"],"resources":["{resource}"],"while_leased":"{lease}"}}"#
        )
    };
    let lend = r#"{"id":"lend","principals":["token"],"actions":["lease:grant"],
        "resources":["capability:runtime:manage","capability:persona:manage","capability:telemetry:persona:*"]}"#;
    vec![
        grant("look", "token", r#""lease:read","lease:revoke","state:read""#),
        lend.to_owned(),
        leased("runtimes", "runtime:manage", "every runtime", "runtime:manage"),
        leased("personas", "persona:manage", "every persona", "persona:manage"),
        leased("telemetry", "telemetry:write", "every persona", "telemetry:persona:*"),
    ]
}

fn daemon() -> Daemon {
    let manifest = "[[runtimes]]\nid = \"job\"\npersona = \"demo\"\n[runtimes.process]\ncommand = \"/bin/true\"\n";
    let setup: Setup = under(&policy(&grants())).persona("demo", "").persona("other", "");
    Daemon::start(setup.file("runtime/runtimes.toml", manifest))
}

fn send(daemon: &Daemon, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut client = Client::connect(daemon.control);
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-ARW-Admin: {ADMIN_TOKEN}\r\nConnection: close\r\n{kind}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let answer = client.answer_to(method);
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

/// Whether the policy lets it pass; what the route makes of it then is its own matter.
fn may(daemon: &Daemon, (lease, method, path, body): (&str, &str, &str, &str)) -> bool {
    let (status, answer) = send(daemon, method, path, body);
    if status == 403 {
        assert_eq!(answer["code"], "not_permitted", "{answer}");
        assert!(answer["hint"].as_str().is_some_and(|hint| hint.contains(lease)), "{answer}");
    }
    status != 403
}

fn lend(daemon: &Daemon, capability: &str, subject: &str, ttl: u64) -> Value {
    let wanted = json!({ "capability": capability, "subject": subject, "ttl_secs": ttl, "justification": "ticket 12" });
    let (status, lease) = send(daemon, "POST", "/leases", &wanted.to_string());
    assert!(matches!(status, 200 | 201), "{lease}");
    lease
}

fn over(daemon: &mut Daemon) {
    daemon.kill9();
    daemon.restart();
}

#[test]
fn a_lease_permits_what_it_names_to_its_own_persona_until_it_is_taken_back_also_over_a_kill() {
    let mut daemon = daemon();
    for what in LEASED {
        let capability = what.0;
        assert!(!may(&daemon, what), "{capability}: nothing is leased");
        lend(&daemon, capability, "other", 600);
        assert!(!may(&daemon, what), "{capability}: another's lease");
        let lease = lend(&daemon, capability, "demo", 600);
        assert!(may(&daemon, what), "{capability}");
        for other in LEASED.iter().filter(|other| other.0 != capability) {
            assert!(!may(&daemon, *other), "{capability} is not {}", other.0);
        }
        over(&mut daemon);
        assert!(may(&daemon, what), "{capability}: what was acknowledged outlives a kill");
        let path = format!("/leases/{}?reason=over", lease["id"].as_str().unwrap());
        assert_eq!(send(&daemon, "DELETE", &path, "").0, 200);
        assert!(!may(&daemon, what), "{capability}: taken back");
        over(&mut daemon);
        assert!(!may(&daemon, what), "{capability}: and it stays so");
    }
}

#[test]
fn a_lease_that_ends_takes_within_a_second_what_it_permitted_and_no_restart_brings_it_back() {
    let mut daemon = daemon();
    for (number, what) in LEASED.into_iter().enumerate() {
        let capability = what.0;
        lend(&daemon, capability, "demo", 4);
        // From here on, as the daemon counts, with the time of the answer on top.
        let end = Instant::now() + Duration::from_secs(4);
        if number == 0 {
            // One that ends while no daemon runs.
            daemon.kill9();
            std::thread::sleep(end.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
            daemon.restart();
            assert!(!may(&daemon, what), "{capability}");
            continue;
        }
        wait_for("its end", || {
            let late = Instant::now() > end + Duration::from_secs(1);
            let passed = may(&daemon, what);
            assert!(!(late && passed), "{capability} still counts a second after its end");
            (!passed).then_some(())
        });
        over(&mut daemon);
        assert!(!may(&daemon, what), "{capability}");
    }
}

#[test]
fn what_a_persona_reports_is_read_while_its_telemetry_is_leased() {
    let grants = [
        grant("look", "token", r#""lease:read","lease:revoke""#),
        r#"{"id":"lend","principals":["token"],"actions":["lease:grant"],"resources":["capability:telemetry:persona:*"]}"#
            .to_owned(),
        r#"{"id":"personas","principals":["token"],"actions":["persona:read","persona:manage","telemetry:write"],"resources":["every persona"]}"#
            .to_owned(),
        r#"{"id":"telemetry","principals":["token"],"actions":["telemetry:read"],"resources":["every persona"],"while_leased":"telemetry:persona:*"}"#
            .to_owned(),
    ];
    let mut daemon = Daemon::start(under(&policy(&grants)).persona("demo", "").env("ARW_PERSONA_ENABLE", "1"));
    let review = r#"{"reviewer": "works council", "notice": "It says how it is.", "justification": "meeting"}"#;
    assert_eq!(send(&daemon, "POST", "/persona/demo/review", review).0, 200);
    let consent = r#"{"granted": true, "justification": "all agreed"}"#;
    assert_eq!(send(&daemon, "POST", "/persona/demo/feedback/consent", consent).0, 200);
    assert_eq!(send(&daemon, "POST", "/persona/demo/feedback", r#"{"mood": "calm"}"#).0, 200);
    let read = |daemon: &Daemon| send(daemon, "GET", "/state/persona/demo", "").1["feedback"].clone();
    let withheld = |daemon: &Daemon| {
        let feedback = read(daemon);
        assert_eq!(feedback["count"], 1, "that it was heard is no secret: {feedback}");
        feedback["last"].is_null() && feedback["withheld"] == true
    };
    assert!(withheld(&daemon));
    let lease = lend(&daemon, "telemetry:persona:*", "demo", 600);
    for _ in 0..2 {
        let feedback = read(&daemon);
        assert_eq!((&feedback["last"]["mood"], &feedback["withheld"]), (&json!("calm"), &Value::Null), "{feedback}");
        over(&mut daemon);
    }
    let path = format!("/leases/{}?reason=over", lease["id"].as_str().unwrap());
    assert_eq!(send(&daemon, "DELETE", &path, "").0, 200);
    assert!(withheld(&daemon));
    over(&mut daemon);
    assert!(withheld(&daemon));
}
