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

/// A ground with a daemon on it, which launches nothing.
fn served() -> (Ground, Serving) {
    let ground = Ground::new();
    std::fs::remove_file(ground.path("config/runtime/runtimes.toml")).expect("there");
    let serving = Serving::over(&ground.path(""));
    (ground, serving)
}

#[test]
fn the_monitoring_playbook_runs_as_it_stands() {
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
