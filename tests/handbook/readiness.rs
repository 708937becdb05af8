//! The readiness checklist.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::walk::line;
use crate::{REVIEW, can_launch, host, waiting};

#[test]
fn personas_are_armed_only_after_a_review() {
    let quote = "Enable `ARW_PERSONA_ENABLE=1` only after personas and empathy telemetry are reviewed with stakeholders and consent notices are in place.";
    line("readiness-1", quote, |walk| {
        let host = host("", |setup| setup);
        walk.get(&host, "/state/persona/agent", "enabled, and not armed: nobody reviewed it", |view| {
            view["standing"] == "persona_not_reviewed"
        });
        walk.cli(&host, REVIEW, "agent");
        walk.get(&host, "/state/persona/agent", "armed", |view| view["standing"] == "persona_armed");
        walk.person(&host, "stakeholders reviewed the personas and the empathy telemetry");
    });
}

#[test]
fn policy_grants_only_explicit_leases() {
    let quote = "Confirm policy baselines: `policy.json` (or Cedar bundle) grants only explicit leases (`persona:manage`, `telemetry:persona:*`, `runtime:manage`, `egress:proxy`).";
    line("readiness-2", quote, |walk| {
        let host = host("", |setup| setup);
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/policy.json");
        std::fs::copy(&shipped, host.daemon.home().join("policy.json")).unwrap();
        walk.cli(&host, "policy check policy.json", "policy.json");
        let text = std::fs::read_to_string(&shipped).unwrap();
        let wide = text.replacen("\"grants\": [", "\"allow_all\": true,\n  \"grants\": [", 1);
        assert_ne!(text, wide);
        std::fs::write(host.daemon.home().join("wide.json"), wide).unwrap();
        walk.refused(&host, "policy check wide.json", "allow_all");
    });
}

#[test]
fn a_workspace_with_budget_caps() {
    if !can_launch() {
        return;
    }
    let quote = "Provision a dedicated automation workspace with scoped credentials and budget caps (`ARW_AUTONOMY_MAX_RUNTIME`, spend/time budgets).";
    line("readiness-3", quote, |walk| {
        let folder = tempfile::tempdir().unwrap();
        let workspace = format!("[runtimes.process]\nworkspaces = [\"{}:/work:rw\"]", folder.path().display());
        let capped = waiting("nightly", "").replace("[runtimes.process]", &workspace);
        let host = host(&capped, |setup| setup.env("ARW_AUTONOMY_MAX_RUNTIME", "2s"));
        walk.cli(&host, "runtime start nightly", "nightly");
        let view = host.wait_end("nightly");
        assert_eq!(view["last_death"]["cause"], "budget", "{view:#}");
        walk.cli(&host, "runtime deaths nightly", "budget");
        walk.saw("`ARW_AUTONOMY_MAX_RUNTIME=2s` ended it");
        walk.person(&host, "the workspace has credentials of its own");
    });
}

#[test]
fn guardrails_are_validated_by_the_smokes() {
    let quote = "Validate guardrails: run `just smoke-safe` followed by `just runtime-smoke` with `RUNTIME_SMOKE_ALLOW_CPU=1` (and GPU if applicable) before unattended execution.";
    line("readiness-4", quote, |walk| {
        let programs = Path::new(env!("CARGO_BIN_EXE_arw-cli")).parent().unwrap().to_owned();
        let smoke = |stage: &str, allow: &str| {
            let mut command = Command::new("python3");
            command
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smoke/smoke.py"))
                .arg(stage)
                .env("SMOKE_BIN", &programs)
                .env(allow, "1");
            command
        };
        walk.host("just smoke-safe", &mut smoke("safe", "NOTHING"), " 0 failed");
        walk.host(
            "RUNTIME_SMOKE_ALLOW_CPU=1 just runtime-smoke",
            &mut smoke("runtime", "RUNTIME_SMOKE_ALLOW_CPU"),
            " 0 failed",
        );
        walk.host("just runtime-smoke-gpu", &mut smoke("gpu", "NOTHING"), " 0 failed");
    });
}

