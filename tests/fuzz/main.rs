//! Fuzzes every target for a bounded time, on stable Rust and without instrumentation: seeds, a word
//! list per target and structured mutation.
//!
//! | variable | meaning |
//! |---|---|
//! | `FUZZ_SECONDS` | time per target, default 2 |
//! | `FUZZ_SEED` | where the random numbers start; default 1, so that two runs do the same |
//! | `FUZZ_TARGET` | only this target |
//! | `FUZZ_ITERATION` | only this input, as a failure report names it |
//!
//! A failing input is made small and written to `artifacts/`; once mended it belongs into `seeds/<target>/`.
//! The coverage-guided runner in `libfuzzer/` drives the same targets.

mod mutate;
mod targets;

use std::env;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use mutate::Rng;
use targets::{TARGETS, Target};

/// Inputs between two looks at the clock.
const BATCH: u64 = 64;

/// What to run.
struct Plan {
    seconds: f64,
    seed: u64,
    iteration: Option<u64>,
}

/// An input that broke a property.
#[derive(Debug)]
struct Failure {
    input: Vec<u8>,
    /// `None` for a seed as it is.
    iteration: Option<u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        TARGETS.iter().for_each(|target| println!("{}: test", target.name));
        return ExitCode::SUCCESS;
    }
    // `cargo test <filter>` hands its filter to every test binary.
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let only = env::var("FUZZ_TARGET").ok();
    let chosen: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| only.as_deref().is_none_or(|name| name == target.name))
        .filter(|target| filters.is_empty() || filters.iter().any(|filter| target.name.contains(filter.as_str())))
        .collect();
    if chosen.is_empty() {
        if let Some(name) = only {
            eprintln!("no fuzz target is named `{name}`");
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    let plan = Plan {
        seconds: number("FUZZ_SECONDS").unwrap_or(2.0),
        seed: number("FUZZ_SEED").unwrap_or(1),
        iteration: number("FUZZ_ITERATION"),
    };
    a_planted_fault_is_found();
    seeds_are_understood();
    let failed = chosen.iter().filter(|target| !holds(target, &plan)).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number<T: FromStr>(variable: &str) -> Option<T> {
    let text = env::var(variable).ok()?;
    let Ok(value) = text.parse() else { panic!("{variable} is not a number: `{text}`") };
    Some(value)
}

/// Fuzzes one target and reports; whether every input held.
fn holds(target: &Target, plan: &Plan) -> bool {
    let seeds = read_seeds(target.name);
    assert!(!seeds.is_empty(), "no seeds for `{}` in {}", target.name, seeds_of(target.name).display());
    let start = Instant::now();
    match fuzz(target, &seeds, plan) {
        Ok(inputs) => {
            println!(
                "fuzz {}: {inputs} inputs in {:.1} s, seed {}: ok",
                target.name,
                start.elapsed().as_secs_f64(),
                plan.seed
            );
            true
        }
        Err(failure) => {
            report(target, plan, &failure);
            false
        }
    }
}

/// Runs the seeds as they are, then mutated ones until the time is up.
fn fuzz(target: &Target, seeds: &[Vec<u8>], plan: &Plan) -> Result<u64, Failure> {
    if let Some(iteration) = plan.iteration {
        return try_mutated(target, seeds, plan.seed, iteration).map(|()| 1);
    }
    for seed in seeds {
        try_input(target, seed.clone(), None)?;
    }
    let limit = Duration::try_from_secs_f64(plan.seconds).expect("FUZZ_SECONDS is a length of time");
    let start = Instant::now();
    let mut iteration = 0;
    while start.elapsed() < limit {
        for _ in 0..BATCH {
            try_mutated(target, seeds, plan.seed, iteration)?;
            iteration += 1;
        }
    }
    Ok(iteration)
}

fn try_mutated(target: &Target, seeds: &[Vec<u8>], seed: u64, iteration: u64) -> Result<(), Failure> {
    let mut rng = Rng::new(seed, target.name, iteration);
    try_input(target, mutate::input(&mut rng, seeds, target.words), Some(iteration))
}

fn try_input(target: &Target, input: Vec<u8>, iteration: Option<u64>) -> Result<(), Failure> {
    if fails(target, &input) { Err(Failure { input, iteration }) } else { Ok(()) }
}

fn fails(target: &Target, input: &[u8]) -> bool {
    panic::catch_unwind(|| (target.run)(input)).is_err()
}

fn report(target: &Target, plan: &Plan, failure: &Failure) {
    let small = silently(|| mutate::shrink(&failure.input, |input| fails(target, input)));
    println!("fuzz {}: FAILED on {}", target.name, small.escape_ascii());
    match failure.iteration {
        Some(iteration) => println!(
            "  again: FUZZ_TARGET={} FUZZ_SEED={} FUZZ_ITERATION={iteration} cargo test --test fuzz",
            target.name, plan.seed
        ),
        None => println!("  a seed as it is; again: FUZZ_TARGET={} cargo test --test fuzz", target.name),
    }
    let folder = here().join("artifacts");
    let file = folder.join(format!("{}-{}", target.name, failure.iteration.unwrap_or(0)));
    match fs::create_dir_all(&folder).and_then(|()| fs::write(&file, &small)) {
        Ok(()) => println!("  kept in {}", file.display()),
        Err(error) => println!("  could not be kept in {}: {error}", file.display()),
    }
}

/// Runs `work` without the messages of panics that it expects.
fn silently<T>(work: impl FnOnce() -> T) -> T {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = work();
    panic::set_hook(hook);
    result
}

/// The runner itself must be able to fail.
fn a_planted_fault_is_found() {
    let planted = Target {
        name: "planted",
        run: |data| assert!(!data.windows(4).any(|part| part == b"ab\0.")),
        words: &[b"\0."],
    };
    let plan = Plan { seconds: 30.0, seed: 1, iteration: None };
    let found = silently(|| fuzz(&planted, &[b"abc".to_vec()], &plan)).expect_err("the planted fault is found");
    let small = silently(|| mutate::shrink(&found.input, |input| fails(&planted, input)));
    assert_eq!(small, b"ab\0.", "the failing input is made small");
    let again = Plan { iteration: found.iteration, ..plan };
    let again = silently(|| fuzz(&planted, &[b"abc".to_vec()], &again)).expect_err("its number finds it again");
    assert_eq!(again.input, found.input);
}

/// A format that has moved on would leave seeds that are refused at the first byte, and a target that tries nothing.
fn seeds_are_understood() {
    for seed in read_seeds("plan") {
        assert!(targets::is_a_plan(&seed), "{}", seed.escape_ascii());
    }
    let understood = read_seeds("stage_message").iter().filter(|seed| targets::is_understood(seed)).count();
    // One has too many descriptors, one no room for them, one is too long, and one is empty.
    assert_eq!(understood + 4, read_seeds("stage_message").len());
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn seeds_of(name: &str) -> PathBuf {
    here().join("seeds").join(name)
}

/// Sorted by name, so that a seed number means the same everywhere.
fn read_seeds(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(seeds_of(name))
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a seed can be read")).collect()
}
