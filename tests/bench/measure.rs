//! The run: which rows there are, and how one sample is taken.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::load::{self, Operation, Road};
use crate::micro;
use crate::origin::Origin;
use crate::process::{self, Cores};
use crate::report::{Goal, Row};
use crate::subject::{Running, Subject};

/// A subject is at rest when it used less than this in one `REST_STEP`.
const REST_CPU: Duration = Duration::from_micros(200);
const REST_STEP: Duration = Duration::from_millis(30);
/// Waited for rest at most: a subject with work of its own in the background is measured with it.
const REST_TIME: Duration = Duration::from_millis(600);
/// An operation of microseconds, or a piece of a bulk transfer, that takes this much longer than its sample never ends.
const STALL_TIME: Duration = Duration::from_secs(10);
/// Tunnels opened before the memory of idle ones is taken, so that no start-up cost is in it.
const IDLE_WARM_UP: usize = 64;

/// Name, operation, unit, microseconds to a unit, and goal of every row of CPU time.
const ROWS: [(&str, Operation, &str, f64, Goal); 7] = [
    ("tunnel: CONNECT, 32 bytes echoed, close", Operation::Tunnel, "µs/tunnel", 1e6, Goal::Ratio(1.15)),
    ("TLS tunnel: CONNECT, ClientHello echoed, close", Operation::TlsTunnel, "µs/tunnel", 1e6, Goal::None),
    ("request: small GET, kept alive on both sides", Operation::Request, "µs/request", 1e6, Goal::Ratio(1.5)),
    ("bulk down: bytes to the client through a tunnel", Operation::BulkDown, "ms/GB", 1e12, Goal::Ratio(1.1)),
    ("bulk up: bytes to the origin through a tunnel", Operation::BulkUp, "ms/GB", 1e12, Goal::Ratio(1.1)),
    ("denial: CONNECT, a connection each", Operation::Denial, "µs/denial", 1e6, Goal::AtMost(30.0)),
    ("kept denial: CONNECT, connection kept", Operation::KeptDenial, "µs/denial", 1e6, Goal::AtMost(30.0)),
];
const IDLE_ROW: &str = "idle tunnel: resident memory";

/// What a run does.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) sample: Duration,
    pub(crate) concurrency: usize,
    pub(crate) idle: usize,
    pub(crate) idle_rounds: usize,
    /// Parts of names of rows; empty for all.
    pub(crate) rows: Vec<String>,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) cores: Cores,
}

impl Plan {
    fn wants(&self, row: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|part| row.contains(part.as_str()))
    }

    /// What a reader must know to judge the numbers.
    pub(crate) fn circumstances(&self) -> Vec<String> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown processor");
        vec![
            format!(
                "{}, Linux {}",
                model.trim_start_matches(['\t', ':', ' ']),
                read("/proc/sys/kernel/osrelease").trim()
            ),
            format!("{}; load average at the start {}", self.cores.note, read("/proc/loadavg").trim()),
            format!(
                "{} rounds of {} ms, {} connections at a time (bulk: one), {} idle tunnels; median (least–greatest)",
                self.rounds,
                self.sample.as_millis(),
                self.concurrency,
                self.idle
            ),
        ]
    }
}

/// Every row, and why a subject has none.
pub(crate) struct Measured {
    pub(crate) rows: Vec<Row>,
    pub(crate) skipped: Vec<String>,
}

/// Takes every sample of the plan. A subject that is not there is skipped; one that fails on the way leaves its reason
/// in the row's notes.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Measured> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    plan.cores.enter_load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let (mut running, mut skipped) = (Vec::new(), Vec::new());
    let processes = ROWS.iter().any(|(name, ..)| plan.wants(name)) || plan.wants(IDLE_ROW);
    for &subject in plan.subjects.iter().filter(|_| processes) {
        match subject.start(&plan.cores) {
            Ok(up) => running.push((subject, up)),
            Err(error) => skipped.push(format!("SKIP {}: {error:#}", subject.name())),
        }
    }
    for line in &skipped {
        eprintln!("{line}");
    }
    let mut rows = cpu_rows(plan, &runtime, &running);
    let there: Vec<Subject> = running.iter().map(|(subject, _)| *subject).collect();
    drop(running);
    if plan.wants(IDLE_ROW) {
        rows.push(idle_row(plan, &runtime, &there));
    }
    rows.extend(micro::rows(plan.rounds, |row| plan.wants(row))?);
    Ok(Measured { rows, skipped })
}

