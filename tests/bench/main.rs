//! What the gateway costs, beside the least that any proxy costs and beside squid, in one run.
//!
//! Every subject is a process of its own; client and origin live in this one. The metric is **CPU time per
//! operation** of the subject's processes, user and kernel together, never wall time: it holds on a busy machine too.
//! Rounds are interleaved (floor, gateway, squid, floor, …), a ratio is taken within a round, and the table shows the
//! medians with the least and greatest. `cargo bench --bench gateway -- --help` lists the options.
//!
//! ```text
//!  this process, load's cores          subject's core
//!  client ── tunnel, GET, CONNECT ──→  floor | arw-server | squid ──→ origin (this process again)
//! ```

mod floor;
mod load;
mod measure;
mod micro;
mod origin;
mod process;
mod report;
mod subject;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use measure::{Measured, Plan};
use process::Cores;
use subject::Subject;

/// Compares the CPU time of `arw-server` with that of a bare relay and of squid.
#[derive(Debug, Parser)]
#[command(name = "gateway")]
struct Options {
    /// Fewer and shorter rounds: under a minute, for a first look
    #[arg(long)]
    quick: bool,
    /// Rounds of every row
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of one sample in milliseconds
    #[arg(long)]
    sample_ms: Option<u64>,
    /// Connections at a time
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Idle tunnels that are opened for the memory row
    #[arg(long, default_value_t = 2000)]
    idle: usize,
    /// Subjects, all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Rows whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Let subject and load share all cores
    #[arg(long)]
    unpinned: bool,
    /// Also write the numbers here
    #[arg(long)]
    json: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the relay floor
    #[arg(long, hide = true)]
    serve_floor: bool,
    /// Be squid's password process
    #[arg(long, hide = true)]
    check_passwords: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.serve_floor {
        return floor::serve();
    }
    if options.check_passwords {
        return subject::check_passwords();
    }
    let (rounds, sample_ms) = if options.quick { (2, 400) } else { (7, 1000) };
    let plan = Plan {
        rounds: options.rounds.unwrap_or(rounds),
        sample: Duration::from_millis(options.sample_ms.unwrap_or(sample_ms)),
        concurrency: options.concurrency,
        idle: options.idle,
        idle_rounds: if options.quick { 1 } else { 3 },
        rows: options.rows,
        subjects: if options.only.is_empty() { Subject::ALL.to_vec() } else { options.only },
        cores: Cores::divide(!options.unpinned)?,
    };
    let mut circumstances = plan.circumstances();
    let Measured { rows, skipped } = measure::run(&plan)?;
    circumstances.extend(skipped);
    println!("{}", report::markdown(&rows, &plan.subjects, &circumstances)?);
    if let Some(path) = options.json {
        let value = report::json(&rows, &plan.subjects, &circumstances);
        std::fs::write(path, serde_json::to_vec_pretty(&value)?)?;
    }
    Ok(())
}
