//! The ledger: appending lines, and verifying the whole.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arw::config::{LedgerConfig, ServerConfig};
use arw::domain::{Identity, PersonaId, RuleId, Scheme, SystemClock};
use arw::ledger::{self, Kind, Ledger, Outcome, Record, Via};
use tempfile::TempDir;

use super::{PERSONA, PROCESS, THREAD, client, cpu_of};
use crate::report::{Goal, Row};
use crate::subject::Subject;

/// Lines per sample: some 80 MB, so that a segment is sealed on the way at the default of 64 MiB.
const LINES: u32 = 300_000;
/// Samples at most: each writes, syncs and reads those bytes.
const MOST_ROUNDS: usize = 3;

const ROWS: [(&str, &str, Goal); 3] = [
    ("ledger: append, the caller's own time", "lines/s of one core", Goal::AtLeast(300_000.0)),
    ("ledger: append with sync, sealing and signing", "lines/s of one core", Goal::None),
    ("ledger: verify the whole", "MB/s of one core", Goal::AtLeast(500.0)),
];

pub(super) fn rows(rounds: usize, wants: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Row>> {
    if !ROWS.iter().any(|(name, ..)| wants(name)) {
        return Ok(Vec::new());
    }
    let rounds = rounds.min(MOST_ROUNDS);
    let mut rows: Vec<Row> = ROWS.into_iter().map(|(name, unit, goal)| Row::library(name, unit, goal)).collect();
    for round in 0..=rounds {
        eprintln!("ledger, round {round}");
        let dir = TempDir::with_prefix("arw-bench-")?;
        let config = ServerConfig::defaults(dir.path().join("state"), dir.path().join("configs")).ledger;
        let mut own = Duration::ZERO;
        let whole = cpu_of(PROCESS, || {
            own = append(&config)?;
            Ok(())
        })?;
        let mut bytes = 0;
        let verifying = cpu_of(PROCESS, || {
            bytes = verify(&config)?;
            Ok(())
        })?;
        let lines = f64::from(LINES);
        let values =
            [lines / own.as_secs_f64(), lines / whole.as_secs_f64(), bytes as f64 / 1e6 / verifying.as_secs_f64()];
        for (row, value) in rows.iter_mut().zip(values) {
            if round > 0 {
                row.samples.entry(Subject::Gateway).or_default().push(value);
            }
        }
    }
    Ok(rows)
}

/// Opens a new ledger, appends, and ends it. Gives the time of the appends alone, as the appending thread spent it.
fn append(config: &LedgerConfig) -> anyhow::Result<Duration> {
    let (ledger, _) = Ledger::open(config, Arc::new(SystemClock))?;
    let persona = PersonaId::parse(PERSONA)?;
    let rule = RuleId::parse("origin")?;
    let mut record = Record::new(Kind::Open);
    record.persona = Some(&persona);
    record.client = Some(client());
    record.identity = Some(Identity::Basic);
    record.scheme = Some(Scheme::Https);
    record.port = Some(443);
    record.address = Some(SocketAddr::from(([192, 0, 2, 7], 443)));
    record.outcome = Some(Outcome::Allow);
    record.via = Some(Via::Policy);
    record.rule = Some(&rule);
    // Many names, as in life: equal lines would be sealed for nothing.
    let hosts: Vec<String> = (0..1_000).map(|index| format!("service-{index}.example.com")).collect();
    let own = cpu_of(THREAD, || {
        for host in hosts.iter().cycle().take(LINES as usize) {
            record.host = Some(host);
            let _ = black_box(ledger.append(&record)?);
        }
        Ok(())
    })?;
    // Its own thread would look for full segments within a second.
    ledger.maintain()?;
    ledger.shutdown()?;
    Ok(own)
}

/// Checks every line, segment and signature. Gives the bytes of the lines.
fn verify(config: &LedgerConfig) -> anyhow::Result<u64> {
    let report = ledger::verify(&config.dir, &mut |_| {})?;
    anyhow::ensure!(report.is_sound() && report.lines >= u64::from(LINES), "the bench's own ledger is not sound");
    Ok(report.bytes)
}
