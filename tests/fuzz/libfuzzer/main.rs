//! Drives one target of `../targets.rs`, named by `FUZZ_TARGET`, with libFuzzer.

#![no_main]

use std::sync::LazyLock;

#[path = "../targets.rs"]
#[allow(dead_code, reason = "libFuzzer finds words by tracing comparisons")]
mod targets;

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names the target");
    let target = targets::TARGETS.iter().find(|target| target.name == name);
    target.expect("FUZZ_TARGET is the name of a target").run
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (*RUN)(data));
