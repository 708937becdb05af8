//! `decide`, with few rules and with many.

use std::fmt::Write;
use std::hint::black_box;

use arw::domain::{Clock, EgressIntent, Identity, Labels, PersonaId, Surface, SystemClock, Target, Timestamp};
use arw::policy::{self, Decision, PolicySettings, Snapshot};
use tempfile::TempDir;

use super::{PERSONA, THREAD, client, cpu_of};
use crate::report::{Goal, Row};
use crate::subject::Subject;

/// Decisions per sample: some milliseconds, far above the clock's resolution.
const DECISIONS: u32 = 50_000;

/// Name, number of rules, and whether the asked names are allowed.
const ROWS: [(&str, usize, bool); 4] = [
    ("decide: granted, 10 rules", 10, true),
    ("decide: denied, 10 rules", 10, false),
    ("decide: granted, 10,000 rules", 10_000, true),
    ("decide: denied, 10,000 rules", 10_000, false),
];

pub(super) fn rows(rounds: usize, wants: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Row>> {
    let wanted = ROWS.into_iter().filter(|(name, ..)| wants(name));
    wanted.map(|(name, rules, hit)| row(name, rules, hit, rounds)).collect()
}

fn row(name: &'static str, rules: usize, hit: bool, rounds: usize) -> anyhow::Result<Row> {
    eprintln!("{name}");
    let snapshot = snapshot(rules)?;
    let intents = intents(rules, hit)?;
    let now = SystemClock.now();
    for intent in &intents {
        let allowed = matches!(snapshot.decide(intent, now), Decision::Allow(_));
        anyhow::ensure!(allowed == hit, "`{}` was decided the other way", intent.target);
    }
    let mut row = Row::library(name, "ns", Goal::AtMost(1_000.0));
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
        let _ = black_box(snapshot.decide(black_box(intent), now));
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
            let host = if index % 10 == 9 {
                format!("a.b.zone-{index}.example.{end}")
            } else {
                format!("service-{index}.example.{end}")
            };
            Ok(EgressIntent {
                persona: PersonaId::parse(PERSONA)?,
                identity: Identity::Basic,
                client: client(),
                surface: Surface::Tunnel,
                target: Target::parse(format!("{host}:443").as_bytes(), None)?,
                method: None,
                path: None,
                recorded_path: None,
                labels: Labels::default(),
            })
        })
        .collect()
}
