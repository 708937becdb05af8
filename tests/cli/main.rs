//! `arw-cli` as an operator runs it: the real binary, against the real daemon and without it.

mod bundles;
mod consent;
mod daemon;
mod folders;
mod incident;
mod offline;
mod online;
mod recipes;
#[path = "../support/runbook.rs"]
mod runbook;
mod runbooks;
