//! Guardrail Gateway: one small daemon that decides and records every outbound connection of an
//! automation host.
//!
//! The modules stand on floors. A module imports only from floors below it, and modules on one
//! floor do not import each other (`tests/house` holds this):
//!
//! | floor | modules | |
//! |---|---|---|
//! | 6 | [`daemon`] and the binaries | wiring, signals, reload, systemd notify |
//! | 5 | [`control`], [`ui`] | what operators touch |
//! | 4 | [`governance`] | the handbook: leases, kill switch, audit, consent, recipes, bundles |
//! | 3 | [`supervisor`] | runtimes' lives, decided |
//! | 2 | [`proxy`], [`sandbox`], [`gpu`] | the two halves that do the work, and the GPUs of the host |
//! | 1 | [`policy`], [`ledger`], [`events`], [`store`] | decide, record, remember |
//! | 0 | [`domain`], [`sys`], [`config`] | words and types, the only unsafe code, raw files |

pub mod config;
pub mod control;
pub mod daemon;
pub mod domain;
pub mod events;
pub mod governance;
pub mod gpu;
pub mod ledger;
pub mod policy;
pub mod proxy;
pub mod sandbox;
pub mod store;
pub mod supervisor;
pub mod sys;
pub mod ui;
