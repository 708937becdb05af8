//! Webhooks: signed, spooled, retried; at least once with the same id; to the configured address only.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use arw::domain::hmac_sha256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use crate::support::certificates::Authority;
use crate::support::origin::Seen;
use crate::support::{Daemon, Origin, Script, wait_for};
use crate::{
    AGENT, FILE, SECRET, alerts, board, cli, deny, metric, of_code, reach, route, start, wait_alert, wait_raised,
    webhook,
};

/// The one value of a field.
fn field(seen: &Seen, name: &str) -> String {
    let values = seen.fields(name);
    assert_eq!(values.len(), 1, "{name}: {}", seen.head);
    values[0].to_owned()
}

/// The event of a request whose signature is right.
fn event(seen: &Seen) -> Json {
    let (id, time) = (field(seen, "webhook-id"), field(seen, "webhook-timestamp"));
    let digest = hmac_sha256(SECRET.as_bytes(), &[id.as_bytes(), b".", time.as_bytes(), b".", &seen.body]);
    assert_eq!(field(seen, "webhook-signature"), format!("v1,{}", STANDARD.encode(digest)));
    let event: Json = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(event["id"], id.as_str());
    event
}

/// Requests whose event is of this alert.
fn of_alert(receiver: &Origin, code: &str) -> Vec<Seen> {
    receiver.seen().into_iter().filter(|seen| event(seen)["data"]["code"] == code).collect()
}

fn wait_event(receiver: &Origin, kind: &str, code: &str) -> Json {
    wait_for(&format!("{kind} of {code}"), || {
        receiver.seen().iter().map(event).find(|event| event["type"] == kind && event["data"]["code"] == code)
    })
}

#[test]
fn repeated_denials_reach_the_pager_signed_and_somebody_says_that_they_have_seen_it() {
    let (origin, receiver) = (Origin::http(), Origin::http());
    let daemon =
        start(&alerts(&webhook("pager", &receiver, "/hook?team=a", "severity = \"critical\"")), &origin, |setup| setup);
    deny(&daemon, 2);
    reach(&daemon, &origin, "origin.test");
    wait_alert(&daemon, "active", "new_domain");
    assert_eq!(of_code(&board(&daemon), "active", "policy_denials").len(), 0, "two are not three");
    deny(&daemon, 1);
    let raised = wait_event(&receiver, "alert.raised", "policy_denials");
    let data = &raised["data"];
    assert_eq!((data["severity"].as_str(), data["persona"].as_str()), (Some("critical"), Some(AGENT)));
    assert_eq!((data["step"].as_str(), data["escalation"].as_u64()), (Some("raised"), Some(0)));
    assert!(data["summary"].as_str().unwrap().contains("3 denials"), "{raised}");
    assert_eq!(of_alert(&receiver, "new_domain").len(), 0, "the pager is for what is critical");

    let seen = receiver.seen()[0].clone();
    assert_eq!(seen.request_line(), "POST /hook?team=a HTTP/1.1");
    assert_eq!(field(&seen, "content-type"), "application/cloudevents+json; charset=utf-8");
    assert_eq!(field(&seen, "host"), receiver.addr().to_string());
    assert!(seen.fields("authorization").is_empty());
    // Checked once more by somebody else's HMAC.
    let check = "import base64, hashlib, hmac, sys\n\
                 id, time, signature, secret = sys.argv[1:]\n\
                 message = id.encode() + b'.' + time.encode() + b'.' + sys.stdin.buffer.read()\n\
                 digest = hmac.new(secret.encode(), message, hashlib.sha256).digest()\n\
                 sys.exit(0 if 'v1,' + base64.b64encode(digest).decode() == signature else 3)";
    let fields = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| field(&seen, name));
    let mut python =
        Command::new("python3").args(["-c", check]).args(&fields).arg(SECRET).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), &seen.body).unwrap();
    assert!(python.wait().unwrap().success());

    let id = data["id"].as_str().unwrap();
    let (code, problem) = cli(&daemon, &["alerts", "ack", "alert-0000", "--note", "x"]);
    assert_eq!((code, problem["error"]["code"].as_str()), (Some(1), Some("no_such_alert")), "{problem}");
    let (code, alert) = cli(&daemon, &["alerts", "ack", id, "--note", "the crawler was told"]);
    assert_eq!(code, Some(0), "{alert}");
    assert_eq!(alert["acknowledged"]["note"], "the crawler was told");
    assert!(alert["cleared"].is_null() && alert["respond_by"].is_null(), "it lasts: {alert}");
    let audit = wait_for("the audit", || {
        let lines = crate::lines_of(&daemon.state_dir().join("audit"));
        lines.into_iter().find(|line| line["audit"]["action"] == "alert_acknowledged")
    });
    assert_eq!(audit["detail"], "the crawler was told");
    assert!(audit["audit"]["actor"].as_str().unwrap().contains("uid="), "{audit}");
    assert!(audit["audit"]["after"].as_str().unwrap().contains(id), "{audit}");
    assert_eq!(metric(&daemon, "arw_alerts_active{severity=\"critical\"}"), 1.0);
    assert_eq!(metric(&daemon, "arw_sink_sent_total{route=\"pager\"}"), 1.0);
    assert!(!daemon.log().contains(SECRET) && !board(&daemon).to_string().contains(SECRET));
}

