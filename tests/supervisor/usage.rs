//! Budgets of automations, and the usage that runtimes report from inside.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use crate::stage::{Host, PERSONA, bash};
use crate::support::{Client, Daemon, DnsServer, wait_for};

/// Shell functions that ask the gateway's own desk, each answer on one line.
const DESK: &str = r#"
say() { printf '%b' "$1" >&3; }
hear() { echo "$1: $(tr -d '\r' <&3 | tr '\n' ' ')"; exec 3>&-; }
dial() { exec 3<>/dev/tcp/127.0.0.1/9080; }
get() { dial; say "GET $2 HTTP/1.1\r\nHost: gateway.arw.internal\r\n\r\n"; hear "$1"; }
post() { dial; say "POST $2 HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Type: application/json\r\nContent-Length: ${#3}\r\n\r\n$3"; hear "$1"; }
"#;

pub(crate) fn desk(id: &str, script: &str, more: &str) -> String {
    bash(id, &format!("{DESK}{script}; echo done; while :; do sleep 0.2; done"), more)
}

/// The line of the log that starts with `mark`.
pub(crate) fn line(host: &Host, id: &str, mark: &str) -> String {
    let log = host.log(id);
    let found = log.lines().find_map(|line| line.split_once(&format!("{mark}: ")).map(|(_, rest)| rest.to_owned()));
    found.unwrap_or_else(|| panic!("no `{mark}` in the log of {id}:\n{log}"))
}

pub(crate) fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// The JSON behind the head.
pub(crate) fn body(answer: &str) -> Json {
    let at = answer.find('{').unwrap_or_else(|| panic!("no body in {answer}"));
    serde_json::from_str(answer[at..].trim()).unwrap_or_else(|fault| panic!("{fault}: {answer}"))
}

fn usage(host: &Host, id: &str) -> Json {
    let (code, body) = host.ask("GET", &format!("/automations/{id}/usage"));
    assert_eq!(code, 200, "{body}");
    body
}

fn row<'u>(usage: &'u Json, kind: &str) -> &'u Json {
    let rows = usage["budgets"].as_array().unwrap();
    rows.iter().find(|row| row["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {usage}"))
}

#[test]
fn tokens_that_a_runtime_reports_from_inside_count_and_stop_it() {
    if !crate::can_launch() {
        return;
    }
    let script = r#"
        get before /usage
        post one /usage '{"report_id":"r1","tokens":75}'
        post again /usage '{"report_id":"r1","tokens":75}'
        post changed /usage '{"report_id":"r1","tokens":76}'
        get through_the_proxy http://gateway.arw.internal/usage
        sleep 3
        post two /automations/nightly/usage '{"report_id":"r2","tokens":20}'
        sleep 3
        post three /usage '{"report_id":"r3","tokens":5}'"#;
    let registry = "[[automations]]\nid = \"nightly\"\nruntime = \"job\"\n[automations.budget]\ntokens = 100\n";
    let mut host =
        Host::start_with(&desk("job", script, "auto_start = true\n[runtimes.restart]\npolicy = \"always\""), |setup| {
            setup.file("runtime/automations.toml", registry)
        });
    let view = host.wait_end("job");
    assert_eq!(
        (&view["last_death"]["cause"], &view["health"]),
        (&json!("budget"), &json!("budget_exhausted")),
        "{view:#}"
    );
    for (kind, used) in [("warning", 75), ("escalated", 95), ("exhausted", 100)] {
        let event = host.wait_event(&format!("automation.budget.{kind}"), |data| data["automation"] == "nightly");
        assert_eq!((&event["data"]["kind"], &event["data"]["used"]), (&json!("tokens"), &json!(used)), "{event}");
    }
    host.wait_event("automation.run.heartbeat", |data| data["automation"] == "nightly");
    let before = body(&line(&host, "job", "before"));
    assert_eq!((&before["automation"], &row(&before, "tokens")["used"]), (&json!("nightly"), &Json::Null));
    assert_eq!(body(&line(&host, "job", "one"))["reported"]["tokens"], 75);
    let again = body(&line(&host, "job", "again"));
    assert_eq!((&again["reported"]["tokens"], &again["repeated"]), (&json!(75), &json!(true)));
    assert_eq!(body(&line(&host, "job", "changed"))["code"], "report_conflict");
    assert_eq!(row(&body(&line(&host, "job", "through_the_proxy")), "tokens")["used"], 75);

    // Neither a new daemon nor one that was killed forgets it.
    host.daemon.kill9();
    host.daemon.restart();
    assert_eq!(row(&usage(&host, "nightly"), "tokens")["used"], 100);
    let (_, status) = host.ask("GET", "/state/automation/status");
    assert_eq!(status["impacted"], json!(["nightly"]));
    assert_eq!(status["automations"][0]["impacted"][0]["code"], "budget_exhausted", "{status:#}");
    assert_eq!(host.view("job")["state"], "stopped", "it starts with the daemon, and not with a spent budget");
    // Whoever asks for a start asks for a window; nothing was reported in it.
    host.must("job", "start");
    host.wait_state("job", "ready");
    assert!(row(&usage(&host, "nightly"), "tokens")["used"].as_u64().is_none_or(|used| used < 100));
}