#[test]
fn recipes_are_staged_verified_and_previewed() {
    let quote = "Stage automation recipes in a non-production state dir; verify signatures with `arw-cli recipes install --verify` and dry-run using the preview execution mode.";
    line("readiness-5", quote, |walk| {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let shipped = |name: &str| std::fs::read(configs.join(name)).unwrap();
        let host = host("", |setup| {
            setup
                .file("runtime/bundles.json", shipped("runtime/bundles.json"))
                .file("runtime/bundle_signers.json", shipped("runtime/bundle_signers.json"))
                .persona_file("example", &String::from_utf8(shipped("personas/example.toml")).unwrap())
        });
        let copied =
            Command::new("cp").arg("-r").arg(configs.join("recipes/nightly-report")).arg(host.daemon.home()).status();
        assert!(copied.unwrap().success());
        walk.refused(&host, "recipes install nightly-report --verify --state-dir staging", "it is not signed");
        walk.cli(
            &host,
            "recipes keygen release --key release.key --trust config/runtime/bundle_signers.json",
            "release",
        );
        walk.cli(&host, "recipes sign nightly-report --key release.key", "signed nightly-report 1.0.0 as release");
        walk.cli(
            &host,
            "recipes install nightly-report --verify --state-dir staging",
            "installed nightly-report 1.0.0",
        );
        walk.refused(&host, "recipes run nightly-report --preview --state-dir staging", "never acknowledged");
        let agreed = "consent acknowledge local-model --note \"agreed with the works council\" --state-dir staging";
        walk.cli(&host, agreed, "acknowledged local-model");
        let preview = "recipes run nightly-report --preview --state-dir staging";
        walk.cli(&host, preview, "A preview: nothing was started, and nothing left.");
    });
}

#[test]
fn destinations_capture_the_families_of_events() {
    if !can_launch() {
        return;
    }
    let quote = "Confirm logging/telemetry destinations (SSE subscribers, syslog, SIEM) capture `persona.*`, `cluster.*`, `automation.*`, and egress ledger events.";
    line("readiness-6", quote, |walk| {
        let alerts = "[[routes]]\nname = \"siem\"\nsink = \"jsonl\"\npath = \"siem.jsonl\"\n\
                      events = [\"alert.*\", \"persona.*\", \"cluster.*\", \"automation.*\", \"egress.*\"]\n";
        let host = host(&waiting("nightly", "auto_start = true"), |setup| setup.file("alerts.toml", alerts));
        host.wait_state("nightly", "ready");
        walk.cli(&host, REVIEW, "agent");
        walk.cli(&host, "persona feedback opt-in agent --justification \"meeting of 3 March\"", "agent");
        walk.post(&host, "/persona/agent/feedback", &json!({ "mood": "calm" }), 200);
        walk.refused(&host, "egress preview https://evil.example --persona agent", "not_allowlisted");
        walk.until(&host, "events --prefix persona.", "persona.feedback");
        walk.until(&host, "events --prefix automation.", "automation.run.started");
        walk.until(&host, "events --prefix egress.", "egress.");
        let file = host.daemon.state_dir().join("siem.jsonl");
        crate::support::wait_for("the events at the destination", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            ["persona.feedback", "automation.run.started", "egress."]
                .iter()
                .all(|kind| text.contains(kind))
                .then_some(())
        });
        walk.saw("the route `siem` of alerts.toml has all three; `cluster.*` is carried too, and one daemon alone makes none");
    });
}

#[test]
fn the_rotation_has_escalation_channels() {
    let quote = "Ensure operators and on-call rotation have access to escalation channels (chat, paging, or phone tree) with documented response targets.";
    line("readiness-7", quote, |walk| {
        let alerts = "[respond]\ncritical = \"5m\"\nwarning = \"15m\"\n\n[[routes]]\nname = \"pager\"\nsink = \"jsonl\"\npath = \"pager.jsonl\"\n";
        let host = host("", |setup| setup.file("alerts.toml", alerts));
        walk.cli(&host, "alerts test pager", "pager");
        walk.person(&host, "everybody on call was paged in a trial and answered");
    });
}
