//! `consent …`: everything here reads and writes files, with or without a daemon.

use std::path::PathBuf;

use super::context::Context;
use super::signing::who;
use crate::config::Faults;
use crate::domain::{Clock, SystemClock};
use crate::governance::bundles::{Bundle, read_catalogues};
use crate::governance::consent::{self, Acknowledgement, Acknowledgements, Act, Consents, Scope};
use crate::ui::args::{ConsentCommand, SayArgs};
use crate::ui::text::{moment, safe};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// What the handbook promises, word by word.
const PASSED: &str = "Consent metadata validation passed";

pub(super) fn run(command: &ConsentCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        ConsentCommand::Validate { files } => validate(files, context, screen),
        ConsentCommand::List => list(context, screen),
        ConsentCommand::Acknowledge(args) => say(Act::Acknowledge, args, context, screen),
        ConsentCommand::Withdraw(args) => say(Act::Withdraw, args, context, screen),
        ConsentCommand::History => history(context, screen),
    }
}

fn validate(files: &[PathBuf], context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let found;
    let files = if files.is_empty() {
        let dir = context.config_dir(None)?;
        found = consent::bundle_files(&dir).map_err(|fault| Failure::new("cannot find the bundles").why(fault))?;
        if found.is_empty() {
            // Nothing to check is not "passed": somebody may stand in the wrong place.
            return Err(Failure::new(format!("there is no runtime/bundles*.json in `{}`", dir.display()))
                .advice("name the files, or the configuration folder with ARW_CONFIG_DIR"));
        }
        &found
    } else {
        files
    };
    let (bundles, faults) = match read_catalogues(files) {
        Ok(bundles) => (bundles.len(), Faults::default()),
        Err(faults) => (0, faults),
    };
    if screen.json() {
        let valid = faults.0.is_empty();
        let answer = serde_json::json!({ "valid": valid, "files": files, "bundles": bundles, "faults": faults });
        screen.value(&answer, false)?;
    } else if faults.0.is_empty() {
        screen.line(PASSED)?;
    } else {
        for fault in &faults.0 {
            screen.painted(Paint::Bad, &safe(&fault.to_string()))?;
        }
    }
    Ok(if faults.0.is_empty() { Outcome::Done } else { Outcome::Refused })
}

/// The consents of this host, with what is to be done when they cannot be read.
fn consents(context: &Context) -> Result<Consents, Failure> {
    let settings = context.offline()?;
    Consents::load(&settings.config_dir, &settings.state_dir).map_err(|fault| {
        let first = fault.to_string().lines().next().unwrap_or_default().to_owned();
        Failure::new("the consents cannot be read").why(first).advice("`arw-cli consent validate` shows every fault")
    })
}

fn list(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let consents = consents(context)?;
    if screen.json() {
        let all: Vec<_> = consents.bundles().iter().map(|bundle| view(&consents, bundle)).collect();
        screen.value(&serde_json::json!({ "bundles": all }), false)?;
        return Ok(Outcome::Done);
    }
    if consents.bundles().is_empty() {
        screen.painted(Paint::Warn, "no bundles: no scope is open, and no launch may read data")?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["BUNDLE", "SCOPES", "STANDS", "BY", "WHEN"]);
    for bundle in consents.bundles() {
        let scopes: Vec<&str> = bundle.consent.scopes.iter().map(Scope::as_str).collect();
        let line = consents.latest(&bundle.id);
        let missing = consents.missing(bundle);
        let (paint, stands) = match &missing {
            Some(missing) => (Paint::Bad, missing.to_string()),
            None if bundle.consent.required => (Paint::Good, "acknowledged".to_owned()),
            None => (Paint::Plain, "needs nobody".to_owned()),
        };
        table.row(
            paint,
            &[
                bundle.id.as_str(),
                &if scopes.is_empty() { "-".to_owned() } else { scopes.join(" ") },
                &stands,
                line.map_or("-", |line| &line.by),
                &line.map_or("-".to_owned(), |line| moment(line.time)),
            ],
        );
    }
    table.show(screen)?;
    Ok(Outcome::Done)
}

fn view(consents: &Consents, bundle: &Bundle) -> serde_json::Value {
    let missing = consents.missing(bundle);
    serde_json::json!({
        "id": bundle.id,
        "version": bundle.version,
        "required": bundle.consent.required,
        "modalities": bundle.consent.modalities,
        "scopes": bundle.consent.scopes.iter().map(Scope::as_str).collect::<Vec<_>>(),
        "note": bundle.consent.note,
        "consent_sha256": bundle.consent.digest(),
        "open": missing.is_none(),
        "missing": missing.map(|missing| missing.to_string()),
        "latest": consents.latest(&bundle.id),
    })
}

fn say(act: Act, args: &SayArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let consents = consents(context)?;
    let Some(bundle) = consents.bundles().iter().find(|bundle| bundle.id == args.bundle) else {
        return Err(Failure::new(format!("there is no bundle `{}`", args.bundle))
            .advice("`arw-cli consent list` shows those that are there"));
    };
    let by = match &args.by {
        Some(name) => format!("{name}, recorded by {}", who()),
        None => who(),
    };
    let line = Acknowledgement::new(SystemClock.now(), act, bundle, by, args.note.clone());
    let record = Acknowledgements::of(&context.offline()?.state_dir);
    record.add(&line).map_err(|fault| Failure::new("nothing was recorded").because(&fault))?;
    if screen.json() {
        screen.value(&line, false)?;
        return Ok(Outcome::Done);
    }
    let scopes = if line.scopes.is_empty() { "no scopes".to_owned() } else { line.scopes.join(" ") };
    match act {
        Act::Acknowledge => {
            screen.painted(Paint::Good, &format!("acknowledged {}: {scopes}", bundle.id))?;
            if let Some(note) = &bundle.consent.note {
                screen.line(&format!("  people were told: {}", safe(note)))?;
            }
        }
        Act::Withdraw => screen.painted(Paint::Warn, &format!("withdrawn {}: {scopes} is closed", bundle.id))?,
    }
    Ok(Outcome::Done)
}

fn history(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let record = Acknowledgements::of(&context.offline()?.state_dir);
    let lines = record.read().map_err(|fault| Failure::new("the record cannot be read").because(&fault))?;
    if screen.json() {
        for line in &lines {
            screen.value(line, true)?;
        }
        return Ok(Outcome::Done);
    }
    if lines.is_empty() {
        screen.painted(Paint::Faint, "nothing was acknowledged yet")?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["TIME", "BUNDLE", "ACT", "BY", "NOTE"]);
    for line in &lines {
        let paint = if line.act == Act::Withdraw { Paint::Warn } else { Paint::Plain };
        table.row(paint, &[&moment(line.time), line.bundle.as_str(), line.act.code(), &line.by, &line.note]);
    }
    table.show(screen)?;
    Ok(Outcome::Done)
}
