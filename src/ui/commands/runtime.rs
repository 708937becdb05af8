//! `runtime …`: what the supervisor looks after.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::bundles;
use super::context::Context;
use super::exec;
use crate::control::SseEvent;
use crate::domain::RuntimeId;
use crate::ui::args::{LogArgs, RuntimeCommand};
use crate::ui::text::{cut, safe, size};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// How often `--wait` and `top` look.
const LOOK: Duration = Duration::from_millis(200);
/// Between two pictures of `top`.
const REFRESH: Duration = Duration::from_secs(2);
/// Longest `--wait`: what takes longer is better watched by events.
const PATIENCE: Duration = Duration::from_secs(600);
/// Widest detail in a table.
const DETAIL: usize = 48;

pub(super) async fn run(command: RuntimeCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        RuntimeCommand::Bundles(command) => bundles::run(command, context, screen),
        RuntimeCommand::List => list(context, screen).await,
        RuntimeCommand::Top => top(context, screen).await,
        RuntimeCommand::Status { id } => status(&id, context, screen).await,
        RuntimeCommand::Report { id } => report(&id, context, screen).await,
        RuntimeCommand::Deaths { id, limit } => deaths(&id, limit, context, screen).await,
        RuntimeCommand::Exec(args) => exec::run(&args, context, screen).await,
        RuntimeCommand::Logs(args) => logs(&args, context, screen).await,
        RuntimeCommand::Start { id, wait } => act(&id, "start", wait, context, screen).await,
        RuntimeCommand::Stop { id, wait } => act(&id, "stop", wait, context, screen).await,
        RuntimeCommand::Restart { id, wait } => act(&id, "restart", wait, context, screen).await,
        RuntimeCommand::Restore { id, wait } => act(&id, "restore", wait, context, screen).await,
        RuntimeCommand::Freeze { id } => act(&id, "freeze", false, context, screen).await,
        RuntimeCommand::Thaw { id } => act(&id, "thaw", false, context, screen).await,
    }
}

fn path(id: &RuntimeId) -> String {
    format!("/orchestrator/runtimes/{id}")
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("-")
}

fn paint(state: &str) -> Paint {
    match state {
        "ready" => Paint::Good,
        "degraded" | "backoff" | "frozen" => Paint::Warn,
        "quarantined" | "error" => Paint::Bad,
        _ => Paint::Plain,
    }
}

async fn list(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let all: Value = context.client.fetch("/state/runtime_supervisor").await?;
    if screen.json() {
        screen.value(&all, false)?;
    } else {
        table(&all, screen)?;
    }
    Ok(Outcome::Done)
}

fn table(all: &Value, screen: &mut Screen) -> Result<(), Failure> {
    if all["shut"] == true {
        screen.painted(Paint::Bad, "the kill switch was used: nothing starts until it is rearmed")?;
    }
    let mut table = Table::new(&["id", "state", "health", "run", "persona", "limits", "cpu", "memory", "restarts", ""]);
    for view in all["runtimes"].as_array().into_iter().flatten() {
        let usage = &view["usage"];
        let cpu = usage["cpu_seconds"].as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"));
        let memory = usage["memory_bytes"].as_u64().map_or_else(|| "-".to_owned(), size);
        let (used, max) = (&view["restarts"]["used"], &view["restarts"]["max"]);
        let run = view["run"].as_u64().map_or_else(|| "-".to_owned(), |run| run.to_string());
        let detail = cut(text(view, "detail").trim_start_matches('-'), DETAIL).into_owned();
        table.row(
            paint(text(view, "state")),
            &[
                text(view, "id"),
                text(view, "state"),
                text(view, "health"),
                &run,
                text(view, "persona"),
                &limits(view),
                &cpu,
                &memory,
                &format!("{used}/{max}"),
                &safe(&detail),
            ],
        );
    }
    if table.is_empty() {
        screen.line("no runtime is declared; see configs/runtime/runtimes.toml")?;
    } else {
        table.show(screen)?;
    }
    Ok(())
}

/// The preset that may be claimed, or that not all of it holds.
fn limits(view: &Value) -> String {
    match view["claim"]["preset"].as_str() {
        Some(preset) => preset.to_owned(),
        None if view["claim"].is_null() => text(view, "preset").to_owned(),
        None => format!("not {}", text(view, "preset")),
    }
}

