//! What the policy lets a caller do.

use std::path::Path;

use serde_json::{Value, json};

use super::super::asks::{Ask, asks};
use super::super::routes::{Access, table};
use super::fixture::{Answer, Fixture, TOKEN, exchange};
use crate::governance::authority::Policy;

impl Fixture {
    /// Puts these grants in force, besides the kill switch for `uid:0`.
    fn grant(&self, grants: &str) {
        let text = format!(
            r#"{{"version":1,"grants":[
            {{"id":"stop","principals":["uid:0"],"actions":["automation:shutdown"],"resources":["daemon"]}}{grants}]}}"#
        );
        let policy = Policy::parse(Path::new("policy.json"), &text).unwrap_or_else(|faults| panic!("{faults}"));
        self.state.governance.authority.replace(policy);
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-ARW-Admin: {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(self.tcp_stream().await, request.as_bytes()).await
    }
}

/// A sound body for each route that asks by itself.
fn body(path: &str) -> Value {
    match path {
        "/leases" => {
            json!({"capability": "egress:proxy", "subject": "demo", "ttl_secs": 60, "justification": "a trial"})
        }
        "/actions" => json!({"kind": "automation_shutdown", "reason": "a trial"}),
        "/egress/preview" => json!({"persona": "demo", "url": "https://api.example.com"}),
        other => panic!("{other} asks by itself: what is a sound body for it?"),
    }
}

#[tokio::test]
async fn without_a_grant_every_route_refuses_and_nothing_happens() {
    let fixture = Fixture::start();
    fixture.grant("");
    for route in table().into_iter().filter(|route| route.access == Access::Admin) {
        let path = route.path.split('/').map(|part| if part.starts_with('{') { "demo" } else { part });
        let path = path.collect::<Vec<_>>().join("/");
        let method = route.method.as_str();
        let answer = match asks(&route.method, &path) {
            Ask::Gate(..) => fixture.ask_admin(method, &path, &[]).await,
            Ask::Handler => fixture.send(method, &path, &body(&path)).await,
        };
        assert_eq!((answer.status, answer.code().as_str()), (403, "not_permitted"), "{method} {path}: {answer:?}");
    }
    assert!(!fixture.state.governance.switch.position().latched);
    assert!(fixture.state.governance.leases.in_force().await.expect("there").is_empty());
    assert_eq!(fixture.state.ledger.status().last_seq, 0, "the preview was not recorded");
    assert_eq!(fixture.ask("GET", "/healthz", &[]).await.status, 200, "what is public stays so");
}

#[tokio::test]
async fn who_may_only_look_changes_nothing() {
    let fixture = Fixture::start();
    fixture.grant(
        r#",{"id":"look","principals":["token"],"actions":["state:read","policy:read"],"resources":["daemon"]}"#,
    );
    for path in ["/state/tunnels", "/state/personas", "/metrics", "/state/egress/status", "/state/policy"] {
        assert_eq!(fixture.ask_admin("GET", path, &[]).await.status, 200, "{path}");
    }
    for (method, path) in [
        ("GET", "/state/egress"),
        ("GET", "/events"),
        ("GET", "/state/leases"),
        ("GET", "/orchestrator/runtimes/trainer/logs"),
        ("POST", "/policy/reload"),
        ("POST", "/orchestrator/runtimes/trainer/stop"),
        ("POST", "/nope"),
        ("DELETE", "/leases/some"),
    ] {
        let answer = fixture.ask_admin(method, path, &[]).await;
        assert_eq!(answer.code(), "not_permitted", "{method} {path}");
    }
    let status = fixture.ask_admin("GET", "/state/egress/status", &[]).await.json();
    assert_eq!((&status["policy"]["authority"], &status["policy"]["grants"]), (&json!("json"), &json!(2)));
    let state = fixture.ask_admin("GET", "/state/policy", &[]).await.json();
    assert_eq!(state["source"], "json");
    let reload = state["denials"].as_array().expect("a list").iter().find(|entry| entry["action"] == "policy:reload");
    assert_eq!(reload.expect("counted")["asked"], 1);
    assert!(state["recent"].as_array().expect("a list").iter().all(|denied| denied["principal"] == "token"));
    let metrics = fixture.ask_admin("GET", "/metrics", &[]).await.body;
    assert!(metrics.contains("arw_policy_denials_total{action=\"policy:reload\",simulated=\"false\"} 1"), "{metrics}");
    assert!(metrics.contains("arw_policy_open 0"));
}

