//! How alerts and events leave: to a webhook, to syslog, to the journal, to a file.
//!
//! ```text
//! alerts ──offer──┐
//!                 ├─ intake ─→ queue (memory, or spool on disk) ─→ courier ─→ sink
//! bus ──subscribe─┘   never waits for the sink     bounded           retries
//! ```
//!
//! Each route has an intake and a courier of its own, and a queue between them. What does not fit the queue is lost,
//! counted and shown. A webhook's queue lies on the disk: what is in it is delivered after any end of the daemon, once or,
//! when the end came between delivery and taking note of it, once more with the same id.
//!
//! A sink goes to the address that the operator wrote, and nowhere else: no redirects, no proxy of the environment, TLS
//! verified.

mod courier;
mod file;
mod journald;
mod outlet;
mod parcel;
mod queue;
pub(in crate::governance) mod reach;
mod spool;
mod syslog;
mod webhook;

#[cfg(test)]
mod tests;

pub(super) use outlet::Ground;
pub use outlet::{Outlets, RouteStatus};
pub(super) use parcel::Parcel;
pub(super) use reach::trust;

use std::time::Duration;

use super::settings::{Route, SinkSettings};
use crate::domain::codes;
use crate::proxy::Resolver;

/// Longest time of one attempt, from the look-up of the name to the answer.
const ATTEMPT: Duration = Duration::from_secs(10);

codes! {
    /// The sorts of sinks.
    SinkKind {
        /// `POST` of a CloudEvent, signed as Standard Webhooks says.
        Webhook => "webhook",
        /// RFC 5424 over UDP, TCP or a Unix socket.
        Syslog => "syslog",
        /// The journal's native protocol.
        Journald => "journald",
        /// Lines of JSON in a file.
        Jsonl => "jsonl",
    }
}

/// Why a sink did not take something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::governance) enum SinkFault {
    /// It may take it later.
    #[error("{0}")]
    Later(String),
    /// Not before so long.
    #[error("{0}")]
    After(String, Duration),
    /// It will never take this.
    #[error("{0}")]
    Never(String),
}

impl SinkFault {
    fn later(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Later(format!("{what}: {why}"))
    }
}

/// The far end of a route.
#[derive(Debug)]
enum Sink {
    Webhook(webhook::Webhook),
    Syslog(syslog::Syslog),
    Journald(journald::Journald),
    File(file::JsonLines),
}

impl Sink {
    fn of(route: &std::sync::Arc<Route>, resolver: &Resolver) -> Self {
        match &route.sink {
            SinkSettings::Webhook(_) => {
                Self::Webhook(webhook::Webhook::new(std::sync::Arc::clone(route), resolver.clone()))
            }
            SinkSettings::Syslog { address, facility } => {
                Self::Syslog(syslog::Syslog::new(address.clone(), *facility, resolver.clone()))
            }
            SinkSettings::Journald { socket } => Self::Journald(journald::Journald::new(socket.clone())),
            SinkSettings::File { path, max_bytes } => Self::File(file::JsonLines::new(path.clone(), *max_bytes)),
        }
    }

    /// Delivers, within [`ATTEMPT`].
    async fn deliver(&mut self, parcel: &Parcel) -> Result<(), SinkFault> {
        let delivered = async {
            match self {
                Self::Webhook(webhook) => webhook.deliver(parcel).await,
                Self::Syslog(syslog) => syslog.deliver(parcel).await,
                Self::Journald(journald) => journald.deliver(parcel).await,
                Self::File(file) => file.deliver(parcel).await,
            }
        };
        match tokio::time::timeout(ATTEMPT, delivered).await {
            Ok(outcome) => outcome,
            Err(_) => Err(SinkFault::Later(format!("no answer within {} s", ATTEMPT.as_secs()))),
        }
    }
}
