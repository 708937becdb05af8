//! Who may do what on the control API.

mod capability;
mod question;
mod read;
mod table;
mod words;

pub use question::{Question, Ruling, Why};
pub use words::{Action, Capability, Family, Kind, OVERFLOW_UID, Principal, Resource, WordFault};
