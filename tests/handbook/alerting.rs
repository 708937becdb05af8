//! The alerting defaults.

use serde_json::json;

use crate::stage::bash;
use crate::walk::line;
use crate::{can_launch, host, waiting};

#[test]
fn heartbeat_gaps() {
    let quote = "**Heartbeat gaps**: alert if automation personas stop producing `persona.feedback` or `automation.run.*` events for more than 2x the expected cadence.";
    line("alerting-1", quote, |walk| {
        let host = host("", |setup| setup.persona("quiet", "heartbeat = \"1s\""));
        walk.until(&host, "alerts list", "heartbeat_gap");
    });
}

#[test]
fn policy_denials() {
    let quote = "**Policy denials**: page when policy simulator logs repeated `deny` results for automation actions (likely signal of drift or missing leases).";
    line("alerting-2", quote, |walk| {
        let host = host("", |setup| setup);
        walk.refused(&host, "egress preview https://evil.example --persona agent", "not_allowlisted");
        for _ in 0..24 {
            host.daemon.cli(&["egress", "preview", "https://evil.example", "--persona", "agent"]);
        }
        walk.saw("24 times more");
        walk.until(&host, "alerts list", "policy_denials");
    });
}

#[test]
fn budget_breaches() {
    if !can_launch() {
        return;
    }
    let quote = "**Budget breaches**: warn at 70% of token/runtime budgets, escalate at 90%, hard-stop at 100%.";
    line("alerting-3", quote, |walk| {
        let budget = "auto_start = true\n[runtimes.budget]\ntokens = 100\n";
        let host = host(&waiting("nightly", budget), |setup| setup);
        host.wait_state("nightly", "ready");
        let report = |id: &str, tokens: u64| json!({ "report_id": id, "tokens": tokens });
        walk.post(&host, "/automations/nightly/usage", &report("one", 71), 200);
        walk.until(&host, "events --prefix automation.budget.", "automation.budget.warning");
        walk.post(&host, "/automations/nightly/usage", &report("two", 20), 200);
        walk.until(&host, "events --prefix automation.budget.", "automation.budget.escalated");
        walk.post(&host, "/automations/nightly/usage", &report("three", 20), 200);
        walk.until(&host, "events --prefix automation.budget.", "automation.budget.exhausted");
        let view = host.wait("nightly", "stopped", |view| view["state"] == "stopped");
        assert_eq!(view["last_death"]["cause"], "budget", "{view:#}");
        walk.cli(&host, "runtime deaths nightly", "budget");
        walk.until(&host, "alerts list", "budget_exhausted");
    });
}

#[test]
fn egress_anomalies() {
    if !can_launch() {
        return;
    }
    let quote = "**Egress anomalies**: trigger alerts on new domains or protocol changes in the egress ledger; create allowlists per automation persona to avoid alert fatigue.";
    line("alerting-4", quote, |walk| {
        let script = "for i in 1 2 3; do exec 3<>/dev/tcp/allowed.test/{PORT} && { printf 'GET / HTTP/1.0\\r\\nHost: allowed.test\\r\\n\\r\\n' >&3; head -n 1 <&3; exec 3>&-; }; sleep 0.2; done; sleep 1000";
        let host = host(&bash("agent", script, "auto_start = true"), |setup| setup);
        walk.until(&host, "events --prefix egress.new_domain", "allowed.test");
        walk.until(&host, "alerts list", "new_domain");
        walk.cli(&host, "persona list", "agent");
        walk.saw("an allowlist for each persona; in it a new domain is `info`");
    });
}

#[test]
fn runtime_degradation() {
    if !can_launch() {
        return;
    }
    let quote = "**Runtime degradation**: watch `runtime.supervisor` metrics (restart count, health reasons). Automations should idle gracefully; repeated restarts indicate runaway workloads.";
    line("alerting-5", quote, |walk| {
        let more = "auto_start = true\n[runtimes.restart]\nbackoff = \"100ms\"\nmax = 2";
        let host = host(&bash("fails", "echo going; exit 7", more), |setup| setup);
        host.wait_state("fails", "quarantined");
        walk.until(&host, "alerts list", "runtime_quarantined");
        let metrics = crate::metrics(&host);
        for series in ["arw_runtime_supervisor_restarts_total{runtime=\"fails\"} 2", "arw_runtime_supervisor_health{"] {
            assert!(metrics.contains(series), "{series}: {metrics}");
        }
        walk.saw("`GET /metrics`: `arw_runtime_supervisor_restarts_total`, `arw_runtime_supervisor_health`");
        walk.cli(&host, "runtime restore fails", "fails");
    });
}
