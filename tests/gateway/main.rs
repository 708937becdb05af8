//! What the gateway can do, over real sockets and with the real daemon.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod http;
