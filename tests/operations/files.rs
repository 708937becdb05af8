//! The shipped files.

use std::path::{Path, PathBuf};

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

/// One rule of a rule file.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Whether it is an alert; a record otherwise.
    pub(crate) is_alert: bool,
    pub(crate) name: String,
    pub(crate) expr: String,
    /// Everything else of it, as written.
    pub(crate) rest: String,
}

/// The rules of a file that is written as ours are: `- alert:` or `- record:` first, then `expr:` on one line or as a `|`
/// block. Anything else is a panic and no rule overlooked.
pub(crate) fn rules(text: &str) -> Vec<Rule> {
    let mut found: Vec<Rule> = Vec::new();
    let mut block: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let item = line.trim();
        if let Some(deep) = block {
            if item.is_empty() || indent > deep {
                let rule = found.last_mut().expect("a rule");
                rule.expr.push_str(item);
                rule.expr.push('\n');
                continue;
            }
            block = None;
        }
        let begun = [("- alert: ", true), ("- record: ", false)].into_iter();
        if let Some((name, is_alert)) = begun.filter_map(|(key, alert)| Some((item.strip_prefix(key)?, alert))).next() {
            found.push(Rule { is_alert, name: name.to_owned(), expr: String::new(), rest: String::new() });
        } else if let Some(expr) = item.strip_prefix("expr: ") {
            let rule = found.last_mut().expect("a rule");
            assert!(rule.expr.is_empty(), "{}: two expressions", rule.name);
            match expr {
                "|" => block = Some(indent),
                expr => rule.expr = expr.to_owned(),
            }
        } else if let Some(rule) = found.last_mut().filter(|_| !item.starts_with('#') && !item.starts_with("- name:")) {
            rule.rest.push_str(item);
            rule.rest.push('\n');
        }
    }
    assert_eq!(text.matches("expr:").count(), found.len(), "a rule was overlooked");
    assert!(found.iter().all(|rule| !rule.expr.trim().is_empty()), "{found:#?}");
    found
}

pub(crate) const RECORDING: &str = "configs/prometheus/recording.rules.yml";
pub(crate) const ALERTING: &str = "configs/prometheus/alerting.rules.yml";

/// Every rule that is shipped.
pub(crate) fn shipped_rules() -> Vec<Rule> {
    [RECORDING, ALERTING].iter().flat_map(|name| rules(&read(name))).collect()
}

/// The dashboards: file name and content.
pub(crate) fn dashboards() -> Vec<(String, serde_json::Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path("configs/grafana")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        found.push((name, serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!found.is_empty());
    found
}

#[test]
fn rules_are_read_as_they_are_written() {
    let text = "groups:\n  - name: g\n    rules:\n      # expr is a word\n      - record: a:b\n        expr: x\n      - alert: C\n        expr: |\n          y\n            > 1\n        for: 5m\n        labels: { severity: critical }\n";
    let found = rules(&text.replace("# expr is", "# it is"));
    let brief: Vec<_> = found.iter().map(|rule| (rule.is_alert, rule.name.as_str(), rule.expr.as_str())).collect();
    assert_eq!(brief, [(false, "a:b", "x"), (true, "C", "y\n> 1\n")]);
    assert_eq!(found[1].rest, "for: 5m\nlabels: { severity: critical }\n");
    assert!(std::panic::catch_unwind(|| rules("- alert: A\n  for: 1m\n  other_expr: x\n")).is_err());
}
