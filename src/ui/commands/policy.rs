//! `policy …` and `reload`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::context::Context;
use crate::config::Faults;
use crate::control::{ClientError, ReloadReport, SimulateRequest};
use crate::domain::{Clock, SystemClock};
use crate::governance::authority::{Policy, Question, read_cases};
use crate::policy::{PolicySettings, Snapshot, load};
use crate::ui::args::{PolicyCommand, SimulateArgs};
use crate::ui::text::{amount, count, safe};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

pub(super) async fn run(command: PolicyCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        PolicyCommand::Check { path: Some(path) } if is_policy(&path) => match Policy::load(Some(&path)) {
            Ok(policy) => show_checked(&path, None, Some(&policy), screen),
            Err(faults) => show_faults(&faults, screen),
        },
        PolicyCommand::Check { path } => {
            let policy = match &path {
                // Of a folder that was named, its own; the settings are about another.
                Some(dir) => {
                    ["policy.json", "policy.cedar"].map(|name| dir.join(name)).into_iter().find(|file| file.exists())
                }
                None => context.policy_file()?,
            };
            check(&context.config_dir(path.as_deref())?, policy.as_deref(), screen)
        }
        PolicyCommand::Status => status(context, screen).await,
        PolicyCommand::Simulate(args) => simulate(args, context, screen).await,
        PolicyCommand::Test { file, dir, policy } => {
            let policy = match policy {
                Some(policy) => Some(policy),
                None => context.policy_file()?,
            };
            test(&file, &context.config_dir(dir.as_deref())?, policy.as_deref(), screen)
        }
    }
}

fn is_policy(path: &Path) -> bool {
    !path.is_dir() && path.extension().is_some_and(|ending| ending == "json" || ending == "cedar")
}

/// `dir` is the configuration folder, or the folder of the persona files itself.
fn persona_folder(dir: &Path) -> PathBuf {
    let inner = dir.join("personas");
    if inner.is_dir() { inner } else { dir.to_owned() }
}

fn check(dir: &Path, policy: Option<&Path>, screen: &mut Screen) -> Result<Outcome, Failure> {
    let folder = persona_folder(dir);
    let mut faults = Faults::default();
    let snapshot = faults.gather(load(&folder, &PolicySettings::default()));
    let authority = faults.gather(Policy::load(policy));
    match (snapshot, authority) {
        (Some(snapshot), Some(authority)) => {
            let authority = (!authority.is_open()).then_some(&authority);
            show_checked(&folder, Some(&snapshot), authority, screen)
        }
        _ => show_faults(&faults, screen),
    }
}

fn show_checked(
    path: &Path,
    snapshot: Option<&Snapshot>,
    policy: Option<&Policy>,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let warnings = snapshot.map(|snapshot| snapshot.warnings(SystemClock.now())).unwrap_or_default();
    let summary = policy.map(Policy::summary);
    if screen.json() {
        let mut answer = json!({ "faults": [], "warnings": warnings });
        if let Some(snapshot) = snapshot {
            answer["dir"] = json!(path);
            answer["personas"] = json!(snapshot.personas().len());
            answer["digest"] = json!(snapshot.digest());
        }
        if let Some(summary) = summary {
            answer["policy"] = json!(summary);
        }
        screen.value(&answer, false)?;
        return Ok(Outcome::Done);
    }
    for warning in &warnings {
        let text = format!("warning: {warning}");
        screen.painted(Paint::Warn, &safe(&text))?;
    }
    if let Some(snapshot) = snapshot {
        let personas = amount(snapshot.personas().len() as u64, "persona");
        screen.painted(Paint::Good, &format!("no faults in {personas} of {}", path.display()))?;
    }
    if let Some(summary) = summary {
        let (grants, denials) = (amount(summary.grants as u64, "grant"), amount(summary.forbids as u64, "denial"));
        let file = summary.file.unwrap_or_default();
        screen.painted(Paint::Good, &format!("no faults in {grants} and {denials} of {}", file.display()))?;
    }
    Ok(Outcome::Done)
}

/// All of them, one line each.
pub(super) fn show_faults(faults: &Faults, screen: &mut Screen) -> Result<Outcome, Failure> {
    if screen.json() {
        screen.value(&json!({ "faults": faults }), false)?;
        return Ok(Outcome::Refused);
    }
    for fault in &faults.0 {
        screen.painted(Paint::Bad, &safe(&fault.to_string()))?;
    }
    screen.line(&amount(faults.0.len() as u64, "fault"))?;
    Ok(Outcome::Refused)
}

