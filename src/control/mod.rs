//! The control API: what operators, dashboards and runbooks talk to, and the client for it.
//!
//! ```text
//! TCP 127.0.0.1:8091 ─┐                  ┌ public: /healthz /readyz /spec/openapi.json
//!                     ├─ accept ─ gate ──┤
//! Unix socket ────────┘  bounded  Host   └ admin: everything else, unknown paths too
//!                                 Origin
//!                                 who?
//!                                 may they? (`governance::authority`)
//! ```
//!
//! One table of routes (`routes`) makes the router, says who may ask, and becomes the OpenAPI
//! document. The API sees the daemon through handles ([`ControlState`]) and steers it by a closed set of
//! [`Command`]s.
//!
//! It refuses to listen off loopback, since it has no TLS; to trust a peer for being on loopback; to
//! answer a browser's page of another origin; to dial or resolve anything; and to show a secret.

mod actions;
mod alerts;
mod asks;
mod audit;
mod auth;
mod authority;
mod automations;
mod caller;
mod client;
mod confinement;
mod egress;
mod error;
mod exec;
mod extract;
mod leases;
mod ledger;
mod listen;
mod metrics;
mod openapi;
mod origin;
mod personas;
mod policy;
mod preview;
mod problem;
mod public;
mod recipes;
mod router;
mod routes;
mod runtimes;
mod serve;
mod settings;
mod stall;
mod state;
mod stream;
mod throttle;
mod wire;

#[cfg(test)]
mod tests;

pub use auth::ADMIN_HEADER;
pub use authority::SimulateRequest;
pub use client::{Base, BaseFault, Client, ClientError, DEFAULT_TCP, EventStream, SseEvent, escape};
pub use confinement::DaemonConfinement;
pub use error::ControlError;
pub use listen::Prepared;
pub use problem::{FaultBody, Problem, ProblemBody, ProblemCode};
pub use serve::{Running, serve, serve_on};
pub use state::{Command, ControlState, ReloadAsk};
pub use wire::{
    Arming, EgressPage, EgressStatus, GatewayStatus, Health, LedgerStatus, NotArmed, PersonaTraffic, PersonaView,
    Personas, PolicyStatus, Preview, PreviewRequest, Readiness, ReloadReport, Settings, TokenView, Tunnel, Tunnels,
};