fn cpu_rows(plan: &Plan, runtime: &Runtime, running: &[(Subject, Running)]) -> Vec<Row> {
    let wanted = ROWS.into_iter().filter(|(name, ..)| plan.wants(name));
    let mut rows = Vec::new();
    for (name, operation, unit, scale, goal) in wanted {
        eprintln!("{name}");
        let mut row = Row::new(name, unit, goal);
        let mut well: Vec<&(Subject, Running)> = running.iter().collect();
        // Round 0 warms caches, pools and allocators up and is not counted.
        for round in 0..=plan.rounds {
            well.retain(|(subject, up)| match sample(plan, runtime, up, operation) {
                Ok(sample) => {
                    if round > 0 {
                        row.samples.entry(*subject).or_default().push(sample.seconds_each * scale);
                    }
                    if round == 1 && operation == Operation::KeptDenial && sample.reconnects > 0 {
                        row.notes.push(format!("{} closes the connection after a denial", subject.name()));
                    }
                    true
                }
                Err(error) => {
                    eprintln!("SKIP {} from round {round} on: {error:#}", subject.name());
                    row.notes.push(format!("{} failed in round {round}: {error:#}", subject.name()));
                    false
                }
            });
        }
        rows.push(row);
    }
    rows
}

struct Sample {
    /// CPU seconds per operation, or per byte.
    seconds_each: f64,
    reconnects: u64,
}

fn sample(plan: &Plan, runtime: &Runtime, up: &Running, operation: Operation) -> anyhow::Result<Sample> {
    let before = at_rest(up.pid())?;
    let done = runtime.block_on(async {
        let load = load::run(&up.road, operation, plan.concurrency, Instant::now() + plan.sample);
        timeout(plan.sample + STALL_TIME, load).await.context("an operation stalled")?
    })?;
    let spent = at_rest(up.pid())?.saturating_sub(before);
    Ok(Sample { seconds_each: spent.as_secs_f64() / done.count as f64, reconnects: done.reconnects })
}

/// CPU time so far, once the subject has done what is left of the last sample.
fn at_rest(pid: Pid) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut last = process::cpu_time(pid)?;
    loop {
        std::thread::sleep(REST_STEP);
        let now = process::cpu_time(pid)?;
        if now.saturating_sub(last) < REST_CPU || start.elapsed() > REST_TIME {
            return Ok(now);
        }
        last = now;
    }
}

/// Each sample has a fresh process: a second batch of tunnels would live in the memory that the first one freed.
fn idle_row(plan: &Plan, runtime: &Runtime, subjects: &[Subject]) -> Row {
    eprintln!("{IDLE_ROW}");
    let mut row = Row::new(IDLE_ROW, "KB/tunnel", Goal::AtMost(2.0));
    for round in 1..=plan.idle_rounds {
        for &subject in subjects {
            let grown = subject.start(&plan.cores).and_then(|up| idle_sample(plan, runtime, up.pid(), &up.road));
            match grown {
                Ok(bytes_each) => row.samples.entry(subject).or_default().push(bytes_each / 1024.0),
                Err(error) if round == 1 => row.notes.push(format!("{} failed: {error:#}", subject.name())),
                Err(_) => {}
            }
        }
    }
    row
}

fn idle_sample(plan: &Plan, runtime: &Runtime, pid: Pid, road: &Road) -> anyhow::Result<f64> {
    let grown = async {
        let origin = Origin::start().await?;
        let _first = load::idle_tunnels(road, &origin, IDLE_WARM_UP).await?;
        at_rest(pid)?;
        let before = process::resident_bytes(pid)?;
        let _open = load::idle_tunnels(road, &origin, plan.idle).await?;
        at_rest(pid)?;
        let after = process::resident_bytes(pid)?;
        Ok(after.saturating_sub(before) as f64 / plan.idle as f64)
    };
    runtime.block_on(async { timeout(STALL_TIME, grown).await.context("a tunnel stalled")? })
}
