//! What the routes answer.

use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::config::{Fault, Faults};
use crate::control::ClientError;
use crate::control::{Command, EgressPage, Preview, PreviewRequest, ReloadReport};
use crate::domain::{DenialCode, PersonaId};
use crate::ledger::{Kind, Outcome, Proof, Record, VerifierKey};

fn persona(name: &str) -> PersonaId {
    PersonaId::parse(name).expect("valid")
}

fn question(name: &str, url: &str) -> PreviewRequest {
    PreviewRequest {
        persona: persona(name),
        url: Some(url.to_owned()),
        host: None,
        port: None,
        scheme: None,
        method: None,
    }
}

fn refusal<T>(answer: Result<T, ClientError>) -> (u16, String) {
    match answer {
        Err(ClientError::Refused(problem)) => (problem.status, problem.code.clone()),
        Err(error) => panic!("not a refusal: {error}"),
        Ok(_) => panic!("it was answered"),
    }
}

#[tokio::test]
async fn liveness_and_readiness_are_two_things() {
    let fixture = Fixture::start();
    assert_eq!(fixture.ask("GET", "/readyz", &[]).await.status, 200);
    fixture.draining.cancel();
    let ready = fixture.ask("GET", "/readyz", &[]).await;
    assert_eq!((ready.status, ready.code().as_str()), (503, "not_ready"));
    assert_eq!(ready.json()["reasons"], json!(["draining"]));
    assert_eq!(fixture.ask("GET", "/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn a_preview_decides_as_the_gate_would_and_is_recorded() {
    let fixture = Fixture::start();
    let client = fixture.unix();
    let allowed: Preview =
        client.send("/egress/preview", &question("demo", "https://API.example.com/v1")).await.expect("answered");
    assert_eq!((allowed.decision, allowed.code), (Outcome::Allow, None));
    assert_eq!(allowed.rule.as_ref().map(ToString::to_string).as_deref(), Some("api"));
    assert_eq!((allowed.host.as_str(), allowed.port), ("api.example.com", 443));

    let denied: Preview =
        client.send("/egress/preview", &question("demo", "https://evil.example")).await.expect("answered");
    assert_eq!((denied.decision, denied.code), (Outcome::Deny, Some(DenialCode::NotAllowlisted)));
    let off: Preview =
        client.send("/egress/preview", &question("off", "https://api.example.com")).await.expect("answered");
    assert_eq!(off.code, Some(DenialCode::PostureOff));
    let literal: Preview =
        client.send("/egress/preview", &question("demo", "http://169.254.169.254/latest")).await.expect("answered");
    assert_eq!(literal.decision, Outcome::Deny);

    let page: EgressPage = client.fetch("/state/egress?limit=10").await.expect("answered");
    let previews: Vec<_> = page.lines.iter().filter(|line| line.kind == Kind::Preview).collect();
    assert_eq!(previews.len(), 4);
    assert_eq!(previews[1].seq, denied.seq);
    assert_eq!(previews[1].code, Some(DenialCode::NotAllowlisted));
    assert_eq!(previews[1].host.as_deref(), Some("evil.example"));
}

#[tokio::test]
async fn while_the_kill_switch_is_latched_a_preview_says_so() {
    let fixture = Fixture::start();
    let (client, gateway) = (fixture.unix(), fixture.state.gateway.clone().expect("there"));
    gateway.latch("drill");
    for (url, otherwise) in [("https://api.example.com", "granted"), ("https://evil.example", "not_allowlisted")] {
        let answer: Preview = client.send("/egress/preview", &question("demo", url)).await.expect("answered");
        assert_eq!((answer.decision, answer.code), (Outcome::Deny, Some(DenialCode::ShutdownLatched)), "{url}");
        assert!(answer.notes.contains(&format!("without the kill switch: {otherwise}")), "{:?}", answer.notes);
        assert!(answer.rule.is_none() && !answer.notes.iter().any(|note| note.contains("drill")), "{answer:?}");
    }
    assert!(gateway.release());
    let answer: Preview =
        client.send("/egress/preview", &question("demo", "https://api.example.com")).await.expect("answered");
    assert_eq!(answer.decision, Outcome::Allow);
}

#[tokio::test]
async fn a_preview_that_is_not_clear_is_refused() {
    let fixture = Fixture::start();
    let client = fixture.unix();
    assert_eq!(
        refusal(client.send::<_, Preview>("/egress/preview", &question("nobody", "https://a.example")).await),
        (404, "no_such_persona".to_owned())
    );
    for body in [
        json!({ "persona": "demo" }),
        json!({ "persona": "demo", "url": "https://a.example", "host": "b.example" }),
        json!({ "persona": "demo", "url": "https://a.example", "port": 1 }),
        json!({ "persona": "demo", "url": "https://a.example", "extra": 1 }),
        json!({ "persona": "demo", "host": "a.example", "port": 0 }),
        json!({ "persona": "demo", "host": "a.example", "port": 65_536 }),
        json!({ "persona": "demo", "host": "a.example", "scheme": "tcp" }),
        json!({ "persona": "demo", "host": "a.example", "scheme": "http", "method": "G T" }),
        json!({ "persona": "../demo", "url": "https://a.example" }),
        json!([]),
    ] {
        let answer = client.send::<_, Preview>("/egress/preview", &body).await;
        assert_eq!(refusal(answer), (400, "bad_request".to_owned()), "{body}");
    }
}

#[tokio::test]
async fn lines_are_paged_filtered_and_bounded() {
    let fixture = Fixture::start();
    let client = fixture.unix();
    let (demo, other) = (persona("demo"), persona("other"));
    for index in 0..10 {
        let mut record = Record::new(Kind::Deny);
        record.persona = Some(if index % 2 == 0 { &demo } else { &other });
        record.host = Some(if index < 5 { "a.example.com" } else { "b.example.org" });
        record.outcome = Some(Outcome::Deny);
        record.code = Some(DenialCode::NotAllowlisted);
        let _receipt = fixture.state.ledger.append(&record).expect("written");
    }
    let page =
        async |query: &str| client.fetch::<EgressPage>(&format!("/state/egress?{query}")).await.expect("answered");
    let newest = page("limit=3").await;
    let end = newest.last_seq;
    let seqs: Vec<u64> = newest.lines.iter().map(|line| line.seq).collect();
    assert_eq!(seqs, [end - 2, end - 1, end], "newest last");

    let denials = page("decision=deny&limit=1000").await.lines;
    assert_eq!(denials.len(), 10);
    let first = denials[0].seq;
    assert_eq!(page("decision=deny&persona=demo").await.lines.len(), 5);
    assert_eq!(page("decision=deny&host=a.example.com").await.lines.len(), 5);
    assert_eq!(page("decision=deny&host=*.example.org").await.lines.len(), 5);
    assert_eq!(page("decision=allow").await.lines.len(), 0);

    let forward = page(&format!("after={}&limit=2", first - 1)).await;
    assert_eq!(forward.lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [first, first + 1], "oldest of them");
    assert_eq!(forward.last_seq, first + 1);
    let rest = page(&format!("after={}&persona=demo", forward.last_seq)).await;
    assert_eq!(rest.lines.len(), 4);
    assert_eq!(rest.last_seq, end, "searched to the end");
    assert_eq!(page("after=9007199254740991").await.lines.len(), 0);

    for bad in
        ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=1&limit=2", "persona=A", "decision=maybe", "nope=1"]
    {
        let answer = client.fetch::<EgressPage>(&format!("/state/egress?{bad}")).await;
        assert_eq!(refusal(answer), (400, "bad_query".to_owned()), "{bad}");
    }
}

#[tokio::test]
async fn a_line_is_provable_as_soon_as_it_is_recorded() {
    let fixture = Fixture::start();
    let client = fixture.unix();
    let preview: Preview =
        client.send("/egress/preview", &question("demo", "https://api.example.com")).await.expect("answered");
    let proof: Proof = client.fetch(&format!("/ledger/proof/{}", preview.seq)).await.expect("answered");
    let status: Value = client.fetch("/state/egress/status").await.expect("answered");
    let key = VerifierKey::parse(status["ledger"]["public_key"].as_str().expect("a key")).expect("a key");
    proof.check(&key).expect("the proof holds");
    assert_eq!(proof.seq, preview.seq);
    let note = client.fetch_bytes("/ledger/checkpoint").await.expect("answered");
    assert!(note.starts_with(fixture.config.ledger.origin.as_bytes()));

    for (seq, expected) in
        [("999999", (404, "no_such_entry")), ("0", (400, "bad_request")), ("x", (400, "bad_request"))]
    {
        let answer = client.fetch::<Proof>(&format!("/ledger/proof/{seq}")).await;
        assert_eq!(refusal(answer), (expected.0, expected.1.to_owned()), "{seq}");
    }
}

#[tokio::test]
async fn personas_are_shown_without_what_authenticates_them() {
    let fixture = Fixture::start();
    let personas: Value = fixture.unix().fetch("/state/personas").await.expect("answered");
    assert_eq!(personas["personas"][0]["id"], "demo");
    assert_eq!(personas["personas"][0]["posture"], "allowlist");
    assert_eq!(personas["personas"][0]["mode"], "enforce");
    assert_eq!(personas["personas"][0]["tokens"], json!([{ "name": "one" }]));
    assert_eq!(personas["personas"][1]["uids"], json!([4242]));
    let hash = crate::domain::TokenHash::of(b"a token of the demo persona").to_hex();
    assert!(!personas.to_string().contains(&hash));
}

#[tokio::test]
async fn a_reload_answers_with_its_report_or_with_every_fault() {
    let mut fixture = Fixture::start();
    let client = fixture.unix();
    let daemon = async {
        let Some(Command::Reload(ask)) = fixture.commands.recv().await else { panic!("no command") };
        assert_eq!(ask.why, None);
        let report = ReloadReport {
            generation: 2,
            digest: "d".to_owned(),
            personas: 3,
            changed: true,
            tunnels_ended: 1,
            authority: "json".to_owned(),
            grants: 4,
        };
        ask.answer.send(Ok(report)).expect("taken");
        let Some(Command::Reload(ask)) = fixture.commands.recv().await else { panic!("no command") };
        assert_eq!(ask.why.as_deref(), Some("change 12"));
        let file = std::path::Path::new("/etc/arw/personas/demo.toml");
        let faults = vec![Fault::new(file, Some(3), "posture", "`x` is no posture").hint("write `allowlist`")];
        ask.answer.send(Err(Faults(faults))).expect("taken");
    };
    let asker = async {
        let report: ReloadReport = client.send("/policy/reload", &json!({})).await.expect("answered");
        assert_eq!((report.generation, report.personas, report.tunnels_ended), (2, 3, 1));
        client.send::<_, ReloadReport>("/policy/reload", &json!({ "reason": "change 12" })).await
    };
    let ((), faulty) = tokio::join!(daemon, asker);
    let Err(ClientError::Refused(problem)) = faulty else { panic!("not refused") };
    assert_eq!((problem.status, problem.code.as_str()), (422, "policy_faults"));
    assert_eq!(problem.faults.len(), 1);
    assert_eq!(problem.faults[0].line, Some(3));
}

#[tokio::test]
async fn metrics_are_openmetrics_to_the_end() {
    let fixture = Fixture::start();
    let answer = fixture.ask_admin("GET", "/metrics", &[]).await;
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.body.ends_with("\n# EOF\n"));
    assert_eq!(answer.body.matches("# EOF").count(), 1);
    let mut families = std::collections::BTreeSet::new();
    for line in answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().expect("a name");
        assert!(families.insert(name.to_owned()), "{name} stands twice");
    }
    for name in [
        "arw_egress_decisions",
        "arw_egress_bytes",
        "arw_egress_open_tunnels",
        "arw_egress_connect_seconds",
        "arw_ledger_records",
        "arw_ledger_sync_seconds",
        "arw_ledger_queue",
        "arw_events_sse_clients",
        "arw_alerts_active",
        "arw_build",
        "process_resident_memory_bytes",
    ] {
        assert!(families.contains(name), "{name}");
    }
}

#[tokio::test]
async fn a_collector_that_knows_only_the_older_format_gets_it() {
    let fixture = Fixture::start();
    let answer = fixture.ask_admin("GET", "/metrics", &["Accept: text/plain;version=0.0.4"]).await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", answer.head);
    assert!(answer.head.contains("vary: accept"), "{}", answer.head);
    assert!(
        answer.body.contains("# TYPE arw_ledger_records_total counter\narw_ledger_records_total "),
        "{}",
        answer.body
    );
    assert!(!answer.body.contains("# EOF") && !answer.body.contains("# UNIT"), "{}", answer.body);
}

#[tokio::test]
async fn the_document_is_served_as_it_is_made() {
    let fixture = Fixture::start();
    let document = fixture.ask("GET", "/spec/openapi.json", &[]).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document, crate::control::openapi::document());
}
