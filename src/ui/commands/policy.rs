//! `policy …` and `reload`.

use std::path::Path;

use super::context::Context;
use crate::config::Faults;
use crate::control::{ClientError, ReloadReport};
use crate::domain::{Clock, SystemClock};
use crate::policy::{PolicySettings, load};
use crate::ui::args::PolicyCommand;
use crate::ui::text::{amount, safe};
use crate::ui::{Failure, Outcome, Paint, Screen};

pub(super) fn run(command: &PolicyCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let PolicyCommand::Check { dir } = command;
    check(&context.config_dir(dir.as_deref())?, screen)
}

/// `dir` is the configuration folder, or the folder of the persona files itself.
fn check(dir: &Path, screen: &mut Screen) -> Result<Outcome, Failure> {
    let inner = dir.join("personas");
    let folder = if inner.is_dir() { inner } else { dir.to_owned() };
    let snapshot = match load(&folder, &PolicySettings::default()) {
        Ok(snapshot) => snapshot,
        Err(faults) => return show_faults(&faults, screen),
    };
    let warnings = snapshot.warnings(SystemClock.now());
    let personas = snapshot.personas().len();
    if screen.json() {
        let answer = serde_json::json!({
            "dir": folder, "personas": personas, "digest": snapshot.digest(), "faults": [], "warnings": warnings,
        });
        screen.value(&answer, false)?;
        return Ok(Outcome::Done);
    }
    for warning in &warnings {
        let text = format!("warning: {warning}");
        screen.painted(Paint::Warn, &safe(&text))?;
    }
    let personas = amount(personas as u64, "persona");
    screen.painted(Paint::Good, &format!("no faults in {personas} of {}", folder.display()))?;
    Ok(Outcome::Done)
}

/// All of them, one line each.
pub(super) fn show_faults(faults: &Faults, screen: &mut Screen) -> Result<Outcome, Failure> {
    if screen.json() {
        screen.value(&serde_json::json!({ "faults": faults }), false)?;
        return Ok(Outcome::Refused);
    }
    for fault in &faults.0 {
        screen.painted(Paint::Bad, &safe(&fault.to_string()))?;
    }
    screen.line(&amount(faults.0.len() as u64, "fault"))?;
    Ok(Outcome::Refused)
}

pub(super) async fn reload(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let report = match context.client.send::<_, ReloadReport>("/policy/reload", &serde_json::json!({})).await {
        Ok(report) => report,
        Err(ClientError::Refused(problem)) if problem.code == "policy_faults" => {
            if screen.json() {
                screen.value(&problem, false)?;
                return Ok(Outcome::Refused);
            }
            for fault in &problem.faults {
                let line = fault.line.map(|line| format!(":{line}")).unwrap_or_default();
                let hint = fault.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                let text = format!("{}{line}: {}: {}{hint}", fault.file, fault.key, fault.message);
                screen.painted(Paint::Bad, &safe(&text))?;
            }
            screen.line(&safe(&problem.detail))?;
            return Ok(Outcome::Refused);
        }
        Err(error) => return Err(error.into()),
    };
    if screen.json() {
        screen.value(&report, false)?;
    } else {
        let changed = if report.changed { "" } else { ", as before" };
        let personas = amount(report.personas, "persona");
        let text = format!("{personas} in force, generation {}{changed}", report.generation);
        screen.painted(Paint::Good, &text)?;
        if report.tunnels_ended > 0 {
            let ended = amount(report.tunnels_ended, "open tunnel");
            screen.painted(Paint::Warn, &format!("{ended} no longer allowed, and ended"))?;
        }
    }
    Ok(Outcome::Done)
}