async fn top(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    loop {
        let all: Value = context.client.fetch("/state/runtime_supervisor").await?;
        if screen.json() || !screen.interactive() {
            return list(context, screen).await;
        }
        // Home and clear (ECMA-48): the picture is drawn anew.
        screen.raw(b"\x1b[H\x1b[2J")?;
        table(&all, screen)?;
        screen.flush()?;
        tokio::time::sleep(REFRESH).await;
    }
}

async fn status(id: &RuntimeId, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let view: Value = context.client.fetch(&path(id)).await?;
    if screen.json() {
        screen.value(&view, false)?;
        return Ok(Outcome::Done);
    }
    show(&view, screen)?;
    Ok(Outcome::Done)
}

fn show(view: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let state = screen.paint(paint(text(view, "state")), text(view, "state"));
    line(screen, "runtime", &format!("{} ({})", text(view, "id"), safe(text(view, "name"))))?;
    line(screen, "state", &format!("{state} since {}, {}", text(view, "since"), text(view, "health")))?;
    if let Some(detail) = view["detail"].as_str() {
        line(screen, "", &safe(detail))?;
    }
    let waits = words(&view["waits_for"]);
    if !waits.is_empty() {
        line(screen, "waits for", &waits)?;
    }
    if let Some(next) = view["next_start"].as_str() {
        line(screen, "next start", next)?;
    }
    line(screen, "persona", text(view, "persona"))?;
    line(screen, "confined by", &format!("profile {}, limits {}", text(view, "profile"), limits(view)))?;
    if let Some(why) = view["throttled_by_host"].as_str() {
        line(screen, "", &format!("less CPU than the preset gives: {}", safe(why)))?;
    }
    if let Some(run) = view["run"].as_u64() {
        line(screen, "run", &format!("{run}, init {} on the host, since {}", view["pid"], text(view, "started_at")))?;
    }
    let restarts = &view["restarts"];
    line(screen, "restarts", &format!("{} of {} in {} s", restarts["used"], restarts["max"], restarts["window_secs"]))?;
    let published = words(&view["publish"]);
    if !published.is_empty() {
        line(screen, "published", &published)?;
    }
    if let Some(usage) = view["usage"].as_object() {
        let number = |key: &str| usage.get(key).and_then(Value::as_u64);
        let cpu = usage.get("cpu_seconds").and_then(Value::as_f64);
        let cpu = cpu.map_or_else(|| "CPU not known".to_owned(), |seconds| format!("{seconds:.2} s of CPU"));
        let memory = number("memory_bytes").map_or_else(|| "memory not known".to_owned(), size);
        let pids = number("pids").map_or_else(|| "-".to_owned(), |pids| pids.to_string());
        line(screen, "uses", &format!("{cpu}, {memory}, {pids} tasks"))?;
    }
    if !view["egress"].is_null() {
        let egress = &view["egress"];
        let (up, down) =
            (size(egress["bytes_up"].as_u64().unwrap_or(0)), size(egress["bytes_down"].as_u64().unwrap_or(0)));
        let (requests, denials, open) = (&egress["requests"], &egress["denials"], &egress["open"]);
        line(screen, "egress", &format!("{requests} granted, {denials} denied, {open} open, {up} up, {down} down"))?;
    }
    for budget in view["budget"].as_array().into_iter().flatten() {
        let spent =
            budget["ratio"].as_f64().map_or_else(|| "unmetered".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0));
        line(screen, "budget", &format!("{}: {spent} of {}", text(budget, "kind"), budget["limit"]))?;
    }
    if !view["last_death"].is_null() {
        line(screen, "last end", &ending(&view["last_death"]))?;
    }
    Ok(())
}

fn ending(death: &Value) -> String {
    let detail = match (death["code"].as_u64(), death["signal"].as_u64()) {
        (Some(code), _) => format!(" {code}"),
        (_, Some(signal)) => format!(" {signal}"),
        _ => String::new(),
    };
    format!("run {}: {}{detail} at {}", death["run"], text(death, "cause"), text(death, "ended"))
}

