//! What was measured: medians, spreads and ratios, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::subject::Subject;

/// What the gateway has to reach in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// At most this many times the floor.
    Ratio(f64),
    /// At most this, in the row's unit.
    AtMost(f64),
    /// At least this, in the row's unit.
    AtLeast(f64),
    /// Shown, not promised.
    None,
}

/// One row of a table.
#[derive(Debug)]
pub(crate) struct Row {
    /// Measured in the bench's own process, by calling the library that the gateway is made of.
    library: bool,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
    /// One value per round; rounds are in step between subjects.
    pub(crate) samples: BTreeMap<Subject, Vec<f64>>,
    /// Why a subject has no or fewer samples, and what else to know.
    pub(crate) notes: Vec<String>,
}

/// The row's numbers for one subject.
#[derive(Debug, Serialize)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
    /// Median of the rounds' ratios: what drifts between rounds cancels out.
    ratio_to_floor: Option<f64>,
    samples: Vec<f64>,
}

impl Row {
    pub(crate) fn new(name: &'static str, unit: &'static str, goal: Goal) -> Self {
        Self { library: false, name, unit, goal, samples: BTreeMap::new(), notes: Vec::new() }
    }

    /// A row of the library alone: its samples are the gateway's.
    pub(crate) fn library(name: &'static str, unit: &'static str, goal: Goal) -> Self {
        Self { library: true, ..Self::new(name, unit, goal) }
    }

    fn summary(&self, subject: Subject) -> Option<Summary> {
        let samples = self.samples.get(&subject).filter(|samples| !samples.is_empty())?;
        let ratio_to_floor = self.samples.get(&Subject::Floor).and_then(|floor| {
            let ratios: Vec<f64> = samples.iter().zip(floor).map(|(own, floor)| own / floor).collect();
            (subject != Subject::Floor && floor.iter().all(|value| *value > 0.0) && !ratios.is_empty())
                .then(|| median(&ratios))
        });
        let min = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let max = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Summary { median: median(samples), min, max, ratio_to_floor, samples: samples.clone() })
    }

    /// The goal and whether the gateway met it.
    fn verdict(&self) -> String {
        let summary = self.summary(Subject::Gateway);
        let (text, met) = match self.goal {
            Goal::None => return "—".to_owned(),
            Goal::Ratio(most) => {
                let ratio = summary.and_then(|summary| summary.ratio_to_floor);
                (format!("≤ {most} × floor"), ratio.map(|ratio| ratio <= most))
            }
            Goal::AtMost(most) => (format!("≤ {most} {}", self.unit), summary.map(|summary| summary.median <= most)),
            Goal::AtLeast(least) => {
                (format!("≥ {least} {}", self.unit), summary.map(|summary| summary.median >= least))
            }
        };
        match met {
            None => text,
            Some(true) => format!("{text}: met"),
            Some(false) => format!("{text}: **not met**"),
        }
    }
}

/// The whole run as a markdown table with its circumstances.
pub(crate) fn markdown(
    rows: &[Row],
    subjects: &[Subject],
    circumstances: &[String],
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for line in circumstances {
        writeln!(text, "- {line}")?;
    }
    for subject in subjects {
        writeln!(text, "- {}: {}", subject.name(), subject.what())?;
    }
    let (library, processes): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.library);
    if !processes.is_empty() {
        table(&mut text, &processes, subjects)?;
    }
    if !library.is_empty() {
        table(&mut text, &library, &[Subject::Gateway])?;
    }
    let notes: Vec<String> =
        rows.iter().flat_map(|row| row.notes.iter().map(|note| format!("- {}: {note}", row.name))).collect();
    if !notes.is_empty() {
        writeln!(text, "\n{}", notes.join("\n"))?;
    }
    Ok(text)
}

fn table(text: &mut String, rows: &[&Row], subjects: &[Subject]) -> std::fmt::Result {
    let compared = |subject: Subject| subject != Subject::Floor && subjects.contains(&Subject::Floor);
    write!(text, "\n| operation | unit |")?;
    for subject in subjects {
        write!(text, " {} |", subject.name())?;
        if compared(*subject) {
            write!(text, " × floor |")?;
        }
    }
    write!(text, " goal of the gateway |\n|---|---|")?;
    for subject in subjects {
        text.push_str(if compared(*subject) { "---:|---:|" } else { "---:|" });
    }
    text.push_str("---|\n");
    for row in rows {
        write!(text, "| {} | {} |", row.name, row.unit)?;
        for subject in subjects {
            let summary = row.summary(*subject);
            match &summary {
                Some(Summary { median, min, max, .. }) => {
                    write!(text, " {} ({}–{}) |", number(*median), number(*min), number(*max))?;
                }
                None => text.push_str(" SKIP |"),
            }
            if compared(*subject) {
                match summary.and_then(|summary| summary.ratio_to_floor) {
                    Some(ratio) => write!(text, " {ratio:.2} |")?,
                    None => text.push_str(" — |"),
                }
            }
        }
        writeln!(text, " {} |", row.verdict())?;
    }
    Ok(())
}

/// The same for programs.
pub(crate) fn json(rows: &[Row], subjects: &[Subject], circumstances: &[String]) -> serde_json::Value {
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            let of: BTreeMap<&str, Option<Summary>> =
                subjects.iter().map(|subject| (subject.name(), row.summary(*subject))).collect();
            serde_json::json!({
                "name": row.name, "unit": row.unit, "goal": row.verdict(), "subjects": of, "notes": row.notes,
            })
        })
        .collect();
    let subjects: BTreeMap<&str, &str> = subjects.iter().map(|subject| (subject.name(), subject.what())).collect();
    serde_json::json!({ "circumstances": circumstances, "subjects": subjects, "rows": rows })
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Three significant digits, near enough.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
