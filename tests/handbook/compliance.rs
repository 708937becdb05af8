//! The compliance notes.

use std::process::Command;

use crate::support::Client;
use crate::walk::line;
use crate::{REVIEW, host, waiting};

#[test]
fn data_handling() {
    let quote = "**Data handling**: map every automation input/output to consent scopes; anonymize exports by default and retain raw telemetry only when policy explicitly permits.";
    line("compliance-1", quote, |walk| {
        let host = host("", |setup| setup);
        walk.refused(&host, "egress preview https://evil.example --persona agent", "not_allowlisted");
        let exported = walk.cli(&host, "ledger export --format jsonl", "not_allowlisted");
        assert!(!exported.contains("evil.example"), "{exported}");
        walk.saw("hosts and personas are pseudonyms; `--raw` is an action of the policy (`ledger:read_raw`)");
    });
}

#[test]
fn jurisdiction() {
    let quote = "**Jurisdiction**: confirm local labor and privacy regulations before monetizing autonomous agents (GDPR, CCPA, and local employment laws may treat automations as subcontracted work).";
    line("compliance-2", quote, |walk| {
        let host = host("", |setup| setup);
        walk.person(&host, "counsel confirmed labour and privacy law for these automations");
    });
}

#[test]
fn audit_trail() {
    let quote = "**Audit trail**: retain persona proposal approvals, automation ledger exports, and consent acknowledgements for at least 90 days (or local statutory minimum).";
    line("compliance-3", quote, |walk| {
        let host = host("", |setup| setup);
        let short = host.daemon.home().join("short.toml");
        std::fs::write(&short, "[ledger]\nretention_days = 30\n").unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_arw-server"))
            .args(["--check", "--config"])
            .arg(&short)
            .env("HOME", host.daemon.home())
            .output()
            .unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
        assert!(!checked.status.success() && told.contains("90"), "{told}");
        walk.saw("`ledger.retention_days = 30` is refused: at least 90, for ledger, audit and histories");
        walk.cli(&host, REVIEW, "agent");
        walk.get(&host, "/state/audit", "the review is in the audit", |page| {
            page.to_string().contains("works council") || page.to_string().contains("review")
        });
        walk.cli(&host, "consent history", "");
    });
}

#[test]
fn third_party_services() {
    let quote = "**Third-party services**: verify Terms of Service compatibility for external APIs (no prohibited automated scraping, respect rate limits, include attribution when required).";
    line("compliance-4", quote, |walk| {
        let rule = "[[allow]]\nid = \"api\"\nhosts = [\"allowed.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [80]\nschemes = [\"http\"]\nrate = \"1/h\"\nnote = \"terms of 2026: one request an hour\"\n";
        let host = host("", |setup| setup.persona("scraper", rule));
        let mut client = Client::connect(host.daemon.proxy);
        let credentials = crate::support::Daemon::credentials("scraper");
        let first = client.get("http://allowed.test/", &credentials);
        assert_ne!(first.status, 429, "{}", first.text());
        let second = Client::connect(host.daemon.proxy).get("http://allowed.test/", &credentials);
        assert_eq!((second.status, second.code().as_str()), (429, "rate_limited"), "{}", second.text());
        walk.saw("a rule with `rate = \"1/h\"` and its terms in `note`: the second request is `429 rate_limited`");
        walk.person(&host, "the terms of service of every allowed host were read");
    });
}

#[test]
fn revenue_reporting() {
    let quote = "**Revenue reporting**: coordinate with accounting/finance teams; export contribution ledger CSVs and reconcile payouts each cycle.";
    line("compliance-5", quote, |walk| {
        let host = host(&waiting("nightly", ""), |setup| setup);
        let columns = "id,currency,status,net_amount,gross_amount,issued_at,settled_at,job_id,persona_id,contract_id";
        walk.cli(&host, "automation contributions --since 30d", columns);
        walk.saw("one line for each run; what nobody reported is blank");
        walk.person(&host, "payouts of the cycle were reconciled with accounting");
    });
}
