//! The after-action checklist, and the runbooks that the handbook links to.

use std::path::Path;

use crate::walk::line;
use crate::{REVIEW, host};

#[test]
fn the_incident_is_logged() {
    let quote = "Incident logged with timestamps, impact summary, and remediation owner.";
    line("after-action-1", quote, |walk| {
        let host = host("", |setup| setup);
        walk.refused(&host, "egress preview https://evil.example --persona agent", "not_allowlisted");
        walk.cli(&host, "incident export --persona agent --since 2h --out incident.tar", "wrote `incident.tar`");
        walk.cli(&host, "incident verify incident.tar", "verified");
        walk.person(&host, "incident 4711 has an impact summary and a remediation owner");
    });
}

#[test]
fn persona_proposals_are_updated() {
    let quote = "Persona proposals updated (diff applied and history annotated).";
    line("after-action-2", quote, |walk| {
        let host = host("", |setup| setup);
        walk.cli(&host, REVIEW, "agent");
        let patch = r#"[{"op": "add", "path": "/description", "value": "watched since incident 4711"}]"#;
        std::fs::write(host.daemon.home().join("patch.json"), patch).unwrap();
        walk.cli(&host, "persona propose agent --patch patch.json --justification \"incident 4711\"", "1");
        walk.cli(&host, "persona approve agent 1 --note \"checked with the team\"", "1");
        walk.get(&host, "/state/persona/agent/history", "the diff is in the history", |history| {
            history.to_string().contains("watched since incident 4711")
        });
        walk.cli(&host, "persona annotate agent 1 --note \"after-action of incident 4711\"", "");
        walk.cli(&host, "persona history agent", "after-action of incident 4711");
    });
}

#[test]
fn recipes_are_patched_signed_and_archived() {
    let quote = "Recipes patched, signed, and redistributed; retired versions archived.";
    line("after-action-3", quote, |walk| {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let shipped = |name: &str| std::fs::read(configs.join(name)).unwrap();
        let host = host("", |setup| setup.file("runtime/bundle_signers.json", shipped("runtime/bundle_signers.json")));
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(configs.join("recipes/nightly-report"))
            .arg(host.daemon.home())
            .status();
        assert!(copied.unwrap().success());
        walk.cli(
            &host,
            "recipes keygen release --key release.key --trust config/runtime/bundle_signers.json",
            "release",
        );
        walk.cli(&host, "recipes sign nightly-report --key release.key", "signed nightly-report 1.0.0 as release");
        walk.cli(&host, "recipes install nightly-report --verify", "installed nightly-report 1.0.0");
        let manifest = host.daemon.home().join("nightly-report/recipe.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(&manifest, text.replace("version = \"1.0.0\"", "version = \"1.0.1\"")).unwrap();
        walk.refused(&host, "recipes install nightly-report --verify", "");
        walk.cli(&host, "recipes sign nightly-report --key release.key", "signed nightly-report 1.0.1 as release");
        walk.cli(&host, "recipes install nightly-report --verify", "installed nightly-report 1.0.1");
        walk.cli(
            &host,
            "recipes retire nightly-report --note \"incident 4711\"",
            "retired nightly-report 1.0.1; 2 versions kept",
        );
    });
}

#[test]
fn policy_and_leases_are_adjusted_and_validated() {
    let quote = "Policy/lease rules adjusted and validated via simulator tests.";
    line("after-action-4", quote, |walk| {
        let host = host("", |setup| setup);
        walk.refused(&host, "egress preview https://api.example.com --persona agent", "not_allowlisted");
        let grant = "admin persona grant agent --capability egress:host:api.example.com --ttl 8h --justification \"incident 4711\"";
        walk.cli(&host, grant, "agent may use egress:host:api.example.com until");
        walk.cli(&host, "egress preview https://api.example.com --persona agent", "allow");
        let cases = "[[cases]]\nname = \"denied without the lease\"\npersona = \"agent\"\nurl = \"https://api.example.com\"\nexpect = \"deny\"\n";
        std::fs::write(host.daemon.home().join("cases.toml"), cases).unwrap();
        walk.cli(&host, "policy test cases.toml --dir config", "1 case as expected, 0 not");
    });
}

#[test]
fn documentation_and_training() {
    let quote = "Documentation and operator training refreshed to cover new safeguards.";
    line("after-action-5", quote, |walk| {
        let host = host("", |setup| setup);
        walk.person(&host, "documentation and training cover what incident 4711 taught");
    });
}

#[test]
fn the_runbooks_are_where_the_handbook_links_to() {
    let quote = "Example Runbooks: Runtime Bundle Runbook, Cluster Runbook, Monitoring Playbook, Trial Readiness Checklist, Systemd Overrides.";
    line("runbooks", quote, |walk| {
        for name in ["runtime_bundle_runbook", "cluster_runbook", "monitoring", "trial_readiness", "systemd_overrides"]
        {
            let text =
                std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/ops/{name}.md")))
                    .unwrap();
            assert!(text.len() > 500, "{name}");
            walk.saw(&format!("[docs/ops/{name}.md](ops/{name}.md)"));
        }
        walk.saw("`tests/cli` runs the commands of those that have some");
    });
}
