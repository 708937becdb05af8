//! What the trials share: the real daemon in a process of its own, real origins, and a client that speaks
//! raw bytes. Nothing of ours is imitated here; only the other ends of the sockets are ours to script.
//!
//! Every wait has an end: [`PATIENCE`].
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, clippy::unwrap_used)]

pub mod certificates;
pub mod client;
pub mod daemon;
pub mod disk;
pub mod dns;
pub mod origin;

use std::time::{Duration, Instant};

pub use client::{Answer, Client, End, Fault, basic, bearer};
pub use daemon::{Daemon, Setup};
pub use disk::SmallDisk;
pub use dns::DnsServer;
pub use origin::{Origin, Script};

/// Longest wait for something that must come. Long, because other builds share the machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a wait looks again where nothing can wake it.
pub const TICK: Duration = Duration::from_millis(5);

/// Whether sandboxes can be made here at all; says why not.
pub fn can_launch() -> bool {
    let tried = std::process::Command::new(env!("CARGO_BIN_EXE_arw-cli"))
        .args(["sandbox", "check", "--profile", "compat"])
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tried.stderr);
    let refused = said.contains("user namespace") || said.contains("CAP_SYS_ADMIN");
    if refused {
        println!("SKIP: no sandbox can be made here: {said}");
    }
    !refused
}

/// Waits until `look` finds something.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(TICK);
    }
}

/// Bytes as a person can read them in a failure.
pub fn readable(bytes: &[u8]) -> String {
    let shown = bytes.len().min(2000);
    let mut text = bytes[..shown].escape_ascii().to_string().replace("\\r\\n", "\\r\\n\n");
    if shown < bytes.len() {
        text.push_str("...");
    }
    text
}

/// Payload, trailer lines and length of a whole chunked body at the front of `bytes`; strict: `None` also
/// for one that is broken.
pub fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, Vec<String>, usize)> {
    let line = |from: usize| -> Option<(String, usize)> {
        let end = bytes.get(from..)?.windows(2).position(|pair| pair == b"\r\n")?;
        Some((String::from_utf8_lossy(&bytes[from..from + end]).into_owned(), from + end + 2))
    };
    let (mut at, mut body, mut trailers) = (0, Vec::new(), Vec::new());
    loop {
        let (size, next) = line(at)?;
        let size = usize::from_str_radix(&size, 16).ok()?;
        at = next;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        let (empty, next) = line(at + size)?;
        if !empty.is_empty() {
            return None;
        }
        at = next;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Some((body, trailers, at));
        }
        trailers.push(trailer);
    }
}
