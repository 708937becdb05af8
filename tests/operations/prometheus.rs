//! Prometheus collects from the daemon and raises the alerts that are shipped.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value as Json;

use crate::collector::Prometheus;
use crate::exposition;
use crate::files::shipped_rules;
use crate::program;
use crate::series::{self, PERSONA, connect};
use crate::support::{Daemon, Origin};

#[test]
fn denials_stale_files_and_a_dead_daemon_raise_their_alerts() {
    let origin = Origin::http();
    let mut daemon = series::daemon(&origin);
    let Some(prometheus) = Prometheus::over(&daemon) else { return };

    // It collects, in OpenMetrics: the older format has no units.
    let target = prometheus.wait("targets", "a scrape", |targets| {
        let target = targets["activeTargets"][0].clone();
        (target["health"] == "up").then_some(target)
    });
    assert_eq!(target["lastError"], "");
    let metadata = prometheus.ask("targets/metadata?metric=arw_egress_connect_seconds");
    assert_eq!((&metadata[0]["unit"], &metadata[0]["type"]), (&"seconds".into(), &"histogram".into()), "{metadata:#}");

    // Every rule was evaluated without a fault.
    let rules = prometheus.wait("rules", "an evaluation of every rule", |rules| {
        let groups = rules["groups"].as_array().expect("groups").iter();
        let rules: Vec<Json> = groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert_eq!(rules.len(), shipped_rules().len());
    let faulty: Vec<&Json> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(faulty.is_empty(), "{faulty:#?}");
    let quiet = |names: &[String]| names == ["ArwWatchdog"];
    prometheus.wait("alerts", "the watchdog", |_| quiet(&prometheus.firing()).then_some(()));

    // Twenty denials are no reason for a page, more are.
    let credentials = Daemon::credentials(PERSONA);
    for index in 0..30 {
        assert_eq!(connect(&daemon, &format!("host-{index}.test"), &credentials), 403);
    }
    let alert = prometheus.wait_for_alert("ArwRepeatedDenials");
    assert_eq!((&alert["labels"]["persona"], &alert["labels"]["severity"]), (&PERSONA.into(), &"critical".into()));
    let summary = alert["annotations"]["summary"].as_str().expect("a summary");
    assert!(summary.starts_with("agent was denied ") && !summary.contains("{{"), "{summary}");
    assert!(!prometheus.firing().contains(&"ArwUnknownClients".to_owned()));

    std::fs::write(daemon.config_dir().join("personas/broken.toml"), "id = 1\n").unwrap();
    daemon.sighup();
    prometheus.wait_for_alert("ArwPolicyStale");

    daemon.kill9();
    let alert = prometheus.wait_for_alert("ArwDown");
    assert!(alert["labels"]["instance"].as_str().is_some_and(|instance| instance.starts_with("127.0.0.1:")), "{alert}");
}

#[test]
fn the_older_format_passes_the_lint_of_promtool() {
    let origin = Origin::http();
    let daemon = series::daemon(&origin);
    connect(&daemon, "elsewhere.test", &Daemon::credentials(PERSONA));
    let (head, plain) = series::scrape(&daemon, "Accept: text/plain; version=0.0.4\r\n");
    assert!(head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    // Both formats hold the same samples.
    let count = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let (_, whole) = series::scrape(&daemon, "");
    exposition::read(&whole).unwrap();
    assert_eq!(count(&plain), count(&whole));
    let Some(mut promtool) = program("promtool") else { return };
    let mut lint = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    lint.stdin.take().expect("piped").write_all(plain.as_bytes()).unwrap();
    let output = lint.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
