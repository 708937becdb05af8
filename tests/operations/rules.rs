//! The shipped rules and dashboards ask only for what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use arw::domain::DenialCode;
use arw::governance::alerts::Severity;
use arw::supervisor::{BudgetKind, HealthReason, RuntimeState as State};

use crate::exposition::suffixes;
use crate::files::{self, Rule, dashboards, shipped_rules};
use crate::promql::{Asked, asked};
use crate::series;
use crate::support::Origin;
use crate::{program, well};

/// Prometheus makes these itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];
/// Every target has these.
const OF_THE_TARGET: [&str; 2] = ["job", "instance"];

/// Families of which every series has a rule or a panel.
const SHOWN: [&str; 6] =
    ["arw_gpu_", "arw_alerts_", "arw_sink_", "arw_egress_open", "arw_automation_", "arw_runtime_supervisor_"];

/// Every series that may be asked for, with its labels beside those of the target.
struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    /// What a real daemon prints and the recording rules make of it.
    fn new() -> Self {
        let origin = Origin::http();
        let daemon = series::daemon(&origin);
        let documented = series::documented();
        let mut known = BTreeMap::new();
        for (name, family) in series::families(&daemon) {
            for suffix in suffixes(&family.kind) {
                let series = format!("{name}{suffix}");
                let shown = if documented.contains_key(&series) { &series } else { &name };
                let mut labels = documented.get(shown).cloned().unwrap_or_default();
                if *suffix == "_bucket" {
                    labels.insert("le".to_owned());
                }
                known.insert(series, labels);
            }
        }
        known.extend(OF_PROMETHEUS.map(|name| (name.to_owned(), BTreeSet::new())));
        for rule in shipped_rules().iter().filter(|rule| !rule.is_alert) {
            let mut labels: BTreeSet<String> = asked(&rule.expr).labels.into_iter().collect();
            labels.remove("le");
            assert!(known.insert(rule.name.clone(), labels).is_none(), "{} is recorded twice", rule.name);
        }
        Self(known)
    }

    /// What of `asked` there is not.
    fn missing(&self, asked: &Asked) -> Vec<String> {
        let mut missing = Vec::new();
        let mut possible: BTreeSet<&str> = OF_THE_TARGET.into();
        for selector in &asked.selectors {
            let Some(labels) = self.0.get(&selector.metric) else {
                missing.push(selector.metric.clone());
                continue;
            };
            possible.extend(labels.iter().map(String::as_str));
            for (label, operator, value) in &selector.matchers {
                let has = labels.contains(label) || OF_THE_TARGET.contains(&label.as_str());
                if !has || !is_possible(&selector.metric, label, operator, value) {
                    missing.push(format!("{}{{{label}{operator}\"{value}\"}}", selector.metric));
                }
            }
        }
        missing.extend(asked.labels.iter().filter(|label| !possible.contains(label.as_str())).cloned());
        missing
    }

    /// Whether the series of `asked` have this label.
    fn has_label(&self, asked: &Asked, label: &str) -> bool {
        let of = |metric: &String| self.0.get(metric).is_some_and(|labels| labels.contains(label));
        OF_THE_TARGET.contains(&label) || asked.selectors.iter().any(|selector| of(&selector.metric))
    }
}

/// Whether a label can have this value: that of `=`, or one of those that `=~` names in words. `!=` and `!~` leave out
/// what need not be there.
fn is_possible(metric: &str, label: &str, operator: &str, value: &str) -> bool {
    let Some(values) = closed_set(metric, label) else { return true };
    let fits = |word: &str| match word.strip_suffix(".+") {
        Some(prefix) => values.iter().any(|value| value.len() > prefix.len() && value.starts_with(prefix)),
        None => values.contains(&word),
    };
    match operator {
        "=" => fits(value),
        "=~" if !value.starts_with('$') => value.split('|').all(fits),
        _ => true,
    }
}

