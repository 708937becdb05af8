//! `automation contributions`: what each run contributed, as accounting reads it.
//!
//! The gateway sees what runs, when and as whom; it does not see invoices. Amounts, currencies, settlements and contracts
//! are blank until whoever knows them fills them in: nothing is invented.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use super::context::Context;
use crate::control::escape;
use crate::domain::Timestamp;
use crate::ui::{Failure, Outcome, Screen};

/// The columns, in the order that accounting knows.
const COLUMNS: [&str; 10] = [
    "id",
    "currency",
    "status",
    "net_amount",
    "gross_amount",
    "issued_at",
    "settled_at",
    "job_id",
    "persona_id",
    "contract_id",
];
/// Runs of one automation: as many as are kept.
const RUNS: u16 = 1_000;

pub(super) async fn run(
    since: Option<Timestamp>,
    out: Option<&Path>,
    context: &Context,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let status: Value = context.client.fetch("/state/automation/status").await?;
    let mut rows = Vec::new();
    for automation in status["automations"].as_array().into_iter().flatten() {
        let Some(id) = automation["id"].as_str() else { continue };
        let persona = automation["persona"].as_str().unwrap_or_default();
        let runs: Value = context.client.fetch(&format!("/automations/{}/runs?limit={RUNS}", escape(id))).await?;
        // Oldest first, as a ledger is read.
        let runs = runs["runs"].as_array().into_iter().flatten().rev();
        rows.extend(runs.filter(|run| began_since(run, since)).map(|run| row(id, persona, run)));
    }
    let count = rows.len();
    if screen.json() {
        let rows: Vec<Value> = rows.iter().map(|row| COLUMNS.iter().zip(row).map(named).collect()).collect();
        screen.value(&rows, false)?;
        return Ok(Outcome::Done);
    }
    match out {
        None => table(screen.writer(), &rows)?,
        Some(path) => {
            let failed = |error: std::io::Error| Failure::new(format!("cannot write `{}`", path.display())).why(error);
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
            table(&mut file, &rows).and_then(|()| file.sync_all()).map_err(failed)?;
            screen
                .line(&format!("wrote {count} runs to `{}`; amounts are for accounting to fill in", path.display()))?;
        }
    }
    Ok(Outcome::Done)
}

fn named((column, value): (&&str, &String)) -> (String, Value) {
    ((*column).to_owned(), value.as_str().into())
}

fn began_since(run: &Value, since: Option<Timestamp>) -> bool {
    let began = run["began_at"].as_str().and_then(|text| Timestamp::parse(text).ok());
    since.is_none_or(|since| began.is_some_and(|began| began >= since))
}

fn row(automation: &str, persona: &str, run: &Value) -> [String; 10] {
    let text = |key: &str| run[key].as_str().unwrap_or_default().to_owned();
    let blank = String::new;
    let number = run["run"].to_string();
    let status = match run["cause"].as_str() {
        Some(cause) => format!("ended:{cause}"),
        None => "running".to_owned(),
    };
    [
        format!("{automation}/{}/{number}", text("runtime")),
        blank(),
        status,
        blank(),
        blank(),
        text("ended_at"),
        blank(),
        automation.to_owned(),
        persona.to_owned(),
        blank(),
    ]
}

fn table(out: &mut dyn Write, rows: &[[String; 10]]) -> std::io::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record(COLUMNS)?;
    for row in rows {
        table.write_record(row)?;
    }
    table.flush()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_reported_is_blank() {
        let run = json!({ "run": 3, "runtime": "ocr", "began_at": "2026-11-22T10:00:00Z", "ended_at": "2026-11-22T11:00:00Z", "cause": "exit" });
        let mut out = Vec::new();
        table(&mut out, &[row("nightly", "agent", &run)]).expect("in memory");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "id,currency,status,net_amount,gross_amount,issued_at,settled_at,job_id,persona_id,contract_id\n\
             nightly/ocr/3,,ended:exit,,,2026-11-22T11:00:00Z,,nightly,agent,\n"
        );
        assert!(began_since(&run, Timestamp::parse("2026-11-22T10:00:00Z").ok()));
        assert!(!began_since(&run, Timestamp::parse("2026-11-22T10:00:01Z").ok()));
    }
}
