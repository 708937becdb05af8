//! `persona …`.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::context::Context;
use super::policy::show_faults;
use super::proposals;
use crate::config::located::read_file;
use crate::config::{Faults, MAX_PERSONA_FILE, PersonaFile};
use crate::control::Personas;
use crate::domain::{Clock, PersonaId, SystemClock, TokenHash};
use crate::policy::{PolicySettings, Snapshot};
use crate::ui::args::{PersonaCommand, TokenCommand};
use crate::ui::text::{amount, count};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

/// Random bytes of a token. 32: as many as its hash has, far past guessing.
const TOKEN_BYTES: usize = 32;

pub(super) async fn run(command: PersonaCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        PersonaCommand::List => list(context, screen).await,
        PersonaCommand::Check { files } => check(&files, screen),
        PersonaCommand::Token(TokenCommand::New { name }) => new_token(&name, screen),
        PersonaCommand::Show { name } => proposals::show(&name, context, screen).await,
        PersonaCommand::History { name, limit, before } => {
            proposals::history(&name, (limit, before), context, screen).await
        }
        PersonaCommand::Annotate { name, line, note } => proposals::annotate(&name, line, &note, context, screen).await,
        PersonaCommand::Review(command) => proposals::review(command, context, screen).await,
        PersonaCommand::Propose(args) => proposals::propose(args, context, screen).await,
        PersonaCommand::Proposals { name, all } => proposals::proposals(&name, all, context, screen).await,
        PersonaCommand::Approve { name, proposal, note, accept_widening } => {
            proposals::approve(&name, proposal, (&note, accept_widening), context, screen).await
        }
        PersonaCommand::Reject { name, proposal, note } => {
            proposals::reject(&name, proposal, &note, context, screen).await
        }
        PersonaCommand::Feedback(command) => proposals::feedback(command, context, screen).await,
    }
}

async fn list(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let personas: Personas = context.client.fetch("/state/personas").await?;
    if screen.json() {
        screen.value(&personas, false)?;
        return Ok(Outcome::Done);
    }
    if personas.personas.is_empty() {
        screen.painted(Paint::Warn, "no personas: nobody is known, and nothing leaves")?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["PERSONA", "POSTURE", "MODE", ">ALLOW", ">DENY", ">TOKENS", ">OPEN", "DESCRIPTION"]);
    for persona in &personas.personas {
        let paint = if persona.mode == "enforce" { Paint::Plain } else { Paint::Warn };
        table.row(
            paint,
            &[
                persona.id.as_str(),
                &persona.posture,
                &persona.mode,
                &count(persona.allow_rules),
                &count(persona.deny_rules),
                &count(persona.tokens.len() as u64),
                &count(persona.tunnels),
                persona.description.as_deref().unwrap_or_default(),
            ],
        );
    }
    table.show(screen)?;
    Ok(Outcome::Done)
}

/// Each file by itself and all together, as the daemon would read them.
fn check(paths: &[PathBuf], screen: &mut Screen) -> Result<Outcome, Failure> {
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        match read_file(path, MAX_PERSONA_FILE).map(|text| PersonaFile::parse(path, &text)) {
            Ok(Ok(file)) => files.push(file),
            Ok(Err(document)) => faults.extend(document.into_faults()),
            Err(fault) => faults.push(fault),
        }
    }
    let compiled = Snapshot::compile(files, &PolicySettings::default());
    let warnings = match compiled {
        Ok(snapshot) => snapshot.warnings(SystemClock.now()),
        Err(found) => {
            faults.extend(found.0);
            Vec::new()
        }
    };
    if !faults.is_empty() {
        return show_faults(&Faults(faults), screen);
    }
    if screen.json() {
        screen.value(&serde_json::json!({ "files": paths.len(), "faults": [], "warnings": warnings }), false)?;
        return Ok(Outcome::Done);
    }
    for warning in &warnings {
        let text = format!("warning: {warning}");
        screen.painted(Paint::Warn, &crate::ui::text::safe(&text))?;
    }
    screen.painted(Paint::Good, &format!("no faults in {}", amount(paths.len() as u64, "file")))?;
    Ok(Outcome::Done)
}

/// The only moment at which the token exists outside of its client.
fn new_token(persona: &PersonaId, screen: &mut Screen) -> Result<Outcome, Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Failure::new("the system has no randomness").why(error))?;
    let token = format!("arw_{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash = TokenHash::of(token.as_bytes()).to_hex();
    let entry = format!("tokens = [{{ name = \"{persona}-1\", sha256 = \"{hash}\" }}]");
    if screen.json() {
        screen
            .value(&serde_json::json!({ "persona": persona, "token": token, "sha256": hash, "entry": entry }), false)?;
        return Ok(Outcome::Done);
    }
    screen.line("The token, shown this once; give it to the client and keep it nowhere else:")?;
    screen.line("")?;
    screen.painted(Paint::Strong, &format!("  {token}"))?;
    screen.line("")?;
    screen.line(&format!("Its hash, for `personas/{persona}.toml`; then run `arw-cli reload`:"))?;
    screen.line("")?;
    screen.line(&format!("  {entry}"))?;
    screen.line("")?;
    screen.line(&format!("The client sends it as `http://{persona}:TOKEN@127.0.0.1:9080`, or as a Bearer token."))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::screen::capture;

    #[test]
    fn a_new_token_is_random_and_its_entry_makes_a_sound_file() {
        let persona = PersonaId::parse("demo").expect("valid");
        let [one, two] = [(), ()].map(|()| {
            capture(|screen| {
                new_token(&persona, screen).expect("made");
            })
        });
        assert_ne!(one, two);
        let token = one.lines().find_map(|line| line.trim().strip_prefix("arw_")).expect("the token");
        assert_eq!(token.len(), 43, "256 bits in base64");
        let entry = one.lines().find(|line| line.trim().starts_with("tokens = ")).expect("the entry").trim();
        let hash = TokenHash::of(format!("arw_{token}").as_bytes()).to_hex();
        assert!(entry.contains(&hash) && !entry.contains(token));

        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("demo.toml");
        std::fs::write(&path, format!("id = \"demo\"\n{entry}\nposture = \"public\"\n")).expect("write");
        let text = capture(|screen| {
            assert_eq!(check(std::slice::from_ref(&path), screen), Ok(Outcome::Done));
        });
        assert!(text.ends_with("no faults in 1 file\n"), "{text}");
    }

    #[test]
    fn every_fault_of_every_file_is_shown() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (one, two) = (folder.path().join("one.toml"), folder.path().join("two.toml"));
        std::fs::write(&one, "id = \"one\"\nposture = \"relaxed\"\n").expect("write");
        std::fs::write(&two, "nonsense = 1\n\n[[allow]]\nhosts = [\"*\"]\n").expect("write");
        let missing = folder.path().join("missing.toml");
        let text = capture(|screen| {
            assert_eq!(check(&[one.clone(), two.clone(), missing.clone()], screen), Ok(Outcome::Refused));
        });
        for part in ["one.toml:2: posture", "two.toml:1: nonsense", "two.toml:4: allow[0].hosts[0]", "missing.toml"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
