//! Budgets and the kill switch's part.

use crate::stage::{Host, bash};

#[test]
fn a_spent_wall_time_stops_it_for_good() {
    if !crate::can_launch() {
        return;
    }
    let more = "auto_start = true\n[runtimes.budget]\nwall_time = \"1s\"\n[runtimes.restart]\npolicy = \"always\"";
    let host = Host::start(&bash("short", "sleep 1000", more));
    let view = host.wait_end("short");
    assert_eq!(view["last_death"]["cause"], "budget");
    assert_eq!(view["health"], "budget_exhausted");
    let wall = &view["budget"][0];
    assert_eq!(wall["kind"], "wall_time");
    assert!(wall["ratio"].as_f64().unwrap() >= 1.0, "{wall}");
}

#[test]
fn a_spent_cpu_time_stops_it_over_its_restarts() {
    if !crate::can_launch() {
        return;
    }
    let more = "auto_start = true\n[runtimes.budget]\ncpu_time = \"1s\"\n[runtimes.restart]\npolicy = \"always\"\nbackoff = \"100ms\"\nmax = 100";
    let script = "echo begun; for ((i = 0; i < 60000; i++)); do :; done";
    let host = Host::start(&bash("busy", script, more));
    let (_, report) = host.ask("GET", "/orchestrator/runtimes/busy/report");
    if report["applied"].as_array().is_none_or(|all| all.iter().all(|one| one["outcome"] != "enforced")) {
        println!("SKIP: without control groups CPU time is not metered: {report}");
        return;
    }
    let view = host.wait_end("busy");
    assert_eq!(view["last_death"]["cause"], "budget", "{view:#}");
    assert!(view["last_death"]["run"].as_u64() > Some(1), "it ended by itself several times before: {view:#}");
}

#[test]
fn requests_are_counted_over_restarts_of_the_daemon() {
    if !crate::can_launch() {
        return;
    }
    let script = "while :; do if exec 3<>/dev/tcp/allowed.test/{PORT}; then printf 'GET /hello HTTP/1.0\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n' >&3; head -n 1 <&3; exec 3>&-; fi; sleep 0.2; done";
    let more = "auto_start = true\n[runtimes.budget]\nrequests = 3";
    let host = Host::start(&bash("caller", script, more));
    let view = host.wait_end("caller");
    assert_eq!(view["last_death"]["cause"], "budget");
    let opened = host.daemon.ledger_lines().iter().filter(|line| line["kind"] == "open").count();
    assert!(opened <= 3, "{opened} requests left");
}

#[test]
fn a_budget_that_is_raised_by_a_reload_holds_at_once() {
    if !crate::can_launch() {
        return;
    }
    let script = "while :; do if exec 3<>/dev/tcp/allowed.test/{PORT}; then printf 'GET /hello HTTP/1.0\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n' >&3; head -n 1 <&3; exec 3>&-; fi; sleep 0.5; done";
    let manifest =
        |requests: u32| bash("caller", script, &format!("auto_start = true\n[runtimes.budget]\nrequests = {requests}"));
    let host = Host::start(&manifest(4));
    let view = host.wait("caller", "seen", |view| view["egress"]["requests"].as_u64() >= Some(1));
    host.declare(&manifest(1_000).replace("{PORT}", &host.port().to_string()));
    let later = host.wait("caller", "past the old budget", |view| view["egress"]["requests"].as_u64() > Some(5));
    assert_eq!((&later["run"], &later["egress"]["denials"]), (&view["run"], &0.into()), "{later:#}");
}
