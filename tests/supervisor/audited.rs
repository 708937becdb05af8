//! Every administrative change stands in the audit: who, what, and why.

use std::collections::BTreeSet;
use std::io::Write as _;

use arw::ledger::{Filter, Kind, Reader};
use serde_json::{Value as Json, json};

use crate::stage::{Host, PERSONA, bash};
use crate::support::{Client, Daemon, wait_for};

/// Routes that change something and are not in the audit, and why they need not be.
const NOT_AUDITED: &[(&str, &str)] = &[
    ("POST /egress/preview", "a question: it stands in the ledger as a `preview` line"),
    ("POST /policy/simulate", "a question: nothing is different after it"),
    (
        "POST /persona/{id}/feedback",
        "a persona's own word, not an administrator's: kept, and told as an event, with who said it",
    ),
];

/// The audit's entries of this action, oldest first.
pub(crate) fn entries(host: &Host, action: &str) -> Vec<Json> {
    let reader = Reader::open(&host.daemon.state_dir().join("audit")).unwrap();
    let filter = Filter { kind: Some(Kind::Audit), ..Filter::default() };
    let lines = reader.latest(&filter, 1_000).unwrap().into_iter().map(|line| json!(line));
    lines.filter(|line| line["audit"]["action"] == action).collect()
}

/// A text of `before` or `after` as what it is.
fn told(entry: &Json, key: &str) -> Json {
    let text = entry["audit"][key].as_str().unwrap_or_else(|| panic!("no `{key}` in {entry}"));
    serde_json::from_str(text).unwrap_or_else(|fault| panic!("{fault}: {text}"))
}

fn host() -> Host {
    let alerts = "[[routes]]\nname = \"file\"\nsink = \"jsonl\"\npath = \"alerts.jsonl\"\n";
    let registry = format!(
        "[[automations]]\nid = \"nightly\"\nruntime = \"job\"\npersona = \"{PERSONA}\"\n[automations.budget]\ntokens = 1000\n"
    );
    Host::start_with(&bash("job", "sleep 1000", "auto_start = true"), |setup| {
        setup.env("ARW_PERSONA_ENABLE", "1").file("alerts.toml", alerts).file("runtime/automations.toml", registry)
    })
}

/// A walk over the routes: what was asked, and what the audit had of it.
struct Walk<'h> {
    host: &'h Host,
    walked: BTreeSet<String>,
}

impl Walk<'_> {
    /// Asks for `path` as `route`; the audit has one more `action` then, by whoever asked.
    fn step(&mut self, route: &str, path: &str, body: &str, action: &str) -> Json {
        let (method, pattern) = route.split_once(' ').unwrap();
        let shape = |path: &str| path.split('?').next().unwrap().split('/').count();
        assert_eq!(shape(path), shape(pattern), "{path} is not one of {route}");
        let before = entries(self.host, action).len();
        let (status, answer) = self.host.send(method, path, body);
        assert!((200..300).contains(&status), "{route}: {status} {answer}");
        // The daemon notices changed files by itself meanwhile: that is another's entry.
        let by_token =
            |entry: &Json| entry["audit"]["actor"].as_str().is_some_and(|actor| actor.starts_with("token:127.0.0.1:"));
        wait_for(action, || entries(self.host, action).into_iter().skip(before).find(by_token));
        self.walked.insert(route.to_owned());
        answer
    }
}

