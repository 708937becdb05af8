//! The plan of a run, and what is decided about the hosts that it asks for.

use super::context::Context;
use super::recipes::failed;
use super::signing::trust;
use crate::config::ServerConfig;
use crate::control::{ClientError, Preview, PreviewRequest};
use crate::domain::{Clock, DenialCode, RuntimeId, SystemClock};
use crate::governance::consent::Consents;
use crate::governance::recipes::{self, EgressAnswer, EgressWord, Plan, Recipe};
use crate::governance::signed::{SignatureFault, Signed, Unsigned};
use crate::ledger::Outcome as Decision;
use crate::policy::{self, PolicySettings};
use crate::ui::text::{moment, safe};
use crate::ui::{Failure, Outcome, Paint, Screen};

/// Everything that is decided before a launch, and nothing of a launch.
pub(super) async fn preview(id: &RuntimeId, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let trust = trust(settings);
    let installed = match recipes::load(&recipes::shelf(&settings.state_dir), id, &trust) {
        Ok(installed) => installed,
        Err(fault) => return Err(failed(format!("`{id}` cannot be run"), &fault, screen)?),
    };
    let consents = Consents::load(&settings.config_dir, &settings.state_dir);
    let plan = recipes::plan(&installed.recipe, &consents, trust.now());
    let (source, egress) = egress(&installed.recipe, settings, context).await?;
    let denied = egress.iter().filter(|answer| answer.decision == EgressWord::Deny).count();
    let ready = plan.consent_is_met() && denied == 0;
    let checked = Ok(installed.signed);
    if screen.json() {
        let answer = serde_json::json!({
            "preview": true, "would_run": ready, "signature": signature(&checked), "plan": plan,
            "egress": egress, "egress_decided_by": source,
        });
        screen.value(&answer, false)?;
    } else {
        show_plan(&plan, &checked, screen)?;
        if egress.is_empty() {
            fact("egress", "asks for nothing", screen)?;
        } else {
            fact("egress", &format!("decided by {}", safe(&source)), screen)?;
        }
        for answer in &egress {
            show_answer(answer, screen)?;
        }
        let (paint, word) = match (ready, trust.unsigned()) {
            (true, Unsigned::Refuse) => (Paint::Good, "it would run as shown"),
            (true, Unsigned::Accept) => (Paint::Warn, "it would run as shown; this host accepts unsigned recipes"),
            (false, _) => (Paint::Bad, "it would not run, or not as it asks to"),
        };
        screen.painted(paint, &format!("{word}. A preview: nothing was started, and nothing left."))?;
    }
    Ok(if ready { Outcome::Done } else { Outcome::Refused })
}

fn show_answer(answer: &EgressAnswer, screen: &mut Screen) -> Result<(), Failure> {
    let (paint, word) = match answer.decision {
        EgressWord::Allow => (Paint::Good, "allow"),
        EgressWord::WouldDeny => (Paint::Warn, "allow (report mode; enforcement would deny)"),
        EgressWord::Deny => (Paint::Bad, "deny"),
    };
    let code = answer.code.map(|code| format!("  {code}")).unwrap_or_default();
    let rule = answer.rule.as_ref().map(|rule| format!("  rule {rule}")).unwrap_or_default();
    let detail = answer.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    let word = screen.paint(paint, word);
    fact("", &format!("{word}  {}{}", safe(&answer.url), safe(&format!("{code}{detail}{rule}"))), screen)
}

/// What is decided about each host: by the daemon, which knows what is in force, or else by the files.
async fn egress(
    recipe: &Recipe,
    settings: &ServerConfig,
    context: &Context,
) -> Result<(String, Vec<EgressAnswer>), Failure> {
    if recipe.egress.is_empty() {
        return Ok(("nobody".to_owned(), Vec::new()));
    }
    match by_daemon(recipe, context).await {
        Ok(answers) => return Ok(("the daemon, as it is in force".to_owned(), answers)),
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(Failure::from(error)),
    }
    let environment = settings.default_persona.as_ref().map(|persona| (persona, nix::unistd::geteuid().as_raw()));
    let folder = settings.config_dir.join("personas");
    let snapshot =
        policy::load_with(&folder, &PolicySettings::from(&settings.proxy), environment).map_err(|faults| {
            Failure::new("the policy cannot be read")
                .why(faults.0.first().map_or_else(String::new, ToString::to_string))
        })?;
    Ok((format!("the files in {}; no daemon runs", folder.display()), recipe.ask(&snapshot, SystemClock.now())))
}

