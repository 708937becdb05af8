//! The series of runtimes, as a scraper of the real daemon gets them.

use crate::stage::{Host, bash};

/// The value of the sample with exactly this name and these labels.
fn value(text: &str, sample: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_running_a_failed_and_a_stopped_runtime_have_the_series_that_they_should() {
    if !crate::can_launch() {
        return;
    }
    let one = bash(
        "one",
        "for ((i = 0; i < 20000; i++)); do :; done; echo busy; sleep 1000",
        "auto_start = true\n[runtimes.budget]\nwall_time = \"1h\"\ncpu_time = \"1h\"\nrequests = 10\ntokens = 5",
    );
    let failing = bash(
        "failing",
        "exit 3",
        "auto_start = true\n[runtimes.restart]\nbackoff = \"100ms\"\nmax = 1\nwindow = \"600s\"",
    );
    let host = Host::start(&format!("{one}{failing}{}", bash("off", "true", "")));
    host.wait_log("one", "busy");
    host.wait_state("one", "ready");
    host.wait_state("failing", "quarantined");
    let (status, text) = host.read("/metrics");
    assert_eq!(status, 200);
    let of = |sample: &str| value(&text, sample).unwrap_or_else(|| panic!("{sample}\n{text}"));
    for (sample, expected) in [
        ("arw_runtime_supervisor_restarts_total{runtime=\"one\"}", 0.0),
        ("arw_runtime_supervisor_restarts_total{runtime=\"failing\"}", 1.0),
        ("arw_runtime_supervisor_restarts_left{runtime=\"one\"}", 3.0),
        ("arw_runtime_supervisor_restarts_left{runtime=\"failing\"}", 0.0),
        ("arw_runtime_supervisor_health{runtime=\"one\",reason=\"well\"}", 1.0),
        ("arw_runtime_supervisor_health{runtime=\"failing\",reason=\"restarts_exhausted\"}", 1.0),
        ("arw_runtime_supervisor_state{runtime=\"one\",state=\"ready\"}", 1.0),
        ("arw_runtime_supervisor_state{runtime=\"failing\",state=\"quarantined\"}", 1.0),
        ("arw_runtime_supervisor_state{runtime=\"off\",state=\"stopped\"}", 1.0),
        ("arw_automation_budget_ratio{automation=\"one\",kind=\"requests\"}", 0.0),
    ] {
        assert_eq!(of(sample), expected, "{sample}");
    }
    assert!((0.0..1.0).contains(&of("arw_automation_budget_ratio{automation=\"one\",kind=\"wall_time\"}")));
    // What nobody has reported has no share, not 0 %.
    assert!(!text.contains("kind=\"tokens\""), "{text}");
    // What does not run uses nothing, and says nothing.
    for family in ["arw_runtime_cpu_seconds_total", "arw_runtime_memory_bytes", "arw_runtime_pids"] {
        for id in ["off", "failing"] {
            assert_eq!(value(&text, &format!("{family}{{runtime=\"{id}\"}}")), None, "{family} {id}");
        }
    }
    let usage = host.view("one")["usage"].clone();
    for (field, family) in [
        ("cpu_seconds", "arw_runtime_cpu_seconds_total"),
        ("memory_bytes", "arw_runtime_memory_bytes"),
        ("pids", "arw_runtime_pids"),
        ("oom_kills", "arw_runtime_oom_kills_total"),
    ] {
        let sample = format!("{family}{{runtime=\"one\"}}");
        if usage[field].is_null() {
            println!("SKIP: this host does not tell `{field}` of a group");
            assert_eq!(value(&text, &sample), None);
        } else {
            assert!(of(&sample) >= if field == "oom_kills" { 0.0 } else { f64::MIN_POSITIVE }, "{sample}");
        }
    }
    for resource in ["cpu", "memory", "io"] {
        let sample = format!("arw_runtime_psi_ratio{{runtime=\"one\",resource=\"{resource}\"}}");
        match usage["waited"][resource].as_f64() {
            Some(_) => assert!((0.0..=1.0).contains(&of(&sample)), "{sample}"),
            None => println!("SKIP: this host does not tell pressure of a group: {resource}"),
        }
    }
}
