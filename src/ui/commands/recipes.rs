//! `recipes …`: files only, but for the preview, which asks the daemon about hosts when it runs.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::bundles::{refused, show_placed, show_signed};
use super::context::Context;
use super::plan::{fact, preview, show_plan, signature};
use super::signing::{key, strict_trust, trust, who, write};
use crate::config::ServerConfig;
use crate::config::located::read_file;
use crate::control::ClientError;
use crate::domain::{Clock, RuntimeId, SystemClock, Timestamp};
use crate::governance::consent::Consents;
use crate::governance::recipes::{self, Recipe, RecipeFault};
use crate::governance::signed::{
    self, Expect, Kind, Material, PrivateKey, Record, ShelfFault, SignatureFault, Signer, Signers, Status, Trust,
};
use crate::ui::args::{KeygenArgs, RecipesCommand, SignArgs};
use crate::ui::text::{amount, moment, safe, size};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

pub(super) async fn run(command: RecipesCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        RecipesCommand::List => list(context, screen),
        RecipesCommand::Inspect { recipe } => inspect(&recipe, context, screen),
        RecipesCommand::Keygen(args) => keygen(&args, screen),
        RecipesCommand::Sign(args) => sign(&args, screen),
        RecipesCommand::Install { path, verify, allow_older } => install(&path, verify, allow_older, context, screen),
        RecipesCommand::Run { id, preview: true, .. } => preview(&id, context, screen).await,
        RecipesCommand::Run { id, preview: false, reason } => start(&id, &reason, context, screen).await,
        RecipesCommand::Retire { id, note } => retire(&id, &note, context, screen).await,
    }
}

/// What went wrong, and what to do about it.
pub(super) fn failed(what: String, fault: &RecipeFault, screen: &mut Screen) -> Result<Failure, Failure> {
    let failure = match fault {
        RecipeFault::Manifest(faults) => {
            let first = faults.0.first().map(ToString::to_string).unwrap_or_default();
            refused(what, Some(faults), screen)?.why(first)
        }
        RecipeFault::Signature(fault) => {
            let failure = Failure { code: Some(fault.code().to_owned()), ..Failure::new(what).because(fault) };
            match fault {
                SignatureFault::Missing => failure.advice("`arw-cli recipes sign PATH --key FILE` signs it"),
                SignatureFault::Untrusted { .. } => failure.advice("if you trust them, add their key there"),
                _ => failure,
            }
        }
        RecipeFault::Shelf(ShelfFault::Older { .. }) => {
            Failure::new(what).because(fault).advice("--allow-older takes it all the same")
        }
        RecipeFault::Shelf(ShelfFault::Unknown(_)) => {
            Failure::new(what).because(fault).advice("`arw-cli recipes list` shows those that are there")
        }
        RecipeFault::Shelf(_) => Failure::new(what).because(fault),
    };
    Ok(failure)
}

fn keygen(args: &KeygenArgs, screen: &mut Screen) -> Result<Outcome, Failure> {
    let now = SystemClock.now();
    // The file of signers is read first: a key that nobody can be told of is not made.
    let trusted = match &args.trust {
        Some(path) => {
            let read = read_file(path, crate::config::MAX_SIGNERS)
                .map_err(|fault| Failure::new("no key was made").why(fault))
                .and_then(|text| {
                    Signers::parse(path, &text).map_err(|faults| Failure::new("no key was made").why(faults))
                })?;
            Some((path, read))
        }
        None => None,
    };
    let key = PrivateKey::create(&args.key, args.name.as_str())
        .map_err(|fault| Failure::new("no key was made").because(&fault))?;
    let signer = Signer {
        id: args.name.to_string(),
        key: key.verifier().clone(),
        signs: args.signs.clone(),
        // From the day on: the clocks of the hosts that sign and that trust need not agree to the second.
        valid_from: Timestamp::from_unix_micros(now.unix_micros() - now.unix_micros().rem_euclid(86_400_000_000)),
        valid_to: now.plus(Duration::from_secs(u64::from(args.days) * 86_400)),
        revoked: None,
        note: None,
    };
    if let Some((path, signers)) = &trusted {
        let added = signers.with(signer.clone()).map_err(|why| Failure::new("the key is not trusted yet").why(why));
        if let Err(failure) = added.and_then(|text| write(path, &text)) {
            // Nobody knows this key: without its entry it is of no use, and the name would stay taken.
            let _ = std::fs::remove_file(&args.key);
            return Err(failure);
        }
    }
    if screen.json() {
        screen.value(&signer, false)?;
        return Ok(Outcome::Done);
    }
    screen.painted(Paint::Good, &safe(&format!("the private key of {} is in {}", signer.id, args.key.display())))?;
    match &args.trust {
        Some(path) => screen.line(&safe(&format!("its public key was added to {}", path.display())))?,
        None => {
            screen.line("Its entry for `signers` in runtime/bundle_signers.json, where it is to be trusted:")?;
            screen.line("")?;
            screen.value(&signer, false)?;
        }
    }
    Ok(Outcome::Done)
}

