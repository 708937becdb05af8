//! What is wrong with a file, in words that an operator can act on.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One fault of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, as the operator named it.
    pub file: PathBuf,
    /// Line, from 1, where it is known.
    pub line: Option<usize>,
    /// The key, dotted and indexed: `allow[2].hosts[0]`; empty for the file as a whole.
    pub key: String,
    /// What is wrong; lower case, no full stop, user input in backticks.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault of `key` in `file`.
    pub fn new(file: &Path, line: Option<usize>, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, key: key.into(), message: message.into(), hint: None }
    }

    /// The same fault with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

/// All faults found in one load; never empty when returned as an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// What was read; its faults join these otherwise.
    pub fn gather<T>(&mut self, read: Result<T, Self>) -> Option<T> {
        read.map_err(|faults| self.0.extend(faults.0)).ok()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
