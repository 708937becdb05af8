//! The escalation flow.

use crate::walk::line;
use crate::{REVIEW, can_launch, host, waiting};

#[test]
fn triage() {
    let quote = "**Triage** (0-5 min): on-call reviews the alert context, correlates recent persona proposals, and checks `/state/automation/status` (or runbook dashboards) for impacted jobs.";
    line("escalation-1", quote, |walk| {
        let host = host(&waiting("nightly", ""), |setup| setup);
        walk.cli(&host, "alerts list", "alert");
        walk.cli(&host, "persona proposals agent", "");
        walk.cli(&host, "automation disable nightly --reason \"incident 4711\"", "nightly");
        walk.get(&host, "/state/automation/status", "nightly is impacted: disabled", |status| {
            let text = status.to_string();
            text.contains("nightly") && text.contains("disabled")
        });
        walk.cli(&host, "automation status", "disabled");
    });
}

#[test]
fn mitigate() {
    if !can_launch() {
        return;
    }
    let quote = "**Mitigate** (5-15 min): apply the kill switch if harm is ongoing, revoke automation leases, and pause affected recipes via `arw-cli automation disable <id>`.";
    line("escalation-2", quote, |walk| {
        let mut host = host(&waiting("nightly", "auto_start = true"), |setup| setup);
        host.wait_state("nightly", "ready");
        let grant = "admin persona grant agent --capability runtime:manage --ttl 8h --justification \"ticket 12\"";
        walk.cli(&host, grant, "agent may use runtime:manage until");
        let (_, all) = host.ask("GET", "/state/leases");
        let id = all["leases"][0]["id"].as_str().unwrap().to_owned();
        let revoked = host.daemon.cli(&["admin", "lease", "revoke", &id, "--reason", "incident 4711"]);
        assert!(revoked.status.success(), "{revoked:?}");
        walk.get(&host, "/state/leases", "`arw-cli admin lease revoke ID`: no lease is in force", |all| {
            all["leases"].as_array().is_some_and(Vec::is_empty)
        });
        walk.cli(&host, "automation disable nightly --reason \"incident 4711\"", "nightly");
        host.wait_state("nightly", "stopped");
        walk.refused(&host, "runtime start nightly", "automation_disabled");
        host.daemon.kill9();
        host.daemon.restart();
        walk.refused(&host, "runtime start nightly", "automation_disabled");
        walk.saw("disabled after `kill -9` and a restart too");
        walk.cli(&host, "automation shutdown --reason \"incident 4711\"", "nothing leaves and nothing starts");
    });
}

#[test]
fn communicate() {
    let quote = "**Communicate** (<=15 min): notify stakeholders on the agreed channel; document user impact and mitigation steps.";
    line("escalation-3", quote, |walk| {
        let host = host("", |setup| setup);
        walk.person(&host, "stakeholders were told of incident 4711");
    });
}

#[test]
fn investigate() {
    let quote = "**Investigate** (within 2 hours): gather persona history (`GET /state/persona/{id}/history`), recipe manifests, and ledger exports. File an incident report in the shared tracker.";
    line("escalation-4", quote, |walk| {
        let host = host("", |setup| setup);
        walk.cli(&host, REVIEW, "agent");
        walk.refused(&host, "egress preview https://evil.example --persona agent", "not_allowlisted");
        walk.get(&host, "/state/persona/agent/history", "the review is in it", |history| {
            history.to_string().contains("review")
        });
        walk.cli(&host, "ledger export --format csv", "not_allowlisted");
        walk.cli(&host, "incident export --persona agent --since 2h --out incident.tar", "wrote `incident.tar`");
        walk.cli(&host, "incident verify incident.tar", "verified");
        walk.person(&host, "incident 4711 is in the shared tracker");
    });
}

#[test]
fn remediate() {
    let quote = "**Remediate** (within 1 business day): patch faulty recipes or persona traits, add policy tests, and update guardrails. Schedule a follow-up review if legal/compliance obligations were affected.";
    line("escalation-5", quote, |walk| {
        let host = host("", |setup| setup);
        let cases = "[[cases]]\nname = \"what happened does not happen again\"\npersona = \"agent\"\nurl = \"https://evil.example\"\nexpect = \"deny\"\n";
        std::fs::write(host.daemon.home().join("cases.toml"), cases).unwrap();
        walk.cli(&host, "policy test cases.toml --dir config", "1 case as expected, 0 not");
        walk.person(&host, "the follow-up review has a date");
    });
}