/// Reads a recipe where it lies.
fn read(path: &Path, screen: &mut Screen) -> Result<(Material, Recipe), Failure> {
    let what = || format!("`{}` is no recipe", path.display());
    let material = signed::read(path, &recipes::SHAPE).map_err(|fault| Failure::new(what()).because(&fault))?;
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    match recipes::read(folder, &material) {
        Ok(recipe) => Ok((material, recipe)),
        Err(faults) => Err(failed(what(), &RecipeFault::Manifest(faults), screen)?),
    }
}

fn sign(args: &SignArgs, screen: &mut Screen) -> Result<Outcome, Failure> {
    let (material, recipe) = read(&args.path, screen)?;
    let key = key(args)?;
    let (id, version) = (recipe.spec.id.as_str(), recipe.version);
    let note = signed::sign(&key, Kind::Recipe, id, version, &material.tree, SystemClock.now());
    let file = if args.path.is_dir() {
        args.path.join(recipes::SHAPE.signature)
    } else {
        let mut name = args.path.as_os_str().to_owned();
        name.push(".sig");
        name.into()
    };
    write(&file, &note)?;
    show_signed((id, version), &material.tree.digest(), key.verifier().name(), &file, screen)?;
    Ok(Outcome::Done)
}

fn install(
    path: &Path,
    verify: bool,
    allow_older: bool,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let what = format!("`{}` was not installed", path.display());
    if !verify && settings.require_signed_bundles {
        return Err(Failure::new(what)
            .why("this host takes signed recipes only")
            .advice("add --verify; ARW_REQUIRE_SIGNED_BUNDLES=0 would take unsigned ones too"));
    }
    let trust = if verify { strict_trust(settings) } else { trust(settings) };
    let expect = if allow_older { Expect::OlderToo } else { Expect::Newer };
    let shelf = recipes::shelf(&settings.state_dir);
    match recipes::install(&shelf, path, &trust, expect, &who()) {
        Ok((_, record)) => {
            if screen.json() {
                screen.value(&record, false)?;
            } else {
                show_placed("installed", &record, screen)?;
            }
            Ok(Outcome::Done)
        }
        Err(fault) => Err(failed(what, &fault, screen)?),
    }
}

