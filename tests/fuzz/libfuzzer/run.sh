#!/bin/sh
# Coverage-guided fuzzing of one target on stable Rust: run.sh <target> [libFuzzer options].
# FUZZ_SECONDS bounds it (default 60). New inputs go to tests/fuzz/corpus/<target>, failures to tests/fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
target=${1:?usage: run.sh <target> [libFuzzer options]}
shift
triple=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "corpus/$target" artifacts
# The coverage passes of the compiler are reachable without nightly; sanitizers are not, and safe code does
# not need them. `--target` keeps build scripts free of instrumentation.
export RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
cargo build --quiet --release --manifest-path libfuzzer/Cargo.toml --target-dir target --target "$triple"
FUZZ_TARGET=$target exec "target/$triple/release/arw-libfuzzer" \
    -max_total_time="${FUZZ_SECONDS:-60}" -max_len=8192 -timeout=5 -rss_limit_mb=1024 -artifact_prefix=artifacts/ \
    "$@" "corpus/$target" "seeds/$target"
