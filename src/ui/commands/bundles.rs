//! `runtime bundles …`: everything here reads and writes files, with or without a daemon.

use std::path::Path;

use super::context::Context;
use super::signing::{key, strict_trust, trust, who, write};
use crate::config::Faults;
use crate::domain::{BundleId, Clock, SystemClock};
use crate::governance::bundles::{self, BundleFault, read_catalogues};
use crate::governance::consent;
use crate::governance::signed::{self, Expect, Record, ShelfFault, Status, Version};
use crate::ui::args::{BundlesCommand, ManifestCommand, SignArgs};
use crate::ui::text::{moment, safe};
use crate::ui::{Failure, Outcome, Paint, Screen, Table};

pub(super) fn run(command: BundlesCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        BundlesCommand::List => list(context, screen),
        BundlesCommand::Import { path, allow_older } => import(&path, allow_older, context, screen),
        BundlesCommand::Rollback { id, to, note } => rollback(&id, to, &note, context, screen),
        BundlesCommand::Audit { require_signed } => audit(require_signed, context, screen),
        BundlesCommand::Manifest(ManifestCommand::Sign(args)) => sign(&args, screen),
        BundlesCommand::Manifest(ManifestCommand::Verify { path }) => verify(&path, context, screen),
    }
}

/// What went wrong, and what to do about it. Every fault of a manifest is shown first, a line each.
pub(super) fn refused(what: String, faults: Option<&Faults>, screen: &mut Screen) -> Result<Failure, Failure> {
    let Some(faults) = faults else { return Ok(Failure::new(what)) };
    if !screen.json() {
        for fault in &faults.0 {
            screen.painted(Paint::Bad, &safe(&fault.to_string()))?;
        }
        screen.flush()?;
    }
    Ok(Failure::new(what))
}

fn failed(what: String, fault: &BundleFault, screen: &mut Screen) -> Result<Failure, Failure> {
    let failure = match fault {
        BundleFault::Manifest(faults) => {
            let first = faults.0.first().map(ToString::to_string).unwrap_or_default();
            refused(what, Some(faults), screen)?.why(first)
        }
        BundleFault::Signature(fault) => {
            Failure { code: Some(fault.code().to_owned()), ..Failure::new(what).because(fault) }.advice(
                "`arw-cli runtime bundles manifest sign PATH --key FILE` signs; runtime/bundle_signers.json trusts",
            )
        }
        BundleFault::Shelf(ShelfFault::Older { .. }) => Failure::new(what)
            .because(fault)
            .advice("`arw-cli runtime bundles rollback` goes back; --allow-older takes it all the same"),
        BundleFault::Shelf(_) => Failure::new(what).because(fault),
    };
    Ok(failure)
}

fn import(path: &Path, allow_older: bool, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let expect = if allow_older { Expect::OlderToo } else { Expect::Newer };
    let shelf = bundles::shelf(&settings.state_dir);
    match bundles::import(&shelf, path, &trust(settings), expect, &who()) {
        Ok((bundle, record)) => {
            if screen.json() {
                screen.value(&record, false)?;
            } else {
                show_placed("imported", &record, screen)?;
                if bundle.consent.required {
                    let text = "its consent opens nothing here: list the bundle in runtime/bundles*.json for that";
                    screen.painted(Paint::Faint, text)?;
                }
            }
            Ok(Outcome::Done)
        }
        Err(fault) => Err(failed(format!("`{}` was not imported", path.display()), &fault, screen)?),
    }
}

/// `imported model 1.0.0, signed by release-2026`.
pub(super) fn show_placed(verb: &str, record: &Record, screen: &mut Screen) -> Result<(), Failure> {
    let revision = record.in_force();
    let signer = revision.and_then(|revision| revision.signer.as_deref());
    let (paint, by) = match signer {
        Some(signer) => (Paint::Good, format!("signed by {signer}")),
        None => (Paint::Warn, "NOT SIGNED".to_owned()),
    };
    screen.painted(paint, &safe(&format!("{verb} {} {}, {by}", record.id, record.current)))?;
    if let Some(revision) = revision {
        screen.line(&format!("  tree sha256:{}", revision.tree))?;
    }
    Ok(())
}

fn rollback(
    id: &BundleId,
    to: Option<Version>,
    note: &str,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let shelf = bundles::shelf(&settings.state_dir);
    match bundles::rollback(&shelf, id, to, &trust(settings), &who(), note) {
        Ok(record) => {
            if screen.json() {
                screen.value(&record, false)?;
            } else {
                show_placed("in force again:", &record, screen)?;
            }
            Ok(Outcome::Done)
        }
        Err(fault) => Err(failed(format!("`{id}` was not rolled back"), &fault, screen)?),
    }
}

fn audit(require_signed: bool, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let trust = if require_signed { strict_trust(settings) } else { trust(settings) };
    let faults = bundles::audit(&settings.config_dir, &settings.state_dir, &trust);
    if screen.json() {
        screen.value(&serde_json::json!({ "sound": faults.is_empty(), "faults": faults }), false)?;
    } else if faults.is_empty() {
        screen.painted(Paint::Good, "every bundle is what its signer signed")?;
    } else {
        for fault in &faults {
            screen.painted(Paint::Bad, &safe(&fault.to_string()))?;
        }
    }
    Ok(if faults.is_empty() { Outcome::Done } else { Outcome::Refused })
}

