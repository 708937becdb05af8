//! What is answered to a system call.

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel does it.
    Allow,
    /// It fails with this error number.
    Refuse(i32),
    /// The process ends with SIGSYS.
    Kill,
}

/// An answer that may depend on arguments: the first clause that applies gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) clauses: Vec<Clause>,
    pub(super) otherwise: Answer,
}

/// An answer if all tests hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    pub(super) tests: Vec<Test>,
    pub(super) answer: Answer,
}

/// A test of one argument's lower 32 bits, which is all that the kernel itself looks at in every argument that is
/// tested here: ints, and the flags of clone and unshare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    /// The argument is this.
    Is { argument: u8, value: u32 },
    /// These bits of the argument are this.
    Bits { argument: u8, mask: u32, value: u32 },
    /// Some of these bits are set.
    Any { argument: u8, mask: u32 },
}

impl Rule {
    /// Always the same answer.
    pub(super) const fn always(answer: Answer) -> Self {
        Self { clauses: Vec::new(), otherwise: answer }
    }

    /// `answer` if `tests` hold, or else what follows.
    pub(super) fn when(mut self, tests: &[Test], answer: Answer) -> Self {
        self.clauses.push(Clause { tests: tests.to_vec(), answer });
        self
    }
}
