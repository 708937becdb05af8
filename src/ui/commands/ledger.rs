//! `ledger …`: everything here reads the folder, with or without a daemon.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::context::Context;
use super::lines;
use crate::control::{Client, ClientError};
use crate::governance::authority::Action;
use crate::ledger::{self, Export, Filter, Follower, Format, LedgerError, Proof, Reader, Stats, VerifyReport};
use crate::ui::args::{ExportFormat, FilterArgs, LedgerCommand};
use crate::ui::text::{amount, count, size};
use crate::ui::{Failure, Outcome, Paint, Progress, Screen, Table};

/// Time between two looks for new lines. 250 ms: at once, to a person.
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);
/// Lines taken in one look. 1000.
const FOLLOW_LINES: usize = 1_000;
/// Rows of a table of statistics. 20: the ones that matter; `--json` has all.
const STAT_ROWS: usize = 20;

pub(super) async fn run(command: LedgerCommand, context: &Context, screen: &mut Screen) -> Result<Outcome, Failure> {
    match command {
        LedgerCommand::Tail { dir, follow, lines } => {
            tail(&context.ledger_dir(dir.dir)?, lines as usize, follow, screen).await
        }
        LedgerCommand::Query { dir, filter, limit } => {
            query(&context.ledger_dir(dir.dir)?, &filter.into(), limit as usize, screen)
        }
        LedgerCommand::Stats { dir, filter } => stats(&context.ledger_dir(dir.dir)?, &filter.into(), screen),
        LedgerCommand::Verify { dir } => verify(&context.ledger_dir(dir)?, screen),
        LedgerCommand::Prove { seq, dir, out } => {
            let daemon = dir.dir.is_none().then_some(&context.client);
            let proof = prove(&context.ledger_dir(dir.dir)?, seq, daemon).await?;
            write_proof(&proof, out.as_deref(), screen)
        }
        LedgerCommand::Export { dir, format, filter, raw, out } => {
            if raw {
                context.permit(Action::LedgerReadRaw)?;
            }
            let export = Export { filter: filter.into(), format: format.into(), raw };
            write_export(&context.ledger_dir(dir.dir)?, &export, out.as_deref(), screen)
        }
    }
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        Self {
            persona: args.persona,
            runtime: args.runtime,
            host: args.host,
            decision: args.decision.map(ledger::Outcome::from),
            code: args.code,
            since: args.since,
            until: args.until,
            ..Self::default()
        }
    }
}

impl From<ExportFormat> for Format {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Csv => Self::Csv,
            ExportFormat::Jsonl => Self::Jsonl,
            ExportFormat::Ocsf => Self::Ocsf,
        }
    }
}

/// What went wrong with the ledger in `dir`, and what to do about it.
fn failed(dir: &Path) -> impl Fn(LedgerError) -> Failure + '_ {
    move |error| {
        let failure = Failure::new(format!("cannot read the ledger in `{}`", dir.display())).because(&error);
        match &error {
            LedgerError::Damaged(_) | LedgerError::Note { .. } => {
                failure.advice("run `arw-cli ledger verify` to see all that is wrong")
            }
            LedgerError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                failure.advice("run as root or as the daemon's user")
            }
            _ => failure,
        }
    }
}