/// Has the daemon run it: what is hashed and verified here would be another moment's.
async fn start(id: &RuntimeId, reason: &str, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let body = serde_json::json!({ "reason": reason });
    let answer: Value = context.client.send(&format!("/recipes/{id}/run"), &body).await?;
    if screen.json() {
        screen.value(&answer, false)?;
        return Ok(Outcome::Done);
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let (version, signer) = (text(&answer["version"]), text(&answer["signer"]));
    let (state, persona) = (text(&answer["runtime"]["state"]), text(&answer["runtime"]["persona"]));
    let line = format!("{id} {version}, signed by {signer}, is {state} as {persona}");
    screen.painted(Paint::Good, &safe(&line))?;
    screen.line(&format!("  `arw-cli runtime logs -f {id}` follows it"))?;
    Ok(Outcome::Done)
}

/// The daemon of this state folder, where one runs, ends what was retired once it is told.
async fn told(id: &RuntimeId, settings: &ServerConfig, context: &Context) -> Result<(), ClientError> {
    if !settings.control.unix_socket.exists() {
        return Ok(());
    }
    let body = serde_json::json!({ "reason": format!("the recipe {id} was retired") });
    match context.client.send::<_, Value>("/policy/reload", &body).await {
        Ok(_) | Err(ClientError::NotRunning { .. }) => Ok(()),
        Err(fault) => Err(fault),
    }
}

async fn retire(id: &RuntimeId, note: &str, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let shelf = recipes::shelf(&settings.state_dir);
    match shelf.retire(id.as_str(), &who(), note, SystemClock.now()) {
        Ok(record) => {
            let untold = told(id, settings, context).await.err();
            if screen.json() {
                screen.value(&record, false)?;
            } else {
                let kept = amount(record.revisions.len() as u64, "version");
                screen.painted(Paint::Good, &format!("retired {id} {}; {kept} kept", record.current))?;
                if let Some(fault) = untold {
                    let line = format!("the daemon may still run it: `arw-cli reload` ends it ({fault})");
                    screen.painted(Paint::Warn, &safe(&line))?;
                }
            }
            Ok(Outcome::Done)
        }
        Err(fault) => Err(failed(format!("`{id}` was not retired"), &RecipeFault::Shelf(fault), screen)?),
    }
}

/// Whether an installed recipe is still what it was, in one word, and in full.
fn state(record: &Record, settings: &ServerConfig, trust: &Trust) -> (Paint, String, Option<String>) {
    if record.status == Status::Retired {
        return (Paint::Faint, "retired".to_owned(), None);
    }
    let loaded = RuntimeId::parse(&record.id)
        .map_err(|_| ShelfFault::Unknown(record.id.clone()).into())
        .and_then(|id| recipes::load(&recipes::shelf(&settings.state_dir), &id, trust));
    match loaded {
        Ok(installed) if installed.signed.is_some() => (Paint::Good, "sound".to_owned(), None),
        Ok(_) => (Paint::Warn, "unsigned".to_owned(), None),
        Err(RecipeFault::Signature(fault)) => (Paint::Bad, fault.code().to_owned(), Some(fault.to_string())),
        Err(RecipeFault::Shelf(fault @ ShelfFault::Changed { .. })) => {
            (Paint::Bad, "content_changed".to_owned(), Some(fault.to_string()))
        }
        Err(fault) => (Paint::Bad, "not_taken".to_owned(), Some(fault.to_string())),
    }
}

fn list(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let trust = trust(settings);
    let records = recipes::shelf(&settings.state_dir)
        .records()
        .map_err(|fault| Failure::new("the recipes cannot be read").because(&fault))?;
    let mut table = Table::new(&["RECIPE", "VERSION", "STATE", "SIGNER", ">KEPT", "SINCE"]);
    let mut all = Vec::new();
    let mut outcome = Outcome::Done;
    for record in &records {
        let record = match record {
            Ok(record) => record,
            Err(fault) => {
                outcome = Outcome::Refused;
                all.push(serde_json::json!({ "fault": fault.to_string() }));
                table.row(Paint::Bad, &["?", "-", &fault.to_string(), "-", "-", "-"]);
                continue;
            }
        };
        let (paint, word, detail) = state(record, settings, &trust);
        if paint == Paint::Bad {
            outcome = Outcome::Refused;
        }
        let revision = record.in_force();
        table.row(
            paint,
            &[
                &record.id,
                &record.current.to_string(),
                &word,
                revision.and_then(|revision| revision.signer.as_deref()).unwrap_or("-"),
                &record.revisions.len().to_string(),
                &revision.map_or("-".to_owned(), |revision| moment(revision.placed_at)),
            ],
        );
        all.push(serde_json::json!({ "state": word, "detail": detail, "record": record }));
    }
    if screen.json() {
        screen.value(&serde_json::json!({ "recipes": all }), false)?;
    } else if table.is_empty() {
        screen.painted(Paint::Faint, "no recipes are installed")?;
    } else {
        table.show(screen)?;
    }
    Ok(outcome)
}

fn inspect(name: &str, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let shelf = recipes::shelf(&settings.state_dir);
    let path = Path::new(name);
    let installed = match RuntimeId::parse(name) {
        Ok(_) => {
            shelf.record(name).map_err(|fault| Failure::new(format!("cannot inspect `{name}`")).because(&fault))?
        }
        Err(_) => None,
    };
    let trust = trust(settings);
    let (material, recipe) = match installed {
        Some(record) => {
            let version = record.current;
            let placed = shelf
                .take_version(record, version)
                .map_err(|fault| Failure::new(format!("cannot inspect `{name}`")).because(&fault))?;
            match recipes::read(&placed.folder, &placed.material) {
                Ok(recipe) => (placed.material, recipe),
                Err(faults) => {
                    return Err(failed(format!("cannot inspect `{name}`"), &RecipeFault::Manifest(faults), screen)?);
                }
            }
        }
        None => read(path, screen)?,
    };
    let checked = trust.check(&material, Kind::Recipe, (recipe.spec.id.as_str(), recipe.version));
    let consents = Consents::load(&settings.config_dir, &settings.state_dir);
    let plan = recipes::plan(&recipe, &consents, trust.now());
    if screen.json() {
        let files: Vec<_> = material
            .tree
            .entries()
            .iter()
            .map(|entry| {
                serde_json::json!({
                    "path": entry.path, "sha256": entry.sha256_hex(), "bytes": entry.bytes,
                    "executable": entry.executable,
                })
            })
            .collect();
        let egress: Vec<&String> = recipe.egress.iter().map(|(url, _)| url).collect();
        let answer = serde_json::json!({
            "plan": plan, "egress": egress, "signature": signature(&checked), "tree_sha256": material.tree.digest(),
            "files": files,
        });
        screen.value(&answer, false)?;
        return Ok(Outcome::Done);
    }
    show_plan(&plan, &checked, screen)?;
    for (url, _) in &recipe.egress {
        fact("egress", &format!("asks for {}", safe(url)), screen)?;
    }
    fact("tree", &format!("sha256:{}", material.tree.digest()), screen)?;
    for entry in material.tree.entries() {
        let mode = if entry.executable { "x" } else { "-" };
        fact("", &format!("{mode} {:>10}  {}", size(entry.bytes), safe(&entry.path)), screen)?;
    }
    Ok(Outcome::Done)
}