async fn status(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let state: Value = context.client.fetch("/state/policy").await?;
    if screen.json() {
        screen.value(&state, false)?;
        return Ok(Outcome::Done);
    }
    match state["source"].as_str() {
        Some("none") | None => {
            screen.painted(Paint::Warn, "no policy file: an administrator may do everything")?;
        }
        Some(source) => {
            let file = state["file"].as_str().unwrap_or_default();
            let number = |key: &str| state[key].as_u64().unwrap_or(0);
            let (grants, denials) = (amount(number("grants"), "grant"), amount(number("forbids"), "denial"));
            let text = format!("{source}  {file}  {grants}, {denials}");
            screen.line(&safe(&text))?;
        }
    }
    let mut table = Table::new(&["DENIED", ">ASKED", ">SIMULATED"]);
    let denials = state["denials"].as_array().map(Vec::as_slice).unwrap_or_default();
    for denied in denials {
        let number = |key: &str| count(denied[key].as_u64().unwrap_or(0));
        let action = denied["action"].as_str().unwrap_or_default();
        table.row(Paint::Plain, &[action, &number("asked"), &number("simulated")]);
    }
    if denials.is_empty() {
        screen.painted(Paint::Faint, "nothing was denied since the start")?;
    } else {
        table.show(screen)?;
    }
    Ok(Outcome::Done)
}

async fn simulate(args: SimulateArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let SimulateArgs { url, persona, method, principal, action, resource, leases, file } = args;
    let answer: Value = match (file, principal, action, resource) {
        (Some(file), Some(principal), Some(action), Some(resource)) => {
            let policy = match Policy::load(Some(&file)) {
                Ok(policy) => policy,
                Err(faults) => return show_faults(&faults, screen),
            };
            let ruling = policy.decide(&Question { principal, action, resource, leases });
            let mut answer = json!(ruling);
            answer["decision"] = if ruling.allowed { "allow" } else { "deny" }.into();
            answer
        }
        (_, principal, action, resource) => {
            let request = SimulateRequest {
                principal,
                action,
                resource,
                leases,
                persona,
                url,
                method,
                ..SimulateRequest::default()
            };
            context.client.send("/policy/simulate", &request).await?
        }
    };
    let decision = answer["decision"].as_str().unwrap_or_default().to_owned();
    if screen.json() {
        screen.value(&answer, false)?;
    } else {
        let paint = match decision.as_str() {
            "allow" => Paint::Good,
            "would_deny" => Paint::Warn,
            _ => Paint::Bad,
        };
        let facts = ["code", "rule", "lease", "detail"].into_iter().filter_map(|key| {
            let value = answer[key].as_str()?;
            Some(format!("  {key:<7}{}", safe(value)))
        });
        screen.painted(paint, &safe(&decision))?;
        for fact in facts {
            screen.line(&fact)?;
        }
        for note in answer["notes"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
            screen.line(&format!("  {:<7}{}", "note", safe(note)))?;
        }
    }
    Ok(if decision == "deny" { Outcome::Refused } else { Outcome::Done })
}

fn test(file: &Path, dir: &Path, policy: Option<&Path>, screen: &mut Screen) -> Result<Outcome, Failure> {
    let mut faults = Faults::default();
    let cases = faults.gather(read_cases(file));
    let personas = faults.gather(load(&persona_folder(dir), &PolicySettings::default()));
    let authority = faults.gather(Policy::load(policy));
    let (Some(cases), Some(personas), Some(authority)) = (cases, personas, authority) else {
        return show_faults(&faults, screen);
    };
    let now = SystemClock.now();
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(fault) = case.hold(&authority, &personas, now) {
            wrong.push((case, fault));
        }
    }
    if screen.json() {
        let failed =
            wrong.iter().map(|(case, fault)| json!({"name": case.name, "line": case.line, "why": fault.to_string()}));
        screen.value(&json!({"cases": cases.len(), "failed": failed.collect::<Vec<_>>()}), false)?;
    } else {
        for (case, fault) in &wrong {
            let text = format!("{}:{}: {}: {fault}", file.display(), case.line, case.name);
            screen.painted(Paint::Bad, &safe(&text))?;
        }
        let held = amount((cases.len() - wrong.len()) as u64, "case");
        let paint = if wrong.is_empty() { Paint::Good } else { Paint::Bad };
        screen.painted(paint, &format!("{held} as expected, {} not", count(wrong.len() as u64)))?;
    }
    Ok(if wrong.is_empty() { Outcome::Done } else { Outcome::Refused })
}

pub(super) async fn reload(context: &Context, screen: &mut Screen, reason: Option<&str>) -> Result<Outcome, Failure> {
    let wanted = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
    let report = match context.client.send::<_, ReloadReport>("/policy/reload", &wanted).await {
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
        if report.authority != "none" {
            let grants = amount(report.grants, "grant");
            let text = format!("{grants} of the policy ({})", report.authority);
            screen.painted(Paint::Good, &safe(&text))?;
        }
        if report.tunnels_ended > 0 {
            let ended = amount(report.tunnels_ended, "open tunnel");
            screen.painted(Paint::Warn, &format!("{ended} no longer allowed, and ended"))?;
        }
    }
    Ok(Outcome::Done)
}
