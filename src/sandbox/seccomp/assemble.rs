//! Rules to classic BPF (`seccomp(2)`, `linux/filter.h`).

use std::collections::BTreeMap;

use crate::sys::filter::Instruction;

use super::rule::{Answer, Clause, Rule, Test};

/// The program that answers by `rules`, and to numbers without a rule with `otherwise`: one answer for
/// the numbers from each key on.
pub(super) fn program(rules: &BTreeMap<u32, Rule>, otherwise: &BTreeMap<u32, Answer>) -> Vec<Instruction> {
    let mut program = vec![
        load(OFFSET_OF_ARCHITECTURE),
        jump(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        answer(Answer::Kill),
        load(OFFSET_OF_NUMBER),
    ];
    program.extend(search(&spans(rules, otherwise)));
    program
}

/// The numbers as spans of one rule each: where each begins, in order.
fn spans(rules: &BTreeMap<u32, Rule>, otherwise: &BTreeMap<u32, Answer>) -> Vec<(u32, Rule)> {
    let without = |number: u32| otherwise.range(..=number).next_back().map_or(Answer::Kill, |(_, answer)| *answer);
    let starts = otherwise.keys().copied();
    let edges = rules.keys().flat_map(|number| [*number, number.saturating_add(1)]).chain(starts);
    let edges: std::collections::BTreeSet<u32> = edges.chain([0]).collect();
    let mut spans: Vec<(u32, Rule)> = Vec::new();
    for edge in edges {
        let rule = rules.get(&edge).cloned().unwrap_or_else(|| Rule::always(without(edge)));
        if spans.last().is_none_or(|(_, last)| *last != rule) {
            spans.push((edge, rule));
        }
    }
    spans
}

/// A binary search by the number in the accumulator.
fn search(spans: &[(u32, Rule)]) -> Vec<Instruction> {
    match spans {
        [] => vec![answer(Answer::Kill)],
        [(_, rule)] => leaf(rule),
        _ => {
            let (low, high) = spans.split_at(spans.len() / 2);
            let (below, above) = (search(low), search(high));
            // A conditional jump reaches 255 instructions at most; an unconditional one reaches all. The kernel compiles a filter
            // anew for each process that installs it, so a shorter one is a shorter launch.
            let mut code = match u8::try_from(below.len()) {
                Ok(over) => vec![jump(JUMP_AT_LEAST, high[0].0, over, 0)],
                Err(_) => vec![jump(JUMP_AT_LEAST, high[0].0, 0, 1), jump(JUMP, length(&below), 0, 0)],
            };
            code.extend(below);
            code.extend(above);
            code
        }
    }
}

fn leaf(rule: &Rule) -> Vec<Instruction> {
    let mut code = Vec::new();
    for clause in &rule.clauses {
        code.extend(guarded(clause));
    }
    code.push(answer(rule.otherwise));
    code
}

/// A clause's tests and its answer; a test that fails jumps behind them.
fn guarded(clause: &Clause) -> Vec<Instruction> {
    // From the back, so that each test knows how much it has to jump over.
    let mut code = vec![answer(clause.answer)];
    for test in clause.tests.iter().rev() {
        let over = u8::try_from(code.len()).expect("a clause has a handful of tests");
        let mut tested = match *test {
            Test::Is { argument, value } => vec![load_argument(argument), jump(JUMP_EQUAL, value, 0, over)],
            Test::Any { argument, mask } => vec![load_argument(argument), jump(JUMP_ANY_BIT, mask, 0, over)],
            Test::Bits { argument, mask, value } => {
                vec![load_argument(argument), and(mask), jump(JUMP_EQUAL, value, 0, over)]
            }
        };
        tested.append(&mut code);
        code = tested;
    }
    code
}

fn length(code: &[Instruction]) -> u32 {
    u32::try_from(code.len()).expect("a program is short")
}

const fn load(offset: u32) -> Instruction {
    // BPF_LD | BPF_W | BPF_ABS
    Instruction { code: 0x20, jump_true: 0, jump_false: 0, operand: offset }
}

const fn load_argument(argument: u8) -> Instruction {
    // The arguments are 64-bit words after architecture, number and instruction pointer.
    let low = if cfg!(target_endian = "little") { 0 } else { 4 };
    load(16 + 8 * argument as u32 + low)
}

const fn and(mask: u32) -> Instruction {
    // BPF_ALU | BPF_AND | BPF_K
    Instruction { code: 0x54, jump_true: 0, jump_false: 0, operand: mask }
}

const fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

fn answer(answer: Answer) -> Instruction {
    let value = match answer {
        Answer::Allow => libc::SECCOMP_RET_ALLOW,
        Answer::Refuse(errno) => libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA),
        Answer::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    // BPF_RET | BPF_K
    Instruction { code: 0x06, jump_true: 0, jump_false: 0, operand: value }
}

/// `BPF_JMP` with `BPF_JA`, `BPF_JEQ`, `BPF_JGE`, `BPF_JSET`, each against a constant.
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
pub(super) const JUMP_ANY_BIT: u16 = 0x45;

/// `struct seccomp_data`: number, architecture, instruction pointer, six arguments.
const OFFSET_OF_NUMBER: u32 = 0;
const OFFSET_OF_ARCHITECTURE: u32 = 4;

/// `AUDIT_ARCH_*` of `linux/audit.h`: ELF machine, 64 bits, little endian.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_00f3;
