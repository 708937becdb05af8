//! `alerts …`.

use serde_json::{Value, json};

use super::context::Context;
use crate::ui::args::AlertsCommand;
use crate::ui::text::{cut, safe};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// Widest summary in a table.
const WIDTH: usize = 72;

pub(super) async fn run(command: AlertsCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        AlertsCommand::List { cleared } => {
            let board: Value = context.client.fetch("/state/alerts").await?;
            if screen.json() {
                screen.value(&board, false)?;
            } else {
                show(&board, cleared, screen)?;
            }
            Ok(Outcome::Done)
        }
        AlertsCommand::Ack { id, note } => {
            let alert: Value = context.client.send(&format!("/alerts/{id}/ack"), &json!({ "note": note })).await?;
            if screen.json() {
                screen.value(&alert, false)?;
            } else if alert["cleared"].is_null() {
                screen.line(&format!("{id} is acknowledged; it is active until what it tells of is over"))?;
            } else {
                screen.line(&format!("{id} is acknowledged, and over"))?;
            }
            Ok(Outcome::Done)
        }
        AlertsCommand::Test { route } => {
            let trial: Value = context.client.send("/alerts/test", &json!({ "route": route })).await?;
            let delivered = trial["delivered"] == true;
            if screen.json() {
                screen.value(&trial, false)?;
            } else if delivered {
                let event = safe(trial["event"].as_str().unwrap_or("-")).into_owned();
                screen.painted(Paint::Good, &format!("the sink of {route} took event {event}"))?;
            } else {
                let why = safe(trial["detail"].as_str().unwrap_or("-")).into_owned();
                screen.painted(Paint::Bad, &format!("the sink of {route} did not take it: {why}"))?;
            }
            Ok(if delivered { Outcome::Done } else { Outcome::Refused })
        }
    }
}

fn show(board: &Value, cleared: bool, screen: &mut Screen) -> Result<(), Failure> {
    let all = |key: &str| board[key].as_array().cloned().unwrap_or_default();
    let mut table = Table::new(&["id", "severity", "code", ">count", "since", "state", "summary"]);
    let over = if cleared { all("cleared") } else { Vec::new() };
    for alert in all("active").iter().chain(&over) {
        let text = |key: &str| safe(alert[key].as_str().unwrap_or("-")).into_owned();
        let summary = summary(alert);
        let count = alert["count"].as_u64().unwrap_or(1).to_string();
        let row = [
            text("id"),
            text("severity"),
            text("code"),
            count,
            text("raised_at"),
            state(alert),
            cut(&summary, WIDTH).into_owned(),
        ];
        table.row(paint(alert), &row.each_ref().map(String::as_str));
    }
    if table.is_empty() {
        screen.painted(Paint::Good, "no alert is active")?;
    } else {
        table.show(screen)?;
    }
    if let Some(dropped) = board["dropped"].as_u64().filter(|dropped| *dropped > 0) {
        screen.painted(Paint::Warn, &format!("there was no room for {dropped} more"))?;
    }
    let routes = all("routes");
    if routes.is_empty() {
        screen.line("no route is configured; see configs/alerts.toml")?;
        return Ok(());
    }
    screen.line("")?;
    let mut table = Table::new(&["route", "sink", ">sent", ">waiting", ">lost", "trouble"]);
    for route in &routes {
        let text = |key: &str| safe(route[key].as_str().unwrap_or("-")).into_owned();
        let number = |key: &str| route[key].as_u64().unwrap_or(0).to_string();
        let trouble = text("fault");
        let row = [
            text("name"),
            text("sink"),
            number("sent"),
            number("waiting"),
            number("lost"),
            cut(&trouble, WIDTH).into_owned(),
        ];
        let paint = if route["fault"].is_null() { Paint::Plain } else { Paint::Bad };
        table.row(paint, &row.each_ref().map(String::as_str));
    }
    table.show(screen)?;
    Ok(())
}

fn paint(alert: &Value) -> Paint {
    match alert["severity"].as_str() {
        _ if !alert["cleared"].is_null() => Paint::Faint,
        Some("critical") => Paint::Bad,
        Some("warning") => Paint::Warn,
        _ => Paint::Plain,
    }
}

/// Who is expected to do what.
fn state(alert: &Value) -> String {
    if let Some(why) = alert["cleared"]["why"].as_str() {
        return format!("cleared: {}", safe(why));
    }
    if let Some(by) = alert["acknowledged"]["by"].as_str() {
        return format!("acknowledged by {}", safe(by));
    }
    match (alert["escalation"].as_u64(), alert["respond_by"].as_str()) {
        (Some(times), _) if times > 0 => format!("escalated {times} times"),
        (_, Some(by)) => format!("respond by {}", safe(by)),
        _ => "active".to_owned(),
    }
}

/// With what it was seen of.
fn summary(alert: &Value) -> String {
    let samples: Vec<&str> = alert["samples"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let summary = safe(alert["summary"].as_str().unwrap_or("-")).into_owned();
    if samples.is_empty() { summary } else { format!("{summary}: {}", safe(&samples.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::screen::capture;

    #[test]
    fn the_list_says_what_is_wrong_who_has_seen_it_and_how_it_is_sent() {
        let board = json!({
            "active": [
                { "id": "alert-1", "severity": "critical", "code": "policy_denials", "count": 1, "raised_at": "T1",
                  "escalation": 2, "respond_by": "T2", "summary": "`a` had 20 denials", "samples": [] },
                { "id": "alert-2", "severity": "warning", "code": "new_domain", "count": 9, "raised_at": "T1",
                  "escalation": 0, "respond_by": null, "acknowledged": { "by": "unix:uid=0" },
                  "summary": "`a` reached hosts", "samples": ["x.example", "e\u{1b}[2Jvil.example"] },
            ],
            "cleared": [{ "id": "alert-0", "cleared": { "why": "over" } }],
            "routes": [{ "name": "pager", "sink": "webhook", "sent": 3, "waiting": 1, "lost": 0, "fault": "refused" }],
            "dropped": 2,
        });
        let shown = capture(|screen| show(&board, false, screen).expect("shown"));
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].contains("escalated 2 times") && lines[1].contains("20 denials"), "{shown}");
        assert!(lines[2].contains("acknowledged by unix:uid=0") && lines[2].contains("x.example"), "{shown}");
        assert!(!shown.contains('\u{1b}') && !shown.contains("alert-0"), "{shown}");
        assert!(shown.contains("no room for 2 more") && shown.contains("refused"), "{shown}");
        let shown = capture(|screen| show(&board, true, screen).expect("shown"));
        assert!(shown.contains("alert-0") && shown.contains("cleared: over"), "{shown}");
    }
}
