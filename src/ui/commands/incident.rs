//! `incident …`: one archive of what is known, and its check.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::context::Context;
use crate::control::{ClientError, escape};
use crate::domain::{Clock, PersonaId, RuntimeId, SystemClock};
use crate::governance::authority::Action;
use crate::governance::incident::{
    ABOUT, Archive, DEATHS, EVENTS, Entry, KEY, LOGS, PROOFS, Source, Summary, TIMELINE, of_death, of_event, of_line,
    ordered, verify,
};
use crate::ledger::{self, Filter, LedgerError, Line, Reader};
use crate::ui::args::{IncidentCommand, IncidentExportArgs};
use crate::ui::text::safe;
use crate::ui::{Failure, Outcome, Screen};

/// Time without an event after which there are no more kept ones.
const QUIET: Duration = Duration::from_millis(300);
/// Most lines of a persona's history.
const MAX_HISTORY: usize = 10_000;
/// What stands in the place of a value that may be a secret.
const MASKED: &str = "(not exported)";

pub(super) async fn run(command: IncidentCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        // The archive is raw: a proof is about the exact line.
        IncidentCommand::Export(args) => {
            context.permit(Action::LedgerReadRaw)?;
            export(&args, context, screen).await
        }
        IncidentCommand::Verify { file, keys } => check(&file, &keys, screen),
    }
}

/// The archive as it grows, with what could not be had.
struct Gathering<'c> {
    context: &'c Context,
    archive: Archive,
    timeline: Vec<Entry>,
    missing: Vec<String>,
    counts: Map<String, Value>,
}

async fn export(args: &IncidentExportArgs, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let now = SystemClock.now();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from(format!("incident-{}-{}.tar", args.persona, now.unix_micros() / 1_000_000)),
    };
    let mut gathering = Gathering {
        context,
        archive: Archive::default(),
        timeline: Vec::new(),
        missing: Vec::new(),
        counts: Map::new(),
    };
    gathering.logs(args).await?;
    gathering.events(args).await;
    gathering.runtimes(&args.persona).await;
    gathering.history(&args.persona).await;
    gathering.files(&args.persona);
    let Gathering { mut archive, timeline, missing, counts, .. } = gathering;
    let timeline: String = ordered(timeline).iter().map(line).collect();
    archive.put(TIMELINE, timeline.into_bytes());
    let about = json!({
        "persona": args.persona, "since": args.since, "until": args.until, "made_at": now,
        "version": env!("CARGO_PKG_VERSION"), "counts": counts, "missing": missing,
    });
    archive.put(ABOUT, pretty(&about));

    let failed = |error: std::io::Error| Failure::new(format!("cannot write `{}`", out.display())).why(error);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&out).map_err(failed)?;
    let written = archive.write(&file, u64::try_from(now.unix_micros() / 1_000_000).unwrap_or(0));
    written.and_then(|()| file.sync_all()).map_err(|error| {
        // Half an archive is none.
        let _ = std::fs::remove_file(&out);
        failed(error)
    })?;
    if screen.json() {
        let file = out.display().to_string();
        screen.value(&json!({ "file": file, "counts": about["counts"], "missing": about["missing"] }), false)?;
        return Ok(Outcome::Done);
    }
    screen.line(&format!("wrote `{}`", out.display()))?;
    for (what, count) in about["counts"].as_object().into_iter().flatten() {
        screen.line(&format!("  {what}: {count}"))?;
    }
    for what in about["missing"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        screen.line(&format!("  missing: {}", safe(what)))?;
    }
    screen.line(&format!("check it anywhere with `arw-cli incident verify {}`", out.display()))?;
    Ok(Outcome::Done)
}

