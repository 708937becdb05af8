//! The house rules that a compiler does not hold: floors, where danger may live, links, loose files.
//!
//! Each check is a function over text, and is shown first to fail on a text that breaks the rule.

mod files;
mod floors;
mod links;
mod ring;
mod source;
mod words;
