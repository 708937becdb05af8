//! The library's own hot paths, called directly: deciding, appending, verifying.

use std::fmt::Write;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arw::config::{LedgerConfig, ServerConfig};
use arw::domain::{
    Clock, ClientAddr, EgressIntent, Identity, Labels, PersonaId, RuleId, Scheme, Surface, SystemClock, Target, Timestamp,
};
use arw::ledger::{Kind, Ledger, Outcome, Record, Via};
use arw::policy::{self, Decision, PolicySettings, Snapshot};
use nix::time::ClockId;
use tempfile::TempDir;

use crate::report::{Goal, Row};
use crate::subject::Subject;

/// Decisions per sample: some milliseconds, far above the clock's resolution.
const DECISIONS: u32 = 50_000;
/// Lines per sample: some 70 MB, so that a segment is sealed on the way at the default of 64 MiB.
const LINES: u32 = 200_000;
/// Ledger samples at most: each writes, syncs and reads those bytes.
const LEDGER_ROUNDS: usize = 3;
const PERSONA: &str = "bench";

/// Every row, each with `rounds` samples after one that is not counted.
pub(crate) fn rows(rounds: usize, wants: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (rules, granted, denied) in [
        (10, "decide: granted, 10 rules", "decide: denied, 10 rules"),
        (10_000, "decide: granted, 10,000 rules", "decide: denied, 10,000 rules"),
    ] {
        for (name, hit) in [(granted, true), (denied, false)] {
            if wants(name) {
                eprintln!("{name}");
                rows.push(decide_row(name, rules, hit, rounds)?);
            }
        }
    }
    if LEDGER_ROWS.iter().any(|(name, ..)| wants(name)) {
        rows.extend(ledger_rows(rounds.min(LEDGER_ROUNDS))?);
    }
    Ok(rows)
}

const LEDGER_ROWS: [(&str, &str, Goal); 3] = [
    ("ledger: append, the caller's own time", "lines/s of one core", Goal::AtLeast(300_000.0)),
    ("ledger: append with sync, sealing and signing", "lines/s of one core", Goal::None),
    ("ledger: verify the whole", "MB/s of one core", Goal::AtLeast(500.0)),
];

fn decide_row(name: &'static str, rules: usize, hit: bool, rounds: usize) -> anyhow::Result<Row> {
    let snapshot = snapshot(rules)?;
    let intents = intents(rules, hit)?;
    let now = SystemClock.now();
    for intent in &intents {
        let allowed = matches!(snapshot.decide(intent, now), Decision::Allow(_));
        anyhow::ensure!(allowed == hit, "`{}` was decided the other way", intent.target);
    }
    let mut row = Row::new(name, "ns", Goal::AtMost(1_000.0));
    for round in 0..=rounds {
        let spent = cpu_of(THREAD, || decide(&snapshot, &intents, now))?;
        if round > 0 {
            row.samples.entry(Subject::Gateway).or_default().push(spent.as_nanos() as f64 / f64::from(DECISIONS));
        }
    }
    Ok(row)
}

fn decide(snapshot: &Snapshot, intents: &[EgressIntent], now: Timestamp) -> anyhow::Result<()> {
    for intent in intents.iter().cycle().take(DECISIONS as usize) {
        black_box(snapshot.decide(black_box(intent), now));
    }
    Ok(())
}

/// A persona of which every tenth rule is a wildcard, every hundredth an address range, and the rest exact names.
fn snapshot(rules: usize) -> anyhow::Result<Snapshot> {
    let dir = TempDir::with_prefix("arw-bench-")?;
    let mut text = format!("id = \"{PERSONA}\"\nposture = \"allowlist\"\n");
    for index in 0..rules {
        let what = match index {
            _ if index % 100 == 99 => format!("cidrs = [\"10.{}.{}.0/24\"]", index / 256 % 256, index % 256),
            _ if index % 10 == 9 => format!("hosts = [\"*.zone-{index}.example.com\"]"),
            _ => format!("hosts = [\"service-{index}.example.com\"]"),
        };
        write!(text, "\n[[allow]]\nid = \"rule-{index}\"\n{what}\n")?;
    }
    std::fs::write(dir.path().join(format!("{PERSONA}.toml")), text)?;
    Ok(policy::load(dir.path(), &PolicySettings::default())?)
}

/// Names spread over all rules; denied ones differ from allowed ones in their last letters only.
fn intents(rules: usize, hit: bool) -> anyhow::Result<Vec<EgressIntent>> {
    let end = if hit { "com" } else { "org" };
    (0..rules)
        .step_by(rules.div_ceil(1_000))
        .filter(|index| index % 100 != 99)
        .map(|index| {
            let host = if index % 10 == 9 { format!("a.b.zone-{index}.example.{end}") } else { format!("service-{index}.example.{end}") };
            Ok(EgressIntent {
                persona: PersonaId::parse(PERSONA)?,
                identity: Identity::Basic,
                client: client(),
                surface: Surface::Tunnel,
                target: Target::parse(format!("{host}:443").as_bytes(), None)?,
                method: None,
                path: None,
                labels: Labels::default(),
            })
        })
        .collect()
}

fn client() -> ClientAddr {
    ClientAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000)))
}

fn ledger_rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = LEDGER_ROWS.into_iter().map(|(name, unit, goal)| Row::new(name, unit, goal)).collect();
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
        let values = [
            lines / own.as_secs_f64(),
            lines / whole.as_secs_f64(),
            bytes as f64 / 1e6 / verifying.as_secs_f64(),
        ];
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
    record.host = Some("service-4711.example.com");
    record.port = Some(443);
    record.address = Some(SocketAddr::from(([192, 0, 2, 7], 443)));
    record.outcome = Some(Outcome::Allow);
    record.via = Some(Via::Policy);
    record.rule = Some(&rule);
    let own = cpu_of(THREAD, || {
        for _ in 0..LINES {
            let _ = black_box(ledger.append(&record)?);
        }
        Ok(())
    })?;
    ledger.shutdown()?;
    Ok(own)
}

/// Only the calling thread.
const THREAD: ClockId = ClockId::CLOCK_THREAD_CPUTIME_ID;
/// Threads of the library's own too.
const PROCESS: ClockId = ClockId::CLOCK_PROCESS_CPUTIME_ID;

/// CPU time that `clock` saw `work` take.
fn cpu_of(clock: ClockId, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let before = clock.now()?;
    work()?;
    Ok(Duration::from(clock.now()? - before))
}
