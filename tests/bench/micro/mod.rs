//! The library's own hot paths, called directly: deciding, appending, verifying.

mod deciding;
mod recording;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use arw::domain::ClientAddr;
use nix::time::ClockId;

use crate::report::Row;

const PERSONA: &str = "bench";

/// Every wanted row, each with `rounds` samples after one that is not counted.
pub(crate) fn rows(rounds: usize, wants: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Row>> {
    let mut rows = deciding::rows(rounds, &wants)?;
    rows.extend(recording::rows(rounds, &wants)?);
    Ok(rows)
}

fn client() -> ClientAddr {
    ClientAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000)))
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
