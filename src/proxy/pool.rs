//! Upstream connections kept for the next request. One pool per worker, since a socket belongs to the
//! executor that registered it.
//!
//! A connection is kept per persona and target, never shared between personas, and used again only for an
//! address that the gate vetted for the request at hand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::dial::Upstream;
use crate::domain::{PersonaId, Target};

/// Idle connections of one worker in all; each is a descriptor.
const MAX_IDLE: usize = 256;

/// Something that can be kept.
pub(super) trait Kept {
    /// Whether it can carry another request.
    fn usable(&self) -> bool;
    /// Where it is connected to.
    fn address(&self) -> SocketAddr;
}

#[derive(Debug)]
struct Idle {
    wire: Upstream,
    since: Instant,
}

/// Idle upstream connections of one worker.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<HashMap<(PersonaId, Target), Vec<Idle>>>,
    per_host: usize,
    keep: Duration,
}

impl Pool {
    /// An empty pool that keeps `per_host` connections per persona and target, each for `keep`.
    pub(super) fn new(per_host: usize, keep: Duration) -> Self {
        Self { idle: Mutex::default(), per_host, keep }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PersonaId, Target), Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The youngest usable connection to one of `vetted`.
    pub(super) fn take(&self, persona: &PersonaId, target: &Target, vetted: &[SocketAddr]) -> Option<Upstream> {
        let mut pool = self.lock();
        let kept = pool.get_mut(&(persona.clone(), target.clone()))?;
        while let Some(idle) = kept.pop() {
            let fresh = idle.since.elapsed() < self.keep && idle.wire.usable();
            if fresh && vetted.contains(&idle.wire.address()) {
                return Some(idle.wire);
            }
        }
        None
    }

    /// Keeps a connection that is between two requests; drops it when there are enough.
    pub(super) fn put(&self, persona: &PersonaId, target: &Target, wire: Upstream) {
        let mut pool = self.lock();
        let total: usize = pool.values().map(Vec::len).sum();
        let kept = pool.entry((persona.clone(), target.clone())).or_default();
        if kept.len() < self.per_host && total < MAX_IDLE {
            kept.push(Idle { wire, since: Instant::now() });
        }
    }

    /// Drops connections that were idle for too long.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, kept| {
            kept.retain(|idle| idle.since.elapsed() < self.keep);
            !kept.is_empty()
        });
    }
}
