//! What the control plane may see of the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::flow::TunnelView;
use super::gate::Gateway;
use super::latch::{Latch, Latched};
use super::metrics::Metrics;
use crate::domain::{CloseReason, Denial, PersonaId};

/// A view of the running gateway; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    gateway: Arc<Gateway>,
    addresses: Arc<[SocketAddr]>,
}

/// The gateway at this moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// TCP listeners.
    pub listening: Vec<SocketAddr>,
    /// Whether it is shutting down.
    pub draining: bool,
    /// The kill switch, while it is latched.
    pub latched: Option<Latched>,
    /// Client connections open now.
    pub connections: usize,
    /// Tunnels and exchanges open now.
    pub tunnels: usize,
    /// Client connections since the start.
    pub accepted: u64,
    /// Clients turned away for want of room.
    pub shed: u64,
    /// Each persona seen since the start.
    pub personas: Vec<PersonaStatus>,
}

/// One persona at this moment.
#[derive(Debug, Clone, Serialize)]
pub struct PersonaStatus {
    /// Its name.
    pub persona: PersonaId,
    /// Client connections open now.
    pub connections: usize,
    /// Tunnels and exchanges open now.
    pub tunnels: usize,
    /// Grants.
    pub allowed: u64,
    /// Grants that enforcement would have denied.
    pub would_deny: u64,
    /// Denials.
    pub denied: u64,
    /// Bytes from clients, of flows that ended.
    pub bytes_up: u64,
    /// Bytes to clients, of flows that ended.
    pub bytes_down: u64,
}

impl Handle {
    /// A view of `gateway`, which listens on `addresses`.
    pub fn new(gateway: Arc<Gateway>, addresses: Vec<SocketAddr>) -> Self {
        Self { gateway, addresses: addresses.into() }
    }

    /// The gateway at this moment.
    pub fn status(&self) -> Status {
        let metrics = &self.gateway.metrics;
        Status {
            listening: self.addresses.to_vec(),
            draining: self.gateway.draining.is_cancelled(),
            latched: self.gateway.latched(),
            connections: metrics.connections.load(Ordering::Relaxed),
            tunnels: self.gateway.flows.len(),
            accepted: metrics.accepted.load(Ordering::Relaxed),
            shed: metrics.shed.load(Ordering::Relaxed),
            personas: metrics
                .personas()
                .into_iter()
                .map(|(persona, stats)| PersonaStatus {
                    persona,
                    connections: stats.connections.load(Ordering::Relaxed),
                    tunnels: stats.tunnels.load(Ordering::Relaxed),
                    allowed: stats.allowed.load(Ordering::Relaxed),
                    would_deny: stats.would_deny.load(Ordering::Relaxed),
                    denied: stats.denied_total(),
                    bytes_up: stats.bytes_up.load(Ordering::Relaxed),
                    bytes_down: stats.bytes_down.load(Ordering::Relaxed),
                })
                .collect(),
        }
    }

    /// The oldest `limit` open tunnels and exchanges.
    pub fn tunnels(&self, limit: usize) -> Vec<TunnelView> {
        self.gateway.flows.view(limit)
    }

    /// Latches the kill switch: whatever asks from now on is denied, and what is open is cut. Says how many flows that
    /// were.
    pub fn latch(&self, reason: &str) -> usize {
        self.gateway.latch(reason)
    }

    /// Releases the kill switch. Whether it was latched.
    pub fn release(&self) -> bool {
        self.gateway.release()
    }

    /// Why the kill switch is latched, if it is.
    pub fn latched(&self) -> Option<Latched> {
        self.gateway.latched()
    }

    /// What every request is answered while the kill switch is latched.
    pub fn denial_while_latched(&self) -> Option<Denial> {
        self.gateway.latched().map(|_| Latch::denial())
    }

    /// Ends every open flow of `persona`. Says how many there were.
    pub fn cut_persona(&self, persona: &PersonaId, reason: CloseReason) -> usize {
        self.gateway.cut_persona(persona, reason)
    }

    /// The gateway's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.gateway.metrics
    }
}