#[test]
fn money_is_exact_and_keeps_its_currency() {
    if !crate::can_launch() {
        return;
    }
    let host = Host::start(&bash(
        "job",
        "while :; do sleep 0.2; done",
        "auto_start = true\n[runtimes.budget]\nspend = \"1 USD\"\nwindow = \"24h\"",
    ));
    host.wait_state("job", "ready");
    let report = |id: &str, amount: &str, currency: &str| {
        let body = json!({"report_id": id, "spend": {"amount": amount, "currency": currency}});
        host.send("POST", "/automations/job/usage", &body.to_string())
    };
    for number in 0..9 {
        let (code, body) = report(&format!("r{number}"), "0.1", "USD");
        assert_eq!(code, 200, "{body}");
    }
    let (code, body) = report("euro", "0.1", "EUR");
    assert_eq!((code, &body["code"]), (409, &json!("currency_mismatch")));
    for (amount, currency) in [
        ("-1", "USD"),
        ("1e3", "USD"),
        ("NaN", "USD"),
        ("0.0000001", "USD"),
        ("1", "usd"),
        ("99999999999999999999", "USD"),
    ] {
        let (code, body) = report("bad", amount, currency);
        assert_eq!((code, &body["code"]), (400, &json!("bad_request")), "{amount} {currency}: {body}");
    }
    for text in [
        r#"{"report_id": "n", "tokens": -1}"#,
        r#"{"report_id": "n", "tokens": 1e400}"#,
        r#"{"report_id": "n", "tokens": 9007199254740993000000}"#,
        r#"{"report_id": "n", "spend": {"amount": 0.1, "currency": "USD"}}"#,
        r#"{"report_id": "", "tokens": 1}"#,
        r#"{"report_id": "n"}"#,
        r#"{"report_id": "n", "tokens": 1, "runtime": "other"}"#,
    ] {
        let (code, body) = host.send("POST", "/automations/job/usage", text);
        assert_eq!((code, &body["code"]), (400, &json!("bad_request")), "{text}: {body}");
    }
    let spent = usage(&host, "job");
    assert_eq!(spent["reported"]["spend"], json!({"amount": "0.90", "currency": "USD"}));
    assert_eq!((&row(&spent, "spend")["used"], &row(&spent, "spend")["currency"]), (&json!(900_000), &json!("USD")));
    assert_eq!(host.view("job")["state"], "ready");
    // Ten times a tenth is one.
    assert_eq!(report("r9", "0.1", "USD").0, 200);
    let view = host.wait_end("job");
    assert_eq!(view["last_death"]["cause"], "budget");
    let (code, body) = host.act("job", "start");
    assert_eq!(
        (code, &body["code"]),
        (409, &json!("budget_exhausted")),
        "an operator's start is no fresh window: {body}"
    );
    assert!(body["detail"].as_str().unwrap().contains("`spend`"), "{body}");
    let metrics = host.daemon.cli(&["automation", "status", "job"]);
    assert!(String::from_utf8_lossy(&metrics.stdout).contains("1.000000 USD"), "{metrics:?}");
}