impl Gathering<'_> {
    fn count(&mut self, what: &str, count: usize) {
        self.counts.insert(what.to_owned(), count.into());
    }

    /// Both logs, each line with its proof.
    async fn logs(&mut self, args: &IncidentExportArgs) -> Result<(), Failure> {
        // A checkpoint that covers what is there now; without a daemon the last one does.
        let asked = self.context.client.fetch_bytes("/ledger/checkpoint").await;
        if let Err(fault) = asked {
            self.missing.push(format!("a fresh checkpoint: {fault}"));
        }
        let settings = self.context.offline()?;
        let folders = [settings.ledger.dir.clone(), settings.state_dir.join("audit")];
        for ((log, source), folder) in LOGS.into_iter().zip([Source::Egress, Source::Audit]).zip(folders) {
            let failed = |error: &LedgerError| {
                Failure::new(format!("cannot read the log in `{}`", folder.display()))
                    .because(error)
                    .advice("run as root or as the daemon's user")
            };
            let filter = Filter {
                persona: Some(args.persona.clone()),
                since: Some(args.since),
                until: args.until,
                ..Filter::default()
            };
            let lines = Reader::open(&folder)
                .and_then(|reader| reader.latest(&filter, args.limit as usize))
                .map_err(|error| failed(&error))?;
            if lines.len() == args.limit as usize {
                self.missing.push(format!("{log}: older lines than the newest {}", args.limit));
            }
            let key = std::fs::read(folder.join(KEY))
                .map_err(|error| Failure::new(format!("cannot read `{}`", folder.join(KEY).display())).why(error))?;
            self.archive.put(&format!("{log}/{KEY}"), key);
            self.prove(log, source, &folder, &lines).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn prove(&mut self, log: &str, source: Source, folder: &Path, lines: &[Line]) -> Result<(), LedgerError> {
        let mut proofs = String::new();
        let (mut proved, mut waiting) = (0, 0);
        for found in lines {
            match ledger::prove(folder, found.seq) {
                Ok(proof) => {
                    proofs.push_str(&line(&proof));
                    self.timeline.push(of_line(source, found));
                    proved += 1;
                }
                // The log signs once a minute.
                Err(LedgerError::NoLine { .. }) => waiting += 1,
                Err(fault) => return Err(fault),
            }
        }
        if waiting > 0 {
            self.missing.push(format!("{log}: {waiting} newest lines, which no checkpoint covers yet"));
        }
        self.archive.put(&format!("{log}/{PROOFS}"), proofs.into_bytes());
        self.count(&format!("{log} lines"), proved);
        Ok(())
    }

    /// The events that the daemon still has.
    async fn events(&mut self, args: &IncidentExportArgs) {
        let mut stream = match self.context.client.subscribe("/events?replay=1000", None).await {
            Ok(stream) => stream,
            Err(fault) => return self.missing.push(format!("events: {fault}")),
        };
        let (mut text, mut count) = (String::new(), 0);
        while let Ok(Ok(Some(event))) = tokio::time::timeout(QUIET, stream.next()).await {
            let Ok(value) = serde_json::from_str::<Value>(&event.data) else { continue };
            let Some(entry) = of_event(&value) else { continue };
            let of_it = value["subject"] == args.persona.as_str() || value["data"]["persona"] == args.persona.as_str();
            let general = value["type"].as_str().is_some_and(|kind| !kind.starts_with("egress."));
            let during = entry.time >= args.since && args.until.is_none_or(|until| entry.time < until);
            if during && (of_it || general) {
                text.push_str(&line(&value));
                self.timeline.push(entry);
                count += 1;
            }
        }
        self.archive.put(EVENTS, text.into_bytes());
        self.count("events", count);
    }

    /// The persona's runtimes and their deaths.
    async fn runtimes(&mut self, persona: &PersonaId) {
        let all: Value = match self.context.client.fetch("/state/runtime_supervisor").await {
            Ok(all) => all,
            Err(fault) => return self.missing.push(format!("runtimes: {fault}")),
        };
        let mut count = 0;
        for view in all["runtimes"].as_array().into_iter().flatten() {
            let Some(id) = view["id"].as_str().filter(|_| view["persona"] == persona.as_str()) else { continue };
            // Whoever answers may be no daemon of ours, and this becomes the name of a file.
            if RuntimeId::parse(id).is_err() {
                self.missing.push("a runtime whose id is none".to_owned());
                continue;
            }
            self.archive.put(&format!("runtimes/{id}.json"), pretty(view));
            count += 1;
            let path = format!("/orchestrator/runtimes/{}/deaths?limit=1000", escape(id));
            match self.context.client.fetch::<Value>(&path).await {
                Ok(deaths) => {
                    let all = deaths["deaths"].as_array().into_iter().flatten();
                    self.timeline.extend(all.filter_map(|death| of_death(id, death)));
                    self.archive.put(&format!("runtimes/{id}{DEATHS}"), pretty(&deaths));
                }
                Err(fault) => self.missing.push(format!("deaths of {id}: {fault}")),
            }
        }
        self.count("runtimes", count);
    }

    /// What was proposed, decided and said about the persona.
    async fn history(&mut self, persona: &PersonaId) {
        let mut lines = Vec::new();
        let mut before = String::new();
        loop {
            let path = format!("/state/persona/{}/history?limit=200{before}", escape(persona.as_str()));
            let mut page = match self.context.client.fetch::<Value>(&path).await {
                Ok(page) => page,
                Err(ClientError::Refused(problem)) => {
                    return self.missing.push(format!("history of the persona: {}", problem.code));
                }
                Err(fault) => return self.missing.push(format!("history of the persona: {fault}")),
            };
            if let Some(more) = page["lines"].as_array_mut() {
                lines.append(more);
            }
            match page["next"].as_u64() {
                Some(next) if lines.len() < MAX_HISTORY => before = format!("&before={next}"),
                Some(_) => {
                    self.missing.push(format!("history of the persona: older lines than the newest {MAX_HISTORY}"));
                    break;
                }
                None => break,
            }
        }
        self.count("lines of the persona's history", lines.len());
        self.archive.put("persona/history.json", pretty(&Value::from(lines)));
    }

    /// Manifests and the persona's file, as they are now.
    fn files(&mut self, persona: &PersonaId) {
        let Ok(settings) = self.context.offline() else { return };
        let config = settings.config_dir.clone();
        let manifest = settings.runtimes.manifest.clone();
        let mut wanted = vec![(config.join(format!("personas/{persona}.toml")), format!("manifests/{persona}.toml"))];
        wanted.push((manifest, "manifests/runtimes.toml".to_owned()));
        wanted.push((config.join("runtime/automations.toml"), "manifests/automations.toml".to_owned()));
        for (path, name) in wanted {
            match std::fs::read_to_string(&path) {
                Ok(text) => match masked(&text) {
                    Some(text) => self.archive.put(&name, text.into_bytes()),
                    None => self.missing.push(format!("`{}`: it is not TOML", path.display())),
                },
                Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => {}
                Err(fault) => self.missing.push(format!("`{}`: {fault}", path.display())),
            }
        }
    }
}

/// A configuration file without the values that may be secrets: environments, hashes of tokens.
fn masked(text: &str) -> Option<String> {
    let mut document: toml::Table = text.parse().ok()?;
    document.iter_mut().for_each(|(key, value)| mask(key, value));
    toml::to_string(&document).ok()
}

fn mask(key: &str, value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) if key == "env" => {
            table.iter_mut().for_each(|(_, value)| *value = MASKED.into());
        }
        toml::Value::Table(table) => table.iter_mut().for_each(|(key, value)| mask(key, value)),
        toml::Value::Array(array) => array.iter_mut().for_each(|value| mask(key, value)),
        _ if key == "sha256" => *value = MASKED.into(),
        _ => {}
    }
}