#[test]
fn what_was_spooled_when_the_daemon_was_killed_is_delivered_by_the_next_one_with_the_same_id() {
    let (origin, receiver) = (Origin::http(), Origin::http());
    receiver.on("/hook", Script::raw("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
    let mut daemon = start(&alerts(&(webhook("pager", &receiver, "/hook", "") + FILE)), &origin, |setup| setup);
    deny(&daemon, 3);
    let first = wait_event(&receiver, "alert.raised", "policy_denials");
    wait_for("the attempt to have failed", || (route(&board(&daemon), "pager")["failures"] != 0).then_some(()));
    let alert = wait_alert(&daemon, "active", "policy_denials");
    daemon.kill9();
    receiver.on("/hook", Script::ok(""));
    let before = receiver.seen().len();
    daemon.restart();
    wait_for("the delivery", || {
        let later = receiver.seen().split_off(before);
        later.iter().map(event).any(|event| event["id"] == first["id"]).then_some(())
    });
    wait_for("an empty spool", || (route(&board(&daemon), "pager")["waiting"] == 0).then_some(()));
    let ids: BTreeSet<String> =
        of_alert(&receiver, "policy_denials").iter().map(|seen| field(seen, "webhook-id")).collect();
    let raised = crate::lines(&daemon, "alerts.jsonl");
    let raised = raised.iter().filter(|event| event["type"] == "alert.raised" && event["data"]["id"] == alert["id"]);
    assert_eq!(raised.count(), 1, "raised once");
    // Its window is forgotten with the daemon, so it is over; it was not raised anew.
    let all = [
        of_code(&board(&daemon), "active", "policy_denials").len(),
        of_code(&board(&daemon), "cleared", "policy_denials").len(),
    ];
    assert_eq!(all.iter().sum::<usize>(), 1, "{all:?} {ids:?}");
}

#[test]
fn an_end_between_delivery_and_taking_note_of_it_delivers_once_more_with_the_same_id() {
    let (origin, receiver) = (Origin::http(), Origin::http());
    // It has the event, and does not say so before the daemon is dead.
    receiver.on("/hook", Script::quiet().then_read_body().then_wait());
    let mut daemon = start(&alerts(&webhook("pager", &receiver, "/hook", "")), &origin, |setup| setup);
    deny(&daemon, 3);
    let first = wait_event(&receiver, "alert.raised", "policy_denials");
    daemon.kill9();
    receiver.on("/hook", Script::ok(""));
    daemon.restart();
    let again = wait_for("the second delivery", || {
        let seen = of_alert(&receiver, "policy_denials");
        seen.into_iter().map(|seen| event(&seen)).filter(|event| event["id"] == first["id"]).nth(1)
    });
    assert_eq!(again, first, "to the byte");
}

#[test]
fn a_redirect_is_not_followed_and_the_environments_proxy_is_not_asked() {
    let (origin, receiver, elsewhere) = (Origin::http(), Origin::http(), Origin::http());
    let moved =
        format!("HTTP/1.1 307 Moved\r\nLocation: http://{}/stolen\r\nContent-Length: 0\r\n\r\n", elsewhere.addr());
    receiver.on("/hook", Script::raw(moved));
    let proxy = format!("http://{}", elsewhere.addr());
    let daemon = start(&alerts(&webhook("pager", &receiver, "/hook", "")), &origin, |setup| {
        setup.env("HTTP_PROXY", &proxy).env("http_proxy", &proxy).env("ALL_PROXY", &proxy)
    });
    deny(&daemon, 3);
    let trouble = wait_for("a second attempt", || {
        let route = route(&board(&daemon), "pager");
        (route["failures"].as_u64() >= Some(2)).then(|| route["fault"].clone())
    });
    assert!(trouble.as_str().unwrap().contains("307"), "{trouble}");
    assert_eq!(elsewhere.connections(), 0);
    receiver.on("/hook", Script::ok(""));
    wait_for("the delivery", || (route(&board(&daemon), "pager")["sent"] != 0).then_some(()));
}

#[test]
fn an_event_that_the_receiver_refuses_for_good_does_not_hold_up_the_next() {
    let (origin, receiver) = (Origin::http(), Origin::http());
    receiver.on("/hook", Script::raw("HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n"));
    let daemon = start(&alerts(&webhook("pager", &receiver, "/hook", "")), &origin, |setup| setup);
    reach(&daemon, &origin, "origin.test");
    wait_for("the loss to be counted", || (route(&board(&daemon), "pager")["lost"] != 0).then_some(()));
    receiver.on("/hook", Script::ok(""));
    deny(&daemon, 3);
    wait_event(&receiver, "alert.raised", "policy_denials");
    wait_raised(&daemon, "sink_losing");
}

#[test]
fn tls_is_verified_against_the_named_roots_and_the_configured_name() {
    let origin = Origin::http();
    let (trusted, other) = (Authority::new(), Authority::new());
    let good = Origin::https(trusted.server_config(&["127.0.0.1", "hooks.test"]));
    let stranger = Origin::https(other.server_config(&["127.0.0.1"]));
    let misnamed = Origin::https(trusted.server_config(&["elsewhere.test"]));
    let route = |name: &str, host: String| {
        format!(
            "[[routes]]\nname = \"{name}\"\nsink = \"webhook\"\nsecret_file = \"webhook.secret\"\nca_file = \"roots.pem\"\nurl = \"https://{host}/hook\"\n"
        )
    };
    let routes = [
        route("good", good.addr().to_string()),
        route("named", format!("hooks.test:{}", good.port())),
        route("stranger", stranger.addr().to_string()),
        route("misnamed", misnamed.addr().to_string()),
    ];
    let daemon = start(&alerts(&routes.concat()), &origin, |setup| {
        setup.file("roots.pem", trusted.pem.clone()).host("hooks.test", &["127.0.0.1"])
    });
    for (name, delivered) in [("good", true), ("named", true), ("stranger", false), ("misnamed", false)] {
        let (code, trial) = cli(&daemon, &["alerts", "test", name]);
        assert_eq!(
            (code, trial["delivered"].as_bool()),
            (Some(i32::from(!delivered)), Some(delivered)),
            "{name}: {trial}"
        );
        assert_eq!(trial["detail"].is_null(), delivered, "{trial}");
    }
    assert_eq!(stranger.seen().len() + misnamed.seen().len(), 0, "not a byte of HTTP");
    let tried: Vec<Json> = good.seen().iter().map(event).collect();
    assert_eq!(tried.len(), 2);
    assert!(tried.iter().all(|event| event["data"]["code"] == "test" && event["type"] == "alert.raised"));
    let (code, problem) = cli(&daemon, &["alerts", "test", "nobody"]);
    assert_eq!((code, problem["error"]["code"].as_str()), (Some(1), Some("no_such_alert_route")));
}

#[test]
fn a_full_spool_loses_what_comes_counts_it_and_says_so_by_another_route() {
    let (origin, receiver) = (Origin::http(), Origin::http());
    receiver.on("/hook", Script::raw("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"));
    let siem = webhook("siem", &receiver, "/hook", "events = [\"egress.*\", \"alert.*\"]\nspool = \"64KiB\"");
    let daemon = start(&alerts(&(siem + FILE)), &origin, |setup| setup);
    // Half of 64 KiB for what is no alert: some two hundred events.
    for number in 0..400 {
        reach(&daemon, &origin, &format!("h{number}.origin.test"));
    }
    wait_for("loss", || (route(&board(&daemon), "siem")["lost"] != 0).then_some(()));
    wait_raised(&daemon, "sink_losing");
    let alert = wait_for("the other route", || {
        crate::lines(&daemon, "alerts.jsonl").into_iter().find(|event| event["data"]["code"] == "sink_losing")
    });
    assert_eq!(alert["data"]["subject"], "siem");
    assert!(metric(&daemon, "arw_sink_lost_total{route=\"siem\"}") > 0.0);
    let waiting = route(&board(&daemon), "siem")["waiting"].as_u64().unwrap();
    assert!((50..2_000).contains(&waiting), "{waiting}");
    let bytes: u64 = std::fs::read_dir(daemon.state_dir().join("alerts/siem"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 64 << 10, "{bytes}");
    // What is there is delivered once somebody takes it, alerts too.
    receiver.on("/hook", Script::ok(""));
    wait_for("an empty spool", || (route(&board(&daemon), "siem")["waiting"] == 0).then_some(()));
    assert!(of_alert(&receiver, "sink_losing").iter().any(|seen| event(seen)["type"] == "alert.raised"));
}

#[test]
fn the_second_line_hears_of_what_the_first_did_not_acknowledge_in_time() {
    let (origin, first, second) = (Origin::http(), Origin::http(), Origin::http());
    let routes = webhook("first", &first, "/hook", "severity = \"critical\"")
        + &webhook("second", &second, "/hook", "severity = \"critical\"\nafter_escalation = 1");
    let daemon = start(&format!("{}\n[respond]\ncritical = \"2s\"\n", alerts(&routes)), &origin, |setup| setup);
    deny(&daemon, 3);
    let raised = wait_event(&first, "alert.raised", "policy_denials");
    let escalated = wait_event(&second, "alert.raised", "policy_denials");
    assert_eq!(
        (escalated["data"]["id"].clone(), escalated["data"]["step"].as_str()),
        (raised["data"]["id"].clone(), Some("escalated"))
    );
    assert!(escalated["data"]["escalation"].as_u64() >= Some(1));
    assert!(of_alert(&second, "policy_denials").iter().all(|seen| event(seen)["data"]["escalation"] != 0));
    let (code, _) = cli(&daemon, &["alerts", "ack", raised["data"]["id"].as_str().unwrap(), "--note", "on it"]);
    assert_eq!(code, Some(0));
    let escalation = of_code(&board(&daemon), "active", "policy_denials")[0]["escalation"].clone();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(
        of_code(&board(&daemon), "active", "policy_denials")[0]["escalation"],
        escalation,
        "nobody is waited for"
    );
}

#[test]
fn what_was_taken_is_not_sent_again_because_the_rest_of_the_answer_never_comes() {
    let (origin, receiver) = (Origin::http(), Origin::http());
    receiver.on("/hook", Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthanks").then_hold());
    let routes = webhook("pager", &receiver, "/hook", "events = [\"egress.new_domain\"]");
    let daemon = start(&alerts(&routes), &origin, |setup| setup);
    for number in 0..3 {
        reach(&daemon, &origin, &format!("h{number}.origin.test"));
    }
    let status = wait_for("all three", || Some(route(&board(&daemon), "pager")).filter(|status| status["sent"] == 3));
    assert_eq!((&status["failures"], &status["waiting"]), (&0.into(), &0.into()), "{status}");
    assert_eq!(receiver.seen().iter().map(event).filter(|event| event["type"] == "egress.new_domain").count(), 3);
}

#[test]
fn one_daemon_does_not_wait_for_a_receiver_that_never_answers() {
    let (origin, hanging, receiver) = (Origin::http(), Origin::raw(Script::quiet().then_hold()), Origin::http());
    let routes = webhook("hanging", &hanging, "/hook", "events = [\"egress.*\", \"alert.*\"]")
        + &webhook("pager", &receiver, "/hook", "");
    let mut daemon = start(&alerts(&routes), &origin, |setup| setup);
    for number in 0..50 {
        reach(&daemon, &origin, &format!("h{number}.origin.test"));
    }
    deny(&daemon, 3);
    wait_event(&receiver, "alert.raised", "policy_denials");
    hanging.wait_for_connections(1);
    assert!(route(&board(&daemon), "hanging")["waiting"].as_u64() >= Some(50));
    // Nor does its end.
    let begun = std::time::Instant::now();
    daemon.sigterm();
    assert_eq!(daemon.wait_for_exit(), Some(0), "{}", daemon.log());
    assert!(begun.elapsed() < crate::support::PATIENCE);
    let _: Daemon = daemon;
}