#[test]
fn a_report_that_was_acknowledged_outlives_a_kill_at_any_moment() {
    if !crate::can_launch() {
        return;
    }
    let mut host = Host::start(&bash(
        "job",
        "while :; do sleep 0.2; done",
        "auto_start = true\n[runtimes.budget]\ntokens = 1000000",
    ));
    let report = |host: &Host, number: u64| {
        let body = json!({"report_id": format!("r{number}"), "tokens": 7});
        host.try_send("POST", "/automations/job/usage", &body.to_string())
    };
    let mut sent = 0_u64;
    for round in 0..5_u64 {
        host.wait_state("job", "ready");
        let pid = nix::unistd::Pid::from_raw(host.daemon.pid().try_into().unwrap());
        let (last, acknowledged) = std::thread::scope(|scope| {
            let host = &host;
            let reporting = scope.spawn(move || {
                let mut next = sent;
                while report(host, next).is_some_and(|(code, _)| code == 200) {
                    next += 1;
                }
                (next, next)
            });
            std::thread::sleep(std::time::Duration::from_millis(20 + round * 17));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            reporting.join().unwrap()
        });
        host.daemon.kill9();
        host.daemon.restart();
        let kept = usage(&host, "job")["reported"]["tokens"].as_u64().unwrap_or(0);
        assert!(kept == acknowledged * 7 || kept == (acknowledged + 1) * 7, "round {round}: {kept} of {acknowledged}");
        // The one that nobody answered is sent again, whatever became of it.
        host.wait_state("job", "ready");
        assert_eq!(report(&host, last).map(|(code, _)| code), Some(200));
        sent = last + 1;
        assert_eq!(usage(&host, "job")["reported"]["tokens"], sent * 7, "round {round}");
    }
}

#[test]
fn bytes_run_out_in_the_middle_of_a_tunnel_and_stay_spent_for_their_window() {
    if !crate::can_launch() {
        return;
    }
    let script = "exec 3<>/dev/tcp/127.0.0.1/9080; printf 'CONNECT allowed.test:{PORT} HTTP/1.1\\r\\nHost: allowed.test:{PORT}\\r\\n\\r\\n' >&3; head -n 1 <&3; head -c 1000000 /dev/zero >&3; sleep 1000";
    let manifest = |egress: &str| {
        bash(
            "job",
            script,
            &format!(
                "auto_start = true\n[runtimes.restart]\npolicy = \"always\"\n[runtimes.budget]\nwindow = \"24h\"\negress = \"{egress}\""
            ),
        )
    };
    let mut host = Host::start(&manifest("64KiB"));
    let view = host.wait_end("job");
    assert_eq!(view["last_death"]["cause"], "budget", "{view:#}");
    let close = host.daemon.wait_for_ledger("the close", |line| line["kind"] == "close" && line["runtime"] == "job");
    assert_eq!(close["close_reason"], "budget_exhausted", "{close}");
    let passed = close["bytes_up"].as_u64().unwrap() + close["bytes_down"].as_u64().unwrap();
    assert!(passed <= 64 << 10, "{passed} bytes passed");
    for kill in [false, true] {
        if kill {
            host.daemon.kill9();
        }
        host.daemon.restart();
        assert_eq!(host.view("job")["state"], "stopped");
        let (code, body) = host.act("job", "start");
        assert_eq!((code, &body["code"]), (409, &json!("budget_exhausted")), "{body}");
        assert_eq!(row(&usage(&host, "job"), "egress")["ratio"], 1.0);
    }
    // A raised budget lets it go on.
    host.declare(&manifest("100MiB").replace("{PORT}", &host.port().to_string()));
    host.must("job", "start");
    host.wait("job", "sending", |view| view["egress"]["bytes_up"].as_u64() > Some(64 << 10));
}

