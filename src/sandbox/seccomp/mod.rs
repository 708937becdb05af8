//! Filters before the system calls.
//!
//! One program per filter: foreign architectures are killed first, then a binary search over the numbers
//! leads to an answer, or to a few tests of arguments. Written here and not with a crate, because it needs several
//! answers in one program (`ENOSYS` for `clone3`, so that C libraries fall back to `clone`, whose flags can be
//! seen; `EPERM` for most; kill for foreign architectures), and each further program costs every call.
//!
//! | filter | lets through |
//! |---|---|
//! | strict | the calls of `table::ALLOWED`; no netlink at all |
//! | standard | the same, and netlink to read addresses and routes |
//! | compat | all but `table::REFUSED` |
//! | own | as standard, without `table::NOT_OURS`: for the daemon itself ([`confine`](super::confine)) |
//!
//! In all of them: no namespace, no mount, no other process's memory, no kernel facility that had more holes than
//! users inside a sandbox (io_uring, bpf, perf, keys, userfaultfd), only TCP, UDP and Unix sockets, no
//! fast-open and no multipath TCP, which Landlock's rules for ports do not see; and no file with a set-user-id bit, which in a
//! workspace would lie on the host.
//!
//! A filter sees argument words, not what they point to; so nothing here depends on the content of memory.

mod assemble;
mod rule;
mod table;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use crate::sys::filter::{Instruction, answer_to};

use super::plan::Filter;

/// The program of a filter: compiled once, also for the copies of this process.
pub(super) fn program(filter: Filter) -> &'static [Instruction] {
    static PROGRAMS: [OnceLock<Vec<Instruction>>; 3] = [const { OnceLock::new() }; 3];
    let place = match filter {
        Filter::Strict => &PROGRAMS[0],
        Filter::Standard => &PROGRAMS[1],
        Filter::Compat => &PROGRAMS[2],
    };
    place.get_or_init(|| compile(filter))
}

/// Compiles all of them, for whoever this process is copied to.
pub(super) fn warm() {
    for filter in [Filter::Strict, Filter::Standard, Filter::Compat] {
        program(filter);
    }
}

fn compile(filter: Filter) -> Vec<Instruction> {
    assemble::program(&table::rules(filter), &table::otherwise(filter))
}

/// The program of the filter for the daemon itself: no other program, no other process, no other user, and no memory that
/// is both written and executed.
pub(super) fn compile_own() -> Vec<Instruction> {
    assemble::program(&table::own_rules(), &table::otherwise(Filter::Standard))
}

/// Whether one of our filters answers: a number that no kernel has gets an answer that no kernel gives.
pub(super) fn is_felt() -> bool {
    answer_to(table::NOBODY) == table::NOBODYS_ANSWER
}
