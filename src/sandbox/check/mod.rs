//! The escape self-test.

use std::ffi::OsString;

/// Runs inside.
pub(super) fn run_inside(_arguments: impl Iterator<Item = OsString>) -> ! {
    std::process::exit(0)
}