async fn by_daemon(recipe: &Recipe, context: &Context) -> Result<Vec<EgressAnswer>, ClientError> {
    let mut answers = Vec::new();
    for (url, _) in &recipe.egress {
        let persona = recipe.spec.persona.clone();
        let request =
            PreviewRequest { persona, url: Some(url.clone()), host: None, port: None, scheme: None, method: None };
        let answer = match context.client.send::<_, Preview>("/egress/preview", &request).await {
            Ok(answer) => EgressAnswer {
                url: url.clone(),
                decision: match answer.decision {
                    Decision::Allow => EgressWord::Allow,
                    Decision::WouldDeny => EgressWord::WouldDeny,
                    Decision::Deny => EgressWord::Deny,
                },
                code: answer.code,
                rule: answer.rule,
                detail: answer.detail,
            },
            Err(ClientError::Refused(problem)) if problem.code == "no_such_persona" => EgressAnswer {
                url: url.clone(),
                decision: EgressWord::Deny,
                code: Some(DenialCode::UnknownPersona),
                rule: None,
                detail: Some(problem.detail),
            },
            Err(error) => return Err(error),
        };
        answers.push(answer);
    }
    Ok(answers)
}

pub(super) fn signature(checked: &Result<Option<Signed>, SignatureFault>) -> serde_json::Value {
    match checked {
        Ok(Some(signed)) => serde_json::json!({
            "state": "trusted", "signer": signed.signer(), "signed_at": signed.statement().signed_at,
        }),
        Ok(None) => serde_json::json!({ "state": "unsigned", "accepted": true }),
        Err(fault) => serde_json::json!({ "state": fault.code(), "detail": fault.to_string() }),
    }
}

pub(super) fn fact(name: &str, text: &str, screen: &mut Screen) -> Result<(), Failure> {
    let name = screen.paint(Paint::Strong, &format!("{name:<10}"));
    screen.line(&format!("{name}{text}"))?;
    Ok(())
}

pub(super) fn show_plan(
    plan: &Plan,
    checked: &Result<Option<Signed>, SignatureFault>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let (paint, word) = match checked {
        Ok(Some(signed)) => {
            (Paint::Good, format!("signed by {} on {}", signed.signer(), moment(signed.statement().signed_at)))
        }
        Ok(None) => (Paint::Warn, "NOT SIGNED, which this host accepts".to_owned()),
        Err(fault) => (Paint::Bad, format!("{fault} ({})", fault.code())),
    };
    fact("recipe", &format!("{} {}", plan.id, plan.version), screen)?;
    fact("", &safe(&plan.description), screen)?;
    let word = screen.paint(paint, &safe(&word));
    fact("signature", &word, screen)?;
    fact("persona", plan.persona.as_str(), screen)?;
    fact("command", &safe(&plan.command.join(" ")), screen)?;
    if !plan.env.is_empty() {
        fact("env", &safe(&plan.env.join(" ")), screen)?;
    }
    let require: Vec<&str> = plan.require.iter().map(|control| control.code()).collect();
    let more = if require.is_empty() { String::new() } else { format!(", not without {}", require.join(", ")) };
    fact("walls", &format!("profile {}{more}", plan.profile), screen)?;
    let narrowed: Vec<String> = plan.limits.iter().map(|(name, value)| format!(", {name} {value}")).collect();
    fact("limits", &format!("preset {}{}", plan.preset, narrowed.concat()), screen)?;
    if let Some(justification) = &plan.justification {
        fact("", &safe(justification), screen)?;
    }
    let budget: Vec<String> = plan.budget.iter().map(|(name, value)| format!("{name} {value}")).collect();
    fact("budget", &if budget.is_empty() { "none".to_owned() } else { budget.join(", ") }, screen)?;
    if let Some(schedule) = &plan.schedule {
        let next = plan.next.map_or("never".to_owned(), moment);
        fact("schedule", &safe(&format!("{schedule}, next {next}")), screen)?;
    }
    if plan.consent.is_empty() {
        fact("consent", "reads no data", screen)?;
    }
    for scope in &plan.consent {
        let (paint, word) = if scope.met { (Paint::Good, "open") } else { (Paint::Bad, "CLOSED") };
        let word = screen.paint(paint, word);
        fact("consent", &format!("{}  {word} {}", safe(&scope.scope), safe(&scope.why)), screen)?;
    }
    Ok(())
}
