//! How fast. Run with `cargo test --release --lib ledger::tests::speed -- --ignored --nocapture`.

use std::time::Instant;

use super::*;
use crate::domain::{ClientAddr, Identity, Scheme, SystemClock};
use crate::ledger::Via;

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
        host: Some("files.pythonhosted.example"),
        port: Some(443),
        address: Some(([203, 0, 113, 7], 443).into()),
        outcome: Some(Outcome::Allow),
        via: Some(Via::Policy),
        rule: Some(&which),
        ..Record::new(Kind::Open)
    };
    let began = Instant::now();
    for _ in 0..LINES {
        let _ = ledger.append(&record).expect("appended");
    }
    let took = began.elapsed();
    println!("append: {:.0} lines/s ({took:?} for {LINES})", LINES as f64 / took.as_secs_f64());
    let began = Instant::now();
    ledger.shutdown().expect("ends");
    println!("shutdown: {:?}", began.elapsed());
    let began = Instant::now();
    let report = check(&config.dir);
    let took = began.elapsed();
    assert!(report.is_sound(), "{:?}", report.faults);
    println!("verify: {:.0} MB/s ({} bytes in {took:?})", report.bytes as f64 / 1e6 / took.as_secs_f64(), report.bytes);
    let began = Instant::now();
    let (_ledger, recovery) = Ledger::open(&config, Arc::new(SystemClock)).expect("opens");
    println!("open again: {:?} ({recovery})", began.elapsed());
}