#[test]
fn a_runtime_reaches_its_own_usage_and_nothing_else_of_the_control_plane() {
    if !crate::can_launch() {
        return;
    }
    let probe = Host::start("");
    let (_, spec) = probe.ask("GET", "/spec/openapi.json");
    drop(probe);
    let mut routes = Vec::new();
    for (path, methods) in spec["paths"].as_object().unwrap() {
        let concrete: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { "other" } else { part }).collect();
        for method in methods.as_object().unwrap().keys() {
            routes.push((method.to_ascii_uppercase(), concrete.join("/")));
        }
    }
    assert!(routes.len() > 20, "{routes:?}");
    // Each road to the desk, and the name as a place to tunnel to.
    let mut attempts: Vec<String> = Vec::new();
    for (method, path) in &routes {
        for target in [path.clone(), format!("http://gateway.arw.internal{path}")] {
            let mut one = format!("{method} {target} HTTP/1.1\\r\\nHost: gateway.arw.internal\\r\\n");
            one.push_str("X-ARW-Admin: trial-admin-token-0123456789abcdef\\r\\n");
            if method != "GET" {
                one.push_str("Content-Type: application/json\\r\\nContent-Length: 2\\r\\n\\r\\n{}");
            } else {
                one.push_str("\\r\\n");
            }
            attempts.push(one);
        }
    }
    // Fewer for each runtime than it may ask at once, so that none is turned away for its pace.
    let mut manifest = bash("other", "while :; do sleep 0.2; done", "auto_start = true");
    let crowds: Vec<&[String]> = attempts.chunks(18).collect();
    for (number, crowd) in crowds.iter().enumerate() {
        let mut script = String::new();
        for (index, attempt) in crowd.iter().enumerate() {
            let _ = writeln!(script, "dial; say '{attempt}'; hear try{index}");
        }
        manifest.push_str(&desk(&format!("probe{number}"), &script, "auto_start = true"));
    }
    let host = Host::start(&manifest);
    for (number, crowd) in crowds.iter().enumerate() {
        let id = format!("probe{number}");
        host.wait_log(&id, "done");
        for (index, attempt) in crowd.iter().enumerate() {
            let answer = line(&host, &id, &format!("try{index}"));
            let status = status_of(&answer);
            assert!(matches!(status, "403" | "404"), "{attempt}\n{answer}");
            assert!(!answer.contains("trial-admin"), "{answer}");
        }
    }
}

