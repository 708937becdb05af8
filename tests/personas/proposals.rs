//! A proposal's way, from somebody's idea into force.

use arw::ledger::{Filter, Kind, Reader};
use serde_json::{Value, json};

use crate::stage::{
    DEMO, answer, api, approve, armed, code, decides, events, file, history, kinds, propose, state_of, text,
};
use crate::support::{Daemon, wait_for};

fn audited(daemon: &Daemon, action: &str) -> Vec<Value> {
    let reader = Reader::open(&daemon.state_dir().join("audit")).unwrap();
    let filter = Filter { kind: Some(Kind::Audit), ..Filter::default() };
    let lines = reader.latest(&filter, 1_000).unwrap();
    let lines = lines.into_iter().map(|line| json!(line));
    lines.filter(|line| line["audit"]["action"] == action).collect()
}

#[test]
fn a_proposal_is_looked_at_approved_applied_and_remembered() {
    let daemon = armed();
    let patch = daemon.home().join("patch.json");
    std::fs::write(&patch, r#"[{"op":"add","path":"/allow/0/hosts/-","value":"files.example.org"}]"#).unwrap();
    let patch = patch.to_str().unwrap();
    let proposed =
        daemon.cli(&["persona", "propose", "demo", "--patch", patch, "--justification", "files moved there"]);
    assert!(proposed.status.success(), "{}", text(&proposed));
    assert_eq!(text(&proposed), "proposal 1 for `demo`\n  the persona could do more by it: allow `api`\n");
    let open = text(&daemon.cli(&["persona", "proposals", "demo"]));
    for part in ["1  submitted", "files moved there", "\"path\":\"/allow/0/hosts/-\"", "could do more"] {
        assert!(open.contains(part), "{part}: {open}");
    }
    assert_eq!(decides(&daemon, "https://files.example.org"), "deny", "nothing counts before somebody decided");

    let approve = ["persona", "approve", "demo", "1", "--note", "checked with the team"];
    assert_eq!(code(&daemon, &approve), "widening", "what opens something is approved knowingly");
    assert_eq!((file(&daemon).as_str(), state_of(&daemon, 1).as_str()), (DEMO, "submitted"));
    let applied = daemon.cli(&[&approve[..], &["--accept-widening"]].concat());
    assert_eq!(text(&applied), "proposal 1 is in force\n");
    assert_eq!(decides(&daemon, "https://files.example.org"), "allow");
    let expected = DEMO.replace("\"api.example.com\"]", "\"api.example.com\", \"files.example.org\"]");
    assert_eq!(file(&daemon), expected, "everything else stays as people wrote it");

    let shown = answer(&daemon, &["persona", "show", "demo"]);
    assert_eq!(shown["standing"], "persona_armed", "the approval was the review of the change");
    assert_eq!(shown["review"]["proposal"], 1);
    let lines = history(&daemon);
    assert_eq!(
        kinds(&lines),
        ["file_added", "review_recorded", "proposal_submitted", "proposal_approved", "proposal_applied"]
    );
    let done = &lines[4];
    assert_eq!((&done["data"]["in_force"], &done["data"]["resumed"]), (&json!(true), &json!(false)));
    assert_eq!(done["data"]["patch"][0]["value"], "files.example.org", "the diff is in the history");
    let seq = done["seq"].to_string();
    let noted = daemon.cli(&["persona", "annotate", "demo", &seq, "--note", "after-action of incident 7"]);
    assert!(noted.status.success(), "{}", text(&noted));
    assert_eq!(history(&daemon)[4]["notes"][0]["text"], "after-action of incident 7");
    let table = text(&daemon.cli(&["persona", "history", "demo"]));
    for part in ["proposal_applied", "after-action of incident 7", "files moved there"] {
        assert!(table.contains(part), "{part}: {table}");
    }

    for (kind, count) in
        [("persona.proposal.submitted", 1), ("persona.proposal.approved", 1), ("persona.proposal.rejected", 0)]
    {
        assert_eq!(events(&daemon, kind).len(), count, "{kind}");
    }
    for action in [
        "persona_review_recorded",
        "persona_proposal_submitted",
        "persona_proposal_approved",
        "persona_proposal_applied",
        "persona_history_annotated",
    ] {
        let entry = wait_for(action, || audited(&daemon, action).pop());
        assert_eq!((&entry["persona"], entry["audit"]["actor"].is_string()), (&json!("demo"), true), "{entry}");
    }
}

#[test]
fn a_narrowing_needs_no_more_than_a_note_and_ends_what_was_open() {
    let daemon = armed();
    let id = propose(&daemon, &json!([{ "op": "add", "path": "/posture", "value": "off" }]));
    let path = format!("/persona/demo/proposals/{id}/approve");
    let (status, refused) = api(&daemon, "POST", &path, Some(&json!({ "note": "  " })));
    assert_eq!((status, refused["code"].as_str()), (422, Some("reason_required")));
    let (status, applied) = api(&daemon, "POST", &path, Some(&json!({ "note": "incident 7" })));
    assert_eq!((status, &applied["in_force"]), (200, &json!(true)), "{applied}");
    assert_eq!(decides(&daemon, "https://api.example.com"), "deny");
}

#[test]
fn a_rejected_proposal_stays_rejected() {
    let daemon = armed();
    let id = propose(&daemon, &json!([{ "op": "add", "path": "/posture", "value": "public" }]));
    let number = id.to_string();
    answer(&daemon, &["persona", "reject", "demo", &number, "--note", "no need for it"]);
    assert_eq!(approve(&daemon, id).1["code"], "proposal_decided");
    assert_eq!(code(&daemon, &["persona", "reject", "demo", &number, "--note", "again"]), "proposal_decided");
    assert_eq!((file(&daemon).as_str(), state_of(&daemon, id).as_str()), (DEMO, "rejected"));
    assert_eq!(events(&daemon, "persona.proposal.rejected").len(), 1);
    wait_for("the audit entry", || audited(&daemon, "persona_proposal_rejected").pop());
}

#[test]
fn a_proposal_for_a_file_that_has_changed_is_refused_and_so_is_one_over_an_edit_that_nobody_reviewed() {
    let daemon = armed();
    let narrower = json!([{ "op": "add", "path": "/posture", "value": "off" }]);
    let (first, second) =
        (propose(&daemon, &narrower), propose(&daemon, &json!([{ "op": "remove", "path": "/allow" }])));
    assert_eq!(approve(&daemon, first).0, 200);
    let (status, stale) = approve(&daemon, second);
    assert_eq!((status, stale["code"].as_str()), (409, Some("stale_base")), "{stale}");
    assert_eq!(state_of(&daemon, second), "submitted");
    let base = json!({ "patch": narrower, "justification": "x", "base": "00" });
    assert_eq!(api(&daemon, "POST", "/persona/demo/proposals", Some(&base)).1["code"], "stale_base");

    // An edit that a reload refuses is on the disk and not in force: nothing is built upon it.
    daemon.write_persona_file("demo", "id = \"demo\"\nposture = \"wild\"\n");
    let (status, refused) = api(
        &daemon,
        "POST",
        "/persona/demo/proposals",
        Some(&json!({
            "patch": [{ "op": "replace", "path": "/posture", "value": "public" }], "justification": "x",
        })),
    );
    assert!(status == 409 || status == 422, "{refused}");
}

#[test]
fn nothing_is_opened_while_the_kill_switch_is_latched() {
    let daemon = armed();
    let wider = propose(&daemon, &json!([{ "op": "add", "path": "/posture", "value": "public" }]));
    let narrower = propose(&daemon, &json!([{ "op": "add", "path": "/posture", "value": "off" }]));
    let shut = daemon.cli(&["automation", "shutdown", "--reason", "incident 7"]);
    assert!(shut.status.success(), "{}", text(&shut));
    assert_eq!(approve(&daemon, wider).1["code"], "shutdown_latched");
    assert_eq!(approve(&daemon, narrower).0, 200);
}
