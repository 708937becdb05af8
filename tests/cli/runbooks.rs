//! The runbooks of docs/ops run as they stand.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::daemon::{Serving, cli, run, stdout};
use crate::runbook::{Ground, blocks};

#[test]
fn the_runtime_bundle_runbook_runs_as_it_stands() {
    let ground = Ground::new();
    let told = ground.run("docs/ops/runtime_bundle_runbook.md");
    for part in [
        "Consent metadata validation passed",
        "bundles.json: it is not signed (unsigned)",
        "every bundle is what its signer signed",
        "imported model 1.0.0, signed by release-2026",
        "imported model 1.0.1, signed by release-2026",
        "in force again: model 1.0.0",
        "the consent of bundle `local-model` was never acknowledged",
        "it would run as shown. A preview: nothing was started, and nothing left.",
        "retired nightly-report 1.0.0; 1 version kept",
    ] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    // What the runbook says of a lost key.
    let signers = ground.path("config/runtime/bundle_signers.json");
    let text = std::fs::read_to_string(&signers).expect("there");
    let revoked = text.replacen("\"signs\"", "\"revoked\": {\"reason\": \"stolen\"}, \"signs\"", 1);
    assert_ne!(text, revoked);
    std::fs::write(&signers, revoked).expect("written");
    let mut audit = cli(&["runtime", "bundles", "audit", "--require-signed"]);
    audit.env("ARW_CONFIG_DIR", ground.path("config")).env("ARW_STATE_DIR", ground.path("state"));
    let audit = run(audit);
    let told = stdout(&audit);
    assert_eq!((audit.status.code(), told.lines().count()), (Some(1), 2), "{told}");
    assert!(told.lines().all(|line| line.ends_with("is revoked: stolen (signer_revoked)")), "{told}");
}

#[test]
fn the_commands_of_the_consent_page_run_as_they_stand() {
    let told = Ground::new().run("docs/consent.md");
    assert!(told.contains("acknowledged local-model: text:read") && told.contains("text:read is closed"), "{told}");
}

/// A ground on which a daemon launches nothing.
fn idle() -> Ground {
    let ground = Ground::new();
    for manifest in ["runtimes.toml", "automations.toml"] {
        std::fs::remove_file(ground.path("config/runtime").join(manifest)).expect("there");
    }
    ground
}

/// A ground with a daemon on it, which launches nothing.
fn served() -> (Ground, Serving) {
    let ground = idle();
    let serving = Serving::over(&ground.path(""));
    (ground, serving)
}

#[test]
fn the_monitoring_playbook_runs_as_it_stands() {
    if !has("curl") {
        return;
    }
    let (ground, _serving) = served();
    let told = ground.run("docs/ops/monitoring.md");
    for part in ["ready", "gateway   open", "# EOF", "service.start", "the ledger is sound"] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    for export in ["egress.ocsf.jsonl", "denied.jsonl", "egress.csv"] {
        assert!(ground.path("work").join(export).is_file(), "{export}");
    }
}

#[test]
fn the_automation_runbook_runs_as_it_stands() {
    let (ground, _serving) = served();
    let told = ground.run("docs/ops/automation_ops.md");
    for part in [
        "allow  https://status.example.net:443 as example",
        "shutdown_latched",
        "the ledger is sound",
        "denied_by_rule",
    ] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    for kept in ["ledger.jsonl", "persona.jsonl", "line-1.proof.json", "checkpoint", "personas/example.toml"] {
        assert!(ground.path("work/incident-4711").join(kept).is_file(), "{kept}");
    }
}

#[test]
fn the_trial_checklist_runs_as_it_stands() {
    let (ground, _serving) = served();
    let told = ground.run("docs/ops/trial_readiness.md");
    for part in ["are sound", "acknowledged local-model: text:read", "special_address", "shutdown_latched"] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
}

#[test]
fn the_cluster_runbook_runs_as_it_stands() {
    if !has("openssl") || !has("curl") {
        return;
    }
    let ground = idle();
    let text = repository_text("docs/ops/cluster_runbook.md");
    // An address of loopback that nobody else here listens on.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let text = text.replace("192.0.2.10", &format!("127.{}.{low}.77", 128 + high % 64));
    let (gateway, rest) = text.split_once("### From the worker").expect("there");
    let (worker, leaves) = rest.split_once("### It leaves").expect("there");
    ground.run_text("cluster_runbook.md, at the gateway", gateway);
    // The restart that the runbook asks for.
    let _serving = Serving::over(&ground.path(""));
    let told = ground.run_text("cluster_runbook.md, at the worker", worker);
    let codes: Vec<&str> = told.lines().filter(|line| line.len() == 3 && line.parse::<u16>().is_ok()).collect();
    assert_eq!(codes, ["403", "407"], "with the certificate, and without: {told}");
    assert!(told.contains("not_allowlisted") && told.contains("no_identity"), "{told}");
    let told = ground.run_text("cluster_runbook.md, when it leaves", leaves);
    assert!(told.lines().any(|line| line == "407"), "{told}");
}

#[test]
fn the_commands_of_the_operations_page_run_as_they_stand() {
    let ground = Ground::new();
    ground.run("docs/operations.md");
    for made in ["man-pages/arw-cli.1", "man-pages/arw-server.8", "arw-cli.1", "arw-cli.bash"] {
        assert!(ground.path("work").join(made).is_file(), "{made}");
    }
}

/// Whether the runbook's foreign program is here; says when not.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        println!("SKIP: {program} is not installed");
    }
    found
}

fn repository_text(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

#[test]
fn a_command_that_ends_otherwise_than_its_runbook_says_is_found() {
    let ground = Ground::new();
    let passes = |text: &str| catch_unwind(AssertUnwindSafe(|| ground.run_text("a trial", text))).is_ok();
    let block = |text: &str| format!("# A trial\n\n```sh\n{text}\n```\n");
    for good in [
        "true",
        "false   # exit 1",
        "# only a word\n\ntrue",
        "for x in 1 2; do\n  true\ndone",
        "cat > f <<EOF\n# exit\nEOF\ntest \"$(cat f)\" = '# exit'",
        "true | \\\n  cat",
        "x=1\ntest $x = 1",
    ] {
        assert!(passes(&block(good)), "{good}");
    }
    for bad in ["false", "true   # exit 1", "no-such-program", "true\nfalse\ntrue", "false | cat", "exit 0", "$unset"] {
        assert!(!passes(&block(bad)), "{bad}");
    }
    assert!(!passes("no commands at all"));
    let found = blocks("a\n```sh\none\n```\n```text\ntwo\n```\n```sh\nthree \\\n  four\n```\n");
    assert_eq!(found, [(3, "one\n".to_owned()), (9, "three \\\n  four\n".to_owned())]);
}