#[test]
fn every_route_that_changes_something_is_in_the_audit_or_says_why_not() {
    if !crate::can_launch() {
        return;
    }
    let host = host();
    host.wait_state("job", "ready");
    let mut walk = Walk { host: &host, walked: BTreeSet::new() };

    let review = r#"{"reviewer": "works council", "notice": "It reads.", "justification": "meeting"}"#;
    let of = |rest: &str| format!("/persona/{PERSONA}/{rest}");
    walk.step("POST /persona/{id}/review", &of("review"), review, "persona_review_recorded");
    let consent = r#"{"granted": true, "justification": "all agreed"}"#;
    walk.step("POST /persona/{id}/feedback/consent", &of("feedback/consent"), consent, "persona_feedback_opt_in");
    let patch = r#"{"patch": [{"op": "add", "path": "/description", "value": "reads"}], "justification": "ticket"}"#;
    for (verb, action) in [("reject", "persona_proposal_rejected"), ("approve", "persona_proposal_approved")] {
        let proposed = walk.step("POST /persona/{id}/proposals", &of("proposals"), patch, "persona_proposal_submitted");
        let path = of(&format!("proposals/{}/{verb}", proposed["id"]));
        let route = format!("POST /persona/{{id}}/proposals/{{proposal}}/{verb}");
        walk.step(&route, &path, r#"{"note": "decided"}"#, action);
    }
    wait_for("the proposal in force", || entries(&host, "persona_proposal_applied").pop());
    let (_, history) = host.ask("GET", &format!("/state/persona/{PERSONA}/history"));
    let note = of(&format!("history/{}/note", history["lines"][0]["seq"]));
    walk.step("POST /persona/{id}/history/{seq}/note", &note, r#"{"note": "seen"}"#, "persona_history_annotated");

    let lease = json!({
        "capability": "egress:host:leased.test", "subject": PERSONA, "ttl_secs": 600, "justification": "a trial",
    });
    let lease = walk.step("POST /leases", "/leases", &lease.to_string(), "lease_created");
    let path = format!("/leases/{}?reason=over", lease["id"].as_str().unwrap());
    walk.step("DELETE /leases/{id}", &path, "", "lease_revoked");

    walk.step("POST /policy/reload", "/policy/reload", r#"{"reason": "change 12"}"#, "policy_reloaded");
    walk.step("POST /attestations", "/attestations", r#"{"subject": "told", "note": "all"}"#, "attested");
    walk.step("POST /alerts/test", "/alerts/test", r#"{"route": "file"}"#, "alert_route_tested");
    let url = format!("http://allowed.test:{}/", host.port());
    assert_eq!(Client::connect(host.daemon.proxy).get(&url, &Daemon::credentials(PERSONA)).status, 200);
    let alert = wait_for("an alert", || {
        let (_, board) = host.ask("GET", "/state/alerts");
        board["active"].as_array()?.first()?["id"].as_str().map(str::to_owned)
    });
    walk.step("POST /alerts/{id}/ack", &format!("/alerts/{alert}/ack"), r#"{"note": "seen"}"#, "alert_acknowledged");

    let exec = r#"{"command": ["/bin/true"]}"#;
    walk.step("POST /orchestrator/runtimes/{id}/exec", "/orchestrator/runtimes/job/exec", exec, "runtime_exec");
    let route = "POST /orchestrator/runtimes/{id}/{action}";
    walk.step(route, "/orchestrator/runtimes/job/stop", "", "runtime_requested");
    let report = r#"{"report_id": "r1", "tokens": 7}"#;
    walk.step("POST /automations/{id}/usage", "/automations/nightly/usage", report, "usage_reported");
    for (verb, action) in [("disable", "automation_disabled"), ("enable", "automation_enabled")] {
        let path = format!("/automations/nightly/{verb}");
        walk.step("POST /automations/{id}/{action}", &path, r#"{"reason": "incident 7"}"#, action);
    }
    for kind in ["automation_shutdown", "automation_rearm"] {
        let recorded = kind.replace("rearm", "rearmed");
        let body = json!({ "kind": kind, "reason": "incident 7" }).to_string();
        walk.step("POST /actions", "/actions", &body, &recorded);
    }

    // Nothing of that id is installed: what was wanted is in the audit all the same.
    let (status, problem) = host.send("POST", "/recipes/nightly-report/run", r#"{"reason": "ticket"}"#);
    assert_eq!((status, problem["code"].as_str()), (404, Some("no_such_recipe")));
    wait_for("the refused run", || entries(&host, "recipe_put_to_work").pop());
    walk.walked.insert("POST /recipes/{id}/run".to_owned());

    let (_, document) = host.ask("GET", "/spec/openapi.json");
    let mut changing = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|method| !["get", "head"].contains(&method.as_str())) {
            changing.insert(format!("{} {path}", method.to_ascii_uppercase()));
        }
    }
    let excused: BTreeSet<String> = NOT_AUDITED.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert!(excused.is_disjoint(&walk.walked), "what is audited needs no excuse");
    let known: BTreeSet<String> = walk.walked.union(&excused).cloned().collect();
    assert_eq!(known, changing, "a route that changes something is walked here, or stands with its reason above");
}

#[test]
fn a_reload_is_in_the_audit_whoever_asks_for_it_and_so_is_one_that_is_refused() {
    let host = Host::start("");
    let reloads = || entries(&host, "policy_reloaded");
    let next = |before: usize| wait_for("the next reload", || reloads().into_iter().nth(before));

    let output = host.daemon.cli(&["reload", "--reason", "change 12"]);
    assert!(output.status.success(), "{output:?}");
    let asked = next(0);
    let uid = nix::unistd::geteuid();
    assert!(asked["audit"]["actor"].as_str().unwrap().contains(&format!("uid={uid}")), "{asked}");
    assert_eq!(asked["detail"], "change 12");
    assert_eq!(told(&asked, "before"), told(&asked, "after"), "nothing was changed");

    // A file that the daemon notices by itself; what was in force is the `before` of what is.
    host.daemon.write_persona("other", "posture = \"off\"");
    let noticed = wait_for("the change", || reloads().into_iter().find(|entry| entry["audit"]["actor"] == "files"));
    let (before, after) = (told(&noticed, "before"), told(&noticed, "after"));
    assert_eq!((&before["personas"], &after["personas"]), (&json!(1), &json!(2)));
    assert_ne!(before["digest"], after["digest"]);
    assert_eq!(after["authority"], "none");

    // Refused, by a signal: what is wrong is told, and cut where it is long.
    let long = "x".repeat(4_000);
    std::fs::write(host.daemon.config_dir().join("alerts.toml"), format!("clear_after = \"{long}\"\n")).unwrap();
    host.daemon.sighup();
    let refused =
        wait_for("the refusal", || reloads().into_iter().find(|entry| entry["audit"]["actor"] == "signal:SIGHUP"));
    let said = told(&refused, "after");
    assert_eq!((said["refused"].as_str(), said["faults"].as_u64()), (Some("policy_faults"), Some(1)), "{said}");
    assert!(said["first"].as_str().unwrap().contains("alerts.toml"), "{said}");
    assert_eq!(told(&refused, "before"), after);

    let blank = host.send("POST", "/policy/reload", r#"{"reason": " "}"#);
    assert_eq!((blank.0, blank.1["code"].as_str()), (422, Some("reason_required")));
    let unknown = host.send("POST", "/policy/reload", r#"{"why": "x"}"#);
    assert_eq!((unknown.0, unknown.1["code"].as_str()), (400, Some("bad_request")));
}

#[test]
fn a_reload_that_narrows_does_not_wait_for_a_full_disk_and_is_in_the_audit_once_there_is_room() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: only root may mount a small disk");
        return;
    }
    let host = Host::start_with("", |setup| setup.mounting("size=24m"));
    let filler = host.daemon.state_dir().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    // Until the state itself cannot be written: its own files have some room left.
    let attest = || host.send("POST", "/attestations", r#"{"subject": "filled", "note": "up"}"#).0;
    wait_for("the state to be full", || (attest() == 503).then_some(()));
    host.daemon.write_persona(PERSONA, "posture = \"off\"");
    host.daemon.sighup();
    let (_, personas) = host.ask("GET", "/state/personas");
    assert_eq!(personas["personas"][0]["posture"], "off", "{personas}");
    assert!(entries(&host, "policy_reloaded").is_empty());
    // An open file keeps its space.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    wait_for("the audit", || entries(&host, "policy_reloaded").into_iter().find(|entry| entry["detail"].is_null()));
    let actors: BTreeSet<String> = entries(&host, "policy_reloaded")
        .iter()
        .map(|entry| entry["audit"]["actor"].as_str().unwrap().to_owned())
        .collect();
    assert!(actors.contains("signal:SIGHUP") || actors.contains("files"), "{actors:?}");
}