fn line(screen: &mut Screen, name: &str, value: &str) -> Result<(), Failure> {
    let heading = screen.paint(Paint::Strong, &format!("{name:<12}"));
    screen.line(&format!("{heading}{value}"))?;
    Ok(())
}

fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

async fn report(id: &RuntimeId, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let report: Value = context.client.fetch(&format!("{}/report", path(id))).await?;
    if screen.json() {
        screen.value(&report, false)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["control", "state", "why"]);
    for finding in report["report"]["findings"].as_array().into_iter().flatten() {
        // `{"control": …, "state": …, "why": …}`; an enforced one has no reason.
        row(&mut table, finding, text(finding, "state"), finding["why"].as_str());
    }
    for applied in report["applied"].as_array().into_iter().flatten() {
        row(&mut table, applied, text(applied, "outcome"), applied["reason"].as_str());
    }
    table.show(screen)?;
    let preset = text(&report, "preset");
    match report["claim"]["reduced"]["missing"].as_array() {
        None => line(screen, "preset", preset)?,
        Some(missing) => {
            let missing: Vec<&str> = missing.iter().filter_map(Value::as_str).collect();
            line(screen, "preset", &format!("not {preset}: {} not enforced", missing.join(", ")))?;
        }
    }
    Ok(Outcome::Done)
}

fn row(table: &mut Table, of: &Value, state: &str, why: Option<&str>) {
    let paint = match state {
        "enforced" => Paint::Good,
        "partial" => Paint::Warn,
        _ => Paint::Bad,
    };
    table.row(paint, &[text(of, "control"), state, &safe(why.unwrap_or(""))]);
}

async fn deaths(id: &RuntimeId, limit: u16, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let all: Value = context.client.fetch(&format!("{}/deaths?limit={limit}", path(id))).await?;
    if screen.json() {
        screen.value(&all, false)?;
        return Ok(Outcome::Done);
    }
    for death in all["deaths"].as_array().into_iter().flatten() {
        screen.painted(Paint::Strong, &ending(death))?;
        for last in death["last_lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            screen.line(&format!("    {}", safe(last)))?;
        }
    }
    Ok(Outcome::Done)
}

async fn act(
    id: &RuntimeId,
    action: &str,
    wait: bool,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let before: Value = context.client.fetch(&path(id)).await?;
    let mut view: Value = context.client.send(&format!("{}/{action}", path(id)), &serde_json::json!({})).await?;
    if wait {
        view = settled(id, action, &before, context).await?;
    }
    if screen.json() {
        screen.value(&view, false)?;
    } else {
        let state = screen.paint(paint(text(&view, "state")), text(&view, "state"));
        screen.line(&format!("{id} is {state}"))?;
        if let Some(detail) = view["detail"].as_str() {
            screen.line(&safe(detail))?;
        }
    }
    let wanted = if action == "stop" { "stopped" } else { "ready" };
    Ok(if wait && view["state"] != wanted { Outcome::Refused } else { Outcome::Done })
}