#[tokio::test]
async fn a_lease_is_given_only_for_what_the_policy_names() {
    let fixture = Fixture::start();
    fixture.grant(
        r#",{"id":"lend","principals":["token"],"actions":["lease:grant"],
            "resources":["capability:egress:proxy","capability:egress:host","capability:telemetry:persona:*"]}"#,
    );
    let lend = async |capability: &str| {
        let body = json!({"capability": capability, "subject": "demo", "ttl_secs": 60, "justification": "a trial"});
        let answer = fixture.send("POST", "/leases", &body).await;
        if answer.status < 300 { "given".to_owned() } else { answer.code() }
    };
    for given in ["egress:proxy", "egress:host:API.example.com.", "telemetry:persona:demo", "telemetry:persona:*"] {
        assert_eq!(lend(given).await, "given", "{given}");
    }
    for refused in ["persona:manage", "runtime:manage"] {
        assert_eq!(lend(refused).await, "not_permitted", "{refused}");
    }
    assert_eq!(lend("egress:host:*").await, "lease_capability", "nobody could be permitted that");
    assert_eq!(fixture.state.governance.leases.in_force().await.expect("there").len(), 4);
}

#[tokio::test]
async fn a_grant_that_needs_a_lease_holds_while_it_is_in_force() {
    let fixture = Fixture::start();
    fixture.grant(
        r#",{"id":"ask","principals":["token"],"actions":["egress:preview"],"resources":["persona:demo"],
            "while_leased":"egress:proxy"},
           {"id":"lend","principals":["token"],"actions":["lease:grant"],"resources":["capability:egress:proxy"]},
           {"id":"take","principals":["token"],"actions":["lease:revoke"],"resources":["daemon"]}"#,
    );
    let preview = async || fixture.send("POST", "/egress/preview", &body("/egress/preview")).await;
    let refused = preview().await;
    assert_eq!(refused.code(), "not_permitted");
    assert!(refused.json()["hint"].as_str().expect("a hint").contains("while `egress:proxy` is leased"), "{refused:?}");
    let lease = fixture.send("POST", "/leases", &body("/leases")).await.json();
    assert_eq!(preview().await.status, 200);
    let id = lease["id"].as_str().expect("an id");
    assert_eq!(fixture.ask_admin("DELETE", &format!("/leases/{id}"), &[]).await.status, 200);
    assert_eq!(preview().await.code(), "not_permitted");
}

#[tokio::test]
async fn the_kill_switch_is_there_for_who_holds_it_and_its_release_is_another_matter() {
    let fixture = Fixture::start();
    fixture.grant(
        r#",{"id":"halt","principals":["token"],"actions":["automation:shutdown"],"resources":["daemon"]},
           {"id":"busy","principals":["token"],"actions":["runtime:manage"],"resources":["every runtime"],
            "while_leased":"runtime:manage"}"#,
    );
    // Whatever else was denied before.
    for _ in 0..200 {
        assert_eq!(fixture.ask_admin("POST", "/policy/reload", &[]).await.code(), "not_permitted");
    }
    let halted = fixture.send("POST", "/actions", &body("/actions")).await;
    assert!(halted.status == 200 || halted.status == 202, "{halted:?}");
    assert!(fixture.state.governance.switch.position().latched);
    let rearm = fixture.send("POST", "/actions", &json!({"kind": "automation_rearm", "reason": "a trial"})).await;
    assert_eq!(rearm.code(), "not_permitted");
    assert!(fixture.state.governance.switch.position().latched);
}