fn check(file: &Path, keys: &[PathBuf], screen: &mut Screen) -> Result<Outcome, Failure> {
    let cannot = || Failure::new(format!("`{}` is not believed", file.display()));
    let unreadable =
        |path: &Path, error: std::io::Error| Failure::new(format!("cannot read `{}`", path.display())).why(error);
    let opened = File::open(file).map_err(|error| unreadable(file, error))?;
    let summary = verify(BufReader::new(opened)).map_err(|fault| cannot().because(&fault))?;
    let mut known = Vec::new();
    for path in keys {
        known.push(std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?.trim().to_owned());
    }
    if let Some(log) = stranger(&summary, &known) {
        return Err(cannot().why(format!("the key of its {log} log is none of those given")));
    }
    if screen.json() {
        screen.value(&summary, false)?;
        return Ok(Outcome::Done);
    }
    screen.line(&format!("verified: {} files, {} entries of the timeline", summary.files, summary.timeline))?;
    for (log, lines) in &summary.proved {
        screen.line(&format!("  {log}: {lines} lines proved by {}", safe(&summary.keys[log])))?;
    }
    if keys.is_empty() {
        screen.line(
            "anybody can make such an archive with keys of their own: compare these with yours, or give yours as --key",
        )?;
    }
    Ok(Outcome::Done)
}

/// A log whose key is not among `known`, if any are.
fn stranger<'s>(summary: &'s Summary, known: &[String]) -> Option<&'s str> {
    let strange = |key: &String| !known.is_empty() && !known.contains(key);
    summary.keys.iter().find(|(_, key)| strange(key)).map(|(log, _)| log.as_str())
}

/// A value on a line of its own.
fn line<T: serde::Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("texts, numbers and lists have a JSON form");
    format!("{text}\n")
}

fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a value has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_masked() {
        let text = "id = \"x\"\ntokens = [{ name = \"one\", sha256 = \"abcdef\" }]\n[[runtimes]]\nid = \"r\"\n\
                    [runtimes.process]\ncommand = \"/bin/x\"\n[runtimes.process.env]\nAPI_KEY = \"hunter2\"\n";
        let masked = masked(text).expect("TOML");
        assert!(!masked.contains("hunter2") && !masked.contains("abcdef"), "{masked}");
        assert!(masked.contains("API_KEY") && masked.contains("/bin/x"), "{masked}");
    }
}