/// Waits until nothing is on its way any more.
async fn settled(id: &RuntimeId, action: &str, before: &Value, context: &Context) -> Result<Value, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view: Value = context.client.fetch(&path(id)).await?;
        let moving = matches!(text(&view, "state"), "starting" | "stopping" | "backoff")
            || !view["waits_for"].as_array().is_none_or(Vec::is_empty);
        // What was taken up and not begun yet looks like before; the moment of its state tells them apart.
        let begun = view["since"] != before["since"] || matches!(text(&view, "state"), "ready" | "degraded");
        let begun = if action == "stop" { view["state"] == "stopped" } else { begun };
        let renewed = action != "restart" || view["run"] != before["run"];
        if (!moving && begun && renewed) || Instant::now() >= deadline {
            return Ok(view);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn logs(args: &LogArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let path = format!("{}/logs?tail={}", path(&args.id), args.tail);
    if !args.follow {
        let log: Value = context.client.fetch(&path).await?;
        if screen.json() {
            screen.value(&log, false)?;
            return Ok(Outcome::Done);
        }
        for one in log["lines"].as_array().into_iter().flatten() {
            show_line(one, screen)?;
        }
        return Ok(Outcome::Done);
    }
    let mut stream = context.client.subscribe(&format!("{path}&follow=1"), None).await?;
    while let Some(SseEvent { event, data, .. }) = stream.next().await? {
        match event.as_deref() {
            Some("missed") => screen.painted(Paint::Warn, "… lines were overwritten before they were read")?,
            _ => {
                let one: Value = serde_json::from_str(&data).unwrap_or_default();
                if screen.json() {
                    screen.value(&one, true)?;
                } else {
                    show_line(&one, screen)?;
                }
            }
        }
        screen.flush()?;
    }
    Ok(Outcome::Done)
}

fn show_line(one: &Value, screen: &mut Screen) -> Result<(), Failure> {
    let paint = match text(one, "stream") {
        "err" => Paint::Warn,
        "out" => Paint::Plain,
        _ => Paint::Bad,
    };
    let stream = screen.paint(paint, text(one, "stream"));
    screen.line(&format!("{} {stream} {}", text(one, "at"), safe(text(one, "text"))))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ui::screen::capture;

    fn view() -> Value {
        json!({
            "id": "model", "name": "The \u{1b}[31mmodel", "state": "degraded", "since": "2026-11-22T12:00:00.000000Z",
            "health": "gpu_lost", "detail": "at\nwork", "run": 7, "pid": 4711, "persona": "demo", "profile": "gpu",
            "preset": "turbo", "claim": { "reduced": { "missing": ["memory_max"] } },
            "started_at": "2026-11-22T11:00:00.000000Z", "restarts": { "used": 1, "max": 3, "window_secs": 600 },
            "publish": ["127.0.0.1:8080:8000"], "waits_for": ["db:ready"], "next_start": null,
            "usage": { "cpu_seconds": 1.5, "memory_bytes": 1_048_576, "pids": 3 },
            "egress": { "requests": 4, "denials": 1, "open": 2, "bytes_up": 1_024, "bytes_down": 2_048 },
            "budget": [
                { "kind": "gpu_memory", "limit": 100, "ratio": 0.95 },
                { "kind": "tokens", "limit": 9, "ratio": null },
            ],
            "last_death": { "run": 6, "cause": "signal", "signal": 9, "ended": "2026-11-22T10:59:00.000000Z" },
            "throttled_by_host": null,
        })
    }

    #[test]
    fn a_runtime_reads_like_this() {
        assert_eq!(
            capture(|screen| show(&view(), screen).expect("shown")),
            "\
runtime     model (The \\u{1b}[31mmodel)
state       degraded since 2026-11-22T12:00:00.000000Z, gpu_lost
            at\\u{a}work
waits for   db:ready
persona     demo
confined by profile gpu, limits not turbo
run         7, init 4711 on the host, since 2026-11-22T11:00:00.000000Z
restarts    1 of 3 in 600 s
published   127.0.0.1:8080:8000
uses        1.50 s of CPU, 1.0 MiB, 3 tasks
egress      4 granted, 1 denied, 2 open, 1.0 KiB up, 2.0 KiB down
budget      gpu_memory: 95 % of 100
budget      tokens: unmetered of 9
last end    run 6: signal 9 at 2026-11-22T10:59:00.000000Z
"
        );
    }

    #[test]
    fn all_runtimes_are_a_table_and_the_kill_switch_cannot_be_overlooked() {
        let stopped = json!({
            "id": "off", "state": "stopped", "health": "well", "run": null, "persona": "demo", "preset": "eco",
            "claim": null, "restarts": { "used": 0, "max": 3 }, "usage": null, "detail": null,
        });
        let shown = capture(|screen| {
            table(&json!({ "shut": true, "runtimes": [view(), stopped] }), screen).expect("shown");
        });
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0].join(" "), "the kill switch was used: nothing starts until it is rearmed");
        let row = "model degraded gpu_lost 7 demo not turbo 1.50 s 1.0 MiB 1/3 at\\u{a}work";
        assert_eq!(lines[2].join(" "), row, "{shown}");
        assert_eq!(lines[3].join(" "), "off stopped well - demo eco - - 0/3", "{shown}");
        let none = capture(|screen| table(&json!({ "runtimes": [] }), screen).expect("shown"));
        assert_eq!(none, "no runtime is declared; see configs/runtime/runtimes.toml\n");
    }
}