fn sign(args: &SignArgs, screen: &mut Screen) -> Result<Outcome, Failure> {
    let what = || format!("`{}` was not signed", args.path.display());
    let signable = match bundles::signable(&args.path) {
        Ok(signable) => signable,
        Err(fault) => return Err(failed(what(), &fault, screen)?),
    };
    let key = key(args)?;
    let tree = &signable.material.tree;
    let note = signed::sign(&key, signable.kind, &signable.id, signable.version, tree, SystemClock.now());
    write(&signable.signature_file, &note)?;
    show_signed(
        (&signable.id, signable.version),
        &tree.digest(),
        key.verifier().name(),
        &signable.signature_file,
        screen,
    )?;
    Ok(Outcome::Done)
}

/// What was signed, by whom, and where the signature is.
pub(super) fn show_signed(
    (id, version): (&str, Version),
    tree: &str,
    signer: &str,
    file: &Path,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if screen.json() {
        let answer = serde_json::json!({
            "id": id, "version": version, "tree_sha256": tree, "signer": signer, "signature": file,
        });
        screen.value(&answer, false)?;
        return Ok(());
    }
    screen.painted(Paint::Good, &safe(&format!("signed {id} {version} as {signer}")))?;
    screen.line(&format!("  tree sha256:{tree}"))?;
    screen.line(&safe(&format!("  signature in {}", file.display())))?;
    Ok(())
}

fn verify(path: &Path, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let what = || format!("`{}` does not verify", path.display());
    let signable = match bundles::signable(path) {
        Ok(signable) => signable,
        Err(fault) => return Err(failed(what(), &fault, screen)?),
    };
    let subject = (signable.id.as_str(), signable.version);
    match strict_trust(settings).check(&signable.material, signable.kind, subject) {
        Ok(Some(signed)) => {
            let statement = signed.statement();
            if screen.json() {
                let answer = serde_json::json!({
                    "id": statement.id, "version": statement.version, "tree_sha256": statement.tree,
                    "signer": signed.signer(), "signed_at": statement.signed_at,
                });
                screen.value(&answer, false)?;
            } else {
                let text = format!(
                    "{} {} {} is what {} signed on {}",
                    statement.kind,
                    statement.id,
                    statement.version,
                    signed.signer(),
                    moment(statement.signed_at)
                );
                screen.painted(Paint::Good, &safe(&text))?;
            }
            Ok(Outcome::Done)
        }
        Ok(None) => Err(Failure::new(what()).why("it is not signed")),
        Err(fault) => Err(failed(what(), &BundleFault::Signature(fault), screen)?),
    }
}

fn list(context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    let settings = context.offline()?;
    let files = consent::bundle_files(&settings.config_dir)
        .map_err(|fault| Failure::new("cannot find the catalogues").why(fault))?;
    let declared = match read_catalogues(&files) {
        Ok(bundles) => bundles,
        Err(faults) => {
            let first = faults.0.first().map(ToString::to_string).unwrap_or_default();
            return Err(refused("the catalogues cannot be read".to_owned(), Some(&faults), screen)?.why(first));
        }
    };
    let shelf = bundles::shelf(&settings.state_dir);
    let records = shelf.records().map_err(|fault| Failure::new("the imports cannot be read").because(&fault))?;
    if screen.json() {
        let declared: Vec<_> = declared
            .iter()
            .map(|bundle| {
                serde_json::json!({
                    "id": bundle.id, "version": bundle.version, "name": bundle.name, "license": bundle.license,
                    "modalities": bundle.modalities, "file": bundle.file,
                })
            })
            .collect();
        let imported: Vec<_> = records
            .iter()
            .map(|record| match record {
                Ok(record) => serde_json::json!(record),
                Err(fault) => serde_json::json!({ "fault": fault.to_string() }),
            })
            .collect();
        screen.value(&serde_json::json!({ "declared": declared, "imported": imported }), false)?;
        return Ok(Outcome::Done);
    }
    if declared.is_empty() && records.is_empty() {
        screen.painted(Paint::Faint, "no bundles")?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["BUNDLE", "VERSION", "IS", "SIGNER", ">KEPT", "SINCE"]);
    for bundle in &declared {
        table.row(Paint::Plain, &[bundle.id.as_str(), &bundle.version.to_string(), "declared", "-", "-", "-"]);
    }
    let mut damaged = false;
    for record in &records {
        match record {
            Ok(record) => {
                let revision = record.in_force();
                let paint = if record.status == Status::Retired { Paint::Faint } else { Paint::Plain };
                table.row(
                    paint,
                    &[
                        &record.id,
                        &record.current.to_string(),
                        if record.status == Status::Retired { "retired" } else { "imported" },
                        revision.and_then(|revision| revision.signer.as_deref()).unwrap_or("NOT SIGNED"),
                        &record.revisions.len().to_string(),
                        &revision.map_or("-".to_owned(), |revision| moment(revision.placed_at)),
                    ],
                );
            }
            Err(fault) => {
                damaged = true;
                table.row(Paint::Bad, &["?", "-", &fault.to_string(), "-", "-", "-"]);
            }
        }
    }
    table.show(screen)?;
    Ok(if damaged { Outcome::Refused } else { Outcome::Done })
}
