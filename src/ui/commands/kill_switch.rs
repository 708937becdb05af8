//! `automation shutdown|rearm`: the kill switch and its release, with a daemon and without one.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::context::Context;
use crate::control::ClientError;
use crate::domain::SystemClock;
use crate::governance::audit::Actor;
use crate::governance::switch::{self, SwitchFault};
use crate::store::{LatchFile, StoreFault};
use crate::ui::text::safe;
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// Uses it.
pub(super) async fn shut_down(
    reason: &str,
    grace: Option<Duration>,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let mut body = json!({ "kind": "automation_shutdown", "reason": reason });
    if let Some(grace) = grace {
        body["grace_secs"] = grace.as_secs().into();
    }
    match context.client.send::<_, Value>("/actions", &body).await {
        Ok(position) => shown(&position, screen),
        Err(fault) if absent(&fault) => shutdown_offline(reason, &fault, context, screen),
        Err(fault) => Err(fault.into()),
    }
}

/// Releases it.
pub(super) async fn rearm(reason: &str, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let body = json!({ "kind": "automation_rearm", "reason": reason });
    match context.client.send::<_, Value>("/actions", &body).await {
        Ok(position) if screen.json() => {
            screen.value(&position, false)?;
            Ok(Outcome::Done)
        }
        Ok(_) => {
            screen.line("released: runtimes and leases stay as they are until somebody starts or grants them")?;
            Ok(Outcome::Done)
        }
        Err(fault) if absent(&fault) => rearm_offline(reason, fault, context, screen).await,
        Err(fault) => Err(fault.into()),
    }
}

/// Whether the daemon did not get the request, or did not answer: then the disk is asked.
const fn absent(fault: &ClientError) -> bool {
    matches!(
        fault,
        ClientError::NotRunning { .. }
            | ClientError::Forbidden { .. }
            | ClientError::Exchange(_)
            | ClientError::Timeout(_)
    )
}

fn shown(position: &Value, screen: &mut Screen) -> Result<Outcome, Failure> {
    if screen.json() {
        screen.value(position, false)?;
        return Ok(Outcome::Done);
    }
    let report = &position["shutdown"];
    let text = |key: &str| safe(report[key].as_str().unwrap_or("-")).into_owned();
    let again = if report["already_latched"] == true { "already " } else { "" };
    screen.painted(
        Paint::Bad,
        &format!("{again}latched since {} by {}: {}", text("since"), text("by"), text("reason")),
    )?;
    let mut table = Table::new(&["step", "ended", "took", "done after", ""]);
    for step in report["steps"].as_array().into_iter().flatten() {
        let number = |key: &str| step[key].as_u64().unwrap_or(0);
        let left: Vec<&str> = step["left"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut remark = safe(step["fault"].as_str().unwrap_or_default()).into_owned();
        if !left.is_empty() {
            remark = format!("still there: {}", left.join(", "));
        }
        let paint = if remark.is_empty() { Paint::Plain } else { Paint::Warn };
        table.row(
            paint,
            &[
                step["step"].as_str().unwrap_or("-"),
                &number("count").to_string(),
                &format!("{} ms", number("took_ms")),
                &format!("{} ms", number("done_ms")),
                &remark,
            ],
        );
    }
    table.show(screen)?;
    if report["done"] != true {
        screen.painted(Paint::Warn, "runtimes are within their grace still; `--grace 0s` kills them at once")?;
    }
    screen.line("nothing leaves and nothing starts until `arw-cli automation rearm --reason …`")?;
    Ok(Outcome::Done)
}

fn actor() -> Actor {
    Actor::offline(nix::unistd::getuid().as_raw())
}

fn latch(folder: &Path) -> Result<LatchFile, Failure> {
    match folder.is_dir() {
        true => Ok(LatchFile::new(folder)),
        false => Err(Failure::new(format!("there is no state folder `{}`", folder.display()))
            .advice("name the daemon's with --state-dir")),
    }
}

/// Latches on the disk: a daemon that did not answer sees it, and one that starts comes up latched.
fn shutdown_offline(
    reason: &str,
    fault: &ClientError,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let folder = &context.offline()?.state_dir;
    let file = latch(folder)?;
    let already = switch::latch_offline(&file, reason, &actor(), &SystemClock).map_err(|refused| failed(&refused))?;
    if screen.json() {
        let path = file.path().display().to_string();
        screen.value(&json!({ "latched": true, "offline": true, "already_latched": already, "file": path }), false)?;
        return Ok(Outcome::Done);
    }
    let again = if already { "already " } else { "" };
    screen.painted(Paint::Bad, &format!("{again}latched on the disk: `{}`", file.path().display()))?;
    screen.line(&format!("the daemon was not asked: {}", safe(&fault.to_string())))?;
    screen.line(
        "one that runs on this folder obeys within a second; one that starts comes up latched and ends what it adopts",
    )?;
    Ok(Outcome::Done)
}

async fn rearm_offline(
    reason: &str,
    fault: ClientError,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    if !matches!(fault, ClientError::NotRunning { .. }) {
        // Somebody is there: only it may release.
        return Err(fault.into());
    }
    let folder = context.offline()?.state_dir.clone();
    let file = latch(&folder)?;
    switch::rearm_offline(&file, &folder, reason, &actor(), &SystemClock).await.map_err(|refused| match refused {
        SwitchFault::Store(StoreFault::InUse(_)) => Failure::from(fault),
        refused => failed(&refused),
    })?;
    if screen.json() {
        screen.value(&json!({ "latched": false, "offline": true }), false)?;
    } else {
        screen.line("released on the disk: the next daemon starts as its manifests say")?;
    }
    Ok(Outcome::Done)
}

fn failed(fault: &SwitchFault) -> Failure {
    Failure::new("the kill switch stays as it is").because(fault)
}