#[test]
fn no_road_leads_from_a_sandbox_to_the_control_api_or_to_another_automation() {
    if !crate::can_launch() {
        return;
    }
    let script = r#"
        get another /automations/other/usage
        post for_another /automations/other/usage '{"report_id":"x","tokens":1}'
        dial; say "CONNECT gateway.arw.internal:80 HTTP/1.1\r\nHost: gateway.arw.internal:80\r\n\r\n"; hear tunnel
        dial; say "GET http://x.arw.internal/usage HTTP/1.1\r\nHost: x.arw.internal\r\nConnection: close\r\n\r\n"; hear under
        dial; say "GET http://127.0.0.1:$CONTROL/healthz HTTP/1.1\r\nHost: 127.0.0.1:$CONTROL\r\nConnection: close\r\n\r\n"; hear forward
        dial; say "CONNECT 127.0.0.1:$CONTROL HTTP/1.1\r\nHost: 127.0.0.1:$CONTROL\r\n\r\n"; hear connect
        (exec 3<>/dev/tcp/127.0.0.1/$CONTROL) 2>/dev/null && echo 'direct: reached' || echo 'direct: refused'
        (exec 3<>/dev/tcp/gateway.arw.internal/9080) 2>/dev/null && echo 'name: reached' || echo 'name: refused'
        (exec 3<>/dev/tcp/x.arw.internal/9080) 2>/dev/null && echo 'sub: reached' || echo 'sub: refused'
        dial; say "POST /usage HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n{\"report_id\":\"p\",\"tokens\":1}\nGET http://allowed.test:{PORT}/smuggled HTTP/1.1\r\nHost: allowed.test:{PORT}\r\n\r\n"; hear smuggled
        dial; say "POST /usage HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"; hear both
        dial; say "POST /usage HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Length: 99999999\r\n\r\n"; hear huge
        dial; say "POST /usage HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Length: 2\r\n\r\n{}"; hear undeclared
        dial; say "GET /usage HTTP/1.1\r\nHost: gateway.arw.internal\r\nOrigin: http://evil.test\r\n\r\n"; hear page
        dial; say "POST /usage HTTP/1.1\r\nHost: gateway.arw.internal\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{\"rep"; hear slow
        get last /usage"#;
    let rules = "[[allow]]\nid = \"reserved\"\nhosts = [\"gateway.arw.internal\", \"*.arw.internal\", \"allowed.test\"]\ncidrs = [\"127.0.0.0/8\"]\nports = [\"1-65535\"]\nschemes = [\"http\", \"tcp\"]\n";
    let dns = DnsServer::start();
    let control = crate::network::free_port();
    let manifest = format!(
        "{}{}",
        bash("other", "while :; do sleep 0.2; done", "auto_start = true"),
        desk("job", &script.replace("$CONTROL", &control.to_string()), "auto_start = true")
    );
    let host = Host::start_with(&manifest, |setup| {
        setup.persona(PERSONA, rules).dns(&dns).set("control.bind", format!("127.0.0.1:{control}"))
    });
    host.wait_log("job", "done");
    let answer = |mark: &str| line(&host, "job", mark);
    for (mark, status, code) in [
        ("another", "403", "not_yours"),
        ("for_another", "403", "not_yours"),
        ("tunnel", "403", "special_address"),
        ("under", "403", "special_address"),
        ("forward", "403", "Proxy-Status"),
        ("connect", "403", "Proxy-Status"),
        ("both", "400", "malformed"),
        ("huge", "413", "body_too_large"),
        ("undeclared", "415", "not_json"),
        ("page", "403", "cross_origin"),
        ("slow", "408", "timed_out"),
    ] {
        let answer = answer(mark);
        assert!(status_of(&answer) == status && answer.contains(code), "{mark}: {answer}");
    }
    for mark in ["direct", "sub"] {
        assert_eq!(answer(mark), "refused", "{mark}");
    }
    assert_eq!(answer("name"), "reached", "the name leads to the listener, by nobody's word");
    let smuggled = answer("smuggled");
    assert_eq!((status_of(&smuggled), smuggled.matches("HTTP/1.1").count()), ("200", 1), "{smuggled}");
    assert_eq!(status_of(&answer("last")), "200");
    // What came behind a request was not read as one, and nothing of the gateway's own was looked up or dialled.
    let lines = host.daemon.ledger_lines();
    assert!(!lines.iter().any(|line| line["path"] == "/smuggled"), "{lines:#?}");
    assert!(!lines.iter().any(|line| line["kind"] == "open"), "{lines:#?}");
    let asked = dns.asked();
    assert!(asked.iter().all(|(name, _)| !name.contains("arw.internal")), "{asked:?}");
    assert_eq!(usage(&host, "other")["reported"]["tokens"], Json::Null);
    // From outside there is no desk, whoever asks.
    for (method, target) in [("GET", "http://gateway.arw.internal/usage"), ("GET", "/usage")] {
        let mut client = Client::connect(host.daemon.proxy);
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: gateway.arw.internal\r\n{}\r\n",
            Daemon::credentials(PERSONA)
        ));
        let answer = client.answer();
        assert!(matches!(answer.status, 400 | 403), "{target}: {answer:?}");
    }
    wait_for("the recorded denial", || {
        let lines = host.daemon.ledger_lines();
        lines
            .iter()
            .any(|line| line["host"] == "gateway.arw.internal" && line["code"] == "special_address")
            .then_some(())
    });
}

#[test]
fn a_flood_of_reports_is_slowed_and_costs_nobody_else() {
    if !crate::can_launch() {
        return;
    }
    let flood = r#"for i in $(seq 60); do post "f$i" /usage "{\"report_id\":\"f$i\",\"tokens\":1}"; done"#;
    let manifest = format!(
        "{}{}",
        desk("flood", flood, "auto_start = true"),
        desk("calm", "sleep 1; post one /usage '{\"report_id\":\"c\",\"tokens\":1}'", "auto_start = true")
    );
    let host = Host::start(&manifest);
    host.wait_log("calm", "done");
    assert_eq!(status_of(&line(&host, "calm", "one")), "200");
    host.wait_log("flood", "done");
    let log = host.log("flood");
    let (taken, slowed) = (log.matches("HTTP/1.1 200").count(), log.matches("HTTP/1.1 429").count());
    assert!(taken >= 20 && slowed > 0 && taken + slowed == 60, "{taken} taken, {slowed} slowed");
    assert_eq!(usage(&host, "flood")["reported"]["tokens"], taken);
    let (code, body) = host.send("POST", "/automations/flood/disable", r#"{"reason": "it floods"}"#);
    assert_eq!(code, 200, "{body}");
}