#[tokio::test]
async fn the_simulator_answers_both_kinds_of_question() {
    let fixture = Fixture::start();
    fixture.grant(
        r#",{"id":"try","principals":["token"],"actions":["policy:simulate"],"resources":["daemon"]},
           {"id":"run","principals":["uid:1000"],"actions":["runtime:manage"],"resources":["runtime:trainer"],
            "while_leased":"runtime:manage"}"#,
    );
    let simulate = async |body: Value| fixture.send("POST", "/policy/simulate", &body).await;
    let run = |leases: &[&str]| json!({"principal": "uid:1000", "action": "runtime:manage", "resource": "runtime:trainer", "leases": leases});
    let unleased = simulate(run(&[])).await.json();
    assert_eq!((&unleased["decision"], &unleased["code"]), (&json!("deny"), &json!("lease_needed")));
    assert_eq!((&unleased["rule"], &unleased["lease"]), (&json!("run"), &json!("runtime:manage")));
    assert_eq!(simulate(run(&["runtime:manage"])).await.json()["decision"], "allow");
    let wrong = json!({"principal": "uid:1000", "action": "runtime:manage", "resource": "daemon"});
    assert_eq!(simulate(wrong).await.json()["code"], "wrong_kind");

    let leave = |url: &str| json!({"persona": "demo", "url": url});
    assert_eq!(simulate(leave("https://api.example.com")).await.json()["decision"], "allow");
    let denied = simulate(leave("https://evil.example")).await.json();
    assert_eq!((&denied["decision"], &denied["code"]), (&json!("deny"), &json!("not_allowlisted")));
    assert_eq!(fixture.state.ledger.status().last_seq, 0, "nothing is recorded");

    for bad in [
        json!({}),
        json!({"principal": "token"}),
        json!({"principal": "token", "action": "state:read", "resource": "daemon", "persona": "demo"}),
        json!({"principal": "*", "action": "state:read", "resource": "daemon"}),
        json!({"principal": "token", "action": "state:*", "resource": "daemon"}),
        json!({"persona": "demo"}),
        json!({"persona": "demo", "url": "https://a.example", "host": "a.example"}),
        json!({"principal": "token", "action": "state:read", "resource": "daemon", "extra": 1}),
    ] {
        assert_eq!(simulate(bad.clone()).await.code(), "bad_request", "{bad}");
    }
    assert_eq!(simulate(json!({"persona": "nobody", "url": "https://a.example"})).await.code(), "no_such_persona");
    let state = fixture.state.governance.authority.status();
    assert!(state.denials.iter().all(|denials| denials.asked == 0), "{state:?}");
    assert_eq!(state.denials.iter().map(|denials| denials.simulated).sum::<u64>(), 2);
}

#[tokio::test]
async fn without_a_policy_file_an_administrator_may_do_everything_and_the_status_says_so() {
    let fixture = Fixture::start();
    let status = fixture.ask_admin("GET", "/state/egress/status", &[]).await.json();
    assert_eq!(status["policy"]["authority"], "none");
    assert_eq!(fixture.ask_admin("GET", "/state/leases", &[]).await.status, 200);
    assert!(fixture.ask_admin("GET", "/metrics", &[]).await.body.contains("arw_policy_open 1"));
}

#[tokio::test]
async fn the_sockets_file_opens_for_whom_the_policy_names_and_closes_again() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::start();
    let mode = || {
        let found = std::fs::metadata(&fixture.config.control.unix_socket).expect("the socket");
        found.permissions().mode() & 0o777
    };
    let becomes = async |wanted: u32| {
        for _ in 0..1_000 {
            if mode() == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the mode stays {:o}", mode());
    };
    assert_eq!(mode(), 0o600);
    fixture.grant(r#",{"id":"look","principals":["uid:4242"],"actions":["state:read"],"resources":["daemon"]}"#);
    becomes(0o666).await;
    fixture.grant("");
    becomes(0o600).await;
}

#[tokio::test]
async fn the_simulator_knows_the_latch_and_counts_nothing_of_it() {
    let fixture = Fixture::start();
    let simulate = async |url: &str| {
        let body = json!({"persona": "demo", "url": url});
        fixture.send("POST", "/policy/simulate", &body).await.json()
    };
    assert_eq!(simulate("https://api.example.com").await["decision"], "allow");
    let halted = fixture.send("POST", "/actions", &body("/actions")).await;
    assert!(halted.status == 200 || halted.status == 202, "{halted:?}");
    for (url, otherwise) in [("https://api.example.com", "granted"), ("https://evil.example", "not_allowlisted")] {
        let latched = simulate(url).await;
        assert_eq!((&latched["decision"], &latched["code"]), (&json!("deny"), &json!("shutdown_latched")), "{latched}");
        assert_eq!(latched["notes"], json!([format!("without the kill switch: {otherwise}")]));
        assert!(latched.get("rule").is_none() && latched.get("lease").is_none(), "{latched}");
    }
    let state = fixture.state.governance.authority.status();
    assert_eq!(state.denials.iter().map(|denials| denials.simulated).sum::<u64>(), 0, "{state:?}");
    let rearm = json!({"kind": "automation_rearm", "reason": "a trial"});
    loop {
        let answer = fixture.send("POST", "/actions", &rearm).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.code(), "shutdown_running");
        tokio::task::yield_now().await;
    }
    assert_eq!(simulate("https://api.example.com").await["decision"], "allow");
}