/// The values of a label that has a closed set of them.
fn closed_set(metric: &str, label: &str) -> Option<Vec<&'static str>> {
    Some(match label {
        "code" => DenialCode::ALL.iter().map(|code| code.code()).collect(),
        "decision" => vec!["allow", "deny", "would_deny"],
        "direction" => vec!["up", "down"],
        "state" => State::ALL.iter().map(|state| state.code()).collect(),
        "reason" => HealthReason::ALL.iter().map(|reason| reason.code()).collect(),
        "resource" => vec!["cpu", "memory", "io"],
        "result" => vec!["applied", "refused"],
        "severity" => Severity::ALL.iter().map(|severity| severity.code()).collect(),
        "kind" if metric.starts_with("arw_gpu_") => vec!["total", "reserved", "free", "used"],
        "kind" => BudgetKind::ALL.iter().map(|kind| kind.code()).collect(),
        _ => return None,
    })
}

/// The expressions of a dashboard's panels: title, expression, legend.
fn panels(board: &serde_json::Value) -> Vec<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for panel in board["panels"].as_array().expect("panels") {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty() && !text(&panel["title"]).is_empty(), "{panel}");
        found.extend(targets.iter().map(|it| (text(&panel["title"]), text(&it["expr"]), text(&it["legendFormat"]))));
    }
    found
}

#[test]
fn every_series_that_a_rule_or_a_panel_uses_is_there() {
    let known = Known::new();
    let mut missing = Vec::new();
    let mut used = BTreeSet::new();
    let mut look = |place: String, expr: &str| {
        let asked = asked(expr);
        used.extend(asked.selectors.iter().map(|selector| selector.metric.clone()));
        missing.extend(known.missing(&asked).into_iter().map(|what| format!("{place}: {what}")));
    };
    for Rule { name, expr, .. } in shipped_rules() {
        look(name, &expr);
    }
    for (file, board) in dashboards() {
        for (title, expr, _) in panels(&board) {
            assert!(!asked(&expr).selectors.is_empty(), "{file}, {title}: {expr}");
            look(format!("{file}, {title}"), &expr);
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    let idle: Vec<String> =
        known.0.keys().filter(|name| name.contains(':') && !used.contains(*name)).cloned().collect();
    assert_eq!(idle, Vec::<String>::new(), "recorded and never used");
    let unseen: Vec<&String> = known
        .0
        .keys()
        .filter(|name| SHOWN.iter().any(|family| name.starts_with(family)) && !used.contains(*name))
        .collect();
    assert_eq!(unseen, Vec::<&String>::new(), "neither a rule nor a panel shows it");
    // The check itself.
    for (bad, told) in [
        ("arw_egress_decisions_totals > 1", "arw_egress_decisions_totals"),
        ("arw_egress_decisions > 1", "arw_egress_decisions"),
        ("rate(arw_egress_connect_seconds_buckets[5m])", "arw_egress_connect_seconds_buckets"),
        ("arw_egress_decisions_total{code=\"not_there\"}", "arw_egress_decisions_total{code=\"not_there\"}"),
        ("arw_egress_bytes_total{runtime=\"x\"}", "arw_egress_bytes_total{runtime=\"x\"}"),
        ("sum by (runtime) (arw_egress_bytes_total)", "runtime"),
        ("persona:not_recorded:rate5m", "persona:not_recorded:rate5m"),
        ("arw_alerts_active{severity=\"urgent\"}", "arw_alerts_active{severity=\"urgent\"}"),
        ("arw_gpu_adapter_memory_bytes{kind=\"gpu_memory\"}", "arw_gpu_adapter_memory_bytes{kind=\"gpu_memory\"}"),
        (
            "arw_automation_budget_ratio{kind=~\"gpu_memory|used\"}",
            "arw_automation_budget_ratio{kind=~\"gpu_memory|used\"}",
        ),
        ("arw_runtime_supervisor_health{reason=~\"tpu_.+\"}", "arw_runtime_supervisor_health{reason=~\"tpu_.+\"}"),
    ] {
        assert_eq!(known.missing(&asked(bad)), [told], "{bad}");
    }
}

#[test]
fn dashboards_can_be_imported_and_read() {
    let known = Known::new();
    let mut uids = BTreeSet::new();
    for (file, board) in dashboards() {
        assert!(uids.insert(board["uid"].as_str().expect("a uid").to_owned()), "{file}");
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().expect("panels") {
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{file}: {panel}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{file}");
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{file}: {panel}");
            let place = &panel["gridPos"];
            let number = |key: &str| place[key].as_u64().expect("a number");
            assert!(number("x") + number("w") <= 24, "{file}: {panel}");
        }
        let variables = board["templating"]["list"].as_array().expect("variables");
        let names: BTreeSet<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
        for variable in variables.iter().filter(|variable| variable["type"] == "query") {
            let query = variable["query"]["query"].as_str().expect("a query");
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).expect(query);
            let (expr, label) = inner.rsplit_once(", ").expect(query);
            let asked = asked(expr);
            assert!(known.missing(&asked).is_empty() && known.has_label(&asked, label), "{file}: {query}");
        }
        for (title, expr, legend) in panels(&board) {
            let asked = asked(&expr);
            for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().expect("an end")) {
                assert!(known.has_label(&asked, label), "{file}, {title}: {label}");
            }
            for variable in expr.split('$').skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_')) {
                let name = variable.into_iter().next().expect("a name");
                assert!(name == "__rate_interval" || names.contains(name), "{file}, {title}: {name}");
            }
        }
    }
}

