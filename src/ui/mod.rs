//! What an operator sees: the command line, tables, progress and error prose.
//!
//! Everything that is shown to a person goes through [`Screen`], which knows whether it is a
//! terminal, and through [`text::safe`], because ledger text was written by strangers. Machine
//! output (`--json`) is never touched. Nothing here decides anything.

pub mod args;
pub mod commands;
mod failure;
mod progress;
mod screen;
mod table;
pub mod text;

pub use failure::{Failure, Outcome};
pub use progress::Progress;
pub use screen::{Paint, Screen};
pub use table::Table;
