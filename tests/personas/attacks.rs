//! What somebody with bad intent, or two people at once, would try.

use serde_json::{Value, json};

use crate::stage::{DEMO, api, api_with, approve, armed, file, history, kinds, propose, state_of};

fn refused(daemon: &crate::support::Daemon, patch: &Value) -> (u16, String) {
    let body = json!({ "patch": patch, "justification": "ticket 12" });
    let (status, answer) = api(daemon, "POST", "/persona/demo/proposals", Some(&body));
    (status, answer["code"].as_str().unwrap_or_else(|| panic!("{patch}: {answer}")).to_owned())
}

#[test]
fn patches_that_would_break_or_open_the_persona_are_refused() {
    let daemon = armed();
    let many: Vec<Value> = (0..300).map(|_| json!({ "op": "test", "path": "/id", "value": "demo" })).collect();
    let doubling: Vec<Value> =
        (0..256).map(|at| json!({ "op": "copy", "from": "/allow", "path": format!("/allow/{}", at % 2) })).collect();
    for (patch, status, code) in [
        (json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": "*" }]), 422, "policy_faults"),
        (json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": "*.com" }]), 422, "policy_faults"),
        (json!([{ "op": "add", "path": "/allow/0/cidrs", "value": ["0.0.0.0/0"] }]), 422, "policy_faults"),
        (json!([{ "op": "replace", "path": "/id", "value": "other" }]), 422, "policy_faults"),
        (json!([{ "op": "replace", "path": "/id", "value": "../../etc/passwd" }]), 422, "policy_faults"),
        (json!([{ "op": "add", "path": "/mode", "value": "open" }]), 422, "policy_faults"),
        (json!([{ "op": "add", "path": "/uids", "value": (0..9_000).collect::<Vec<u32>>() }]), 422, "policy_faults"),
        (json!([{ "op": "move", "from": "/allow", "path": "/allow/0/inner" }]), 422, "patch_refused"),
        (json!([{ "op": "add", "path": format!("/{}", "a/".repeat(200)), "value": 1 }]), 422, "patch_refused"),
        (json!([{ "op": "replace", "path": "", "value": 7 }]), 422, "patch_refused"),
        (json!([{ "op": "test", "path": "/id", "value": "other" }]), 422, "patch_refused"),
        (json!(many), 422, "patch_refused"),
        (json!(doubling), 422, "patch_refused"),
        (json!([]), 422, "patch_refused"),
        (json!({ "op": "remove" }), 422, "patch_refused"),
    ] {
        if patch.pointer("/0/path") == Some(&json!("/uids")) {
            // A huge list is taken apart, whatever becomes of it: it opens something, and somebody has to say so.
            let body = json!({ "patch": patch, "justification": "x" });
            let (status, proposal) = api(&daemon, "POST", "/persona/demo/proposals", Some(&body));
            assert_eq!((status, &proposal["widens"][0]["code"]), (201, &json!("identity")), "{proposal}");
            continue;
        }
        assert_eq!(refused(&daemon, &patch), (status, code.to_owned()), "{patch}");
    }
    let huge = json!({ "patch": [{ "op": "add", "path": "/description", "value": "x".repeat(70_000) }], "justification": "x" });
    assert_eq!(api(&daemon, "POST", "/persona/demo/proposals", Some(&huge)).0, 413);
    assert_eq!(file(&daemon), DEMO);
}

#[test]
fn ids_lead_nowhere_else() {
    let daemon = armed();
    for id in
        ["..", "..%2f..%2fetc%2fpasswd", "demo%2f..%2fdemo", "demo.toml%00", "Demo", ".hidden", "%2e%2e", "nobody", "*"]
    {
        for (method, path, body) in [
            ("GET", format!("/state/persona/{id}"), None),
            ("GET", format!("/state/persona/{id}/history"), None),
            ("GET", format!("/state/persona/{id}/proposals"), None),
            ("POST", format!("/persona/{id}/feedback"), Some(json!({}))),
            ("POST", format!("/persona/{id}/proposals"), Some(json!({ "patch": [], "justification": "x" }))),
            (
                "POST",
                format!("/persona/{id}/review"),
                Some(json!({ "reviewer": "a", "notice": "b", "justification": "c" })),
            ),
        ] {
            let (status, answer) = api(&daemon, method, &path, body.as_ref());
            assert_eq!(status, 404, "{method} {path}: {answer}");
        }
    }
    for number in ["0", "-1", "99", "1e3", "9007199254740993", "18446744073709551616", "%31", "1%2f..", "x"] {
        let (status, answer) = api(
            &daemon,
            "POST",
            &format!("/persona/demo/proposals/{number}/approve"),
            Some(&json!({ "note": "x", "widening": true })),
        );
        assert_eq!(status, 404, "{number}: {answer}");
        let note = Some(json!({ "note": "x" }));
        let (status, answer) = api(&daemon, "POST", &format!("/persona/demo/history/{number}/note"), note.as_ref());
        // `%31` is the line 1, as a path has it.
        assert_eq!(status, if number == "%31" { 200 } else { 404 }, "{number}: {answer}");
    }
    assert_eq!(kinds(&history(&daemon)), ["file_added", "review_recorded"]);
}

#[test]
fn nobody_without_the_token_reads_or_changes_anything() {
    let daemon = armed();
    let id = propose(&daemon, &json!([{ "op": "add", "path": "/posture", "value": "public" }]));
    for fields in ["", "Authorization: Bearer wrong\r\n"] {
        for (method, path) in [
            ("GET", "/state/persona/demo".to_owned()),
            ("GET", "/state/persona/demo/history".to_owned()),
            ("GET", "/state/persona/demo/proposals".to_owned()),
            ("POST", "/persona/demo/review".to_owned()),
            ("POST", "/persona/demo/proposals".to_owned()),
            ("POST", format!("/persona/demo/proposals/{id}/approve")),
            ("POST", format!("/persona/demo/proposals/{id}/reject")),
            ("POST", "/persona/demo/history/1/note".to_owned()),
            ("POST", "/persona/demo/feedback/consent".to_owned()),
            ("POST", "/persona/demo/feedback".to_owned()),
        ] {
            let (status, answer) = api_with(&daemon, method, &path, Some(&json!({ "note": "x" })), fields);
            assert!(status == 401 || status == 429, "{method} {path}: {status} {answer}");
        }
    }
    assert_eq!(file(&daemon), DEMO);
}

#[test]
fn of_many_who_decide_at_once_one_does() {
    let daemon = armed();
    let id = propose(&daemon, &json!([{ "op": "add", "path": "/posture", "value": "public" }]));
    let reject = format!("/persona/demo/proposals/{id}/reject");
    let answers: Vec<(u16, Value)> = std::thread::scope(|scope| {
        let deciders: Vec<_> = (0..8)
            .map(|number| {
                let (daemon, reject) = (&daemon, &reject);
                scope.spawn(move || match number % 2 {
                    0 => approve(daemon, id),
                    _ => api(daemon, "POST", reject, Some(&json!({ "note": "no" }))),
                })
            })
            .collect();
        deciders.into_iter().map(|decider| decider.join().unwrap()).collect()
    });
    let done: Vec<&(u16, Value)> = answers.iter().filter(|(status, _)| *status == 200).collect();
    assert_eq!(done.len(), 1, "{answers:?}");
    assert!(
        answers.iter().all(|(status, answer)| *status == 200 || answer["code"] == "proposal_decided"),
        "{answers:?}"
    );
    let state = state_of(&daemon, id);
    assert_eq!(file(&daemon) != DEMO, state == "approved", "{state}");
    let lines = history(&daemon);
    let decisions = kinds(&lines).into_iter().filter(|kind| ["proposal_approved", "proposal_rejected"].contains(kind));
    assert_eq!(decisions.count(), 1);
}

#[test]
fn hashes_of_tokens_are_shown_nowhere() {
    let daemon = armed();
    let hash = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    let id =
        propose(&daemon, &json!([{ "op": "add", "path": "/tokens", "value": [{ "name": "ci", "sha256": hash }] }]));
    assert_eq!(approve(&daemon, id).0, 200);
    assert!(file(&daemon).contains(hash));
    for path in
        ["/state/persona/demo", "/state/persona/demo/history", "/state/persona/demo/proposals", "/state/personas"]
    {
        let (_, answer) = api(&daemon, "GET", path, None);
        assert!(!answer.to_string().contains(hash), "{path}");
    }
    assert!(!daemon.log().contains(hash));
}
