//! `automation …`: automations one by one; the kill switch over all of them is in `kill_switch`.

use serde_json::{Value, json};

use super::context::Context;
use super::{contributions, kill_switch};
use crate::control::escape;
use crate::ui::args::AutomationCommand;
use crate::ui::text::{cut, safe, size};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// What is kept where nobody said why: in a hurry the command works as the handbook has it.
const NO_REASON: &str = "disabled by hand, without a reason";
/// Widest detail in a table.
const DETAIL: usize = 60;

pub(super) async fn run(
    command: AutomationCommand,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    match command {
        AutomationCommand::List => list(context, screen).await,
        AutomationCommand::Status { id } => status(id.as_deref(), context, screen).await,
        AutomationCommand::Runs { id, limit } => runs(&id, limit, context, screen).await,
        AutomationCommand::Contributions { since, out } => {
            contributions::run(since, out.as_deref(), context, screen).await
        }
        AutomationCommand::Enable { id, reason } => switch(&id, "enable", Some(&reason), context, screen).await,
        AutomationCommand::Disable { id, reason } => switch(&id, "disable", reason.as_deref(), context, screen).await,
        AutomationCommand::Shutdown { reason, grace } => kill_switch::shut_down(&reason, grace, context, screen).await,
        AutomationCommand::Rearm { reason } => kill_switch::rearm(&reason, context, screen).await,
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or("-")
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

async fn list(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let status: Value = context.client.fetch("/state/automation/status").await?;
    if screen.json() {
        screen.value(&status, false)?;
        return Ok(Outcome::Done);
    }
    heading(&status, screen)?;
    table(each(&status["automations"]), screen)
}

/// What holds for all of them.
fn heading(status: &Value, screen: &mut Screen) -> Result<(), Failure> {
    if !status["latched"].is_null() {
        let line = format!("the kill switch is latched: {}", text(&status["latched"], "reason"));
        screen.painted(Paint::Bad, &safe(&line))?;
    } else if status["schedules_halted"] == true {
        screen.painted(Paint::Warn, "no schedule starts anything")?;
    }
    Ok(())
}

fn table<'v>(all: impl Iterator<Item = &'v Value>, screen: &mut Screen) -> Result<Outcome, Failure> {
    let mut table =
        Table::new(&["automation", "runtime", "persona", "state", "run", "next start", "budgets", "impacted by"]);
    for one in all {
        let impacts: Vec<&str> = each(&one["impacted"]).map(|impact| text(impact, "code")).collect();
        let paint = match (one["enabled"] == true, impacts.is_empty()) {
            (true, true) => Paint::Plain,
            (true, false) => Paint::Warn,
            (false, _) => Paint::Bad,
        };
        let budgets: Vec<String> =
            each(&one["budgets"]).map(|row| format!("{} {}", text(row, "kind"), share(row))).collect();
        let run = one["run"].as_u64().map_or_else(|| "-".to_owned(), |run| run.to_string());
        let state = if one["enabled"] == true { text(one, "state") } else { "disabled" };
        table.row(
            paint,
            &[
                text(one, "id"),
                text(one, "runtime"),
                text(one, "persona"),
                state,
                &run,
                text(one, "next_start"),
                &cut(&budgets.join(", "), DETAIL),
                &impacts.join(", "),
            ],
        );
    }
    if table.is_empty() {
        screen.line("no automation is here; see configs/runtime/automations.toml")?;
    } else {
        table.show(screen)?;
    }
    Ok(Outcome::Done)
}

/// How much of a budget is spent. What nobody meters is never nothing.
fn share(row: &Value) -> String {
    row["ratio"].as_f64().map_or_else(|| "unmetered".to_owned(), |ratio| format!("{:.0} %", (ratio * 100.0).floor()))
}

/// With an id: that one in full. Without: those that are impacted, and why.
async fn status(id: Option<&str>, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let status: Value = context.client.fetch("/state/automation/status").await?;
    let Some(id) = id else {
        if screen.json() {
            screen.value(&status, false)?;
            return Ok(Outcome::Done);
        }
        heading(&status, screen)?;
        let impacted: Vec<&Value> = each(&status["automations"]).filter(|one| one["impacted"] != json!([])).collect();
        for one in &impacted {
            screen.painted(Paint::Strong, &safe(text(one, "id")))?;
            for impact in each(&one["impacted"]) {
                screen.line(&format!("  {}: {}", text(impact, "code"), safe(text(impact, "detail"))))?;
            }
        }
        if impacted.is_empty() {
            screen.painted(Paint::Good, "no automation is impacted")?;
        }
        return Ok(Outcome::Done);
    };
    let found = each(&status["automations"])
        .find(|one| one["id"] == id)
        .or_else(|| each(&status["automations"]).find(|one| one["runtime"] == id));
    let Some(one) = found else {
        return Err(Failure::new(format!("there is no automation, and no runtime, `{}`", safe(id)))
            .advice("`arw-cli automation list` shows them"));
    };
    if screen.json() {
        screen.value(one, false)?;
        return Ok(Outcome::Done);
    }
    full(one, screen)?;
    Ok(Outcome::Done)
}

fn full(one: &Value, screen: &mut Screen) -> Result<(), Failure> {
    for (name, key) in [
        ("automation", "id"),
        ("runtime", "runtime"),
        ("persona", "persona"),
        ("state", "state"),
        ("schedule", "schedule"),
        ("next start", "next_start"),
        ("last heartbeat", "last_heartbeat"),
        ("window", "window"),
    ] {
        screen.line(&format!("{name:<16}{}", safe(text(one, key))))?;
    }
    let disabled = &one["disabled"];
    if disabled.is_object() {
        let line = format!(
            "disabled since {} by {}: {}",
            text(disabled, "since"),
            text(disabled, "by"),
            text(disabled, "reason")
        );
        screen.painted(Paint::Bad, &safe(&line))?;
    }
    for impact in each(&one["impacted"]) {
        screen.painted(Paint::Warn, &format!("{}: {}", text(impact, "code"), safe(text(impact, "detail"))))?;
    }
    let mut table = Table::new(&["budget", ">used", ">limit", ">spent"]);
    for row in each(&one["budgets"]) {
        let paint = match row["ratio"].as_f64() {
            Some(ratio) if ratio >= 1.0 => Paint::Bad,
            Some(ratio) if ratio >= 0.7 => Paint::Warn,
            _ => Paint::Plain,
        };
        table.row(paint, &[text(row, "kind"), &amount(row, "used"), &amount(row, "limit"), &share(row)]);
    }
    if !table.is_empty() {
        table.show(screen)?;
    }
    Ok(())
}

/// A number of a budget in its unit.
fn amount(row: &Value, key: &str) -> String {
    let Some(number) = row[key].as_u64() else { return "-".to_owned() };
    match text(row, "kind") {
        "wall_time" | "cpu_time" | "gpu_time" => format!("{:.1} s", number as f64 / 1e6),
        "egress" => size(number),
        "spend" => format!("{}.{:06} {}", number / 1_000_000, number % 1_000_000, text(row, "currency")),
        _ => number.to_string(),
    }
}

async fn runs(id: &str, limit: u16, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let path = format!("/automations/{}/runs?limit={limit}", escape(id));
    let answer: Value = context.client.fetch(&path).await?;
    if screen.json() {
        screen.value(&answer, false)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&[">run", "runtime", "began", "ended", "cause"]);
    for run in each(&answer["runs"]) {
        let number = run["run"].to_string();
        let cells = [&number, text(run, "runtime"), text(run, "began_at"), text(run, "ended_at"), text(run, "cause")];
        table.row(Paint::Plain, &cells);
    }
    if table.is_empty() {
        screen.line("it never ran")?;
    } else {
        table.show(screen)?;
    }
    Ok(Outcome::Done)
}

async fn switch(
    id: &str,
    action: &str,
    reason: Option<&str>,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let path = format!("/automations/{}/{action}", escape(id));
    let body = json!({ "reason": reason.unwrap_or(NO_REASON) });
    let answer: Value = context.client.send(&path, &body).await?;
    if screen.json() {
        screen.value(&answer, false)?;
        return Ok(Outcome::Done);
    }
    let one = &answer["automation"];
    let (id, runtime) = (safe(text(one, "id")), safe(text(one, "runtime")));
    let again = if answer["changed"] == true { "" } else { "already " };
    if one["enabled"] == true {
        screen.painted(Paint::Good, &format!("{id} is {again}enabled; `arw-cli runtime start {runtime}` starts it"))?;
    } else {
        screen
            .painted(Paint::Warn, &format!("{id} is {again}disabled; nobody starts {runtime} until it is enabled"))?;
        if !one["run"].is_null() {
            screen.line("its run was told to end, and is killed after its grace")?;
        }
    }
    Ok(Outcome::Done)
}
