//! Attacks on the gate: a table of bytes in and the property that must hold out, by class of attack.
//!
//! Each class broke some proxy before this one. A row is sent over a real socket to the real daemon; what
//! must hold is looked up at the client, at the origin, at the name server and in the ledger.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod bodies;
mod first_flight;
mod framing;
mod ground;
mod hosts;
mod names;
mod own;
mod passing;
mod paths;
mod sequence;
mod slow;
