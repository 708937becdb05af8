//! How fast. Run with `cargo test --release --lib ledger::tests::speed -- --ignored --nocapture`.

use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

use super::*;
use crate::domain::{ClientAddr, Identity, Scheme, SystemClock};
use crate::ledger::Via;

/// Time that this thread had a core, in seconds: what counts when others use the machine too.
fn cpu_seconds() -> (f64, f64) {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("Linux has it");
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    (seconds(usage.user_time()), seconds(usage.system_time()))
}

/// Runs `work` and says how many units of it a second has.
fn measure<T>(what: &str, unit: &str, work: impl FnOnce() -> (T, f64)) -> T {
    let (began, (user, system)) = (Instant::now(), cpu_seconds());
    let (value, amount) = work();
    let (wall, (user_now, system_now)) = (began.elapsed().as_secs_f64(), cpu_seconds());
    let (user, system) = (user_now - user, system_now - system);
    println!(
        "{what}: {:.0} {unit}/s of wall time, {:.0} {unit}/s of one core (user {user:.2} s, system {system:.2} s)",
        amount / wall,
        amount / (user + system)
    );
    value
}

#[test]
#[ignore = "a measurement, meaningful in release builds only"]
fn append_and_verify() {
    const LINES: u64 = 1_000_000;
    let dir = tempfile::tempdir().expect("a folder");
    let config = LedgerConfig { sync_interval: Duration::from_millis(200), ..config(dir.path()) };
    let (ledger, _) = Ledger::open(&config, Arc::new(SystemClock)).expect("opens");
    let (who, which) = (persona("research"), rule("pypi"));
    let record = Record {
        persona: Some(&who),
        client: Some(ClientAddr::Tcp(([127, 0, 0, 1], 40_123).into())),
        identity: Some(Identity::Basic),
        scheme: Some(Scheme::Https),
        host: Some("files.packages.example"),
        port: Some(443),
        address: Some(([203, 0, 113, 7], 443).into()),
        outcome: Some(Outcome::Allow),
        via: Some(Via::Policy),
        rule: Some(&which),
        ..Record::new(Kind::Open)
    };
    measure("append", "lines", || {
        for _ in 0..LINES {
            let _ = ledger.append(&record).expect("appended");
        }
        ((), LINES as f64)
    });
    ledger.shutdown().expect("ends");
    let report = measure("verify", "MB", || {
        let report = check(&config.dir);
        let megabytes = report.bytes as f64 / 1e6;
        (report, megabytes)
    });
    assert!(report.is_sound(), "{:?}", report.faults);
    let began = Instant::now();
    let (_ledger, recovery) = Ledger::open(&config, Arc::new(SystemClock)).expect("opens");
    println!("open again: {:?} ({recovery})", began.elapsed());
}
