# What an operator and a developer type. `just --list` shows them.

set shell := ["bash", "-euo", "pipefail", "-c"]

# Everything that CI runs.
check: fmt-check lint test docs

# The test suite: the same command as in the README.
test *ARGS:
    cargo test {{ARGS}}

# What packages add to a debug build: Cedar bundles. Some minutes of compiling.
test-cedar:
    cargo clippy --all-targets --locked --features cedar -- -D warnings
    cargo test --locked --features cedar --lib
    cargo test --locked --features cedar --test authority

# What packages add to a debug build: traces. They need no further dependency; their unit tests are in every test build.
test-otlp:
    cargo clippy --lib --bins --locked --features otlp -- -D warnings
    cargo test --locked --features otlp --test operations otlp

# Format, in place.
fmt:
    cargo fmt --all

fmt-check:
    cargo fmt --all -- --check

# Clippy on everything, warnings denied.
lint:
    cargo clippy --all-targets --locked -- -D warnings

# The API documentation builds without a warning.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --document-private-items

# The consent metadata of bundles: the handbook's `scripts/validate_runtime_consent.py`. Without files, those of
# ARW_CONFIG_DIR, or of this checkout.
validate-consent *FILES:
    @ARW_CONFIG_DIR="${ARW_CONFIG_DIR:-configs}" cargo run --quiet --bin arw-cli -- consent validate {{FILES}}

# Start the gateway on embedded defaults.
run *ARGS:
    cargo run --release -- {{ARGS}}

# Side by side with a relay floor and squid: CPU time per operation, as ratios.
bench *ARGS:
    cargo bench --bench gateway -- {{ARGS}}

# Minutes of mixed traffic while reloads, restarts, a silent name server and a full disk come and go, then a look at what
# was left behind. ARW_SOAK_SECONDS (default 180).
soak:
    cargo test --release --locked --test endurance -- --ignored --nocapture --exact soak::soak

# Each fuzz target for FUZZ_SECONDS (default 10).
fuzz:
    FUZZ_SECONDS="${FUZZ_SECONDS:-10}" cargo test --release --test fuzz

# The Debian package: target/package/arw_VERSION_ARCH.deb.
package *ARGS:
    systemd/package/build {{ARGS}}

# The package on a real systemd, in small guests under QEMU: one line per property. `just test-vm trixie` for one.
test-vm *SUITES:
    tests/vm/run.sh "$(systemd/package/build | tail -1)" {{SUITES}}

# For root on Debian the package; for others the programs and the user unit below ~/.local.
install:
    systemd/package/install

# The gateway, its ledger and the shipped files, without a sandbox: half a minute.
smoke-safe:
    cargo build --locked --bins
    /usr/bin/env python3 tests/smoke/smoke.py safe

# Supervised runtimes: a stub stage, and with RUNTIME_SMOKE_ALLOW_CPU=1 real launches, limits, a watchdog, a quarantine, an adoption, the kill switch.
runtime-smoke:
    cargo build --locked --bins
    /usr/bin/env python3 tests/smoke/smoke.py runtime

# The same for a GPU: with RUNTIME_SMOKE_ALLOW_GPU=1.
runtime-smoke-gpu:
    cargo build --locked --bins
    /usr/bin/env python3 tests/smoke/smoke.py gpu