#[test]
fn every_alert_says_what_happened_and_what_to_do() {
    let known = Known::new();
    let handbook = files::read("docs/ops/monitoring.md");
    let mut commands = BTreeSet::new();
    for Rule { name, expr, rest, .. } in shipped_rules().into_iter().filter(|rule| rule.is_alert) {
        let severities = ["critical", "warning", "none"].map(|word| format!("labels: {{ severity: {word} }}"));
        assert!(severities.iter().any(|severity| rest.contains(severity)), "{name}: {rest}");
        assert!(handbook.contains(&format!("`{name}`")), "docs/ops/monitoring.md does not know {name}");
        let asked = asked(&expr);
        for key in ["summary: ", "description: "] {
            let text = rest.lines().find_map(|line| line.strip_prefix(key));
            assert!(text.is_some() || name == "ArwWatchdog", "{name} has no {key}");
            let labels = text.unwrap_or_default().split("$labels.").skip(1);
            for label in labels.map(|rest| rest.split([' ', '}']).next().expect("a label")) {
                assert!(known.has_label(&asked, label), "{name}: {label}");
            }
        }
        commands.extend(rest.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands {
        assert_exists(&command);
    }
}

/// A command line that an alert tells: the client knows it, its options and its arguments.
fn assert_exists(command: &str) {
    let filled = command.split("{{").map(|part| part.split_once("}}").map_or(part, |(_, rest)| rest));
    let filled = filled.collect::<Vec<_>>().join("name");
    let words: Vec<&str> = filled.split(' ').collect();
    assert_eq!(words[0], "arw-cli", "{command}");
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_arw-cli"))
        .args(&words[1..])
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("ARW_STATE_DIR", state.path())
        .env("ARW_CONFIG_DIR", state.path())
        // Reserved and closed: nothing is asked.
        .args(["--base", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    // 2 is wrong usage. Most end with 1: there is no daemon to answer, and no ledger to read.
    assert_ne!(output.status.code(), Some(2), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn prometheus_and_alertmanager_take_the_files() {
    if let Some(mut promtool) = program("promtool") {
        let said = well(promtool.args(["check", "rules"]).args([files::RECORDING, files::ALERTING].map(files::path)));
        assert_eq!(said.matches("SUCCESS").count(), 2, "{said}");
    }
    if let Some(mut promtool) = program("promtool") {
        let config = files::path("configs/prometheus/prometheus.yml");
        well(promtool.args(["check", "config", "--syntax-only"]).arg(config));
    }
    if let Some(mut promtool) = program("promtool") {
        let said = well(promtool.args(["test", "rules"]).arg(files::path("tests/operations/rules.test.yml")));
        assert!(said.contains("SUCCESS"), "{said}");
    }
    if let Some(mut amtool) = program("amtool") {
        well(amtool.arg("check-config").arg(files::path("configs/prometheus/alertmanager.yml")));
    }
}