async fn tail(dir: &Path, count: usize, follow: bool, screen: &mut Screen) -> Result<Outcome, Failure> {
    let reader = Reader::open(dir).map_err(failed(dir))?;
    // With no lines asked for, the newest still says where to go on.
    let newest = reader.latest(&Filter::default(), count.max(1)).map_err(failed(dir))?;
    let next = newest.last().map_or(1, |line| line.seq + 1);
    let shown = &newest[newest.len() - count.min(newest.len())..];
    if screen.json() {
        for line in shown {
            screen.value(line, true)?;
        }
    } else if follow {
        for line in shown {
            lines::show_one(line, screen)?;
        }
    } else {
        lines::show(shown, screen)?;
    }
    if !follow {
        return Ok(Outcome::Done);
    }
    let mut follower = Follower::new(dir, next);
    loop {
        screen.flush()?;
        let new = follower.poll(FOLLOW_LINES).map_err(failed(dir))?;
        for line in &new {
            if screen.json() {
                screen.value(line, true)?;
            } else {
                lines::show_one(line, screen)?;
            }
        }
        if new.is_empty() {
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }
}

fn query(dir: &Path, filter: &Filter, limit: usize, screen: &mut Screen) -> Result<Outcome, Failure> {
    let reader = Reader::open(dir).map_err(failed(dir))?;
    let progress = Progress::bytes(screen, "searching", None);
    let found = reader.latest(filter, limit).map_err(failed(dir))?;
    drop(progress);
    if screen.json() {
        for line in &found {
            screen.value(line, true)?;
        }
    } else if found.is_empty() {
        screen.painted(Paint::Faint, "no line matches")?;
    } else {
        lines::show(&found, screen)?;
        if found.len() == limit {
            screen.painted(Paint::Faint, &format!("the newest {limit}; --limit shows more"))?;
        }
    }
    Ok(Outcome::Done)
}

fn stats(dir: &Path, filter: &Filter, screen: &mut Screen) -> Result<Outcome, Failure> {
    let reader = Reader::open(dir).map_err(failed(dir))?;
    let progress = Progress::bytes(screen, "counting", None);
    let mut stats = Stats::default();
    reader
        .select(filter, |_, line| {
            stats.add(&line);
            progress.advance(1);
            Ok(ControlFlow::Continue(()))
        })
        .map_err(failed(dir))?;
    drop(progress);
    if screen.json() {
        screen.value(&stats, false)?;
    } else {
        show_stats(&stats, screen)?;
    }
    Ok(Outcome::Done)
}

fn show_stats(stats: &Stats, screen: &mut Screen) -> Result<(), Failure> {
    let period = lines::period(stats.first_time, stats.last_time);
    screen.line(&format!("{}, {period}", amount(stats.lines, "line")))?;
    screen.line(&format!("{} up, {} down", size(stats.bytes_up), size(stats.bytes_down)))?;
    if !stats.personas.is_empty() {
        let mut table = Table::new(&["PERSONA", ">OPENED", ">WOULD DENY", ">DENIED", ">UP", ">DOWN"]);
        for (name, persona) in &stats.personas {
            table.row(
                Paint::Plain,
                &[
                    name,
                    &count(persona.opened),
                    &count(persona.would_deny),
                    &count(persona.denied),
                    &size(persona.bytes_up),
                    &size(persona.bytes_down),
                ],
            );
        }
        screen.line("")?;
        table.show(screen)?;
    }
    for (heading, counts) in [("DENIAL", &stats.codes), ("HOST", &stats.hosts)] {
        let mut rows: Vec<(&String, &u64)> = counts.iter().collect();
        if rows.is_empty() {
            continue;
        }
        rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let mut table = Table::new(&[heading, ">COUNT"]);
        for (name, number) in rows.iter().take(STAT_ROWS) {
            table.row(Paint::Plain, &[name, &count(**number)]);
        }
        screen.line("")?;
        table.show(screen)?;
        if rows.len() > STAT_ROWS {
            screen.painted(Paint::Faint, &format!("and {} more", count((rows.len() - STAT_ROWS) as u64)))?;
        }
    }
    Ok(())
}

fn verify(dir: &Path, screen: &mut Screen) -> Result<Outcome, Failure> {
    let progress = Progress::bytes(screen, "verifying", None);
    let report = ledger::verify(dir, &mut |state| progress.at(state.bytes))
        .map_err(|error| Failure::new(format!("cannot verify the ledger in `{}`", dir.display())).because(&error))?;
    drop(progress);
    if screen.json() {
        screen.value(&report, false)?;
    } else {
        show_report(&report, screen)?;
    }
    Ok(if report.is_sound() { Outcome::Done } else { Outcome::Refused })
}

fn show_report(report: &VerifyReport, screen: &mut Screen) -> Result<(), Failure> {
    let removed = match report.removed_lines {
        0 => String::new(),
        lines => format!(", {} more removed by retention", count(lines)),
    };
    screen.line(&format!(
        "{} ({}) in {}{removed}",
        amount(report.lines, "line"),
        size(report.bytes),
        amount(report.segments, "segment")
    ))?;
    screen.line(&lines::period(report.first_time, report.last_time))?;
    screen.line(&format!(
        "{}, {} signed, {} not yet",
        amount(report.checkpoints, "checkpoint"),
        amount(report.signed_size, "line"),
        count(report.unsigned_lines)
    ))?;
    screen.line(&format!("checked with {}", crate::ui::text::safe(&report.public_key)))?;
    if report.torn_bytes > 0 {
        screen.painted(
            Paint::Warn,
            &format!("{} of a torn line at the end: a crash, or a write that goes on now", size(report.torn_bytes)),
        )?;
    }
    for fault in &report.faults {
        let kind = match serde_json::to_value(fault.kind) {
            Ok(serde_json::Value::String(word)) => word,
            Ok(_) | Err(_) => String::new(),
        };
        let text = format!("{kind}: {}", fault.place);
        screen.painted(Paint::Bad, &crate::ui::text::safe(&text))?;
    }
    if report.is_sound() {
        screen.painted(Paint::Good, "the ledger is sound")?;
    } else {
        let faults = amount(report.faults.len() as u64, "fault");
        screen.painted(Paint::Bad, &format!("THE LEDGER IS NOT WHAT WAS WRITTEN AND SIGNED: {faults}"))?;
    }
    Ok(())
}

/// From the folder; a line that no checkpoint covers yet, from the `daemon`, which can sign one.
async fn prove(dir: &Path, seq: u64, daemon: Option<&Client>) -> Result<Proof, Failure> {
    let error = match ledger::prove(dir, seq) {
        Ok(proof) => return Ok(proof),
        Err(error) => error,
    };
    let failure = Failure::new(format!("cannot prove line {seq}")).because(&error);
    if !matches!(error, LedgerError::NoLine { .. }) {
        return Err(failure);
    }
    let asked = match daemon {
        Some(client) => client.fetch::<Proof>(&format!("/ledger/proof/{seq}")).await,
        None => return Err(failure.advice("the daemon signs every minute; ask later, or without --dir")),
    };
    asked.map_err(|error| match error {
        ClientError::Refused(problem) if problem.code == "no_such_entry" => failure.why(&problem.detail),
        _ => failure.advice("the daemon signs every minute; `arw-cli ledger tail` shows what is there"),
    })
}

fn write_proof(proof: &Proof, out: Option<&Path>, screen: &mut Screen) -> Result<Outcome, Failure> {
    match out {
        None => screen.value(proof, false)?,
        Some(path) => {
            let mut file = create(path)?;
            let text =
                serde_json::to_vec_pretty(proof).map_err(|error| Failure::new("cannot write the proof").why(error))?;
            let written = file.write_all(&text).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
            written.map_err(|error| Failure::new(format!("cannot write `{}`", path.display())).why(error))?;
            if screen.json() {
                screen.value(&serde_json::json!({ "seq": proof.seq, "out": path }), false)?;
            } else {
                screen.line(&format!("the proof of line {} is in {}", proof.seq, path.display()))?;
            }
        }
    }
    Ok(Outcome::Done)
}

fn write_export(dir: &Path, export: &Export, out: Option<&Path>, screen: &mut Screen) -> Result<Outcome, Failure> {
    let reader = Reader::open(dir).map_err(failed(dir))?;
    let failed = |error: LedgerError| match error {
        LedgerError::Io { doing: "write", source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
            source.into()
        }
        error => Failure::new(format!("cannot export the ledger in `{}`", dir.display())).because(&error),
    };
    let Some(path) = out else {
        let mut writer = screen.writer();
        export.write(&reader, &mut writer).map_err(failed)?;
        return Ok(Outcome::Done);
    };
    let progress = Progress::bytes(screen, "exporting", None);
    let mut file = Counted { inner: BufWriter::new(create(path)?), progress };
    let count = export.write(&reader, &mut file).map_err(failed)?;
    let written = file.flush().and_then(|()| file.inner.get_ref().sync_all());
    drop(file);
    written.map_err(|error| Failure::new(format!("cannot write `{}`", path.display())).why(error))?;
    if screen.json() {
        screen.value(&serde_json::json!({ "lines": count, "out": path, "raw": export.raw }), false)?;
    } else {
        let names = if export.raw { "real names" } else { "pseudonyms" };
        screen.line(&format!("{} with {names} in {}", amount(count, "line"), path.display()))?;
    }
    Ok(Outcome::Done)
}

/// A new file that only its owner reads: what left this host is nobody else's business. An existing
/// one is never overwritten.
fn create(path: &Path) -> Result<File, Failure> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let failure = Failure::new(format!("cannot write `{}`", path.display())).why(&error);
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => failure.advice("name a file that is not there yet"),
            _ => failure,
        }
    })
}

/// Shows how much was written.
struct Counted {
    inner: BufWriter<File>,
    progress: Progress,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.progress.advance(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
