//! The operational guardrails.

use crate::walk::line;
use crate::{can_launch, host, waiting};

/// A catalogue whose one bundle lets text be read, once people agreed.
const BUNDLES: &str = r#"{"version": 1, "release": "1.0.0", "notes": "trial", "bundles": [{"id": "model", "version": "1.0.0", "name": "Model",
  "description": "Reads text.", "license": "Apache-2.0", "modalities": ["text"],
  "metadata": {"consent": {"required": true, "modalities": ["text"], "scopes": ["text:read"], "note": "Text is read to draft answers."}}}]}"#;

#[test]
fn consent_gates() {
    if !can_launch() {
        return;
    }
    let quote = "**Consent gates**: automation must not ingest user data unless consent bundles (`configs/runtime/bundles*.json`) list matching `metadata.consent` scopes; re-run `scripts/validate_runtime_consent.py` after edits.";
    line("guardrails-1", quote, |walk| {
        let host = host(&waiting("reader", "consent = [\"text:read\"]"), |setup| {
            setup.file(
                "runtime/bundles.json",
                BUNDLES.replace("text:read", "vision:read").replace("\"text\"", "\"vision\""),
            )
        });
        walk.cli(&host, "consent validate", "Consent metadata validation passed");
        walk.cli(&host, "runtime start reader", "reader");
        let view =
            host.wait("reader", "refused", |view| view["detail"].as_str().is_some_and(|text| text.contains("consent")));
        assert_ne!(view["state"], "ready", "{view:#}");
        walk.saw("no bundle lists the scope: the launch is refused");
        std::fs::write(host.daemon.config_dir().join("runtime/bundles.json"), BUNDLES).unwrap();
        walk.cli(&host, "consent validate", "Consent metadata validation passed");
        walk.cli(&host, "consent acknowledge model --note \"agreed with the works council\"", "acknowledged model");
        walk.cli(&host, "runtime restart reader", "reader");
        host.wait_state("reader", "ready");
        walk.saw("the scope is listed and agreed to: it runs");
    });
}

#[test]
fn lease_expirations() {
    let quote = "**Lease expirations**: keep persona/telemetry leases under 24 hours. Use the CLI `arw-cli admin persona grant` helper to renew with justification.";
    line("guardrails-2", quote, |walk| {
        let host = host("", |setup| setup);
        let grant = |capability: &str, ttl: &str| {
            format!("admin persona grant agent --capability {capability} --ttl {ttl} --justification \"ticket 12\"")
        };
        walk.refused(&host, &grant("persona:manage", "24h"), "lasts less than 24 hours");
        walk.refused(&host, &grant("telemetry:persona:*", "2d"), "lasts less than 24 hours");
        walk.cli(&host, &grant("persona:manage", "8h"), "agent may use persona:manage until");
        walk.cli(&host, &grant("persona:manage", "9h"), "agent may use persona:manage until");
        walk.get(&host, "/state/leases", "one lease, renewed", |all| {
            all["leases"].as_array().is_some_and(|all| all.len() == 1)
        });
        walk.until(&host, "events --prefix leases.", "leases.renewed");
    });
}

#[test]
fn runtime_isolation() {
    if !can_launch() {
        return;
    }
    let quote = "**Runtime isolation**: pin automations to the eco preset unless workloads justify higher tiers. `ARW_PERF_PRESET=eco` throttles concurrency, reduces cache pressure, and keeps CPU-only laptops within safe thermals.";
    line("guardrails-3", quote, |walk| {
        let host = host(&waiting("nightly", "auto_start = true"), |setup| setup.env("ARW_PERF_PRESET", "eco"));
        host.wait_state("nightly", "ready");
        walk.get(&host, "/orchestrator/runtimes/nightly", "the preset is eco", |view| view["preset"] == "eco");
        walk.cli(&host, "runtime report nightly", "eco");
        let wide = waiting("nightly", "auto_start = true\npreset = \"turbo\"");
        std::fs::write(host.daemon.config_dir().join("runtime/runtimes.toml"), wide).unwrap();
        walk.refused(&host, "reload", "justification");
    });
}

#[test]
fn egress_policy() {
    let quote = "**Egress policy**: enable the Guardrail Gateway (`ARW_EGRESS_PROXY_ENABLE=1`, `ARW_EGRESS_LEDGER_ENABLE=1`) to inspect outbound automation traffic and capture audit trails.";
    line("guardrails-4", quote, |walk| {
        let host = host("", |setup| setup.env("ARW_EGRESS_PROXY_ENABLE", "1").env("ARW_EGRESS_LEDGER_ENABLE", "1"));
        walk.cli(&host, "status", "ledger    writable");
        walk.refused(&host, "egress preview https://evil.example --persona agent", "not_allowlisted");
        walk.cli(&host, "ledger query --code not_allowlisted", "evil.example");
        walk.cli(&host, "ledger verify", "ledger");
    });
}

#[test]
fn kill_switch() {
    if !can_launch() {
        return;
    }
    let quote = "**Kill switch**: maintain a pre-approved `automation_shutdown` action (policy or runbook) that revokes leases, stops runtimes, and halts scheduled jobs.";
    line("guardrails-5", quote, |walk| {
        let manifest =
            format!("{}{}", waiting("agent", "auto_start = true"), waiting("nightly", "schedule = \"30 3 * * *\""));
        let host = host(&manifest, |setup| setup);
        host.wait_state("agent", "ready");
        let grant = "admin persona grant agent --capability runtime:manage --ttl 8h --justification \"ticket 12\"";
        walk.cli(&host, grant, "agent may use runtime:manage until");
        walk.cli(&host, "automation shutdown --reason \"incident 4711\"", "nothing leaves and nothing starts");
        walk.get(
            &host,
            "/state/automation/shutdown",
            "1 lease revoked, 1 runtime stopped, 1 schedule halted",
            |position| {
                let steps = &position["shutdown"]["steps"];
                ["leases", "runtimes", "schedules"].iter().all(|name| {
                    steps
                        .as_array()
                        .is_some_and(|all| all.iter().any(|step| step["step"] == *name && step["count"] == 1))
                })
            },
        );
        walk.refused(&host, "runtime start agent", "shutdown_latched");
        walk.cli(&host, "automation rearm --reason \"incident 4711 is closed\"", "released");
    });
}
