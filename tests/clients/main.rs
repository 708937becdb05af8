//! Real programs through the real gateway, against origins on loopback: what an operator's automations run.
//!
//! Each program is tried in what it is allowed and in what it is not, and three witnesses are asked: what the
//! program says to the person who ran it, what reached the origin, and what the ledger has. A program that is
//! not installed is skipped aloud.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod curl;
mod git;
mod node;
mod npm;
mod pip;
mod program;
mod python;
mod raw;
mod site;
mod stage;
mod wget;
