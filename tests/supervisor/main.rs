//! Supervised runtimes: the real daemon, real sandboxes, real programs inside.
//!
//! As root and as an ordinary user. What a host does not have (a controller, user namespaces) is a `SKIP` with its reason.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod audited;
mod automations;
mod budgets;
mod confined;
mod crowd;
mod ends;
mod exec;
mod feedback;
mod gpu;
mod health;
mod metrics;
mod network;
mod recipes;
mod reload;
mod stage;
mod switch;
mod usage;

use support::can_launch;
